//! Headers become entries: ustar, pax records, and GNU's long names, as `tar` and docker write them.

use std::io::{self, Read};

use crate::error::shown;
use crate::writer::{BLOCK, padding};
use crate::{ArchiveError, Entry, Kind};

/// Longest name or link target, as the kernel has it.
const PATH_MAX: usize = 4096;
/// Longest extended header: attributes of 64 KiB, a few of them.
const EXTENSION_MAX: u64 = 1 << 20;

type Block = [u8; BLOCK];

/// Reads a tar.
pub struct Reader<R> {
    input: R,
    position: u64,
    /// Contents of the current entry that have not been read.
    left: u64,
    padding: usize,
}

/// What stands before an entry's own header.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl<R: Read> Reader<R> {
    /// Reads from `input`.
    pub fn new(input: R) -> Self {
        Self {
            input,
            position: 0,
            left: 0,
            padding: 0,
        }
    }

    /// The next entry, or `None` at the end. What is left of the last one's contents is skipped.
    ///
    /// # Errors
    /// [`ArchiveError::Malformed`], [`ArchiveError::Truncated`], [`ArchiveError::Unsupported`], and those of the input.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, ArchiveError> {
        let mut extended = Extended::default();
        loop {
            self.skip()?;
            let at = self.position;
            let Some(block) = self.block()? else {
                return Ok(None);
            };
            if block.iter().all(|byte| *byte == 0) {
                return Ok(None);
            }
            check(&block, at)?;
            self.begin(number(&block, (124, 12), "a size", at)?);
            match field(&block, 156, 1).first() {
                Some(b'x') => {
                    let bytes = self.extension(at)?;
                    extended.read(&bytes).ok_or(ArchiveError::Malformed {
                        what: "an extended header",
                        at,
                    })?;
                }
                Some(b'g') => drop(self.extension(at)?),
                Some(b'L') => extended.path = Some(text(&self.extension(at)?)),
                Some(b'K') => extended.link = Some(text(&self.extension(at)?)),
                Some(flag) => return self.entry(&block, *flag, extended, at).map(Some),
                None => return Err(ArchiveError::Truncated),
            }
        }
    }

    /// The contents of the current entry.
    pub fn data(&mut self) -> impl Read + '_ {
        Data(self)
    }

    /// The rest of the stream, behind the archive's end: some writers fill it up.
    ///
    /// # Errors
    /// Those of the input.
    pub fn drain(&mut self) -> Result<(), ArchiveError> {
        io::copy(&mut self.input, &mut io::sink())
            .map(drop)
            .map_err(ArchiveError::Stream)
    }

    fn entry(&mut self, block: &Block, flag: u8, extended: Extended, at: u64) -> Result<Entry, ArchiveError> {
        let path = extended.path.unwrap_or_else(|| long_name(block));
        let link = extended.link.unwrap_or_else(|| text(field(block, 157, 100)));
        for name in [&path, &link] {
            if name.len() >= PATH_MAX || name.contains(&0) {
                return Err(ArchiveError::Name {
                    path: shown(name),
                    why: "has less than 4096 bytes",
                });
            }
        }
        let kind = match flag {
            b'0' | 0 if path.ends_with(b"/") => Kind::Folder,
            b'0' | 0 | b'7' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::Character,
            b'4' => Kind::Block,
            b'5' => Kind::Folder,
            b'6' => Kind::Fifo,
            flag => {
                let path = shown(&path);
                let what = if flag == b'S' {
                    "a sparse file of GNU tar's old form"
                } else {
                    "an entry of an unknown type"
                };
                return Err(ArchiveError::Unsupported { path, what });
            }
        };
        match (kind, extended.size) {
            (Kind::File, Some(size)) => self.begin(size),
            (Kind::File, None) => {}
            // Some programs give links and folders a size but no contents.
            _ => self.begin(0),
        }
        let id = |at_field, known: Option<u32>, what| match known {
            Some(id) => Ok(id),
            None => number(block, (at_field, 8), what, at)
                .and_then(|id| u32::try_from(id).map_err(|_| ArchiveError::Malformed { what, at })),
        };
        let seconds =
            || number(block, (136, 12), "a time", at).map(|time| i64::try_from(time).unwrap_or(i64::MAX));
        Ok(Entry {
            kind,
            mode: u16::try_from(number(block, (100, 8), "a mode", at)? & 0o7777).unwrap_or(0),
            uid: id(108, extended.uid, "an owner")?,
            gid: id(116, extended.gid, "a group")?,
            mtime: extended
                .mtime
                .map_or_else(|| seconds().map(|seconds| (seconds, 0)), Ok)?,
            size: self.left,
            xattrs: extended.xattrs,
            path,
            link,
        })
    }

    fn begin(&mut self, size: u64) {
        self.left = size;
        self.padding = padding(size);
    }

    fn skip(&mut self) -> Result<(), ArchiveError> {
        let rest = self.left.saturating_add(self.padding as u64);
        let data = self.left;
        let skipped =
            io::copy(&mut self.input.by_ref().take(rest), &mut io::sink()).map_err(ArchiveError::Stream)?;
        self.position = self.position.saturating_add(skipped);
        (self.left, self.padding) = (0, 0);
        if skipped < data {
            Err(ArchiveError::Truncated)
        } else {
            Ok(())
        }
    }

    fn extension(&mut self, at: u64) -> Result<Vec<u8>, ArchiveError> {
        if self.left > EXTENSION_MAX {
            let what = "the size of an extended header";
            return Err(ArchiveError::Malformed { what, at });
        }
        let mut bytes = Vec::new();
        Data(self).read_to_end(&mut bytes).map_err(ArchiveError::Stream)?;
        if self.left > 0 {
            Err(ArchiveError::Truncated)
        } else {
            Ok(bytes)
        }
    }

    fn block(&mut self) -> Result<Option<Block>, ArchiveError> {
        let mut bytes = Vec::with_capacity(BLOCK);
        let limit = BLOCK as u64;
        self.input
            .by_ref()
            .take(limit)
            .read_to_end(&mut bytes)
            .map_err(ArchiveError::Stream)?;
        self.position = self.position.saturating_add(bytes.len() as u64);
        match Block::try_from(bytes) {
            Ok(block) => Ok(Some(block)),
            Err(bytes) if bytes.is_empty() => Ok(None),
            Err(_) => Err(ArchiveError::Truncated),
        }
    }
}

struct Data<'a, R>(&'a mut Reader<R>);

impl<R: Read> Read for Data<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.0.input.by_ref().take(self.0.left).read(buffer)?;
        self.0.left = self.0.left.saturating_sub(count as u64);
        self.0.position = self.0.position.saturating_add(count as u64);
        Ok(count)
    }
}

fn field(block: &Block, at: usize, length: usize) -> &[u8] {
    block
        .get(at..)
        .and_then(|rest| rest.get(..length))
        .unwrap_or_default()
}

fn text(bytes: &[u8]) -> Vec<u8> {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()
}

/// POSIX's headers have a field for what stands before the name.
fn long_name(block: &Block) -> Vec<u8> {
    let name = text(field(block, 0, 100));
    let prefix = text(field(block, 345, 155));
    if field(block, 257, 6) == b"ustar\0" && !prefix.is_empty() {
        return [prefix.as_slice(), b"/", &name].concat();
    }
    name
}

fn check(block: &Block, at: u64) -> Result<(), ArchiveError> {
    let told = number(block, (148, 8), "a checksum", at)?;
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    let own: u64 = field(block, 148, 8).iter().map(|byte| u64::from(*byte)).sum();
    if sum.saturating_sub(own).saturating_add(8 * 32) == told {
        return Ok(());
    }
    let what = "a header";
    Err(ArchiveError::Malformed { what, at })
}

/// Octal digits, or GNU's binary numbers.
fn number(
    block: &Block,
    (start, length): (usize, usize),
    what: &'static str,
    at: u64,
) -> Result<u64, ArchiveError> {
    let bytes = field(block, start, length);
    let malformed = || ArchiveError::Malformed { what, at };
    if bytes.first().is_some_and(|first| first & 0x80 != 0) {
        let mut value = 0_u64;
        for (index, byte) in bytes.iter().enumerate() {
            let byte = if index == 0 { byte & 0x7f } else { *byte };
            value = value.checked_mul(256).ok_or_else(malformed)? | u64::from(byte);
        }
        return Ok(value);
    }
    let digits = String::from_utf8_lossy(bytes);
    let digits = digits.trim_matches([' ', '\0']);
    if digits.is_empty() {
        return Ok(0);
    }
    u64::from_str_radix(digits, 8).map_err(|_| malformed())
}

impl Extended {
    /// `None` if it is malformed.
    fn read(&mut self, mut bytes: &[u8]) -> Option<()> {
        while !bytes.is_empty() {
            let space = bytes.iter().take(20).position(|byte| *byte == b' ')?;
            let length: usize = std::str::from_utf8(bytes.get(..space)?).ok()?.parse().ok()?;
            let record = bytes.get(space.checked_add(1)?..length)?.strip_suffix(b"\n")?;
            bytes = bytes.get(length..)?;
            let equals = record.iter().position(|byte| *byte == b'=')?;
            let (key, value) = (record.get(..equals)?, record.get(equals.checked_add(1)?..)?);
            let decimal = || std::str::from_utf8(value).ok();
            match key {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => self.size = Some(decimal()?.parse().ok()?),
                b"uid" => self.uid = Some(decimal()?.parse().ok()?),
                b"gid" => self.gid = Some(decimal()?.parse().ok()?),
                b"mtime" => self.mtime = Some(time(decimal()?)?),
                key if key.starts_with(b"GNU.sparse.") => return None,
                key => {
                    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                        self.xattrs.push((name.to_vec(), value.to_vec()));
                    }
                }
            }
        }
        Some(())
    }
}

/// Seconds as a decimal fraction, possibly before 1970.
fn time(text: &str) -> Option<(i64, u32)> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = if whole == "-" { 0 } else { whole.parse().ok()? };
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanoseconds: u32 = digits.parse().ok()?;
    if whole.starts_with('-') && nanoseconds > 0 {
        return Some((
            seconds.checked_sub(1)?,
            1_000_000_000_u32.checked_sub(nanoseconds)?,
        ));
    }
    Some((seconds, nanoseconds))
}
