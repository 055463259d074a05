mod bank {
    cratestack::include_schema!("bank.cstack");
}

use bank::{Db, ReadTx, Session};
use cratestack::Error;

async fn outlives(db: &Db) -> Result<Session<'static>, Error> {
    db.transaction(async move |tx| Ok(tx.as_system("job"))).await
}

async fn writes(tx: &mut ReadTx<'_>) {
    let _ = tx.customers().delete(1);
}

fn main() {}
