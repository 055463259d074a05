//! The sinks of the audit trail that the settings name.

use std::sync::Arc;
use std::time::Duration;

use cratestack::sinks::{
    self, AuditSink, FileOptions, JsonLinesSink, MulticastAuditSink, NatsSink, SetupError, WebhookSecrets, WebhookSink,
};
use cratestack::{Deliveries, RouterBuilder};
use cratestack_engine::Engine;
use cratestack_engine::relay::AUDIT;
use cratestack_schema::ir::Schema;

use crate::settings::Settings;
use crate::ui::Failure;

/// How long a shutdown waits for the sinks' calls under way.
pub(crate) const DRAIN: Duration = Duration::from_secs(10);

/// How long it waits to hear what is left.
const LEFT: Duration = Duration::from_secs(2);

/// Settings that mean nothing without another one.
const COMPANIONS: [(&str, &str); 4] = [
    ("audit-file-size", "audit-file"),
    ("audit-webhook", "audit-webhook-secret"),
    ("audit-webhook-secret", "audit-webhook"),
    ("audit-nats-subject", "audit-nats"),
];

/// Open sinks. They outlive a reload of the schema, since a file has one writer.
pub(crate) struct Sinks {
    sinks: Vec<Arc<dyn AuditSink>>,
}

impl Sinks {
    /// Opens what the settings name.
    pub(crate) fn open(settings: &Settings, schema: &Schema) -> Result<Self, Failure> {
        for (key, other) in COMPANIONS {
            settings.companion(key, other)?;
        }
        let mut sinks: Vec<Arc<dyn AuditSink>> = Vec::new();
        // Before anything is made: a schema without an audit trail needs no file for it.
        if ["audit-file", "audit-webhook", "audit-nats"].iter().any(|key| settings.text(key).is_some()) {
            sinks::audited(schema).map_err(|error| failure(&error))?;
        }
        if let Some(path) = settings.text("audit-file") {
            let standard = FileOptions::default();
            let rotate_at = settings.size("audit-file-size").map_or(standard.rotate_at, |size| size as u64);
            let sink = JsonLinesSink::open(path, FileOptions { rotate_at, ..standard });
            sinks.push(Arc::new(sink.map_err(|error| failure(&error))?));
        }
        if let Some((url, secrets)) = settings.text("audit-webhook").zip(settings.text("audit-webhook-secret")) {
            let sink = secrets.parse::<WebhookSecrets>().and_then(|secrets| WebhookSink::new(url, secrets));
            sinks.push(Arc::new(sink.map_err(|error| failure(&error))?));
        }
        if let Some(urls) = settings.text("audit-nats") {
            let subject = settings.text("audit-nats-subject").unwrap_or("cratestack.audit");
            sinks.push(Arc::new(NatsSink::new(urls, subject).map_err(|error| failure(&error))?));
        }
        Ok(Self { sinks })
    }

    /// Whether they have work to do with that schema, if there are any.
    pub(crate) fn fit(&self, schema: &Schema) -> Result<(), Failure> {
        if self.sinks.is_empty() { Ok(()) } else { sinks::audited(schema).map_err(|error| failure(&error)) }
    }

    /// Begins to deliver to them.
    pub(crate) fn attach(&self, router: RouterBuilder) -> Result<RouterBuilder, Failure> {
        self.sinks.iter().try_fold(router, |router, sink| {
            // Each by itself, so that a shutdown can say which of them was not done.
            let sink = MulticastAuditSink::new().with_shared(Arc::clone(sink));
            router.with_audit_sink(sink).map_err(|error| failure(&error))
        })
    }
}

fn failure(error: &SetupError) -> Failure {
    Failure::new(error.to_string()).help(error.help())
}

/// Ends the deliveries, and logs what waits for the next start.
pub(crate) async fn stop(engine: &Engine, deliveries: &Deliveries) {
    let names = deliveries.names();
    if names.is_empty() {
        return;
    }
    deliveries.stop(DRAIN).await;
    match tokio::time::timeout(LEFT, AUDIT.status(engine, false)).await {
        Ok(Ok(status)) => {
            for status in status.iter().filter(|status| status.pending > 0 && names.contains(&status.name)) {
                let (sink, pending) = (status.name.as_str(), status.pending);
                tracing::warn!(sink, pending, "events of the audit trail wait for the next start");
            }
        }
        Ok(Err(error)) => tracing::warn!(%error, "what waits for the audit sinks is not known"),
        Err(_) => tracing::warn!("what waits for the audit sinks is not known: the database does not answer"),
    }
}
