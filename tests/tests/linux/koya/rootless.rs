//! Somebody who is not root, and may open /dev/kvm: everything but networks.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::process::{Command, Output, Stdio};

use super::{User, refusal, told, until};
use crate::support::install_for_users;

/// His number, which no other user of the host has.
const UID: u32 = 64_321;

/// Somebody with an installation that he can read: the programs side by side, and nothing in the environment.
struct Somebody {
    user: User,
}

impl Somebody {
    fn new() -> Self {
        let user = User::new();
        let bin = user.home.path("bin");
        install_for_users(&bin, ("KOYA_CLI", "koya"));
        let his = user.home.path("his");
        fs::create_dir_all(his.join("src")).unwrap();
        fs::write(his.join("src/data"), "his\n").unwrap();
        for path in [&his, &his.join("src"), &his.join("src/data")] {
            chown(path, Some(UID), Some(UID)).unwrap();
        }
        Self { user }
    }

    /// Runs `koya` as he does, from his folder.
    fn done(&self, words: &[&str]) -> Output {
        let his = self.user.home.path("his");
        let id = [format!("--reuid={UID}"), format!("--regid={UID}")];
        let mut command = Command::new("setpriv");
        command
            .args(id)
            .args(["--clear-groups", "--no-new-privs", "--"])
            .arg(self.user.home.path("bin/koya"))
            .args(words)
            .current_dir(&his)
            .env_clear()
            .env("HOME", &his)
            .env("PATH", "/usr/bin:/bin")
            .stdin(Stdio::null());
        command.output().unwrap()
    }

    fn says(&self, words: &[&str]) -> String {
        let (out, errors, code) = told(&self.done(words));
        assert_eq!((errors.as_str(), code), ("", Some(0)), "koya {words:?}: {out}");
        out
    }

    /// Whether nothing is left of any container.
    fn has_nothing_left(&self) -> bool {
        let kept = self.user.home.path("his/.local/share/koya");
        ["containers", "vms"]
            .iter()
            .all(|folder| super::is_empty(&kept.join(folder)))
    }
}

#[test]
fn a_user_runs_enters_stops_and_removes_a_container() {
    let him = Somebody::new();
    let image = him.user.image();
    let image = image.to_str().unwrap();
    assert_eq!(
        him.says(&["run", "--rm", "--network", "none", image, "id", "-u"]),
        "0\n"
    );
    let script = "cat /src/data; echo from inside > /src/new; touch /ro/no 2>/dev/null || echo read-only; \
        echo kept > /named/file; exec sleep 1000";
    let volumes = ["-v", "./src:/src", "-v", "./src:/ro:ro", "-v", "data:/named"];
    let mut words = vec!["run", "-d", "--name", "web", "--network", "none"];
    words.extend(volumes);
    words.extend([image, "sh", "-c", script]);
    him.says(&words);
    until("no log", || him.says(&["logs", "web"]) == "his\nread-only\n");
    until("no file", || {
        him.says(&["exec", "web", "cat", "/named/file"]) == "kept\n"
    });
    // What the container wrote is his.
    let new = him.user.home.path("his/src/new");
    assert_eq!(fs::read_to_string(&new).unwrap(), "from inside\n");
    assert_eq!(fs::metadata(&new).unwrap().uid(), UID);
    him.says(&["cp", "src/data", "web:/root/data"]);
    him.says(&["cp", "web:/root/data", "back"]);
    assert_eq!(
        fs::read_to_string(him.user.home.path("his/back")).unwrap(),
        "his\n"
    );
    assert!(him.says(&["stats", "--no-stream", "--format", "{{.Name}}"]) == "web\n");
    him.says(&["stop", "--time", "0", "web"]);
    him.says(&["start", "web"]);
    assert_eq!(him.says(&["exec", "web", "cat", "/root/data"]), "his\n");
    him.says(&["rm", "-f", "web"]);
    assert!(him.has_nothing_left(), "something is left behind");
}

#[test]
fn a_user_has_system_containers_and_is_told_that_networks_take_root() {
    let him = Somebody::new();
    let image = him.user.image();
    let image = image.to_str().unwrap();
    let line = refusal(&him.done(&["run", "--rm", "-p", "8080:80", image, "true"]), 125);
    assert!(line.contains("networks take root"), "{line}");
    assert!(him.has_nothing_left(), "something is left behind");

    // busybox's init powers off at SIGUSR2.
    let options = [
        "run",
        "-d",
        "--name",
        "web",
        "--system",
        "--stop-signal",
        "USR2",
        "-v",
        "./src:/src",
    ];
    let mut words = options.to_vec();
    words.extend(["--network", "none", image, "busybox", "init"]);
    him.says(&words);
    let seen = him.says(&[
        "exec",
        "web",
        "sh",
        "-c",
        "ps; cat /proc/self/uid_map; touch /src/new",
    ]);
    assert!(seen.contains("    1 root     busybox init"), "{seen}");
    // Its root is nobody in the guest, and he on the host.
    let map: Vec<_> = seen.lines().last().unwrap().split_whitespace().collect();
    assert!(map[0] == "0" && map[1] != "0" && map[2] == "65536", "{seen}");
    let new = him.user.home.path("his/src/new");
    assert_eq!(fs::metadata(new).unwrap().uid(), UID);
    him.says(&["stop", "web"]);
    assert_eq!(him.says(&["inspect", "-f", "{{.State.ExitCode}}", "web"]), "0\n");
    him.says(&["rm", "web"]);
    assert!(him.has_nothing_left(), "something is left behind");
}

#[test]
fn doctor_finds_everything_but_networks() {
    let him = Somebody::new();
    let found = him.says(&["doctor", "--format", "{{.Status}} {{.Check}}"]);
    assert!(!found.contains("failed"), "{found}");
    for ok in [
        "ok kvm device",
        "ok parts of koya",
        "ok virtiofsd",
        "ok user namespaces",
        "ok home",
    ] {
        assert!(found.lines().any(|line| line == ok), "{ok:?} is missing: {found}");
    }
    assert!(
        found.lines().any(|line| line == "warning network rights"),
        "{found}"
    );
}
