//! Entries become headers: ustar where that can say it, pax records before it where not.

use std::io::{self, Write};

use crate::{Entry, Kind};

pub(crate) const BLOCK: usize = 512;
/// Largest number that seven octal digits hold.
const SEVEN_DIGITS: u64 = 0o777_7777;
/// Largest size that eleven octal digits hold.
const ELEVEN_DIGITS: u64 = 0o777_7777_7777;

/// Writes a tar.
pub struct Writer<W> {
    output: W,
    /// Bytes that fill up the last block of the current file.
    padding: usize,
}

impl<W: Write> Writer<W> {
    /// Writes to `output`.
    pub fn new(output: W) -> Self {
        Self { output, padding: 0 }
    }

    /// Writes a header. Exactly `entry.size` bytes have to be written to [`Self::data`] next.
    ///
    /// # Errors
    /// Those of the output.
    pub fn entry(&mut self, entry: &Entry) -> io::Result<()> {
        self.pad()?;
        let records = records(entry);
        if !records.is_empty() {
            let header = header(b'x', b"pax", b"", &numbers(records.len() as u64));
            self.output.write_all(&header)?;
            self.output.write_all(&records)?;
            self.padding = padding(records.len() as u64);
            self.pad()?;
        }
        let kind = match entry.kind {
            Kind::File => b'0',
            Kind::HardLink => b'1',
            Kind::Symlink => b'2',
            Kind::Character => b'3',
            Kind::Block => b'4',
            Kind::Folder => b'5',
            Kind::Fifo => b'6',
        };
        let numbers = Numbers {
            mode: entry.mode.into(),
            uid: u64::from(entry.uid).min(SEVEN_DIGITS),
            gid: u64::from(entry.gid).min(SEVEN_DIGITS),
            size: entry.size.min(ELEVEN_DIGITS),
            mtime: u64::try_from(entry.mtime.0).unwrap_or(0).min(ELEVEN_DIGITS),
        };
        self.output
            .write_all(&header(kind, &entry.path, &entry.link, &numbers))?;
        self.padding = padding(entry.size);
        Ok(())
    }

    /// Where the contents of a file go.
    pub fn data(&mut self) -> &mut W {
        &mut self.output
    }

    /// Ends the archive.
    ///
    /// # Errors
    /// Those of the output.
    pub fn finish(mut self) -> io::Result<()> {
        self.pad()?;
        self.output.write_all(&[0; 2 * BLOCK])?;
        self.output.flush()
    }

    fn pad(&mut self) -> io::Result<()> {
        let zeros = [0; BLOCK];
        self.output
            .write_all(zeros.get(..self.padding).unwrap_or_default())?;
        self.padding = 0;
        Ok(())
    }
}

/// What is missing to whole blocks.
pub(crate) fn padding(size: u64) -> usize {
    // A block is a power of two.
    let over = size.wrapping_neg() & (BLOCK as u64).wrapping_sub(1);
    usize::try_from(over).unwrap_or(0)
}

struct Numbers {
    mode: u64,
    uid: u64,
    gid: u64,
    size: u64,
    mtime: u64,
}

fn numbers(size: u64) -> Numbers {
    Numbers {
        mode: 0o644,
        uid: 0,
        gid: 0,
        size,
        mtime: 0,
    }
}

fn header(kind: u8, path: &[u8], link: &[u8], numbers: &Numbers) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| {
        for (place, byte) in block.iter_mut().skip(at).zip(bytes) {
            *place = *byte;
        }
    };
    put(0, path.get(..path.len().min(100)).unwrap_or_default());
    put(100, format!("{:07o}", numbers.mode).as_bytes());
    put(108, format!("{:07o}", numbers.uid).as_bytes());
    put(116, format!("{:07o}", numbers.gid).as_bytes());
    put(124, format!("{:011o}", numbers.size).as_bytes());
    put(136, format!("{:011o}", numbers.mtime).as_bytes());
    // The checksum counts itself as spaces.
    put(148, &[b' '; 8]);
    put(156, &[kind]);
    put(157, link.get(..link.len().min(100)).unwrap_or_default());
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    for (place, byte) in block.iter_mut().skip(148).zip(format!("{sum:06o}\0 ").bytes()) {
        *place = byte;
    }
    block
}

/// What the header cannot say.
fn records(entry: &Entry) -> Vec<u8> {
    let mut out = Vec::new();
    let mut put = |key: &[u8], value: &[u8]| record(&mut out, key, value);
    if entry.path.len() > 100 {
        put(b"path", &entry.path);
    }
    if entry.link.len() > 100 {
        put(b"linkpath", &entry.link);
    }
    if entry.size > ELEVEN_DIGITS {
        put(b"size", entry.size.to_string().as_bytes());
    }
    if u64::from(entry.uid) > SEVEN_DIGITS {
        put(b"uid", entry.uid.to_string().as_bytes());
    }
    if u64::from(entry.gid) > SEVEN_DIGITS {
        put(b"gid", entry.gid.to_string().as_bytes());
    }
    let (seconds, nanoseconds) = entry.mtime;
    let is_plain = u64::try_from(seconds).is_ok_and(|seconds| seconds <= ELEVEN_DIGITS);
    if nanoseconds > 0 || !is_plain {
        put(b"mtime", time(seconds, nanoseconds).as_bytes());
    }
    for (name, value) in &entry.xattrs {
        put(&[b"SCHILY.xattr.", name.as_slice()].concat(), value);
    }
    out
}

/// A decimal fraction, also before 1970: one nanosecond before is -0.000000001.
fn time(seconds: i64, nanoseconds: u32) -> String {
    match (seconds < 0, nanoseconds) {
        (_, 0) => seconds.to_string(),
        (false, nanoseconds) => format!("{seconds}.{nanoseconds:09}"),
        (true, nanoseconds) => {
            let whole = seconds.saturating_add(1).unsigned_abs();
            format!("-{whole}.{:09}", 1_000_000_000_u32.saturating_sub(nanoseconds))
        }
    }
}

/// `length key=value\n`, where the length counts itself.
fn record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len().saturating_add(value.len()).saturating_add(3);
    let mut length = rest.saturating_add(1);
    while length.to_string().len().saturating_add(rest) != length {
        length = length.to_string().len().saturating_add(rest);
    }
    out.extend_from_slice(length.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}
