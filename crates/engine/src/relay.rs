//! The relay: carries the rows of a log table to sinks, each at least once, in order for each key.
//!
//! A log is written by the transactions that it tells about ([`Log`] names its tables). A [`Relay`] runs one task for
//! each sink, and each task repeats three steps on a connection of its own:
//!
//! 1. *take*: every row that has been committed since the last take gets a row in the delivery table, and the position
//!    moves on, in one transaction. On PostgreSQL `seq` is not the order of commits, so the position is a snapshot: rows
//!    that are visible now and were not then are taken, and rows of open transactions wait for their turn. A position
//!    is numbered and its number is part of the primary key, so that of two relays one fails. On SQLite, which has one
//!    writer, the position is the greatest `seq`.
//! 2. *deliver*: what is due is given to the sink, in order of `seq` and never past an earlier row of the same key that
//!    waits. No transaction is open meanwhile.
//! 3. *note*: what the sink said is written down. If the process dies before that, the sink gets the rows again.
//!
//! What is left of each delivery: the row says `delivered` for a week ([`RelayOptions::keep`]), or `dead` when the sink
//! has refused it too often, until somebody asks for a [replay](Log::replay).
//!
//! On PostgreSQL one relay leads for each sink: it holds a session-level advisory lock, so its connection must reach
//! the primary itself or through a pooler in session mode. Others wait for the lock and take over when it is lost.
//! On SQLite one process relays.

mod lead;
mod link;
mod text;

use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::Duration;

pub use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use self::link::Link;
use self::text::Texts;
use crate::engine::Engine;
use crate::fault::StoreError;
use crate::sql::Dialect;

#[cfg(test)]
mod tests;

#[cfg(test)]
use self::tests::Hooks;

/// Where tests look into a relay's work.
#[cfg(not(test))]
#[derive(Debug, Clone, Default)]
struct Hooks {
    /// Relays need no lock.
    unlocked: bool,
}

#[cfg(not(test))]
impl Hooks {
    /// Comes by before and after each step.
    #[expect(clippy::unused_self, reason = "that of the tests uses it")]
    fn at(&self, _step: &'static str, _moment: &'static str) {}
}

/// A log and what the relay keeps about it. The log has the columns `seq` (unique, growing), `model`, `primary_key`,
/// `occurred_at`, `entry` and, on PostgreSQL, `xid`: the id of the top-level transaction as a `bigint`, by default
/// `pg_current_xact_id()::text::bigint`, with an index.
///
/// Writers must hold the lock of a row until they commit, so that for one (model, primary_key) `seq` is the order of
/// commits; across keys it need not be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log {
    /// The log.
    pub table: &'static str,
    /// One row for each sink and log row that was taken.
    pub delivery: &'static str,
    /// How far each sink's takes have come.
    pub position: &'static str,
    /// The member of an entry that tells the same event again.
    pub id: &'static str,
    /// The media type of an entry.
    pub media_type: &'static str,
}

/// The audit trail.
pub const AUDIT: Log = Log {
    table: "cratestack_audit",
    delivery: "cratestack_audit_delivery",
    position: "cratestack_audit_relay",
    id: "event_id",
    media_type: "application/json",
};

/// The events of `@@emit`.
pub const OUTBOX: Log = Log {
    table: "cratestack_outbox",
    delivery: "cratestack_outbox_delivery",
    position: "cratestack_outbox_relay",
    id: "id",
    media_type: "application/cloudevents+json",
};

/// A row of the log on its way to a sink.
#[derive(Clone, PartialEq, Eq)]
pub struct AuditEvent {
    /// The log that it comes from.
    pub log: &'static Log,
    /// Its number in the log; unique, with gaps.
    pub seq: i64,
    /// The model.
    pub model: String,
    /// The key of the row that it tells about; for composite keys a JSON array.
    pub primary_key: String,
    /// Canonical JSON, to the octet as it was stored; at most 65,535 octets.
    pub entry: String,
}

/// Without key and entry, so that no log gets to see them.
impl Debug for AuditEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditEvent").field("seq", &self.seq).field("model", &self.model).finish_non_exhaustive()
    }
}

/// Takes events somewhere else.
///
/// A sink gets every event at least once: again after an error, and again when the process dies before the answer was
/// written down. Its id in the entry ([`Log::id`]) is the same each time. For one (model, primary_key), no event comes for the
/// first time before the events of earlier commits have been accepted or have become dead letters.
pub trait AuditSink: Send + Sync + 'static {
    /// The name under which the database keeps the state of its deliveries: 1 to 64 of `a-z`, `0-9`, `_` and `-`. A sink
    /// of another name starts with the first event there is.
    fn name(&self) -> &str;

    /// Delivers `events` (never none), in this order. `Ok` says that all of them are safe at their destination.
    ///
    /// Must not block the thread. The future is dropped after [`RelayOptions::call_deadline`].
    ///
    /// # Errors
    /// Says whom the trouble concerns: the sink as a whole or these events. Some of them may have been delivered.
    fn deliver<'a>(&'a self, events: &'a [AuditEvent]) -> BoxFuture<'a, Result<(), SinkError>>;
}

/// Why a sink has not taken a batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SinkError {
    kind: Trouble,
    message: String,
}

/// Whom an error of a sink concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Sink,
    Events,
}

impl SinkError {
    /// The sink takes nothing at present: everything waits, however long it lasts, and nothing becomes a dead letter.
    /// The message is kept as `last_error`, at most 500 characters of it; it must not contain what the events say.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self { kind: Trouble::Sink, message: message.into() }
    }

    /// The sink does not take these events: each is tried on its own, and becomes a dead letter after
    /// [`RelayOptions::max_attempts`]. The message is kept as `last_error`, at most 500 characters of it; it must not
    /// contain what the events say.
    pub fn refused(message: impl Into<String>) -> Self {
        Self { kind: Trouble::Events, message: message.into() }
    }

    /// What was said.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Whether the sink as a whole takes nothing.
    pub fn is_unavailable(&self) -> bool {
        self.kind == Trouble::Sink
    }
}

/// Several sinks, each with deliveries of its own: one that fails stops no other.
#[derive(Clone, Default)]
pub struct MulticastAuditSink {
    sinks: Vec<Arc<dyn AuditSink>>,
}

impl MulticastAuditSink {
    /// No sinks.
    pub fn new() -> Self {
        Self::default()
    }

    /// With one more sink. Two of one name are refused by [`Relay::start`].
    #[must_use]
    pub fn with(mut self, sink: impl AuditSink) -> Self {
        self.sinks.push(Arc::new(sink));
        self
    }

    /// With one more sink that is shared.
    #[must_use]
    pub fn with_shared(mut self, sink: Arc<dyn AuditSink>) -> Self {
        self.sinks.push(sink);
        self
    }

    /// Whether there is no sink.
    pub fn is_empty(&self) -> bool {
        self.sinks.is_empty()
    }

    /// The names of the sinks, in the order in which they were given.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.sinks.iter().map(|sink| sink.name())
    }

    fn check(&self) -> Result<(), Error> {
        let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-');
        for (at, name) in self.names().enumerate() {
            if name.is_empty() || name.len() > 64 || !name.chars().all(valid) {
                return Err(Error::Name(name.chars().take(80).collect()));
            }
            if self.names().take(at).any(|other| other == name) {
                return Err(Error::Twice(name.to_owned()));
            }
        }
        Ok(())
    }
}

impl Debug for MulticastAuditSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

impl<S: AuditSink> From<S> for MulticastAuditSink {
    fn from(sink: S) -> Self {
        Self::new().with(sink)
    }
}

/// How the relay waits.
pub trait Sleep: Debug + Send + Sync {
    /// Comes to its end after `duration`.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
}

/// Waits by the machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemSleep;

impl Sleep for SystemSleep {
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// How a relay works. The clock and the randomness are the engine's.
#[derive(Debug, Clone)]
pub struct RelayOptions {
    /// Events of a batch at most.
    pub batch: usize,
    /// Octets of the entries of a batch at most; a single event may be longer. The relay holds no more than this, and
    /// one entry, in memory for each sink.
    pub batch_bytes: usize,
    /// The pause after a batch that was not full.
    pub poll: Duration,
    /// How long one call of a sink may take. One that takes longer is given up, and the sink counts as unavailable.
    pub call_deadline: Duration,
    /// The longest pause before the second try; doubles with each further one. The pause itself is a random part of it,
    /// half at least.
    pub first_pause: Duration,
    /// What that grows to.
    pub longest_pause: Duration,
    /// How often a sink may refuse an event before it becomes a dead letter.
    pub max_attempts: u32,
    /// How long the deliveries that are done are kept.
    pub keep: Duration,
    /// How the relay waits.
    pub sleep: Arc<dyn Sleep>,
}

impl Default for RelayOptions {
    fn default() -> Self {
        Self {
            batch: 256,
            batch_bytes: 4 << 20,
            poll: Duration::from_millis(250),
            call_deadline: Duration::from_secs(30),
            first_pause: Duration::from_secs(1),
            longest_pause: Duration::from_mins(5),
            max_attempts: 20,
            keep: Duration::from_hours(24 * 7),
            sleep: Arc::new(SystemSleep),
        }
    }
}

/// What can go wrong outside of the relay's own tasks.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A name that is none.
    #[error("`{0}` is no name of a sink")]
    Name(String),
    /// Two sinks of one name.
    #[error("two sinks have the name `{0}`")]
    Twice(String),
    /// No sink of that name has ever run on the database.
    #[error("the database knows no sink `{0}`")]
    Unknown(String),
    /// A relay is at work for the sink.
    #[error("a server delivers to the sink `{0}`")]
    InUse(String),
    /// The database failed.
    #[error("the database failed: {0}")]
    Database(String),
}

impl Error {
    /// What to do about it.
    pub fn help(&self) -> &'static str {
        match self {
            Self::Name(_) => "use 1 to 64 lower-case letters, digits, `_` and `-`",
            Self::Twice(_) => "give each sink a name of its own",
            Self::Unknown(_) => "a sink is known from the first start of a server that has it; look at the status",
            Self::InUse(_) => "take the sink out of the configuration of every server, and restart them",
            Self::Database(_) => "check the database URL, and that the schema is applied",
        }
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        Self::Database(error.message)
    }
}

/// Running deliveries. They stop when this is dropped; [`Self::stop`] waits for it.
#[derive(Debug)]
pub struct Relay {
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Relay {
    /// Starts a task for each sink, on the runtime that this is called in. What the database refuses meanwhile is
    /// logged and tried again.
    ///
    /// # Errors
    /// [`Error::Name`] and [`Error::Twice`].
    pub fn start(
        engine: &Engine,
        log: &'static Log,
        sinks: impl Into<MulticastAuditSink>,
        options: &RelayOptions,
    ) -> Result<Self, Error> {
        Self::start_with(engine, log, sinks.into(), options, &Hooks::default())
    }

    fn start_with(
        engine: &Engine,
        log: &'static Log,
        sinks: MulticastAuditSink,
        options: &RelayOptions,
        hooks: &Hooks,
    ) -> Result<Self, Error> {
        sinks.check()?;
        let (stop, stopped) = watch::channel(false);
        let start = |sink| {
            let leader = lead::Leader::new(engine.clone(), log, sink, options.clone(), hooks.clone(), stopped.clone());
            tokio::spawn(leader.run())
        };
        Ok(Self { tasks: sinks.sinks.into_iter().map(start).collect(), stop })
    }

    /// Lets each sink finish the call that is under way, and starts nothing new. What is not done by the deadline is
    /// given up; those events will be delivered again. Whether all was done.
    pub async fn stop(mut self, deadline: Duration) -> bool {
        let _ = self.stop.send(true);
        let until = tokio::time::Instant::now() + deadline;
        let mut done = true;
        for mut task in self.tasks.drain(..) {
            if tokio::time::timeout_at(until, &mut task).await.is_err() {
                task.abort();
                done = false;
            }
        }
        done
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
    }
}

/// How the deliveries to a sink stand.
#[derive(Debug, Clone, PartialEq)]
pub struct SinkStatus {
    /// The sink.
    pub name: String,
    /// Events that it has yet to get.
    pub pending: u64,
    /// Dead letters.
    pub dead: u64,
    /// How old the oldest pending event is, to the clock of the engine; nothing when none is pending.
    pub lag: Duration,
    /// What the sink said last of an event that is still pending, or of a dead letter.
    pub last_error: Option<String>,
    /// Events that no take has found although they had been committed. More than 0 is an alarm: somebody has tampered
    /// with the log, its transaction ids or the deliveries. `None` when this was not counted.
    pub skipped: Option<u64>,
}

/// Which events a sink is to get again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// Dead letters.
    Dead,
    /// All from this `seq` on.
    Since(i64),
    /// All there are.
    All,
}

impl Which {
    /// The number before the first of them.
    fn after(self) -> i64 {
        match self {
            Self::Since(seq) => seq.saturating_sub(1),
            Self::Dead | Self::All => i64::MIN,
        }
    }
}

impl Log {
    /// The statements that make the tables of deliveries and positions, where they are not there yet. They may run any
    /// number of times, and do not need the log itself.
    pub fn ddl(&self, dialect: Dialect) -> Vec<String> {
        text::ddl(self, dialect)
    }

    /// Whether the database has the log.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn exists(&'static self, engine: &Engine) -> Result<bool, Error> {
        let texts = Texts::new(self, engine.store().dialect());
        let mut link = Link::open(engine, Hooks::default()).await?;
        let rows = link.read("exists", texts.exists()).await?;
        Ok(text::flag(rows.control(0), 0))
    }

    /// How the deliveries stand, of every sink that has ever run on this database, by name.
    ///
    /// With `skipped` the events that no take has found are counted, which reads as much of the log as there are
    /// deliveries ([`RelayOptions::keep`]); without, the cost grows with what is pending.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn status(&'static self, engine: &Engine, skipped: bool) -> Result<Vec<SinkStatus>, Error> {
        let texts = Texts::new(self, engine.store().dialect());
        let mut link = Link::open(engine, Hooks::default()).await?;
        let rows = link.read("status", texts.status(skipped)).await?;
        let now = engine.clock().now();
        Ok((0..rows.len()).filter_map(|row| text::sink_status(rows.control(row), now)).collect())
    }

    /// Gives a sink events again that it has had, or has refused; the number of these. Those of one key come in their
    /// order, but after later ones that are delivered already. A relay that runs begins within a minute.
    ///
    /// # Errors
    /// [`Error::Unknown`]; [`Error::Database`], after which a part may have been done.
    pub async fn replay(&'static self, engine: &Engine, sink: &str, which: Which) -> Result<u64, Error> {
        let texts = Texts::new(self, engine.store().dialect());
        let mut link = Link::open(engine, Hooks::default()).await?;
        if link.read("position", texts.position(sink)).await?.is_empty() {
            return Err(Error::Unknown(sink.to_owned()));
        }
        let mut after = which.after();
        let mut count = 0;
        loop {
            let rows = link.write("replay", vec![texts.replay(sink, which, after)]).await?;
            let done = rows.first().map_or(0, crate::store::Rows::len);
            count += done as u64;
            let last = rows.iter().flat_map(|rows| (0..rows.len()).map(|row| text::int(rows.control(row), 0))).max();
            match last {
                Some(last) if done == text::PIECE => after = last,
                _ => return Ok(count),
            }
        }
    }

    /// How many events [`Self::replay`] would give the sink again.
    ///
    /// # Errors
    /// [`Error::Unknown`]; [`Error::Database`].
    pub async fn replayable(&'static self, engine: &Engine, sink: &str, which: Which) -> Result<u64, Error> {
        let texts = Texts::new(self, engine.store().dialect());
        let mut link = Link::open(engine, Hooks::default()).await?;
        if link.read("position", texts.position(sink)).await?.is_empty() {
            return Err(Error::Unknown(sink.to_owned()));
        }
        let rows = link.read("replayable", texts.replayable(sink, which)).await?;
        Ok(text::count(rows.control(0), 0))
    }

    /// Forgets a sink with its position and its deliveries: a sink of that name would start with the first event there
    /// is. On SQLite no server may run that has it.
    ///
    /// # Errors
    /// [`Error::Unknown`]; [`Error::InUse`] while a server delivers to it; [`Error::Database`].
    pub async fn forget(&'static self, engine: &Engine, sink: &str) -> Result<(), Error> {
        let texts = Texts::new(self, engine.store().dialect());
        let mut link = Link::open(engine, Hooks::default()).await?;
        if link.read("position", texts.position(sink)).await?.is_empty() {
            return Err(Error::Unknown(sink.to_owned()));
        }
        if let Some(lead) = texts.lead(sink) {
            let rows = link.read("lead", lead).await?;
            if !text::flag(rows.control(0), 1) {
                return Err(Error::InUse(sink.to_owned()));
            }
        }
        loop {
            let rows = link.write("forget", vec![texts.forget_deliveries(sink)]).await?;
            if rows.first().is_none_or(|rows| rows.len() < text::PIECE) {
                break;
            }
        }
        link.write("forget", vec![texts.forget_position(sink)]).await?;
        Ok(())
    }
}
