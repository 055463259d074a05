//! The sinks of the audit trail and of events that the settings name.

use std::sync::Arc;
use std::time::Duration;

use cratestack::sinks::{
    self, AuditSink, FileOptions, JsonLinesSink, MulticastAuditSink, NatsSink, SetupError, WebhookSecrets, WebhookSink,
};
use cratestack::{Deliveries, RouterBuilder};
use cratestack_engine::Engine;
use cratestack_engine::relay::{AUDIT, Log, OUTBOX};
use cratestack_schema::ir::Schema;

use crate::settings::Settings;
use crate::ui::Failure;

/// How long a shutdown waits for the sinks' calls under way.
pub(crate) const DRAIN: Duration = Duration::from_secs(10);

/// How long it waits to hear what is left.
const LEFT: Duration = Duration::from_secs(2);

/// The logs with what the names of their settings begin with.
const LOGS: [(&Log, &str); 2] = [(&AUDIT, "audit"), (&OUTBOX, "event")];

/// Settings that mean nothing without another one, by what follows after the log's name.
const COMPANIONS: [(&str, &str); 4] =
    [("file-size", "file"), ("webhook", "webhook-secret"), ("webhook-secret", "webhook"), ("nats-subject", "nats")];

/// An open sink, and the log that it gets.
struct Sink {
    log: &'static Log,
    sink: Arc<dyn AuditSink>,
}

/// Open sinks. They outlive a reload of the schema, since a file has one writer.
pub(crate) struct Sinks {
    sinks: Vec<Sink>,
}

impl Sinks {
    /// Opens what the settings name.
    pub(crate) fn open(settings: &Settings, schema: &Schema) -> Result<Self, Failure> {
        let mut named = Vec::new();
        for (log, name) in LOGS {
            let settings = Family { settings, name };
            for (key, other) in COMPANIONS {
                settings.companion(key, other)?;
            }
            // Before anything is made: a schema that writes nothing to the log needs no file for it.
            if ["file", "webhook", "nats"].iter().any(|key| settings.text(key).is_some()) {
                sinks::fed(log, schema).map_err(|error| failure(&error))?;
                named.push((log, settings));
            }
        }
        let mut sinks = Vec::new();
        for (log, settings) in named {
            let opened = settings.open().map_err(|error| failure(&error))?;
            sinks.extend(opened.into_iter().map(|sink| Sink { log, sink }));
        }
        Ok(Self { sinks })
    }

    /// Whether they have work to do with that schema, if there are any.
    pub(crate) fn fit(&self, schema: &Schema) -> Result<(), Failure> {
        self.sinks.iter().try_for_each(|sink| sinks::fed(sink.log, schema)).map_err(|error| failure(&error))
    }

    /// Begins to deliver to them.
    pub(crate) fn attach(&self, router: RouterBuilder) -> Result<RouterBuilder, Failure> {
        self.sinks.iter().try_fold(router, |router, Sink { log, sink }| {
            // Each by itself, so that a shutdown can say which of them was not done.
            let sink = MulticastAuditSink::new().with_shared(Arc::clone(sink));
            let attached = if **log == OUTBOX { router.with_event_sink(sink) } else { router.with_audit_sink(sink) };
            attached.map_err(|error| failure(&error))
        })
    }
}

/// The settings of one log's sinks.
struct Family<'a> {
    settings: &'a Settings,
    name: &'static str,
}

impl Family<'_> {
    fn key(&self, rest: &str) -> String {
        format!("{}-{rest}", self.name)
    }

    fn text(&self, rest: &str) -> Option<&str> {
        self.settings.text(&self.key(rest))
    }

    fn companion(&self, rest: &str, other: &str) -> Result<(), Failure> {
        self.settings.companion(&self.key(rest), &self.key(other))
    }

    fn open(&self) -> Result<Vec<Arc<dyn AuditSink>>, SetupError> {
        let mut sinks: Vec<Arc<dyn AuditSink>> = Vec::new();
        if let Some(path) = self.text("file") {
            let standard = FileOptions::default();
            let size = self.settings.size(&self.key("file-size"));
            let rotate_at = size.map_or(standard.rotate_at, |size| size as u64);
            sinks.push(Arc::new(JsonLinesSink::open(path, FileOptions { rotate_at, ..standard })?));
        }
        if let Some((url, secrets)) = self.text("webhook").zip(self.text("webhook-secret")) {
            sinks.push(Arc::new(WebhookSink::new(url, secrets.parse::<WebhookSecrets>()?)?));
        }
        if let Some(urls) = self.text("nats") {
            sinks.push(Arc::new(NatsSink::new(urls, self.text("nats-subject").unwrap_or("cratestack"))?));
        }
        Ok(sinks)
    }
}

fn failure(error: &SetupError) -> Failure {
    Failure::new(error.to_string()).help(error.help())
}

/// Ends the deliveries, and logs what waits for the next start.
pub(crate) async fn stop(engine: &Engine, deliveries: &Deliveries) {
    let running = LOGS.map(|(log, _)| (log, deliveries.names_of(log)));
    deliveries.stop(DRAIN).await;
    for (log, names) in running.into_iter().filter(|(_, names)| !names.is_empty()) {
        let table = log.table;
        match tokio::time::timeout(LEFT, log.status(engine, false)).await {
            Ok(Ok(status)) => {
                for status in status.iter().filter(|status| status.pending > 0 && names.contains(&status.name)) {
                    let (sink, pending) = (status.name.as_str(), status.pending);
                    tracing::warn!(sink, pending, table, "events wait for the next start");
                }
            }
            Ok(Err(error)) => tracing::warn!(%error, table, "what waits for the sinks is not known"),
            Err(_) => tracing::warn!(table, "what waits for the sinks is not known: the database does not answer"),
        }
    }
}
