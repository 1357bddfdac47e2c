//! From a kernel file to the state in which the first vCPU starts.
//!
//! ```text
//!  kernel ─┐                      ┌─► guest memory: kernel, initrd, command line,
//!  initrd ─┼─► load(memory, …) ───┤   e820 map, zero page or PVH start info, ACPI, MP table
//!  cmdline ┤                      └─► CpuStart: the registers of vCPU 0, as plain data
//!  machine ┘
//! ```
//!
//! Bytes in, data out: this crate knows no hypervisor and no device model. What the guest must be told
//! about (vCPUs, devices, interrupts) arrives as the plain [`Machine`], and what a vCPU must be set to
//! leaves as the plain [`CpuStart`]. Every file is hostile: headers are read once and checked in full
//! before the first byte of the kernel reaches guest memory.

#![forbid(unsafe_code)]

mod cmdline;
mod image;
mod looks;

#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(test)]
mod test_support;

pub use cmdline::{Cmdline, CmdlineError, Root};
pub use image::{Image, ImageError};

#[cfg(target_arch = "x86_64")]
pub use x86_64::{
    BootError, BootSource, BzImageError, CpuStart, DescriptorTable, ElfError, InitrdError, KernelError,
    Machine, MachineError, MemoryMapError, Protocol, PvhNoteError, Registers, Segment, SerialPort,
    TablesError, VirtioMmio, layout, load, memory_ranges,
};
