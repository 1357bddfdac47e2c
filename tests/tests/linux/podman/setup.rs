//! `koya setup podman`, as a user of podman sees it.

use std::fs;
use std::process::{Command, Stdio};

use koya_tests::vm::from_env;

use super::{IMAGE, Podman, is_nothing_left, until};
use crate::support::Said;

/// Names the runtime, uses the name, makes it the default, and takes it away. What it changes of the host is its own.
const SCRIPT: &str = "set -e
mount --bind etc /etc/containers
mount -t tmpfs tmpfs /var/lib
podman() { command podman --root $PWD/store --runroot $PWD/runroot --tmpdir $PWD/tmpdir --storage-driver overlay --cgroup-manager cgroupfs --events-backend file \"$@\"; }
runs() { podman \"$@\" run --rm --network none --log-driver k8s-file $IMAGE uname -v; }
name() { podman info --format '{{.Host.OCIRuntime.Name}}'; }
find etc > before
$KOYA setup podman --yes > told
runs --runtime koya > guest
name
$KOYA setup podman --yes --default > /dev/null
name
runs > default
$KOYA setup podman --undo --yes > /dev/null
name
runs > host
podman --runtime koya info > /dev/null 2> unknown || echo unknown
find etc | cmp before -
cmp guest default
cmp --quiet guest host || echo differ";

#[test]
fn setup_gives_the_runtime_a_name_and_takes_it_back() {
    let user = Podman::new();
    let copied = Command::new("cp")
        .args(["-a", "/etc/containers"])
        .arg(user.home.path("etc"))
        .status();
    assert!(copied.unwrap().success());
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", SCRIPT])
        .current_dir(user.home.path(""))
        .env("KOYA", from_env("KOYA_CLI"))
        .env("KOYA_RUNTIME", user.runtime())
        .env("IMAGE", IMAGE)
        .stdin(Stdio::null())
        .output();
    let said = Said::of(&output.unwrap());
    assert_eq!(
        (said.out.as_str(), said.code),
        ("crun\nkoya\ncrun\nunknown\ndiffer\n", Some(0)),
        "{said:?}"
    );
    let told = fs::read_to_string(user.home.path("told")).unwrap();
    assert!(told.contains("+[engine.runtimes]\n+koya = ["), "{told}");
    until("something is left of the containers", is_nothing_left);
}
