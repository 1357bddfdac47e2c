//! The file with the memory.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use koya_devices::GuestRam;
use vm_memory::{Bytes, GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress};

use super::SnapshotError;
use super::file::create;
use super::pagemap::{PAGE, Page, PageMap};

/// Pages between two writes at most.
const BATCH: usize = 256;

/// Writes all of `memory` to `path`. The vCPUs and the devices stand still.
pub fn write(memory: &GuestRam, path: &Path) -> Result<(), SnapshotError> {
    let failed = |source| SnapshotError::Write {
        path: path.to_owned(),
        source,
    };
    let file = create(path)?;
    fill(&file, memory).map_err(|error| {
        // Half of it is of no use.
        let _ = fs::remove_file(path);
        failed(error)
    })
}

fn fill(file: &File, memory: &GuestRam) -> io::Result<()> {
    let length = memory
        .iter()
        .map(GuestMemoryRegion::len)
        .fold(0, u64::saturating_add);
    file.set_len(length)?;
    let mut offset = 0;
    for region in memory.iter() {
        write_region(region, file, offset)?;
        offset = offset.saturating_add(region.len());
    }
    file.sync_all()
}

fn write_region<R>(region: &R, file: &File, offset: u64) -> io::Result<()>
where
    R: GuestMemoryRegion + Bytes<MemoryRegionAddress, E = vm_memory::GuestMemoryError>,
{
    let touched = Touched::of(region);
    let mut buffer = vec![0; PAGE.saturating_mul(BATCH)];
    let mut at = 0;
    while at < region.len() {
        let left = usize::try_from(region.len().saturating_sub(at)).unwrap_or(usize::MAX);
        let (batch, _) = buffer.split_at_mut(left.min(PAGE.saturating_mul(BATCH)));
        let pages = batch.len().div_ceil(PAGE);
        let there = touched.pages(at, pages);
        if there.iter().any(|there| *there) {
            let read = region.read_slice(batch, MemoryRegionAddress(at));
            read.map_err(io::Error::other)?;
            write_pages(batch, &there, file, offset.saturating_add(at))?;
        }
        at = at.saturating_add(u64::try_from(batch.len()).unwrap_or(u64::MAX));
    }
    Ok(())
}

/// Writes each run of pages that are there and not all zeroes.
fn write_pages(batch: &[u8], there: &[bool], file: &File, offset: u64) -> io::Result<()> {
    let mut from = 0;
    let mut to = 0;
    for (page, there) in batch.chunks(PAGE).zip(there) {
        let end = page.len().saturating_add(to);
        if *there && page.iter().any(|byte| *byte != 0) {
            to = end;
            continue;
        }
        write_run(batch, from, to, file, offset)?;
        (from, to) = (end, end);
    }
    write_run(batch, from, to, file, offset)
}

fn write_run(batch: &[u8], from: usize, to: usize, file: &File, offset: u64) -> io::Result<()> {
    let at = offset.saturating_add(u64::try_from(from).unwrap_or(u64::MAX));
    file.write_all_at(batch.get(from..to).unwrap_or_default(), at)
}

/// Which pages of a region have ever been touched. Reading the others would take memory for nothing.
struct Touched(Option<PageMap>);

impl Touched {
    fn of<R: GuestMemoryRegion>(region: &R) -> Self {
        // Of a file there may be contents that nobody has touched.
        let own = region.file_offset().is_none();
        Self(own.then(|| PageMap::of(region).ok()).flatten())
    }

    /// Of the `count` pages from byte `at` of the region on.
    fn pages(&self, at: u64, count: usize) -> Vec<bool> {
        let pages = self.0.as_ref().and_then(|map| map.pages(at, count).ok());
        let pages = pages.unwrap_or_else(|| vec![Page::UNKNOWN; count]);
        pages.into_iter().map(Page::is_there).collect()
    }
}
