//! System containers with other inits than systemd: each is stopped as it wants to be.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use koya_tests::vm::from_env;

use super::{User, exchange, until};

/// What busybox's init does.
const INITTAB: &str = "::sysinit:/bin/echo hello\n::respawn:/bin/sleep 1000\n::shutdown:/bin/echo goodbye\n";
/// Prints what is mounted below /var/lib, and as what.
const MOUNTS: &str =
    "while read what at type rest; do case $at in /var/lib/*) echo $at $type;; esac; done < /proc/mounts";

/// A root file system with busybox as init.
fn busybox_root(user: &User) -> PathBuf {
    let root = user.home.path("root");
    for folder in ["sbin", "var/lib/docker/deep"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    symlink("../bin/busybox", root.join("sbin/init")).unwrap();
    fs::write(root.join("etc/inittab"), INITTAB).unwrap();
    fs::write(root.join("var/lib/docker/deep/seed"), "from the image\n").unwrap();
    root
}

#[test]
fn busyboxs_init_is_powered_off_and_engines_folders_stay() {
    let user = User::new();
    let root = busybox_root(&user);
    let root = root.to_str().unwrap();
    user.says(&[
        "run",
        "-d",
        "--name",
        "house",
        "--boot",
        "--tmpfs",
        "/var/lib/containerd",
        "--directory",
        root,
    ]);
    let shell = |script: &str| user.says(&["exec", "house", "sh", "-c", script]);
    let mounts = shell(MOUNTS);
    let mounts: Vec<_> = mounts.lines().collect();
    assert_eq!(
        mounts,
        [
            "/var/lib/containers ext4",
            "/var/lib/docker ext4",
            "/var/lib/containerd tmpfs"
        ]
    );
    // What the image has there is there, and its owner's.
    let seed = "cd /var/lib/docker && cat deep/seed && busybox stat -c %u:%g . deep/seed";
    assert_eq!(shell(seed), "from the image\n0:0\n0:0\n");
    shell("cd /var/lib/docker && rm -r deep && echo mine > kept && echo theirs > ../containers/kept");
    user.says(&["stop", "--time", "60", "house"]);
    assert_eq!(user.field("house", ".State.ExitCode"), "0");
    let log = user.says(&["logs", "house"]);
    assert!(log.contains("hello") && log.contains("goodbye"), "{log}");
    user.says(&["start", "house"]);
    assert_eq!(
        shell("cd /var/lib/docker && ls && cat kept ../containers/kept"),
        "kept\nmine\ntheirs\n"
    );
    // What another one writes there goes with that one; the microVM stays.
    user.says(&[
        "run",
        "-d",
        "--rm",
        "--name",
        "visitor",
        "--vm",
        "house",
        "--boot",
        "--directory",
        root,
    ]);
    let free = || -> u64 {
        let free = shell("busybox stat -f -c '%f %s' /var/lib/docker");
        let (blocks, size) = free.trim().split_once(' ').unwrap();
        blocks.parse::<u64>().unwrap() * size.parse::<u64>().unwrap()
    };
    let before = free();
    let fill = "busybox dd if=/dev/zero of=/var/lib/docker/large bs=1M count=24 2> /dev/null; busybox sync";
    user.says(&["exec", "visitor", "sh", "-c", fill]);
    let filled = free();
    assert!(filled + (20 << 20) < before, "{before} {filled}");
    user.says(&["rm", "-f", "visitor"]);
    let after = free();
    assert!(after + (4 << 20) > before, "{before} {filled} {after}");
    user.says(&["rm", "-f", "house"]);
    assert!(user.has_nothing_left(), "something is left behind");
}

#[test]
fn runit_runs_services_and_is_shut_down() {
    let user = User::new();
    let image = from_env("KOYA_SYSTEM_RUNIT");
    user.says(&[
        "run",
        "-d",
        "--name",
        "house",
        "--system",
        "-p",
        "18082:80",
        image.to_str().unwrap(),
    ]);
    until("its web server does not answer", || {
        exchange("127.0.0.1:18082", "GET / HTTP/1.0\r\n\r\n").ends_with("a page of a service of runit's\n")
    });
    let status = user.says(&["exec", "house", "sv", "status", "web"]);
    assert!(status.starts_with("run: web: (pid "), "{status}");
    user.says(&["stop", "--time", "60", "house"]);
    assert_eq!(user.field("house", ".State.ExitCode"), "0");
    let log = user.says(&["logs", "house"]);
    for said in ["ok: down: /etc/service/web", "runit: power off"] {
        assert!(log.contains(said), "{said}: {log}");
    }
    user.says(&["rm", "house"]);
    assert!(user.has_nothing_left(), "something is left behind");
}
