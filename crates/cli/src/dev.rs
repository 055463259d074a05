//! `dev`: serves a schema on this machine and follows its edits.

use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::Router;
use clap::ArgMatches;
use cratestack::{ServerConfig, Switch};
use cratestack_engine::migrate::{self, State};
use cratestack_engine::{Database, Engine};
use cratestack_schema::ir::Schema;
use notify::Watcher as _;
use tokio::sync::mpsc;

use crate::database::{self, Connection};
use crate::sample::{self, Sample};
use crate::serve::{self, Auth};
use crate::settings::{Scope, Settings, Sources};
use crate::ui::{Failure, Style, Ui};
use crate::{Outcome, schema};

/// Editors write a file in several steps; this is how long the last one must be ago.
const SETTLED: Duration = Duration::from_millis(40);

/// What an edit means where the rows live in the process.
const EMPTIED: &str = "this edit would lose data: a database in memory starts empty with every version of the schema";

/// `cratestack dev`.
pub(crate) fn run(ui: Ui, args: &ArgMatches, sources: &Sources) -> Result<Outcome, Failure> {
    let settings = Settings::resolve(Scope::Both, args, sources)?;
    serve::log(&settings)?;
    let path = args.get_one::<String>("file").map_or("", String::as_str);
    let text = schema::read(path)?;
    let (compiled, diagnostics) = cratestack_schema::compile(&schema::name(path), &text);
    ui.diagnostics(path, &text, &diagnostics);
    let Some(compiled) = compiled else { return Ok(Outcome::Findings) };
    let database = match settings.text("database") {
        Some(url) => database::parse(url, settings.from("database"))?,
        None => Database::SqliteFile(PathBuf::from(format!(".cratestack/{}.db", compiled.name))),
    };
    let dev = Dev { ui, path: path.to_owned(), settings, database, text };
    serve::runtime()?.block_on(dev.run(compiled, args.get_flag("reset")))
}

struct Dev {
    ui: Ui,
    path: String,
    settings: Settings,
    database: Database,
    /// What is served, or was last found broken.
    text: String,
}

impl Dev {
    async fn run(mut self, schema: Schema, reset: bool) -> Result<Outcome, Failure> {
        // The address first: a port that is taken must not cost a migration.
        let listener = serve::listen(&self.settings).await?;
        self.migrate(&schema, reset).await?;
        let engine = self.engine(schema.clone()).await?;
        let current = Switch::new(self.app(&engine));
        let address = serve::announce(self.ui, &listener)?;
        self.introduce(&engine, &format!("http://{address}")).await;
        let server = cratestack::serve(listener, current.router(), ServerConfig::default(), serve::shutdown());
        let server = tokio::spawn(server);
        let (edits, mut edited) = mpsc::channel(1);
        let _watcher = watch(Path::new(&self.path), edits)?;
        let follow = async {
            let mut engine = engine;
            while edited.recv().await.is_some() {
                self.settle(&mut edited).await;
                if let Some(new) = self.reload().await {
                    current.set(self.app(&new));
                    let old = std::mem::replace(&mut engine, new);
                    tokio::spawn(async move { old.close().await });
                }
            }
            engine
        };
        tokio::select! {
            served = server => match served {
                Ok(Ok(())) => Ok(Outcome::Clean),
                Ok(Err(error)) => Err(Failure::new(format!("the server stopped: {error}"))),
                Err(error) => Err(Failure::new(format!("the server stopped: {error}"))),
            },
            _ = follow => Err(Failure::new("the schema file can no longer be watched").help("start `cratestack dev` again")),
        }
    }

    /// Waits until the file has been left alone for [`SETTLED`].
    async fn settle(&self, edited: &mut mpsc::Receiver<()>) {
        while let Ok(Some(())) = tokio::time::timeout(SETTLED, edited.recv()).await {}
    }

    fn app(&self, engine: &Engine) -> Router {
        let auth = if engine.schema().auth.is_some() { Auth::Dev } else { Auth::None };
        serve::app(engine, auth, &self.settings)
    }

    async fn engine(&self, schema: Schema) -> Result<Engine, Failure> {
        database::engine(schema, &self.database, database::options(&self.settings)?).await
    }

    /// The engine for the file's new text; `None` when the old one goes on serving.
    async fn reload(&mut self) -> Option<Engine> {
        // A file that an editor is replacing may be missing for a moment; its return is an event of its own.
        let text = schema::read(&self.path).ok()?;
        if text == self.text {
            return None;
        }
        self.text = text;
        let (compiled, diagnostics) = cratestack_schema::compile(&schema::name(&self.path), &self.text);
        self.ui.diagnostics(&self.path, &self.text, &diagnostics);
        let Some(schema) = compiled else {
            self.ui.complain(&format!("`{}` has errors; the version before it keeps serving", self.path));
            return None;
        };
        let started = std::time::Instant::now();
        if self.database == Database::SqliteMemory && !self.agree(&[EMPTIED.to_owned()]).await {
            self.ui.failure(&Failure::new(EMPTIED).help("restart `cratestack dev`, or name a file with `--database`"));
            self.ui.complain("the version before it keeps serving");
            return None;
        }
        let done = match self.migrate(&schema, false).await {
            Ok(()) => self.engine(schema).await,
            Err(failure) => Err(failure),
        };
        match done {
            Ok(engine) => {
                self.ui.say(&format!("reloaded `{}` in {} ms", self.path, started.elapsed().as_millis()));
                for sentence in serve::rust_procedures(engine.schema()) {
                    self.ui.warn(&sentence);
                }
                Some(engine)
            }
            Err(failure) => {
                self.ui.failure(&failure);
                self.ui.complain("the version before it keeps serving");
                None
            }
        }
    }

    /// Brings the database to the schema; asks before anything is lost.
    async fn migrate(&self, schema: &Schema, reset: bool) -> Result<(), Failure> {
        if self.database == Database::SqliteMemory {
            return Ok(());
        }
        let mut connection = Connection::open(&self.database).await?;
        let done = self.bring(&mut connection, schema, reset).await;
        connection.close().await;
        done
    }

    async fn bring(&self, connection: &mut Connection, schema: &Schema, reset: bool) -> Result<(), Failure> {
        if reset {
            migrate::reset(&mut connection.db()).await.map_err(|error| database::failure(&error))?;
        }
        let State::Applied(_) = database::state(connection).await? else {
            database::create(self.ui, connection, schema).await?;
            return Ok(());
        };
        let plan = migrate::plan(&mut connection.db(), schema).await.map_err(|error| database::failure(&error))?;
        if !plan.refuse.is_empty() {
            return Err(database::failure(&migrate::Error::Refused(plan.refuse)));
        }
        if !plan.loses.is_empty() && !self.agree(&plan.loses).await {
            return Err(Failure::new(format!("this edit would lose data: {}", plan.loses.join("; ")))
                .help("undo the edit, or start again with `--reset` to begin with an empty database"));
        }
        let mut bar = self.ui.progress("changing the database");
        let report: migrate::Report<'_> = &mut |at| bar.show(at.done, at.total, at.step);
        let done = migrate::apply_diff(&mut connection.db(), schema, &plan.loses, report).await;
        bar.clear();
        done.map_err(|error| database::failure(&error))?;
        for step in &plan.steps {
            self.ui.say(&format!("  {} {step}", self.ui.paint(Style::Dim, "database:")));
        }
        Ok(())
    }

    /// Asks at a terminal; elsewhere nobody can agree.
    async fn agree(&self, losses: &[String]) -> bool {
        if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
            return false;
        }
        for loss in losses {
            self.ui.warn(loss);
        }
        let asked = tokio::task::spawn_blocking(|| {
            let mut err = std::io::stderr().lock();
            let _shown = write!(err, "lose this data? [y/N] ").and_then(|()| err.flush());
            let mut line = String::new();
            std::io::stdin().lock().read_line(&mut line).is_ok_and(|_| matches!(line.trim(), "y" | "Y" | "yes"))
        });
        asked.await.unwrap_or(false)
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
            let body = attempt.body.as_ref().map(|body| {
                format!(" -H 'Content-Type: application/json' -d '{}'", body.replace('\'', r"'\''"))
            });
            format!(
                "curl -s{}{} '{base}{}{}'",
                token.unwrap_or_default(),
                body.unwrap_or_default(),
                serve::MOUNT,
                attempt.target
            )
        };
        tries.iter().map(line).collect()
    }
}

/// Sends a word for every change near the file. The folder is watched, since editors replace files by renaming.
fn watch(path: &Path, edits: mpsc::Sender<()>) -> Result<notify::RecommendedWatcher, Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        Failure::new(format!("cannot watch `{}`: {error}", path.display()))
            .help("raise the limit of inotify watches, or use `cratestack serve`")
    };
    let file = std::fs::canonicalize(path).map_err(|error| failed(&error))?;
    let name = file.file_name().map(std::ffi::OsStr::to_owned);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let ours = match &event {
            Ok(event) => {
                !event.kind.is_access() && event.paths.iter().any(|path| path.file_name() == name.as_deref())
            }
            Err(_) => true,
        };
        if ours {
            // A full channel already says that there is something to look at.
            let _full = edits.try_send(());
        }
    })
    .map_err(|error| failed(&error))?;
    let folder = file.parent().unwrap_or(Path::new("/"));
    watcher.watch(folder, notify::RecursiveMode::NonRecursive).map_err(|error| failed(&error))?;
    Ok(watcher)
}
