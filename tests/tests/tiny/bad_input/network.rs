//! Network interfaces and their taps.

use std::process::Command;

use koya_api::http::Method;
use koya_tests::vm::Scratch;
use serde_json::json;

use super::{assert_healthy, assert_names, refusal, refused};
use crate::support::{Monitor, Netns, config, interface};

#[test]
fn a_tap_that_is_missing() {
    refused(
        &config(
            "hello",
            "",
            json!({ "network-interfaces": [interface("eth0", "koyanone0")] }),
        ),
        &[
            "\"eth0\"",
            "no tap `koyanone0`",
            "ip tuntap add koyanone0 mode tap",
        ],
    );
}

#[test]
fn an_interface_that_is_no_tap() {
    refused(
        &config(
            "hello",
            "",
            json!({ "network-interfaces": [interface("eth0", "lo")] }),
        ),
        &["\"eth0\"", "`lo` is not a tap", "ip tuntap add"],
    );
}

#[test]
fn a_name_that_no_tap_can_have() {
    for name in ["", "a/b", &"x".repeat(300)] {
        refused(
            &config(
                "hello",
                "",
                json!({ "network-interfaces": [interface("eth0", name)] }),
            ),
            &["\"eth0\"", "host_dev_name", "1 to 15 bytes"],
        );
    }
}

#[test]
fn a_tap_that_is_busy() {
    let netns = Netns::with_tap();
    let mut first = Monitor::within(netns.monitor(), Scratch::new(), &[]);
    let eth0 = interface("eth0", "tap0");
    first.done(Method::Put, "/network-interfaces/eth0", &eth0);
    first.boot("echo", "");
    first.vm.expect("echo: ready");

    let names = ["\"eth0\"", "`tap0` is in use", "give each its own"];
    let scratch = Scratch::new();
    let text = config("hello", "", json!({ "network-interfaces": [eth0] })).to_string();
    let file = scratch.file("vm.json", text);
    let line = refusal(|| {
        let mut command: Command = netns.monitor();
        command.args(["--no-api", "--config-file"]).arg(&file);
        command
    });
    assert_names(&line, &names);

    let second = Monitor::within(netns.monitor(), Scratch::new(), &[]);
    let message = second.refused(Method::Put, "/network-interfaces/eth0", &eth0.to_string());
    assert_names(&message, &names);
    // Once the first is gone, the same request works.
    first.vm.type_in(b"q").unwrap();
    first.vm.expect_exit(0);
    second.done(Method::Put, "/network-interfaces/eth0", &eth0);
    assert_healthy(&second);
}

/// Said twice, a tap that the monitor itself holds is not busy.
#[test]
fn a_tap_of_ones_own_is_not_busy() {
    let netns = Netns::with_tap();
    let monitor = Monitor::within(netns.monitor(), Scratch::new(), &[]);
    let mut eth0 = interface("eth0", "tap0");
    monitor.done(Method::Put, "/network-interfaces/eth0", &eth0);
    eth0["guest_mac"] = json!("06:00:ac:10:00:02");
    monitor.done(Method::Put, "/network-interfaces/eth0", &eth0);
    let second = interface("eth1", "tap0").to_string();
    let message = monitor.refused(Method::Put, "/network-interfaces/eth1", &second);
    assert_names(&message, &["\"eth0\"", "\"eth1\"", "\"tap0\"", "one of its own"]);
    assert_healthy(&monitor);
}
