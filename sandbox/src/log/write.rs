//! Keeping what a container writes.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{PIECE, Stream, path};
use crate::state::LogSettings;

/// Writes the log of a container.
pub(crate) struct Writer {
    folder: PathBuf,
    settings: LogSettings,
    file: File,
    size: u64,
    /// What has come of a line that is not complete, for each stream.
    begun: [Vec<u8>; 2],
}

impl Writer {
    /// Goes on with the log in `folder`; `None` if none is to be kept.
    pub fn open(folder: &Path, settings: &LogSettings) -> io::Result<Option<Self>> {
        if settings.max_size == 0 {
            return Ok(None);
        }
        let file = append(&path(folder, 0))?;
        Ok(Some(Self {
            folder: folder.to_owned(),
            settings: settings.clone(),
            size: file.metadata()?.len(),
            file,
            begun: Default::default(),
        }))
    }

    /// Takes what came, and writes the lines that are complete by it.
    pub fn take(&mut self, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        let mut text = Vec::with_capacity(bytes.len().saturating_add(128));
        let prefix = prefix(stream);
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            let begun = self.begun(stream);
            let mut rest = piece;
            while !rest.is_empty() {
                let room = PIECE.saturating_sub(begun.len()).min(rest.len());
                let (part, later) = rest.split_at(room);
                begun.extend_from_slice(part);
                rest = later;
                let whole = begun.last() == Some(&b'\n');
                if whole || begun.len() >= PIECE {
                    line(&mut text, &prefix, begun, whole);
                    begun.clear();
                }
            }
        }
        self.write(&text)
    }

    /// Writes what never got the end of its line.
    pub fn finish(&mut self, stream: Stream) -> io::Result<()> {
        let rest = std::mem::take(self.begun(stream));
        if rest.is_empty() {
            return Ok(());
        }
        let mut text = Vec::new();
        line(&mut text, &prefix(stream), &rest, false);
        self.write(&text)
    }

    fn begun(&mut self, stream: Stream) -> &mut Vec<u8> {
        let [stdout, stderr] = &mut self.begun;
        match stream {
            Stream::Stdout => stdout,
            Stream::Stderr => stderr,
        }
    }

    /// Writes lines at once, so that whoever reads sees none that is cut.
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        let len = u64::try_from(lines.len()).unwrap_or(u64::MAX);
        if self.size > 0 && self.size.saturating_add(len) > self.settings.max_size {
            self.rotate()?;
        }
        self.file.write_all(lines)?;
        self.size = self.size.saturating_add(len);
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let oldest = self.settings.max_files.saturating_sub(1);
        if oldest == 0 {
            fs::remove_file(path(&self.folder, 0))?;
        }
        for age in (0..oldest).rev() {
            match fs::rename(path(&self.folder, age), path(&self.folder, age.saturating_add(1))) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.file = append(&path(&self.folder, 0))?;
        self.size = 0;
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    File::options().create(true).append(true).mode(0o600).open(path)
}

fn prefix(stream: Stream) -> String {
    let now = humantime::format_rfc3339_nanos(SystemTime::now());
    format!("{now} {} ", stream.word())
}

/// One line of the log; `whole` if `bytes` ends with the end of a line.
fn line(text: &mut Vec<u8>, prefix: &str, bytes: &[u8], whole: bool) {
    text.extend_from_slice(prefix.as_bytes());
    text.extend_from_slice(if whole { b"F " } else { b"P " });
    text.extend_from_slice(bytes);
    if !whole {
        text.push(b'\n');
    }
}
