//! One guest with many drives, and what the host does to them meanwhile.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde_json::json;

use crate::guest::Guest;
use crate::report::{Report, Shared};
use crate::running::Running;
use crate::support::{MIB, isolate, noise, occupied, run, sha256, sha256_of};

const SCRIPT: &str = r#"
direct() { dd "$@" 2>&1 > /dev/null; }
sum() { sha256sum | cut -c 1-64; }
for disk in b c d e f g; do say serial $(cat /sys/block/vd$disk/serial); done

say sealed_flag $(blockdev --getro /dev/vdb)
dd if=/dev/zero of=/dev/vdb bs=4k count=1 oflag=direct 2> /dev/null && say sealed_write done || say sealed_write refused
say sealed_sum $(sum < /dev/vdb)

say data_sum $(sum < /dev/vdc)
dd if=/dev/urandom of=/run/new bs=1M count=2 2> /dev/null
dd if=/run/new of=/dev/vdc bs=1M seek=14 conv=fsync 2> /dev/null
say data_new $(sum < /run/new)
step written
blkdiscard -o 0 -l 8M /dev/vdc && say discarded yes
step discarded
blkdiscard -z -o 8M -l 2M /dev/vdc && say zeroed yes
step zeroed

dd if=/dev/vdc of=/dev/vdd bs=1M skip=10 count=4 oflag=direct 2> /dev/null
say async_sum $(dd if=/dev/vdd bs=1M count=4 iflag=direct 2> /dev/null | sum)

say grow_before $(cat /sys/block/vde/size)
step grow
for i in $(seq 100); do [ $(cat /sys/block/vde/size) = 8192 ] || break; sleep 0.1; done
say grow_after $(cat /sys/block/vde/size)
say grow_sum $(dd if=/dev/vde bs=1M iflag=direct 2> /dev/null | sum)

say cut_before $(direct if=/dev/vdf bs=4k count=1 iflag=direct | tail -n 1)
step cut
say cut_after $(direct if=/dev/vdf bs=4k count=1 iflag=direct | head -n 1)
step cut_seen

say full $(direct if=/dev/zero of=/dev/vdg bs=64k count=96 oflag=direct | grep -v records)
step full
say freed $(direct if=/dev/zero of=/dev/vdg bs=64k count=96 oflag=direct conv=fsync | grep -c '^96+0 records out')
step end
"#;

/// What the host saw.
struct Seen {
    report: Report,
    sealed: [String; 2],
    data_before: String,
    /// Bytes that the file occupied: at the start, and after 8 MiB were discarded.
    data_occupied: [u64; 2],
    /// The last 2 MiB after the guest's fsync.
    data_written: String,
    /// The MiB 8 to 14 after the first two were zeroed.
    data_zeroed: Vec<u8>,
    data_counters: Vec<u64>,
    async_counters: Vec<u64>,
    grown: String,
    /// The state that the API reported after the cut and when the file system was full.
    states: [String; 2],
    cut_failures: u64,
    full_failures: u64,
}

fn seen() -> &'static Seen {
    static SEEN: Shared<Seen> = Shared::new();
    SEEN.get(watch)
}

fn part(path: &Path, from_mib: u64, mib: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(mib * MIB).unwrap()];
    File::open(path)
        .unwrap()
        .read_exact_at(&mut bytes, from_mib * MIB)
        .unwrap();
    bytes
}

fn counters(guest: &Running, device: &str, names: &[&str]) -> Vec<u64> {
    names.iter().map(|name| guest.counter(device, name)).collect()
}

fn watch() -> Seen {
    isolate();
    let guest = Guest::debian().with_api();
    let file = |name: &str, mib| guest.scratch.file(name, noise(mib * MIB));
    let (sealed, data, cut, grown) = (
        file("sealed", 4),
        file("data", 16),
        file("cut", 4),
        file("grown", 8),
    );
    let (plain, grow) = (
        guest.scratch.disk("async", 8 * MIB),
        guest.scratch.disk("grow", 4 * MIB),
    );
    let small = guest.scratch.path("small");
    fs::create_dir(&small).unwrap();
    run(&format!("mount -t tmpfs -o size=8M small {}", small.display()));
    let (full, ballast) = (small.join("full"), small.join("ballast"));
    File::create(&full).unwrap().set_len(6 * MIB).unwrap();
    fs::write(&ballast, noise(4 * MIB)).unwrap();
    let (sealed_before, data_before) = (sha256_of(&sealed), sha256_of(&data));

    let mut guest = guest
        .drive("sealed", &sealed, json!({ "is_read_only": true }))
        .drive("data", &data, json!({ "cache_type": "Writeback" }))
        .drive("async", &plain, json!({ "io_engine": "Async" }))
        .drive("grow", &grow, json!({}))
        .drive("cut", &cut, json!({}))
        .drive("full", &full, json!({}))
        .script(SCRIPT)
        .start();

    let data_start = occupied(&data);
    let data_written = guest.at_step("written", |_| sha256(&part(&data, 14, 2)));
    let data_discarded = guest.at_step("discarded", |_| occupied(&data));
    let data_zeroed = guest.at_step("zeroed", |_| part(&data, 8, 6));
    guest.at_step("grow", |guest| {
        guest.patch(
            "/drives/grow",
            &json!({ "drive_id": "grow", "path_on_host": grown }),
        );
    });
    guest.at_step("cut", |_| {
        File::options()
            .write(true)
            .open(&cut)
            .unwrap()
            .set_len(0)
            .unwrap()
    });
    let cut_state = guest.at_step("cut_seen", Running::state);
    let full_state = guest.at_step("full", |guest| {
        fs::remove_file(&ballast).unwrap();
        guest.state()
    });
    guest.await_step("end");
    let names = [
        "read_count",
        "write_count",
        "read_bytes",
        "write_bytes",
        "flush_count",
        "discard_count",
    ];
    let data_counters = counters(&guest, "block_data", &names);
    let async_counters = counters(&guest, "block_async", &names);
    let cut_failures = guest.counter("block_cut", "execute_fails");
    let full_failures = guest.counter("block_full", "execute_fails");
    guest.go_on();
    let report = guest.await_end();
    run(&format!("umount {}", small.display()));
    Seen {
        report,
        sealed: [sealed_before, sha256_of(&sealed)],
        data_before,
        data_occupied: [data_start, data_discarded],
        data_written,
        data_zeroed,
        data_counters,
        async_counters,
        grown: sha256_of(&grown),
        states: [cut_state, full_state],
        cut_failures,
        full_failures,
    }
}

#[test]
fn get_id_shows_the_drive_id_as_serial() {
    let serials: Vec<_> = seen().report.values("serial").collect();
    assert_eq!(serials, ["sealed", "data", "async", "grow", "cut", "full"]);
}

#[test]
fn a_read_only_drive_refuses_writes() {
    let Seen {
        report,
        sealed: [before, after],
        ..
    } = seen();
    assert_eq!(
        (report.value("sealed_flag"), report.value("sealed_write")),
        ("1", "refused")
    );
    assert_eq!((report.value("sealed_sum"), after), (before.as_str(), before));
}

#[test]
fn writeback_keeps_what_was_flushed() {
    let Seen {
        report,
        data_before,
        data_written,
        ..
    } = seen();
    assert_eq!(report.value("data_sum"), data_before);
    assert_eq!(report.value("data_new"), data_written);
}

#[test]
fn discard_gives_the_hosts_space_back() {
    let Seen {
        report,
        data_occupied: [before, after],
        ..
    } = seen();
    assert_eq!(report.value("discarded"), "yes");
    assert!(
        after + 8 * MIB <= *before,
        "{before} bytes before, {after} after 8 MiB were discarded"
    );
}

#[test]
fn write_zeroes_writes_zeroes_and_nothing_else() {
    let Seen {
        report, data_zeroed, ..
    } = seen();
    assert_eq!(report.value("zeroed"), "yes");
    let (zeroed, rest) = data_zeroed.split_at(2 << 20);
    assert!(zeroed.iter().all(|byte| *byte == 0));
    assert!(rest == &noise(16 * MIB)[10 << 20..14 << 20]);
}

#[test]
fn the_async_engine_reads_what_it_wrote() {
    let Seen {
        report,
        async_counters,
        ..
    } = seen();
    assert_eq!(
        report.value("async_sum"),
        sha256(&noise(16 * MIB)[10 << 20..14 << 20])
    );
    let [reads, writes, read_bytes, written_bytes, ..] = async_counters[..] else {
        panic!()
    };
    assert!(reads > 0 && writes > 0, "{async_counters:?}");
    assert!(
        read_bytes >= 4 * MIB && written_bytes == 4 * MIB,
        "{async_counters:?}"
    );
}

#[test]
fn patch_drives_with_a_larger_file_changes_the_capacity() {
    let Seen { report, grown, .. } = seen();
    assert_eq!(
        (report.number("grow_before"), report.number("grow_after")),
        (8192, 16384)
    );
    assert_eq!(report.value("grow_sum"), grown);
}

#[test]
fn a_drive_shorter_later_than_at_start_gives_io_errors() {
    let Seen {
        report,
        states,
        cut_failures,
        ..
    } = seen();
    assert!(
        !report.value("cut_before").contains("error"),
        "{}",
        report.value("cut_before")
    );
    assert!(
        report.value("cut_after").contains("Input/output error"),
        "{}",
        report.value("cut_after")
    );
    assert_eq!(states[0], "Running");
    assert!(*cut_failures > 0);
}

#[test]
fn disk_full_under_a_running_guest_gives_io_errors_until_there_is_space() {
    let Seen {
        report,
        states,
        full_failures,
        ..
    } = seen();
    let error = report.value("full");
    assert!(
        error.contains("Input/output error") || error.contains("No space left"),
        "{error}"
    );
    assert_eq!(states[1], "Running");
    assert!(*full_failures > 0);
    assert_eq!(report.value("freed"), "1");
}

#[test]
fn metrics_of_drives_count() {
    let [reads, writes, read_bytes, written_bytes, flushes, discards] = seen().data_counters[..] else {
        panic!()
    };
    let all = &seen().data_counters;
    assert!(reads > 0 && writes > 0 && flushes > 0 && discards > 1, "{all:?}");
    // All of it was read once, and 2 MiB were written.
    assert!(
        read_bytes >= 16 * MIB && (2 * MIB..3 * MIB).contains(&written_bytes),
        "{all:?}"
    );
}
