//! What the guest asks for (virtio 1.2 §5.2.6), checked before anything is done.
//!
//! A request is a run of readable bytes followed by a run of writable bytes. How a driver cuts them into descriptors
//! is its own business (virtio 1.2 §2.7.4): the header is the first 16 readable bytes and the status the last
//! writable one, wherever descriptors begin and end.
//!
//! Everything is copied out of guest memory once and checked on the copy, so that a guest that changes it
//! meanwhile only fools itself.

use std::sync::Arc;

use vm_memory::GuestAddress;

use super::buffers::{Access, GuestBuffers};
use super::run::{Run, Words, outside};
use super::serial::SERIAL_SIZE;
use super::{
    MAX_DESCRIPTORS, MAX_DISCARD_RANGES, MAX_DISCARD_SECTORS, MAX_TRANSFER, MAX_WRITE_ZEROES_RANGES,
    MAX_WRITE_ZEROES_SECTORS, SECTOR_SIZE,
};
use crate::virtio::queue::{Chain, QueueMemory};

/// VIRTIO_BLK_S_OK.
pub const STATUS_OK: u8 = 0;
/// VIRTIO_BLK_S_IOERR.
pub const STATUS_IOERR: u8 = 1;
/// VIRTIO_BLK_S_UNSUPP.
pub const STATUS_UNSUPP: u8 = 2;

const TYPE_IN: u32 = 0;
const TYPE_OUT: u32 = 1;
const TYPE_FLUSH: u32 = 4;
const TYPE_GET_ID: u32 = 8;
const TYPE_DISCARD: u32 = 11;
const TYPE_WRITE_ZEROES: u32 = 13;

const HEADER_SIZE: u32 = 16;
const RANGE_SIZE: u32 = 16;
const RANGE_FLAG_UNMAP: u32 = 1;

/// Why a request is not carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The chain ends where it says that it goes on: it loops, leaves its table or memory, or is too long in bytes.
    #[error("the descriptor chain is broken")]
    BrokenChain,
    /// More than [`MAX_DESCRIPTORS`].
    #[error("the descriptor chain has more than {MAX_DESCRIPTORS} descriptors")]
    LongChain,
    /// Virtio 1.2 §2.7.4.2 wants all readable descriptors first.
    #[error("a readable descriptor follows a writable one")]
    Order,
    /// There is no writable byte to put the status into.
    #[error("there is no room for the status")]
    NoStatus,
    /// Less than 16 readable bytes.
    #[error("the header is shorter than 16 bytes")]
    NoHeader,
    /// A buffer is not in guest memory.
    #[error("a buffer lies outside guest memory")]
    OutsideMemory,
    /// Data where the request has none, or in the wrong direction.
    #[error("there is data that this type of request does not have")]
    UnexpectedData,
    /// The length of the data is zero or does not suit the type.
    #[error("{0} bytes of data do not suit this type of request")]
    DataLength(u32),
    /// More data than [`MAX_TRANSFER`].
    #[error("the request has more than {MAX_TRANSFER} bytes of data")]
    TooLong,
    /// Sectors that the disk does not have.
    #[error("the request reaches beyond the end of the disk")]
    BeyondEnd,
    /// A range of a discard or write-zeroes is larger than offered.
    #[error("a range covers more sectors than the device offers")]
    RangeTooLong,
    /// A change to a read-only disk.
    #[error("the disk is read-only")]
    ReadOnly,
    /// A flag that is unknown or does not suit the type.
    #[error("a range has a flag that this type of request does not have")]
    Flags,
    /// A type that the device does not offer.
    #[error("the type of the request is not offered")]
    Type,
}

impl RequestError {
    /// The status that tells the driver.
    pub fn status(self) -> u8 {
        match self {
            Self::Type | Self::Flags => STATUS_UNSUPP,
            _ => STATUS_IOERR,
        }
    }
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Read sectors.
    Read,
    /// Write sectors.
    Write,
    /// Make finished writes permanent.
    Flush,
    /// Tell the serial number.
    GetId,
    /// Forget the contents of [`RequestParser::ranges`].
    Discard,
    /// Zero [`RequestParser::ranges`].
    WriteZeroes,
}

/// A request that may be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// What to do.
    pub kind: Kind,
    /// Position on the disk in bytes, for a read or write.
    pub offset: u64,
    /// Bytes of data, header and status not counted; at most [`MAX_TRANSFER`].
    pub data_len: u32,
}

/// What the disk allows.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Its size in sectors.
    pub sectors: u64,
    /// Whether nothing may change it.
    pub read_only: bool,
}

/// Sectors that a discard or write-zeroes is about; inside the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// Position on the disk in bytes.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
    /// The host may give the space back.
    pub unmap: bool,
}

/// Reads chains. Keeps its memory from one chain to the next, so that a request costs no allocation.
#[derive(Default)]
pub struct RequestParser {
    readable: Run,
    writable: Run,
    ranges: Vec<Range>,
}

impl RequestParser {
    /// Takes in a chain of `memory` and says what it asks for.
    pub fn parse(
        &mut self,
        memory: &QueueMemory,
        chain: Chain<'_>,
        limits: &Limits,
    ) -> Result<Request, RequestError> {
        self.ranges.clear();
        self.collect(chain)?;
        if self.writable.len == 0 {
            return Err(RequestError::NoStatus);
        }
        if self.readable.len < HEADER_SIZE {
            return Err(RequestError::NoHeader);
        }
        let header = Words(self.readable.copy(memory, 0)?);
        self.check(memory, header.u32_at::<0>(), header.u64_at::<8>(), limits)
    }

    /// Where the status of the chain goes; `None` when the chain has no place for it or none that can be trusted.
    pub fn status_address(&self) -> Option<GuestAddress> {
        self.writable.last()
    }

    /// Writable bytes of the chain, the status counted.
    pub fn writable_len(&self) -> u32 {
        self.writable.len
    }

    /// The ranges of the discard or write-zeroes that was parsed last.
    pub fn ranges(&self) -> &[Range] {
        &self.ranges
    }

    /// Lets `buffers` be the data of the `request` that was parsed last.
    pub fn gather(
        &self,
        memory: &Arc<QueueMemory>,
        request: &Request,
        buffers: &mut GuestBuffers,
    ) -> Result<(), RequestError> {
        buffers.begin(memory);
        let (run, skip, access) = match request.kind {
            Kind::Read | Kind::GetId => (&self.writable, 0, Access::Write),
            Kind::Write => (&self.readable, HEADER_SIZE, Access::Read),
            Kind::Flush | Kind::Discard | Kind::WriteZeroes => return Ok(()),
        };
        run.pieces(skip, request.data_len, |address, len| {
            buffers.push(address, len, access).map_err(outside)
        })
    }

    fn collect(&mut self, chain: Chain<'_>) -> Result<(), RequestError> {
        self.readable.clear();
        self.writable.clear();
        let mut whole = false;
        let mut ordered = true;
        for (count, descriptor) in chain.enumerate() {
            if count >= MAX_DESCRIPTORS {
                self.writable.clear();
                return Err(RequestError::LongChain);
            }
            whole = !descriptor.has_next();
            if descriptor.is_write_only() {
                self.writable.push(descriptor.addr(), descriptor.len());
            } else {
                ordered &= self.writable.segments.is_empty();
                self.readable.push(descriptor.addr(), descriptor.len());
            }
        }
        if !whole {
            // What seems to be the last writable byte need not be the status.
            self.writable.clear();
            return Err(RequestError::BrokenChain);
        }
        if ordered { Ok(()) } else { Err(RequestError::Order) }
    }

    fn check(
        &mut self,
        memory: &QueueMemory,
        request_type: u32,
        sector: u64,
        limits: &Limits,
    ) -> Result<Request, RequestError> {
        let data_out = self.readable.len.saturating_sub(HEADER_SIZE);
        let data_in = self.writable.len.saturating_sub(1);
        let (kind, data_len, unexpected) = match request_type {
            TYPE_IN => (Kind::Read, data_in, data_out),
            TYPE_OUT => (Kind::Write, data_out, data_in),
            TYPE_FLUSH => (Kind::Flush, 0, data_in.max(data_out)),
            TYPE_GET_ID => (Kind::GetId, data_in, data_out),
            TYPE_DISCARD => (Kind::Discard, data_out, data_in),
            TYPE_WRITE_ZEROES => (Kind::WriteZeroes, data_out, data_in),
            _ => return Err(RequestError::Type),
        };
        if limits.read_only && matches!(kind, Kind::Write | Kind::Discard | Kind::WriteZeroes) {
            return Err(RequestError::ReadOnly);
        }
        if unexpected != 0 {
            return Err(RequestError::UnexpectedData);
        }
        if data_len > MAX_TRANSFER {
            return Err(RequestError::TooLong);
        }
        let offset = match kind {
            Kind::Read | Kind::Write => transfer_offset(sector, data_len, limits)?,
            Kind::GetId if usize::try_from(data_len).is_ok_and(|len| len < SERIAL_SIZE) => {
                return Err(RequestError::DataLength(data_len));
            }
            Kind::Discard => self.collect_ranges(memory, kind, MAX_DISCARD_RANGES, limits)?,
            Kind::WriteZeroes => self.collect_ranges(memory, kind, MAX_WRITE_ZEROES_RANGES, limits)?,
            Kind::Flush | Kind::GetId => 0,
        };
        Ok(Request {
            kind,
            offset,
            data_len,
        })
    }

    fn collect_ranges(
        &mut self,
        memory: &QueueMemory,
        kind: Kind,
        max_ranges: u32,
        limits: &Limits,
    ) -> Result<u64, RequestError> {
        let data_len = self.readable.len.saturating_sub(HEADER_SIZE);
        let count = data_len / RANGE_SIZE;
        if data_len == 0 || !data_len.is_multiple_of(RANGE_SIZE) || count > max_ranges {
            return Err(RequestError::DataLength(data_len));
        }
        for index in 0..count {
            let skip = index.saturating_mul(RANGE_SIZE).saturating_add(HEADER_SIZE);
            let range = parse_range(&Words(self.readable.copy(memory, skip)?), kind, limits)?;
            self.ranges.push(range);
        }
        Ok(0)
    }
}

/// Position in bytes of a read or write, whose sectors must exist.
fn transfer_offset(sector: u64, data_len: u32, limits: &Limits) -> Result<u64, RequestError> {
    let len = u64::from(data_len);
    if len == 0 || !len.is_multiple_of(SECTOR_SIZE) {
        return Err(RequestError::DataLength(data_len));
    }
    position(sector, len / SECTOR_SIZE, limits)
}

/// Position in bytes of `count` sectors from `sector` on, which must exist.
fn position(sector: u64, count: u64, limits: &Limits) -> Result<u64, RequestError> {
    let end = sector.checked_add(count).ok_or(RequestError::BeyondEnd)?;
    if end > limits.sectors {
        return Err(RequestError::BeyondEnd);
    }
    sector.checked_mul(SECTOR_SIZE).ok_or(RequestError::BeyondEnd)
}

/// struct virtio_blk_discard_write_zeroes: sector, number of sectors, flags.
fn parse_range(words: &Words, kind: Kind, limits: &Limits) -> Result<Range, RequestError> {
    let (allowed_flags, max_sectors) = match kind {
        Kind::WriteZeroes => (RANGE_FLAG_UNMAP, MAX_WRITE_ZEROES_SECTORS),
        // Virtio 1.2 §5.2.6.2: a discard with the unmap flag is not supported.
        _ => (0, MAX_DISCARD_SECTORS),
    };
    let (sector, count, flags) = (words.u64_at::<0>(), words.u32_at::<8>(), words.u32_at::<12>());
    if flags & !allowed_flags != 0 {
        return Err(RequestError::Flags);
    }
    if count > max_sectors {
        return Err(RequestError::RangeTooLong);
    }
    let offset = position(sector, u64::from(count), limits)?;
    let len = u64::from(count).saturating_mul(SECTOR_SIZE);
    Ok(Range {
        offset,
        len,
        unmap: flags & RANGE_FLAG_UNMAP != 0,
    })
}
