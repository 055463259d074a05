mod bank {
    cratestack::include_schema!(bank);
}

fn main() {}
