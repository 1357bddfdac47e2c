//! Hosts for tests: a folder with the files that a host of some kind has.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use koya_sandbox::state::new_id;

use super::host::Host;

/// A folder that goes when this is dropped.
pub struct Fake(PathBuf);

impl Fake {
    pub fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("koya-doctor-{}", new_id().unwrap()));
        fs::create_dir(&folder).unwrap();
        Self(folder)
    }

    /// With a file more.
    pub fn with(self, path: &str, text: &str) -> Self {
        let path = self.0.join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    /// With a program more, a script that prints `said`.
    pub fn with_program(self, path: &str, said: &str) -> Self {
        let source = format!("{path}.sh");
        let fake = self.with(&source, &format!("#!/bin/sh\ncat <<'END'\n{said}\nEND\n"));
        // Had this process written it, a child of another test could have it open for writing yet, and it could not run.
        let mut install = Command::new("install");
        install
            .arg("-m755")
            .args([&source, path].map(|path| fake.host().path(path)));
        assert!(install.status().unwrap().success());
        fake
    }

    /// With the modules of a kernel, as a distribution installs them.
    pub fn with_modules(self, builtin: &[&str], loadable: &[&str]) -> Self {
        let lines = |modules: &[&str], end: &str| -> String {
            let line = |name: &&str| format!("kernel/net/{name}{end}\n");
            modules.iter().map(line).collect()
        };
        self.with("/proc/sys/kernel/osrelease", "6.12.1-amd64\n")
            .with(
                "/lib/modules/6.12.1-amd64/modules.builtin",
                &lines(builtin, ".ko"),
            )
            .with(
                "/lib/modules/6.12.1-amd64/modules.dep",
                &lines(loadable, ".ko.xz: kernel/net/other.ko.xz"),
            )
    }

    /// Seen by root, with nothing kept yet.
    pub fn host(&self) -> Host {
        Host {
            root: self.0.clone(),
            user: 0,
            home: Some(self.0.join("home")),
            netavark: None,
        }
    }

    /// The same, seen by somebody else.
    pub fn host_of_user(&self) -> Host {
        Host {
            user: 1000,
            ..self.host()
        }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
