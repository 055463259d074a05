mod bank {
    cratestack::include_schema!("bank.cstack");
}

fn router(db: bank::Db) {
    let _ = cratestack::router(db, cratestack::NoProcedures);
}

fn main() {}
