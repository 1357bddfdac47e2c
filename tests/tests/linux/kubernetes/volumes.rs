//! Volumes as a kubelet makes them, on the node and for each container.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::sandbox::{Sandbox, container};
use crate::support::{run, succeed, until};

/// A volume's group (`fsGroup`), and the user of the container that has it.
const GROUP: u32 = 2000;
const USER: u32 = 1000;
/// Serves a volume where nobody but the pod reaches it.
const SERVER: &str = "httpd -p 127.0.0.1:8000 -h /empty; exec sleep 100000";

/// The volumes of a pod.
pub struct Volumes {
    folder: PathBuf,
}

impl Volumes {
    pub fn make(pod: &Sandbox<'_>) -> Self {
        let folder = pod.folder.join("volumes");
        let volumes = Self { folder };
        for name in [
            "config",
            "secret",
            "data/part",
            "sub/folder",
            "empty",
            "memory",
            "grouped",
        ] {
            fs::create_dir_all(volumes.at(name)).unwrap();
        }
        volumes.project("config", 1, "blue\n");
        for name in ["secret", "memory"] {
            succeed(
                Command::new("mount")
                    .args(["-t", "tmpfs", "tmpfs"])
                    .arg(volumes.at(name)),
            );
        }
        volumes.project("secret", 1, "hidden\n");
        fs::write(volumes.at("data/part/inner"), "inner\n").unwrap();
        fs::write(volumes.at("data/single"), "single\n").unwrap();
        fs::write(volumes.at("sub/file"), "").unwrap();
        // subPath: what is mounted is itself a mount, of a part of the volume.
        for (part, on) in [("data/part", "sub/folder"), ("data/single", "sub/file")] {
            succeed(
                Command::new("mount")
                    .arg("--bind")
                    .arg(volumes.at(part))
                    .arg(volumes.at(on)),
            );
        }
        chown(volumes.at("grouped"), Some(0), Some(GROUP)).unwrap();
        fs::set_permissions(volumes.at("grouped"), fs::Permissions::from_mode(0o2770)).unwrap();
        for name in ["empty", "memory"] {
            fs::set_permissions(volumes.at(name), fs::Permissions::from_mode(0o777)).unwrap();
        }
        volumes
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Puts a ConfigMap or a Secret of one key into a volume, or a newer one in the place of that: `key` is a link to
    /// `..data/key`, and `..data` one to the folder that holds all of one version.
    fn project(&self, name: &str, version: u32, value: &str) {
        let at = |part: &str| self.at(name).join(part);
        let folder = format!("..version_{version}");
        fs::create_dir(at(&folder)).unwrap();
        fs::write(at(&folder).join("key"), value).unwrap();
        symlink(&folder, at("..data_tmp")).unwrap();
        let old = fs::read_link(at("..data"));
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
        match old {
            Ok(old) => fs::remove_dir_all(self.at(name).join(old)).unwrap(),
            Err(_) => symlink("..data/key", at("key")).unwrap(),
        }
    }

    fn mounts(&self) -> Value {
        let mount = |at: &str, name: &str, readonly: bool| json!({ "container_path": at, "host_path": self.at(name), "readonly": readonly });
        json!([
            mount("/etc/config", "config", true),
            mount("/etc/secret", "secret", true),
            mount("/sub", "sub/folder", false),
            mount("/etc/single.conf", "sub/file", true),
            mount("/empty", "empty", false),
            mount("/memory", "memory", false),
            mount("/grouped", "grouped", false),
            mount("/tools", "../tools", true),
        ])
    }

    /// A container of an ordinary user that has the volume's group, and one of another user that does not.
    pub fn are_seen_by(&self, pod: &Sandbox<'_>) -> String {
        tools(&pod.folder.join("tools"));
        let begin = |name: &str, script: &str, user: u32, groups: Value| {
            let mut config = container(name, script);
            config["mounts"] = self.mounts();
            let context = &mut config["linux"]["security_context"];
            context["run_as_user"] = json!({ "value": user });
            context["run_as_group"] = json!({ "value": user });
            context["supplemental_groups"] = groups;
            pod.begin(&config)
        };
        let one = begin("volumes", SERVER, USER, json!([GROUP]));
        let other = begin("others", "exec sleep 100000", USER + 1, json!([]));
        let said = |script: &str| pod.said(&one, script);

        assert_eq!(said("cat /etc/config/key /etc/secret/key"), "blue\nhidden\n");
        assert_eq!(said("grep -c ' /etc/secret .*ro,' /proc/mounts"), "1\n");
        assert_eq!(said("cat /sub/inner /etc/single.conf"), "inner\nsingle\n");
        // What is beside the part is not there.
        assert_eq!(
            said("ls -A /sub; ls -A /sub/.. | grep -c -E 'data|single' || true"),
            "inner\n0\n"
        );
        said("echo kept > /empty/note; echo short > /memory/note");
        assert_eq!(pod.said(&other, "cat /empty/note /memory/note"), "kept\nshort\n");
        for name in ["empty", "memory"] {
            assert!(fs::exists(self.at(name).join("note")).unwrap(), "{name}");
        }
        self.has_a_group(pod, [&one, &other]);
        self.are_updated(&said);
        // Not a volume, but theirs as well: shared memory of System V.
        let linker = "/tools/ld.so --library-path /tools /tools/ipcmk";
        let made = said(&format!("{linker} --shmem 4096 --mode 0600"));
        let id = made.split_whitespace().last().unwrap();
        let seen = pod.said(&other, "cat /proc/sysvipc/shm");
        assert!(
            seen.lines()
                .skip(1)
                .any(|line| line.split_whitespace().nth(1) == Some(id)),
            "{made}: {seen}"
        );
        one
    }

    /// Who has the volume's group may write, and what is made there has it.
    fn has_a_group(&self, pod: &Sandbox<'_>, [one, other]: [&str; 2]) {
        assert_eq!(pod.said(one, "id -u; id -G"), format!("{USER}\n{USER} {GROUP}\n"));
        pod.said(one, "echo mine > /grouped/file");
        let made = fs::metadata(self.at("grouped/file")).unwrap();
        assert_eq!((made.uid(), made.gid()), (USER, GROUP));
        assert_eq!(
            pod.said(other, "ls /grouped 2> /dev/null || echo refused"),
            "refused\n"
        );
    }

    /// A new version is seen in one go, also of a volume in memory.
    fn are_updated(&self, said: &dyn Fn(&str) -> String) {
        for name in ["config", "secret"] {
            self.project(name, 2, "new\n");
            until("an update is not seen", || {
                said(&format!("cat /etc/{name}/key")) == "new\n"
            });
            assert_eq!(said(&format!("ls -A /etc/{name}")), "..data\n..version_2\nkey\n");
        }
    }

    /// As a kubelet does when the pod is gone: nobody may hold them.
    pub fn end(self) {
        for name in ["sub/folder", "sub/file", "secret", "memory"] {
            succeed(Command::new("umount").arg(self.at(name)));
        }
    }
}

/// A program of the host that makes shared memory, and what it takes to run it.
fn tools(folder: &Path) {
    fs::create_dir(folder).unwrap();
    for line in run("ldd /usr/bin/ipcmk").lines() {
        let path = line.split_whitespace().find(|word| word.starts_with('/'));
        let Some(path) = path else { continue };
        let name = Path::new(path).file_name().unwrap();
        let name = if path.contains("ld-linux") {
            "ld.so".as_ref()
        } else {
            name
        };
        fs::copy(path, folder.join(name)).unwrap();
    }
    fs::copy("/usr/bin/ipcmk", folder.join("ipcmk")).unwrap();
}
