mod bank {
    cratestack::include_schema!("bank.cstack");
}

async fn writes(session: &bank::Session<'_>) {
    // `@@append_only`, no `@@soft_delete`, no `@version`.
    let _ = session.entries().delete(1).await;
    let _ = session.accounts().restore(1).await;
    let _ = session.accounts().delete(1).if_version(3).await;
}

fn main() {}
