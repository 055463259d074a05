mod bank {
    cratestack::include_schema!("bank.cstack");
}

fn main() {
    let _ = bank::account::balanse();
    let _ = bank::account::customer().nmae();
}
