//! A database, and who works with it.

use std::fmt;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use cratestack_engine::api::{Answer, AuthMethod, Authority, Caller, Code, Failure, Operation, Origin, Row, Verb};
use cratestack_engine::engine::tx::Tx as EngineTx;
use cratestack_engine::json::{Json, parse};
use cratestack_engine::{Database, Engine, Limits, OpenError, Options};
use cratestack_schema::decimal::Backend;
use cratestack_schema::ir::{ModelId, Schema};

use super::error::Error;
use super::record::{Reader, unreadable};
use super::table::{Input, Model};
use super::value::ValueError;
use super::write::{Written, object, unforeseen};

/// The nesting of an answer: three includes around a `Json` of the depth that an input may have.
const DEPTH: usize = 2 * cratestack_engine::json::MAX_DEPTH;

/// The schema of a generated module: the text that it was made from, and what it meant then.
#[derive(Debug, Clone, Copy)]
pub struct Source {
    /// The stem of the file.
    pub name: &'static str,
    /// Its text.
    pub text: &'static str,
    /// [`Schema::fingerprint`] at the time of the expansion.
    pub fingerprint: &'static str,
    /// What its decimals are in Rust.
    pub decimal: Backend,
}

impl Source {
    /// Compiles the text once more. The macro has compiled it before, so that it has no errors.
    pub fn schema(&self) -> Result<Schema, OpenError> {
        let (schema, _) = cratestack_schema::compile(self.name, self.text);
        let schema = schema.filter(|schema| schema.fingerprint() == self.fingerprint);
        schema.ok_or_else(|| {
            let why = "was expanded by another version of `cratestack-macros` than the one in use";
            OpenError::Database(format!("the schema `{}` {why}", self.name))
        })
    }

    /// Makes everything that the schema needs in the empty database of that URL.
    pub async fn apply(&self, url: &str) -> Result<(), OpenError> {
        let database = crate::database::parse(url).map_err(|error| OpenError::Database(error.to_string()))?;
        Engine::apply(Arc::new(self.schema()?), &database).await
    }

    /// Opens the database of that URL.
    pub async fn connect(&self, url: &str, options: Options) -> Result<Engine, OpenError> {
        let database: Database = crate::database::parse(url).map_err(|error| OpenError::Database(error.to_string()))?;
        // What the code could not read must not come in.
        let options = Options { decimals: options.decimals.or(Some(self.decimal)), ..options };
        Engine::open(Arc::new(self.schema()?), &database, options).await
    }

    /// Whether an engine serves this schema.
    pub fn check(&self, engine: &Engine) -> Result<(), OpenError> {
        if engine.schema().fingerprint() == self.fingerprint {
            return Ok(());
        }
        let found = &engine.schema().name;
        Err(OpenError::Database(format!("the engine serves another schema than `{}`: `{found}`", self.name)))
    }
}

/// What the audit trail and the log know of a request, besides who asks. A host that answers requests of its own passes
/// theirs on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestContext {
    /// Identifies the request; a fresh UUID for each operation where there is none.
    pub request_id: Option<String>,
    /// How long an operation may take, and all of what [`transaction`](crate::typed) runs. Default 30 s. What runs inside of a
    /// transaction has the transaction's time, and one that was begun with [`TxOptions`](crate::TxOptions) has theirs.
    pub deadline: Duration,
    /// The address of the peer.
    pub client_ip: Option<IpAddr>,
    /// The trace id of a W3C `traceparent`: 32 hexadecimal digits.
    pub trace_id: Option<String>,
}

impl Default for RequestContext {
    fn default() -> Self {
        Self { request_id: None, deadline: Duration::from_secs(30), client_ip: None, trace_id: None }
    }
}

/// A future without its type.
pub(crate) type Boxed<'s, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 's>>;

/// What is done to which model.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    id: ModelId,
    accessor: &'static str,
    action: &'static str,
}

impl Target {
    pub(crate) fn of<M: Model>(action: &'static str) -> Self {
        Self { id: ModelId(M::ID), accessor: M::ACCESSOR, action }
    }
}

/// An engine and a caller, outside of a transaction or in one.
#[derive(Debug, Clone)]
pub struct Session<'t> {
    engine: Engine,
    caller: Caller,
    /// What the caller does under a name of its own: the procedure that it has called.
    procedure: bool,
    request: RequestContext,
    tx: Option<&'t EngineTx>,
}

impl Session<'static> {
    /// The caller without credentials. Every rule of the schema holds for what is done through it.
    pub fn anonymous(engine: &Engine) -> Self {
        let caller = Caller {
            principal: None,
            authority: Authority::Rules,
            request_id: String::new(),
            deadline: Duration::ZERO,
            origin: Origin::default(),
        };
        Self { engine: engine.clone(), caller, procedure: false, request: RequestContext::default(), tx: None }
    }
}

impl<'t> Session<'t> {
    /// The caller without credentials, in a transaction.
    pub(crate) fn within_tx(tx: &'t EngineTx) -> Self {
        Session { tx: Some(tx), ..Session::anonymous(&tx.engine()) }
    }

    /// The caller of a procedure, in its transaction.
    pub(crate) fn of_call(tx: &'t EngineTx, caller: &Caller) -> Self {
        let request = RequestContext { request_id: Some(caller.request_id.clone()), ..RequestContext::default() };
        Session { caller: caller.clone(), procedure: true, request, ..Self::within_tx(tx) }
    }

    /// A caller whom the host has authenticated. Every rule of the schema holds.
    pub fn principal(self, principal: &impl Input, method: AuthMethod) -> Result<Self, Error> {
        let claims = object(principal)?;
        let principal = self.engine.principal(&claims).map_err(|sentence| {
            Failure::new(Code::Unauthenticated, "the claims are none of the schema's caller").with_internal(sentence)
        })?;
        let mut session = self;
        session.caller.principal = Some(principal);
        session.caller.origin.auth = Some(method);
        session.caller.origin.job = None;
        session.caller.authority = Authority::Rules;
        Ok(session)
    }

    /// A job of the service itself, which no rule binds; the trail has its name.
    #[must_use]
    pub fn system(mut self, job: &str) -> Self {
        self.caller.principal = None;
        self.caller.authority = Authority::Service;
        self.caller.origin.auth = Some(AuthMethod::System);
        self.caller.origin.job = Some(job.into());
        self
    }

    /// The same caller, whom no rule binds.
    #[must_use]
    pub(crate) fn unbound(mut self) -> Self {
        self.caller.authority = Authority::Service;
        self
    }

    /// The same caller, in a transaction that it has begun.
    pub(crate) fn moved<'b>(&self, begun: &'b EngineTx) -> Session<'b> {
        let Session { engine, caller, procedure, request, .. } = self.clone();
        Session { engine, caller, procedure, request, tx: Some(begun) }
    }

    /// The same caller, within a request of the host.
    #[must_use]
    pub fn within(self, request: RequestContext) -> Self {
        Self { request, ..self }
    }

    pub(crate) fn is_in_tx(&self) -> bool {
        self.tx.is_some()
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    pub(crate) fn deadline(&self) -> Duration {
        self.request.deadline
    }

    pub(crate) fn limits(&self) -> &Limits {
        self.engine.limits()
    }

    /// The caller, as the engine sees it.
    pub(crate) fn caller(&self, op: Option<Arc<str>>) -> Caller {
        let RequestContext { request_id, deadline, client_ip, trace_id } = self.request.clone();
        let mut caller = self.caller.clone();
        caller.deadline = deadline;
        caller.request_id = request_id.unwrap_or_else(|| self.engine.ids().uuid());
        if !self.procedure {
            let Origin { auth, job, idempotency_key, .. } = caller.origin;
            caller.origin = Origin { op: op.unwrap_or_default(), auth, job, client_ip, trace_id, idempotency_key };
        }
        caller
    }

    /// Runs a verb on a model. Not generic, and boxed: it is compiled once, and not for each model of each program.
    pub(crate) fn run(&self, target: Target, verb: Verb) -> Boxed<'_, Answer> {
        let Target { id, accessor, action } = target;
        let caller = self.caller(Some(format!("{accessor}.{action}").into()));
        let operation = Operation { model: id, verb };
        Box::pin(async move {
            Ok(match self.tx {
                Some(tx) => tx.run(&caller, operation).await?,
                None => self.engine.run(&caller, operation).await?,
            })
        })
    }

    /// Runs what answers with one row.
    pub(crate) fn row(&self, target: Target, verb: Result<Verb, Error>) -> Boxed<'_, Row> {
        Box::pin(async move {
            match self.run(target, verb?).await? {
                Answer::Row(row) => Ok(row),
                other => Err(unforeseen(&other)),
            }
        })
    }
}

/// An operation under way. What is under way is the same code for each model, and what is read of it in the end is not: so
/// programs with many models compile in little time.
#[must_use = "nothing is done before it is awaited"]
pub struct Reading<'s, I, T> {
    answer: Boxed<'s, I>,
    read: fn(I) -> Result<T, Error>,
}

impl<'s, I, T> Reading<'s, I, T> {
    pub(crate) fn new(answer: Boxed<'s, I>, read: fn(I) -> Result<T, Error>) -> Self {
        Self { answer, read }
    }
}

impl<I, T> Future for Reading<'_, I, T> {
    type Output = Result<T, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.answer.as_mut().poll(context).map(|answer| (self.read)(answer?))
    }
}

impl<I, T> fmt::Debug for Reading<'_, I, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reading").finish_non_exhaustive()
    }
}

/// The row of an answer.
pub(crate) fn found<M: Model>(row: Row) -> Result<Written<M>, Error> {
    typed(row).map_err(|error| unreadable(M::NAME, &error))
}

/// The row of a write. Whoever does one again whose row alone cannot be read does it twice, so that the error says it.
pub(crate) fn written<M: Model>(row: Row) -> Result<Written<M>, Error> {
    typed(row).map_err(|error| unreadable(M::NAME, &ValueError::new(format!("it was written, and {error}"))))
}

fn typed<M: Model>(row: Row) -> Result<Written<M>, ValueError> {
    let read = |body: &str| M::read(&mut Reader::new(json(body)?)?);
    Ok(Written { row: row.body.as_deref().map(read).transpose()?, key: row.key, version: row.version })
}

/// Reads an answer's text.
pub(crate) fn json(text: &str) -> Result<Json, ValueError> {
    parse(text.as_bytes(), DEPTH).map_err(|error| ValueError::new(error.to_string()))
}
