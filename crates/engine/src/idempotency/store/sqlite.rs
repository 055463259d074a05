//! Records in a file of SQLite.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OptionalExtension as _, ToSql, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

use super::text::{Bind, Step, Texts, place, sql_store};
use super::{BoxFuture, Found, IdempotencyStore, Reservation, Reserved, StoreDown, Token};
use crate::idempotency::{Identity, Record, tables};
use crate::sql::Dialect;

/// Steps that wait for the thread; one more waits for room.
const QUEUE: usize = 1024;
/// How long another process may hold the file.
const BUSY: Duration = Duration::from_secs(5);

/// What the thread does, on its connection.
type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// Records in a file of SQLite, on a connection and a thread of the store's own. Each step is flushed to the disk
/// before it is answered (WAL, `synchronous = FULL`). A lease is measured by the clock of the machine, which all that
/// share the file share.
///
/// Nothing is removed before it has expired, and then by [`Self::purge`].
///
/// ```no_run
/// use cratestack_engine::idempotency::store::SqliteIdempotencyStore;
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let store = SqliteIdempotencyStore::open("keys.db")?;
/// store.create_table().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct SqliteIdempotencyStore {
    /// The thread ends with the last of these.
    jobs: mpsc::Sender<Job>,
    texts: Arc<Texts>,
}

impl SqliteIdempotencyStore {
    /// Opens the file, and makes it where there is none. Blocks while it does.
    ///
    /// # Errors
    /// When the file cannot be opened or is no database, or when there is no thread to be had.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreDown> {
        let connection = prepare(path.as_ref()).map_err(|error| down(&error))?;
        let (jobs, queue) = mpsc::channel(QUEUE);
        std::thread::Builder::new()
            .name("idempotency".to_owned())
            .spawn(move || work(connection, queue))
            .map_err(|error| StoreDown::new(format!("there is no thread for it: {error}")))?;
        Ok(Self { jobs, texts: Arc::new(Texts::of(Dialect::Sqlite)) })
    }

    /// Makes the table where it is not there yet. Safe when several processes start at once. A migration of a schema
    /// with keys makes the same table.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn create_table(&self) -> Result<(), StoreDown> {
        self.run(|connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for sql in tables(Dialect::Sqlite) {
                transaction.execute(&sql, ())?;
            }
            transaction.commit()
        })
        .await
    }

    /// Removes what has expired, a thousand rows at a time, and says how many. A service of a schema on the same database does so by
    /// itself; a table without one needs it now and then.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses. What was removed before that is gone.
    pub async fn purge(&self) -> Result<u64, StoreDown> {
        let mut removed = 0;
        loop {
            let texts = Arc::clone(&self.texts);
            match self.run(move |connection| connection.execute(&texts.purge, ())).await? {
                0 => return Ok(removed),
                some => removed += some as u64,
            }
        }
    }

    async fn change(&self, step: Step<'_>, identity: &Identity, reservation: &Reservation) -> Result<bool, StoreDown> {
        let (text, binds) = self.texts.step(step, identity, reservation);
        let (text, values) = (text.to_owned(), values(binds));
        self.run(move |connection| Ok(connection.prepare_cached(&text)?.execute(&*references(&values))? > 0)).await
    }

    async fn find(&self, identity: &Identity) -> Result<Option<Found>, StoreDown> {
        let (texts, values) = (Arc::clone(&self.texts), values(place(identity)));
        self.run(move |connection| {
            let found = connection.prepare_cached(&texts.find)?.query_row(&*references(&values), |row| {
                Ok(Found {
                    fingerprint: row.get(0)?,
                    state: row.get(1)?,
                    token: row.get(2)?,
                    ended: row.get(3)?,
                    status: row.get(4)?,
                    headers: row.get(5)?,
                    body: row.get(6)?,
                })
            });
            found.optional()
        })
        .await
    }

    /// Runs `job` on the thread. It runs to its end even when nobody waits any more.
    async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreDown> {
        let gone = || StoreDown::new("its thread has ended");
        let (sender, receiver) = oneshot::channel();
        let job = move |connection: &mut Connection| {
            // Nobody may be listening any more.
            let _ = sender.send(job(connection));
        };
        self.jobs.send(Box::new(job)).await.map_err(|_| gone())?;
        receiver.await.map_err(|_| gone())?.map_err(|error| down(&error))
    }
}

sql_store!(SqliteIdempotencyStore);

fn prepare(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY)?;
    write_ahead(&connection)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    Ok(connection)
}

/// Of several that open a new file at once SQLite lets all but one fail, without any patience: where both wait, neither
/// would go on.
fn write_ahead(connection: &Connection) -> rusqlite::Result<()> {
    let end = Instant::now() + BUSY;
    loop {
        match connection.pragma_update(None, "journal_mode", "WAL") {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) && Instant::now() < end => {
                // Waits until the other one is done.
                connection.execute_batch("BEGIN IMMEDIATE; COMMIT")?;
            }
            outcome => return outcome,
        }
    }
}

fn work(mut connection: Connection, mut queue: mpsc::Receiver<Job>) {
    while let Some(job) = queue.blocking_recv() {
        job(&mut connection);
    }
}

fn values(binds: Vec<Bind<'_>>) -> Vec<rusqlite::types::Value> {
    let value = |bind| match bind {
        Bind::Octets(octets) => octets.to_vec().into(),
        Bind::MaybeOctets(octets) => octets.map(<[u8]>::to_vec).into(),
        Bind::Text(text) => text.to_owned().into(),
        Bind::Owned(text) => text.into(),
        Bind::Number(number) => number.into(),
    };
    binds.into_iter().map(value).collect()
}

fn references(values: &[rusqlite::types::Value]) -> Vec<&dyn ToSql> {
    values.iter().map(|value| value as &dyn ToSql).collect()
}

/// Texts of the database may have values of rows, so only its code goes on.
fn down(error: &rusqlite::Error) -> StoreDown {
    match error.sqlite_error() {
        Some(code) => StoreDown::new(format!("SQLite says {} ({code})", code.extended_code)),
        None => StoreDown::new("SQLite gave what was not asked for"),
    }
}
