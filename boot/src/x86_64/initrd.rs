//! The initrd: as high in low memory as the kernel allows, out of the way of a kernel that unpacks itself.

use crate::image::{Image, ImageError};

use super::kernel::Plan;

/// Initrds begin on a page, so that the kernel can give their memory back.
const PAGE: u64 = 4096;

/// Why an initrd cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InitrdError {
    /// The file itself.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// No room.
    #[error(
        "the initrd has {size} bytes, and guest memory has room for {room} of it above the kernel, up to {end:#x}"
    )]
    TooLarge {
        /// Length of the file.
        size: u64,
        /// Bytes between the kernel and the end of low memory.
        room: u64,
        /// End of the addresses at which the kernel accepts an initrd.
        end: u64,
    },
}

/// An initrd's place in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Initrd {
    pub address: u64,
    pub length: u64,
}

impl Initrd {
    /// Finds its place above the kernel.
    pub fn plan(image: &Image<'_>, kernel: &Plan) -> Result<Self, InitrdError> {
        let length = image.size()?;
        let end = kernel.initrd_end;
        let address = end.checked_sub(length).map(|start| start & !(PAGE - 1));
        match address.filter(|&start| start >= kernel.end) {
            Some(address) => Ok(Self { address, length }),
            None => {
                let start = kernel.end.checked_next_multiple_of(PAGE).unwrap_or(u64::MAX);
                let (size, room) = (length, end.saturating_sub(start));
                Err(InitrdError::TooLarge { size, room, end })
            }
        }
    }
}
