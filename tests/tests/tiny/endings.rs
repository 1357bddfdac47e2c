//! "Guest reset, poweroff and triple fault end the process with the exit codes of Firecracker; KVM internal errors are
//! reported with the registers and the instruction bytes, and a hint when the host is of the kind that only interprets
//! kernel mode."

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use koya_tests::vm::{self, Scratch, Vm};
use serde_json::json;

use super::support::process::{assert_idle, threads, ticks};
use super::support::{Monitor, config};

/// Runs a tiny guest from a config file to its end.
fn run(guest: &str) -> (i32, Vm) {
    let scratch = Scratch::new();
    let mut vm = Vm::from_config(&scratch, &config(guest, "", json!({})).to_string());
    let status = vm.wait();
    (status.code().expect("an exit code"), vm)
}

#[test]
fn a_reset_ends_with_0() {
    let (code, vm) = run("hello");
    assert_eq!((code, vm.log.text().as_str()), (0, ""));
    assert_eq!(vm.console.text(), "hello from a tiny guest\n");
}

#[test]
fn a_poweroff_ends_with_0() {
    let (code, vm) = run("poweroff");
    assert_eq!((code, vm.log.text().as_str()), (0, ""));
    assert_eq!(vm.console.text(), "powering off\n");
}

#[test]
fn a_triple_fault_ends_with_1_and_says_so() {
    let (code, vm) = run("triple");
    let log = vm.log.text();
    assert_eq!(code, 1);
    assert_eq!(log.lines().count(), 1, "{log}");
    assert!(log.contains("vCPU 0: the guest triple-faulted"), "{log}");
}

#[test]
fn the_endings_are_the_same_with_an_api_socket() {
    for (guest, code) in [("reset", 0), ("poweroff", 0), ("triple", 1), ("emulate", 1)] {
        let mut monitor = Monitor::running(guest, "");
        monitor.vm.expect_exit(code);
        monitor.assert_no_socket();
    }
}

#[test]
fn a_kvm_internal_error_is_reported_with_registers_instruction_bytes_and_a_hint() {
    let (code, vm) = run("emulate");
    let log = vm.log.text();
    assert_eq!(code, 1);
    assert_eq!(log.lines().count(), 1, "{log}");
    assert!(
        log.contains("vCPU 0: KVM internal error 1 (instruction emulation failed)"),
        "{log}"
    );
    // What the guest had put into a register, where it was and in which mode.
    for named in ["rsi=0x6b6f7961", "rip=0x1000", "cpl=0", "cr0=0x", "efer=0x"] {
        assert!(log.contains(named), "no {named}: {log}");
    }
    // addps 0xd0000000, %xmm0
    assert!(log.contains("instruction bytes: 0f 58 05 00 00 00 d0"), "{log}");
    let interprets = Path::new("/sys/module/kvm_pvm").exists();
    assert_eq!(
        log.contains("needs a host with kvm_amd or kvm_intel"),
        interprets,
        "{log}"
    );
}

#[test]
fn a_halted_guest_pauses_resumes_and_is_stopped() {
    let monitor = Monitor::running("halt", "");
    monitor.vm.expect("halted\n");
    for _ in 0..3 {
        monitor.change_state("Paused");
        assert_eq!(monitor.state(), "Paused");
        monitor.change_state("Paused");
        monitor.change_state("Resumed");
        assert_eq!(monitor.state(), "Running");
        monitor.change_state("Resumed");
    }
    monitor.terminate();
}

#[test]
fn a_paused_guest_uses_no_processor_time_and_goes_on_where_it_was() {
    let mut monitor = Monitor::running("spin", "");
    monitor.vm.expect("spinning\n");
    monitor.change_state("Paused");
    let before = ticks(monitor.vm.pid());
    assert_idle(monitor.vm.pid());
    monitor.change_state("Resumed");
    let start = Instant::now();
    while ticks(monitor.vm.pid()) - before < 10 {
        assert!(start.elapsed() < vm::PATIENCE, "it does not go on");
        thread::sleep(Duration::from_millis(5));
    }
    monitor.vm.signal(libc::SIGTERM);
    monitor.vm.wait();
    assert_eq!(monitor.vm.console.text(), "spinning\n");
}

/// Each signal ends a guest that waits, spins, or stands still, and leaves nothing behind.
#[test]
fn signals_end_the_process_as_the_help_says() {
    let help = Command::new(vm::vmm_binary()).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    assert!(help.contains("156") && help.contains("SIGHUP"), "{help}");
    assert!(help.contains("SIGTERM, SIGINT and SIGQUIT end it"), "{help}");
    for guest in ["halt", "spin", "paused"] {
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT, libc::SIGHUP] {
            let mut monitor = Monitor::running(if guest == "paused" { "spin" } else { guest }, "");
            if guest == "paused" {
                monitor.change_state("Paused");
            }
            monitor.vm.signal(signal);
            let start = Instant::now();
            let status = monitor.vm.wait();
            assert!(
                start.elapsed() < Duration::from_secs(5),
                "{guest} {signal}: {:?}",
                start.elapsed()
            );
            let expected = if signal == libc::SIGHUP {
                (Some(156), None)
            } else {
                (None, Some(signal))
            };
            assert_eq!((status.code(), status.signal()), expected, "{guest}");
            monitor.assert_no_socket();
            assert_eq!(monitor.vm.log.text(), "", "{guest} {signal}");
        }
    }
}

#[test]
fn signals_end_a_monitor_without_a_guest() {
    for signal in [libc::SIGTERM, libc::SIGHUP] {
        let mut monitor = Monitor::start();
        assert_eq!(threads(monitor.vm.pid()), ["koya-vmm"]);
        monitor.vm.signal(signal);
        assert!(!monitor.vm.wait().success());
        monitor.assert_no_socket();
    }
}

/// Nothing can be tidied up by a process that is killed; the machine is free again all the same.
#[test]
fn kill_while_spinning() {
    let mut monitor = Monitor::running("spin", "");
    monitor.vm.expect("spinning\n");
    monitor.vm.signal(libc::SIGKILL);
    assert_eq!(monitor.vm.wait().signal(), Some(libc::SIGKILL));
    let scratch = Scratch::new();
    let mut next = Vm::from_config(&scratch, &config("hello", "", json!({})).to_string());
    next.expect_exit(0);
}

#[test]
fn help_and_version_go_to_standard_output_and_end_with_0() {
    for (argument, named) in [("--help", "--api-sock PATH"), ("--version", "Koya v")] {
        let output = Command::new(vm::vmm_binary()).arg(argument).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains(named), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 120), "{text}");
        assert!(output.stderr.is_empty());
    }
}

#[test]
fn a_wrong_command_line_ends_with_153_and_a_wrong_level_with_152() {
    for (arguments, code, named) in [
        (&["--confg-file", "vm.json"][..], 153, "--confg-file"),
        (&["--no-api"], 153, "--no-api needs --config-file"),
        (&["--http-api-max-payload-size", "many"], 153, "\"many\""),
        (&["--level", "loud"], 152, "'loud' is no log level"),
    ] {
        let output = Command::new(vm::vmm_binary()).args(arguments).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
        assert_eq!(text.matches(named).count(), 1, "{text}");
    }
}
