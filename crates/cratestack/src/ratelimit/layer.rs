//! Rate limits for routes of the host.

use std::convert::Infallible;
use std::fmt::{self, Debug};
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use cratestack_engine::ratelimit::{LimiterOptions, RateLimitStore};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::Method;
use http::request::Parts;
use tower::{Layer, Service, ServiceExt as _};

use super::{Class, Phase, RateLimitPolicy, RateLimits};
use crate::address::TrustedProxies;
use crate::caller::{CallerScope, credential};
use crate::config::HttpConfig;
use crate::headers::request_id;
use crate::problem::Problem;

/// Limits how often the routes inside of it are asked: see the [module](super).
///
/// A layer for [`Router::layer`](axum::Router::layer) and [`Router::route_layer`](axum::Router::route_layer). Where a
/// policy counts by [principal](super::Part::Principal) or [tenant](super::Part::Tenant), it belongs inside of the layer
/// that authenticates, which puts a [`CallerScope`] into the request's extensions; callers without one are counted by
/// address, and a request with credentials and without one is a 500, whose cause is in the log. Policies by address
/// alone belong outside, in a layer of their own.
///
/// | a request | |
/// |---|---|
/// | `OPTIONS` | goes through, and does not count |
/// | within all limits | goes through; the answer has `RateLimit-Policy` and `RateLimit` |
/// | beyond one | 429 `rate_limited` with `Retry-After`, and nothing is counted |
/// | that costs more than a limit ever allows | 400 `bad_request` |
/// | while the store does not answer | what each policy [says](super::RateLimitPolicy::on_failure): counted here, 503, or let through |
///
/// Policies of class [`Named`](super::Class::Named) are for procedures: a layer that has one answers with a 500, whose
/// cause is in the log.
#[derive(Clone)]
pub struct RateLimitLayer {
    settings: Settings,
}

type Cost = Arc<dyn Fn(&Parts) -> u64 + Send + Sync>;

#[derive(Clone)]
struct Settings {
    limits: RateLimits,
    trusted: TrustedProxies,
    cost: Cost,
    route: Arc<str>,
    problem_base: Arc<str>,
}

impl RateLimitLayer {
    /// A layer that counts in `store`. All policies have to agree.
    pub fn new(store: impl RateLimitStore, policies: impl IntoIterator<Item = RateLimitPolicy>) -> Self {
        Self::of(RateLimits::new(store, policies))
    }

    /// The same with the settings of [`LimiterOptions`].
    pub fn with_options(
        store: impl RateLimitStore,
        policies: impl IntoIterator<Item = RateLimitPolicy>,
        options: LimiterOptions,
    ) -> Self {
        Self::of(RateLimits::on(Arc::new(store), policies, options))
    }

    /// A layer of limits that others may count in too.
    pub fn of(limits: RateLimits) -> Self {
        Self {
            settings: Settings {
                limits,
                trusted: TrustedProxies::default(),
                cost: Arc::new(|_| 1),
                route: Arc::from(""),
                problem_base: HttpConfig::default().problem_base.into(),
            },
        }
    }

    /// Whose `X-Forwarded-For` is believed. Default: nobody's.
    #[must_use]
    pub fn trusted_proxies(mut self, trusted: TrustedProxies) -> Self {
        self.settings.trusted = trusted;
        self
    }

    /// How many units a request counts as, by its head. Default: 1. A request of 0 units is not counted.
    #[must_use]
    pub fn cost(mut self, cost: impl Fn(&Parts) -> u64 + Send + Sync + 'static) -> Self {
        self.settings.cost = Arc::new(cost);
        self
    }

    /// What [`Part::Route`](super::Part::Route) is: the routes inside of layers with the same name count together.
    /// Default: no name.
    #[must_use]
    pub fn route(mut self, name: &str) -> Self {
        self.settings.route = name.into();
        self
    }

    /// As [`HttpConfig::problem_base`].
    #[must_use]
    pub fn problem_base(mut self, base: &str) -> Self {
        self.settings.problem_base = base.into();
        self
    }

    /// The limits, to look at what they count.
    pub fn limits(&self) -> &RateLimits {
        &self.settings.limits
    }
}

impl Debug for RateLimitLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimitLayer").field("limits", &self.settings.limits).finish_non_exhaustive()
    }
}

impl<S> Layer<S> for RateLimitLayer {
    type Service = RateLimited<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RateLimited { inner, settings: Arc::new(self.settings.clone()) }
    }
}

/// A service behind a [`RateLimitLayer`].
#[derive(Clone)]
pub struct RateLimited<S> {
    inner: S,
    settings: Arc<Settings>,
}

impl<S: Debug> Debug for RateLimited<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimited").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<S> Service<Request> for RateLimited<S>
where
    S: Service<Request> + Clone + Send + 'static,
    S::Response: IntoResponse,
    S::Error: Into<Infallible>,
    S::Future: Send,
{
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    /// Always ready: whether the handler is, is asked when it is to run.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let (inner, settings) = (self.inner.clone(), Arc::clone(&self.settings));
        async move {
            let run = |request| async move {
                match inner.oneshot(request).await {
                    Ok(response) => response.into_response(),
                    Err(error) => match error.into() {},
                }
            };
            if request.method() == Method::OPTIONS {
                return Ok(run(request).await);
            }
            let (head, body) = request.into_parts();
            let address = settings.trusted.client(&head);
            let mut tally = settings.limits.tally(address, head.method.is_safe(), Arc::clone(&settings.route), &[]);
            let mut response = match admit(&settings, &mut tally, &head).await {
                Ok(()) => run(Request::from_parts(head, body)).await,
                Err(problem) => problem.refuse(&settings.problem_base, &request_id(&head.headers)),
            };
            tally.settle(response.status()).await;
            tally.tell(response.headers_mut());
            Ok(response)
        }
        .boxed()
    }
}

async fn admit(settings: &Settings, tally: &mut super::Tally, head: &Parts) -> Result<(), Problem> {
    if let Some(policy) = settings.limits.policies().find(|policy| policy.class() == Class::Named) {
        return Err(Problem::internal(format!(
            "the rate limit `{}` of a `RateLimitLayer` is for procedures that name it, and a layer has none: let it count \
             another class of requests",
            policy.name()
        )));
    }
    let caller = head.extensions.get::<CallerScope>().cloned();
    let by_caller = || settings.limits.policies().any(RateLimitPolicy::is_by_caller);
    if caller.is_none()
        && let Some(name) = credential(&head.headers)
        && by_caller()
    {
        return Err(Problem::internal(format!(
            "a request has the header `{name}` and no `CallerScope`, so that nobody knows whose limit it counts \
             towards: let the layer that authenticates, which must be outside of `RateLimitLayer`, put one into the \
             extensions of the request"
        )));
    }
    tally.identify(caller);
    tally.charge(Phase::Only, (settings.cost)(head)).await
}
