//! Events as lines of a file.

use std::ffi::OsString;
use std::fmt::{self, Debug};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cratestack_engine::relay::{AuditEvent, AuditSink, BoxFuture, SinkError};
use cratestack_engine::sources::{Clock, SystemClock};
use cratestack_schema::value::instant;
use tokio::sync::Mutex;

use super::{SetupError, cause};

/// Octets of a line at most: those of an entry, and the line feed.
const LINE: u64 = 65_536;

/// How a [`JsonLinesSink`] treats its file.
#[derive(Debug, Clone)]
pub struct FileOptions {
    /// The size in octets that the file does not exceed, unless a single event does: it is put aside then, and a new one
    /// begun. Default 100 MiB.
    pub rotate_at: u64,
    /// How many files that were put aside are kept; the oldest are deleted. Default: all.
    pub keep: Option<usize>,
    /// The clock from which files that are put aside have their names.
    pub clock: Arc<dyn Clock>,
}

impl Default for FileOptions {
    fn default() -> Self {
        Self { rotate_at: 100 << 20, keep: None, clock: Arc::new(SystemClock) }
    }
}

/// Appends each event's entry as a line to a file, and answers when it is on the disk.
///
/// - A file that is full is renamed: `audit.jsonl` becomes `audit-20260131T100000.000000Z.jsonl`. The new one has the
///   permissions of the one before; the first is its owner's alone.
/// - What a crash has left of a line is cut off at the next start. The event comes again, and others may, as with every
///   sink.
/// - One process writes: it holds a lock on `audit.jsonl.lock` for as long as the sink lives. On a network file system
///   that does not know locks, nothing else keeps two processes apart.
/// - Other programs may read the file, and rename or delete it: a new one is begun. They must not write to it; a tool
///   that copies and truncates it loses events.
pub struct JsonLinesSink {
    name: String,
    path: PathBuf,
    journal: Arc<Mutex<Journal>>,
}

impl JsonLinesSink {
    /// Opens the file, or makes it. Its folder must be there.
    ///
    /// # Errors
    /// When another process writes the file, when it does not end like one of ours, or when the operating system
    /// refuses.
    pub fn open(path: impl Into<PathBuf>, options: FileOptions) -> Result<Self, SetupError> {
        let path = path.into();
        let journal = Journal::open(&path, options)?;
        Ok(Self { name: "file".to_owned(), path, journal: Arc::new(Mutex::new(journal)) })
    }

    /// Sets the sink's name. Default: `file`.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }
}

impl Debug for JsonLinesSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JsonLinesSink").field("name", &self.name).field("path", &self.path).finish_non_exhaustive()
    }
}

impl AuditSink for JsonLinesSink {
    fn name(&self) -> &str {
        &self.name
    }

    fn deliver<'a>(&'a self, events: &'a [AuditEvent]) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(async move {
            let lines = lines(events)?;
            // Not inside of the blocking work: calls that are given up while the disk hangs must not pile up threads.
            let mut journal = Arc::clone(&self.journal).lock_owned().await;
            match tokio::task::spawn_blocking(move || journal.write(&lines)).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => {
                    let text = format!("`{}` cannot be written: {}", self.path.display(), cause(&error));
                    Err(SinkError::unavailable(text))
                }
                Err(_) => Err(SinkError::unavailable(format!("writing `{}` was interrupted", self.path.display()))),
            }
        })
    }
}

fn lines(events: &[AuditEvent]) -> Result<Vec<u8>, SinkError> {
    let mut lines = Vec::with_capacity(events.iter().map(|event| event.entry.len() + 1).sum());
    for event in events {
        if event.entry.contains('\n') {
            return Err(SinkError::refused("the entry has more than one line"));
        }
        lines.extend_from_slice(event.entry.as_bytes());
        lines.push(b'\n');
    }
    Ok(lines)
}

/// The file and those that were put aside.
struct Journal {
    path: PathBuf,
    options: FileOptions,
    /// `None` after a failure: the next write looks at the file anew.
    active: Option<Active>,
    _lock: File,
}

impl Journal {
    fn open(path: &Path, options: FileOptions) -> Result<Self, SetupError> {
        const HELP: &str = "name a file in a folder that this process may write to";
        let failed = |error: &io::Error| {
            SetupError::new(format!("the file `{}` cannot be used: {}", path.display(), cause(error)), HELP)
        };
        if path.file_name().is_none() {
            return Err(SetupError::new(format!("`{}` is no name of a file", path.display()), HELP));
        }
        let lock = private(OpenOptions::new().write(true).create(true).truncate(false))
            .open(with_suffix(path, ".lock"))
            .map_err(|error| failed(&error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(SetupError::new(
                    format!("another process writes the file `{}`", path.display()),
                    "give each process a file of its own",
                ));
            }
            Err(TryLockError::Error(error)) => return Err(failed(&error)),
        }
        let active = Active::open(path).map_err(|error| failed(&error))?;
        Ok(Self { path: path.to_owned(), options, active: Some(active), _lock: lock })
    }

    /// Writes whole lines, over as many files as they need. After an error some of them may be written.
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let done = self.try_write(lines);
        if done.is_err() {
            self.active = None;
        }
        done
    }

    fn try_write(&mut self, lines: &[u8]) -> io::Result<()> {
        let limit = self.options.rotate_at;
        let mut rest = lines;
        while !rest.is_empty() {
            let active = self.active()?;
            let (now, later) = rest.split_at(fitting(rest, limit, active.len));
            active.append(now)?;
            if !later.is_empty() {
                self.rotate()?;
            }
            rest = later;
        }
        Ok(())
    }

    /// The open file, if that is still what stands at the path; else what stands there now, or a new one.
    fn active(&mut self) -> io::Result<&mut Active> {
        let active = match self.active.take() {
            Some(active) if active.stands_at(&self.path) => active,
            _ => Active::open(&self.path)?,
        };
        Ok(self.active.insert(active))
    }

    /// Puts the file aside and begins a new one.
    fn rotate(&mut self) -> io::Result<()> {
        let permissions = self.active()?.file.metadata()?.permissions();
        fs::rename(&self.path, self.aside()?)?;
        let active = Active::open(&self.path)?;
        active.file.set_permissions(permissions)?;
        self.active = Some(active);
        if let Some(keep) = self.options.keep
            && let Err(error) = self.delete_all_but(keep)
        {
            tracing::warn!(error = cause(&error), "old files of events cannot be deleted");
        }
        Ok(())
    }

    /// A name that is free. It sorts by time.
    fn aside(&self) -> io::Result<PathBuf> {
        let now = self.options.clock.now();
        let names = (now..).map(|micros| {
            let time = instant::from_unix_micros(micros).unwrap_or_else(|| micros.to_string());
            let (before, after) = self.around();
            let mut name = before;
            name.push(time.replace(['-', ':'], ""));
            name.push(after);
            self.path.with_file_name(name)
        });
        // More than one file in a microsecond is a clock that stands still.
        names.take(1000).find(|path| !path.exists()).ok_or_else(|| io::Error::other("no name is free to put it aside"))
    }

    /// What stands around the time in the names of files that were put aside.
    fn around(&self) -> (OsString, OsString) {
        let mut before = self.path.file_stem().map(OsString::from).unwrap_or_default();
        before.push("-");
        let mut after = OsString::new();
        if let Some(extension) = self.path.extension() {
            after.push(".");
            after.push(extension);
        }
        (before, after)
    }

    fn delete_all_but(&self, keep: usize) -> io::Result<()> {
        let (before, after) = self.around();
        let (before, after) = (before.to_string_lossy(), after.to_string_lossy());
        let mut names = Vec::new();
        for entry in fs::read_dir(folder(&self.path))? {
            let name = entry?.file_name();
            let text = name.to_string_lossy();
            let time = text.strip_prefix(&*before).and_then(|rest| rest.strip_suffix(&*after));
            if time.is_some_and(is_time) {
                names.push(name);
            }
        }
        names.sort();
        names.truncate(names.len().saturating_sub(keep));
        names.iter().try_for_each(|name| fs::remove_file(self.path.with_file_name(name)))
    }
}

/// Whether this is the time in the name of a file that was put aside: other files must not be deleted.
fn is_time(text: &str) -> bool {
    let shape = |c: char| if c.is_ascii_digit() { '0' } else { c };
    text.chars().map(shape).eq("00000000T000000.000000Z".chars())
}

/// How many octets of `lines` go into a file of `len`: whole lines, and one at least when it is empty.
fn fitting(lines: &[u8], limit: u64, len: u64) -> usize {
    let mut fit = 0;
    for line in lines.split_inclusive(|octet| *octet == b'\n') {
        let end = fit + line.len();
        let empty = len == 0 && fit == 0;
        if !empty && len.saturating_add(end as u64) > limit {
            break;
        }
        fit = end;
    }
    fit
}

/// The file that is written.
struct Active {
    file: File,
    /// Octets that are known to be on the disk.
    len: u64,
}

impl Active {
    fn open(path: &Path) -> io::Result<Self> {
        let file = private(OpenOptions::new().read(true).append(true).create(true)).open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is no regular file"));
        }
        let len = repaired(&file)?;
        file.sync_all()?;
        sync_folder(path)?;
        Ok(Self { file, len })
    }

    /// Puts whole lines on the disk, or takes back what it has of them.
    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        let done = self.file.write_all(lines).and_then(|()| self.file.sync_data());
        match done {
            Ok(()) => self.len += lines.len() as u64,
            // Also after a failed sync: the system takes those pages for written, and would not write them again.
            Err(_) => drop(self.file.set_len(self.len)),
        }
        done
    }

    #[cfg(unix)]
    fn stands_at(&self, path: &Path) -> bool {
        use std::os::unix::fs::MetadataExt as _;
        let same = |ours: fs::Metadata, there: fs::Metadata| ours.dev() == there.dev() && ours.ino() == there.ino();
        self.file.metadata().ok().zip(fs::metadata(path).ok()).is_some_and(|(ours, there)| same(ours, there))
    }

    #[cfg(not(unix))]
    fn stands_at(&self, path: &Path) -> bool {
        path.exists()
    }
}

/// Cuts off what a crash has left of a line; the length that remains.
fn repaired(mut file: &File) -> io::Result<u64> {
    let len = file.metadata()?.len();
    let from = len.saturating_sub(LINE);
    file.seek(SeekFrom::Start(from))?;
    let mut end = Vec::new();
    file.take(LINE).read_to_end(&mut end)?;
    let kept = end.iter().rposition(|octet| *octet == b'\n').map_or(0, |at| at + 1);
    match end.get(kept) {
        None => return Ok(len),
        // An event begins like this, or the file system had made room for one. Anything else is not ours to cut.
        Some(b'{' | 0) if kept > 0 || from == 0 => {}
        Some(_) => return Err(io::Error::other("it does not end with a line of events; move it away")),
    }
    let kept = from + kept as u64;
    file.set_len(kept)?;
    tracing::warn!(octets = len - kept, "cut off what a crash has left of a line of the file of events");
    Ok(kept)
}

/// Makes the names in the file's folder durable.
fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder(path))?.sync_all() } else { Ok(()) }
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// A file that is made is its owner's alone.
fn private(options: &mut OpenOptions) -> &OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;
    use crate::sinks::testing::event;

    /// 2026-01-31T10:00:00Z, and a second more with each look.
    #[derive(Debug)]
    struct Ticking(AtomicI64);

    impl Clock for Ticking {
        fn now(&self) -> i64 {
            self.0.fetch_add(1_000_000, Ordering::SeqCst)
        }
    }

    fn options(rotate_at: u64, keep: Option<usize>) -> FileOptions {
        FileOptions { rotate_at, keep, clock: Arc::new(Ticking(AtomicI64::new(1_769_853_600_000_000))) }
    }

    /// A folder, and the path of a file in it.
    fn place() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        (folder, path)
    }

    fn names(folder: &tempfile::TempDir) -> Vec<String> {
        let names = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| name != "audit.jsonl.lock").collect();
        names.sort();
        names
    }

    fn text(events: &[AuditEvent]) -> String {
        events.iter().flat_map(|event| [event.entry.as_str(), "\n"]).collect()
    }

    #[tokio::test]
    async fn entries_are_lines_to_the_octet() {
        let (folder, path) = place();
        let sink = JsonLinesSink::open(&path, FileOptions::default()).unwrap();
        assert_eq!(sink.name(), "file");
        let events = [event(1, "a"), event(2, "ä\u{2028}")];
        sink.deliver(&events).await.unwrap();
        sink.deliver(&events[..1]).await.unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), text(&events) + &text(&events[..1]));
        // Another start goes on behind them.
        drop(sink);
        JsonLinesSink::open(&path, FileOptions::default()).unwrap().deliver(&events[1..]).await.unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 4);
        assert_eq!(names(&folder), ["audit.jsonl"]);
        let two = AuditEvent { entry: "{}\n{}".to_owned(), ..event(1, "a") };
        let sink = JsonLinesSink::open(folder.path().join("other"), FileOptions::default()).unwrap();
        assert!(!sink.deliver(&[two]).await.unwrap_err().is_unavailable());
    }

    #[tokio::test]
    async fn a_full_file_is_put_aside() {
        let (folder, path) = place();
        let events: Vec<AuditEvent> = (1..=5).map(|seq| event(seq, "a")).collect();
        let line = events[0].entry.len() as u64 + 1;
        let sink = JsonLinesSink::open(&path, options(2 * line, None)).unwrap();
        // Over three files in one go.
        sink.deliver(&events).await.unwrap();
        let all = ["audit-20260131T100000.000000Z.jsonl", "audit-20260131T100001.000000Z.jsonl", "audit.jsonl"];
        assert_eq!(names(&folder), all);
        let read = all.map(|name| fs::read_to_string(folder.path().join(name)).unwrap());
        assert_eq!(read, [text(&events[..2]), text(&events[2..4]), text(&events[4..])]);
        // A start counts what is there already.
        drop(sink);
        let sink = JsonLinesSink::open(&path, options(2 * line, None)).unwrap();
        sink.deliver(&events[..2]).await.unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), text(&events[1..2]));
        // The time of the first file was taken already.
        assert!(names(&folder).contains(&"audit-20260131T100000.000001Z.jsonl".to_owned()));
    }

    #[tokio::test]
    async fn an_event_larger_than_the_limit_has_a_file_of_its_own() {
        let (folder, path) = place();
        let sink = JsonLinesSink::open(&path, options(1, None)).unwrap();
        sink.deliver(&[event(1, "a"), event(2, "b")]).await.unwrap();
        assert_eq!(names(&folder).len(), 2);
        assert_eq!(fs::read_to_string(&path).unwrap(), text(&[event(2, "b")]));
    }

    #[tokio::test]
    async fn the_oldest_files_are_deleted_and_no_others() {
        let (folder, path) = place();
        fs::write(folder.path().join("audit-notes.jsonl"), "mine").unwrap();
        fs::write(folder.path().join("audit-20260131T100000.000000Z.txt"), "mine").unwrap();
        let sink = JsonLinesSink::open(&path, options(1, Some(2))).unwrap();
        for seq in 1..=6 {
            sink.deliver(&[event(seq, "a")]).await.unwrap();
        }
        let kept = [
            "audit-20260131T100000.000000Z.txt",
            "audit-20260131T100003.000000Z.jsonl",
            "audit-20260131T100004.000000Z.jsonl",
            "audit-notes.jsonl",
            "audit.jsonl",
        ];
        assert_eq!(names(&folder), kept);
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn permissions_are_the_owners_and_then_those_of_the_file_before() {
        use std::os::unix::fs::PermissionsExt as _;
        let (_folder, path) = place();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let sink = JsonLinesSink::open(&path, options(1, None)).unwrap();
        assert_eq!(mode(&path), 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        sink.deliver(&[event(1, "a"), event(2, "a")]).await.unwrap();
        assert_eq!(mode(&path), 0o640);
    }

    #[tokio::test]
    async fn what_a_crash_has_left_of_a_line_is_cut_off() {
        let (_folder, path) = place();
        let whole = text(&[event(1, "a")]);
        let long = format!("{{{}", "x".repeat(60_000));
        for (there, left) in [
            (format!("{whole}{{\"event"), whole.as_str()),
            (format!("{whole}{long}"), &whole),
            (format!("{whole}\0\0\0"), &whole),
            ("{\"event".to_owned(), ""),
            (long, ""),
            (whole.clone(), &whole),
            (String::new(), ""),
        ] {
            fs::write(&path, &there).unwrap();
            let sink = JsonLinesSink::open(&path, FileOptions::default()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), left);
            sink.deliver(&[event(2, "a")]).await.unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), format!("{left}{}", text(&[event(2, "a")])));
        }
    }

    #[test]
    fn files_that_are_not_ours_are_left_alone() {
        let (folder, path) = place();
        for foreign in ["notes".to_owned(), "notes\nmore".to_owned(), format!("{{}}\n{{{}", "x".repeat(70_000))] {
            fs::write(&path, &foreign).unwrap();
            let error = JsonLinesSink::open(&path, FileOptions::default()).unwrap_err();
            assert!(error.to_string().ends_with("it does not end with a line of events; move it away"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), foreign);
        }
        let error = JsonLinesSink::open(folder.path(), FileOptions::default()).unwrap_err();
        assert!(error.to_string().contains("cannot be used"), "{error}");
        let error = JsonLinesSink::open(folder.path().join("no/audit.jsonl"), FileOptions::default()).unwrap_err();
        assert!(error.to_string().ends_with("no such file or directory"), "{error}");
        assert!(JsonLinesSink::open("/", FileOptions::default()).is_err());
    }

    #[tokio::test]
    async fn one_sink_writes() {
        let (_folder, path) = place();
        let first = JsonLinesSink::open(&path, options(1, None)).unwrap();
        let taken = || JsonLinesSink::open(&path, options(1, None)).unwrap_err();
        assert_eq!(taken().to_string(), format!("another process writes the file `{}`", path.display()));
        // Nor does a rotation open a gap.
        first.deliver(&[event(1, "a"), event(2, "a")]).await.unwrap();
        taken();
        drop(first);
        JsonLinesSink::open(&path, options(1, None)).unwrap();
    }

    #[tokio::test]
    async fn a_file_that_somebody_has_moved_or_deleted_is_begun_anew() {
        let (folder, path) = place();
        let sink = JsonLinesSink::open(&path, FileOptions::default()).unwrap();
        sink.deliver(&[event(1, "a")]).await.unwrap();
        let moved = folder.path().join("moved");
        fs::rename(&path, &moved).unwrap();
        sink.deliver(&[event(2, "a")]).await.unwrap();
        assert_eq!(fs::read_to_string(&moved).unwrap(), text(&[event(1, "a")]));
        assert_eq!(fs::read_to_string(&path).unwrap(), text(&[event(2, "a")]));
        fs::remove_file(&path).unwrap();
        sink.deliver(&[event(3, "a")]).await.unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), text(&[event(3, "a")]));
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_full_disk_is_the_sinks_trouble_and_goes_by() {
        let (_folder, path) = place();
        let sink = JsonLinesSink::open(&path, FileOptions::default()).unwrap();
        sink.deliver(&[event(1, "a")]).await.unwrap();
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut active = Active { file: full, len: 0 };
        assert_eq!(active.append(b"{}\n").unwrap_err().kind(), io::ErrorKind::StorageFull);
        // Through the sink: its file can no longer be found, and another cannot be made.
        let folder = path.parent().unwrap().to_owned();
        let away = folder.with_extension("away");
        fs::rename(&folder, &away).unwrap();
        let error = sink.deliver(&[event(2, "a")]).await.unwrap_err();
        assert!(error.is_unavailable());
        assert_eq!(error.message(), format!("`{}` cannot be written: no such file or directory", path.display()));
        fs::rename(&away, &folder).unwrap();
        sink.deliver(&[event(2, "a")]).await.unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), text(&[event(1, "a"), event(2, "a")]));
    }

    #[test]
    fn a_write_that_fails_half_way_is_taken_back() {
        let (_folder, path) = place();
        fs::write(&path, "{}\n").unwrap();
        let mut active = Active::open(&path).unwrap();
        // As if the disk had been full after a part of the lines.
        active.file.write_all(b"{\"half").unwrap();
        active.file = File::open(&path).unwrap();
        assert!(active.append(b"{}\n").is_err(), "it is open for reading alone");
        // What could not be taken back is cut off at the next look.
        Active::open(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{}\n");
    }
}
