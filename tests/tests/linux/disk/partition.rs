//! A root file system on a partition.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::Command;

use koya_tests::vm::{Scratch, from_env};

use crate::guest::Guest;
use crate::support::{MIB, held, succeed};

const SIGNATURE: u32 = 0x6b6f_7961;

/// The sector of a master boot record with one Linux partition, from 1 MiB to the end.
fn boot_record(sectors: u32) -> [u8; 512] {
    let mut record = [0; 512];
    let first = u32::try_from(MIB / 512).unwrap();
    record[440..444].copy_from_slice(&SIGNATURE.to_le_bytes());
    // Not bootable; cylinders, heads and sectors are of no use; type 0x83.
    record[446..454].copy_from_slice(&[0, 0xfe, 0xff, 0xff, 0x83, 0xfe, 0xff, 0xff]);
    record[454..458].copy_from_slice(&first.to_le_bytes());
    record[458..462].copy_from_slice(&(sectors - first).to_le_bytes());
    record[510..].copy_from_slice(&[0x55, 0xaa]);
    record
}

#[test]
fn root_by_partuuid() {
    let scratch = Scratch::new();
    let system = held(&from_env("KOYA_DISK"));
    let size = MIB + File::open(&system).unwrap().metadata().unwrap().len();
    let disk = scratch.disk("partitioned", size);
    let record = boot_record(u32::try_from(size / 512).unwrap());
    File::options()
        .write(true)
        .open(&disk)
        .unwrap()
        .write_all_at(&record, 0)
        .unwrap();
    let mut copy = Command::new("dd");
    copy.arg(format!("if={}", system.display()))
        .arg(format!("of={}", disk.display()));
    succeed(copy.args(["bs=1M", "seek=1", "conv=sparse,notrunc"]));

    let guest = Guest::on_disk(&disk).root_partition(&format!("{SIGNATURE:08x}-01"));
    let report = guest
        .script("say root $(findmnt -n -o SOURCE /) $(cat /sys/block/vda/vda1/partition)")
        .start()
        .finish();
    assert_eq!(report.value("root"), "/dev/vda1 1");
}
