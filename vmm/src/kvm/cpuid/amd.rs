//! Leaves that only AMD processors have, or define differently.

use super::GuestCpuid;
use super::bits::{field, set_field};

/// Leaf 0x8000_0001, ECX: virtualisation, and the counters whose other users a guest could watch.
const SVM: u32 = 2;
const PERF_COUNTERS: u32 = 23;
/// Leaf 0x8000_0001, ECX: topology extensions (leaves 0x8000_001d and 0x8000_001e).
const TOPOEXT: u32 = 22;
/// Leaf 7, EDX: IA32_ARCH_CAPABILITIES, a register of Intel's.
const ARCH_CAPABILITIES: u32 = 29;
/// Leaf 0x8000_0008, ECX 12..=15: bits of an APIC id that number a thread; 7 leaves room for 128.
const THREAD_ID_BITS: u32 = 7;

pub(super) fn normalise(cpuid: &mut GuestCpuid) {
    let vcpus = u32::from(cpuid.topology.vcpus);
    let threads = u32::from(cpuid.topology.threads_per_core);
    let has_topology = cpuid.leaf(0x8000_001e, 0).is_some();
    if let Some(leaf) = cpuid.leaf(7, 0) {
        leaf.edx &= !(1 << ARCH_CAPABILITIES);
    }
    if let Some(leaf) = cpuid.leaf(0x8000_0001, 0) {
        leaf.ecx &= !(1 << SVM | 1 << PERF_COUNTERS);
        set_field(&mut leaf.ecx, TOPOEXT..=TOPOEXT, u32::from(has_topology));
    }
    if let Some(leaf) = cpuid.leaf(0x8000_0008, 0) {
        set_field(&mut leaf.ecx, 12..=15, THREAD_ID_BITS);
        set_field(&mut leaf.ecx, 0..=7, vcpus.saturating_sub(1));
    }
    for function in [0x8000_000a, 0x8000_0022] {
        for leaf in cpuid.leaves(function) {
            (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx) = (0, 0, 0, 0);
        }
    }
    // Caches: level 1 and 2 belong to a core, level 3 to the package.
    for leaf in cpuid
        .leaves(0x8000_001d)
        .filter(|leaf| field(leaf.eax, 0..=4) != 0)
    {
        let sharing = if field(leaf.eax, 5..=7) < 3 {
            threads
        } else {
            vcpus
        };
        set_field(&mut leaf.eax, 14..=25, sharing.saturating_sub(1));
    }
    if let Some(leaf) = cpuid.leaf(0x8000_001e, 0) {
        set_field(&mut leaf.ebx, 8..=15, threads.saturating_sub(1));
        set_field(&mut leaf.ecx, 0..=10, 0); // one node, number 0
    }
    cpuid.set_brand("AMD EPYC");
}
