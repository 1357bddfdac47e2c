//! Docker's own engine in a privileged container: its containers are in the microVM, too.

use std::fs;
use std::process::Command;

use koya_tests::vm::from_env;

use super::{Podman, is_nothing_left, until};
use crate::support::succeed;

/// The engine divides its cgroup, in which nobody may be then but those in the parts.
const ENGINE: &str = "cd /sys/fs/cgroup && mkdir engine && echo $$ > engine/cgroup.procs && \
                      echo '+cpu +memory +pids' > cgroup.subtree_control && exec dockerd";
/// Makes an image, and runs a container with a network and a limit of its own.
const WORK: &str = "tar -C /inner -c . | docker import - inner > /dev/null && docker info --format {{.Driver}} && \
                    docker run --rm --memory 64m inner sh -c \
                    'cat /sys/fs/cgroup/memory.max /proc/sys/kernel/random/boot_id; ip -o -4 addr show eth0 | grep -c inet'; \
                    cat /proc/sys/kernel/random/boot_id";

#[test]
fn dockers_engine_runs_in_a_privileged_container() {
    let user = Podman::new();
    let system = user.home.path("system");
    fs::create_dir(&system).unwrap();
    let image = from_env("KOYA_SYSTEM_DOCKER");
    succeed(Command::new("tar").arg("-C").arg(&system).arg("-xf").arg(image));
    let inner = format!("{}:/inner:ro", user.root().display());
    let line = "run --detach --name house --privileged --network none --memory 1g --tmpfs /var/lib/docker --tmpfs /run";
    let mut words: Vec<_> = line.split(' ').collect();
    words.extend(["--volume", &inner, "--rootfs", system.to_str().unwrap()]);
    words.extend(["sh", "-c", ENGINE]);
    user.koya(&words);
    let koya = &user.both()[1];
    until("docker's engine does not come up", || {
        user.said(koya, &["exec", "house", "docker", "version"]).code == Some(0)
    });
    let said = user.koya(&["exec", "house", "sh", "-c", WORK]);
    let lines: Vec<_> = said.lines().collect();
    let [driver, limit, inside, networks, outside] = lines.as_slice() else {
        panic!("{said}");
    };
    assert_eq!([*driver, *limit, *networks], ["overlay2", "67108864", "1"]);
    let host = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    assert_eq!(inside, outside, "there is another kernel");
    assert_ne!(*inside, host.trim());
    user.koya(&["stop", "--time", "60", "house"]);
    let ended = user.koya(&["inspect", "--format", "{{.State.ExitCode}}", "house"]);
    assert_eq!(ended, "0\n");
    user.koya(&["rm", "house"]);
    until("something is left of an engine", is_nothing_left);
}
