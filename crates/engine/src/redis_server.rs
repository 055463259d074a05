//! A Redis or Valkey server that stores run their scripts on.

use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, FromRedisValue, RedisError, ScriptInvocation};
use tokio::sync::OnceCell;

use crate::idempotency::store::StoreDown;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(1);
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(2);

/// One server, and the connection to it that everybody shares.
pub(crate) struct Server {
    client: Client,
    /// Made by the first script: it needs the runtime.
    connection: OnceCell<ConnectionManager>,
}

impl Server {
    /// The server at a URL. Nothing is sent yet.
    pub(crate) fn new(url: &str) -> Result<Self, StoreDown> {
        let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
        if scheme.eq_ignore_ascii_case("rediss") || scheme.eq_ignore_ascii_case("valkeys") {
            return Err(StoreDown::new(format!(
                "`{}://` asks for TLS, which this store does not have: let a proxy on this machine do it",
                scheme.to_ascii_lowercase()
            )));
        }
        // The error may repeat the URL, which may have a password.
        let client = Client::open(url).map_err(|_| StoreDown::new("the URL is none of a Redis server"))?;
        Ok(Self { client, connection: OnceCell::new() })
    }

    async fn connection(&self) -> Result<ConnectionManager, RedisError> {
        let made = self.connection.get_or_try_init(async || {
            // A step that fails is the caller's to repeat; without a connection it fails at once.
            let config = ConnectionManagerConfig::new()
                .set_connection_timeout(Some(CONNECT))
                .set_response_timeout(Some(ANSWER))
                .set_number_of_retries(0);
            ConnectionManager::new_lazy_with_config(self.client.clone(), config)
        });
        made.await.cloned()
    }

    /// Runs a script, which may run twice where the connection ends meanwhile.
    pub(crate) async fn run<T: FromRedisValue>(&self, invocation: &ScriptInvocation<'_>) -> Result<T, StoreDown> {
        let mut connection = self.connection().await.map_err(|error| down(&error))?;
        match invocation.invoke_async(&mut connection).await {
            // The server may be back since long, and only the connection dead: steps may be asked for twice.
            Err(error) if error.is_connection_dropped() => invocation.invoke_async(&mut connection).await,
            outcome => outcome,
        }
        .map_err(|error| down(&error))
    }
}

/// Kind and code alone: what a server says may repeat arguments.
fn down(error: &RedisError) -> StoreDown {
    let code = error.code().map(|code| format!(" ({code})")).unwrap_or_default();
    StoreDown::new(format!("Redis: {}{code}", error.category()))
}
