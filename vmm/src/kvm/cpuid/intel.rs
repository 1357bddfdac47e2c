//! Leaves that only Intel processors have, or define differently.

use std::arch::x86_64::__cpuid;

use super::GuestCpuid;
use super::bits::{field, set_field};

pub(super) fn normalise(cpuid: &mut GuestCpuid) {
    let vcpus = u32::from(cpuid.topology.vcpus);
    let threads = u32::from(cpuid.topology.threads_per_core);
    let cores = vcpus.div_ceil(threads.max(1));
    // Leaf 4: caches. Level 1 and 2 belong to a core, level 3 to the package.
    for leaf in cpuid.leaves(4).filter(|leaf| field(leaf.eax, 0..=4) != 0) {
        let sharing = if field(leaf.eax, 5..=7) < 3 {
            threads
        } else {
            vcpus
        };
        set_field(&mut leaf.eax, 14..=25, sharing.saturating_sub(1));
        set_field(&mut leaf.eax, 26..=31, cores.saturating_sub(1));
    }
    // Leaf 6: no performance bias, which needs a register that guests may not write.
    if let Some(leaf) = cpuid.leaf(6, 0) {
        leaf.ecx &= !(1 << 3);
    }
    // Leaf 7: no user-mode waiting, with which a guest puts a processor of the host to sleep.
    if let Some(leaf) = cpuid.leaf(7, 0) {
        leaf.ecx &= !(1 << 5);
    }
    // Leaf 0xa: no performance monitoring, as its counters would show other guests' work.
    for leaf in cpuid.leaves(0xa) {
        (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx) = (0, 0, 0, 0);
    }
    let brand = brand(&host_brand());
    cpuid.set_brand(&brand);
}

/// A Xeon of the host's frequency, whatever its model.
fn brand(host: &str) -> String {
    match host.rsplit_once('@') {
        Some((_, frequency)) => format!("Intel(R) Xeon(R) Processor @ {}", frequency.trim()),
        None => "Intel(R) Xeon(R) Processor".to_owned(),
    }
}

fn host_brand() -> String {
    let bytes: Vec<u8> = (0x8000_0002..=0x8000_0004)
        .map(__cpuid)
        .flat_map(|leaf| [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx])
        .flat_map(u32::to_le_bytes)
        .take_while(|&byte| byte != 0)
        .collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_brand_keeps_the_frequency_and_drops_the_model() {
        let host = "Intel(R) Xeon(R) Platinum 8488C CPU @ 2.40GHz";
        assert_eq!(brand(host), "Intel(R) Xeon(R) Processor @ 2.40GHz");
        assert_eq!(brand("QEMU Virtual CPU"), "Intel(R) Xeon(R) Processor");
    }
}
