//! A root file system that is written.

use std::process::Command;

use koya_tests::vm::Scratch;

use crate::guest::Guest;
use crate::support::{MIB, occupied, succeed};

/// What a guest wrote and synced is there after a reboot and its file system is clean; what it deletes and trims, the
/// host gets back.
#[test]
fn files_survive_a_reboot_and_fstrim_gives_space_back() {
    let scratch = Scratch::new();
    let disk = Guest::copy_of_disk(&scratch, "KOYA_DISK");
    let write = "
        dd if=/dev/urandom of=/root/data bs=1M count=8 2> /dev/null
        sync
        say sum $(sha256sum < /root/data)";
    let written = Guest::on_disk(&disk).script(write).start().finish();
    let check = succeed(Command::new("e2fsck").arg("-fn").arg(&disk));
    assert!(!check.contains("recovering journal"), "{check}");
    let full = occupied(&disk);

    let read = "
        say sum $(sha256sum < /root/data)
        rm /root/data
        sync
        say trimmed $(fstrim -v /)";
    let read = Guest::on_disk(&disk).script(read).start().finish();
    assert_eq!(read.value("sum"), written.value("sum"));
    assert!(
        read.value("trimmed").contains("bytes) trimmed"),
        "{}",
        read.value("trimmed")
    );
    let trimmed = occupied(&disk);
    assert!(
        trimmed + 7 * MIB <= full,
        "{full} bytes before, {trimmed} after 8 MiB were deleted and trimmed"
    );
}
