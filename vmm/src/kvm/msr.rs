//! Model-specific registers at start: what firmware would have left.

use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;

use super::vm::KvmError;

/// Enables fast string operations (Intel SDM vol. 4, IA32_MISC_ENABLE).
const MISC_ENABLE: (u32, u64) = (0x1a0, 1);
/// MTRRs on, write-back where no range says otherwise (Intel SDM vol. 3, §12.11.2.1).
const MTRR_DEFAULT_TYPE: (u32, u64) = (0x2ff, (1 << 11) | 6);
/// System-call entry points, GS base and time-stamp counter: all zero, as after reset.
const ZEROED: [u32; 9] = [
    0x10,        // IA32_TSC
    0x174,       // IA32_SYSENTER_CS
    0x175,       // IA32_SYSENTER_ESP
    0x176,       // IA32_SYSENTER_EIP
    0xc000_0081, // STAR
    0xc000_0082, // LSTAR
    0xc000_0083, // CSTAR
    0xc000_0084, // SFMASK
    0xc000_0102, // KERNEL_GS_BASE
];

/// Sets a vCPU's registers for boot.
pub fn set_boot_msrs(vcpu: &VcpuFd) -> Result<(), KvmError> {
    let entries: Vec<_> = ZEROED
        .into_iter()
        .map(|index| (index, 0))
        .chain([MISC_ENABLE, MTRR_DEFAULT_TYPE])
        .map(|(index, data)| kvm_msr_entry {
            index,
            data,
            ..Default::default()
        })
        .collect();
    let fail = KvmError::ioctl("set the model-specific registers of a vCPU");
    let msrs = match Msrs::from_entries(&entries) {
        Ok(msrs) => msrs,
        Err(_) => return Err(fail(kvm_ioctls::Error::new(libc::E2BIG))),
    };
    match vcpu.set_msrs(&msrs) {
        Ok(count) if count == entries.len() => Ok(()),
        Ok(_) => Err(fail(kvm_ioctls::Error::new(libc::EINVAL))),
        Err(error) => Err(fail(error)),
    }
}
