//! A private PostgreSQL for one test run, or the server that the environment names.
//!
//! The private server lives in a temporary folder, listens on a free loopback port with a password of its own, and
//! never outlives the run: a guardian process holds the reading end of a pipe whose writing end is ours, so it stops
//! the server and removes the folder however this process ends, by Ctrl-C and SIGKILL too.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::run;

/// The oldest major version that knows ICU databases.
const OLDEST: u32 = 15;

/// What the guardian runs; `$1` is `pg_ctl`, `$2` the temporary folder, the rest a prefix that drops root.
const GUARDIAN: &str = r#"
pg_ctl=$1; folder=$2; shift 2
trap '' INT TERM HUP
cat >/dev/null
if [ -f "$folder/data/postmaster.pid" ]; then "$@" "$pg_ctl" -D "$folder/data" -m immediate stop >/dev/null 2>&1; fi
rm -rf "$folder"
"#;

/// For every server: private, small, and no parallel plans.
const SETTINGS: &str = "
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 300
wal_level = minimal
max_wal_senders = 0
max_parallel_workers_per_gather = 0
log_min_messages = panic
";

/// What a server is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Durability off: a crash of the machine loses nothing that matters.
    Tests,
    /// Durability on, as in production.
    Bench,
}

impl Purpose {
    fn settings(self) -> &'static str {
        match self {
            Self::Tests => "shared_buffers = 64MB\nfsync = off\nsynchronous_commit = off\nfull_page_writes = off\n",
            Self::Bench => "shared_buffers = 256MB\nfsync = on\nsynchronous_commit = on\n",
        }
    }
}

/// A server to test against. A private one ends when this value is dropped.
pub(crate) struct Server {
    /// URL of its `postgres` database, as a superuser or as whatever role the environment gave.
    pub(crate) url: String,
    /// Where its programs are; empty for a server that the environment names.
    pub(crate) programs: PathBuf,
    guardian: Option<Child>,
}

impl Server {
    /// The server that the environment names, else a private one.
    pub(crate) fn get() -> Result<Self, String> {
        for name in ["CRATESTACK_TEST_POSTGRES", "DATABASE_URL"] {
            if let Ok(url) = std::env::var(name)
                && (url.starts_with("postgres://") || url.starts_with("postgresql://"))
            {
                println!("postgresql: using the server of {name}");
                return Ok(Self { url, programs: PathBuf::new(), guardian: None });
            }
        }
        Self::private(Purpose::Tests)
    }

    /// A private server, whatever the environment names.
    pub(crate) fn private(purpose: Purpose) -> Result<Self, String> {
        let programs = match Programs::find() {
            Some(programs) => programs,
            None => install()?,
        };
        Self::start(&programs, purpose)
    }

    fn start(programs: &Programs, purpose: Purpose) -> Result<Self, String> {
        println!("postgresql: starting a private {} from {}", programs.version, programs.folder.display());
        let owner = Owner::choose()?;
        let folder = make_folder()?;
        let password = random_hex()?;
        let mut guardian = spawn_guardian(programs, &owner, &folder)?;
        let started = initialise(programs, &owner, &folder, &password, purpose)
            .and_then(|()| start_on_free_port(programs, &owner, &folder));
        match started {
            Ok(port) => {
                println!("postgresql: listening on 127.0.0.1:{port}");
                let url = format!("postgres://postgres:{password}@127.0.0.1:{port}/postgres");
                Ok(Self { url, programs: programs.folder.clone(), guardian: Some(guardian) })
            }
            Err(error) => {
                end_guardian(&mut guardian);
                Err(error)
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(guardian) = &mut self.guardian {
            println!("postgresql: stopping the private server");
            end_guardian(guardian);
        }
    }
}

/// Closing the pipe is the signal.
fn end_guardian(guardian: &mut Child) {
    drop(guardian.stdin.take());
    let _ = guardian.wait();
}

/// The server's programs.
struct Programs {
    folder: PathBuf,
    version: String,
}

impl Programs {
    fn find() -> Option<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let on_path = std::env::split_paths(&path).collect();
        [on_path, versioned("/usr/lib/postgresql"), versioned("/opt/homebrew/opt")]
            .into_iter()
            .flatten()
            .filter(|folder| ["postgres", "initdb", "pg_ctl"].iter().all(|name| folder.join(name).is_file()))
            .find_map(|folder| {
                let version = run::captured(Command::new(folder.join("postgres")).arg("--version")).ok()?;
                let version = version.trim().trim_start_matches("postgres ").to_owned();
                (major(&version)? >= OLDEST).then_some(Self { folder, version })
            })
    }

    fn get(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// `<parent>/*/bin`, the newest version first.
fn versioned(parent: &str) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(parent)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            let number = name.trim_start_matches("postgresql@").parse::<u32>().ok()?;
            Some((number, entry.path().join("bin")))
        })
        .collect();
    found.sort();
    found.into_iter().rev().map(|(_, folder)| folder).collect()
}

/// `15` of `(PostgreSQL) 15.14 (Debian ..)`.
fn major(version: &str) -> Option<u32> {
    let number = version.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Installs PostgreSQL where that is ours to do.
fn install() -> Result<Programs, String> {
    if !run::install("postgresql")? {
        return Err(format!(
            "PostgreSQL {OLDEST} or newer is not installed, and these tests need it\n\
             install it:      sudo apt-get install postgresql      (or your system's package)\n\
             or use a server: CRATESTACK_TEST_POSTGRES=postgres://user:password@host/postgres cargo xtask test\n\
             or leave it out: cargo xtask test --only sqlite"
        ));
    }
    Programs::find().ok_or_else(|| {
        format!("apt-get installed PostgreSQL, but no version of {OLDEST} or newer is in /usr/lib/postgresql/*/bin")
    })
}

/// Who runs the server: it refuses to run as root.
struct Owner {
    user: Option<String>,
}

impl Owner {
    fn choose() -> Result<Self, String> {
        if !run::is_root() {
            return Ok(Self { user: None });
        }
        ["postgres", "nobody"]
            .into_iter()
            .find(|user| run::succeeds(Command::new("id").arg(user)))
            .map(|user| Self { user: Some(user.to_owned()) })
            .ok_or_else(|| "PostgreSQL does not run as root, and there is no user `postgres` or `nobody`".to_owned())
    }

    /// The words in front of a command that make it run as this user.
    fn prefix(&self) -> Vec<String> {
        match &self.user {
            None => vec!["env".to_owned()],
            Some(user) if run::succeeds(Command::new("setpriv").arg("--version")) => {
                let group = run::captured(Command::new("id").args(["-g", user])).unwrap_or_default();
                let group = format!("--regid={}", group.trim());
                vec!["setpriv".to_owned(), format!("--reuid={user}"), group, "--clear-groups".to_owned()]
            }
            Some(user) => vec!["runuser".to_owned(), "-u".to_owned(), user.clone(), "--".to_owned()],
        }
    }

    fn command(&self, program: &Path, folder: &Path) -> Command {
        let prefix = self.prefix();
        let mut command = Command::new(prefix.first().map_or("env", String::as_str));
        command.args(prefix.get(1..).unwrap_or_default()).arg(program).current_dir(folder);
        command
    }

    fn give(&self, folder: &Path) -> Result<(), String> {
        match &self.user {
            None => Ok(()),
            Some(user) => run::captured(Command::new("chown").args(["-R", user]).arg(folder)).map(drop),
        }
    }
}

/// A new folder that others cannot look into.
fn make_folder() -> Result<PathBuf, String> {
    let folder = std::env::temp_dir().join(format!("xtask-postgres-{}", random_hex()?));
    fs::create_dir(&folder).map_err(|error| format!("{} could not be made: {error}", folder.display()))?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))
            .map_err(|error| format!("{} could not be closed to others: {error}", folder.display()))?;
    }
    Ok(folder)
}

fn random_hex() -> Result<String, String> {
    let mut bytes = [0u8; 16];
    fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|error| format!("/dev/urandom could not be read: {error}"))?;
    Ok(u128::from_be_bytes(bytes)).map(|number| format!("{number:032x}"))
}

fn spawn_guardian(programs: &Programs, owner: &Owner, folder: &Path) -> Result<Child, String> {
    // A session of its own: Ctrl-C on the terminal reaches neither it nor the server.
    let mut command = Command::new("setsid");
    command.args(["sh", "-c", GUARDIAN, "guardian"]).arg(programs.get("pg_ctl")).arg(folder).args(owner.prefix());
    command
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("`setsid` could not start: {error}"))
}

fn initialise(
    programs: &Programs,
    owner: &Owner,
    folder: &Path,
    password: &str,
    purpose: Purpose,
) -> Result<(), String> {
    let password_file = folder.join("password");
    let write = |path: &Path, text: &str| {
        fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(|error| format!("{} could not be written: {error}", path.display()))
    };
    write(&password_file, password)?;
    owner.give(folder)?;
    let data = folder.join("data");
    // md5 and not scram: the password is random and the listener is loopback, while scram's key derivation would
    // be paid thousands of times in a run.
    run::captured(
        owner
            .command(&programs.get("initdb"), folder)
            .args(["--username=postgres", "--auth=md5", "--encoding=UTF8", "--no-locale", "--no-sync"])
            // Every database sorts as people do, which shows a missing `COLLATE "C"`.
            .args(["--locale-provider=icu", "--icu-locale=en-US"])
            .arg(format!("--pwfile={}", password_file.display()))
            .arg("--pgdata")
            .arg(&data),
    )?;
    write(&data.join("postgresql.conf"), &format!("{SETTINGS}{}", purpose.settings()))
}

/// Another program may take the port between our look and the server's start: then look again.
fn start_on_free_port(programs: &Programs, owner: &Owner, folder: &Path) -> Result<u16, String> {
    let mut last = String::new();
    for _ in 0..5 {
        let port = TcpListener::bind(("127.0.0.1", 0))
            .and_then(|listener| listener.local_addr())
            .map_err(|error| format!("no free port on 127.0.0.1: {error}"))?
            .port();
        let mut command = owner.command(&programs.get("pg_ctl"), folder);
        command.arg("-D").arg(folder.join("data")).arg("-l").arg(folder.join("log")).args(["-w", "-t", "60"]);
        command.arg("-o").arg(format!("-p {port}")).arg("start");
        // Not captured: the server keeps pg_ctl's standard output open.
        match command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status() {
            Ok(status) if status.success() => return Ok(port),
            Ok(_) => last = fs::read_to_string(folder.join("log")).unwrap_or_default(),
            Err(error) => last = error.to_string(),
        }
    }
    Err(format!("the private PostgreSQL did not start:\n{last}"))
}

#[cfg(test)]
mod tests {
    use super::major;

    #[test]
    fn major_versions_are_read_from_what_postgres_prints() {
        assert_eq!(major("(PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)"), Some(15));
        assert_eq!(major("(PostgreSQL) 18beta1"), Some(18));
        assert_eq!(major("nothing"), None);
    }
}
