//! The routes of a schema, as data.

use std::sync::Arc;

use cratestack_engine::engine::trail;
use cratestack_engine::policy::could_allow;
use cratestack_schema::ir::{Action, Model, ModelId, Schema};
use http::Method;

/// One route: a method on a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteInfo {
    /// The method. `HEAD` is served wherever `GET` is, `OPTIONS` everywhere.
    pub method: Method,
    /// The path below the mount point, with `{field}` for each key field: `/accounts/{id}`.
    pub path: String,
    /// What it does.
    pub verb: RouteVerb,
    /// On what.
    pub target: RouteTarget,
    /// Method and path, as the audit trail has them.
    pub op: Arc<str>,
}

impl RouteInfo {
    fn new(method: Method, path: String, verb: RouteVerb, target: RouteTarget) -> Self {
        let op = format!("{method} {path}").into();
        Self { method, path, verb, target, op }
    }
}

/// What a route does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RouteVerb {
    /// A page of rows.
    List,
    /// A new row.
    Create,
    /// One row.
    Read,
    /// A merge patch.
    Patch,
    /// A deletion or a tombstone.
    Delete,
    /// The end of a tombstone.
    Restore,
    /// Several mutations.
    Batch,
    /// A procedure.
    Call,
    /// A page of the audit trail.
    Trail,
}

impl RouteVerb {
    /// The policy action that it needs; a batch needs those of its items, a call has rules of its own.
    pub fn action(self) -> Option<Action> {
        match self {
            Self::List => Some(Action::List),
            Self::Create => Some(Action::Create),
            Self::Read => Some(Action::Detail),
            Self::Patch => Some(Action::Update),
            Self::Delete => Some(Action::Delete),
            Self::Restore => Some(Action::Restore),
            Self::Trail => Some(Action::Audit),
            Self::Batch | Self::Call => None,
        }
    }
}

/// What a route acts on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RouteTarget {
    /// Rows of this model.
    Model(ModelId),
    /// The procedure at this position of [`Schema::procedures`].
    Procedure(usize),
    /// The trail of every model that shows one.
    Trail,
}

/// What the items of a batch do.
pub(crate) const BATCH_ACTIONS: [Action; 3] = [Action::Create, Action::Update, Action::Delete];

/// Every route of a schema, in source order. A verb that no policy could ever allow, that `@@internal` hides, or that
/// the model's kind excludes (`@@append_only`, `restore` without `@@soft_delete`) has none.
pub fn routes(schema: &Schema) -> Vec<RouteInfo> {
    let mut routes = Vec::new();
    for (id, model) in schema.models() {
        let target = RouteTarget::Model(id);
        let rows = format!("/{}", model.path);
        let row = model.key.iter().fold(rows.clone(), |path, field| format!("{path}/{{{}}}", model.field(*field).name));
        let table = [
            (Method::GET, rows.clone(), RouteVerb::List),
            (Method::POST, rows.clone(), RouteVerb::Create),
            (Method::POST, format!("{rows}/batch"), RouteVerb::Batch),
            (Method::GET, row.clone(), RouteVerb::Read),
            (Method::PATCH, row.clone(), RouteVerb::Patch),
            (Method::DELETE, row.clone(), RouteVerb::Delete),
            (Method::POST, format!("{row}/restore"), RouteVerb::Restore),
        ];
        let served = |verb: &RouteVerb| match verb.action() {
            Some(action) => has_route(schema, model, action),
            None => BATCH_ACTIONS.iter().any(|action| has_route(schema, model, *action)),
        };
        let table = table.into_iter().filter(|(_, _, verb)| served(verb));
        routes.extend(table.map(|(method, path, verb)| RouteInfo::new(method, path, verb, target)));
    }
    if schema.models.iter().any(|model| trail::shown(schema, model)) {
        routes.push(RouteInfo::new(Method::GET, "/audit".to_owned(), RouteVerb::Trail, RouteTarget::Trail));
    }
    for (at, procedure) in schema.procedures.iter().enumerate() {
        if could_allow(schema, procedure.rules.iter().map(|rule| (rule.effect, &rule.expr))) {
            let path = format!("/rpc/{}", procedure.name);
            routes.push(RouteInfo::new(Method::POST, path, RouteVerb::Call, RouteTarget::Procedure(at)));
        }
    }
    routes
}

/// Whether an action of a model is served.
pub(crate) fn has_route(schema: &Schema, model: &Model, action: Action) -> bool {
    let excluded = match action {
        Action::Update | Action::Delete => model.append_only,
        Action::Restore => model.append_only || model.soft_delete.is_none(),
        Action::Audit => model.audit.is_none(),
        Action::List | Action::Detail | Action::Create => false,
    };
    let rules = model.rules.iter().filter(|rule| rule.actions.contains(&action));
    !excluded && !model.internal.contains(&action) && could_allow(schema, rules.map(|rule| (rule.effect, &rule.expr)))
}
