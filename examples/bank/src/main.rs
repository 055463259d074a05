//! The bank as a service: `cargo run -p bank`, or with `DATABASE_URL=postgres://..` on PostgreSQL; `ADDRESS` is where it
//! listens.

use bank::Bank;
use bank::schema::Db;
use cratestack::{DevAuth, ServerConfig};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // What answers do not tell, such as the reason of a 500, is in the log.
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let url = std::env::var("DATABASE_URL").unwrap_or_else(|_| "sqlite:bank.db".to_owned());
    Db::apply(&url).await?;
    let db = Db::connect(&url).await?;
    let app = cratestack::router(db.clone(), Bank).auth(DevAuth::new()).into_service();
    let address = std::env::var("ADDRESS").unwrap_or_else(|_| "127.0.0.1:8080".to_owned());
    let listener = tokio::net::TcpListener::bind(address).await?;
    println!("the bank is open at http://{}/api", listener.local_addr()?);
    cratestack::serve(listener, app, ServerConfig::default(), cratestack::interrupted()?).await?;
    db.engine().close().await;
    Ok(())
}
