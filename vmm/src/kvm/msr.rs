//! Model-specific registers at start: what firmware would have left, where that is not the state after reset.

use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;

use super::vm::KvmError;

/// Enables fast string operations (Intel SDM vol. 4, IA32_MISC_ENABLE).
const MISC_ENABLE: (u32, u64) = (0x1a0, 1);
/// MTRRs on, write-back where no range says otherwise (Intel SDM vol. 3, §12.11.2.1).
const MTRR_DEFAULT_TYPE: (u32, u64) = (0x2ff, (1 << 11) | 6);
/// Sets a vCPU's registers for boot.
pub fn set_boot_msrs(vcpu: &VcpuFd) -> Result<(), KvmError> {
    let entries = [MISC_ENABLE, MTRR_DEFAULT_TYPE].map(|(index, data)| kvm_msr_entry {
        index,
        data,
        ..Default::default()
    });
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
