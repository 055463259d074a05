mod bank {
    cratestack::include_schema!("bank.cstack");
}

struct Bodies;

impl bank::Procedures for Bodies {}

fn main() {}
