//! The statements of the two SQL stores, and what is bound to them: one table for both.

use super::{Reservation, Token, settled};
use crate::idempotency::{Identity, Record, SWEPT, State, TABLE};
use crate::sql::Dialect;

/// A value of a statement.
#[derive(Debug)]
pub(super) enum Bind<'a> {
    Octets(&'a [u8]),
    MaybeOctets(Option<&'a [u8]>),
    Text(&'a str),
    Owned(String),
    Number(i64),
}

/// A step that changes a row, or does not.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step<'a> {
    Reserve,
    TakeOver(Token),
    Extend,
    Complete(&'a Record),
    Release,
    MarkUnknown,
}

/// The statements. Each is whole in itself: no transaction is left open between two of them.
#[derive(Debug)]
pub(super) struct Texts {
    /// Columns in the order of [`super::Found`].
    pub(super) find: String,
    reserve: String,
    take_over: String,
    extend: String,
    complete: String,
    release: String,
    mark_unknown: String,
    /// Removes some of what has expired.
    pub(super) purge: String,
}

impl Texts {
    pub(super) fn of(dialect: Dialect) -> Self {
        let now = match dialect {
            Dialect::Postgres => "clock_timestamp()",
            Dialect::Sqlite => "strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')",
        };
        // So many milliseconds from now.
        let after = |millis: &str| match dialect {
            Dialect::Postgres => format!("clock_timestamp() + {millis} * interval '1 millisecond'"),
            Dialect::Sqlite => format!("strftime('%Y-%m-%dT%H:%M:%f000Z', 'now', ({millis} / 1000.0) || ' seconds')"),
        };
        let (place, skip) = match dialect {
            Dialect::Postgres => ("ctid", " FOR UPDATE SKIP LOCKED"),
            Dialect::Sqlite => ("rowid", ""),
        };
        let (started, unknown) = (State::Started.code(), State::Unknown.code());
        let row = "scope = $1 AND key = $2";
        let held = format!("{row} AND token = $3");
        let text = |text: String| if dialect == Dialect::Sqlite { text.replace('$', "?") } else { text };
        Self {
            find: text(format!(
                "SELECT fingerprint, state, token, COALESCE(lease_until <= {now}, false), status, headers, body FROM {TABLE} \
                 WHERE {row}"
            )),
            reserve: text(format!(
                "INSERT INTO {TABLE} (scope, key, token, fingerprint, op, request_id, lease_until, expires_at, created_at, \
                 state) VALUES ($1, $2, $3, $4, $5, $6, {}, {}, {now}, {started}) ON CONFLICT DO NOTHING",
                after("$7"),
                after("$8"),
            )),
            take_over: text(format!(
                "UPDATE {TABLE} SET token = $4, op = $5, request_id = $6, lease_until = {}, expires_at = {}, state = {started} \
                 WHERE {held} AND (state = {unknown} OR state = {started} AND lease_until <= {now})",
                after("$7"),
                after("$8"),
            )),
            extend: text(format!(
                "UPDATE {TABLE} SET lease_until = {} WHERE {held} AND state = {started}",
                after("$4")
            )),
            complete: text(format!(
                "INSERT INTO {TABLE} (scope, key, token, fingerprint, op, request_id, expires_at, status, headers, body, \
                 created_at, state) VALUES ($1, $2, $3, $4, $5, $6, {}, $8, $9, $10, {now}, $11) \
                 ON CONFLICT (scope, key) DO UPDATE SET state = excluded.state, status = excluded.status, \
                 headers = excluded.headers, body = excluded.body, lease_until = NULL \
                 WHERE {TABLE}.token = excluded.token",
                after("$7"),
            )),
            release: text(format!("DELETE FROM {TABLE} WHERE {held} AND state IN ({started}, {unknown})")),
            mark_unknown: text(format!(
                "UPDATE {TABLE} SET state = {unknown}, lease_until = NULL WHERE {held} AND state IN ({started}, {unknown})"
            )),
            purge: format!(
                "DELETE FROM {TABLE} WHERE {place} IN (SELECT {place} FROM {TABLE} WHERE expires_at < {now} \
                 LIMIT {SWEPT}{skip})"
            ),
        }
    }

    /// The statement of a step and its values.
    pub(super) fn step<'a>(
        &self,
        step: Step<'a>,
        identity: &'a Identity,
        reservation: &'a Reservation,
    ) -> (&str, Vec<Bind<'a>>) {
        let token = |token: Token| Bind::Number(token.number());
        let own = token(reservation.token);
        let (text, held, more) = match step {
            Step::Reserve => (&self.reserve, own, begun(Bind::Octets(&identity.fingerprint), reservation)),
            Step::TakeOver(from) => (&self.take_over, token(from), begun(own, reservation)),
            Step::Extend => (&self.extend, own, vec![Bind::Number(reservation.lease_millis())]),
            Step::Complete(record) => (&self.complete, own, completed(identity, reservation, record)),
            Step::Release => (&self.release, own, Vec::new()),
            Step::MarkUnknown => (&self.mark_unknown, own, Vec::new()),
        };
        let mut binds = place(identity);
        binds.push(held);
        binds.extend(more);
        (text, binds)
    }
}

/// What a row is found by.
pub(super) fn place(identity: &Identity) -> Vec<Bind<'_>> {
    vec![Bind::Octets(&identity.scope), Bind::Text(&identity.key)]
}

fn begun<'a>(first: Bind<'a>, reservation: &'a Reservation) -> Vec<Bind<'a>> {
    vec![
        first,
        Bind::Text(&reservation.op),
        Bind::Text(&reservation.request_id),
        Bind::Number(reservation.lease_millis()),
        Bind::Number(reservation.kept_millis()),
    ]
}

fn completed<'a>(identity: &'a Identity, reservation: &'a Reservation, record: &'a Record) -> Vec<Bind<'a>> {
    vec![
        Bind::Octets(&identity.fingerprint),
        Bind::Text(&reservation.op),
        Bind::Text(&reservation.request_id),
        Bind::Number(reservation.kept_millis()),
        Bind::Number(record.status.into()),
        Bind::Owned(record.header_lines()),
        Bind::MaybeOctets(record.body.as_deref()),
        Bind::Number(settled(record).code()),
    ]
}

/// The trait, for a store with `change(step, identity, reservation)` and `find(identity)`.
macro_rules! sql_store {
    ($store:ty) => {
        impl IdempotencyStore for $store {
            fn reserve<'a>(
                &'a self,
                identity: &'a Identity,
                reservation: &'a Reservation,
            ) -> BoxFuture<'a, Result<Reserved, StoreDown>> {
                Box::pin(async move {
                    if self.change(Step::Reserve, identity, reservation).await? {
                        return Ok(Reserved::Granted);
                    }
                    // A statement of its own: the one above has not seen a row that was committed while it waited for
                    // it.
                    match self.find(identity).await? {
                        Some(found) => found.judge(identity, reservation),
                        // Gone in between. Whoever waits asks again.
                        None => Ok(Reserved::InFlight),
                    }
                })
            }

            fn take_over<'a>(
                &'a self,
                identity: &'a Identity,
                reservation: &'a Reservation,
                from: Token,
            ) -> BoxFuture<'a, Result<bool, StoreDown>> {
                Box::pin(self.change(Step::TakeOver(from), identity, reservation))
            }

            fn extend<'a>(
                &'a self,
                identity: &'a Identity,
                reservation: &'a Reservation,
            ) -> BoxFuture<'a, Result<bool, StoreDown>> {
                Box::pin(self.change(Step::Extend, identity, reservation))
            }

            fn complete<'a>(
                &'a self,
                identity: &'a Identity,
                reservation: &'a Reservation,
                record: &'a Record,
            ) -> BoxFuture<'a, Result<bool, StoreDown>> {
                Box::pin(self.change(Step::Complete(record), identity, reservation))
            }

            fn release<'a>(
                &'a self,
                identity: &'a Identity,
                reservation: &'a Reservation,
            ) -> BoxFuture<'a, Result<bool, StoreDown>> {
                Box::pin(self.change(Step::Release, identity, reservation))
            }

            fn mark_unknown<'a>(
                &'a self,
                identity: &'a Identity,
                reservation: &'a Reservation,
            ) -> BoxFuture<'a, Result<bool, StoreDown>> {
                Box::pin(self.change(Step::MarkUnknown, identity, reservation))
            }
        }
    };
}

pub(super) use sql_store;
