//! What a request's `Idempotency-Key` means, and how its answer is kept.

use std::sync::Arc;

use cratestack_engine::api::{Caller, Failure};
use cratestack_engine::idempotency::{Identity, KeyLimits, Keyed, Outcome, Present, Record, Sketch, Stencil};
use cratestack_engine::json::Json;
use cratestack_schema::ir::Idempotent;
use http::{StatusCode, header};

use super::{Exchange, called, status};
use crate::answer::Shape;
use crate::headers::joined;
use crate::idempotency;
use crate::media::Format;
use crate::problem::Problem;
use crate::routes::{RouteInfo, RouteTarget, RouteVerb};
use crate::url;

impl Exchange<'_> {
    /// Whether a key means anything on the route: what changes nothing may be asked any number of times.
    pub(super) fn takes_key(&self, route: &RouteInfo) -> bool {
        match (route.verb, route.target) {
            (RouteVerb::List | RouteVerb::Read | RouteVerb::Trail, _) => false,
            (_, RouteTarget::Procedure(at)) => self.procedure(at).is_some_and(|procedure| procedure.mutation),
            _ => true,
        }
    }

    /// The key of a request to a route that may have one.
    pub(super) fn key(&self, route: &RouteInfo) -> Result<Option<idempotency::Key>, Problem> {
        let rule = match route.target {
            RouteTarget::Model(model) => self.api.backend.schema().model(model).idempotent,
            RouteTarget::Procedure(at) => self.procedure(at).map(|procedure| procedure.idempotent).unwrap_or_default(),
            RouteTarget::Trail => Idempotent::None,
        };
        let key = idempotency::Key::of(&self.parts.headers)?;
        match (rule, key) {
            (Idempotent::Required, None) => Err(idempotency::missing()),
            (Idempotent::None, Some(_)) => {
                let detail = "this route keeps no idempotency keys: send the request without `Idempotency-Key`";
                Err(Problem::bad_request(detail))
            }
            (_, None) => Ok(None),
            (_, Some(key)) => {
                key.check_time(self.api.backend.now(), self.api.config.idempotency.retention)?;
                Ok(Some(key))
            }
        }
    }

    /// The refusal of a request by its form, unless its key says that it is none of its own.
    pub(super) async fn after(&self, keyed: Option<&Keyed>, problem: Problem) -> Problem {
        let Some(keyed) = keyed else { return problem };
        match self.in_time(self.api.backend.check_key(keyed)).await {
            Ok(Ok(())) => problem,
            Ok(Err(failure)) => failure.into(),
            Err(late) => late,
        }
    }

    /// What makes it this request: all that decides what it does. Not what decides about the form of its answer.
    pub(super) fn fingerprint(&self, route: &RouteInfo, params: &[(String, String)], data: Option<&Json>) -> [u8; 32] {
        let mut print = idempotency::Parts::new("request");
        print.add(route.op.as_bytes());
        for segment in url::segments(self.own_path()) {
            print.add(segment.unwrap_or_default().as_bytes());
        }
        let mut params = params.to_vec();
        params.sort_unstable();
        for (name, value) in &params {
            print.add(name.as_bytes()).add(value.as_bytes());
        }
        print.maybe(idempotency::media_type(&self.parts.headers).as_deref());
        print.maybe(joined(&self.parts.headers, &header::IF_MATCH).as_deref());
        let canonical = data.map(|data| {
            let mut text = String::new();
            data.write_value(&mut text);
            text
        });
        print.maybe(canonical.as_deref().map(str::as_bytes)).finish()
    }

    /// The request as the engine keeps it. The trail gets to know its key.
    pub(super) fn keyed(
        &self,
        key: idempotency::Key,
        fingerprint: [u8; 32],
        route: &RouteInfo,
        caller: &mut Caller,
        path: &str,
    ) -> Keyed {
        let (schema, config) = (self.api.backend.schema(), &self.api.config);
        let deployment = config.idempotency.deployment.as_deref().unwrap_or(&schema.name);
        let scope = idempotency::of_caller(schema, deployment, caller.principal.as_ref());
        caller.origin.idempotency_key = Some(key.0.clone());
        let (segment, status) = match route.target {
            RouteTarget::Model(model) => (schema.model(model).path.clone(), StatusCode::OK),
            RouteTarget::Procedure(at) => (String::new(), self.procedure(at).map_or(StatusCode::OK, status)),
            RouteTarget::Trail => (String::new(), StatusCode::OK),
        };
        let presenter = Presenter {
            segment,
            format: self.format,
            base: self.base(path).to_owned(),
            minimal: self.minimal(),
            status,
            problem_base: config.problem_base.clone(),
            request_id: self.request_id.clone(),
        };
        Keyed {
            identity: Identity { scope, key: key.0, fingerprint },
            limits: KeyLimits {
                retention: config.idempotency.retention,
                wait: config.idempotency.wait,
                body: config.idempotency.response_limit,
            },
            present: Arc::new(presenter),
        }
    }
}

/// What is known of a request before it is done, to answer it by.
#[derive(Debug)]
struct Presenter {
    segment: String,
    format: Format,
    base: String,
    minimal: bool,
    /// Of a procedure.
    status: StatusCode,
    problem_base: String,
    request_id: String,
}

impl Presenter {
    fn shape(&self) -> Shape<'_> {
        Shape {
            segment: &self.segment,
            format: self.format,
            base: &self.base,
            target: ("", None),
            minimal: self.minimal,
            personal: false,
            safe: false,
            conditions: (None, None),
            problem_base: &self.problem_base,
            request_id: &self.request_id,
        }
    }
}

impl Present for Presenter {
    fn present(&self, outcome: Outcome) -> Result<Record, Failure> {
        let response = match outcome {
            Outcome::Done(answer) => self.shape().respond(answer),
            Outcome::Called(answer) => called(answer, self.format, self.status),
            Outcome::Refused(failure) => {
                let problem = Problem::from(failure);
                problem.log(&self.request_id);
                Ok(problem.into_response(&self.problem_base, &self.request_id))
            }
        };
        response.map(idempotency::record).map_err(Problem::into_failure)
    }

    fn stencil(&self, sketch: &Sketch) -> Option<Stencil> {
        self.shape().stencil(sketch)
    }
}
