//! Why a vCPU cannot go on, told so that somebody can find out.

use std::fmt::{self, Display, Formatter, Write as _};
use std::io;

use koya_devices::GuestRam;
use kvm_bindings::{kvm_regs, kvm_sregs};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress};

use crate::kvm::KvmHost;

/// The longest instruction of the architecture, in bytes.
const LONGEST_INSTRUCTION: usize = 15;

/// What KVM reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FaultKind {
    /// KVM_EXIT_INTERNAL_ERROR.
    Internal {
        /// KVM_INTERNAL_ERROR_*.
        suberror: u32,
        /// The instruction at fault, when KVM tells.
        instruction: Vec<u8>,
    },
    /// KVM_EXIT_FAIL_ENTRY: the processor refuses the guest's state.
    Entry {
        /// The hardware's reason.
        reason: u64,
    },
    /// KVM_RUN itself failed.
    Run {
        /// Its error number.
        errno: i32,
    },
    /// An exit that a guest on this machine cannot cause.
    Unexpected {
        /// Its name.
        exit: String,
    },
}

impl Display for FaultKind {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Internal { suberror, .. } => {
                let meaning = match suberror {
                    1 => "instruction emulation failed",
                    2 => "simultaneous exceptions",
                    3 => "an exit while delivering an event",
                    4 => "an unexpected exit reason",
                    _ => "unknown reason",
                };
                write!(f, "KVM internal error {suberror} ({meaning})")
            }
            Self::Entry { reason } => {
                write!(f, "the processor refuses to enter the guest (reason {reason:#x})")
            }
            Self::Run { errno } => write!(f, "KVM_RUN failed: {}", io::Error::from_raw_os_error(*errno)),
            Self::Unexpected { exit } => write!(f, "unexpected exit {exit}"),
        }
    }
}

/// A vCPU's last state.
#[derive(Debug, Clone)]
pub struct VcpuFault {
    /// The vCPU's number.
    pub vcpu: u8,
    /// What KVM reported.
    pub kind: FaultKind,
    registers: Option<Box<(kvm_regs, kvm_sregs)>>,
    instruction: Vec<u8>,
}

impl VcpuFault {
    /// Collects what is known about the fault of `vcpu`.
    pub(super) fn collect(index: u8, kind: FaultKind, vcpu: &VcpuFd, memory: &GuestRam) -> Self {
        let registers = vcpu
            .get_regs()
            .and_then(|regs| Ok(Box::new((regs, vcpu.get_sregs()?))))
            .ok();
        let instruction = match (&kind, &registers) {
            (FaultKind::Internal { instruction, .. }, _) if !instruction.is_empty() => instruction.clone(),
            (_, Some(registers)) => fetch(vcpu, memory, registers.0.rip),
            (_, None) => Vec::new(),
        };
        Self {
            vcpu: index,
            kind,
            registers,
            instruction,
        }
    }
}

/// Reads the bytes at the guest-virtual address `rip`; fewer at the end of a page or of memory.
fn fetch(vcpu: &VcpuFd, memory: &GuestRam, rip: u64) -> Vec<u8> {
    let mut bytes = [0; LONGEST_INSTRUCTION];
    let read = vcpu
        .translate_gva(rip)
        .ok()
        .filter(|translation| translation.valid != 0)
        .and_then(|translation| {
            memory
                .read(&mut bytes, GuestAddress(translation.physical_address))
                .ok()
        });
    bytes.iter().take(read.unwrap_or(0)).copied().collect()
}

impl Display for VcpuFault {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "vCPU {}: {}", self.vcpu, self.kind)?;
        if let Some(registers) = &self.registers {
            let (regs, sregs) = registers.as_ref();
            write!(
                f,
                "; rip={:#x} rsp={:#x} rflags={:#x} rax={:#x} rbx={:#x} rcx={:#x} rdx={:#x} rsi={:#x} rdi={:#x} rbp={:#x}",
                regs.rip,
                regs.rsp,
                regs.rflags,
                regs.rax,
                regs.rbx,
                regs.rcx,
                regs.rdx,
                regs.rsi,
                regs.rdi,
                regs.rbp
            )?;
            write!(
                f,
                " r8={:#x} r9={:#x} r10={:#x} r11={:#x} r12={:#x} r13={:#x} r14={:#x} r15={:#x}",
                regs.r8, regs.r9, regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15
            )?;
            write!(
                f,
                " cs={:#x} cpl={} cr0={:#x} cr2={:#x} cr3={:#x} cr4={:#x} efer={:#x}",
                sregs.cs.selector, sregs.cs.dpl, sregs.cr0, sregs.cr2, sregs.cr3, sregs.cr4, sregs.efer
            )?;
        }
        if !self.instruction.is_empty() {
            let mut hex = String::new();
            for byte in &self.instruction {
                write!(hex, " {byte:02x}")?;
            }
            write!(f, "; instruction bytes:{hex}")?;
        }
        if KvmHost::interprets_kernel_mode() {
            f.write_str(
                "; this host's KVM (kvm_pvm) interprets the guest's kernel mode and lacks some instructions: a stock Linux needs a host with kvm_amd or kvm_intel",
            )?;
        }
        Ok(())
    }
}
