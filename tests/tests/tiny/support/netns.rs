//! A network namespace of a test's own, for its taps.

use std::process::{Child, Command, Stdio};

use koya_tests::vm;

/// A network namespace that lasts as long as this value.
pub struct Netns(Child);

impl Netns {
    /// A namespace with the tap `tap0`, which is up.
    pub fn with_tap() -> Self {
        let mut holder = Command::new("unshare");
        holder
            .args(["--net", "sh", "-c"])
            .arg("ip tuntap add tap0 mode tap && ip link set tap0 up && echo ready && exec sleep 600")
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut holder = holder.spawn().expect("unshare (package util-linux) is needed");
        let mut line = String::new();
        let stdout = holder.stdout.take().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).unwrap();
        assert_eq!(
            line, "ready\n",
            "cannot make a tap in a network namespace: this takes root, iproute2 and the kernel module tun"
        );
        Self(holder)
    }

    /// A command that runs the monitor in this namespace.
    pub fn monitor(&self) -> Command {
        self.command(vm::vmm_binary())
    }

    /// A command in this namespace.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/proc/{}/ns/net", self.0.id()))
            .arg(program);
        command
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
