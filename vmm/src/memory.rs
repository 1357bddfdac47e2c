//! Mapping guest memory.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use koya_api::config::HugePages;
use koya_boot::memory_ranges;
use koya_devices::GuestRam;
use vm_memory::bitmap::{AtomicBitmap, Bitmap, NewBitmap};
use vm_memory::mmap::{MmapRegionBuilder, MmapRegionError};
use vm_memory::{
    Bytes, FileOffset, GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap, MemoryRegionAddress,
    MmapRegion,
};

/// Bytes of a MiB.
const MIB: u64 = 1 << 20;
/// Bytes of a huge page.
const HUGE_PAGE: usize = 2 << 20;

/// Guest memory cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// More than the host has.
    #[error("mem_size_mib {wanted_mib} is more than this host's memory, which is {host_mib} MiB")]
    MoreThanHost {
        /// Asked for.
        wanted_mib: u64,
        /// There is.
        host_mib: u64,
    },
    /// The mapping failed.
    #[error("cannot map {wanted_mib} MiB of guest memory{hint}")]
    Map {
        /// Asked for.
        wanted_mib: u64,
        /// What may help.
        hint: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The file with a snapshot's memory cannot be read.
    #[error("cannot read the file with the memory")]
    Saved(#[source] io::Error),
    /// The file is another machine's, or damaged.
    #[error("the file with the memory has {length} bytes: the snapshot's machine has {wanted}")]
    SavedLength {
        /// There are.
        length: u64,
        /// There must be.
        wanted: u64,
    },
    /// The regions do not fit together.
    #[error("cannot lay out guest memory")]
    Layout(#[source] vm_memory::GuestRegionCollectionError),
}

/// How guest memory is mapped.
#[derive(Debug, Clone, Copy)]
pub struct MemoryPlan {
    /// Size in MiB.
    pub mib: u64,
    /// Size of the pages behind it.
    pub huge_pages: HugePages,
    /// Whether writes of the devices are tracked.
    pub track_dirty_pages: bool,
    /// Whether another process can map it too, given its descriptor.
    pub shared: bool,
}

/// Maps guest memory: zeroed, taken from the host only when it is touched, and private unless it is to be shared. Then it
/// is a file without a name (memfd), one for each region.
pub fn map(plan: MemoryPlan) -> Result<GuestRam, MemoryError> {
    map_over(plan, None)
}

/// Maps guest memory with the contents of `saved`, which has all regions one after the other. The file's own pages are
/// used until the guest writes them, unless the memory is to be shared or in huge pages: then what is in the file is read.
///
/// # Errors
/// [`MemoryError`]; a file of another length than the memory is refused.
pub fn map_saved(plan: MemoryPlan, saved: File) -> Result<GuestRam, MemoryError> {
    let unreadable = MemoryError::Saved;
    let length = saved.metadata().map_err(unreadable)?.len();
    let wanted = plan.mib.saturating_mul(MIB);
    if length != wanted {
        return Err(MemoryError::SavedLength { length, wanted });
    }
    let saved = Arc::new(saved);
    if plan.shared || plan.huge_pages == HugePages::TwoMib {
        let memory = map(plan)?;
        fill(&memory, &saved).map_err(unreadable)?;
        return Ok(memory);
    }
    map_over(plan, Some(&saved))
}

fn map_over(plan: MemoryPlan, saved: Option<&Arc<File>>) -> Result<GuestRam, MemoryError> {
    let wanted_mib = plan.mib;
    let host_mib = host_memory().checked_div(MIB).unwrap_or(0);
    if wanted_mib > host_mib {
        return Err(MemoryError::MoreThanHost { wanted_mib, host_mib });
    }
    let (kind, hint) = match plan.huge_pages {
        HugePages::None | HugePages::Transparent => (libc::MAP_NORESERVE, ""),
        // Reserved, because a pool that runs out later would kill the process.
        HugePages::TwoMib => (
            libc::MAP_HUGETLB | libc::MAP_HUGE_2MB,
            "; are there enough free 2 MiB pages (vm.nr_hugepages)?",
        ),
    };
    let failed = |source| MemoryError::Map {
        wanted_mib,
        hint,
        source,
    };
    let mut regions = Vec::new();
    let mut offset: u64 = 0;
    for (start, len) in memory_ranges(wanted_mib.saturating_mul(MIB)) {
        let file = match plan.shared {
            true => Some(memory_file(len, plan.huge_pages).map_err(failed)?),
            false => None,
        };
        let mapping = map_aligned(|| {
            let bitmap = plan.track_dirty_pages.then(|| AtomicBitmap::with_len(len));
            let builder = MmapRegionBuilder::new_with_bitmap(len, bitmap)
                .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE);
            match (&file, saved) {
                (Some(file), _) => builder
                    .with_file_offset(FileOffset::from_arc(file.clone(), 0))
                    .with_mmap_flags(libc::MAP_SHARED | kind),
                (None, Some(saved)) => builder
                    .with_file_offset(FileOffset::from_arc(saved.clone(), offset))
                    .with_mmap_flags(libc::MAP_PRIVATE | kind),
                (None, None) => builder.with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | kind),
            }
            .build()
        })
        .map_err(|error| match error {
            MmapRegionError::Mmap(source) => failed(source),
            other => failed(io::Error::new(io::ErrorKind::InvalidInput, other)),
        })?;
        if plan.huge_pages == HugePages::Transparent {
            merge_pages(&mapping).map_err(failed)?;
        }
        keep_from_core_dumps(&mapping).map_err(failed)?;
        let region =
            GuestRegionMmap::new(mapping, start).ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
        regions.push(region);
        offset = offset.saturating_add(u64::try_from(len).unwrap_or(u64::MAX));
    }
    GuestRam::from_regions(regions).map_err(MemoryError::Layout)
}

/// Reads what is in `saved` into memory that is all zeroes, leaving out the file's holes.
fn fill(memory: &GuestRam, saved: &File) -> io::Result<()> {
    let mut base: u64 = 0;
    for region in memory.iter() {
        let end = base.saturating_add(region.len());
        let mut at = base;
        while let Some((from, to)) = next_data(saved, at)?.filter(|(from, _)| *from < end) {
            let (from, to) = (from.max(base), to.min(end));
            let length = usize::try_from(to.saturating_sub(from)).unwrap_or(usize::MAX);
            let mut source = saved;
            source.seek(SeekFrom::Start(from))?;
            region
                .read_exact_volatile_from(
                    MemoryRegionAddress(from.saturating_sub(base)),
                    &mut source,
                    length,
                )
                .map_err(io::Error::other)?;
            at = to;
        }
        base = end;
    }
    Ok(())
}

/// The next stretch of a file from `at` on that is no hole.
fn next_data(file: &File, at: u64) -> io::Result<Option<(u64, u64)>> {
    let seek = |at: u64, whence| {
        let offset = libc::off_t::try_from(at).unwrap_or(libc::off_t::MAX);
        // SAFETY: no memory is passed, and the descriptor is open.
        let found = unsafe { libc::lseek(file.as_raw_fd(), offset, whence) };
        u64::try_from(found).map_err(|_| io::Error::last_os_error())
    };
    match seek(at, libc::SEEK_DATA) {
        Ok(from) => Ok(Some((from, seek(from, libc::SEEK_HOLE)?))),
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A file without a name that is memory, which nobody can make shorter under those who map it.
fn memory_file(len: usize, huge_pages: HugePages) -> io::Result<Arc<File>> {
    let kind = match huge_pages {
        HugePages::None | HugePages::Transparent => 0,
        HugePages::TwoMib => libc::MFD_HUGETLB | libc::MFD_HUGE_2MB,
    };
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING | kind;
    // SAFETY: the name is a string with its zero, which the call only reads.
    let fd = unsafe { libc::memfd_create(c"guest-memory".as_ptr(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` is a new descriptor that nobody else owns.
    let file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    file.set_len(u64::try_from(len).unwrap_or(u64::MAX))?;
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: no memory is passed, and the descriptor is open.
    match unsafe { libc::fcntl(fd, libc::F_ADD_SEALS, seals) } {
        0 => Ok(Arc::new(file)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Maps a region where 2 MiB pages of the guest and of the host coincide, if it can: only then does the host back
/// the guest by huge pages, of which a boot touches a few dozen instead of thousands of small ones.
///
/// Linux aligns large mappings by itself from 6.7 on. Before, it puts each mapping right below the last one, so that
/// a filler of the right size makes the next one fit.
fn map_aligned<B: Bitmap>(
    map: impl Fn() -> Result<MmapRegion<B>, MmapRegionError>,
) -> Result<MmapRegion<B>, MmapRegionError> {
    let mapping = map()?;
    let excess = mapping.as_ptr().addr() & (HUGE_PAGE - 1);
    if excess == 0 || mapping.size() < HUGE_PAGE {
        return Ok(mapping);
    }
    drop(mapping);
    let _filler: MmapRegion = MmapRegionBuilder::new(excess).build()?;
    map()
}

/// A guest's memory is not for whoever reads the monitor's core dump.
fn keep_from_core_dumps<B: Bitmap>(mapping: &MmapRegion<B>) -> io::Result<()> {
    advise(mapping, libc::MADV_DONTDUMP)
}

/// Lets the host put huge pages behind a mapping where it finds it worthwhile.
fn merge_pages<B: Bitmap>(mapping: &MmapRegion<B>) -> io::Result<()> {
    advise(mapping, libc::MADV_HUGEPAGE)
}

fn advise<B: Bitmap>(mapping: &MmapRegion<B>, advice: libc::c_int) -> io::Result<()> {
    // SAFETY: the range is exactly that of a live mapping, and neither advice changes contents.
    match unsafe { libc::madvise(mapping.as_ptr().cast(), mapping.size(), advice) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The host's memory in bytes; as much as there could be if the host does not tell.
fn host_memory() -> u64 {
    // SAFETY: the structure is plain integers, for which all zeroes is a value.
    let mut info: libc::sysinfo = unsafe { std::mem::zeroed() };
    // SAFETY: `info` is writable and of the type that the call fills in.
    match unsafe { libc::sysinfo(&raw mut info) } {
        0 => info.totalram.saturating_mul(u64::from(info.mem_unit)),
        _ => u64::MAX,
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::{
        Address, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress,
    };

    use super::*;

    fn plan(mib: u64) -> MemoryPlan {
        MemoryPlan {
            mib,
            huge_pages: HugePages::None,
            track_dirty_pages: false,
            shared: false,
        }
    }

    #[test]
    fn memory_beyond_the_gap_goes_on_at_4_gib() {
        let ram = map(plan(4096)).unwrap();
        assert_eq!(ram.num_regions(), 2);
        ram.write_obj(7_u8, GuestAddress(1 << 32)).unwrap();
        assert!(ram.write_obj(7_u8, GuestAddress(0xfee0_0000)).is_err());
    }

    #[test]
    fn huge_pages_of_guest_and_host_coincide() {
        // Pushes the next mapping off its alignment where the kernel does not care for it.
        let _page: MmapRegion = MmapRegionBuilder::new(4096).build().unwrap();
        for shared in [false, true] {
            let ram = map(MemoryPlan { shared, ..plan(4096) }).unwrap();
            for region in ram.iter() {
                let host = region.get_host_address(MemoryRegionAddress(0)).unwrap();
                assert_eq!(host.addr() % HUGE_PAGE, 0);
            }
        }
    }

    #[test]
    fn shared_memory_is_seen_through_its_descriptor_and_cannot_shrink() {
        use std::os::unix::fs::FileExt;
        assert!(
            map(plan(64))
                .unwrap()
                .iter()
                .all(|region| region.file_offset().is_none())
        );
        let ram = map(MemoryPlan {
            shared: true,
            ..plan(4096)
        })
        .unwrap();
        for (region, value) in ram.iter().zip([7_u8, 8]) {
            ram.write_obj(value, region.start_addr().checked_add(5).unwrap())
                .unwrap();
            let file = region.file_offset().unwrap();
            let mut seen = [0];
            file.file().read_exact_at(&mut seen, file.start() + 5).unwrap();
            assert_eq!(seen, [value]);
            assert!(file.file().set_len(4096).is_err());
        }
    }

    #[test]
    fn more_than_the_host_has_is_refused() {
        let error = map(plan(1 << 30)).unwrap_err();
        assert!(
            matches!(
                error,
                MemoryError::MoreThanHost {
                    wanted_mib: 0x4000_0000,
                    ..
                }
            ),
            "{error}"
        );
    }

    #[test]
    fn writes_are_tracked_only_on_request() {
        use vm_memory::bitmap::Bitmap;
        for track_dirty_pages in [false, true] {
            let ram = map(MemoryPlan {
                track_dirty_pages,
                ..plan(64)
            })
            .unwrap();
            ram.write_obj(1_u8, GuestAddress(0x5000)).unwrap();
            let region = ram.iter().next().unwrap();
            assert_eq!(region.bitmap().dirty_at(0x5000), track_dirty_pages);
        }
    }
}
