mod bank {
    cratestack::include_schema!("bank.cstack");
}

use cratestack::Change::Set;

fn main() {
    let _ = bank::AccountPatch { balance: Set("12.50"), ..bank::AccountPatch::default() };
    // Set once, when the account is made.
    let _ = bank::AccountPatch { customer_id: Set(1), ..bank::AccountPatch::default() };
}
