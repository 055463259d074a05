mod bank {
    cratestack::include_schema!("broken.cstack");
}

fn main() {}
