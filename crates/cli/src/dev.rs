//! `dev`: serves a schema on this machine and follows its edits.

use std::ffi::OsStr;
use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::middleware::Next;
use clap::ArgMatches;
use cratestack::{Deliveries, RateLimits, Switch};
use cratestack_engine::migrate::{self, State};
use cratestack_engine::{Database, Engine};
use cratestack_schema::ir::Schema;
use notify::Watcher as _;
use tokio::sync::{OwnedRwLockWriteGuard, RwLock, mpsc, oneshot};
use tokio::task::JoinSet;

use crate::database::{self, Connection};
use crate::limits::{self, Limits};
use crate::sample::{self, Sample};
use crate::serve::{self, Auth};
use crate::settings::{Scope, Settings, Sources};
use crate::sinks::Sinks;
use crate::ui::{Failure, Style, Ui};
use crate::{Outcome, schema, sinks};

/// Editors write a file in several steps; this is how long the last one must be ago.
const SETTLED: Duration = Duration::from_millis(40);

/// How long a change of the database waits for the requests under way.
const COURTESY: Duration = Duration::from_secs(2);

/// What happens after an edit that cannot be served.
const KEEPS: &str = "the version before it keeps serving";

/// What an edit means where the rows live in the process.
const EMPTIED: &str = "this edit would lose data: a database in memory starts empty with every version of the schema";

/// `cratestack dev`.
pub(crate) fn run(ui: Ui, args: &ArgMatches, sources: &Sources) -> Result<Outcome, Failure> {
    let settings = Settings::resolve(Scope::Both, args, sources)?;
    serve::log(&settings)?;
    if settings.is_set("tls-cert") {
        ui.warn(&format!("{} is for `serve`: `dev` speaks HTTP, and takes unsigned tokens", settings.from("tls-cert")));
    }
    let path = args.get_one::<String>("file").map_or("", String::as_str);
    if path == "-" {
        return Err(Failure::new("`dev` follows a file, and standard input is none").help("name a `.cstack` file"));
    }
    let text = schema::read(path)?;
    let (compiled, diagnostics) = cratestack_schema::compile(&schema::name(path), &text);
    ui.diagnostics(path, &text, &diagnostics);
    let Some(compiled) = compiled else { return Ok(Outcome::Findings) };
    let database = match settings.text("database") {
        Some(url) => database::parse(url, settings.from("database"))?,
        None => Database::SqliteFile(PathBuf::from(format!(".cratestack/{}.db", compiled.name))),
    };
    let sinks = Sinks::open(&settings, &compiled)?;
    let limits = limits::serving(&settings, &compiled, &database)?;
    let gate = Arc::default();
    let dev = Dev { ui, path: path.to_owned(), settings, database, sinks, limits: None, text: Some(text), gate };
    serve::runtime()?.block_on(dev.run(compiled, limits, args.get_flag("reset")))
}

struct Dev {
    ui: Ui,
    path: String,
    settings: Settings,
    database: Database,
    sinks: Sinks,
    /// What they count survives edits.
    limits: Option<RateLimits>,
    /// What the file was when it was last looked at: served, or found broken. `None` when it could not be read.
    text: Option<String>,
    /// Every request holds it for reading, a change of the database for writing: no request meets tables of another
    /// version than its own.
    gate: Arc<RwLock<()>>,
}

/// The gate is shut while this lives; `None` when requests under way took too long.
type Quiet = Option<OwnedRwLockWriteGuard<()>>;

impl Dev {
    async fn run(mut self, schema: Schema, limits: Option<Limits>, reset: bool) -> Result<Outcome, Failure> {
        // The address first: a port that is taken must not cost a migration.
        let listener = serve::listen(&self.settings).await?;
        drop(self.migrate(&schema, reset).await?);
        if let Some(limits) = limits {
            self.limits = Some(limits.open(self.ui, true).await?);
        }
        let engine = self.engine(schema.clone()).await?;
        let (app, mut deliveries) = self.app(&engine)?;
        let current = Switch::new(app);
        let stop = serve::shutdown()?;
        let address = serve::address(&listener)?;
        serve::announce(self.ui, "http", address);
        self.introduce(&engine, &format!("http://{address}")).await;
        let gate = Arc::clone(&self.gate);
        let pass = axum::middleware::from_fn(move |request: Request, next: Next| {
            let gate = Arc::clone(&gate);
            async move {
                let _pass = gate.read().await;
                next.run(request).await
            }
        });
        let app = current.router().layer(pass);
        let server = cratestack::serve(listener, app, serve::server(&self.settings), stop);
        let server = tokio::spawn(server);
        let (edits, mut edited) = mpsc::channel(1);
        let mut watch = Watch::start(&self.path, &edits)?;
        // The file may have changed while this started.
        let _full = edits.try_send(());
        let (mut engine, mut retired) = (engine, JoinSet::new());
        let follow = async {
            while edited.recv().await.is_some() {
                self.settle(&mut edited).await;
                if watch.moved(&self.path) {
                    watch = Watch::start(&self.path, &edits)?;
                }
                if let Some((new, quiet)) = self.reload().await {
                    // Two relays at the same time would deliver events twice.
                    deliveries.stop(COURTESY).await;
                    let app;
                    (app, deliveries) = self.app(&new)?;
                    current.set(app);
                    drop(quiet);
                    let old = std::mem::replace(&mut engine, new);
                    retired.spawn(async move { old.close().await });
                    while retired.try_join_next().is_some() {}
                }
            }
            Ok(())
        };
        let ended = tokio::select! {
            served = server => match served {
                Ok(Ok(())) => Ok(Outcome::Clean),
                Ok(Err(error)) => Err(Failure::new(format!("the server stopped: {error}"))),
                Err(error) => Err(Failure::new(format!("the server stopped: {error}"))),
            },
            followed = follow => followed.map(|()| Outcome::Clean),
        };
        retired.join_all().await;
        sinks::stop(&engine, &deliveries).await;
        engine.close().await;
        ended
    }

    /// Waits until the file has been left alone for [`SETTLED`].
    async fn settle(&self, edited: &mut mpsc::Receiver<()>) {
        while let Ok(Some(())) = tokio::time::timeout(SETTLED, edited.recv()).await {}
    }

    fn app(&self, engine: &Engine) -> Result<(Router, Deliveries), Failure> {
        let auth = if engine.schema().auth.is_some() { Auth::Told(self.ui) } else { Auth::None };
        serve::app(engine, auth, &self.settings, &self.sinks, self.limits.as_ref())
    }

    async fn engine(&self, schema: Schema) -> Result<Engine, Failure> {
        database::engine(schema, &self.database, database::options(&self.settings)?).await
    }

    /// The engine for the file's new text; `None` when the old one goes on serving.
    async fn reload(&mut self) -> Option<(Engine, Quiet)> {
        let text =
            match schema::read(&self.path) {
                // What some editors and tools leave for a moment, and nobody means.
                Ok(text) if text.trim().is_empty() => Err(Failure::new(format!("`{}` is empty", self.path))
                    .help("the service follows when there is text again")),
                Err(failure) => Err(failure.help("the service follows when the file can be read again")),
                text => text,
            };
        let text = match text {
            Ok(text) => text,
            Err(failure) => {
                if self.text.take().is_some() {
                    self.ui.failure(&failure);
                    self.ui.complain(KEEPS);
                }
                return None;
            }
        };
        if self.text.as_ref() == Some(&text) {
            return None;
        }
        let (compiled, diagnostics) = cratestack_schema::compile(&schema::name(&self.path), &text);
        self.ui.diagnostics(&self.path, &text, &diagnostics);
        self.text = Some(text);
        let Some(schema) = compiled else {
            self.ui.complain(&format!("`{}` has errors; {KEEPS}", self.path));
            return None;
        };
        let started = std::time::Instant::now();
        if self.database == Database::SqliteMemory && !self.agree(&[EMPTIED.to_owned()]).await {
            self.ui.failure(&Failure::new(EMPTIED).help("restart `cratestack dev`, or name a file with `--database`"));
            self.ui.complain(KEEPS);
            return None;
        }
        let fits = self.sinks.fit(&schema).and_then(|()| limits::fit(&schema, self.limits.as_ref()));
        let migrated = match fits {
            Ok(()) => self.migrate(&schema, false).await,
            Err(failure) => Err(failure),
        };
        let done = match migrated {
            Ok(quiet) => self.engine(schema).await.map(|engine| (engine, quiet)),
            Err(failure) => Err(failure),
        };
        match done {
            Ok((engine, quiet)) => {
                self.ui.say(&format!("reloaded `{}` in {} ms", self.path, started.elapsed().as_millis()));
                for sentence in serve::rust_procedures(engine.schema()) {
                    self.ui.warn(&sentence);
                }
                Some((engine, quiet))
            }
            Err(failure) => {
                self.ui.failure(&failure);
                self.ui.complain(KEEPS);
                None
            }
        }
    }

    /// Brings the database to the schema; asks before anything is lost.
    async fn migrate(&self, schema: &Schema, reset: bool) -> Result<Quiet, Failure> {
        if self.database == Database::SqliteMemory {
            return Ok(None);
        }
        database::reached(&self.database).await?;
        let migrated = cratestack_engine::migrations::any_applied(&self.database).await;
        if migrated.map_err(|error| crate::migrate::failure(&error))? {
            return Err(Failure::new(format!("{} has migrations", database::name(&self.database)))
                .help("`dev` changes tables without them: name a database of its own, with `--database`"));
        }
        let mut connection = Connection::open(&self.database).await?;
        let done = self.bring(&mut connection, schema, reset).await;
        connection.close().await;
        done
    }

    async fn bring(&self, connection: &mut Connection, schema: &Schema, reset: bool) -> Result<Quiet, Failure> {
        if reset {
            migrate::reset(&mut connection.db()).await.map_err(|error| database::failure(&error))?;
        }
        let State::Applied(_) = database::state(connection).await? else {
            database::create(self.ui, connection, schema).await?;
            return Ok(None);
        };
        let plan = migrate::plan(&mut connection.db(), schema).await.map_err(|error| database::failure(&error))?;
        if !plan.refuse.is_empty() {
            return Err(database::failure(&migrate::Error::Refused(plan.refuse)));
        }
        if !plan.loses.is_empty() {
            if !self.agree(&plan.loses).await {
                return Err(Failure::new(format!("this edit would lose data: {}", plan.loses.join("; "))).help(
                    "undo the edit, keep the values of a renamed field with `@rename(from: \"old\")`, or start again \
                     with `--reset` to begin with an empty database",
                ));
            }
            // Whoever agreed saw the text of then.
            if schema::read(&self.path).ok() != self.text {
                return Err(Failure::new(format!("`{}` has changed since you were asked", self.path)));
            }
        }
        let quiet = tokio::time::timeout(COURTESY, Arc::clone(&self.gate).write_owned()).await.ok();
        let mut bar = self.ui.progress("changing the database");
        let report: migrate::Report<'_> = &mut |at| bar.show(at.done, at.total, at.step);
        let done = migrate::apply_diff(&mut connection.db(), schema, &plan.loses, report).await;
        bar.clear();
        done.map_err(|error| database::failure(&error))?;
        for step in &plan.steps {
            self.ui.say(&format!("  {} {step}", self.ui.paint(Style::Dim, "database:")));
        }
        Ok(quiet)
    }

    /// Asks at a terminal; elsewhere nobody can agree.
    async fn agree(&self, losses: &[String]) -> bool {
        if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
            return false;
        }
        for loss in losses {
            self.ui.warn(loss);
        }
        // A thread of its own: the end of the runtime would wait for one of its own until somebody presses a key.
        let (sender, answer) = oneshot::channel();
        std::thread::spawn(move || {
            let _shown = write!(std::io::stderr(), "lose this data? [y/N] ");
            let mut line = String::new();
            let read = std::io::stdin().lock().read_line(&mut line);
            let _ended = sender.send(read.is_ok_and(|_| matches!(line.trim(), "y" | "Y" | "yes")));
        });
        answer.await.unwrap_or(false)
    }

    /// What a newcomer needs: where it is, who one can be, what to paste.
    async fn introduce(&self, engine: &Engine, base: &str) {
        let (ui, schema) = (self.ui, engine.schema());
        ui.say(&format!("  api       {base}{}", serve::MOUNT));
        ui.say(&format!("  database  {}", database::name(&self.database)));
        for sentence in serve::rust_procedures(schema) {
            ui.warn(&sentence);
        }
        let principals = sample::principals(schema);
        if !principals.is_empty() {
            ui.say("\ntokens for development:");
            for sample in &principals {
                ui.say(&format!("  {:9} {}", sample.name, ui.paint(Style::Cyan, &crate::dev_token(&sample.claims))));
                ui.say(&format!("  {:9} {}", "", ui.paint(Style::Dim, &sample.claims)));
            }
        }
        let lines = self.curls(schema, &principals, base).await;
        if !lines.is_empty() {
            ui.say("\ntry:");
            for line in lines {
                ui.say(&format!("  {}", ui.paint(Style::Cyan, &line)));
            }
        }
        ui.say(&format!("\nedit `{}` and the service follows; Ctrl-C ends it", self.path));
    }

    async fn curls(&self, schema: &Schema, principals: &[Sample], base: &str) -> Vec<String> {
        let options = cratestack_engine::Options::default();
        let Ok(scratch) = database::engine(schema.clone(), &Database::SqliteMemory, options).await else {
            return Vec::new();
        };
        let tries = sample::tries(&scratch, principals).await;
        scratch.close().await;
        let line = |attempt: &sample::Try| {
            let who = attempt.who.and_then(|at| principals.get(at));
            let token = who.map(|sample| format!(" -H 'Authorization: Bearer {}'", crate::dev_token(&sample.claims)));
            let body = attempt
                .body
                .as_ref()
                .map(|body| format!(" -H 'Content-Type: application/json' -d '{}'", body.replace('\'', r"'\''")));
            format!(
                r"curl -sw '\n'{}{} '{base}{}{}'",
                token.unwrap_or_default(),
                body.unwrap_or_default(),
                serve::MOUNT,
                attempt.target
            )
        };
        tries.iter().map(line).collect()
    }
}

/// Sends a word for every change of the file, or of a link that leads to it.
struct Watch {
    /// The file as it was named, and what each link names in turn.
    places: Vec<PathBuf>,
    _watcher: notify::RecommendedWatcher,
}

impl Watch {
    fn start(path: &str, edits: &mpsc::Sender<()>) -> Result<Self, Failure> {
        let failed = |error: &dyn std::fmt::Display| {
            Failure::new(format!("cannot watch `{path}`: {error}"))
                .help("raise the limit of inotify watches, or use `cratestack serve`")
        };
        let places = places(path);
        let names: Vec<_> = places.iter().filter_map(|place| place.file_name()).map(OsStr::to_owned).collect();
        let edits = edits.clone();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let ours = |path: &PathBuf| names.iter().any(|name| path.file_name() == Some(name));
            let edited = match &event {
                Ok(event) => !event.kind.is_access() && event.paths.iter().any(ours),
                Err(_) => true,
            };
            if edited {
                // A full channel already says that there is something to look at.
                let _full = edits.try_send(());
            }
        })
        .map_err(|error| failed(&error))?;
        // The folders, since editors replace files by renaming.
        for folder in places.iter().filter_map(|place| place.parent()) {
            watcher.watch(folder, notify::RecursiveMode::NonRecursive).map_err(|error| failed(&error))?;
        }
        Ok(Self { places, _watcher: watcher })
    }

    /// Whether a link leads elsewhere now.
    fn moved(&self, path: &str) -> bool {
        let now = places(path);
        // A link that is being replaced is not there for a moment, which is no move.
        now != self.places && now.last().is_some_and(|file| file.exists())
    }
}

fn places(path: &str) -> Vec<PathBuf> {
    /// As many links as Linux follows.
    const LINKS: usize = 40;
    let first = std::path::absolute(path).unwrap_or_else(|_| PathBuf::from(path));
    let follow = |place: &PathBuf| {
        let target = std::fs::read_link(place).ok()?;
        Some(place.parent().unwrap_or(Path::new("/")).join(target))
    };
    std::iter::successors(Some(first), follow).take(LINKS).collect()
}
