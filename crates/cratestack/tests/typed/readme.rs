//! The Rust example of the README, which is the text between the two marks below.

use crate::bank;

// --- README
use bank::{Db, NewCustomer, Principal, Role, account};
use cratestack::{AuthMethod, dec};

async fn accounts_of_note(database: &str) -> Result<(), Box<dyn std::error::Error>> {
    let db = Db::connect(database).await?;
    let tina = Principal { id: "tina".into(), role: Role::Teller, tenant_id: "berlin".into() };
    let tina = db.as_principal(&tina, AuthMethod::Jwt)?;

    let (name, email, country) = ("Ann".into(), "ann@example.com".into(), "DE".into());
    let new = NewCustomer { name, email, country, id: None, birth_date: None, status: None };
    let ann = tina.customers().create(new).await?.into_row()?;
    println!("{} is a {:?}", ann.id, ann.status);

    let wealthy = account::balance().gte(dec!(100)).and(account::customer().country().eq("DE"));
    for account in tina.accounts().filter(wealthy).order_by(account::created_at().desc()).limit(20).fetch().await? {
        println!("{} {}", account.iban, account.balance);
    }
    Ok(())
}
// --- README

#[tokio::test]
async fn the_example_of_the_readme_runs() {
    accounts_of_note("sqlite::memory:").await.unwrap();
    let between = include_str!("readme.rs").split("// --- README\n").nth(1).unwrap();
    let readme = include_str!("../../../../README.md");
    assert!(readme.contains(between), "README.md does not hold the example of `tests/typed/readme.rs`");
}
