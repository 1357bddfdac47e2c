//! What a vCPU does when the guest leaves guest mode.

use std::sync::{Arc, Mutex, PoisonError};

use koya_devices::Bus;
use koya_devices::legacy::IoApic;
use kvm_bindings::{KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN, kvm_run};
use kvm_ioctls::{VcpuExit, VcpuFd};

use super::fault::FaultKind;

/// The address spaces of the guest and the devices in them; fixed once the guest runs.
pub struct Buses {
    /// I/O ports.
    pub ports: Bus,
    /// Memory-mapped I/O.
    pub mmio: Bus,
    /// Told about ends of interrupts that KVM's local APICs cannot finish alone.
    pub ioapic: Arc<Mutex<IoApic>>,
}

/// What follows from an exit.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Flow {
    /// Enter the guest again.
    Continue,
    /// Somebody kicked the vCPU out, which has nothing left to finish: look at the gate.
    Kicked,
    /// The guest asked for a reset in a way that only KVM sees.
    Reset,
    /// The guest is off.
    PowerOff,
    /// The guest triple-faulted.
    TripleFault,
    /// KVM cannot go on.
    Fault(FaultKind),
}

/// Enters the guest once and deals with the reason for which it left.
pub(super) fn run_once(vcpu: &mut VcpuFd, buses: &Buses) -> Flow {
    let run: *const kvm_run = vcpu.get_kvm_run();
    let exit = match vcpu.run() {
        Ok(exit) => exit,
        Err(error) => return interrupted(vcpu, error),
    };
    match exit {
        VcpuExit::MmioRead(address, data) => {
            buses.mmio.read(address, data);
            Flow::Continue
        }
        VcpuExit::MmioWrite(address, data) => {
            buses.mmio.write(address, data);
            Flow::Continue
        }
        VcpuExit::IoIn(port, data) => {
            // A string instruction leaves once for many transfers of the same size through the same port.
            for transfer in data.chunks_mut(io_size(run)) {
                buses.ports.read(u64::from(port), transfer);
            }
            Flow::Continue
        }
        VcpuExit::IoOut(port, data) => {
            for transfer in data.chunks(io_size(run)) {
                buses.ports.write(u64::from(port), transfer);
            }
            Flow::Continue
        }
        VcpuExit::IoapicEoi(vector) => {
            buses
                .ioapic
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .eoi(vector);
            Flow::Continue
        }
        VcpuExit::Intr | VcpuExit::IrqWindowOpen => Flow::Continue,
        VcpuExit::Shutdown => Flow::TripleFault,
        VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_RESET, _) => Flow::Reset,
        VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_SHUTDOWN, _) => Flow::PowerOff,
        VcpuExit::InternalError => Flow::Fault(internal_error(run)),
        VcpuExit::FailEntry(reason, _) => Flow::Fault(FaultKind::Entry { reason }),
        other => Flow::Fault(FaultKind::Unexpected {
            exit: format!("{other:?}"),
        }),
    }
}

/// Finishes what an exit has left to do, without entering the guest: only then are the registers those that the guest
/// will see (KVM API §4.10, KVM_RUN). Returns what follows from it if the guest cannot go on.
pub(super) fn settle(vcpu: &mut VcpuFd, buses: &Buses) -> Option<Flow> {
    loop {
        vcpu.set_kvm_immediate_exit(1);
        match run_once(vcpu, buses) {
            // One access may leave in pieces.
            Flow::Continue => {}
            Flow::Kicked => return None,
            end => return Some(end),
        }
    }
}

fn interrupted(vcpu: &mut VcpuFd, error: kvm_ioctls::Error) -> Flow {
    match error.errno() {
        // Kicked: the gate decides what comes next.
        libc::EINTR => {
            vcpu.set_kvm_immediate_exit(0);
            Flow::Kicked
        }
        libc::EAGAIN => Flow::Continue,
        errno => Flow::Fault(FaultKind::Run { errno }),
    }
}

/// The size of one transfer of a port exit, which `VcpuExit` does not tell. Never zero.
fn io_size(run: *const kvm_run) -> usize {
    // SAFETY: `run` points to the vCPU's run page, which stays mapped as long as the vCPU; KVM writes it only
    // inside KVM_RUN, and after a port exit its union holds `io`.
    let size = unsafe { (*run).__bindgen_anon_1.io.size };
    usize::from(size).max(1)
}

/// The details of KVM_EXIT_INTERNAL_ERROR (KVM API §5): why, and the instruction when emulation failed.
fn internal_error(run: *const kvm_run) -> FaultKind {
    const EMULATION: u32 = 1;
    const INSTRUCTION_BYTES: u64 = 1;
    // SAFETY: as in `io_size`; after an internal error the union holds `emulation_failure`, whose first member is
    // the reason in every case. All its members are plain integers.
    let failure = unsafe { (*run).__bindgen_anon_1.emulation_failure };
    let mut instruction = Vec::new();
    if failure.suberror == EMULATION && failure.ndata >= 1 && failure.flags & INSTRUCTION_BYTES != 0 {
        // SAFETY: the flag says that this variant of the union is filled in.
        let bytes = unsafe { failure.__bindgen_anon_1.__bindgen_anon_1 };
        instruction.extend(bytes.insn_bytes.iter().take(usize::from(bytes.insn_size)));
    }
    FaultKind::Internal {
        suberror: failure.suberror,
        instruction,
    }
}
