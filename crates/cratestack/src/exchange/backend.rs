//! What answers the operations of requests.

use std::sync::Arc;

use cratestack_engine::Engine;
use cratestack_engine::api::{Answer, Caller, Failure, Operation, Principal};
use cratestack_engine::engine::procedures::Bodies;
use cratestack_engine::idempotency::{Kept, Keyed};
use cratestack_engine::json::Json;
use cratestack_engine::relay::{self, Log, MulticastAuditSink, Relay, RelayOptions};
use cratestack_schema::ir::{Action, ModelId, Procedure, Schema};
use futures_util::future::BoxFuture;

/// What answers operations: the engine, or a stand-in of a test.
pub(crate) trait Backend: Send + Sync + 'static {
    fn schema(&self) -> &Arc<Schema>;
    fn run<'a>(&'a self, caller: &'a Caller, operation: Operation) -> BoxFuture<'a, Result<Answer, Failure>>;
    fn call<'a>(
        &'a self,
        caller: &'a Caller,
        procedure: &'a Procedure,
        body: Option<Json>,
    ) -> BoxFuture<'a, Result<String, Failure>>;
    fn run_keyed<'a>(
        &'a self,
        caller: &'a Caller,
        operation: Operation,
        keyed: &'a Keyed,
    ) -> BoxFuture<'a, Result<Kept, Failure>>;
    fn call_keyed<'a>(
        &'a self,
        caller: &'a Caller,
        procedure: &'a Procedure,
        body: Option<Json>,
        keyed: &'a Keyed,
    ) -> BoxFuture<'a, Result<Kept, Failure>>;
    /// Refuses a key that belongs to another request.
    fn check_key<'a>(&'a self, keyed: &'a Keyed) -> BoxFuture<'a, Result<(), Failure>>;
    /// Removes some of the expired keys; says how many.
    fn sweep_keys(&self) -> BoxFuture<'_, Result<usize, Failure>>;
    /// Unix microseconds.
    fn now(&self) -> i64;
    fn trail<'a>(
        &'a self,
        caller: &'a Caller,
        params: &'a [(String, String)],
    ) -> BoxFuture<'a, Result<Answer, Failure>>;
    fn principal(&self, claims: &Json) -> Result<Principal, String>;
    fn admit(&self, caller: &Caller, model: ModelId, actions: &[Action]) -> Result<(), Failure>;
    fn ready(&self) -> BoxFuture<'_, Result<(), Failure>>;
    fn relay(
        &self,
        log: &'static Log,
        sinks: MulticastAuditSink,
        options: &RelayOptions,
    ) -> Result<Relay, relay::Error>;
}

/// An engine, and the bodies of its schema's procedures.
pub(crate) struct Hosted {
    pub(crate) engine: Engine,
    pub(crate) bodies: Arc<dyn Bodies>,
}

impl Backend for Hosted {
    fn schema(&self) -> &Arc<Schema> {
        self.engine.schema()
    }

    fn run<'a>(&'a self, caller: &'a Caller, operation: Operation) -> BoxFuture<'a, Result<Answer, Failure>> {
        Box::pin(self.engine.run(caller, operation))
    }

    fn call<'a>(
        &'a self,
        caller: &'a Caller,
        procedure: &'a Procedure,
        body: Option<Json>,
    ) -> BoxFuture<'a, Result<String, Failure>> {
        Box::pin(self.engine.call(caller, procedure, body, &self.bodies))
    }

    fn run_keyed<'a>(
        &'a self,
        caller: &'a Caller,
        operation: Operation,
        keyed: &'a Keyed,
    ) -> BoxFuture<'a, Result<Kept, Failure>> {
        Box::pin(self.engine.run_keyed(caller, operation, keyed))
    }

    fn call_keyed<'a>(
        &'a self,
        caller: &'a Caller,
        procedure: &'a Procedure,
        body: Option<Json>,
        keyed: &'a Keyed,
    ) -> BoxFuture<'a, Result<Kept, Failure>> {
        Box::pin(self.engine.call_keyed(caller, procedure, body, &self.bodies, keyed))
    }

    fn check_key<'a>(&'a self, keyed: &'a Keyed) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(self.engine.check_key(keyed))
    }

    fn sweep_keys(&self) -> BoxFuture<'_, Result<usize, Failure>> {
        Box::pin(self.engine.sweep_keys())
    }

    fn now(&self) -> i64 {
        self.engine.clock().now()
    }

    fn trail<'a>(
        &'a self,
        caller: &'a Caller,
        params: &'a [(String, String)],
    ) -> BoxFuture<'a, Result<Answer, Failure>> {
        Box::pin(self.engine.trail(caller, params))
    }

    fn principal(&self, claims: &Json) -> Result<Principal, String> {
        self.engine.principal(claims)
    }

    fn admit(&self, caller: &Caller, model: ModelId, actions: &[Action]) -> Result<(), Failure> {
        self.engine.admit(caller, model, actions)
    }

    fn ready(&self) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(self.engine.ready())
    }

    fn relay(
        &self,
        log: &'static Log,
        sinks: MulticastAuditSink,
        options: &RelayOptions,
    ) -> Result<Relay, relay::Error> {
        Relay::start(&self.engine, log, sinks, options)
    }
}
