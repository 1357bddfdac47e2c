//! podman of an ordinary user, who has subordinate ids and may open /dev/kvm.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use koya_tests::vm::Scratch;

use super::{IMAGE, Podman, without_ids};
use crate::support::{Said, fed, install_for_users, pids_of, run, succeed, until};

/// His name on the host.
const NAME: &str = "koya-podman";

/// Somebody with a home, an installation that he can read, and an image.
pub(super) struct Somebody {
    home: Scratch,
    uid: u32,
    /// The first of his subordinate ids.
    first: u32,
}

impl Somebody {
    pub(super) fn new() -> Self {
        let home = Scratch::new();
        fs::set_permissions(home.path(""), fs::Permissions::from_mode(0o755)).unwrap();
        let his = home.path("his");
        fs::create_dir(&his).unwrap();
        // As homes and /tmp are often mounted: nobody but the host's root can take these options away again.
        run(&format!(
            "mount -t tmpfs -o nosuid,nodev,mode=0755 his {}",
            his.display()
        ));
        let groups = fs::read_to_string("/etc/group").unwrap();
        let kvm = if groups.contains("\nkvm:") {
            "--groups kvm"
        } else {
            ""
        };
        run(&format!(
            "useradd --user-group {kvm} --home-dir {} {NAME}",
            his.display()
        ));
        let number = |line: &str| run(line).trim().parse::<u32>().unwrap();
        let (uid, gid) = (number(&format!("id -u {NAME}")), number(&format!("id -g {NAME}")));
        let first = subordinate_ids();
        for folder in ["run", "data"] {
            fs::create_dir(his.join(folder)).unwrap();
        }
        fs::write(his.join("data/file"), "his\n").unwrap();
        for path in ["", "run", "data", "data/file"] {
            chown(his.join(path), Some(uid), Some(gid)).unwrap();
        }
        fs::set_permissions(his.join("run"), fs::Permissions::from_mode(0o700)).unwrap();
        let him = Self { home, uid, first };
        him.install();
        him
    }

    /// All that podman and the runtime need: the programs side by side, settings, and an image.
    fn install(&self) {
        let bin = self.home.path("bin");
        install_for_users(&bin, ("KOYA_RUNTIME", "koya-runtime"));
        let settings = "[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n\
                        [network]\nnetwork_backend = \"netavark\"\n[containers]\nlog_driver = \"k8s-file\"\n";
        fs::write(self.home.path("containers.conf"), settings).unwrap();
        let roots = Podman::new();
        let tar = self.home.path("image.tar");
        fs::copy(roots.home.path("image.tar"), &tar).unwrap();
        let said = self.said("crun", &["import", "--quiet", tar.to_str().unwrap(), IMAGE]);
        assert_eq!(said.code, Some(0), "{said:?}");
    }

    pub(super) fn his(&self, path: &str) -> PathBuf {
        self.home.path("his").join(path)
    }

    pub(super) fn runtimes(&self) -> [String; 2] {
        let koya = self.home.path("bin/koya-runtime");
        ["crun".to_owned(), koya.to_str().unwrap().to_owned()]
    }

    /// `podman` as he runs it.
    fn podman(&self, runtime: &str, words: &[&str]) -> Command {
        let mut command = Command::new("setpriv");
        command
            .args([format!("--reuid={NAME}"), format!("--regid={NAME}")])
            .args(["--init-groups", "--", "podman", "--runtime", runtime])
            .args(words)
            .current_dir(self.his(""))
            .env_clear()
            .env("HOME", self.his(""))
            .env("XDG_RUNTIME_DIR", self.his("run"))
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("CONTAINERS_CONF", self.home.path("containers.conf"))
            .stdin(Stdio::null());
        command
    }

    /// What it says, without lines of podman's log, which tell the time.
    pub(super) fn said(&self, runtime: &str, words: &[&str]) -> Said {
        let mut said = Said::of(&self.podman(runtime, words).output().unwrap());
        let lines = said.errors.lines().filter(|line| !line.starts_with("time="));
        said.errors = without_ids(&lines.collect::<Vec<_>>().join("\n")).replace(runtime, "{}");
        said
    }

    /// The same command line with both runtimes, which have to say the same.
    fn same(&self, words: &[&str]) -> Said {
        let [crun, koya] = self.runtimes().map(|runtime| self.said(&runtime, words));
        assert_eq!(koya, crun, "koya-runtime and crun: podman {}", words.join(" "));
        koya
    }

    fn koya(&self, words: &[&str]) -> String {
        let said = self.said(&self.runtimes()[1], words);
        assert_eq!(said.code, Some(0), "podman {}: {}", words.join(" "), said.errors);
        said.out
    }

    /// Owner of a file of his, on the host.
    fn owner(&self, path: &str) -> u32 {
        fs::metadata(self.his(path)).unwrap().uid()
    }

    pub(super) fn has_nothing_left(&self) -> bool {
        let states = fs::read_dir(self.his("run/koya-runtime"))
            .into_iter()
            .flatten()
            .flatten();
        let names = [
            "koya-vmm",
            "koya-monitor",
            "koya-container",
            "virtiofsd",
            "slirp4netns",
        ];
        names.iter().all(|name| pids_of(name).is_empty())
            && states
                .filter(|entry| !entry.file_name().to_string_lossy().starts_with(".parts"))
                .count()
                == 0
    }
}

impl Drop for Somebody {
    fn drop(&mut self) {
        let _ = self
            .podman("crun", &["rm", "--all", "--force", "--time", "0"])
            .output();
        // podman keeps a process that holds his namespace.
        let pids = fs::read_dir("/proc").unwrap().flatten();
        for process in pids.filter(|entry| entry.metadata().is_ok_and(|found| found.uid() == self.uid)) {
            if let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) {
                // SAFETY: kill takes two numbers and touches no memory.
                unsafe { libc::kill(pid, libc::SIGKILL) };
            }
        }
        let _ = Command::new("umount").arg("--lazy").arg(self.his("")).status();
        let _ = Command::new("userdel").args(["--force", NAME]).status();
    }
}

/// The first id that the host has for him beyond his own.
fn subordinate_ids() -> u32 {
    let text = fs::read_to_string("/etc/subuid").unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(NAME)?.strip_prefix(':'));
    let first = line.and_then(|line| line.split(':').next()?.parse().ok());
    first.expect("useradd gives no subordinate ids")
}

#[test]
fn a_users_containers_are_as_with_crun() {
    let him = Somebody::new();
    let data = format!("{}:/data", him.his("data").display());
    let read_only = format!("{data}:ro");
    let inside = |options: &[&str], script: &str| {
        let mut words = vec!["run", "--rm"];
        words.extend(options);
        words.extend([IMAGE, "sh", "-c", script]);
        him.same(&words)
    };
    let said = inside(
        &["--network", "none", "--volume", &read_only],
        "id; cat /data/file; touch /data/x; exit 9",
    );
    assert_eq!(
        (said.out.as_str(), said.code),
        ("uid=0(root) gid=0(root)\nhis\n", Some(9))
    );
    for (program, code) in [("nosuch", 127), ("text", 126)] {
        let words = ["run", "--rm", "--network", "none", IMAGE, program];
        let codes = him.runtimes().map(|runtime| him.said(&runtime, &words).code);
        assert_eq!(codes, [Some(code), Some(code)], "{program}");
    }
    // The network that podman makes for users, which says at once that the host is not to be reached.
    let script = "ip -o -4 addr show tap0 | grep -o 'inet [0-9./]*'; ip route | grep -o 'default via [0-9.]*'; \
                  cat /sys/class/net/tap0/mtu; cat /etc/resolv.conf; wget -q -O - http://10.0.2.2:1";
    let said = inside(&[], script);
    assert!(
        said.out
            .contains("inet 10.0.2.100/24\ndefault via 10.0.2.2\n65520\n"),
        "{said:?}"
    );
    // Whose files are whose: root is he, others are his subordinate ids.
    let script = "touch /data/roots /data/webs; chown 1000:1000 /data/webs; stat -c '%u:%g %n' /data/*";
    inside(&["--network", "none", "--volume", &data], script);
    assert_eq!(
        (him.owner("data/roots"), him.owner("data/webs")),
        (him.uid, him.first + 999)
    );
    let script = "id -u; cat /proc/self/uid_map; touch /data/kept; stat -c '%u:%g %n' /data/*; \
                  ip -o -4 addr show tap0 | grep -o 'inet [0-9./]*'";
    let said = inside(&["--userns", "keep-id", "--volume", &data], script);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(him.owner("data/kept"), him.uid);
    // Nobody has given him a cgroup; limits are the guest's.
    let limits = ["--network", "none", "--memory", "300m", "--cpus", "0.5"];
    let mut words = vec!["run", "--rm"];
    words.extend(limits);
    words.extend([
        IMAGE,
        "cat",
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/cpu.max",
    ]);
    assert_eq!(him.koya(&words), "314572800\n50000 100000\n");
    until("something is left of the containers", || him.has_nothing_left());
}

#[test]
fn a_users_server_lives_as_with_crun() {
    let him = Somebody::new();
    let script =
        "trap 'echo ending; exit 9' TERM; echo begun; httpd -p 80 -h /etc; while :; do sleep 1; done";
    let said = |words: &[&str], name: &str| {
        let words: Vec<_> = words.iter().map(|word| word.replace("{}", name)).collect();
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        let mut said = him.said(&him.runtimes()[usize::from(name == "koya")], &words);
        for text in [&mut said.out, &mut said.errors] {
            *text = without_ids(&text.replace(name, "{}"));
        }
        said
    };
    let both = |words: &[&str]| {
        let [crun, koya] = ["crun", "koya"].map(|name| said(words, name));
        assert_eq!(koya, crun, "podman {}", words.join(" "));
        koya
    };
    for (name, port) in [("crun", "18190:80"), ("koya", "18191:80")] {
        let words = [
            "run",
            "--detach",
            "--name",
            "{}",
            "--publish",
            port,
            IMAGE,
            "sh",
            "-c",
            script,
        ];
        let said = said(&words, name);
        assert_eq!(said.code, Some(0), "{said:?}");
    }
    until("they do not begin", || {
        ["crun", "koya"]
            .iter()
            .all(|name| said(&["logs", "{}"], name).out == "begun\n")
    });
    let heard = |port: &str| {
        let url = format!("http://127.0.0.1:{port}/passwd");
        succeed(Command::new("curl").args(["--silent", "--max-time", "30", &url]))
    };
    assert_eq!(heard("18191"), heard("18190"));
    both(&["exec", "--user", "web", "{}", "sh", "-c", "id; pwd; exit 5"]);
    both(&["exec", "--tty", "{}", "sh", "-c", "test -t 1 && echo yes"]);
    let typed = "typed\n".repeat(5000);
    let koya = &him.runtimes()[1];
    let sum = fed(
        &mut him.podman(koya, &["exec", "-i", "koya", "sha256sum"]),
        typed.as_bytes(),
    );
    assert_eq!(
        sum.out,
        format!("{}  -\n", crate::support::sha256(typed.as_bytes()))
    );
    both(&["stop", "{}"]);
    both(&["logs", "{}"]);
    let ended = both(&[
        "inspect",
        "--format",
        "{{.State.Status}} {{.State.ExitCode}}",
        "{}",
    ]);
    assert_eq!(ended.out, "exited 9\n");
    both(&["start", "{}"]);
    assert_eq!(heard("18191"), heard("18190"));
    both(&["kill", "{}"]);
    both(&["wait", "{}"]);
    both(&["rm", "--force", "{}"]);
    until("something is left of the containers", || him.has_nothing_left());
}
