//! The bytes of a layer: decompressed, counted and hashed on both sides while they stream through.

use std::io::{self, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use sha2::{Digest as _, Sha256};

use crate::{Digest, Limits};

const BUFFER: usize = 128 << 10;
/// Largest zstd window that is accepted: what zstd itself takes without being told to (2²⁷ bytes).
const WINDOW_MAX: u64 = 128 << 20;

/// A layer whose bytes are not what its manifest or config says, or that grows beyond all reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LayerError {
    /// The stored bytes have another digest.
    #[error("its digest is {actual}, the manifest says {expected}")]
    Digest {
        /// In the manifest.
        expected: Digest,
        /// Of the bytes.
        actual: Digest,
    },
    /// The stored bytes are more or fewer.
    #[error("it has {actual} bytes, the manifest says {expected}")]
    Size {
        /// In the manifest.
        expected: u64,
        /// Counted, at least.
        actual: u64,
    },
    /// The decompressed bytes have another digest.
    #[error("its decompressed digest is {actual}, the config's diff_id says {expected}")]
    DiffId {
        /// In the config.
        expected: Digest,
        /// Of the bytes.
        actual: Digest,
    },
    /// It grows like a decompression bomb.
    #[error(
        "{unpacked} bytes come out of {packed}: more than {limit} times as many, which no honest layer needs"
    )]
    Ratio {
        /// Bytes decompressed when it was stopped.
        unpacked: u64,
        /// Bytes read for them.
        packed: u64,
        /// The cap.
        limit: u64,
    },
    /// All layers together are too large.
    #[error("the layers hold more than {limit} bytes, the largest size that is unpacked")]
    Total {
        /// The cap.
        limit: u64,
    },
}

/// Counts and hashes what is read through it, and tells a callback.
struct Counted<R, F> {
    input: R,
    hash: Option<Sha256>,
    count: u64,
    told: F,
}

impl<R: Read, F: FnMut(u64)> Read for Counted<R, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        if let Some(hash) = &mut self.hash {
            hash.update(buffer.get(..count).unwrap_or_default());
        }
        self.count = self.count.saturating_add(count as u64);
        (self.told)(count as u64);
        Ok(count)
    }
}

enum Decoder<R> {
    Plain(BufReader<R>),
    Gzip(Box<MultiGzDecoder<BufReader<R>>>),
    Zstd(Box<Zstd<BufReader<R>>>),
}

impl<R: Read> Decoder<R> {
    fn inner(&self) -> &R {
        match self {
            Self::Plain(input) => input.get_ref(),
            Self::Gzip(decoder) => decoder.get_ref().get_ref(),
            Self::Zstd(decoder) => decoder.input.get_ref(),
        }
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(input) => input.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Zstd(decoder) => decoder.read(buffer),
        }
    }
}

/// Any number of zstd frames, with skippable ones between them (RFC 8878 §3.1).
struct Zstd<R> {
    input: R,
    frame: FrameDecoder,
    inside: bool,
}

impl<R: io::BufRead> Zstd<R> {
    /// Enters the next frame that holds data; `false` at the end of the input.
    fn enter(&mut self) -> io::Result<bool> {
        loop {
            if self.input.fill_buf()?.is_empty() {
                return Ok(false);
            }
            match self.frame.reset(&mut self.input) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let length = u64::from(length);
                    if io::copy(&mut self.input.by_ref().take(length), &mut io::sink())? != length {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            }
        }
    }
}

impl<R: io::BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.inside {
                self.inside = self.enter()?;
                if !self.inside {
                    return Ok(0);
                }
            }
            while self.frame.can_collect() == 0 && !self.frame.is_finished() {
                let step = BlockDecodingStrategy::UptoBlocks(1);
                let decoded = self.frame.decode_blocks(&mut self.input, step);
                decoded.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            }
            match self.frame.read(buffer)? {
                0 => self.inside = false,
                count => return Ok(count),
            }
        }
    }
}

/// What stands at the beginning of a file.
pub(crate) fn is_compressed(head: &[u8]) -> bool {
    head.starts_with(&GZIP) || head.starts_with(&ZSTD) || is_skippable(head)
}

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

fn is_skippable(head: &[u8]) -> bool {
    matches!(head, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}

/// Bytes left of what an image's layers may hold together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    limits: (u64, u64, u64),
    left: u64,
}

impl Budget {
    pub fn new(limits: &Limits) -> Self {
        let Limits {
            ratio,
            ratio_floor,
            unpacked_bytes,
            ..
        } = *limits;
        Self {
            limits: (ratio, ratio_floor, unpacked_bytes),
            left: unpacked_bytes,
        }
    }
}

/// What was read, once all of it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sums {
    pub packed: u64,
    pub unpacked: u64,
    /// Of the stored bytes, if it was asked for.
    pub digest: Option<Digest>,
    pub diff_id: Digest,
}

/// A layer being read.
pub(crate) struct LayerStream<'a, R, F> {
    decoder: Decoder<Counted<R, F>>,
    hash: Sha256,
    unpacked: u64,
    budget: &'a mut Budget,
    fault: Option<LayerError>,
}

impl<'a, R: Read, F: FnMut(u64)> LayerStream<'a, R, F> {
    /// Begins to read, recognising gzip and zstd by their first bytes. `told` hears of stored bytes read.
    pub fn new(input: R, hash_stored: bool, budget: &'a mut Budget, told: F) -> io::Result<Self> {
        let hash = hash_stored.then(Sha256::new);
        let mut input = BufReader::with_capacity(
            BUFFER,
            Counted {
                input,
                hash,
                count: 0,
                told,
            },
        );
        let head = io::BufRead::fill_buf(&mut input)?;
        let decoder = if head.starts_with(&GZIP) {
            Decoder::Gzip(Box::new(MultiGzDecoder::new(input)))
        } else if head.starts_with(&ZSTD) || is_skippable(head) {
            let mut frame = FrameDecoder::new();
            frame.set_max_window_size(WINDOW_MAX);
            Decoder::Zstd(Box::new(Zstd {
                input,
                frame,
                inside: false,
            }))
        } else {
            Decoder::Plain(input)
        };
        Ok(Self {
            decoder,
            hash: Sha256::new(),
            unpacked: 0,
            budget,
            fault: None,
        })
    }

    /// Why reading failed, if it was one of this layer's own rules.
    pub fn take_fault(&mut self) -> Option<LayerError> {
        self.fault.take()
    }

    /// Reads what is left and says what it all was.
    pub fn finish(mut self) -> Result<Sums, (io::Error, Option<LayerError>)> {
        let mut buffer = vec![0; BUFFER];
        loop {
            match self.read(&mut buffer) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err((error, self.fault)),
            }
        }
        let counted = self.decoder.inner();
        Ok(Sums {
            packed: counted.count,
            unpacked: self.unpacked,
            digest: counted.hash.clone().map(Digest::finish),
            diff_id: Digest::finish(self.hash),
        })
    }

    fn check(&mut self, count: u64) -> Result<(), LayerError> {
        let (ratio, floor, total) = self.budget.limits;
        self.unpacked = self.unpacked.saturating_add(count);
        self.budget.left = self
            .budget
            .left
            .checked_sub(count)
            .ok_or(LayerError::Total { limit: total })?;
        let packed = self.decoder.inner().count;
        if self.unpacked > floor && self.unpacked > packed.saturating_mul(ratio) {
            return Err(LayerError::Ratio {
                unpacked: self.unpacked,
                packed,
                limit: ratio,
            });
        }
        Ok(())
    }
}

impl<R: Read, F: FnMut(u64)> Read for LayerStream<'_, R, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.decoder.read(buffer)?;
        self.hash.update(buffer.get(..count).unwrap_or_default());
        if let Err(fault) = self.check(count as u64) {
            self.fault = Some(fault.clone());
            return Err(io::Error::new(io::ErrorKind::InvalidData, fault));
        }
        Ok(count)
    }
}
