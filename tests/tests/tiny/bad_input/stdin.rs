//! Standard input that is closed.

use std::ffi::OsStr;
use std::process::{Command, Stdio};

use koya_tests::vm::{self, Scratch, Vm};
use serde_json::json;

use crate::support::config;

fn run(guest: &str, redirection: &str) -> Vm {
    let scratch = Scratch::new();
    let file = scratch.file("vm.json", config(guest, "n=2000", json!({})).to_string());
    let mut command = Command::new("sh");
    command
        .args([
            OsStr::new("-c"),
            format!("exec \"$@\" {redirection}").as_ref(),
            "sh".as_ref(),
        ])
        .arg(vm::vmm_binary())
        .args(["--no-api", "--config-file"])
        .arg(&file);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut vm = Vm::spawn_as_it_is(command);
    vm.expect_exit(0);
    vm
}

/// The guest runs to its end; the console has no input.
#[test]
fn stdin_closed() {
    for redirection in ["<&-", "</dev/null"] {
        let vm = run("ports", redirection);
        assert_eq!(
            vm.console.text(),
            "ports: begin\nports: end 2000\n",
            "{redirection}"
        );
        assert_eq!(vm.log.text(), "", "{redirection}");
    }
}

#[test]
fn stdin_that_ends_in_the_middle() {
    let scratch = Scratch::new();
    let mut vm = Vm::from_config(&scratch, &config("echo", "", json!({})).to_string());
    vm.expect("echo: ready");
    vm.type_in(b"ab").unwrap();
    vm.close_stdin();
    vm.expect("ab");
    vm.signal(libc::SIGTERM);
    vm.wait();
    assert_eq!(vm.log.text(), "");
}

/// Every stream closed: nobody to tell, and no reason not to run.
#[test]
fn every_stream_closed() {
    let vm = run("hello", "<&- >&- 2>&-");
    assert_eq!(vm.console.text() + &vm.log.text(), "");
}
