//! Boot: the kernels, sizes and tables that must boot, and the ways a guest ends.

use koya_tests::bench::linux::base64;
use serde_json::json;

use crate::guest::{Guest, Kernel};
use crate::report::Report;
use crate::support::{MIB, noise, sha256};

/// What a kernel calls the loader that started it (Documentation/arch/x86/boot.rst, type_of_loader): KVM's PVH entry,
/// and an unregistered loader.
const PVH: u64 = 0xb0;
const UNREGISTERED: u64 = 0xff;

fn assert_memory(report: &Report, mib: u64) {
    let total: u64 = report.found("memory").parse().unwrap();
    let all = mib * 1024;
    // The kernel keeps its own image and a structure of 64 bytes for each page of 4096.
    let kept = 32 * 1024 + all / 20;
    assert!(
        total <= all && total >= all - kept,
        "MemTotal is {total} KiB of {all}"
    );
}

#[test]
fn our_kernel_as_vmlinux_through_pvh_1_vcpu_64_mib() {
    let guest = Guest::initramfs(Kernel::Ours).machine(1, 64);
    let report = guest
        .script("say loader $(cat /proc/sys/kernel/bootloader_type)")
        .start()
        .finish();
    assert_eq!((report.found("cpus"), report.number("loader")), ("1", PVH));
    assert_memory(&report, 64);
}

#[test]
fn our_kernel_as_bzimage_2_vcpus_128_mib() {
    let guest = Guest::initramfs(Kernel::OursCompressed).machine(2, 128);
    let report = guest
        .script("say loader $(cat /proc/sys/kernel/bootloader_type)")
        .start()
        .finish();
    assert_eq!(
        (report.found("cpus"), report.number("loader")),
        ("2", UNREGISTERED)
    );
    assert_memory(&report, 128);
}

/// A kernel without ACPI finds its processors and the lines of its interrupts in the MP table, and is told of its
/// devices on the command line. Ours finds devices through ACPI alone, so nothing here follows the last hint.
#[test]
fn without_acpi_an_mp_table_and_virtio_mmio_parameters() {
    let guest = Guest::initramfs(Kernel::Ours).machine(2, 128);
    let disk = guest.scratch.disk("disk", MIB);
    let script = "
        [ -e /sys/firmware/acpi ] && say acpi on || say acpi off
        say processors $(grep -c ^processor /proc/cpuinfo)
        say tty $(grep -w ttyS0 /proc/interrupts)
        say parameters $(grep -o 'virtio_mmio.device=.*' /proc/cmdline)";
    let guest = guest
        .drive("disk", &disk, json!({}))
        .argument("acpi=off")
        .argument("koya.end=reboot");
    let report = guest.script(script).start().finish();
    assert_eq!((report.value("acpi"), report.value("processors")), ("off", "2"));
    let tty: Vec<_> = report.value("tty").split_whitespace().collect();
    let [_, first, second, "IO-APIC", "4-edge", "ttyS0"] = tty[..] else {
        panic!("{tty:?}");
    };
    assert!(first != "0" || second != "0", "{tty:?}");
    assert_eq!(report.value("parameters"), "virtio_mmio.device=4K@0xc0001000:5");
}

/// Half a GiB of it is above the gap below 4 GiB in which the devices are.
#[test]
fn vcpus_4_memory_3584_mib() {
    let report = Guest::initramfs(Kernel::Ours).machine(4, 3584).start().finish();
    assert_eq!(report.found("cpus"), "4");
    assert_memory(&report, 3584);
}

#[test]
fn vcpus_32() {
    let guest = Guest::initramfs(Kernel::Ours).machine(32, 512);
    let report = guest
        .script("say online $(cat /sys/devices/system/cpu/online)")
        .start()
        .finish();
    assert_eq!((report.found("cpus"), report.value("online")), ("32", "0-31"));
}

/// Linux takes the memory above 4 GiB first, so that the disk is read into it.
#[test]
fn memory_beyond_4_gib() {
    let guest = Guest::initramfs(Kernel::Ours).machine(2, 4608);
    let disk = guest.scratch.file("disk", noise(8 * MIB));
    let script = "
        say high $(grep '^1........-.* : System RAM' /proc/iomem)
        say sum $(sha256sum < /dev/vda)";
    let report = guest
        .drive("disk", &disk, json!({}))
        .script(script)
        .start()
        .finish();
    assert_memory(&report, 4608);
    assert!(
        report.value("high").starts_with("100000000-"),
        "{}",
        report.value("high")
    );
    assert!(report.value("sum").starts_with(&sha256(&noise(8 * MIB))));
}

fn debian_boots_under(kernel: Kernel, release: &str) {
    let guest = Guest::debian_behind_initramfs(kernel).machine(2, 512);
    let script = "
        say release $(uname -r)
        say system $(. /etc/os-release; echo $ID $VERSION_ID)
        say init $(cat /proc/1/comm)
        say root $(findmnt -n -o SOURCE,FSTYPE /)";
    let report = guest.script(script).start().finish();
    assert_eq!((report.found("cpus"), report.value("system")), ("2", "debian 12"));
    assert_eq!(
        (report.value("init"), report.value("root")),
        ("init", "/dev/vda ext4")
    );
    let found = report.value("release");
    assert!(found.starts_with(release) && found.ends_with("-amd64"), "{found}");
    assert_memory(&report, 512);
}

#[test]
fn debians_cloud_kernel_6_1_bzimage_with_initrd() {
    debian_boots_under(Kernel::Cloud, "6.1.");
}

#[test]
fn debians_generic_kernel_6_12_bzimage_with_initrd() {
    debian_boots_under(Kernel::Generic612, "6.12.");
}

/// `reboot=k` resets through the keyboard controller, a panic with `panic=-1` does so at once: both end the microVM.
#[test]
fn reset_by_reboot_and_by_panic_ends_with_exit_code_0() {
    let report = Guest::initramfs(Kernel::Ours)
        .argument("koya.end=reboot")
        .start()
        .finish();
    assert_eq!(report.found("cpus"), "1");

    let crash = base64(b"echo c > /proc/sysrq-trigger");
    let guest = Guest::initramfs(Kernel::Ours).argument(&format!("koya.run={crash}"));
    let report = guest.start().finish();
    assert!(
        report
            .0
            .contains("Kernel panic - not syncing: sysrq triggered crash"),
        "{}",
        report.0
    );
}
