mod bank {
    cratestack::include_schema!("bank.cstack");
}

use bank::{account, customer};

fn filters(session: &bank::Session<'_>) {
    let _ = account::balance().eq("12.50");
    let _ = account::status().eq("open");
    // What has no order, and what cannot be compared at all.
    let _ = account::paid().lt(true);
    let _ = account::note().asc();
    // A filter of another model.
    let _ = session.accounts().filter(customer::name().eq("Ann"));
}

fn main() {}
