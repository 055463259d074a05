//! The record of refusals that `@@audit(denials)` asks for: 403s and 412s, in a short transaction of their own.
//!
//! A caller who is refused again and again must not fill the trail: each principal has an allowance
//! ([`Limits::denials_per_minute`](crate::Limits)), and what goes beyond it is logged once, not recorded.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cratestack_schema::ir::ModelId;

use super::{Core, Store, now};
use crate::api::{Answer, Caller, Code, Failure, Operation, Verb};
use crate::audit::{self, Context};
use crate::fault::StoreError;
use crate::plan::key_values;
use crate::store::{Control, NoPages, Session};

/// Principals that are remembered at once.
const PRINCIPALS: usize = 10_000;
/// The allowance that all share who are not.
const OTHERS: u64 = 0;
/// How long a refusal may take to be recorded.
const PATIENCE: Duration = Duration::from_secs(5);
const MINUTE: i64 = 60_000_000;

/// How much of its allowance each principal has used.
#[derive(Debug, Default)]
pub(super) struct Allowances {
    /// By a hash of the principal, whose claims may be long; who meets another's shares it.
    used: Mutex<HashMap<u64, Used>>,
    hasher: RandomState,
}

#[derive(Debug)]
struct Used {
    /// When the allowance will be whole again, in microseconds (the theoretical arrival time of GCRA).
    until: i64,
    /// Whether the log says already that it is used up.
    told: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Record,
    /// The first one beyond the allowance.
    Enough,
    Silent,
}

impl Allowances {
    fn take(&self, principal: &str, per_minute: u32, now: i64) -> Verdict {
        let step = MINUTE / i64::from(per_minute.max(1));
        let mut principal = self.hasher.hash_one(principal);
        let mut all = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= PRINCIPALS && !all.contains_key(&principal) {
            all.retain(|_, used| used.until > now);
            if all.len() >= PRINCIPALS {
                principal = OTHERS;
            }
        }
        let used = all.entry(principal).or_insert(Used { until: now, told: false });
        let until = used.until.max(now) + step;
        if until - now <= MINUTE {
            *used = Used { until, told: false };
            return Verdict::Record;
        }
        if std::mem::replace(&mut used.told, true) { Verdict::Silent } else { Verdict::Enough }
    }
}

/// The keys of an operation on a model whose refusals are recorded, taken before the operation runs.
#[derive(Debug, Clone)]
pub(super) struct Watched {
    model: ModelId,
    keys: Vec<String>,
    batch: bool,
}

impl Watched {
    pub(super) fn of(core: &Core, operation: &Operation) -> Option<Self> {
        let model = core.schema.model(operation.model);
        if !model.audit.is_some_and(|audit| audit.denials) {
            return None;
        }
        let text = |key: &[String]| {
            key_values(&core.schema, model, key).map_or_else(String::new, |key| audit::key(&core.schema, model, &key))
        };
        let of_verb = |verb: &Verb| match verb {
            Verb::Read { key, .. } | Verb::Patch { key, .. } | Verb::Delete { key, .. } | Verb::Restore { key, .. } => {
                text(key)
            }
            Verb::List { .. } | Verb::Create { .. } | Verb::Batch { .. } => String::new(),
        };
        let (keys, batch) = match &operation.verb {
            Verb::Batch { items, .. } => (items.iter().map(|item| of_verb(&item.verb)).collect(), true),
            verb => (vec![of_verb(verb)], false),
        };
        Some(Self { model: operation.model, keys, batch })
    }

    pub(super) fn model(&self) -> ModelId {
        self.model
    }

    /// The keys of what was refused.
    pub(super) fn refused(&self, outcome: Result<&Answer, &Failure>) -> Vec<String> {
        let denial = |failure: &Failure| matches!(failure.code, Code::Forbidden | Code::VersionMismatch);
        let key = |at: usize| self.keys.get(at).cloned().unwrap_or_default();
        match outcome {
            Err(failure) if denial(failure) => {
                vec![key(if self.batch { failure.item.unwrap_or(usize::MAX) } else { 0 })]
            }
            Ok(Answer::Batch(items)) => {
                let items = items.iter().enumerate();
                items.filter(|(_, item)| item.as_ref().is_err_and(denial)).map(|(at, _)| key(at)).collect()
            }
            _ => Vec::new(),
        }
    }
}

/// Records that changes of these rows were refused, all of a batch together. The refusal stands whether or not this
/// succeeds: nothing was changed that could be undone.
pub(super) async fn record(core: &Arc<Core>, caller: &Caller, id: ModelId, keys: &[String]) {
    if keys.is_empty() {
        return;
    }
    let model = core.schema.model(id);
    let context = Context::new(&core.schema, caller, &core.options.service);
    let limit = core.options.limits.denials_per_minute;
    let mut keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    keys.retain(|_| {
        let verdict = core.allowances.take(context.actor(), limit, core.options.clock.now());
        if verdict == Verdict::Enough {
            tracing::warn!(
                request_id = caller.request_id,
                model = model.name,
                limit,
                "a caller was refused so often that further refusals are not recorded for now"
            );
        }
        verdict == Verdict::Record
    });
    if keys.is_empty() {
        return;
    }
    if let Err(error) = write(core, &context, id, &keys).await {
        tracing::error!(
            request_id = caller.request_id,
            model = model.name,
            refusals = keys.len(),
            error = error.message,
            "refusals could not be recorded in the audit trail"
        );
    }
}

async fn write(core: &Arc<Core>, context: &Context, model: ModelId, keys: &[&str]) -> Result<(), StoreError> {
    let deadline = Instant::now() + PATIENCE;
    let statements = core.trail.denied(&core.schema, context, model, keys);
    match &core.store {
        Store::Postgres(pool) => {
            let mut session = pool.session(deadline.into()).await?;
            let many = statements.len() > 1;
            if many {
                session.control(Control::Begin).await?;
            }
            for statement in &statements {
                session.fetch(statement, &mut NoPages).await?;
            }
            if many {
                session.control(Control::Commit).await?;
            }
            Ok(())
        }
        Store::Sqlite(database) => {
            let work = move |session: &mut crate::store::sqlite::SqliteSession<'_>| {
                for statement in &statements {
                    now(session.fetch(statement, &mut NoPages))?;
                }
                Ok(())
            };
            database.write(deadline, work).await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allowance_is_used_up_and_comes_back() {
        let allowances = Allowances::default();
        let take = |who: &str, now: i64| allowances.take(who, 3, now);
        assert_eq!([0, 1, 2].map(|now| take("ann", now)), [Verdict::Record; 3]);
        assert_eq!([3, 4, 5].map(|now| take("ann", now)), [Verdict::Enough, Verdict::Silent, Verdict::Silent]);
        assert_eq!(take("bob", 5), Verdict::Record);
        assert_eq!(take("ann", MINUTE / 3 + 6), Verdict::Record);
        assert_eq!(take("ann", MINUTE / 3 + 7), Verdict::Enough);
        assert_eq!(take("ann", 3 * MINUTE), Verdict::Record);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let allowances = Allowances::default();
        for n in 0..PRINCIPALS {
            assert_eq!(allowances.take(&n.to_string(), 60, 0), Verdict::Record);
        }
        // All the others share one.
        for n in 0..60 {
            assert_eq!(allowances.take(&format!("more {n}"), 60, 0), Verdict::Record);
        }
        assert_eq!(allowances.take("one more", 60, 0), Verdict::Enough);
        assert_eq!(allowances.take("another", 60, 0), Verdict::Silent);
        assert_eq!(allowances.used.lock().unwrap().len(), PRINCIPALS + 1);
        assert_eq!(allowances.take("one more", 60, MINUTE), Verdict::Record);
    }
}
