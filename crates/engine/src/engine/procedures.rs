//! The life of a call: rules (401), arguments (422), rules (403), a transaction around the body, its answer.
//!
//! A `mutation procedure` runs in a transaction of its `@isolation`, `read_committed` unless it says otherwise; any other in
//! one that only reads, and sees one snapshot. Where other transactions got in the way the whole body runs again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cratestack_schema::ir::{Isolation, Procedure};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::futures::Detached;
use super::keyed::{self, Made, Once};
use super::tx::{Opener, Tx};
use super::{Engine, LONGEST, UNKNOWN, deadline};
use crate::api::{Caller, Code, Failure};
use crate::fault::StoreError;
use crate::idempotency::{Entry, Kept, Keyed, Outcome};
use crate::input;
use crate::isolated::{BoxError, TxError, TxOptions, run_in_isolated_tx_with};
use crate::json::Json;
use crate::output;

/// The bodies of a schema's procedures.
pub trait Bodies: Send + Sync + 'static {
    /// Runs the body of one procedure inside of its transaction, and gives what it returns, encoded like a member of an
    /// input. It may run several times for one call. `arguments` are checked already, one for each parameter, in the form that
    /// answers have; an optional one that was not sent is null.
    fn call<'t>(
        &'t self,
        tx: &'t Tx,
        procedure: &'t Procedure,
        caller: &'t Caller,
        arguments: Vec<Json>,
    ) -> BoxFuture<'t, Result<Json, Failure>>;
}

/// What has no bodies: every call is [`Code::NotImplemented`].
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProcedures;

impl Bodies for NoProcedures {
    fn call<'t>(
        &'t self,
        _: &'t Tx,
        procedure: &'t Procedure,
        _: &'t Caller,
        _: Vec<Json>,
    ) -> BoxFuture<'t, Result<Json, Failure>> {
        std::future::ready(Err(missing(procedure))).boxed()
    }
}

fn missing(procedure: &Procedure) -> Failure {
    let detail = format!("the body of `{}` is Rust code, and this server has none for it", procedure.name);
    Failure::new(Code::NotImplemented, detail)
}

impl Engine {
    /// Calls a procedure. Gives its answer as JSON. A mutation that has begun runs to its end, even if the returned future
    /// is dropped.
    ///
    /// # Errors
    /// As the module says, in that order; then what the body reports, for which everything was rolled back.
    pub async fn call(
        &self,
        caller: &Caller,
        procedure: &Procedure,
        body: Option<Json>,
        bodies: &Arc<dyn Bodies>,
    ) -> Result<String, Failure> {
        let call = self.prepare_call(caller, procedure, body.as_ref(), bodies)?;
        if procedure.mutation { Detached(Some(call.run().boxed())).await } else { call.run().await }
    }

    /// Calls a `mutation procedure` for a request with an idempotency key: its effects happen once, whatever happens. What it
    /// answers is recorded in its transaction, and what its body refuses, as far as that would not change, after it; both are
    /// given again to every further request of the same identity, as long as the rules let the caller call it.
    ///
    /// # Errors
    /// As [`Self::call`]; [`Code::IdempotencyKeyReused`] where the key was used for another request, and
    /// [`Code::IdempotencyInFlight`] where one with the key is still being done.
    pub async fn call_keyed(
        &self,
        caller: &Caller,
        procedure: &Procedure,
        body: Option<Json>,
        bodies: &Arc<dyn Bodies>,
        keyed: &Keyed,
    ) -> Result<Kept, Failure> {
        let prepared = self.prepare_call(caller, procedure, body.as_ref(), bodies);
        let now = self.core.now();
        let allowed = self.core.view(caller, &now).may_call(&procedure.rules);
        let call = match prepared {
            // What was recorded is not this caller's to see any more.
            Err(failure) if !allowed => return Err(failure),
            call => call,
        };
        // Others with the key come first, and that takes of its time.
        let until = deadline(caller);
        let (core, caller, keyed) = (Arc::clone(&self.core), caller.clone(), keyed.clone());
        let all = async move {
            let work = async { call?.run_keyed(keyed.clone(), until).await }.boxed();
            keyed::in_turn(&core, &caller, &keyed, work).await
        };
        Detached(Some(all.boxed())).await
    }

    /// Everything that must hold before a body runs.
    fn prepare_call(
        &self,
        caller: &Caller,
        procedure: &Procedure,
        body: Option<&Json>,
        bodies: &Arc<dyn Bodies>,
    ) -> Result<Call, Failure> {
        let core = &self.core;
        let now = core.now();
        let allowed = core.view(caller, &now).may_call(&procedure.rules);
        let refused = |code| Failure::new(code, format!("the rules do not let this caller call `{}`", procedure.name));
        if !allowed && caller.principal.is_none() {
            return Err(refused(Code::Unauthenticated));
        }
        let read = input::arguments(&core.schema, &core.validators, procedure, body);
        let read = read.map_err(Failure::validation)?;
        if !allowed {
            return Err(refused(Code::Forbidden));
        }
        let arguments = output::arguments(&core.schema, &procedure.params, &read).map_err(internal)?;
        let (caller, procedure, bodies) = (caller.clone(), procedure.clone(), Arc::clone(bodies));
        Ok(Call { engine: self.clone(), caller, procedure, arguments, bodies })
    }
}

fn internal(why: String) -> Failure {
    Failure::new(Code::Internal, "an internal error").with_internal(why)
}

/// The refusal of an operation in a body as the refusal of the call. What its body has done wrong is not the caller's to mend,
/// and the version of a row is not that of what was asked for.
fn of_call(failure: Failure) -> Failure {
    let bodys = |code: &str| matches!(code, "read_only" | "unknown_field" | "type");
    if failure.code == Code::VersionRequired || failure.errors.iter().any(|error| bodys(&error.code)) {
        return internal(format!("an operation in the body of the procedure was refused: {failure}"));
    }
    Failure { current_version: None, item: None, ..failure }
}

/// What is recorded with the entry.
struct Keeping<W> {
    entry: Entry,
    work: W,
}

impl Once for Keeping<Call> {
    fn once<'t>(&'t self, tx: &'t Tx) -> BoxFuture<'t, Result<Made, Failure>> {
        let made = async {
            let answer = self.work.once(tx).await?;
            Ok(Made { outcome: Outcome::Called(answer), entry: self.entry.clone(), refused: Vec::new() })
        };
        made.boxed()
    }
}

impl Once for Keeping<Failure> {
    fn once<'t>(&'t self, _: &'t Tx) -> BoxFuture<'t, Result<Made, Failure>> {
        let outcome = Outcome::Refused(self.work.clone());
        std::future::ready(Ok(Made { outcome, entry: self.entry.clone(), refused: Vec::new() })).boxed()
    }
}

/// Whether a refusal by the body of a procedure is its answer for ever: not where it may be another one in a moment, for
/// another caller's rights, or in another format, and not where nothing is known.
fn would_not_change(failure: &Failure) -> bool {
    match (failure.code, &failure.rejection) {
        (Code::Rejected, Some(rejection)) => {
            !matches!(rejection.status, 401 | 403 | 406 | 408 | 412 | 413 | 415 | 421 | 425 | 428 | 429)
        }
        (code, _) => matches!(
            code,
            Code::BadRequest
                | Code::NotFound
                | Code::UniqueViolation
                | Code::ForeignKeyViolation
                | Code::ValidationFailed
        ),
    }
}

struct Call {
    engine: Engine,
    caller: Caller,
    procedure: Procedure,
    arguments: Vec<Json>,
    bodies: Arc<dyn Bodies>,
}

impl Call {
    fn options(&self) -> TxOptions {
        let mutation = self.procedure.mutation;
        let level = self.procedure.isolation;
        let level = level.unwrap_or(if mutation { Isolation::ReadCommitted } else { Isolation::RepeatableRead });
        let deadline: Duration = self.caller.deadline.min(LONGEST);
        let tries = self.engine.limits().transaction_tries;
        TxOptions { read_only: !mutation, deadline, tries, ..TxOptions::new(level) }
    }

    async fn run(self) -> Result<String, Failure> {
        let opener = Opener::new(&self.engine, &self.caller);
        let options = self.options();
        let call = Arc::new(self);
        let body = async move |tx: &mut &Tx| call.once(tx).await;
        run_in_isolated_tx_with(&opener, &options, body).await.map_err(failure)
    }

    /// The whole call of a request with a key.
    async fn run_keyed(self, keyed: Keyed, until: Instant) -> Result<Kept, Failure> {
        let core = Arc::clone(&self.engine.core);
        let (caller, options) = (self.caller.clone(), self.options());
        let entry = keyed.entry(&caller, core.options.clock.now());
        let call = Arc::new(Keeping { entry: entry.clone(), work: self });
        match keyed::in_transaction(Arc::clone(&core), caller.clone(), keyed.clone(), options, until, call).await {
            Err(failure) if would_not_change(&failure) => {
                // All that the body did is undone: only the answer is recorded.
                let options = TxOptions { level: Isolation::ReadCommitted, ..options };
                let refusal = Arc::new(Keeping { entry, work: failure });
                keyed::in_transaction(core, caller, keyed, options, until, refusal).await
            }
            done => done,
        }
        .map(|done| done.kept)
    }

    /// One try.
    async fn once(&self, tx: &Tx) -> Result<String, Failure> {
        let returned = self.bodies.call(tx, &self.procedure, &self.caller, self.arguments.clone()).await;
        // Before the commit, so that what cannot be told is not done.
        output::answer(self.engine.schema(), &self.procedure.returns, &returned.map_err(of_call)?).map_err(internal)
    }
}

/// What the caller is told of an error of SQL that is the host's own: [`Code::Internal`], unless the database could not do its
/// work or other transactions were in the way.
pub fn sql_failure(error: &sqlx::Error) -> Failure {
    of_own_sql(&StoreError::postgres(error))
}

/// That the database cannot, or that others were in the way, is told as it is. What the data did not allow is no mistake of the
/// caller's, who has not written the SQL.
pub(super) fn of_own_sql(error: &StoreError) -> Failure {
    match error.class.code() {
        Code::Unavailable | Code::TransactionAborted => error.class.failure(&error.message),
        _ => internal(error.message.clone()),
    }
}

/// What the caller of a transaction is told.
pub fn failure<E: Into<Failure>>(error: TxError<E>) -> Failure {
    let own = |source: BoxError| match source.downcast::<Failure>() {
        Ok(failure) => *failure,
        Err(error) => Failure::new(Code::Unavailable, "the database failed").with_internal(error.to_string()),
    };
    match error {
        TxError::Body(error) => error.into(),
        TxError::Aborted { tries } => {
            let detail = "concurrent transactions got in each other's way; nothing was committed";
            Failure::new(Code::TransactionAborted, detail).with_internal(format!("after {tries} tries"))
        }
        TxError::Deadline => {
            Failure::new(Code::Unavailable, "the transaction was not done before its deadline; nothing was committed")
        }
        TxError::Database(source) => own(source),
        TxError::OutcomeUnknown(source) => {
            let failed = || Failure::new(Code::Unavailable, "the database failed during the commit");
            let mut failure = source.map_or_else(failed, own);
            failure.detail.push_str(UNKNOWN);
            failure
        }
    }
}
