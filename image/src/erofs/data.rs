//! Contents of files, written into the image as they are read.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;

use super::DiskError;
use super::format::{BLOCK, INODE, xattr_size};
use crate::Limits;
use crate::tree::{Contents, Xattrs};

/// Bytes gathered before they are written: large files go out in few calls.
const GATHERED: usize = 256 << 10;
const ZEROS: [u8; BLOCK as usize] = [0; BLOCK as usize];

/// The growing image file, and a second file for last blocks, which find their places at the end.
pub(crate) struct DataWriter {
    pub(super) image: File,
    pub(super) next_block: u64,
    pub(super) tails: BufWriter<File>,
    tails_end: u64,
    left: u64,
    limit: u64,
}

impl DataWriter {
    /// Begins an image in `image`; both files are empty, readable and writable.
    pub fn new(image: File, tails: File, limits: &Limits) -> Self {
        let limit = limits.apparent_bytes;
        Self {
            image,
            next_block: 1,
            tails: BufWriter::with_capacity(GATHERED, tails),
            tails_end: 0,
            left: limit,
            limit,
        }
    }

    /// Makes room for a file of exactly `size` bytes.
    pub fn file(&mut self, size: u64, xattrs: &Xattrs) -> Result<FileWriter<'_>, DiskError> {
        let full = || DiskError::Size { limit: self.limit };
        self.left = self.left.checked_sub(size).ok_or_else(full)?;
        let tail = size % BLOCK;
        let inline = tail > 0 && fits_inline(tail, xattrs);
        let blocks = if inline {
            size / BLOCK
        } else {
            size.div_ceil(BLOCK)
        };
        let first = self.next_block;
        let next = first
            .checked_add(blocks)
            .filter(|next| u32::try_from(*next).is_ok())
            .ok_or_else(full)?;
        self.next_block = next;
        let block = u32::try_from(first).map_err(|_| full())?;
        let contents = Contents {
            size,
            block,
            tail: inline.then_some(self.tails_end),
        };
        let at = first.saturating_mul(BLOCK);
        let end = at.saturating_add(blocks.saturating_mul(BLOCK));
        Ok(FileWriter {
            data: self,
            contents,
            at,
            end,
            gathered: Vec::new(),
        })
    }
}

/// Whether an incomplete block can follow its inode: both must lie within one block.
pub(super) fn fits_inline(tail: u64, xattrs: &Xattrs) -> bool {
    INODE.saturating_add(xattr_size(xattrs)).saturating_add(tail) <= BLOCK
}

/// Takes the contents of one file, from its beginning to its end.
pub(crate) struct FileWriter<'a> {
    data: &'a mut DataWriter,
    contents: Contents,
    /// Where the gathered bytes go.
    at: u64,
    /// Where the blocks of the file end.
    end: u64,
    gathered: Vec<u8>,
}

impl FileWriter<'_> {
    /// The next bytes.
    pub fn put(&mut self, mut bytes: &[u8]) -> Result<(), DiskError> {
        while !bytes.is_empty() {
            let room = GATHERED.saturating_sub(self.gathered.len()).min(bytes.len());
            let (now, later) = bytes.split_at(room);
            self.gathered.extend_from_slice(now);
            if self.gathered.len() == GATHERED {
                self.flush()?;
            }
            bytes = later;
        }
        Ok(())
    }

    /// The next `length` bytes are zeros. Whole blocks of them are not written.
    pub fn hole(&mut self, mut length: u64) -> Result<(), DiskError> {
        let to_boundary = (self.gathered.len() as u64).wrapping_neg() % BLOCK;
        let first = length.min(to_boundary);
        self.zeros(first)?;
        length = length.saturating_sub(first);
        if length >= BLOCK {
            self.flush()?;
            self.at = self.at.saturating_add(length.saturating_sub(length % BLOCK));
            length %= BLOCK;
        }
        self.zeros(length)
    }

    fn zeros(&mut self, length: u64) -> Result<(), DiskError> {
        self.put(ZEROS.get(..length as usize).unwrap_or_default())
    }

    /// All bytes were given.
    pub fn finish(mut self) -> Result<Contents, DiskError> {
        self.flush()?;
        let mut rest = std::mem::take(&mut self.gathered);
        if self.contents.tail.is_some() {
            self.data.tails.write_all(&rest)?;
            self.data.tails_end = self.data.tails_end.saturating_add(rest.len() as u64);
        } else if !rest.is_empty() {
            rest.resize(BLOCK as usize, 0);
            self.gathered = rest;
            self.flush()?;
        }
        if self.at == self.end {
            Ok(self.contents)
        } else {
            Err(DiskError::Layout)
        }
    }

    /// Writes the gathered whole blocks, save those that hold only zeros.
    fn flush(&mut self) -> Result<(), DiskError> {
        let (blocks, rest) = self.gathered.as_chunks::<{ BLOCK as usize }>();
        let whole = blocks.as_flattened().len();
        if self.at.checked_add(whole as u64).is_none_or(|end| end > self.end) {
            return Err(DiskError::Layout);
        }
        for run in blocks.chunk_by(|a, b| (*a == ZEROS) == (*b == ZEROS)) {
            if run.first() != Some(&ZEROS) {
                self.data.image.write_all_at(run.as_flattened(), self.at)?;
            }
            self.at = self.at.saturating_add(run.as_flattened().len() as u64);
        }
        self.gathered = rest.to_vec();
        Ok(())
    }
}
