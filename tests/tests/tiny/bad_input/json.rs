//! JSON that is not what it should be, in the config file and over the API.

use koya_api::http::Method;
use koya_tests::vm::Scratch;
use serde_json::json;

use super::{assert_healthy, assert_names, refused_arguments, refused_in_file};
use crate::support::{Monitor, config};

/// Both doors refuse a machine configuration with this text.
fn refused_machine(text: &str, names: &[&str]) {
    refused_in_file(
        format!(r#"{{"boot-source":{{"kernel_image_path":"k"}},"machine-config":{text}}}"#),
        names,
    );
    let monitor = Monitor::start();
    for method in [Method::Put, Method::Patch] {
        let message = monitor.refused(method, "/machine-config", text);
        assert_names(&message, names);
    }
    assert_healthy(&monitor);
}

#[test]
fn an_unknown_field() {
    refused_machine(
        r#"{"vcpu_count":1,"mem_size_mib":128,"vcpus":2}"#,
        &["unknown field `vcpus`", "`vcpu_count`", "line 1 column"],
    );
    refused_in_file(
        config("hello", "", json!({ "machine-confg": {} })).to_string(),
        &["vm.json", "unknown field `machine-confg`", "`machine-config`"],
    );
}

#[test]
fn a_duplicate_field() {
    refused_machine(
        r#"{"vcpu_count":1,"mem_size_mib":128,"vcpu_count":2}"#,
        &["duplicate field `vcpu_count`", "line 1 column"],
    );
    refused_in_file(
        r#"{"boot-source":{"kernel_image_path":"a"},"boot-source":{"kernel_image_path":"b"}}"#,
        &["vm.json", "duplicate field `boot-source`"],
    );
}

#[test]
fn a_mistyped_field() {
    refused_machine(
        r#"{"vcpu_count":1,"mem_size_mib":128,"smt":"yes"}"#,
        &["invalid type: string \"yes\", expected a boolean", "smt"],
    );
    refused_machine(
        r#"{"vcpu_count":"four","mem_size_mib":128}"#,
        &["vcpu_count", "1 to 32", "\"four\""],
    );
    refused_in_file(
        config(
            "hello",
            "",
            json!({ "drives": [{ "drive_id": 7, "is_root_device": true }] }),
        )
        .to_string(),
        &["vm.json", "drives[0].drive_id", "expected a string"],
    );
}

#[test]
fn a_missing_field() {
    refused_in_file("{}", &["vm.json", "missing field `boot-source`"]);
    let monitor = Monitor::start();
    let message = monitor.refused(Method::Put, "/machine-config", r#"{"vcpu_count":1}"#);
    assert_names(&message, &["missing field `mem_size_mib`"]);
    assert_healthy(&monitor);
}

#[test]
fn no_json_at_all() {
    for (text, named) in [
        ("", "EOF while parsing"),
        ("{", "EOF while parsing"),
        ("boot-source: vmlinux\n", "expected value at line 1 column 1"),
        (
            r#"{"boot-source":{"kernel_image_path":"k"}} and more"#,
            "trailing characters",
        ),
        ("\0\0\0\0", "line 1 column 1"),
    ] {
        refused_in_file(text, &["vm.json", named]);
    }
    refused_in_file("[".repeat(200_000), &["vm.json", "line 1 column"]);
    let nested = format!(r#"{{"boot-source":{}"#, "[".repeat(200_000));
    refused_in_file(nested, &["vm.json", "line 1 column"]);
}

#[test]
fn invalid_utf8() {
    let text = b"{\"boot-source\":{\"kernel_image_path\":\"vm\xff\"}}";
    let names = ["not UTF-8", "offset 39"];
    refused_in_file(text, &[&["vm.json"], &names[..]].concat());

    let monitor = Monitor::start();
    let mut raw = crate::support::http::Raw::connect(&monitor);
    let body = b"{\"kernel_image_path\":\"vm\xff\"}";
    raw.send(format!(
        "PUT /boot-source HTTP/1.1\r\nContent-Length: {}\r\n\r\n",
        body.len()
    ));
    raw.send(body);
    let answer = raw.answer();
    assert_eq!(answer.status, 400);
    assert_names(&answer.fault(), &["not UTF-8", "offset 24"]);
    assert_healthy(&monitor);
}

#[test]
fn a_config_file_of_100_mb() {
    let scratch = Scratch::new();
    let file = scratch.disk("huge.json", 100 << 20).display().to_string();
    refused_arguments(
        &["--no-api", "--config-file", &file],
        &[&file, "104857600 bytes", "at most 1048576"],
    );
}

#[test]
fn a_config_file_that_is_none() {
    let scratch = Scratch::new();
    let missing = scratch.path("vm.json").display().to_string();
    refused_arguments(
        &["--no-api", "--config-file", &missing],
        &[&missing, "No such file or directory"],
    );
    for (path, kind) in [("/dev", "a directory"), ("/dev/zero", "a device")] {
        refused_arguments(
            &["--no-api", "--config-file", path],
            &[path, kind, "must be a regular file"],
        );
    }
    // Opening a pipe that nobody writes to must not wait for somebody who does.
    let pipe = scratch.path("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    let pipe = pipe.display().to_string();
    refused_arguments(
        &["--no-api", "--config-file", &pipe],
        &[&pipe, "pipe", "must be a regular file"],
    );
}

/// Parts of Firecracker's configuration that are not there yet are told from typing errors.
#[test]
fn a_part_that_is_not_there_yet() {
    refused_in_file(
        config(
            "hello",
            "",
            json!({ "balloon": { "amount_mib": 3, "deflate_on_oom": true } }),
        )
        .to_string(),
        &["vm.json", "balloon", "not supported yet", "leave it out"],
    );
}
