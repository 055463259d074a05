//! The relay's statements.

use std::sync::Arc;
use std::time::Duration;

use cratestack_schema::value::{Value, instant};

use super::{AuditEvent, Log, SinkStatus, Which};
use crate::sql::{Bind, Dialect, SqlType, Statement, Template};
use crate::storage::lossy;

/// Rows of one transaction, where a piece of work can be cut.
pub(super) const PIECE: usize = 1000;

const INT: SqlType = SqlType::INT;
const TEXT: SqlType = SqlType::TEXT;

/// A row of the delivery table's `state`.
const STATES: &str = "('pending', 'delivered', 'dead')";

pub(super) fn ddl(log: &Log, dialect: Dialect) -> Vec<String> {
    let Log { delivery, position, .. } = log;
    // The position is a snapshot on PostgreSQL and a number on SQLite. `purged` is the greatest `seq` whose delivery has
    // been deleted for its age: what is missing beyond it was never taken.
    let (text, int, time, place, strict) = match dialect {
        Dialect::Postgres => ("text COLLATE \"C\"", "bigint", "timestamptz", "snapshot text NOT NULL", ""),
        Dialect::Sqlite => ("TEXT", "INTEGER", "TEXT", "seq INTEGER NOT NULL", " STRICT, WITHOUT ROWID"),
    };
    vec![
        format!(
            "CREATE TABLE IF NOT EXISTS {delivery} (sink {text} NOT NULL, seq {int} NOT NULL, model {text} NOT NULL, \
             primary_key {text} NOT NULL, state {text} NOT NULL DEFAULT 'pending' CHECK (state IN {STATES}), \
             attempts {int} NOT NULL DEFAULT 0, refusals {int} NOT NULL DEFAULT 0, next_attempt_at {time}, \
             last_error {text}, delivered_at {time}, PRIMARY KEY (sink, seq)){strict}"
        ),
        format!("CREATE INDEX IF NOT EXISTS {delivery}_pending ON {delivery} (sink, seq) WHERE state = 'pending'"),
        format!(
            "CREATE INDEX IF NOT EXISTS {delivery}_key ON {delivery} (sink, model, primary_key, seq) \
             WHERE state = 'pending'"
        ),
        format!("CREATE INDEX IF NOT EXISTS {delivery}_dead ON {delivery} (sink, seq) WHERE state = 'dead'"),
        format!(
            "CREATE INDEX IF NOT EXISTS {delivery}_done ON {delivery} (sink, delivered_at, seq) WHERE state = 'delivered'"
        ),
        format!(
            "CREATE TABLE IF NOT EXISTS {position} (sink {text} NOT NULL, batch {int} NOT NULL, {place}, \
             taken_at {time} NOT NULL, purged {int} NOT NULL DEFAULT 0, PRIMARY KEY (sink, batch)){strict}"
        ),
    ]
}

/// Makes the statements for one log on one database.
#[derive(Debug, Clone, Copy)]
pub(super) struct Texts {
    log: &'static Log,
    dialect: Dialect,
}

/// A pending event, and how often the sink has refused it.
#[derive(Debug)]
pub(super) struct Due {
    pub(super) event: AuditEvent,
    pub(super) refusals: u32,
}

/// What becomes of an event that was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is tried again, in microseconds since 1970.
    Again(i64),
    /// It becomes a dead letter.
    Dead,
}

impl Texts {
    pub(super) fn new(log: &'static Log, dialect: Dialect) -> Self {
        Self { log, dialect }
    }

    fn postgres(self) -> bool {
        self.dialect == Dialect::Postgres
    }

    /// A statement written with SQLite's placeholders. None of the texts has a `?` otherwise.
    fn make(self, sql: &str, control: &[SqlType], binds: Vec<Bind>) -> Statement {
        let template = match self.dialect {
            Dialect::Postgres => Template::fixed(&sql.replace('?', "$"), control),
            Dialect::Sqlite => Template::fixed(sql, control),
        };
        Statement { template: Arc::new(template), binds }
    }

    /// A placeholder for a time, which travels as text.
    fn at(self, number: u8) -> String {
        if self.postgres() { format!("?{number}::text::timestamptz") } else { format!("?{number}") }
    }

    /// An update of pending rows by the list of their numbers in `?3`. PostgreSQL is made to look each up by its key: it
    /// believes that few rows are pending, and would rather read all of them.
    fn update(self, set: &str) -> String {
        let delivery = self.log.delivery;
        if !self.postgres() {
            return format!(
                "UPDATE {delivery} SET {set} WHERE sink = ?1 AND state = 'pending' \
                 AND seq IN (SELECT value FROM json_each(?3))"
            );
        }
        format!(
            "UPDATE {delivery} SET {set} WHERE state = 'pending' AND ctid = ANY (ARRAY(\
             SELECT d.ctid FROM unnest(?3) AS u (seq) CROSS JOIN LATERAL (SELECT p.ctid FROM {delivery} AS p \
             WHERE p.sink = ?1 AND p.seq = u.seq AND p.state = 'pending' OFFSET 0) AS d))"
        )
    }

    /// The test for being one of the rows that `which` finds in the delivery table. On PostgreSQL they are found first,
    /// and by themselves.
    fn these(self, which: &str) -> String {
        let delivery = self.log.delivery;
        if self.postgres() {
            format!("ctid = ANY (ARRAY(SELECT ctid FROM {delivery} {which}))")
        } else {
            format!("seq IN (SELECT seq FROM {delivery} {which})")
        }
    }

    fn list(self, seqs: &[i64]) -> Bind {
        if self.postgres() {
            return Bind::IntList(seqs.to_vec());
        }
        let texts: Vec<String> = seqs.iter().map(i64::to_string).collect();
        Bind::Text(format!("[{}]", texts.join(",")))
    }

    /// Whether the log is there.
    pub(super) fn exists(self) -> Statement {
        let sql = if self.postgres() {
            "SELECT to_regclass(?1) IS NOT NULL"
        } else {
            "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1)"
        };
        self.make(sql, &[SqlType::BOOL], vec![Bind::Text(self.log.table.to_owned())])
    }

    /// The newest position of the sink in `?1`.
    fn newest(self, columns: &str) -> String {
        format!("SELECT {columns} FROM {} WHERE sink = ?1 ORDER BY batch DESC LIMIT 1", self.log.position)
    }

    /// Tries to become the one who delivers to the sink. Columns: whether the server is a standby; whether the lock was
    /// granted; whether the server's transaction ids are behind the position. Nothing on SQLite.
    pub(super) fn lead(self, sink: &str) -> Option<Statement> {
        if !self.postgres() {
            return None;
        }
        let newest = self.newest("snapshot");
        // The table's oid tells schemas and logs of one database apart.
        let sql = format!(
            "SELECT standby, CASE WHEN standby THEN false ELSE pg_try_advisory_lock(hashtextextended(concat_ws(' ', \
             'cratestack relay', '{log}'::regclass::oid, ?1), 0)) END, coalesce(pg_snapshot_xmax(({newest})::pg_snapshot) > \
             pg_snapshot_xmax(pg_current_snapshot()), false) FROM (SELECT pg_is_in_recovery() AS standby) AS server",
            log = self.log.table,
        );
        Some(self.make(&sql, &[SqlType::BOOL; 3], vec![sink_bind(sink)]))
    }

    /// Gives a new sink the position before the first event.
    pub(super) fn enrol(self, sink: &str, now: i64) -> Statement {
        let (column, start) = if self.postgres() { ("snapshot", "'1:1:'") } else { ("seq", "0") };
        let position = self.log.position;
        let sql = format!(
            "INSERT INTO {position} (sink, batch, {column}, taken_at) SELECT ?1, 0, {start}, {now} \
             WHERE NOT EXISTS (SELECT 1 FROM {position} WHERE sink = ?1) ON CONFLICT (sink, batch) DO NOTHING",
            now = self.at(2),
        );
        self.make(&sql, &[], vec![sink_bind(sink), time(now)])
    }

    /// Takes what is new. The last statement gives a row unless the sink has no position: the first number that is
    /// pending now, of those from `floor` on and the new ones. On SQLite the first statement gives a row for each event
    /// taken.
    ///
    /// The floor spares PostgreSQL the traces of all that was delivered since the oldest snapshot began that is still in
    /// use, which may be the one of a backup that takes hours.
    pub(super) fn take(self, sink: &str, now: i64, floor: i64) -> Vec<Statement> {
        let Log { table, delivery, position, .. } = self.log;
        if self.postgres() {
            // One statement, so one snapshot for all of it. The relay's own transaction writes no events: whether it is
            // visible to itself does not matter. What was invisible to the previous snapshot is what had not begun, and
            // what was under way; by these two the index finds it, however long some transaction has been open. A
            // transaction id from the future (of another server, whose rows were restored here) waits for its time.
            let sql = format!(
                "WITH prev AS MATERIALIZED ({newest}), \
                 cur AS MATERIALIZED (SELECT pg_current_snapshot() AS snap), \
                 took AS (INSERT INTO {delivery} (sink, seq, model, primary_key) \
                  SELECT ?1, e.seq, e.model, e.primary_key FROM {table} AS e \
                  WHERE (e.xid >= (SELECT pg_snapshot_xmax(snap)::text::bigint FROM prev) \
                    OR e.xid = ANY (ARRAY(SELECT pg_snapshot_xip(snap)::text::bigint FROM prev))) \
                   AND pg_visible_in_snapshot(e.xid::text::xid8, (SELECT snap FROM cur)) RETURNING seq), \
                 placed AS (INSERT INTO {position} (sink, batch, snapshot, taken_at, purged) \
                  SELECT ?1, prev.batch + 1, cur.snap::text, {now}, prev.purged FROM prev, cur \
                  WHERE EXISTS (SELECT FROM took)), \
                 gone AS (DELETE FROM {position} WHERE sink = ?1 AND batch < (SELECT batch FROM prev)) \
                 SELECT least((SELECT min(seq) FROM took), (SELECT seq FROM {delivery} \
                  WHERE sink = ?1 AND state = 'pending' AND seq >= ?3 ORDER BY seq LIMIT 1)) FROM prev",
                newest = self.newest("batch, snapshot::pg_snapshot AS snap, purged"),
                now = self.at(2),
            );
            return vec![self.make(&sql, &[INT], vec![sink_bind(sink), time(now), Bind::Int(floor)])];
        }
        // There is one writer, so the numbers are in the order of commits, and a piece at a time will do: requests wait
        // for no more than that.
        let take = format!(
            "INSERT INTO {delivery} (sink, seq, model, primary_key) SELECT ?1, seq, model, primary_key FROM {table} \
             WHERE seq > ({newest}) ORDER BY seq LIMIT {PIECE} RETURNING seq",
            newest = self.newest("seq"),
        );
        let place = format!(
            "INSERT INTO {position} (sink, batch, seq, taken_at, purged) SELECT ?1, p.batch + 1, d.seq, ?2, p.purged \
             FROM ({newest}) AS p, (SELECT max(seq) AS seq FROM {delivery} WHERE sink = ?1) AS d WHERE d.seq > p.seq",
            newest = self.newest("batch, seq, purged"),
        );
        let gone = format!("DELETE FROM {position} WHERE sink = ?1 AND batch < ({}) - 1", self.newest("batch"));
        let first = format!(
            "SELECT (SELECT seq FROM {delivery} WHERE sink = ?1 AND state = 'pending' ORDER BY seq LIMIT 1) \
             FROM ({}) AS p",
            self.newest("batch")
        );
        vec![
            self.make(&take, &[INT], vec![sink_bind(sink)]),
            self.make(&place, &[], vec![sink_bind(sink), time(now)]),
            self.make(&gone, &[], vec![sink_bind(sink)]),
            self.make(&first, &[INT], vec![sink_bind(sink)]),
        ]
    }

    /// The number of the newest position, if there is one.
    pub(super) fn position(self, sink: &str) -> Statement {
        self.make(&self.newest("batch"), &[INT], vec![sink_bind(sink)])
    }

    /// What may be delivered now, from `floor` on, in order. An event whose key has an earlier one that is not due, or is
    /// below the floor, waits. The last column says how many there were before the octets were counted.
    pub(super) fn due(self, sink: &str, now: i64, floor: i64, batch: usize, octets: usize) -> Statement {
        let Log { table, delivery, .. } = self.log;
        // Earlier events are looked for one key at a time, by the index for it. The offset keeps PostgreSQL from joining,
        // and the comparison of pairs from an index that has the numbers without the keys: its guess is that a condition
        // more makes no difference.
        let earlier = if self.postgres() { "(h.primary_key, h.seq) < (p.primary_key, p.seq)" } else { "h.seq < p.seq" };
        let sql = format!(
            "SELECT seq, model, {key}, refusals, {entry}, found FROM (\
              SELECT d.seq, d.model, d.primary_key, d.refusals, e.entry, count(*) OVER () AS found, \
               sum(octet_length(e.entry)) OVER (ORDER BY d.seq) AS total, row_number() OVER (ORDER BY d.seq) AS place \
              FROM (SELECT p.seq, p.model, p.primary_key, p.refusals FROM {delivery} AS p \
               WHERE p.sink = ?1 AND p.state = 'pending' AND p.seq >= ?5 \
                AND (p.next_attempt_at IS NULL OR p.next_attempt_at <= {now}) \
                AND NOT EXISTS (SELECT 1 FROM {delivery} AS h WHERE h.sink = ?1 AND h.state = 'pending' \
                 AND h.model = p.model AND h.primary_key = p.primary_key AND {earlier} \
                 AND (h.seq < ?5 OR h.next_attempt_at > {now}) LIMIT 1 OFFSET 0) \
               ORDER BY p.seq LIMIT ?3) AS d JOIN {table} AS e ON e.seq = d.seq) AS x \
             WHERE place = 1 OR total <= ?4 ORDER BY seq",
            now = self.at(2),
            key = lossy(self.dialect, "primary_key"),
            entry = lossy(self.dialect, "entry"),
        );
        let int = |n: usize| Bind::Int(i64::try_from(n).unwrap_or(i64::MAX));
        let binds = vec![sink_bind(sink), time(now), int(batch), int(octets), Bind::Int(floor)];
        self.make(&sql, &[INT, TEXT, TEXT, INT, TEXT, INT], binds)
    }

    /// A row of [`Self::due`].
    pub(super) fn due_row(self, row: &[Value]) -> Option<Due> {
        let text = |at| words(row, at).map(str::to_owned);
        let event =
            AuditEvent { log: self.log, seq: int(row, 0), model: text(1)?, primary_key: text(2)?, entry: text(4)? };
        Some(Due { event, refusals: u32::try_from(int(row, 3)).unwrap_or(u32::MAX) })
    }

    pub(super) fn delivered(self, sink: &str, seqs: &[i64], now: i64) -> Statement {
        let sql = self.update(&format!(
            "state = 'delivered', delivered_at = {}, attempts = attempts + 1, next_attempt_at = NULL, last_error = NULL",
            self.at(2)
        ));
        self.make(&sql, &[], vec![sink_bind(sink), time(now), self.list(seqs)])
    }

    /// The sink as a whole took nothing.
    pub(super) fn waits(self, sink: &str, seqs: &[i64], error: &str) -> Statement {
        let sql = self.update("attempts = attempts + 1, last_error = ?2");
        self.make(&sql, &[], vec![sink_bind(sink), Bind::Text(error.to_owned()), self.list(seqs)])
    }

    pub(super) fn refused(self, sink: &str, seq: i64, error: &str, fate: Fate) -> Statement {
        let (state, next) = match fate {
            Fate::Again(at) => ("pending", time(at)),
            Fate::Dead => ("dead", Bind::Null(crate::sql::BindKind::Text)),
        };
        let sql = format!(
            "UPDATE {} SET attempts = attempts + 1, refusals = refusals + 1, last_error = ?2, next_attempt_at = {}, \
             state = '{state}' WHERE sink = ?1 AND state = 'pending' AND seq = ?4",
            self.log.delivery,
            self.at(3),
        );
        self.make(&sql, &[], vec![sink_bind(sink), Bind::Text(error.to_owned()), next, Bind::Int(seq)])
    }

    /// Deletes a piece of the deliveries that were done in a stretch of time. The last statement's rows are the deleted.
    pub(super) fn purge(self, sink: &str, from: i64, cutoff: i64) -> Vec<Statement> {
        let Log { delivery, position, .. } = self.log;
        let old = format!(
            "WHERE sink = ?1 AND state = 'delivered' AND delivered_at >= {} AND delivered_at < {} \
             ORDER BY delivered_at, seq LIMIT {PIECE}",
            self.at(3),
            self.at(2),
        );
        let newest = self.newest("batch");
        let these = self.these(&old);
        let delete =
            format!("DELETE FROM {delivery} WHERE sink = ?1 AND state = 'delivered' AND {these} RETURNING seq");
        let binds = || vec![sink_bind(sink), time(cutoff), time(from)];
        if self.postgres() {
            let sql = format!(
                "WITH gone AS ({delete}), noted AS (UPDATE {position} \
                 SET purged = greatest(purged, (SELECT max(seq) FROM gone)) \
                 WHERE sink = ?1 AND batch = ({newest}) AND EXISTS (SELECT FROM gone)) SELECT seq FROM gone"
            );
            return vec![self.make(&sql, &[INT], binds())];
        }
        let note = format!(
            "UPDATE {position} SET purged = max(purged, coalesce((SELECT max(seq) FROM (SELECT seq FROM {delivery} {old})), \
             0)) WHERE sink = ?1 AND batch = ({newest})"
        );
        vec![self.make(&note, &[], binds()), self.make(&delete, &[INT], binds())]
    }

    /// The columns that [`sink_status`] reads, a row for each sink.
    pub(super) fn status(self, skipped: bool) -> Statement {
        let Log { table, delivery, position, .. } = self.log;
        let (place, taken) = if self.postgres() {
            ("snapshot::pg_snapshot AS snap", "pg_visible_in_snapshot(e.xid::text::xid8, p.snap)")
        } else {
            ("seq AS place", "e.seq <= p.place")
        };
        let untaken = if self.postgres() {
            "(e.xid >= pg_snapshot_xmax(p.snap)::text::bigint \
             OR e.xid = ANY (ARRAY(SELECT pg_snapshot_xip(p.snap)::text::bigint)))"
        } else {
            "e.seq > p.place"
        };
        let skipped = if skipped {
            format!(
                "(SELECT count(*) FROM {table} AS e WHERE e.seq > p.purged AND {taken} \
                 AND NOT EXISTS (SELECT 1 FROM {delivery} AS d WHERE d.sink = p.sink AND d.seq = e.seq))"
            )
        } else {
            let kind = if self.postgres() { "bigint" } else { "INTEGER" };
            format!("CAST(NULL AS {kind})")
        };
        let error = |state: &str, order: &str| {
            format!(
                "(SELECT d.last_error FROM {delivery} AS d WHERE d.sink = p.sink AND d.state = '{state}' \
                 AND d.last_error IS NOT NULL ORDER BY d.seq {order} LIMIT 1)"
            )
        };
        let sql = format!(
            "SELECT p.sink, \
              (SELECT count(*) FROM {delivery} AS d WHERE d.sink = p.sink AND d.state = 'pending') \
               + (SELECT count(*) FROM {table} AS e WHERE {untaken}), \
              (SELECT count(*) FROM {delivery} AS d WHERE d.sink = p.sink AND d.state = 'dead'), \
              (SELECT e.occurred_at FROM {delivery} AS d JOIN {table} AS e ON e.seq = d.seq \
               WHERE d.sink = p.sink AND d.state = 'pending' ORDER BY d.seq LIMIT 1), \
              (SELECT min(e.occurred_at) FROM {table} AS e WHERE {untaken}), \
              coalesce({pending}, {dead}), {skipped} \
             FROM (SELECT q.sink, q.{place}, q.purged FROM {position} AS q \
              WHERE q.batch = (SELECT max(r.batch) FROM {position} AS r WHERE r.sink = q.sink)) AS p ORDER BY p.sink",
            pending = error("pending", "ASC"),
            dead = error("dead", "DESC"),
        );
        self.make(&sql, &[TEXT, INT, INT, SqlType::DATE_TIME, SqlType::DATE_TIME, TEXT, INT], Vec::new())
    }

    /// Makes a piece of the events beyond `after` pending again. Its rows are their numbers.
    pub(super) fn replay(self, sink: &str, which: Which, after: i64) -> Statement {
        let delivery = self.log.delivery;
        let again = "state = 'pending', attempts = 0, refusals = 0, next_attempt_at = NULL, delivered_at = NULL";
        let sql = if which == Which::Dead {
            let dead = format!("WHERE sink = ?1 AND state = 'dead' AND seq > ?2 ORDER BY seq LIMIT {PIECE}");
            let these = self.these(&dead);
            format!("UPDATE {delivery} SET {again} WHERE sink = ?1 AND state = 'dead' AND {these} RETURNING seq")
        } else {
            format!(
                "INSERT INTO {delivery} (sink, seq, model, primary_key) \
                 SELECT ?1, e.seq, e.model, e.primary_key FROM {taken} ORDER BY e.seq LIMIT {PIECE} \
                 ON CONFLICT (sink, seq) DO UPDATE SET {again} RETURNING seq",
                taken = self.taken(),
            )
        };
        self.make(&sql, &[INT], vec![sink_bind(sink), Bind::Int(after)])
    }

    /// How many events [`Self::replay`] finds, in all pieces.
    pub(super) fn replayable(self, sink: &str, which: Which) -> Statement {
        let sql = if which == Which::Dead {
            format!("SELECT count(*) FROM {} WHERE sink = ?1 AND state = 'dead' AND seq > ?2", self.log.delivery)
        } else {
            format!("SELECT count(*) FROM {}", self.taken())
        };
        self.make(&sql, &[INT], vec![sink_bind(sink), Bind::Int(which.after())])
    }

    /// The events beyond `?2` that the sink's takes have found: what they have not must be left to the next one.
    fn taken(self) -> String {
        let (newest, taken) = if self.postgres() {
            (self.newest("snapshot"), "pg_visible_in_snapshot(e.xid::text::xid8, p.snapshot::pg_snapshot)")
        } else {
            (self.newest("seq"), "e.seq <= p.seq")
        };
        format!("{} AS e, ({newest}) AS p WHERE e.seq > ?2 AND {taken}", self.log.table)
    }

    /// Deletes a piece of the sink's deliveries. Its rows are the deleted.
    pub(super) fn forget_deliveries(self, sink: &str) -> Statement {
        let these = self.these(&format!("WHERE sink = ?1 ORDER BY seq LIMIT {PIECE}"));
        let sql = format!("DELETE FROM {} WHERE sink = ?1 AND {these} RETURNING seq", self.log.delivery);
        self.make(&sql, &[INT], vec![sink_bind(sink)])
    }

    pub(super) fn forget_position(self, sink: &str) -> Statement {
        let sql = format!("DELETE FROM {} WHERE sink = ?1", self.log.position);
        self.make(&sql, &[], vec![sink_bind(sink)])
    }
}

fn sink_bind(sink: &str) -> Bind {
    Bind::Text(sink.to_owned())
}

fn time(micros: i64) -> Bind {
    // The years 1 to 9999 have a text; a clock outside of them is broken.
    Bind::Text(instant::from_unix_micros(micros).unwrap_or_else(|| "1970-01-01T00:00:00.000000Z".to_owned()))
}

/// A number of a row, if there is one.
pub(super) fn number(row: &[Value], at: usize) -> Option<i64> {
    match row.get(at) {
        Some(Value::Int(value)) => Some(*value),
        _ => None,
    }
}

/// A number of a row; 0 where there is none.
pub(super) fn int(row: &[Value], at: usize) -> i64 {
    number(row, at).unwrap_or(0)
}

/// A number of a row that is no less than 0.
pub(super) fn count(row: &[Value], at: usize) -> u64 {
    u64::try_from(int(row, at)).unwrap_or(0)
}

fn words(row: &[Value], at: usize) -> Option<&str> {
    match row.get(at) {
        Some(Value::Text(text)) => Some(text),
        _ => None,
    }
}

/// A boolean of a row; `false` where there is none.
pub(super) fn flag(row: &[Value], at: usize) -> bool {
    matches!(row.get(at), Some(Value::Bool(true)))
}

/// A row of [`Texts::status`].
pub(super) fn sink_status(row: &[Value], now: i64) -> Option<SinkStatus> {
    let oldest = [words(row, 3), words(row, 4)].into_iter().flatten().filter_map(instant::to_unix_micros).min();
    let age = oldest.map_or(0, |oldest| now.saturating_sub(oldest));
    Some(SinkStatus {
        name: words(row, 0)?.to_owned(),
        pending: count(row, 1),
        dead: count(row, 2),
        lag: Duration::from_micros(u64::try_from(age).unwrap_or(0)),
        last_error: words(row, 5).map(str::to_owned),
        skipped: number(row, 6).map(|_| count(row, 6)),
    })
}
