//! What libcontainer's processes report when something fails.
//!
//! The one that fails first is closest to the cause, and may be a forked
//! process: so reports go into a file in memory that all of them have open.

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;

use nix::sys::memfd::{MemFdCreateFlag, memfd_create};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Longest report that is told on, in characters.
const LONGEST: usize = 1000;

/// The file.
pub struct Causes(File);

impl Causes {
    /// Has errors be collected from now on, in this process and its children.
    pub fn collect() -> io::Result<Self> {
        let file: OwnedFd = memfd_create(c"causes", MemFdCreateFlag::MFD_CLOEXEC)?;
        let file = File::from(file);
        let collector = Collector(file.try_clone()?);
        tracing::subscriber::set_global_default(collector).map_err(io::Error::other)?;
        Ok(Self(file))
    }

    /// The first report.
    pub fn first(&self) -> Option<String> {
        let mut file = &self.0;
        let mut text = String::new();
        file.rewind().ok()?;
        file.take(1 << 16).read_to_string(&mut text).ok()?;
        let line = text.lines().next()?;
        Some(line.chars().take(LONGEST).collect())
    }
}

/// Listens to errors alone.
struct Collector(File);

impl Subscriber for Collector {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() == Level::ERROR
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        let text = format!("{}{}", line.message, line.fields).replace('\n', " ");
        // One write: forked processes share the position. It is in memory.
        let _ = (&self.0).write_all(format!("{text}\n").as_bytes());
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// "message (field: value) (field: value)".
#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing into a string cannot fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " ({name}: {value:?})"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_error_is_told_in_one_line() {
        let file = File::from(memfd_create(c"causes", MemFdCreateFlag::MFD_CLOEXEC).unwrap());
        let collector = Collector(file.try_clone().unwrap());
        let causes = Causes(file);
        assert_eq!(causes.first(), None);
        tracing::subscriber::with_default(collector, || {
            tracing::info!("setting out");
            tracing::error!(path = ?"/proc", "failed\nto mount");
            tracing::error!("failed to prepare");
        });
        assert_eq!(causes.first().unwrap(), "failed to mount (path: \"/proc\")");
    }
}
