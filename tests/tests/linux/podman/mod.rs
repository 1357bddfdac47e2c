//! podman with `koya-runtime` in the place of crun: the same command lines, the same output, the same exit codes.
//!
//! What a kernel of one's own makes different is in `docs/podman-differences.md`.

mod bundle;
mod crash;
mod disks;
mod engine;
mod host;
mod kvm;
mod life;
mod lines;
mod networks;
mod options;
mod pods;
mod rootless;
mod rootless_pods;
mod run;
mod scope;
mod setup;
mod systemd;
mod terminal;
mod turns;
mod userns;
mod workloads;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use koya_tests::vm::Scratch;

use crate::support::{Said, install_runtime, pids_of, succeed, until};

/// The image that every test uses.
const IMAGE: &str = "busybox";

/// A user of podman with storage of his own, and an image in it.
struct Podman {
    home: Scratch,
}

impl Podman {
    fn new() -> Self {
        let user = Self { home: Scratch::new() };
        for folder in ["bin", "net"] {
            fs::create_dir(user.home.path(folder)).unwrap();
        }
        install_runtime(&user.home.path("bin"));
        let net = user.home.path("net");
        let settings = format!(
            "[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n\
             [network]\nnetwork_backend = \"netavark\"\nnetwork_config_dir = {net:?}\n\
             [containers]\nlog_driver = \"k8s-file\"\n"
        );
        fs::write(user.home.path("containers.conf"), settings).unwrap();
        user.make_root();
        let tar = user.home.path("image.tar");
        succeed(
            Command::new("tar")
                .arg("-C")
                .arg(user.root())
                .arg("-cf")
                .arg(&tar)
                .arg("."),
        );
        let tar = tar.to_str().unwrap();
        let imported = user
            .podman("crun", &["import", "--quiet", tar, IMAGE])
            .output()
            .unwrap();
        assert!(imported.status.success(), "{:?}", Said::of(&imported));
        user
    }

    /// Busybox with a few files of its own.
    fn make_root(&self) {
        let root = self.root();
        for folder in ["bin", "etc", "tmp", "proc", "sys", "dev", "root", "run"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        let applets = "sh cat echo id ls sleep hostname stty tty touch wc seq head true kill mount grep pwd env httpd ip \
                       wget printf test mkdir stat df ulimit ps dd sha256sum nproc uname \
                       tr readlink chown chmod ln rm mv cp rmdir chroot";
        for applet in applets.split_whitespace() {
            symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
        let users = "root:x:0:0::/root:/bin/sh\nweb:x:1000:1000::/:/bin/sh\n";
        fs::write(root.join("etc/passwd"), users).unwrap();
        fs::write(root.join("etc/group"), "root:x:0:\nweb:x:1000:\n").unwrap();
        fs::write(root.join("bin/text"), "no program\n").unwrap();
        fs::write(root.join("bin/well"), "#!/bin/sh\ntest -f /tmp/well\n").unwrap();
        fs::set_permissions(root.join("bin/well"), fs::Permissions::from_mode(0o755)).unwrap();
        // As in images with systemd: engines mount their file at a link to one that is not there.
        symlink(
            "../run/systemd/resolve/stub-resolv.conf",
            root.join("etc/resolv.conf"),
        )
        .unwrap();
    }

    fn root(&self) -> PathBuf {
        self.home.path("root")
    }

    fn runtime(&self) -> PathBuf {
        self.home.path("bin").join("koya-runtime")
    }

    /// `podman` with a runtime.
    fn podman(&self, runtime: &str, words: &[&str]) -> Command {
        let mut command = Command::new("podman");
        for (option, folder) in [
            ("--root", "store"),
            ("--runroot", "runroot"),
            ("--tmpdir", "tmpdir"),
        ] {
            command.arg(option).arg(self.home.path(folder));
        }
        command
            .args(["--storage-driver", "overlay", "--runtime", runtime])
            .args(words)
            .env("CONTAINERS_CONF", self.home.path("containers.conf"))
            .stdin(Stdio::null());
        command
    }

    /// What a command line says with a runtime, to its end.
    fn said(&self, runtime: &str, words: &[&str]) -> Said {
        Said::of(&self.podman(runtime, words).output().unwrap())
    }

    /// The runtimes to compare.
    fn both(&self) -> [String; 2] {
        ["crun".to_owned(), self.runtime().to_str().unwrap().to_owned()]
    }

    /// Runs a command line with both runtimes, which have to say the same; what they said.
    fn same(&self, words: &[&str]) -> Said {
        let [crun, koya] = self.both().map(|runtime| self.said(&runtime, words));
        assert_eq!(koya, crun, "koya-runtime and crun: podman {}", words.join(" "));
        koya
    }

    /// The same for command lines about containers that are named after their runtimes: `{}` is that name.
    fn same_of(&self, words: &[&str]) -> Said {
        let [crun, koya] = self.answers_of(words);
        assert_eq!(koya, crun, "koya-runtime and crun: podman {}", words.join(" "));
        koya
    }

    /// What both runtimes answer to such a command line, without names and numbers that are different by nature.
    fn answers_of(&self, words: &[&str]) -> [Said; 2] {
        [("crun", 0), ("koya", 1)].map(|(name, index)| {
            let words: Vec<_> = words.iter().map(|word| word.replace("{}", name)).collect();
            let words: Vec<_> = words.iter().map(String::as_str).collect();
            let mut said = self.said(&self.both()[index], &words);
            for text in [&mut said.out, &mut said.errors] {
                *text = without_ids(
                    &text
                        .replace(self.both()[index].as_str(), "{}")
                        .replace(self.home.path("").to_str().unwrap(), "HOME/")
                        .replace(name, "{}"),
                );
            }
            said
        })
    }

    /// What a command line says with koya, which has to succeed.
    fn koya(&self, words: &[&str]) -> String {
        let said = self.said(&self.both()[1], words);
        assert_eq!(said.code, Some(0), "podman {}: {}", words.join(" "), said.errors);
        said.out
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        for runtime in self.both() {
            let _ = self
                .podman(&runtime, &["rm", "--all", "--force", "--time", "0"])
                .output();
        }
    }
}

/// A text whose ids of containers and images are all the same.
fn without_ids(text: &str) -> String {
    let is_id = |word: &str| word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let words = text.split_inclusive(|letter: char| !letter.is_ascii_alphanumeric());
    let words = words.map(|word| {
        let name = word.trim_end_matches(|letter: char| !letter.is_ascii_alphanumeric());
        match is_id(name) {
            true => word.replace(name, "ID"),
            false => word.to_owned(),
        }
    });
    words.collect()
}

/// Whether nothing of any container is left but what podman keeps.
pub fn is_nothing_left() -> bool {
    let names = ["koya-vmm", "koya-monitor", "koya-container", "virtiofsd"];
    let folder = fs::read_dir("/run/koya-runtime").into_iter().flatten().flatten();
    let states = folder.filter(|entry| !entry.file_name().to_string_lossy().starts_with(".parts"));
    names.iter().all(|name| pids_of(name).is_empty()) && states.count() == 0
}
