//! Debian's docker-registry, and images pushed to it by skopeo.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::folder::Folder;

pub struct Registry {
    child: Child,
    pub folder: Folder,
    pub address: String,
}

impl Registry {
    pub fn start() -> Self {
        Self::with("", "")
    }

    /// `http` and `auth` are parts of its config file, indented as they must be there; `FOLDER` is its folder.
    pub fn with(http: &str, auth: &str) -> Self {
        let (folder, port) = (Folder::new(), free_port());
        let shown = folder.path().display().to_string();
        let config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {shown}/data\nhttp:\n  \
             addr: 127.0.0.1:{port}\n{}{}",
            http.replace("FOLDER", &shown),
            auth.replace("FOLDER", &shown)
        );
        let config = folder.file("config.yml", config.as_bytes());
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry, which resources/install-packages installs");
        Self {
            child,
            folder,
            address: format!("127.0.0.1:{port}"),
        }
    }

    /// Waits until it listens.
    pub fn ready(self) -> Self {
        let begun = Instant::now();
        while TcpStream::connect(&self.address).is_err() {
            assert!(
                begun.elapsed() < Duration::from_secs(30),
                "docker-registry does not listen"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        self
    }

    /// Pushes an OCI layout by skopeo.
    pub fn push(&self, layout: &Path, name: &str, arguments: &[&str]) {
        let target = format!("docker://{}/{name}", self.address);
        let pushed = Command::new("skopeo")
            .args(["copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false"])
            .args(arguments)
            .arg(format!("oci:{}", layout.display()))
            .arg(target)
            .output()
            .expect("skopeo, which resources/install-packages installs");
        assert!(
            pushed.status.success(),
            "{}",
            String::from_utf8_lossy(&pushed.stderr)
        );
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}
