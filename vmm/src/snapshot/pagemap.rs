//! Which pages of guest memory are whose, as the kernel knows it: /proc/self/pagemap (Linux'
//! Documentation/admin-guide/mm/pagemap.rst).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use vm_memory::{GuestMemoryRegion, MemoryRegionAddress};

/// Bytes of a page.
pub const PAGE: usize = 4096;
/// Bytes of an entry.
const ENTRY: usize = 8;
/// Bits of an entry: the page is in memory, or in swap space.
const THERE: u64 = 1 << 63 | 1 << 62;
/// The page is a file's, or memory that several share.
const OF_A_FILE: u64 = 1 << 61;

/// What is known of a page.
#[derive(Debug, Clone, Copy)]
pub struct Page(u64);

impl Page {
    /// Of which nothing is known.
    pub const UNKNOWN: Self = Self(THERE);

    /// Whether it has ever been touched.
    pub fn is_there(self) -> bool {
        self.0 & THERE != 0
    }

    /// Whether this process has one of its own: it has been written, if the memory is a file's.
    pub fn is_own(self) -> bool {
        self.is_there() && self.0 & OF_A_FILE == 0
    }
}

/// The pages of a region.
pub struct PageMap {
    file: File,
    first: u64,
}

impl PageMap {
    /// Those of `region`.
    ///
    /// # Errors
    /// When there is no /proc, or the region is nowhere in this process.
    pub fn of<R: GuestMemoryRegion>(region: &R) -> io::Result<Self> {
        let host = region.get_host_address(MemoryRegionAddress(0));
        let host = host.map_err(io::Error::other)?;
        Ok(Self {
            file: File::open("/proc/self/pagemap")?,
            first: number(host.addr() as u64),
        })
    }

    /// The `count` pages from byte `at` of the region on.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn pages(&self, at: u64, count: usize) -> io::Result<Vec<Page>> {
        let mut entries = vec![0; count.saturating_mul(ENTRY)];
        let page = self.first.saturating_add(number(at));
        self.file
            .read_exact_at(&mut entries, page.saturating_mul(ENTRY as u64))?;
        let (entries, _) = entries.as_chunks::<ENTRY>();
        Ok(entries
            .iter()
            .map(|bytes| Page(u64::from_ne_bytes(*bytes)))
            .collect())
    }
}

fn number(address: u64) -> u64 {
    address >> PAGE.trailing_zeros()
}
