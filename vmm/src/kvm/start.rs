//! Putting a vCPU into the state in which it starts.

use koya_boot::{CpuStart, DescriptorTable, Segment};
use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment};
use kvm_ioctls::VcpuFd;

use super::msr;
use super::vm::KvmError;

/// Local APIC register: local vector table entry of the LINT1 pin.
const LVT_LINT1: usize = 0x360;
/// Delivery mode "non-maskable interrupt" of a local vector table entry.
const DELIVER_NMI: [i8; 4] = [0, 4, 0, 0];

/// What every vCPU gets, whether it boots the kernel or waits for the one that does.
pub fn prepare(vcpu: &VcpuFd) -> Result<(), KvmError> {
    msr::set_boot_msrs(vcpu)?;
    let act = "set the local APIC of a vCPU";
    let mut lapic = vcpu.get_lapic().map_err(KvmError::ioctl(act))?;
    // The NMI pin, as the MP table and the MADT describe it.
    for (register, byte) in lapic.regs.iter_mut().skip(LVT_LINT1).zip(DELIVER_NMI) {
        *register = byte;
    }
    vcpu.set_lapic(&lapic).map_err(KvmError::ioctl(act))
}

/// Lets vCPU 0 begin at the kernel's entry.
pub fn enter_kernel(vcpu: &VcpuFd, start: &CpuStart) -> Result<(), KvmError> {
    let act = "set the registers of the first vCPU";
    let mut sregs = vcpu.get_sregs().map_err(KvmError::ioctl(act))?;
    sregs.cs = segment(start.cs);
    sregs.ds = segment(start.data);
    sregs.es = segment(start.data);
    sregs.fs = segment(start.data);
    sregs.gs = segment(start.data);
    sregs.ss = segment(start.data);
    sregs.tr = segment(start.tr);
    sregs.gdt = table(start.gdt);
    sregs.idt = table(start.idt);
    sregs.cr0 = start.cr0;
    sregs.cr3 = start.cr3;
    sregs.cr4 = start.cr4;
    sregs.efer = start.efer;
    vcpu.set_sregs(&sregs).map_err(KvmError::ioctl(act))?;
    let registers = start.registers;
    let regs = kvm_regs {
        rip: registers.rip,
        rsp: registers.rsp,
        rbp: registers.rbp,
        rbx: registers.rbx,
        rsi: registers.rsi,
        rflags: registers.rflags,
        ..Default::default()
    };
    vcpu.set_regs(&regs).map_err(KvmError::ioctl(act))
}

fn segment(segment: Segment) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: segment.limit,
        selector: segment.selector,
        type_: segment.kind,
        present: 1,
        dpl: 0,
        db: u8::from(segment.default_32),
        s: u8::from(segment.code_or_data),
        l: u8::from(segment.long),
        g: u8::from(segment.granular),
        ..Default::default()
    }
}

fn table(table: DescriptorTable) -> kvm_dtable {
    kvm_dtable {
        base: table.base,
        limit: table.limit,
        ..Default::default()
    }
}
