mod bank {
    cratestack::include_schema!("no_such_file.cstack");
}

fn main() {}
