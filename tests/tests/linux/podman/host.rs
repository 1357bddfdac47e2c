//! A host that systemd runs: systemd as process 1 of namespaces, with the files of this one and the units that it is given.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use koya_tests::vm::Scratch;

use crate::support::{kill, run, succeed, until};

/// Units of the distribution's that it has, and no others: it leaves the rest of the host alone.
const UNITS: &str = "basic.target sysinit.target sockets.target timers.target paths.target slices.target shutdown.target \
                     umount.target final.target dbus.socket dbus.service machine.slice user.slice";
/// What it comes up with.
const TARGET: &str = "[Unit]\nRequires=basic.target\nWants=dbus.socket\n";
/// Makes the namespaces what they are to be: the tree of cgroups begins with systemd's own.
const BEGIN: &str = "echo 0 > $CGROUP/cgroup.procs
exec unshare --cgroup sh -c '
mount --make-rprivate / && mount -t tmpfs -o mode=755 run /run && mkdir /run/lock
umount /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup
exec env -i container=koya PATH=$PATH SYSTEMD_UNIT_PATH=/run/systemd/transient:$UNITS \
    /lib/systemd/systemd --system --unit=tests.target'";

/// One that is up.
pub struct Systemd {
    /// With its units.
    #[allow(dead_code, reason = "held, not used")]
    home: Scratch,
    outside: Child,
    cgroup: PathBuf,
    pid: u32,
}

impl Systemd {
    pub fn new() -> Self {
        let home = Scratch::new();
        fs::create_dir(home.path("units")).unwrap();
        for unit in UNITS.split_whitespace() {
            symlink(
                format!("/lib/systemd/system/{unit}"),
                home.path("units").join(unit),
            )
            .unwrap();
        }
        home.file("units/tests.target", TARGET);
        let cgroup = PathBuf::from(format!("/sys/fs/cgroup/koya-systemd-{}", std::process::id()));
        for controller in ["+cpu", "+memory", "+pids", "+io"] {
            fs::write("/sys/fs/cgroup/cgroup.subtree_control", controller).unwrap();
        }
        fs::create_dir(&cgroup).unwrap();
        let outside = Command::new("unshare")
            .args(["--fork", "--pid", "--mount", "--mount-proc", "--uts", "--ipc"])
            .args(["sh", "-c", BEGIN])
            .env("CGROUP", &cgroup)
            .env("UNITS", home.path("units"))
            .stdin(Stdio::null())
            // It complains of how it is ended.
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let children = format!("/proc/{0}/task/{0}/children", outside.id());
        let first = || fs::read_to_string(&children).ok()?.trim().parse().ok();
        until("systemd is not begun", || first().is_some());
        let host = Self {
            home,
            cgroup,
            pid: first().unwrap(),
            outside,
        };
        until("systemd does not come up", || {
            let state = host
                .command("systemctl")
                .arg("is-system-running")
                .output()
                .unwrap();
            state.stdout == b"running\n"
        });
        host
    }

    /// A command in it.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        let target = self.pid.to_string();
        command.args(["--target", &target, "--all", "--", program]);
        command.stdin(Stdio::null());
        command
    }

    /// The same command in it.
    pub fn within(&self, command: &Command) -> Command {
        let mut inner = self.command(command.get_program().to_str().unwrap());
        inner.args(command.get_args());
        for (name, value) in command.get_envs() {
            inner.env(name, value.unwrap());
        }
        inner
    }

    /// What a script in it says, which has to succeed.
    pub fn script(&self, script: &str) -> String {
        succeed(self.command("sh").args(["-ec", script]))
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        // With the first process of a namespace go all others.
        kill(self.pid, libc::SIGKILL);
        let _ = self.outside.wait();
        run(&format!(
            "find {} -depth -type d -exec rmdir {{}} ;",
            self.cgroup.display()
        ));
    }
}
