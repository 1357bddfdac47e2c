//! What the CPUID instruction tells the guest.
//!
//! The base is what this host's KVM supports. On top of it come the facts of *this* machine, the same on every host
//! of a kind: topology, the hypervisor bit, the TSC deadline timer and a brand string without the host's model.
//! Nested virtualisation is not offered: it is the largest part of KVM that a hostile guest could reach.
//! Leaves are those of the Intel SDM vol. 2A (CPUID) and the AMD APM vol. 3, appendix E.

mod amd;
mod bits;
mod intel;

use std::arch::x86_64::{__cpuid, CpuidResult};

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::{Kvm, VcpuFd};

use self::bits::set_field;
use super::vm::KvmError;

/// Every subleaf counts, not only the leaf (`KVM_CPUID_FLAG_SIGNIFCANT_INDEX`).
const SIGNIFICANT_INDEX: u32 = 1;
/// Leaf 0xB shifts by this much from thread to package: room for 32 vCPUs.
const PACKAGE_SHIFT: u32 = 5;

/// Leaf 1, ECX: virtualisation and performance registers, which guests do not get; x2APIC, TSC deadline, hypervisor present; EDX: several logical processors.
const VMX: u32 = 5;
const PDCM: u32 = 15;
const X2APIC: u32 = 21;
const TSC_DEADLINE: u32 = 24;
const HYPERVISOR: u32 = 31;
const HTT: u32 = 28;

/// Where a vCPU stands among its siblings.
#[derive(Debug, Clone, Copy)]
pub struct Topology {
    /// Number of vCPUs, 1..=32.
    pub vcpus: u8,
    /// Threads per core: 2 with simultaneous multithreading and more than one vCPU, else 1.
    pub threads_per_core: u8,
}

impl Topology {
    /// The topology of a machine with `vcpus` vCPUs, with or without SMT.
    pub fn new(vcpus: u8, smt: bool) -> Self {
        Self {
            vcpus,
            threads_per_core: if smt && vcpus > 1 { 2 } else { 1 },
        }
    }

    fn thread_shift(self) -> u32 {
        u32::from(self.threads_per_core > 1)
    }
}

/// The CPUID of all vCPUs of one machine.
pub struct GuestCpuid {
    entries: Vec<kvm_cpuid_entry2>,
    topology: Topology,
}

impl GuestCpuid {
    /// Asks KVM what it supports and normalises what is the same for all vCPUs.
    pub fn new(kvm: &Kvm, topology: Topology) -> Result<Self, KvmError> {
        let supported = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(KvmError::ioctl("list the processor features it supports"))?;
        let mut cpuid = Self {
            entries: supported.as_slice().to_vec(),
            topology,
        };
        cpuid.normalise(&vendor(&__cpuid(0)));
        Ok(cpuid)
    }

    fn normalise(&mut self, vendor: &[u8; 12]) {
        let vcpus = u32::from(self.topology.vcpus);
        if let Some(leaf) = self.leaf(1, 0) {
            set_field(&mut leaf.ebx, 8..=15, 8); // CLFLUSH line: 8 quadwords
            set_field(&mut leaf.ebx, 16..=23, vcpus.next_power_of_two());
            leaf.ecx &= !(1 << VMX | 1 << PDCM);
            leaf.ecx |= 1 << TSC_DEADLINE | 1 << X2APIC | 1 << HYPERVISOR;
            set_field(&mut leaf.edx, HTT..=HTT, u32::from(vcpus > 1));
        }
        // Only 0xB describes the topology; with 0x1f gone nobody prefers it.
        self.entries
            .retain(|entry| entry.function != 0xb && entry.function != 0x1f);
        let threads = u32::from(self.topology.threads_per_core);
        let shift = self.topology.thread_shift();
        self.insert(
            0xb,
            0,
            CpuidResult {
                eax: shift,
                ebx: threads,
                ecx: 1 << 8,
                edx: 0,
            },
        );
        self.insert(
            0xb,
            1,
            CpuidResult {
                eax: PACKAGE_SHIFT,
                ebx: vcpus,
                ecx: 1 | 2 << 8,
                edx: 0,
            },
        );
        match vendor {
            b"GenuineIntel" => intel::normalise(self),
            b"AuthenticAMD" | b"HygonGenuine" => amd::normalise(self),
            _ => {}
        }
    }

    /// Gives vCPU `index` its CPUID.
    pub fn apply(&mut self, vcpu: &VcpuFd, index: u8) -> Result<(), KvmError> {
        let fail = KvmError::ioctl("set the CPUID of a vCPU");
        self.personalise(index);
        match CpuId::from_entries(&self.entries) {
            Ok(cpuid) => vcpu.set_cpuid2(&cpuid).map_err(fail),
            Err(_) => Err(fail(kvm_ioctls::Error::new(libc::E2BIG))),
        }
    }

    /// Writes the APIC id into the leaves that hold it.
    fn personalise(&mut self, index: u8) {
        let id = u32::from(index);
        let core = id.wrapping_shr(self.topology.thread_shift());
        for entry in &mut self.entries {
            match entry.function {
                1 => set_field(&mut entry.ebx, 24..=31, id),
                0xb => entry.edx = id,
                0x8000_001e => {
                    entry.eax = id;
                    set_field(&mut entry.ebx, 0..=7, core);
                }
                _ => {}
            }
        }
    }

    fn leaf(&mut self, function: u32, index: u32) -> Option<&mut kvm_cpuid_entry2> {
        self.entries
            .iter_mut()
            .find(|entry| entry.function == function && entry.index == index)
    }

    /// All subleaves of `function`.
    fn leaves(&mut self, function: u32) -> impl Iterator<Item = &mut kvm_cpuid_entry2> {
        self.entries
            .iter_mut()
            .filter(move |entry| entry.function == function)
    }

    /// Sets a subleaf, which must be one whose index counts.
    fn insert(&mut self, function: u32, index: u32, value: CpuidResult) {
        self.entries
            .retain(|entry| entry.function != function || entry.index != index);
        self.entries.push(kvm_cpuid_entry2 {
            function,
            index,
            flags: SIGNIFICANT_INDEX,
            eax: value.eax,
            ebx: value.ebx,
            ecx: value.ecx,
            edx: value.edx,
            ..Default::default()
        });
    }

    /// Writes the 48 bytes of the brand string into leaves 0x8000_0002 to 0x8000_0004.
    fn set_brand(&mut self, brand: &str) {
        let mut bytes = [0_u8; 48];
        for (to, from) in bytes.iter_mut().zip(brand.bytes().take(47)) {
            *to = from;
        }
        for (function, part) in (0x8000_0002..).zip(bytes.as_chunks::<16>().0) {
            if let Some(leaf) = self.leaf(function, 0) {
                let (words, _) = part.as_chunks::<4>();
                for (register, word) in [&mut leaf.eax, &mut leaf.ebx, &mut leaf.ecx, &mut leaf.edx]
                    .into_iter()
                    .zip(words)
                {
                    *register = u32::from_le_bytes(*word);
                }
            }
        }
    }
}

/// The vendor string of leaf 0.
fn vendor(leaf: &CpuidResult) -> [u8; 12] {
    let mut vendor = [0; 12];
    let bytes = [leaf.ebx, leaf.edx, leaf.ecx]
        .into_iter()
        .flat_map(u32::to_le_bytes);
    for (to, from) in vendor.iter_mut().zip(bytes) {
        *to = from;
    }
    vendor
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(vcpus: u8, smt: bool, functions: &[(u32, u32)], vendor: &[u8; 12]) -> GuestCpuid {
        let entries = functions
            .iter()
            .map(|&(function, index)| kvm_cpuid_entry2 {
                function,
                index,
                ..Default::default()
            })
            .collect();
        let mut cpuid = GuestCpuid {
            entries,
            topology: Topology::new(vcpus, smt),
        };
        cpuid.normalise(vendor);
        cpuid
    }

    #[test]
    fn every_vcpu_has_its_own_apic_id_in_each_leaf_that_holds_one() {
        let mut cpuid = guest(4, false, &[(1, 0), (0xb, 0), (0x8000_001e, 0)], b"AuthenticAMD");
        cpuid.personalise(3);
        assert_eq!(cpuid.leaf(1, 0).unwrap().ebx >> 24, 3);
        assert_eq!(cpuid.leaf(0xb, 0).unwrap().edx, 3);
        assert_eq!(cpuid.leaf(0xb, 1).unwrap().edx, 3);
        assert_eq!(cpuid.leaf(0x8000_001e, 0).unwrap().eax, 3);
    }

    #[test]
    fn topology_has_one_package_with_all_vcpus() {
        let mut cpuid = guest(6, true, &[(1, 0), (0x1f, 0), (0x1f, 1)], b"GenuineIntel");
        let threads = *cpuid.leaf(0xb, 0).unwrap();
        assert_eq!((threads.eax, threads.ebx, threads.ecx), (1, 2, 0x100));
        let cores = *cpuid.leaf(0xb, 1).unwrap();
        assert_eq!((cores.eax, cores.ebx, cores.ecx), (5, 6, 0x201));
        assert!(cpuid.leaf(0x1f, 0).is_none());
        assert_eq!(cpuid.leaf(1, 0).unwrap().ebx >> 16 & 0xff, 8);
    }

    #[test]
    fn the_guest_knows_that_it_is_one_and_has_a_deadline_timer() {
        let mut cpuid = guest(1, true, &[(1, 0)], b"GenuineIntel");
        let leaf = cpuid.leaf(1, 0).unwrap();
        assert_eq!(
            leaf.ecx & (1 << 31 | 1 << 24 | 1 << 21),
            1 << 31 | 1 << 24 | 1 << 21
        );
        assert_eq!(
            leaf.edx & 1 << 28,
            0,
            "one vCPU, even with smt, is one logical processor"
        );
    }

    #[test]
    fn the_brand_string_names_no_model_of_the_host() {
        let mut cpuid = guest(
            1,
            false,
            &[(0x8000_0002, 0), (0x8000_0003, 0), (0x8000_0004, 0)],
            b"AuthenticAMD",
        );
        let mut text = Vec::new();
        for function in 0x8000_0002..=0x8000_0004 {
            let leaf = *cpuid.leaf(function, 0).unwrap();
            text.extend(
                [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx]
                    .into_iter()
                    .flat_map(u32::to_le_bytes),
            );
        }
        assert_eq!(text.len(), 48);
        assert_eq!(
            std::str::from_utf8(&text).unwrap().trim_end_matches('\0'),
            "AMD EPYC"
        );
    }

    #[test]
    fn a_host_of_unknown_make_gets_topology_all_the_same() {
        let mut cpuid = guest(2, false, &[(1, 0)], b"SomethingNew");
        assert_eq!(cpuid.leaf(0xb, 1).unwrap().ebx, 2);
    }
}
