//! The log: one line for each event, in Firecracker's format, on standard error or in a file.
//!
//! What a guest does can cause lines. A hostile guest could fill the disk with them, so that lines beyond
//! [`BURST`] a second are counted instead of written.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use koya_api::config::LogLevel;
use log::{LevelFilter, Log, Metadata, Record};

use crate::time::LocalTime;

/// Lines written in a second at most: plenty for people, little for a disk.
const BURST: u32 = 200;
/// The length of the window in which they are counted.
const WINDOW: Duration = Duration::from_secs(1);

/// The log cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum LoggerError {
    /// Not a level.
    #[error("'{0}' is no log level: use Off, Error, Warn, Info, Debug or Trace")]
    Level(String),
    /// The file cannot be opened.
    #[error("cannot open the log file {}", path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What a logger is told; what is `None` stays as it was.
#[derive(Debug, Default)]
pub struct LoggerUpdate {
    /// Append to this file or pipe.
    pub path: Option<PathBuf>,
    /// Least important level that is written.
    pub level: Option<LevelFilter>,
    /// Only this module and those below it.
    pub module: Option<String>,
    /// Show the level.
    pub show_level: Option<bool>,
    /// Show file and line.
    pub show_origin: Option<bool>,
}

/// Reads a level as Firecracker's clients write it.
pub fn parse_level(text: &str) -> Result<LevelFilter, LoggerError> {
    // Firecracker says "Warning" where everybody else says "Warn".
    let name = if text.eq_ignore_ascii_case("warning") {
        "warn"
    } else {
        text
    };
    LevelFilter::from_str(name).map_err(|_| LoggerError::Level(text.chars().take(32).collect()))
}

/// The process's logger.
pub struct Logger {
    id: OnceLock<String>,
    sink: Mutex<Sink>,
}

#[derive(Default)]
struct Sink {
    file: Option<File>,
    module: Option<String>,
    show_level: bool,
    show_origin: bool,
    window: Option<Instant>,
    written: u32,
    suppressed: u64,
}

static LOGGER: Logger = Logger {
    id: OnceLock::new(),
    sink: Mutex::new(Sink {
        file: None,
        module: None,
        show_level: false,
        show_origin: false,
        window: None,
        written: 0,
        suppressed: 0,
    }),
};

/// Starts logging for the instance `id`.
pub fn init(id: &str) {
    // Both fail only when called twice, and then the first call counts.
    let _ = LOGGER.id.set(id.to_owned());
    let _ = log::set_logger(&LOGGER);
    log::set_max_level(LevelFilter::Info);
}

/// Changes how the log is written.
pub fn update(update: LoggerUpdate) -> Result<(), LoggerError> {
    let file = update.path.as_deref().map(open).transpose()?;
    let mut sink = LOGGER.sink.lock().unwrap_or_else(PoisonError::into_inner);
    sink.file = file.or_else(|| sink.file.take());
    sink.module = update.module.or_else(|| sink.module.take());
    sink.show_level = update.show_level.unwrap_or(sink.show_level);
    sink.show_origin = update.show_origin.unwrap_or(sink.show_origin);
    if let Some(level) = update.level {
        log::set_max_level(level);
    }
    Ok(())
}

/// Whether the log goes to a file.
pub fn has_file() -> bool {
    LOGGER
        .sink
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .file
        .is_some()
}

fn open(path: &Path) -> Result<File, LoggerError> {
    crate::sink::open(path).map_err(|source| LoggerError::Open {
        path: path.to_owned(),
        source,
    })
}

impl Sink {
    /// Counts a line; says whether it may be written, and how many were not since the last that was.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        if self
            .window
            .is_none_or(|start| now.duration_since(start) >= WINDOW)
        {
            self.window = Some(now);
            self.written = 0;
        }
        if self.written >= BURST {
            self.suppressed = self.suppressed.saturating_add(1);
            return None;
        }
        self.written = self.written.saturating_add(1);
        Some(std::mem::take(&mut self.suppressed))
    }

    fn wants(&self, record: &Record<'_>) -> bool {
        match (&self.module, record.module_path()) {
            (Some(module), Some(path)) => path.starts_with(module.as_str()),
            (Some(_), None) => false,
            (None, _) => true,
        }
    }

    fn format(&self, id: &str, record: &Record<'_>, suppressed: u64) -> String {
        let thread = std::thread::current();
        let mut tags = String::new();
        if self.show_level {
            tags.push_str(&format!(":{}", record.level()));
        }
        if self.show_origin {
            let (file, line) = (record.file().unwrap_or("?"), record.line().unwrap_or(0));
            tags.push_str(&format!(":{file}:{line}"));
        }
        let lost = match suppressed {
            0 => String::new(),
            lines => format!(" [{lines} lines were left out before this one]"),
        };
        let thread = thread.name().unwrap_or("-");
        format!(
            "{} [{id}:{thread}{tags}] {}{lost}\n",
            LocalTime::now(),
            record.args()
        )
    }
}

impl Sink {
    /// Writes a line without ever waiting for a reader: the guest would wait, too.
    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        match &mut self.file {
            // Opened so that it does not block.
            Some(file) => file.write_all(line),
            None if stderr_takes_a_line(Duration::ZERO) => io::stderr().write_all(line),
            None => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

/// Whether standard error has room for a line within `patience`. A pipe that has any has it for PIPE_BUF bytes (pipe(7)).
pub fn stderr_takes_a_line(patience: Duration) -> bool {
    let mut asked = libc::pollfd {
        fd: libc::STDERR_FILENO,
        events: libc::POLLOUT,
        revents: 0,
    };
    let milliseconds = libc::c_int::try_from(patience.as_millis()).unwrap_or(libc::c_int::MAX);
    // SAFETY: one initialised pollfd, as said.
    let ready = unsafe { libc::poll(&raw mut asked, 1, milliseconds) };
    ready > 0
}

impl Log for Logger {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
        if !sink.wants(record) {
            return;
        }
        let Some(suppressed) = sink.admit(Instant::now()) else {
            return;
        };
        let id = self.id.get().map_or("", String::as_str);
        let line = sink.format(id, record, suppressed);
        // A log that cannot be written must not stop the guest.
        if sink.write(line.as_bytes()).is_err() {
            sink.suppressed = suppressed.saturating_add(1);
        }
    }

    fn flush(&self) {}
}

/// The level of the configuration as the log knows it.
pub fn level_filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Off => LevelFilter::Off,
        LogLevel::Error => LevelFilter::Error,
        LogLevel::Warn => LevelFilter::Warn,
        LogLevel::Info => LevelFilter::Info,
        LogLevel::Debug => LevelFilter::Debug,
        LogLevel::Trace => LevelFilter::Trace,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_read_as_clients_write_them() {
        assert_eq!(parse_level("Warning").unwrap(), LevelFilter::Warn);
        assert_eq!(parse_level("debug").unwrap(), LevelFilter::Debug);
        assert_eq!(parse_level("OFF").unwrap(), LevelFilter::Off);
        assert!(parse_level("loud").unwrap_err().to_string().contains("'loud'"));
    }

    #[test]
    fn a_flood_is_counted_instead_of_written() {
        let mut sink = Sink::default();
        let start = Instant::now();
        let admitted = (0..BURST + 50).filter(|_| sink.admit(start).is_some()).count();
        assert_eq!(admitted, BURST as usize);
        assert_eq!(sink.admit(start + WINDOW), Some(50));
        assert_eq!(sink.admit(start + WINDOW), Some(0));
    }

    #[test]
    fn a_line_has_firecrackers_format() {
        let sink = Sink {
            show_level: true,
            show_origin: true,
            ..Sink::default()
        };
        let record = Record::builder()
            .args(format_args!("Hello"))
            .level(log::Level::Error)
            .file(Some("app.rs"))
            .line(Some(200))
            .build();
        let line = sink.format("vm1", &record, 0);
        let (time, rest) = line.split_once(" [").unwrap();
        assert_eq!(time.len(), "2026-01-01T00:00:00.000000000".len());
        let thread = std::thread::current();
        assert_eq!(
            rest,
            format!("vm1:{}:ERROR:app.rs:200] Hello\n", thread.name().unwrap())
        );
    }

    #[test]
    fn a_module_filter_lets_its_children_pass() {
        let sink = Sink {
            module: Some("koya_vmm::kvm".into()),
            ..Sink::default()
        };
        let from = |module| Record::builder().module_path(Some(module)).build();
        assert!(sink.wants(&from("koya_vmm::kvm::vm")));
        assert!(!sink.wants(&from("koya_api")));
    }
}
