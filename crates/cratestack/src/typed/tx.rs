//! Transactions, and the bodies of procedures.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;

use cratestack_engine::Engine;
use cratestack_engine::api::{AuthMethod, Caller, Code, Failure};
use cratestack_engine::engine::procedures::{Bodies, NoProcedures};
use cratestack_engine::engine::tx::{Opener, Sqlx, Tx as EngineTx};
use cratestack_engine::isolated::{BoxError, Host, IsolationLevel, TxOptions};
use cratestack_engine::json::Json;
use cratestack_engine::output;
use cratestack_engine::sql::Dialect;
use cratestack_schema::ir::{FieldType, Procedure, Scalar};
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::error::Error;
use super::record::{Reader, Writer, digits};
use super::session::Session;
use super::table::Input;
use super::value::{Value, ValueError};

/// The generated session of a schema.
pub trait Face<'t>: Sized {
    /// The caller, as the `auth` block declares it.
    type Principal: Input;

    /// Its methods are the session's.
    fn of(session: Session<'t>) -> Self;

    /// The session.
    fn session(&self) -> &Session<'t>;
}

/// The caller of a schema without an `auth` block: there is none.
#[derive(Debug)]
pub enum Nobody {}

impl Input for Nobody {
    fn write(&self, _: &mut Writer) {
        match *self {}
    }
}

/// A running transaction: a [`Db`](crate::typed) that lasts until the body that it was lent to ends. What is done
/// through it itself is done by the caller who began it.
///
/// What a rule or a version refuses leaves it as it was. What the *database* refuses (a unique value that is taken, a
/// check) ends it: further operations get the same error, and nothing is committed.
pub struct Tx<'t, S> {
    caller: S,
    link: &'t EngineTx,
}

impl<S> fmt::Debug for Tx<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.link.fmt(f)
    }
}

/// The accessors of the models.
impl<S> Deref for Tx<'_, S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.caller
    }
}

impl<'t, S: Face<'t>> Tx<'t, S> {
    /// In a transaction that `session` begins.
    pub(crate) fn new(link: &'t EngineTx, session: Session<'t>) -> Self {
        Self { caller: S::of(session), link }
    }

    /// What a caller does in it whom the host has authenticated by `method`.
    ///
    /// # Errors
    /// When a claim is no value of its type.
    pub fn as_principal(&self, principal: &S::Principal, method: AuthMethod) -> Result<S, Error> {
        self.caller.session().clone().principal(principal, method).map(S::of)
    }

    /// What a job of the service itself does in it: no rule is asked, and the trail has the name of the job.
    pub fn as_system(&self, job: &str) -> S {
        S::of(self.caller.session().clone().system(job))
    }

    /// What the same caller does in it by way of the service's code: no rule is asked, fields can be
    /// [`put`](super::Update::put) that no request may send, and the trail has the caller's name.
    pub fn without_rules(&self) -> S {
        S::of(self.caller.session().clone().unbound())
    }

    /// The database product, for SQL of one's own.
    pub fn dialect(&self) -> Dialect {
        self.link.dialect()
    }

    /// The connection of a PostgreSQL database, so that SQL of one's own takes part in the transaction, where sqlx's own `begin`
    /// makes a savepoint. What it changes is recorded as the caller's. `COMMIT` and `ROLLBACK` are not the body's to send: what
    /// was committed then nobody knows. Other operations of the transaction are refused until it is dropped.
    ///
    /// ```
    /// # mod bank { cratestack::include_schema!("../../examples/bank/bank.cstack"); }
    /// # use cratestack::{Error, sqlx};
    /// async fn total(tx: &mut bank::Tx<'_>) -> Result<i64, Error> {
    ///     Ok(sqlx::query_scalar("SELECT count(*) FROM accounts").fetch_one(&mut *tx.sqlx().await?).await?)
    /// }
    /// ```
    ///
    /// # Errors
    /// [`Code::NotImplemented`] on SQLite.
    pub async fn sqlx(&mut self) -> Result<Sqlx<'_>, Error> {
        Ok(self.link.sqlx().await?)
    }

    /// Runs SQL of one's own on the connection of an SQLite database, on that connection's thread, inside of the
    /// transaction. What it changes is recorded as the caller's. It neither begins nor ends a transaction.
    ///
    /// # Errors
    /// [`Code::NotImplemented`] on PostgreSQL; what the database refuses.
    pub async fn sqlite<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&rusqlite::Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        Ok(self.link.sqlite(work).await?)
    }

    /// Adds an event of the service's own to the outbox of `@@emit`, which the sinks of events get once the transaction is
    /// committed: its CloudEvents type is `<schema>.<name>`. Events of one name and subject come in the order of their commits.
    ///
    /// ```
    /// # mod desk { cratestack::include_schema!("tests/procedures/desk.cstack"); }
    /// # use cratestack::{Error, serde_json::json};
    /// async fn tell(tx: &mut desk::Tx<'_>, ticket: &desk::Ticket) -> Result<(), Error> {
    ///     tx.emit("ticket_escalated", ticket.id, json!({"text": ticket.text})).await
    /// }
    /// ```
    ///
    /// # Errors
    /// [`Code::NotImplemented`] where the schema has no `@@emit`; [`Code::Internal`] for a name that is not snake case, and for
    /// what is too large (65,535 octets with its frame).
    pub async fn emit(&mut self, name: &str, subject: impl fmt::Display, data: serde_json::Value) -> Result<(), Error> {
        let caller = self.caller.session().caller(Some("transaction".into()));
        let data = data.encode().map_err(|error| broken("the event", &error.to_string()))?;
        Ok(self.link.emit(&caller, name, &subject.to_string(), &data).await?)
    }

    /// Does something once the transaction has been committed, and not otherwise. It must not block.
    pub fn after_commit(&mut self, work: impl FnOnce() + Send + 'static) {
        self.link.after_commit(work);
    }
}

/// How a session begins transactions: at `read_committed`, with the time that its request has.
pub fn options(session: &Session<'_>) -> TxOptions {
    let deadline = session.deadline();
    let tries = session.limits().transaction_tries;
    TxOptions { deadline, tries, ..TxOptions::new(IsolationLevel::ReadCommitted) }
}

/// [`Host::begin`] of what a generated `Db` or `Session` is.
///
/// # Errors
/// When the session is in a transaction already; and those of the database.
pub async fn begin(session: &Session<'_>, options: &TxOptions, deadline: Instant) -> Result<EngineTx, BoxError> {
    if session.is_in_tx() {
        return Err(Failure::new(Code::Internal, "a session that is in a transaction begins no other").into());
    }
    Opener::new(session.engine(), &session.caller(Some("transaction".into()))).begin(options, deadline).await
}

/// [`Host::lend`] of the same.
pub fn lend<'t, S: Face<'t>>(session: &Session<'_>, begun: &'t EngineTx) -> Tx<'t, S> {
    Tx::new(begun, session.moved(begun))
}

/// A database whose procedures `P` has the bodies of. Generated.
#[diagnostic::on_unimplemented(
    message = "`{P}` is not the bodies of the procedures of `{Self}`",
    note = "implement the trait `Procedures` of the schema's module for `{P}`; an `Engine` is served with `NoProcedures`"
)]
pub trait Implements<P>: Sized {
    /// The engine.
    fn into_engine(self) -> Engine;

    /// Runs the body of one procedure.
    fn call<'t>(bodies: &'t P, call: Call<'t>) -> BoxFuture<'t, Result<Json, Error>>;
}

impl Implements<NoProcedures> for Engine {
    fn into_engine(self) -> Engine {
        self
    }

    fn call<'t>(_: &'t NoProcedures, call: Call<'t>) -> BoxFuture<'t, Result<Json, Error>> {
        call.missing()
    }
}

/// One call of a procedure, on its way to its body.
#[derive(Debug)]
pub struct Call<'t> {
    tx: &'t EngineTx,
    procedure: &'t Procedure,
    caller: &'t Caller,
    arguments: std::vec::IntoIter<Json>,
}

impl<'t> Call<'t> {
    /// The name of the procedure.
    pub fn name(&self) -> &'t str {
        &self.procedure.name
    }

    /// Its transaction.
    pub fn tx<S: Face<'t>>(&self) -> Tx<'t, S> {
        Tx::new(self.tx, Session::of_call(self.tx, self.caller))
    }

    /// The caller. The rules have let in nobody without claims.
    ///
    /// # Errors
    /// When the claims do not fit into their Rust types.
    pub fn caller<C: Claims>(&self) -> Result<C, Error> {
        let caller = self.maybe_caller()?;
        caller.ok_or_else(|| Failure::new(Code::Unauthenticated, "this procedure needs a caller").into())
    }

    /// The caller, if it has credentials.
    ///
    /// # Errors
    /// When the claims do not fit into their Rust types.
    pub fn maybe_caller<C: Claims>(&self) -> Result<Option<C>, Error> {
        let Some(principal) = &self.caller.principal else { return Ok(None) };
        let engine = self.tx.engine();
        let claims = output::claims(engine.schema(), principal).map_err(|why| broken("the caller", &why))?;
        let read = Reader::new(claims).and_then(|mut row| C::read(&mut row));
        read.map(Some).map_err(|error| broken("the caller", &error.to_string()))
    }

    /// The next argument.
    ///
    /// # Errors
    /// When it does not fit into its Rust type.
    pub fn argument<T: Value>(&mut self) -> Result<T, Error> {
        let json = self.arguments.next().unwrap_or(Json::Null);
        // It is a value of its type in the language: what remains is what Rust's types hold less of.
        T::decode(json).map_err(|error| Failure::new(Code::ValidationFailed, format!("an argument {error}")).into())
    }

    /// What the body returned.
    ///
    /// # Errors
    /// When it is no value that can be sent.
    pub fn answer<T: Value>(&self, value: &T) -> Result<Json, Error> {
        let mut json = value.encode().map_err(|error| broken("the answer", &error.to_string()))?;
        if self.procedure.returns.ty == FieldType::Scalar(Scalar::BigInt) {
            digits(&mut json);
        }
        Ok(json)
    }

    /// The refusal of a procedure that has no body here.
    pub fn missing(self) -> BoxFuture<'t, Result<Json, Error>> {
        Box::pin(async move {
            let call = NoProcedures.call(self.tx, self.procedure, self.caller, Vec::new());
            Ok(call.await?)
        })
    }
}

fn broken(what: &str, why: &str) -> Error {
    Failure::new(Code::Internal, "an internal error").with_internal(format!("{what} of a procedure: {why}")).into()
}

/// The caller of a schema, read from its claims. Generated.
pub trait Claims: Sized {
    /// Reads it.
    fn read(row: &mut Reader) -> Result<Self, ValueError>;
}

/// The engine and its bodies, without their types.
pub(crate) fn hosted<D, P>(database: D, procedures: P) -> (Engine, Arc<dyn Bodies>)
where
    D: Implements<P> + 'static,
    P: Send + Sync + 'static,
{
    let bodies = Hosted::<D, P> { procedures, of: PhantomData };
    (database.into_engine(), Arc::new(bodies))
}

struct Hosted<D, P> {
    procedures: P,
    of: PhantomData<fn() -> D>,
}

impl<D, P> Bodies for Hosted<D, P>
where
    D: Implements<P> + 'static,
    P: Send + Sync + 'static,
{
    fn call<'t>(
        &'t self,
        tx: &'t EngineTx,
        procedure: &'t Procedure,
        caller: &'t Caller,
        arguments: Vec<Json>,
    ) -> BoxFuture<'t, Result<Json, Failure>> {
        let call = Call { tx, procedure, caller, arguments: arguments.into_iter() };
        let body = D::call(&self.procedures, call);
        Box::pin(async move { Ok(body.await?) })
    }
}
