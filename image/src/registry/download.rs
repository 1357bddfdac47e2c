//! A blob comes into a file: hashed on its way, continued where it broke off.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use ureq::Body;
use ureq::http::Response;

use super::client::Patience;
use super::{Client, RegistryError};
use crate::Digest;

const BUFFER: usize = 128 << 10;
/// An attempt that brought so much is not counted as failed: whoever gets ahead will arrive.
const AHEAD: u64 = 256 << 10;

/// What is to come.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Blob {
    pub digest: Digest,
    /// Bytes, as its descriptor says.
    pub size: u64,
}

/// What a thread that downloads has to say, and whether it should go on.
pub(crate) struct Report<'a> {
    /// Bytes that are here, of all blobs.
    pub done: &'a AtomicU64,
    /// Set when another part has failed.
    pub stop: &'a AtomicBool,
    /// Takes what is to be told about repetitions.
    pub retries: Sender<(Duration, String)>,
}

impl Report<'_> {
    pub fn go_on(&self) -> Result<(), RegistryError> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(RegistryError::BrokenOff);
        }
        Ok(())
    }

    pub fn retry(&self, error: &RegistryError, pause: Duration) {
        // Nobody may be listening.
        let _ = self.retries.send((pause, error.to_string()));
    }
}

/// Why a download did not work.
#[derive(Debug)]
pub(crate) enum DownloadFault {
    Registry(RegistryError),
    /// The file cannot be used.
    File(io::Error),
}

impl From<RegistryError> for DownloadFault {
    fn from(error: RegistryError) -> Self {
        Self::Registry(error)
    }
}

/// A file that grows.
pub(crate) struct Download<'a> {
    client: &'a Client<'a>,
    report: &'a Report<'a>,
    blob: Blob,
    file: File,
    hash: Sha256,
    /// Bytes in the file.
    length: u64,
    /// Bytes of it that have been reported.
    reported: u64,
}

impl<'a> Download<'a> {
    /// Downloads a blob to `path`, or what is missing of it there. When this returns, the file is whole, verified
    /// and durable.
    pub fn run(
        client: &'a Client<'a>,
        blob: Blob,
        path: &Path,
        report: &'a Report<'a>,
    ) -> Result<(), DownloadFault> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path);
        let mut download = Self {
            client,
            report,
            blob,
            file: file.map_err(DownloadFault::File)?,
            hash: Sha256::new(),
            length: 0,
            reported: 0,
        };
        let found = download.resume().map_err(DownloadFault::File)?;
        let outcome = match download.complete() {
            // The part that was here may be at fault.
            Err(DownloadFault::Registry(RegistryError::Digest { .. })) if found > 0 => {
                download.restart().map_err(DownloadFault::File)?;
                download.complete()
            }
            outcome => outcome,
        };
        if let Err(DownloadFault::Registry(RegistryError::Digest { .. } | RegistryError::Long { .. })) =
            &outcome
        {
            // Nothing that could be continued. If it cannot be removed, its digest will tell.
            let _ = std::fs::remove_file(path);
        }
        outcome?;
        download.file.sync_all().map_err(DownloadFault::File)
    }

    /// Takes what is in the file already; answers how much that is.
    fn resume(&mut self) -> io::Result<u64> {
        if self.file.metadata()?.len() > self.blob.size {
            self.file.set_len(0)?;
        }
        self.file.rewind()?;
        let mut buffer = vec![0; BUFFER];
        loop {
            match self.file.read(&mut buffer)? {
                0 => break,
                count => self.took(buffer.get(..count).unwrap_or_default()),
            }
        }
        Ok(self.length)
    }

    fn restart(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.hash = Sha256::new();
        self.length = 0;
        Ok(())
    }

    fn complete(&mut self) -> Result<(), DownloadFault> {
        let mut patience = self.client.patience();
        while self.length < self.blob.size {
            let before = self.length;
            let response = self
                .client
                .blob(&self.blob.digest, before, &mut patience, self.report)?;
            let source = match self.attempt(response) {
                Ok(()) => None,
                Err(Broken::Read(error)) => Some(Box::from(error)),
                Err(Broken::File(error)) => return Err(DownloadFault::File(error)),
                Err(Broken::Final(error)) => return Err(error.into()),
            };
            if self.length < self.blob.size {
                self.after_cut(before, source, &mut patience)?;
            }
        }
        let actual = Digest::finish(self.hash.clone());
        self.client.verify(&self.blob.digest, &actual)?;
        Ok(())
    }

    fn after_cut(
        &self,
        before: u64,
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
        patience: &mut Patience<'_>,
    ) -> Result<(), RegistryError> {
        if self.length.saturating_sub(before) >= AHEAD {
            patience.renew();
        }
        let cut = RegistryError::Cut {
            registry: self.client.registry().to_owned(),
            what: self.blob.digest.to_string(),
            got: self.length,
            size: self.blob.size,
            source,
        };
        if patience.again(&cut, None, self.report)? {
            Ok(())
        } else {
            Err(cut)
        }
    }

    /// Takes what one response brings.
    fn attempt(&mut self, mut response: Response<Body>) -> Result<(), Broken> {
        let begins = match response.status().as_u16() {
            206 => range_start(&response).unwrap_or(self.length),
            416 => u64::MAX,
            _ => 0,
        };
        if begins != self.length {
            // It cannot continue where this ends: all over again.
            self.restart().map_err(Broken::File)?;
            if begins != 0 {
                return Ok(());
            }
        }
        let mut body = response.body_mut().as_reader();
        let mut buffer = vec![0; BUFFER];
        loop {
            self.report.go_on().map_err(Broken::Final)?;
            let count = match body.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Broken::Read(error)),
            };
            if self.length.saturating_add(count as u64) > self.blob.size {
                return Err(Broken::Final(RegistryError::Long {
                    registry: self.client.registry().to_owned(),
                    what: self.blob.digest.to_string(),
                    size: self.blob.size,
                }));
            }
            let bytes = buffer.get(..count).unwrap_or_default();
            self.file.write_all(bytes).map_err(Broken::File)?;
            self.took(bytes);
        }
    }

    fn took(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.length = self.length.saturating_add(bytes.len() as u64);
        // After a restart, only what is new counts.
        if let Some(news) = self.length.checked_sub(self.reported) {
            self.report.done.fetch_add(news, Ordering::Relaxed);
            self.reported = self.length;
        }
    }
}

enum Broken {
    Read(io::Error),
    File(io::Error),
    Final(RegistryError),
}

/// Where a partial response begins: `bytes 100-199/200` (RFC 9110 §14.4).
fn range_start(response: &Response<Body>) -> Option<u64> {
    let text = response.headers().get("content-range")?.to_str().ok()?;
    text.trim()
        .strip_prefix("bytes")?
        .trim_start()
        .split('-')
        .next()?
        .parse()
        .ok()
}
