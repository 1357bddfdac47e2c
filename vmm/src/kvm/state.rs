//! A vCPU that stands still, as data.

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, Msrs, kvm_cpuid_entry2, kvm_msr_entry, kvm_xcrs};
use kvm_ioctls::{Kvm, VcpuFd};
use serde::{Deserialize, Serialize};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::vm::KvmError;

/// Model-specific registers in one call of KVM, which takes 256.
const CHUNK: usize = 256;
/// As many as a vCPU may bring: KVM lists some two hundred.
const MOST_MSRS: usize = 1024;
/// IA32_TIME_STAMP_COUNTER.
pub(super) const TSC: u32 = 0x10;
/// IA32_TSC_DEADLINE: arms the timer of the local APIC, whose mode and clock must be there already.
const TSC_DEADLINE: u32 = 0x6e0;
/// Memory types of ranges (Intel SDM vol. 3, §12.11.2), which KVM's list leaves out: eight ranges, the fixed ones, and the
/// default.
const MEMORY_TYPES: [u32; 28] = [
    0x200, 0x201, 0x202, 0x203, 0x204, 0x205, 0x206, 0x207, 0x208, 0x209, 0x20a, 0x20b, 0x20c, 0x20d, 0x20e,
    0x20f, 0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f, 0x2ff,
];

/// Everything that KVM knows of a vCPU: KVM's own structures, as they are in memory.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VcpuState {
    /// `kvm_cpuid_entry2`, as many as there are.
    cpuid: Vec<Raw>,
    /// Frequency of the time stamp counter in kHz, if KVM tells.
    tsc_khz: Option<u32>,
    mp_state: Raw,
    regs: Raw,
    sregs: Raw,
    xsave: Raw,
    xcrs: Raw,
    debug_regs: Raw,
    lapic: Raw,
    /// Numbers and values of model-specific registers.
    msrs: Vec<(u32, u64)>,
    events: Raw,
}

/// A structure of KVM's.
#[derive(Debug, Serialize, Deserialize)]
struct Raw(Vec<u8>);

impl Raw {
    fn of<T: IntoBytes + Immutable>(value: &T) -> Self {
        Self(value.as_bytes().to_vec())
    }

    /// The structure, which must have the size that it has here.
    fn get<T: FromBytes>(&self, name: &'static str) -> Result<T, KvmError> {
        T::read_from_bytes(&self.0).map_err(|_| KvmError::Saved {
            name,
            length: self.0.len(),
        })
    }
}

/// The model-specific registers that a saved vCPU may have.
pub fn msr_indices(kvm: &Kvm) -> Result<Vec<u32>, KvmError> {
    let listed = kvm
        .get_msr_index_list()
        .map_err(KvmError::ioctl("list the model-specific registers"))?;
    let mut indices = listed.as_slice().to_vec();
    indices.extend(MEMORY_TYPES);
    indices.sort_unstable();
    indices.dedup();
    Ok(indices)
}

impl VcpuState {
    /// Reads a vCPU that is outside the guest and has nothing of an exit left to finish.
    pub fn save(vcpu: &VcpuFd, msrs: &[u32]) -> Result<Self, KvmError> {
        let read = || KvmError::ioctl("read the state of a vCPU");
        let cpuid = vcpu.get_cpuid2(KVM_MAX_CPUID_ENTRIES).map_err(read())?;
        Ok(Self {
            cpuid: cpuid.as_slice().iter().map(Raw::of).collect(),
            tsc_khz: vcpu.get_tsc_khz().ok(),
            // Before the rest: it settles what the local APIC has pending.
            mp_state: Raw::of(&vcpu.get_mp_state().map_err(read())?),
            regs: Raw::of(&vcpu.get_regs().map_err(read())?),
            sregs: Raw::of(&vcpu.get_sregs().map_err(read())?),
            xsave: Raw::of(&vcpu.get_xsave().map_err(read())?),
            xcrs: Raw::of(&vcpu.get_xcrs().map_err(read())?),
            debug_regs: Raw::of(&vcpu.get_debug_regs().map_err(read())?),
            lapic: Raw::of(&vcpu.get_lapic().map_err(read())?),
            msrs: read_msrs(vcpu, msrs)?,
            events: Raw::of(&vcpu.get_vcpu_events().map_err(read())?),
        })
    }

    /// Gives every vCPU the time stamp counter of the first: they were read one after the other, while the counters went
    /// on, and KVM takes what it is given. Counters that the guest itself has set further apart stay so.
    pub fn align_counters(vcpus: &mut [Self]) {
        let Some((first, others)) = vcpus.split_first_mut() else {
            return;
        };
        let second = first.tsc_khz.map_or(0, |khz| u64::from(khz).saturating_mul(1000));
        let Some(tsc) = first.counter().copied() else {
            return;
        };
        for other in others {
            if let Some(counter) = other.counter()
                && counter.abs_diff(tsc) < second
            {
                *counter = tsc;
            }
        }
    }

    fn counter(&mut self) -> Option<&mut u64> {
        let register = self.msrs.iter_mut().find(|(index, _)| *index == TSC);
        register.map(|(_, value)| value)
    }

    /// Puts a new vCPU into this state. The order matters: what follows may depend on what went before.
    pub fn restore(&self, vcpu: &VcpuFd) -> Result<(), KvmError> {
        let failed = KvmError::ioctl;
        let cpuid = self
            .cpuid
            .iter()
            .map(|entry| entry.get::<kvm_cpuid_entry2>("cpuid"));
        let cpuid = CpuId::from_entries(&cpuid.collect::<Result<Vec<_>, _>>()?);
        let cpuid = cpuid.map_err(|_| failed("restore the CPUID of a vCPU")(too_much()))?;
        vcpu.set_cpuid2(&cpuid)
            .map_err(failed("restore the CPUID of a vCPU"))?;
        if let Some(khz) = self.tsc_khz
            && vcpu.get_tsc_khz().ok() != Some(khz)
        {
            vcpu.set_tsc_khz(khz)
                .map_err(failed("give a vCPU the clock frequency that it had"))?;
        }
        vcpu.set_mp_state(self.mp_state.get("mp_state")?)
            .map_err(failed("restore whether a vCPU runs"))?;
        vcpu.set_regs(&self.regs.get("regs")?)
            .map_err(failed("restore the registers of a vCPU"))?;
        vcpu.set_sregs(&self.sregs.get("sregs")?)
            .map_err(failed("restore the special registers of a vCPU"))?;
        // SAFETY: KVM reads more than the structure only if a feature with a larger state has been asked for, which
        // this program never does.
        unsafe { vcpu.set_xsave(&self.xsave.get("xsave")?) }
            .map_err(failed("restore the extended state of a vCPU"))?;
        let xcrs: kvm_xcrs = self.xcrs.get("xcrs")?;
        // A processor without XSAVE has none, and KVM then takes none.
        if xcrs.nr_xcrs != 0 {
            vcpu.set_xcrs(&xcrs)
                .map_err(failed("restore the extended control registers of a vCPU"))?;
        }
        vcpu.set_debug_regs(&self.debug_regs.get("debug_regs")?)
            .map_err(failed("restore the debug registers of a vCPU"))?;
        vcpu.set_lapic(&self.lapic.get("lapic")?)
            .map_err(failed("restore the local APIC of a vCPU"))?;
        write_msrs(vcpu, &self.msrs)?;
        vcpu.set_vcpu_events(&self.events.get("events")?)
            .map_err(failed("restore the pending events of a vCPU"))
    }
}

fn too_much() -> kvm_ioctls::Error {
    kvm_ioctls::Error::new(libc::E2BIG)
}

/// Reads one register.
pub(super) fn read_msr(vcpu: &VcpuFd, index: u32) -> Result<u64, KvmError> {
    let found = read_msrs(vcpu, &[index])?;
    let value = found.first().map(|(_, value)| *value);
    value.ok_or(KvmError::Register { index })
}

/// Reads those of `indices` that the vCPU has.
fn read_msrs(vcpu: &VcpuFd, indices: &[u32]) -> Result<Vec<(u32, u64)>, KvmError> {
    let failed = KvmError::ioctl("read the model-specific registers of a vCPU");
    let mut found = Vec::with_capacity(indices.len());
    let mut rest = indices;
    while !rest.is_empty() {
        let now: Vec<_> = rest.iter().take(CHUNK).map(|&index| entry(index, 0)).collect();
        let Ok(mut msrs) = Msrs::from_entries(&now) else {
            return Err(failed(too_much()));
        };
        let count = match vcpu.get_msrs(&mut msrs) {
            Ok(count) => count,
            Err(error) => return Err(failed(error)),
        };
        let read = msrs.as_slice().iter().take(count);
        found.extend(read.map(|entry| (entry.index, entry.data)));
        // KVM stops at the first that this vCPU does not have.
        let done = count.saturating_add(usize::from(count < now.len()));
        rest = rest.get(done..).unwrap_or_default();
    }
    Ok(found)
}

/// Writes those of `wanted` that are not so already: some of a new vCPU cannot be written at all.
fn write_msrs(vcpu: &VcpuFd, wanted: &[(u32, u64)]) -> Result<(), KvmError> {
    if wanted.len() > MOST_MSRS {
        return Err(KvmError::Saved {
            name: "msrs",
            length: wanted.len(),
        });
    }
    let indices: Vec<_> = wanted.iter().map(|(index, _)| *index).collect();
    let there = read_msrs(vcpu, &indices)?;
    let (last, first): (Vec<_>, Vec<_>) = wanted
        .iter()
        .filter(|wanted| !there.contains(wanted))
        .map(|(index, value)| entry(*index, *value))
        .partition(|wanted| wanted.index == TSC_DEADLINE);
    for entries in first.chunks(CHUNK).chain([last.as_slice()]) {
        let failed = KvmError::ioctl("restore the model-specific registers of a vCPU");
        let Ok(msrs) = Msrs::from_entries(entries) else {
            return Err(failed(too_much()));
        };
        match vcpu.set_msrs(&msrs) {
            Ok(count) => match entries.get(count) {
                None => {}
                Some(refused) => return Err(KvmError::Register { index: refused.index }),
            },
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(())
}

fn entry(index: u32, data: u64) -> kvm_msr_entry {
    kvm_msr_entry {
        index,
        data,
        ..Default::default()
    }
}
