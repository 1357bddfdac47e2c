//! Entries one after the other, each followed by its data.

use std::io::{self, Read};

use super::header::{BLOCK, Block, Header};
use super::pax::Extended;
use super::sparse::{self, OldMap, TextMap};
use super::{EXTENSION_MAX, Entry, Kind, PATH_MAX, TarError, shown};

/// Reads entries from a stream. After [`Self::next`], the entry's data can be read from [`Self::data`]; what is
/// left of it is skipped by the following `next`.
pub(crate) struct TarReader<R> {
    input: R,
    position: u64,
    /// Data of the current entry not yet read.
    left: u64,
    padding: u64,
}

impl<R: Read> TarReader<R> {
    pub fn new(input: R) -> Self {
        Self {
            input,
            position: 0,
            left: 0,
            padding: 0,
        }
    }

    /// Bytes of the stream consumed so far: where the current entry's data begins, until it is read.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Bytes of the current entry's data that are left.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Steps over the current entry's data without reading it, where the input can seek.
    pub fn seek_over(&mut self) -> Result<(), TarError>
    where
        R: io::Seek,
    {
        let step = self.left.saturating_add(self.padding);
        self.input
            .seek_relative(i64::try_from(step).map_err(|_| TarError::Truncated)?)?;
        self.position = self.position.saturating_add(step);
        (self.left, self.padding) = (0, 0);
        Ok(())
    }

    /// The next entry, or `None` at the end of the archive.
    pub fn next(&mut self) -> Result<Option<Entry>, TarError> {
        let mut extended = Extended::default();
        loop {
            self.skip_data()?;
            let at = self.position;
            let Some(block) = self.block()? else {
                return Ok(None);
            };
            // One block of zeros ends an archive; that there should be two is not insisted on.
            if block.iter().all(|byte| *byte == 0) {
                return Ok(None);
            }
            let header = Header::new(&block, at)?;
            self.start_data(header.unsigned("size", 124, 12)?);
            match header.type_flag() {
                b'x' | b'X' => {
                    let bytes = self.extension(&header)?;
                    extended.read(&bytes, self.position)?;
                }
                // Comments and defaults for the whole archive, such as the commit git writes.
                b'g' => drop(self.extension(&header)?),
                b'L' => extended.path = Some(trimmed(self.extension(&header)?)),
                b'K' => extended.link = Some(trimmed(self.extension(&header)?)),
                // A volume's label: no file.
                b'V' => {}
                _ => return self.entry(&header, extended).map(Some),
            }
        }
    }

    /// The data of the current entry, as stored: for a sparse file only its ranges.
    pub fn data(&mut self) -> Data<'_, R> {
        Data(self)
    }

    fn entry(&mut self, header: &Header<'_>, extended: Extended) -> Result<Entry, TarError> {
        let sparse_name = extended.sparse.name.clone();
        let path = sparse_name.or(extended.path).unwrap_or_else(|| header.path());
        let link = extended.link.unwrap_or_else(|| header.text(157, 100).to_vec());
        for (what, text) in [("a name", &path), ("a link target", &link)] {
            if text.len() > PATH_MAX {
                return Err(TarError::Long {
                    path: shown(&path),
                    what,
                    limit: PATH_MAX as u64,
                });
            }
        }
        let kind = kind(header.type_flag(), &path)?;
        if let Some(size) = extended.size {
            self.start_data(size);
        }
        // Some programs give links and directories a size but no data.
        if kind != Kind::File {
            self.start_data(0);
        }
        let mut entry = Entry {
            kind,
            mode: u16::try_from(header.unsigned("mode", 100, 8)? & 0o7777).unwrap_or(0),
            uid: extended.uid.map_or_else(|| header.narrow("uid", 108, 8), Ok)?,
            gid: extended.gid.map_or_else(|| header.narrow("gid", 116, 8), Ok)?,
            mtime: extended
                .mtime
                .map_or_else(|| Ok((header.number("mtime", 136, 12)?, 0)), Ok::<_, TarError>)?,
            size: self.left,
            device: (0, 0),
            xattrs: extended.xattrs,
            ranges: None,
            path,
            link,
        };
        if matches!(kind, Kind::Character | Kind::Block) {
            entry.device = (
                header.narrow("devmajor", 329, 8)?,
                header.narrow("devminor", 337, 8)?,
            );
        }
        if header.type_flag() == b'S' {
            self.old_sparse(header, &mut entry)?;
        } else if kind == Kind::File && extended.sparse.is_used() {
            self.pax_sparse(&extended.sparse, &mut entry)?;
        }
        Ok(entry)
    }

    fn old_sparse(&mut self, header: &Header<'_>, entry: &mut Entry) -> Result<(), TarError> {
        let mut map = OldMap::read(header)?;
        // The extension blocks stand between header and data and are not part of the size.
        while map.extended {
            let block = self.block()?.ok_or(TarError::Truncated)?;
            map.extend(&block, &entry.path)?;
        }
        self.set_ranges(entry, map.ranges, map.size)
    }

    fn pax_sparse(&mut self, keys: &super::pax::SparseKeys, entry: &mut Entry) -> Result<(), TarError> {
        let malformed = || TarError::Sparse(shown(&entry.path));
        let size = keys.size.ok_or_else(malformed)?;
        if !keys.map_in_data {
            return self.set_ranges(entry, sparse::pairs(&keys.numbers), size);
        }
        let mut map = TextMap::default();
        loop {
            self.left = self.left.checked_sub(BLOCK as u64).ok_or_else(malformed)?;
            let block = self.block()?.ok_or(TarError::Truncated)?;
            if map.feed(&block).ok_or_else(malformed)? {
                return self.set_ranges(entry, map.ranges(), size);
            }
        }
    }

    fn set_ranges(&self, entry: &mut Entry, ranges: Vec<(u64, u64)>, size: u64) -> Result<(), TarError> {
        let malformed = || TarError::Sparse(shown(&entry.path));
        let ranges = sparse::checked(ranges, size, self.left).ok_or_else(malformed)?;
        entry.size = size;
        entry.ranges = Some(ranges);
        Ok(())
    }

    fn start_data(&mut self, size: u64) {
        self.left = size;
        self.padding = size.wrapping_neg() & (BLOCK as u64).wrapping_sub(1);
    }

    fn skip_data(&mut self) -> Result<(), TarError> {
        let rest = self.left.checked_add(self.padding).ok_or(TarError::Truncated)?;
        let data = self.left;
        let skipped = io::copy(&mut self.input.by_ref().take(rest), &mut io::sink())?;
        self.position = self.position.saturating_add(skipped);
        (self.left, self.padding) = (0, 0);
        // umoci does not fill up the last block.
        if skipped == rest || skipped == data {
            Ok(())
        } else {
            Err(TarError::Truncated)
        }
    }

    /// The whole data of an extension, which belongs to the entry after it.
    fn extension(&mut self, header: &Header<'_>) -> Result<Vec<u8>, TarError> {
        if self.left > EXTENSION_MAX {
            let path = shown(&header.path());
            return Err(TarError::Long {
                path,
                what: "an extended header",
                limit: EXTENSION_MAX,
            });
        }
        let mut bytes = Vec::new();
        self.data().read_to_end(&mut bytes)?;
        if self.left > 0 {
            Err(TarError::Truncated)
        } else {
            Ok(bytes)
        }
    }

    /// The next block, or `None` where the stream ends.
    fn block(&mut self) -> Result<Option<Block>, TarError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while let Some(rest) = block.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.input.read(rest) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(TarError::Truncated),
                Ok(count) => filled = filled.saturating_add(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.position = self.position.saturating_add(BLOCK as u64);
        Ok(Some(block))
    }
}

/// Reads the data of one entry.
pub(crate) struct Data<'a, R>(&'a mut TarReader<R>);

impl<R: Read> Read for Data<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.0.input.by_ref().take(self.0.left).read(buffer)?;
        self.0.left = self.0.left.saturating_sub(count as u64);
        self.0.position = self.0.position.saturating_add(count as u64);
        Ok(count)
    }
}

fn kind(flag: u8, path: &[u8]) -> Result<Kind, TarError> {
    Ok(match flag {
        // Before POSIX, a name that ended in a slash was a directory.
        b'0' | 0 if path.ends_with(b"/") => Kind::Directory,
        b'0' | 0 | b'7' | b'S' => Kind::File,
        b'1' => Kind::HardLink,
        b'2' => Kind::Symlink,
        b'3' => Kind::Character,
        b'4' => Kind::Block,
        b'5' | b'D' => Kind::Directory,
        b'6' => Kind::Fifo,
        other => {
            return Err(TarError::Kind {
                path: shown(path),
                kind: char::from(other),
            });
        }
    })
}

fn trimmed(mut text: Vec<u8>) -> Vec<u8> {
    let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
    text.truncate(end);
    text
}
