//! The console over pipes: a shell on ttyS0 whose keyboard and screen are the monitor's standard input and output.

use std::fmt::Write;

use koya_tests::bench::host::{Host, KvmKind};

use crate::guest::Guest;
use crate::support::sha256;

/// Digits and the end of a line.
const LINE: usize = 16;
const PASTED: usize = 64 << 10;

/// Lines of output: 1 MiB. An emulated host takes 0.2 ms for each byte, so there it is what fills a pipe and the
/// monitor's own buffer, and half as much again.
fn lines() -> usize {
    let bytes = match Host::look().kvm {
        KvmKind::Emulated => 192 << 10,
        _ => 1 << 20,
    };
    bytes / LINE
}

#[test]
fn a_shell_on_ttys0_whole_output_and_whole_pasted_input() {
    let mut guest = Guest::debian().start();
    guest.expect("Leave it with: poweroff");

    guest.type_in("echo round-$((6 * 7))\n");
    guest.expect("round-42\r\n");

    // In large pieces, as `cat` writes them; the shell's line discipline leaves them alone.
    let lines = lines();
    guest.type_in(&format!(
        "seq -f %015.0f 1 {lines} > /run/lines; stty -opost; cat /run/lines; stty opost; echo output-$((1 + 1))\n"
    ));
    guest.expect("output-2\r\n");
    let mut whole = String::new();
    for line in 1..=lines {
        writeln!(whole, "{line:015}").unwrap();
    }
    let console = guest.report().0;
    assert!(
        console.contains(&whole),
        "output was lost: {} bytes of console",
        console.len()
    );

    guest.type_in(&format!(
        "stty raw -echo; echo pa\"\"ste; head -c {PASTED} > /run/pasted; stty -raw echo; sha256sum /run/pasted\n"
    ));
    guest.expect("paste\n");
    let pasted: String = whole.chars().cycle().take(PASTED).collect();
    guest.type_in(&pasted);
    guest.expect(&format!("{}  /run/pasted\r\n", sha256(pasted.as_bytes())));

    guest.type_in("poweroff\n");
    guest.finish();
}
