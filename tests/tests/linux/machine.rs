//! The machine as a Debian guest sees it: time, interrupts, entropy, and a kernel log without complaints.

use serde_json::json;

use crate::guest::Guest;
use crate::report::{Report, Shared};

/// The one complaint of a kernel on a microVM: there is no PCI bus, and it says so even when told not to look.
const NO_PCI: &str = "PCI: Fatal: No config space access function found";

const SCRIPT: &str = r#"
say clocksource $(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)
for cpu in 0 1; do say timer $(cat /sys/devices/system/clockevents/clockevent$cpu/current_device); done

# Interrupts so far: of the row that begins or ends with $1, on all processors.
interrupts() { awk -v row="$1" '$1 == row || $NF == row { n = 0; for (i = 2; i <= 3; i++) n += $i; print n }' /proc/interrupts; }
disk=$(interrupts virtio0) tty=$(interrupts ttyS0) ticks=$(interrupts LOC:)
dd if=/dev/vda of=/dev/null bs=4k count=32 iflag=direct 2> /dev/null
echo some output for the serial port to interrupt about
sleep 0.1
say disk_interrupts $(($(interrupts virtio0) - disk))
say tty_interrupts $(($(interrupts ttyS0) - tty))
say timer_interrupts $(($(interrupts LOC:) - ticks))
say spurious_interrupts $(interrupts SPU:)
awk '$1 == "ERR:" || $1 == "MIS:" { n += $2 } END { print "koya-test: interrupt_errors=" n }' /proc/interrupts

say rng $(cat /sys/class/misc/hw_random/rng_current)
bytes() { dd if=/dev/hwrng bs=32 count=1 2> /dev/null | od -An -v -tx1 | tr -d ' \n'; }
say random $(bytes)
say random $(bytes)

dmesg --level=emerg,alert,crit,err | while read -r line; do say error "$line"; done
dmesg | grep -iE 'lockup|stall|spurious|BUG:|WARNING:|Call Trace|unstable|hung' | while read -r line; do say complaint "$line"; done
"#;

fn report() -> &'static Report {
    static REPORT: Shared<Report> = Shared::new();
    REPORT.get(|| {
        let guest = Guest::debian().machine(2, 512).section("entropy", json!({}));
        guest.script(SCRIPT).start().finish()
    })
}

#[test]
fn clocksource_is_kvm_clock_or_tsc() {
    let clocksource = report().value("clocksource");
    assert!(["kvm-clock", "tsc"].contains(&clocksource), "{clocksource}");
}

#[test]
fn the_tsc_deadline_timer_is_in_use() {
    let timers: Vec<_> = report().values("timer").collect();
    assert_eq!(timers, ["lapic-deadline"; 2]);
    assert!(report().number("timer_interrupts") > 0);
}

#[test]
fn interrupts_of_virtio_and_ttys0_advance() {
    assert!(report().number("disk_interrupts") >= 1);
    assert!(report().number("tty_interrupts") >= 1);
}

#[test]
fn no_spurious_interrupts_and_no_errors_in_the_kernel_log() {
    assert_eq!(
        (
            report().number("spurious_interrupts"),
            report().number("interrupt_errors")
        ),
        (0, 0)
    );
    let errors: Vec<_> = report()
        .values("error")
        .filter(|line| !line.contains(NO_PCI))
        .collect();
    assert!(errors.is_empty(), "{errors:#?}");
    let complaints: Vec<_> = report().values("complaint").collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
}

#[test]
fn virtio_rng_gives_random_bytes() {
    assert!(
        report().value("rng").starts_with("virtio_rng"),
        "{}",
        report().value("rng")
    );
    let random: Vec<_> = report().values("random").collect();
    assert!(random.len() == 2 && random[0] != random[1], "{random:?}");
    for bytes in random {
        assert!(
            bytes.len() == 64 && bytes.chars().any(|digit| digit != '0'),
            "{bytes}"
        );
    }
}
