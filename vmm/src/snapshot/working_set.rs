//! What guests that go on from a snapshot are known to write: it is copied in one go before they do, instead of a page at a
//! time, each at the price of an exit to KVM.
//!
//! ```text
//!  one fork    runs ─► PUT /snapshot/working-set: the pages that are its own by now ─► file
//!  the others  "working_set_path" ─► madvise(MADV_POPULATE_WRITE) ─► run
//! ```
//!
//! The file is JSON. It is advice: whatever it says, a guest has the same memory.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use koya_api::json;
use koya_devices::GuestRam;
use serde::{Deserialize, Serialize};
use vm_memory::{Address, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress};

use super::SnapshotError;
use super::file::{create, read};
use super::pagemap::{PAGE, PageMap};

/// The most of a file that is read. A guest that has written every other page of 64 MiB has a file of 160 KiB.
const MOST: u64 = 1 << 20;
/// The most memory that is noted, and that is copied: the rest costs an exit a page, as without.
const LARGEST: u64 = 64 << 20;
/// Pages that are looked at with one system call.
const BATCH: usize = 8192;

/// Stretches of guest memory.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkingSet {
    /// First address and length in bytes of each.
    written: Vec<(u64, u64)>,
}

impl WorkingSet {
    /// What a guest has written whose memory is a snapshot's file, the first 64 MiB of it. The guest may run meanwhile.
    ///
    /// # Errors
    /// [`SnapshotError::NoFile`] if its memory is its own from the first page on, and when the kernel does not tell.
    pub fn of(memory: &GuestRam) -> Result<Self, SnapshotError> {
        if !is_private_file(memory) {
            return Err(SnapshotError::NoFile);
        }
        Self::written(memory).map_err(SnapshotError::Pages)
    }

    fn written(memory: &GuestRam) -> io::Result<Self> {
        let mut set = Self::default();
        let mut left_to_note = LARGEST;
        for region in memory.iter() {
            let map = PageMap::of(region)?;
            let mut at = 0;
            while at < region.len() && left_to_note != 0 {
                let left = usize::try_from(region.len().saturating_sub(at)).unwrap_or(usize::MAX);
                let pages = map.pages(at, left.div_ceil(PAGE).min(BATCH))?;
                for page in pages {
                    if page.is_own() && left_to_note != 0 {
                        left_to_note = left_to_note.saturating_sub(PAGE as u64);
                        set.add(region.start_addr().raw_value().saturating_add(at), PAGE as u64);
                    }
                    at = at.saturating_add(PAGE as u64);
                }
            }
        }
        Ok(set)
    }

    fn add(&mut self, address: u64, length: u64) {
        match self.written.last_mut() {
            Some((start, known)) if start.saturating_add(*known) == address => {
                *known = known.saturating_add(length);
            }
            _ => self.written.push((address, length)),
        }
    }

    /// Writes it to `path`, which is replaced if it is there.
    ///
    /// # Errors
    /// [`SnapshotError::Write`]
    pub fn write(&self, path: &Path) -> Result<(), SnapshotError> {
        let failed = |source: io::Error| SnapshotError::Write {
            path: path.to_owned(),
            source,
        };
        let text = serde_json::to_vec(self).map_err(|error| failed(error.into()))?;
        create(path)?.write_all(&text).map_err(|error| {
            // Half of it is of no use.
            let _ = fs::remove_file(path);
            failed(error)
        })
    }

    /// Reads the one at `path`.
    ///
    /// # Errors
    /// [`SnapshotError`], if it is none.
    pub fn read(path: &Path) -> Result<Self, SnapshotError> {
        let bytes = read("working set", "working_set_path", path, MOST)?;
        json::from_slice(&bytes).map_err(|source| SnapshotError::Damaged {
            path: path.to_owned(),
            source,
        })
    }

    /// Has the kernel copy what is written of `memory`, as if that had been done. What is not there is left out, what is more
    /// than 64 MiB, and all of it if the memory is no file's or the kernel cannot (before Linux 5.14).
    pub fn populate(&self, memory: &GuestRam) {
        if !is_private_file(memory) {
            return;
        }
        let mut left = LARGEST;
        for &(address, length) in &self.written {
            if left == 0 {
                return;
            }
            let length = length.min(left);
            // What is empty counts as well, so that there is an end to them.
            left = left.saturating_sub(length.max(PAGE as u64));
            let Some((region, offset)) = place(memory, address) else {
                continue;
            };
            let length = length.min(region.len().saturating_sub(offset.raw_value()));
            let Ok(length) = usize::try_from(length) else {
                continue;
            };
            let Ok(host) = region.get_host_address(offset) else {
                continue;
            };
            // SAFETY: the range is part of a mapping that lives as long as `memory`, and its contents stay as they are.
            let populated = unsafe { libc::madvise(host.cast(), length, libc::MADV_POPULATE_WRITE) };
            if populated < 0 {
                return;
            }
        }
    }
}

/// Whether pages are copied when they are written.
fn is_private_file(memory: &GuestRam) -> bool {
    memory
        .iter()
        .all(|region| region.file_offset().is_some() && region.flags() & libc::MAP_PRIVATE != 0)
}

/// Where a page begins.
fn place(memory: &GuestRam, address: u64) -> Option<(&impl GuestMemoryRegion, MemoryRegionAddress)> {
    let address = GuestAddress(address);
    let region = memory.find_region(address)?;
    let offset = region.to_region_addr(address)?;
    (offset.raw_value() & (PAGE as u64).wrapping_sub(1) == 0).then_some((region, offset))
}

#[cfg(test)]
mod tests {
    use koya_api::config::HugePages;
    use std::fs::File;

    use vm_memory::Bytes;

    use super::*;
    use crate::memory::{MemoryPlan, map_saved};

    /// Memory of 4 MiB that came from a file.
    fn saved() -> GuestRam {
        let path = std::env::temp_dir().join(format!("koya-set-{:?}", std::thread::current().id()));
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path);
        let file = file.unwrap();
        fs::remove_file(path).unwrap();
        file.set_len(4 << 20).unwrap();
        let plan = MemoryPlan {
            mib: 4,
            huge_pages: HugePages::None,
            track_dirty_pages: false,
            shared: false,
        };
        map_saved(plan, file).unwrap()
    }

    fn set(written: &[(u64, u64)]) -> WorkingSet {
        WorkingSet {
            written: written.to_vec(),
        }
    }

    #[test]
    fn what_one_has_written_others_have_before_they_write_it() {
        let first = saved();
        assert_eq!(WorkingSet::of(&first).unwrap(), set(&[]));
        first.read_obj::<u8>(GuestAddress(0x5000)).unwrap();
        for address in [0x1000_u64, 0x2fff, 0x8000, 0x3f_ffff] {
            first.write_obj(7_u8, GuestAddress(address)).unwrap();
        }
        let known = WorkingSet::of(&first).unwrap();
        assert_eq!(
            known,
            set(&[(0x1000, 0x2000), (0x8000, 0x1000), (0x3f_f000, 0x1000)])
        );
        let second = saved();
        known.populate(&second);
        assert_eq!(WorkingSet::of(&second).unwrap(), known);
        assert_eq!(second.read_obj::<u8>(GuestAddress(0x1000)).unwrap(), 0);
    }

    #[test]
    fn memory_that_is_no_file_or_not_copied_has_no_working_set() {
        for shared in [false, true] {
            let plan = MemoryPlan {
                mib: 4,
                huge_pages: HugePages::None,
                track_dirty_pages: false,
                shared,
            };
            let memory = crate::memory::map(plan).unwrap();
            memory.write_obj(7_u8, GuestAddress(0)).unwrap();
            assert!(matches!(WorkingSet::of(&memory), Err(SnapshotError::NoFile)));
            // Nothing becomes resident by it.
            set(&[(0x10_0000, 0x1000)]).populate(&memory);
            let region = memory.iter().next().unwrap();
            let page = *PageMap::of(region)
                .unwrap()
                .pages(0x10_0000, 1)
                .unwrap()
                .first()
                .unwrap();
            assert!(!page.is_there());
        }
    }

    #[test]
    fn what_is_not_there_is_left_out() {
        let memory = saved();
        let written = [
            (u64::MAX, 0x1000),
            (0x3f_f000, u64::MAX),
            (0x10, 0x1000),
            (0x40_0000, 1),
            (0, 0),
        ];
        set(&written).populate(&memory);
        assert_eq!(WorkingSet::of(&memory).unwrap(), set(&[(0x3f_f000, 0x1000)]));
    }

    #[test]
    fn a_file_is_read_as_it_was_written_or_not_at_all() {
        let path = std::env::temp_dir().join(format!("koya-set-{}", std::process::id()));
        let known = set(&[(0, 4096), (1 << 32, 8192)]);
        known.write(&path).unwrap();
        assert_eq!(WorkingSet::read(&path).unwrap(), known);
        for text in [
            "",
            "[]",
            "{\"written\":[[1]]}",
            "{\"written\":[[-1,0]]}",
            "{\"read\":[]}",
        ] {
            fs::write(&path, text).unwrap();
            let error = WorkingSet::read(&path).unwrap_err();
            assert!(matches!(error, SnapshotError::Damaged { .. }), "{text}: {error}");
        }
        File::create(&path).unwrap().set_len(MOST + 1).unwrap();
        assert!(matches!(
            WorkingSet::read(&path),
            Err(SnapshotError::TooLarge { .. })
        ));
        fs::remove_file(&path).unwrap();
        assert!(matches!(WorkingSet::read(&path), Err(SnapshotError::Read { .. })));
    }
}
