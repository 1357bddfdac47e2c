//! A distribution with systemd as podman runs it: `--systemd=always`.

use std::fs;
use std::process::Command;

use koya_tests::vm::from_env;

use super::{Podman, is_nothing_left};
use crate::support::{succeed, until};

#[test]
fn systemd_comes_up_and_stops_as_with_crun() {
    let user = Podman::new();
    let root = user.home.path("system");
    fs::create_dir(&root).unwrap();
    succeed(
        Command::new("tar")
            .arg("-C")
            .arg(&root)
            .arg("-xf")
            .arg(from_env("KOYA_SYSTEM")),
    );
    // Units of engines want more than a container has, whichever runtime it is.
    succeed(
        Command::new("find")
            .arg(root.join("etc/systemd/system"))
            .args(["-name", "podman*", "-delete"]),
    );
    let root = root.to_str().unwrap();
    for (runtime, name) in user.both().iter().zip(["crun", "koya"]) {
        let words = [
            "run",
            "--detach",
            "--name",
            name,
            "--systemd",
            "always",
            "--publish",
            "18390:80",
        ];
        let mut words = words.to_vec();
        words.extend(["--rootfs", root, "/sbin/init"]);
        let said = user.said(runtime, &words);
        assert_eq!(said.code, Some(0), "{said:?}");
        let exec = |script: &str| user.said(runtime, &["exec", name, "sh", "-c", script]).out;
        until("systemd does not come up", || {
            // Fails before systemd listens; and to ask often would keep it from coming up.
            let state = exec("systemctl is-system-running --wait");
            assert_ne!(
                state,
                "degraded\n",
                "{}",
                exec("systemctl --failed --no-pager --plain")
            );
            state == "running\n"
        });
        let seen = exec(
            "systemd-detect-virt --container; cat /proc/1/comm; systemctl is-active nginx; stat -f -c %T /run",
        );
        assert_eq!(seen, "podman\nsystemd\nactive\ntmpfs\n", "{name}");
        let unit =
            "systemd-run --quiet --wait --pipe --property MemoryMax=64M cat /proc/self/cgroup; echo $?";
        let in_unit = exec(unit);
        assert!(
            in_unit.contains(".service\n") && in_unit.ends_with("\n0\n"),
            "{name}: {in_unit}"
        );
        let page = [
            "--silent",
            "--fail",
            "--output",
            "/dev/null",
            "http://127.0.0.1:18390/",
        ];
        succeed(Command::new("curl").args(["--max-time", "30"]).args(page));
        // SIGRTMIN+3: services are stopped, and nothing is killed.
        let said = user.said(runtime, &["stop", "--time", "90", name]);
        assert_eq!((said.errors.as_str(), said.code), ("", Some(0)));
        let ended = user.said(runtime, &["inspect", "--format", "{{.State.ExitCode}}", name]);
        assert_eq!(ended.out, "0\n", "{name}");
        user.said(runtime, &["rm", "--force", name]);
    }
    until("something is left of the containers", is_nothing_left);
}
