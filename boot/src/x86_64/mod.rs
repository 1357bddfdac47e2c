//! Booting an x86-64 microVM.

mod acpi;
mod bzimage;
mod cpu;
mod elf;
mod firmware;
mod initrd;
mod kernel;
pub mod layout;
mod machine;
mod memory_map;
mod mptable;
mod pvh;
mod pvh_note;
mod tables;
mod zero_page;

#[cfg(test)]
mod mutate_tests;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use vm_memory::GuestMemoryBackend;

pub use bzimage::BzImageError;
pub use cpu::{CpuStart, DescriptorTable, Protocol, Registers, Segment};
pub use elf::ElfError;
pub use initrd::InitrdError;
pub use kernel::KernelError;
pub use machine::{Machine, MachineError, SerialPort, VirtioMmio};
pub use memory_map::{MemoryMapError, memory_ranges};
pub use pvh_note::PvhNoteError;
pub use tables::TablesError;

use crate::cmdline::Cmdline;
use crate::image::Image;
use initrd::Initrd;
use kernel::Plan;
use memory_map::MemoryMap;

/// What is to be booted.
#[derive(Clone, Copy, Debug)]
pub struct BootSource<'a> {
    /// An uncompressed ELF `vmlinux`, or a `bzImage`.
    pub kernel: Image<'a>,
    /// A cpio archive, compressed or not, that the kernel unpacks as its first root file system.
    pub initrd: Option<Image<'a>>,
    /// The complete command line.
    pub cmdline: &'a Cmdline,
}

/// Why a machine cannot be made ready to boot. The sources of an error say what was wrong and what would be right.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The description of the machine contradicts itself.
    #[error("cannot describe the machine to a guest")]
    Machine(#[from] MachineError),
    /// Guest memory is where it must not be, or not where it must be.
    #[error("cannot boot in this guest memory")]
    Memory(#[from] MemoryMapError),
    /// The kernel file.
    #[error("cannot load the kernel '{}'", path.display())]
    Kernel {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: KernelError,
    },
    /// The initrd file.
    #[error("cannot load the initrd '{}'", path.display())]
    Initrd {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: InitrdError,
    },
    /// Guest memory did not take a table.
    #[error("cannot hand the machine over to the kernel")]
    Tables(#[from] TablesError),
}

/// Puts kernel, initrd, command line and tables into guest memory and tells how vCPU 0 starts.
///
/// `memory` must be fresh: what is not written here is taken to be zero. Files are checked completely before
/// anything is written.
///
/// # Errors
///
/// A machine, memory, kernel or initrd that cannot boot. Guest memory may then hold part of the kernel.
pub fn load<M: GuestMemoryBackend>(
    memory: &M,
    machine: &Machine<'_>,
    source: &BootSource<'_>,
) -> Result<CpuStart, BootError> {
    machine.check()?;
    let map = MemoryMap::of(memory)?;
    let (plan, initrd) = load_files(memory, &map, source)?;

    let cmdline = source.cmdline.to_bytes_with_nul();
    tables::write(memory, "command line", layout::CMDLINE, &cmdline)?;
    match plan.protocol {
        Protocol::Linux64 => zero_page::write_zero_page(memory, &map, plan.header, initrd)?,
        Protocol::Pvh => pvh::write_start_info(memory, &map, initrd)?,
    }
    tables::write(
        memory,
        "firmware tables",
        layout::FIRMWARE,
        &firmware::build(machine),
    )?;
    Ok(CpuStart::prepare(memory, plan.protocol, plan.entry, plan.end)?)
}

/// Checks kernel and initrd, then puts both into guest memory.
fn load_files<M: GuestMemoryBackend>(
    memory: &M,
    map: &MemoryMap,
    source: &BootSource<'_>,
) -> Result<(Plan, Option<Initrd>), BootError> {
    let kernel_failed = |error| BootError::Kernel {
        path: source.kernel.path.to_owned(),
        source: error,
    };
    let mut head = [0; kernel::HEAD];
    let (plan, head) = look(&source.kernel, map, source.cmdline, &mut head).map_err(kernel_failed)?;

    let mut initrd = None;
    if let Some(image) = source.initrd {
        let failed = |source| BootError::Initrd {
            path: image.path.to_owned(),
            source,
        };
        let place = Initrd::plan(&image, &plan).map_err(failed)?;
        let placed = image.place(memory, place.address, 0, place.length);
        placed.map_err(|error| failed(error.into()))?;
        initrd = Some(place);
    }
    let placed = plan.place(&source.kernel, head, memory);
    placed.map_err(|error| kernel_failed(error.into()))?;
    Ok((plan, initrd))
}

/// Reads the head of the kernel file and plans by it.
fn look<'h>(
    image: &Image<'_>,
    map: &MemoryMap,
    cmdline: &Cmdline,
    head: &'h mut [u8],
) -> Result<(Plan, &'h [u8]), KernelError> {
    let size = image.size()?;
    // Asking for no more than there is saves a tiny guest the read that would only find the end.
    let length = usize::try_from(size).unwrap_or(usize::MAX).min(head.len());
    let head = image.read_at(head.get_mut(..length).unwrap_or_default(), 0)?;
    let plan = Plan::of(image, map, cmdline.length_with_nul(), head, size)?;
    Ok((plan, head))
}
