//! Reservation mode: where it is written down who is at a request, and what was answered.
//!
//! The effect of such a request is elsewhere: in another database, at another bank. So the record cannot be committed
//! with it, and says first that somebody is at it. The steps:
//!
//! 1. [`reserve`](IdempotencyStore::reserve): the first one gets the reservation, all others hear what there is;
//! 2. [`extend`](IdempotencyStore::extend), again and again while the work goes on: a reservation is lent for a short
//!    time (the *lease*), so that others notice when its holder dies;
//! 3. one of [`complete`](IdempotencyStore::complete) (this was the answer), [`release`](IdempotencyStore::release)
//!    (nothing has happened) and [`mark_unknown`](IdempotencyStore::mark_unknown) (nobody knows what has happened).
//!
//! When the lease ends without any of these, the outcome is unknown, and stays so until somebody
//! [takes over](IdempotencyStore::take_over).
//!
//! **What this does not guarantee.** Between the effect and its record there is a moment in which the process, or the
//! store, can die. Then the effect is there and its answer is not: the key is frozen, or whoever takes over has to find
//! out. A holder that was taken over because it was silent for a whole lease may still be at work: its [`Token`] keeps
//! it from writing the record, and nothing keeps it from having its effect. Transactional mode has neither of these
//! gaps.
//!
//! [`SqlxIdempotencyStore`] and [`SqliteIdempotencyStore`] are as durable as their database. `RedisIdempotencyStore`
//! (feature `redis`) is best effort: a failover, or a restart without persistence, may lose what was acknowledged, and
//! then a retry has its effect again.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
pub use futures_util::future::BoxFuture;

use super::{ALLOWANCE, Identity, Record, State};
use crate::sources::Ids;

mod postgres;
#[cfg(feature = "redis")]
mod redis;
mod sqlite;
mod text;

pub use self::postgres::SqlxIdempotencyStore;
#[cfg(feature = "redis")]
pub use self::redis::RedisIdempotencyStore;
pub use self::sqlite::SqliteIdempotencyStore;

/// The longest time that a store counts with; what is longer counts as this. 100 years.
const LONGEST: Duration = Duration::from_hours(24 * 365 * 100);

/// Names one reservation, so that only its holder can end it.
///
/// A random number of 63 bits, compared for equality: tokens of one record differ, even when it was released and
/// reserved again, and have no order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token(i64);

impl Token {
    /// A new one.
    ///
    /// # Errors
    /// When the operating system has no random octets.
    pub fn fresh(ids: &dyn Ids) -> Result<Self, StoreDown> {
        let mut octets = [0; 8];
        if ids.random(&mut octets) {
            Ok(Self(i64::from_be_bytes(octets) & i64::MAX))
        } else {
            Err(StoreDown::new("the operating system has no random octets for a token"))
        }
    }

    /// As it is stored.
    pub fn number(self) -> i64 {
        self.0
    }

    /// What [`Self::number`] gave.
    pub fn from_number(number: i64) -> Self {
        Self(number)
    }
}

/// What a reservation says besides whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// Names it. A new one for each: [`Token::fresh`].
    pub token: Token,
    /// What is done, for people: `POST /payments`.
    pub op: String,
    /// The id of the request that does it.
    pub request_id: String,
    /// How long it is lent, by the clock of the store.
    pub lease: Duration,
    /// How long the record is of use, from now on. It is kept a little longer ([`ALLOWANCE`]), and until somebody
    /// removes it.
    pub retention: Duration,
}

impl Reservation {
    fn lease_millis(&self) -> i64 {
        millis(self.lease)
    }

    fn kept_millis(&self) -> i64 {
        millis(self.retention.saturating_add(ALLOWANCE))
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.min(LONGEST).as_millis()).unwrap_or(i64::MAX)
}

/// What a request with a key finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reserved {
    /// Nobody had it: it is this request's now.
    Granted,
    /// It was done, and this was the answer.
    Done(Record),
    /// It was done, and the body of the answer was not kept.
    EffectOnly(Record),
    /// Somebody is at it.
    InFlight,
    /// It was begun, and nobody knows how it ended: its holder said so, or its lease ended. The token is the one that a
    /// [takeover](IdempotencyStore::take_over) has to name.
    Unknown(Token),
    /// The key belongs to another request: the fingerprints differ.
    Reused,
}

/// The store cannot answer. Whether what was asked for was done is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the store cannot answer: {internal}")]
pub struct StoreDown {
    internal: String,
}

impl StoreDown {
    /// With what happened, for the log: never a secret.
    pub fn new(internal: impl Into<String>) -> Self {
        Self { internal: internal.into() }
    }
}

/// Keeps reservations and records.
///
/// Each step is atomic. A step that failed with [`StoreDown`] may have been done, or be done a little later. It may be
/// asked for again, with the same token: where it had been done, that changes nothing, and only
/// [`take_over`](Self::take_over) and [`release`](Self::release) then say `false`. Futures may be dropped at any time,
/// which leaves the step done or not done. A store need not bound how long it takes: who calls it does.
pub trait IdempotencyStore: Send + Sync + 'static {
    /// Reserves the key, if nobody has used it.
    ///
    /// # Errors
    /// When the store cannot answer. The reservation may then have been made: [`release`](Self::release) it.
    fn reserve<'a>(
        &'a self,
        identity: &'a Identity,
        reservation: &'a Reservation,
    ) -> BoxFuture<'a, Result<Reserved, StoreDown>>;

    /// Puts `reservation`, with a token of its own, in place of the one that [`Reserved::Unknown`] named. `false` when
    /// that is not there any more: of two that try only one succeeds, and none does when the holder has come back.
    ///
    /// # Errors
    /// When the store cannot answer.
    fn take_over<'a>(
        &'a self,
        identity: &'a Identity,
        reservation: &'a Reservation,
        from: Token,
    ) -> BoxFuture<'a, Result<bool, StoreDown>>;

    /// Begins the lease anew. `false` when the reservation is lost.
    ///
    /// # Errors
    /// When the store cannot answer.
    fn extend<'a>(
        &'a self,
        identity: &'a Identity,
        reservation: &'a Reservation,
    ) -> BoxFuture<'a, Result<bool, StoreDown>>;

    /// Writes down the answer, in place of the reservation. Where there is no record at all (the store lost its memory,
    /// or somebody removed it), it is written all the same. `false`, and nothing written, when the key is somebody
    /// else's by now.
    ///
    /// # Errors
    /// When the store cannot answer.
    fn complete<'a>(
        &'a self,
        identity: &'a Identity,
        reservation: &'a Reservation,
        record: &'a Record,
    ) -> BoxFuture<'a, Result<bool, StoreDown>>;

    /// Removes the reservation: nothing has happened, the next request with the key runs. `false` when it is lost.
    ///
    /// # Errors
    /// When the store cannot answer.
    fn release<'a>(
        &'a self,
        identity: &'a Identity,
        reservation: &'a Reservation,
    ) -> BoxFuture<'a, Result<bool, StoreDown>>;

    /// Notes that nobody knows what has happened. `false` when the reservation is lost.
    ///
    /// # Errors
    /// When the store cannot answer.
    fn mark_unknown<'a>(
        &'a self,
        identity: &'a Identity,
        reservation: &'a Reservation,
    ) -> BoxFuture<'a, Result<bool, StoreDown>>;
}

/// A store that several share.
impl<S: IdempotencyStore + ?Sized> IdempotencyStore for Arc<S> {
    fn reserve<'a>(
        &'a self,
        identity: &'a Identity,
        reservation: &'a Reservation,
    ) -> BoxFuture<'a, Result<Reserved, StoreDown>> {
        (**self).reserve(identity, reservation)
    }

    fn take_over<'a>(
        &'a self,
        identity: &'a Identity,
        reservation: &'a Reservation,
        from: Token,
    ) -> BoxFuture<'a, Result<bool, StoreDown>> {
        (**self).take_over(identity, reservation, from)
    }

    fn extend<'a>(
        &'a self,
        identity: &'a Identity,
        reservation: &'a Reservation,
    ) -> BoxFuture<'a, Result<bool, StoreDown>> {
        (**self).extend(identity, reservation)
    }

    fn complete<'a>(
        &'a self,
        identity: &'a Identity,
        reservation: &'a Reservation,
        record: &'a Record,
    ) -> BoxFuture<'a, Result<bool, StoreDown>> {
        (**self).complete(identity, reservation, record)
    }

    fn release<'a>(
        &'a self,
        identity: &'a Identity,
        reservation: &'a Reservation,
    ) -> BoxFuture<'a, Result<bool, StoreDown>> {
        (**self).release(identity, reservation)
    }

    fn mark_unknown<'a>(
        &'a self,
        identity: &'a Identity,
        reservation: &'a Reservation,
    ) -> BoxFuture<'a, Result<bool, StoreDown>> {
        (**self).mark_unknown(identity, reservation)
    }
}

/// A record as a store has it.
#[derive(Debug)]
struct Found {
    fingerprint: Vec<u8>,
    state: i64,
    /// Records of transactional mode have none.
    token: Option<i64>,
    /// Whether the lease has ended.
    ended: bool,
    status: Option<i64>,
    headers: Option<String>,
    body: Option<Vec<u8>>,
}

impl Found {
    /// What it is to the request that wanted to make this reservation.
    fn judge(self, identity: &Identity, reservation: &Reservation) -> Result<Reserved, StoreDown> {
        // How many octets agree is nobody's business.
        if verify_slices_are_equal(&self.fingerprint, &identity.fingerprint).is_err() {
            return Ok(Reserved::Reused);
        }
        let token = self.token.map(Token);
        match State::of(self.state) {
            // An answer got lost, and the step was asked for again.
            Some(State::Started) if token == Some(reservation.token) => Ok(Reserved::Granted),
            Some(State::Started) if !self.ended => Ok(Reserved::InFlight),
            Some(State::Started | State::Unknown) => {
                token.map(Reserved::Unknown).ok_or_else(|| StoreDown::new("a reservation has no token"))
            }
            Some(state @ (State::Done | State::EffectOnly)) => {
                let status = self.status.and_then(|status| u16::try_from(status).ok());
                let status = status.ok_or_else(|| StoreDown::new("a record has no status"))?;
                let headers = Record::parse_headers(self.headers.as_deref().unwrap_or_default());
                let record = Record { status, headers, body: self.body };
                Ok(if state == State::Done { Reserved::Done(record) } else { Reserved::EffectOnly(record) })
            }
            None => Err(StoreDown::new(format!("a record has the state {}, which no version knows", self.state))),
        }
    }
}

/// The state of a record whose answer is known.
fn settled(record: &Record) -> State {
    if record.body.is_some() { State::Done } else { State::EffectOnly }
}
