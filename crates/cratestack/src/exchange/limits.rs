//! What a request counts as.

use std::sync::Arc;

use cratestack_engine::api::{Caller, Code, Verb};
use http::Method;

use super::{Exchange, Place, READY_TIMEOUT, Work};
use crate::caller::CallerScope;
use crate::problem::Problem;
use crate::ratelimit::Phase;
use crate::routes::{RouteInfo, RouteTarget};

impl Exchange<'_> {
    /// The rate limits that need to know nothing but where the request comes from.
    pub(super) async fn count(&mut self, place: &Place) -> Result<(), Problem> {
        let Some(limits) = &self.api.limits else { return Ok(()) };
        let route = match place {
            Place::Endpoint(endpoint) => endpoint.route(&self.parts.method),
            Place::Nowhere => None,
            Place::Live | Place::Ready | Place::Metrics => return Ok(()),
        };
        if self.parts.method == Method::OPTIONS {
            return Ok(());
        }
        let procedure = route.and_then(|route| match route.target {
            RouteTarget::Procedure(at) => self.procedure(at),
            RouteTarget::Model(_) | RouteTarget::Trail => None,
        });
        let reads = procedure.map_or(self.parts.method.is_safe(), |procedure| !procedure.mutation);
        let named = procedure.map_or(&[][..], |procedure| &procedure.rate_limits);
        let op = route.map_or_else(|| Arc::from(""), |route| Arc::clone(&route.op));
        let mut tally = limits.tally(self.address, reads, op, named);
        let counted = tally.charge(Phase::Before, 1).await;
        self.tally = Some(tally);
        counted
    }

    /// All other rate limits.
    pub(super) async fn count_caller(
        &mut self,
        route: &RouteInfo,
        caller: &Caller,
        work: &Work,
    ) -> Result<(), Problem> {
        let Some(tally) = &mut self.tally else {
            let named = match route.target {
                RouteTarget::Procedure(at) => self.procedure(at).map_or(&[][..], |procedure| &procedure.rate_limits),
                RouteTarget::Model(_) | RouteTarget::Trail => &[],
            };
            return match named {
                [] => Ok(()),
                [name, ..] => Err(Problem::internal(format!(
                    "`@rate_limit(\"{name}\")`: the router has no rate limits; give it some with `rate_limits`"
                ))),
            };
        };
        let items = match work {
            Work::Run(_, Verb::Batch { items, .. }) => Some(items.len()),
            _ => None,
        };
        let schema = self.api.backend.schema();
        tally.identify(caller.principal.as_ref().and_then(|principal| CallerScope::of(schema, principal)));
        let cost = tally.limits().cost(&route.op, items);
        tally.charge(Phase::After, cost).await
    }

    /// The store of rate limits that refuse while it does not answer.
    pub(super) async fn store_ready(&self) -> Result<(), Problem> {
        let Some(limits) = self.api.limits.as_ref().filter(|limits| limits.needs_store()) else { return Ok(()) };
        if limits.store_is_ready(READY_TIMEOUT).await {
            return Ok(());
        }
        Err(Problem::new(Code::Unavailable, "the store of the rate limits does not answer"))
    }
}
