//! `koya setup` on hosts that are folders: what it shows, what it changes, and how all of it goes again.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// What engines are told in these tests.
const RUNTIME: &str = "/opt/koya/koya-runtime";
const DOCKER: &str = "/etc/docker/daemon.json";
const PODMAN: &str = "/etc/containers/containers.conf.d/koya.conf";
const CONTAINERD: &str = "/etc/containerd/config.toml";

/// The folder that stands for `/`.
struct Host(PathBuf);

struct Said {
    out: String,
    errors: String,
    code: Option<i32>,
}

impl Host {
    fn new() -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("koya-setup-{}-{number}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let host = Self(folder);
        host.write(RUNTIME, "a program");
        host
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.join(path.trim_start_matches('/'))
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    /// `koya setup` with these words, for this host, without a terminal.
    fn setup(&self, words: &str) -> Said {
        let output = Command::new(env!("CARGO_BIN_EXE_koya"))
            .arg("setup")
            .args(words.split_whitespace())
            .arg("--root")
            .arg(&self.0)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        Said {
            out: String::from_utf8(output.stdout).unwrap(),
            errors: String::from_utf8(output.stderr).unwrap(),
            code: output.status.code(),
        }
    }

    fn does(&self, words: &str) -> String {
        let said = self.setup(words);
        assert_eq!(said.code, Some(0), "{words}: {}{}", said.out, said.errors);
        said.out
    }

    /// Sets an engine up; `words` are its name, and options.
    fn sets_up(&self, words: &str) -> String {
        match words.starts_with("containerd") {
            true => self.does(&format!("{words} --yes")),
            false => self.does(&format!("{words} --yes --runtime {RUNTIME}")),
        }
    }

    /// Refuses something, and leaves the file as it is.
    fn refuses(&self, words: &str, file: &str, wanted: &[&str]) {
        let before = fs::read(self.path(file)).ok();
        let said = self.setup(words);
        assert_eq!(said.code, Some(125), "{words}: {}{}", said.out, said.errors);
        for part in wanted {
            assert!(
                said.errors.contains(part),
                "{words}: {part:?} is not in {}",
                said.errors
            );
        }
        assert_eq!(said.errors.lines().count(), 1, "{}", said.errors);
        assert_eq!(fs::read(self.path(file)).ok(), before, "{words}");
    }

    /// All files, and folders that have none.
    fn everything(&self) -> Vec<PathBuf> {
        fn walk(folder: &Path, all: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(folder).unwrap().flatten() {
                all.push(entry.path());
                if entry.path().is_dir() {
                    walk(&entry.path(), all);
                }
            }
        }
        let mut all = Vec::new();
        walk(&self.0, &mut all);
        all.retain(|path| !path.starts_with(self.path("/var/lib/koya")) && *path != self.path("/var/lib"));
        all.retain(|path| *path != self.path("/var"));
        all.sort();
        all
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn podman_gets_a_file_of_its_own_and_loses_it_again() {
    let host = Host::new();
    host.write("/etc/containers/containers.conf", "# the administrator's\n");
    let before = host.everything();
    let said = host.sets_up("podman");
    let file = "[engine.runtimes]\nkoya = [\"/opt/koya/koya-runtime\"]\n";
    assert_eq!(host.read(PODMAN), file);
    assert!(said.contains("--- /dev/null\n+++ "), "{said}");
    assert!(said.contains("+koya = [\"/opt/koya/koya-runtime\"]\n"), "{said}");
    assert!(said.contains("podman --runtime koya run"), "{said}");
    assert!(host.sets_up("podman").contains("koya.conf: nothing to be done"));

    host.sets_up("podman --default");
    assert!(
        host.read(PODMAN).contains("[engine]\nruntime = \"koya\"\n"),
        "{}",
        host.read(PODMAN)
    );
    // What was not asked for this time stays; undo is how it goes.
    assert!(host.sets_up("podman").contains("nothing to be done"));
    host.does("podman --undo --yes");
    assert_eq!(host.everything(), before);
    assert!(
        host.does("podman --undo --yes")
            .contains("nothing to be taken back")
    );
}

#[test]
fn docker_keeps_its_settings_as_they_are_written() {
    let host = Host::new();
    let before = "{\n    \"log-driver\": \"local\",\n    \"runtimes\": {\n        \"nvidia\": { \"path\": \"nv\" }\n    },\n    \
                  \"default-runtime\": \"nvidia\",\n    \"dns\": [\"1.1.1.1\",   \"9.9.9.9\"]\n}";
    host.write(DOCKER, before);
    fs::set_permissions(host.path(DOCKER), fs::Permissions::from_mode(0o640)).unwrap();
    let said = host.sets_up("docker --default");
    let after = "{\n    \"log-driver\": \"local\",\n    \"runtimes\": {\n        \"nvidia\": { \"path\": \"nv\" },\n        \
                 \"koya\": {\n            \"path\": \"/opt/koya/koya-runtime\"\n        }\n    },\n    \
                 \"default-runtime\": \"koya\",\n    \"dns\": [\"1.1.1.1\",   \"9.9.9.9\"]\n}";
    assert_eq!(host.read(DOCKER), after);
    assert!(
        said.contains("-    \"default-runtime\": \"nvidia\",\n+    \"default-runtime\": \"koya\",\n"),
        "{said}"
    );
    assert!(said.contains("systemctl reload docker"), "{said}");
    assert_eq!(fs::metadata(host.path(DOCKER)).unwrap().mode() & 0o777, 0o640);
    // A copy of it may hold what others are not to read.
    let record = host.path("/var/lib/koya/setup/docker.json");
    assert_eq!(fs::metadata(record).unwrap().mode() & 0o777, 0o600);
    assert!(host.sets_up("docker --default").contains("nothing to be done"));
    host.does("docker --undo --yes");
    assert_eq!(host.read(DOCKER), before);
}

#[test]
fn undo_takes_only_what_still_is_as_it_was_set() {
    let host = Host::new();
    host.write(
        DOCKER,
        "{\n  \"default-runtime\": \"nvidia\",\n  \"debug\": true\n}\n",
    );
    host.sets_up("docker --default");
    // The administrator goes on.
    let edited = host
        .read(DOCKER)
        .replace("true", "false")
        .replace("{\n  \"def", "{\n  \"ipv6\": true,\n  \"def");
    host.write(DOCKER, &edited);
    host.does("docker --undo --yes");
    let wanted = "{\n  \"ipv6\": true,\n  \"default-runtime\": \"nvidia\",\n  \"debug\": false\n}\n";
    assert_eq!(host.read(DOCKER), wanted);

    host.sets_up("docker");
    let edited = host.read(DOCKER).replace(RUNTIME, "/another");
    host.write(DOCKER, &edited);
    let said = host.setup("docker --undo --yes");
    assert_eq!(said.code, Some(0), "{}", said.errors);
    assert!(
        said.errors.contains("changed runtimes.koya.path since"),
        "{}",
        said.errors
    );
    assert_eq!(host.read(DOCKER), edited);
    // What was written by hand is nobody else's.
    assert!(
        host.does("docker --undo --yes")
            .contains("nothing to be taken back")
    );
    assert_eq!(host.read(DOCKER), edited);
}

#[test]
fn what_was_set_in_two_turns_goes_in_one() {
    let host = Host::new();
    host.write(DOCKER, "{ \"debug\": true }\n");
    host.sets_up("docker");
    let edited = host.read(DOCKER).replace("true", "false");
    host.write(DOCKER, &edited);
    host.sets_up("docker --default");
    host.does("docker --undo --yes");
    assert_eq!(host.read(DOCKER), "{ \"debug\": false }\n");
}

#[test]
fn containerd_keeps_comments_and_gets_a_handler() {
    let host = Host::new();
    let before = "version = 2 # not 3 yet\n\n[plugins]\n  # networks\n  [plugins.\"io.containerd.grpc.v1.cri\".cni]\n    \
                  bin_dir = \"/usr/lib/cni\"\n# the end\n";
    host.write(CONTAINERD, before);
    host.write("/usr/local/bin/containerd-shim-koya-v2", "");
    let said = host.setup("containerd --yes");
    assert_eq!((said.code, said.errors.as_str()), (Some(0), ""));
    let after = host.read(CONTAINERD);
    let table = "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.koya]\nruntime_type = \"io.containerd.koya.v2\"\n\
                 privileged_without_host_devices = true\n";
    assert!(after.contains(table), "{after}");
    let said = |text: &str| {
        text.lines()
            .filter(|line| !line.is_empty())
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let kept: Vec<_> = said(&after)
        .into_iter()
        .filter(|line| before.contains(line.as_str()))
        .collect();
    assert_eq!(kept, said(before));
    assert!(host.does("containerd --yes").contains("nothing to be done"));
    // Taken back by the text while it is the same, and by its settings when it is not.
    host.write(CONTAINERD, &after.replace("networks", "our networks"));
    host.does("containerd --undo --yes");
    let left = host.read(CONTAINERD);
    assert!(!left.contains("koya"), "{left}");
    // containerd's own handler stays, as the user's part may need it by now: a list of handlers without it starts no plugin.
    let own = "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\nruntime_type = \"io.containerd.runc.v2\"\n";
    assert!(left.contains(own), "{left}");
    let rest = said(&left.replace(own, ""));
    assert_eq!(rest, said(&before.replace("networks", "our networks")));
}

#[test]
fn containerds_own_handlers_are_left_as_they_are() {
    let host = Host::new();
    for before in [
        "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.crun]\nruntime_type = \"io.containerd.runc.v2\"\n",
        "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd]\ndefault_runtime_name = \"x\"\n",
    ] {
        host.write(CONTAINERD, before);
        host.setup("containerd --yes");
        let after = host.read(CONTAINERD);
        assert!(
            after.contains("io.containerd.koya.v2") && !after.contains("runtimes.runc"),
            "{after}"
        );
        host.does("containerd --undo --yes");
        assert_eq!(host.read(CONTAINERD), before);
    }
}

#[test]
fn containerd_without_a_file_gets_one_and_other_versions_their_words() {
    let host = Host::new();
    let said = host.setup("containerd --yes");
    assert_eq!(said.code, Some(0));
    assert!(
        said.errors.contains("containerd-shim-koya-v2 is in none of"),
        "{}",
        said.errors
    );
    assert!(
        host.read(CONTAINERD).starts_with("version = 2\n"),
        "{}",
        host.read(CONTAINERD)
    );
    host.does("containerd --undo --yes");
    assert!(!host.path("/etc").exists());

    host.write(CONTAINERD, "version = 3\ndisabled_plugins = [\"cri\"]\n");
    let said = host.setup("containerd --yes");
    assert!(said.errors.contains("disabled_plugins"), "{}", said.errors);
    assert!(
        host.read(CONTAINERD)
            .contains("[plugins.\"io.containerd.cri.v1.runtime\".containerd.runtimes.koya]\n")
    );
    host.does("containerd --undo --yes");
    for text in [
        "[plugins.cri]\nx = 1\n",
        "version = 1\n",
        "version = 9\n",
        "version = \"2\"\n",
    ] {
        host.write(CONTAINERD, text);
        host.refuses(
            "containerd --yes",
            CONTAINERD,
            &["\"version\"", "config.toml", "koya knows 2 and 3"],
        );
    }
}

#[test]
fn a_comment_of_somebody_outlives_undo() {
    let host = Host::new();
    host.write(CONTAINERD, "version = 2\n");
    host.sets_up("containerd");
    let edited = host
        .read(CONTAINERD)
        .replace("runtime_type", "# asked for by the web team\nruntime_type");
    host.write(CONTAINERD, &edited);
    let said = host.setup("containerd --undo --yes");
    assert!(
        said.errors.contains("runtime_type, which has a comment"),
        "{}",
        said.errors
    );
    assert!(host.read(CONTAINERD).contains("# asked for by the web team\n"));
}

#[test]
fn malformed_files_are_told_with_their_place_and_left_alone() {
    let host = Host::new();
    let docker = format!("docker --yes --runtime {RUNTIME}");
    for (text, wanted) in [
        (
            "{\n  \"debug\": true,\n}\n",
            &["daemon.json", "line 3, column 1", "trailing comma"][..],
        ),
        ("{ \"runtimes\": [] }", &["\"runtimes\"", "has to be an object"]),
        (
            "{ \"runtimes\": {}, \"runtimes\": {} }",
            &["\"runtimes\" is there twice"],
        ),
        ("", &[]),
    ] {
        host.write(DOCKER, text);
        match wanted {
            [] => assert!(host.does(&docker).contains("+  \"runtimes\": {")),
            wanted => host.refuses(&docker, DOCKER, wanted),
        }
    }
    host.write(CONTAINERD, "version = 2\n[plugins\n");
    host.refuses(
        "containerd --yes",
        CONTAINERD,
        &["config.toml", "line 2, column "],
    );
    host.write(CONTAINERD, "version = 2\nplugins = 1\n");
    host.refuses(
        "containerd --yes",
        CONTAINERD,
        &["\"plugins\"", "has to be a table"],
    );
    fs::write(host.path(CONTAINERD), [0xff, 0xfe]).unwrap();
    host.refuses("containerd --yes", CONTAINERD, &["is not text in UTF-8"]);
    fs::remove_file(host.path(CONTAINERD)).unwrap();
    fs::create_dir(host.path(CONTAINERD)).unwrap();
    let said = host.setup("containerd --yes");
    assert!(said.errors.contains("is no file"), "{}", said.errors);
}

#[test]
fn nothing_is_changed_unless_somebody_agrees() {
    let host = Host::new();
    let before = host.everything();
    let words = format!("podman --runtime {RUNTIME}");
    let said = host.setup(&words);
    assert_eq!(said.code, Some(125), "{}", said.out);
    assert!(said.out.contains("+koya = ["), "{}", said.out);
    assert!(
        said.errors.contains("no terminal to ask on; add --yes"),
        "{}",
        said.errors
    );
    assert!(host.does(&format!("{words} --dry-run")).contains("+koya = ["));
    assert_eq!(host.everything(), before);
    assert!(!host.path("/var").exists());

    host.sets_up("podman");
    assert!(host.does("podman --undo --dry-run").contains("-koya = ["));
    assert_eq!(host.setup("podman --undo").code, Some(125));
    assert!(host.path(PODMAN).exists());
    host.does("podman --undo --yes");
    assert_eq!(host.everything(), before);
}

#[test]
fn on_a_terminal_it_asks() {
    let host = Host::new();
    let answered = |answer: &str| {
        let koya = env!("CARGO_BIN_EXE_koya");
        let line = format!(
            "{koya} setup podman --runtime {RUNTIME} --root {}",
            host.0.display()
        );
        let mut script = Command::new("script")
            .args(["--quiet", "--return", "--command", &line, "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        script.stdin.take().unwrap().write_all(answer.as_bytes()).unwrap();
        let output = script.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains("Change it? [y/N]"), "{said}");
        output.status.code()
    };
    assert_eq!(answered("n\n"), Some(1));
    assert!(!host.path(PODMAN).exists());
    assert_eq!(answered("y\n"), Some(0));
    assert!(host.path(PODMAN).exists());
}

#[test]
fn links_stay_links_and_do_not_lead_out() {
    let host = Host::new();
    host.write("/srv/daemon.json", "{}\n");
    fs::create_dir_all(host.path("/etc/docker")).unwrap();
    symlink("../../srv/daemon.json", host.path(DOCKER)).unwrap();
    host.sets_up("docker");
    assert!(host.path(DOCKER).is_symlink());
    assert!(host.read("/srv/daemon.json").contains("koya-runtime"));

    let outside = Host::new();
    outside.write("/daemon.json", "{}\n");
    fs::remove_file(host.path(DOCKER)).unwrap();
    symlink(outside.path("/daemon.json"), host.path(DOCKER)).unwrap();
    let words = format!("docker --yes --runtime {RUNTIME}");
    host.refuses(&words, DOCKER, &["leads out of the folder given by --root"]);
    assert_eq!(outside.read("/daemon.json"), "{}\n");
}

#[test]
fn a_runtime_has_to_be_there() {
    let host = Host::new();
    host.refuses("docker --yes --runtime koya-runtime", DOCKER, &["is relative"]);
    host.refuses(
        "docker --yes --runtime /opt/none",
        DOCKER,
        &["\"/opt/none\" is no file"],
    );
}

#[test]
fn kubernetes_gets_the_class_of_the_source_tree() {
    let host = Host::new();
    let kubernetes = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_koya"));
        command
            .args(["setup", "kubernetes"])
            .args(words)
            .output()
            .unwrap()
    };
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("../resources/kubernetes/runtimeclass-koya.yaml");
    let manifest = fs::read_to_string(tree).unwrap();
    let printed = kubernetes(&[]);
    assert_eq!(String::from_utf8(printed.stdout).unwrap(), manifest);
    // The page for operators shows it without its comments.
    let is_said = |line: &&str| !line.trim_start().starts_with('#');
    let bare: String = manifest
        .lines()
        .filter(is_said)
        .map(|line| format!("{line}\n"))
        .collect();
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/kubernetes.md");
    assert!(
        fs::read_to_string(page)
            .unwrap()
            .contains(&format!("```yaml\n{bare}```")),
        "{bare}"
    );
    let said = String::from_utf8(printed.stderr).unwrap();
    assert!(said.contains("koya setup containerd"), "{said}");

    let file = host.path("/class.yaml");
    let file = file.to_str().unwrap();
    for _ in 0..2 {
        assert!(kubernetes(&["-o", file]).status.success());
        assert_eq!(host.read("/class.yaml"), manifest);
    }
    host.write("/class.yaml", "mine\n");
    assert_eq!(kubernetes(&["-o", file]).status.code(), Some(125));
    assert_eq!(host.read("/class.yaml"), "mine\n");
}
