//! What tests of crashes begin with: a network namespace that somebody has prepared, and that is there before and after whoever
//! uses it, and a container at work.

use std::path::PathBuf;
use std::time::Duration;

use koya_tests::bench::host::{Host, KvmKind};

use crate::support::run;

/// Writes and speaks all the time. Told so by a file, it has the guest's kernel panic, as it does when its first process, the
/// agent, dies.
pub const WRITER: &str = "while :; do dd if=/dev/zero of=/data/file bs=64k count=16 conv=fsync 2> /dev/null; echo more; \
                      test -e /data/die && echo c > /proc/sysrq-trigger; done";

/// How long an engine may take to see that a container is dead. An emulated machine may be ten times as slow, and busy.
pub fn soon() -> Duration {
    match Host::look().kvm {
        KvmKind::Hardware => Duration::from_secs(2),
        _ => Duration::from_secs(40),
    }
}

pub struct Prepared {
    name: &'static str,
}

impl Prepared {
    /// One with an interface and an address, in this thread's mounts.
    pub fn new(name: &'static str) -> Self {
        run(&format!("ip netns add {name}"));
        let prepared = Self { name };
        run(&format!(
            "ip link add {name} type veth peer name eth0 netns {name}"
        ));
        run(&format!("ip link set {name} up"));
        prepared.inside("ip link set lo up");
        prepared.inside("ip address add 10.78.0.2/24 dev eth0");
        prepared.inside("ip link set eth0 up");
        prepared
    }

    pub fn path(&self) -> PathBuf {
        format!("/run/netns/{}", self.name).into()
    }

    fn inside(&self, line: &str) -> String {
        run(&format!("ip netns exec {} {line}", self.name))
    }

    /// What is in it beyond what was prepared: taps, and rules about frames.
    pub fn left(&self) -> Vec<String> {
        let links = self.inside("ip -oneline link show type tun");
        let rules = self.inside("tc qdisc show dev eth0 ingress");
        let lines = links.lines().chain(rules.lines());
        lines.map(str::to_owned).collect()
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        let _ = std::process::Command::new("ip")
            .args(["netns", "delete", self.name])
            .status();
    }
}
