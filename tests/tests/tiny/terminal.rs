//! "Leave it with `poweroff` or the escape `Ctrl-A x`; the terminal is restored in every case, also after a crash or
//! SIGTERM."

use std::ffi::OsStr;
use std::process::Command;
use std::thread;
use std::time::Duration;

use koya_tests::terminal::{Settings, Terminal};
use koya_tests::vm::{self, Scratch, Vm};
use serde_json::json;

use super::support::config;

/// The escape.
const LEAVE: &[u8] = b"\x01x";

struct Session {
    terminal: Terminal,
    before: Settings,
    vm: Vm,
    _scratch: Scratch,
}

impl Session {
    /// A tiny guest on a terminal of its own; the terminal is raw by now.
    fn of(guest: &str) -> Self {
        let session = Self::begin(guest);
        session.terminal.expect_raw();
        session
    }

    fn begin(guest: &str) -> Self {
        let scratch = Scratch::new();
        let file = scratch.file("vm.json", config(guest, "", json!({})).to_string());
        let mut command = Command::new(vm::vmm_binary());
        command.args([OsStr::new("--no-api"), "--config-file".as_ref(), file.as_os_str()]);
        let terminal = Terminal::new();
        let before = terminal.settings();
        assert!(!before.is_raw());
        let vm = terminal.run(command);
        Self {
            terminal,
            before,
            vm,
            _scratch: scratch,
        }
    }

    fn assert_restored(&self) {
        assert_eq!(self.terminal.settings(), self.before);
    }
}

#[test]
fn ctrl_a_x_leaves_with_0_and_a_restored_terminal() {
    for guest in ["echo", "halt", "spin"] {
        let mut session = Session::of(guest);
        session.terminal.type_in(LEAVE);
        session.vm.expect_exit(0);
        session.assert_restored();
    }
}

#[test]
fn the_guest_gets_what_is_typed_key_by_key_and_nothing_echoes_but_the_guest() {
    let mut session = Session::of("echo");
    session.terminal.expect("echo: ready");
    // No line end is typed; Ctrl-C, Ctrl-D, Ctrl-Z and Ctrl-S are keys like any other.
    session.terminal.type_in(b"abc\x03\x04\x1a\x13d\x01\x01e");
    session.terminal.expect("abc\x03\x04\x1a\x13d\x01e");
    session.terminal.type_in(b"q");
    session.vm.expect_exit(0);
    session.assert_restored();
    assert_eq!(
        session.terminal.screen.text(),
        "echo: ready\r\nabc\x03\x04\x1a\x13d\x01eecho: bye\r\n"
    );
}

#[test]
fn the_terminal_is_restored_after_signals() {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT, libc::SIGHUP] {
        let mut session = Session::of("spin");
        session.vm.signal(signal);
        assert!(!session.vm.wait().success());
        session.assert_restored();
    }
}

#[test]
fn the_terminal_is_restored_after_a_crash() {
    for (signal, code) in [
        (libc::SIGSEGV, 150),
        (libc::SIGBUS, 149),
        (libc::SIGILL, 157),
        (libc::SIGSYS, 148),
        (libc::SIGXCPU, 154),
        (libc::SIGABRT, 1),
    ] {
        let mut session = Session::of("spin");
        session.vm.signal(signal);
        assert_eq!(session.vm.wait().code(), Some(code));
        session.assert_restored();
    }
}

#[test]
fn the_terminal_is_restored_after_the_guests_end() {
    for (guest, code) in [("hello", 0), ("poweroff", 0), ("triple", 1), ("emulate", 1)] {
        let mut session = Session::begin(guest);
        session.vm.expect_exit(code);
        session.assert_restored();
    }
}

#[test]
fn the_terminal_is_untouched_by_an_error_at_start() {
    let mut session = Session::begin("there-is-no-such-guest");
    session.vm.expect_exit(1);
    session.assert_restored();
    session.terminal.expect("No such file or directory");
    assert_eq!(session.terminal.screen.text().lines().count(), 1);
}

/// The keys of a terminal belong to whoever is in its foreground.
#[test]
fn in_the_background_the_terminal_is_left_alone() {
    let scratch = Scratch::new();
    let file = scratch.file("vm.json", config("spin", "", json!({})).to_string());
    let mut command = Command::new("bash");
    command
        .args([
            "-c",
            "set -m; \"$@\" & echo background $!; read -r line; kill %1; wait; echo got $line",
            "bash",
        ])
        .arg(vm::vmm_binary())
        .args(["--no-api", "--config-file"])
        .arg(&file);
    let mut terminal = Terminal::new();
    let before = terminal.settings();
    let mut shell = terminal.run(command);
    // What the guest writes may be on both sides of it.
    terminal.expect("runs in the background of its terminal");
    thread::sleep(Duration::from_millis(100));
    assert_eq!(terminal.settings(), before);
    terminal.type_in(b"to the shell\n");
    terminal.expect("got to the shell");
    shell.expect_exit(0);
    assert_eq!(terminal.settings(), before);
}

/// A log line among the guest's output begins at the left margin.
#[test]
fn lines_of_the_log_end_with_a_carriage_return_on_a_raw_terminal() {
    let mut session = Session::begin("triple");
    session.vm.expect_exit(1);
    let screen = session.terminal.screen.text();
    session.terminal.expect("triple-faulted\r\n");
    assert!(!screen.replace("\r\n", "").contains('\n'), "{screen:?}");
}
