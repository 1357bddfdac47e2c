//! vCPUs and memory.

use std::fs;

use serde_json::{Value, json};

use super::refused;
use crate::support::config;

fn machine(vcpus: impl Into<Value>, mib: impl Into<Value>) -> Value {
    let machine = json!({ "vcpu_count": vcpus.into(), "mem_size_mib": mib.into() });
    config("hello", "", json!({ "machine-config": machine }))
}

#[test]
fn vcpus_0_33_and_1_000_000() {
    for count in [0, 33, 1_000_000, -1] {
        refused(
            &machine(count, 128),
            &["vcpu_count", &count.to_string(), "1 to 32"],
        );
    }
}

#[test]
fn memory_of_0_mib() {
    refused(&machine(1, 0), &["mem_size_mib", "is 0", "at least"]);
}

#[test]
fn more_memory_than_the_host() {
    for mib in [1_u64 << 30, 1 << 44, u64::MAX] {
        refused(
            &machine(1, mib),
            &["mem_size_mib", &mib.to_string(), "this host's memory"],
        );
    }
}

#[test]
fn too_little_memory_for_any_kernel() {
    refused(&machine(1, 1), &["1048576 bytes", "a kernel needs 2 MiB"]);
}

/// Without a reservation the process would be killed when the guest touches a page that is not there.
#[test]
fn huge_pages_that_the_host_does_not_have() {
    let info = fs::read_to_string("/proc/meminfo").unwrap();
    let number = |key: &str| -> u64 {
        let line = info.lines().find_map(|line| line.strip_prefix(key));
        let number = line.and_then(|rest| rest.split_whitespace().next());
        number
            .unwrap_or_else(|| panic!("no {key} in /proc/meminfo"))
            .parse()
            .unwrap()
    };
    let mib = (number("HugePages_Free:") + 1) * 2 + 64;
    let machine = json!({ "vcpu_count": 1, "mem_size_mib": mib, "huge_pages": "2M" });
    refused(
        &config("hello", "", json!({ "machine-config": machine })),
        &[&format!("{mib} MiB"), "vm.nr_hugepages"],
    );
}

#[test]
fn a_cpu_template_that_is_not_there_yet() {
    let machine = json!({ "vcpu_count": 1, "mem_size_mib": 128, "cpu_template": "T2" });
    let sections = config("hello", "", json!({ "machine-config": machine }));
    refused(&sections, &["cpu_template", "not supported yet"]);
}
