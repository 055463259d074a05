//! The API of an engine as an [`axum::Router`].

use std::sync::{Arc, Weak};
use std::time::Duration;

use axum::Router;
use axum::routing::{MethodRouter, any_service};
use cratestack_engine::relay::{AUDIT, OUTBOX};
use futures_util::FutureExt as _;
use tower::service_fn;

use crate::auth::{AuthProvider, NoAuth};
use crate::config::HttpConfig;
use crate::deliveries::Deliveries;
use crate::deprecation;
use crate::exchange::{Api, Backend, Endpoint, Hosted, Place, handle};
use crate::ratelimit::{RateLimitError, RateLimits};
use crate::routes::{RouteInfo, RouteTarget, RouteVerb, routes};
use crate::sinks::{MulticastAuditSink, RelayOptions, SetupError};
use crate::typed::{Implements, hosted};

/// Begins the router of an API: of a typed database with the bodies of its procedures, or of an [`Engine`](crate::Engine) with
/// [`NoProcedures`](crate::NoProcedures), whose procedures answer 501. Without further settings every caller is anonymous.
pub fn router<D, P>(database: D, procedures: P) -> RouterBuilder
where
    D: Implements<P> + 'static,
    P: Send + Sync + 'static,
{
    let (engine, bodies) = hosted(database, procedures);
    RouterBuilder {
        backend: Arc::new(Hosted { engine, bodies }),
        auth: Arc::new(NoAuth),
        config: HttpConfig::default(),
        deliveries: Deliveries::default(),
        limits: None,
    }
}

/// An API on its way to becoming a router; made by [`router()`].
#[must_use = "a builder does nothing until `into_router` is called"]
pub struct RouterBuilder {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) auth: Arc<dyn AuthProvider>,
    pub(crate) config: HttpConfig,
    pub(crate) deliveries: Deliveries,
    pub(crate) limits: Option<RateLimits>,
}

impl RouterBuilder {
    /// Sets who verifies callers. Default: [`NoAuth`].
    pub fn auth(mut self, provider: impl AuthProvider) -> Self {
        self.auth = Arc::new(provider);
        self
    }

    /// Sets limits and names.
    pub fn config(mut self, config: HttpConfig) -> Self {
        self.config = config;
        self
    }

    /// Sets how often requests may come: see [`ratelimit`](crate::ratelimit). A schema with `@rate_limit` needs this: calls of
    /// procedures that name a limit are a 500 without.
    ///
    /// # Errors
    /// When the schema names a policy that is not there, a policy counts only procedures that name it and none does, or a
    /// cost is of a route that does not exist.
    pub fn rate_limits(mut self, limits: RateLimits) -> Result<Self, RateLimitError> {
        self.limits = Some(limits.fit(self.backend.schema())?);
        Ok(self)
    }

    /// Delivers the audit trail to a sink too, or to several, from now on, on the tokio runtime that this is called in.
    /// Each sink keeps its own place in the trail, and its name is what the database knows it by.
    ///
    /// The deliveries end when the router and its clones are gone. To end them in good order, take
    /// [`Self::deliveries`] before the router is made, and stop them after the last request.
    ///
    /// # Errors
    /// When the schema has no `@@audit`, a name is not valid or there already, or there is no tokio runtime.
    pub fn with_audit_sink(self, sink: impl Into<MulticastAuditSink>) -> Result<Self, SetupError> {
        self.with_audit_sink_options(sink, &RelayOptions::default())
    }

    /// [`Self::with_audit_sink`], with the sizes of batches, pauses and deadlines.
    ///
    /// # Errors
    /// As there.
    pub fn with_audit_sink_options(
        self,
        sink: impl Into<MulticastAuditSink>,
        options: &RelayOptions,
    ) -> Result<Self, SetupError> {
        self.deliveries.start(self.backend.as_ref(), &AUDIT, sink.into(), options)?;
        Ok(self)
    }

    /// Delivers the events of `@@emit` to a sink too, or to several, as [`Self::with_audit_sink`] does it with the audit
    /// trail: each entry is an event of CloudEvents 1.0.
    ///
    /// # Errors
    /// When the schema has no `@@emit`, a name is not valid or there already, or there is no tokio runtime.
    pub fn with_event_sink(self, sink: impl Into<MulticastAuditSink>) -> Result<Self, SetupError> {
        self.with_event_sink_options(sink, &RelayOptions::default())
    }

    /// [`Self::with_event_sink`], with the sizes of batches, pauses and deadlines.
    ///
    /// # Errors
    /// As there.
    pub fn with_event_sink_options(
        self,
        sink: impl Into<MulticastAuditSink>,
        options: &RelayOptions,
    ) -> Result<Self, SetupError> {
        self.deliveries.start(self.backend.as_ref(), &OUTBOX, sink.into(), options)?;
        Ok(self)
    }

    /// The deliveries to the sinks, to stop them in good order.
    pub fn deliveries(&self) -> Deliveries {
        self.deliveries.clone()
    }

    /// The router of the API alone. It answers every path below its mount point, unknown ones with a problem.
    pub fn into_router(self) -> Router {
        finished(Arc::new(self.into_api("")).router())
    }

    /// The whole service, as `cratestack serve` runs it: the API at `/api`, and `/livez` and `/readyz` at the root, and
    /// `/metrics` where there are rate limits. These answer without authentication, and so does nothing else at the root.
    pub fn into_service(self) -> Router {
        let api = Arc::new(self.into_api("/api"));
        let root = [("/livez", Place::Live), ("/readyz", Place::Ready), ("/metrics", Place::Metrics)];
        let root = root.into_iter().filter(|(_, place)| !matches!(place, Place::Metrics) || api.limits.is_some());
        finished(root.fold(api.router(), |router, (path, place)| router.route(path, api.at(place))))
    }

    fn into_api(self, prefix: &'static str) -> Api {
        let deprecations = deprecation::any(self.backend.schema());
        let Self { backend, auth, config, deliveries, limits } = self;
        sweep(Arc::downgrade(&backend), "idempotency keys", |backend| async move {
            let swept = backend.sweep_keys().await;
            swept.map(|keys| u64::try_from(keys).unwrap_or(u64::MAX)).map_err(|failure| failure.internal)
        });
        Api { backend, auth, config, prefix, deprecations, deliveries, limits }
    }
}

/// How long what has expired may lie about.
const SWEEP: Duration = Duration::from_mins(1);

/// Removes what has expired from time to time, until the router is gone. Without a runtime to do it on that is the host's
/// to do.
pub(crate) fn sweep<T, F>(of: Weak<T>, what: &'static str, batch: impl Fn(Arc<T>) -> F + Send + 'static)
where
    T: ?Sized + Send + Sync + 'static,
    F: Future<Output = Result<u64, Option<String>>> + Send,
{
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    runtime.spawn(async move {
        loop {
            tokio::time::sleep(SWEEP).await;
            loop {
                let Some(of) = of.upgrade() else { return };
                match batch(of).await {
                    Ok(0) => break,
                    Ok(removed) => tracing::debug!(removed, "expired {what} were removed"),
                    Err(internal) => {
                        tracing::warn!(internal, "expired {what} could not be removed");
                        break;
                    }
                }
            }
        }
    });
}

/// Makes the handlers into services once: a router that waits for its state makes them anew for each request.
fn finished(router: Router) -> Router {
    router.with_state(())
}

impl Api {
    fn router(self: &Arc<Self>) -> Router {
        let endpoints = endpoints(self.backend.schema()).into_iter();
        let router = endpoints.fold(Router::new(), |router, endpoint| {
            let path = format!("{}{}", self.prefix, endpoint.path);
            router.route(&path, self.at(Place::Endpoint(Arc::new(endpoint))))
        });
        router.fallback_service(self.at(Place::Nowhere))
    }

    fn at(self: &Arc<Self>, place: Place) -> MethodRouter {
        let api = Arc::clone(self);
        // Not a handler of axum's: that would box each exchange once more.
        any_service(service_fn(move |request| handle(Arc::clone(&api), place.clone(), request).map(Ok)))
    }
}

impl std::fmt::Debug for RouterBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RouterBuilder").field("config", &self.config).finish_non_exhaustive()
    }
}

/// The routes by path.
fn endpoints(schema: &cratestack_schema::ir::Schema) -> Vec<Endpoint> {
    let mut endpoints: Vec<Endpoint> = Vec::new();
    let mut by_path = std::collections::HashMap::<String, usize>::new();
    let all = routes(schema);
    for route in &all {
        let at = *by_path.entry(route.path.clone()).or_insert(endpoints.len());
        match endpoints.get_mut(at) {
            Some(endpoint) => endpoint.routes.push(route.clone()),
            None => endpoints.push(Endpoint { path: route.path.clone(), routes: vec![route.clone()] }),
        }
    }
    // A row may have the key `batch`: its routes are served there too.
    for endpoint in &mut endpoints {
        if let [RouteInfo { verb: RouteVerb::Batch, target: RouteTarget::Model(model), .. }] =
            endpoint.routes.as_slice()
            && schema.model(*model).key.len() == 1
        {
            let target = RouteTarget::Model(*model);
            let row = [RouteVerb::Read, RouteVerb::Patch, RouteVerb::Delete];
            let of_row = all.iter().filter(|route| route.target == target && row.contains(&route.verb));
            endpoint.routes.extend(of_row.cloned());
        }
    }
    endpoints
}
