//! Images from a registry: Debian's own, with an image that umoci and skopeo make.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use super::{User, exchange, is_empty, told, until};
use crate::support::succeed;

/// A registry, as long as it lives.
pub(super) struct Registry {
    pub(super) port: u16,
    process: Child,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Registry {
    pub(super) fn new(user: &User) -> Self {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let config = user.home.file(
            "registry.yml",
            format!(
                "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n",
                user.home.path("registry").display()
            ),
        );
        let mut command = Command::new("docker-registry");
        command
            .arg("serve")
            .arg(config)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let registry = Self {
            port,
            process: command.spawn().unwrap(),
        };
        let address = format!("127.0.0.1:{port}");
        until("no registry", || {
            exchange(&address, "GET /v2/ HTTP/1.0\r\n\r\n").contains("200 OK")
        });
        registry
    }

    /// Pushes an image whose command says where it comes from.
    pub(super) fn push(&self, user: &User, name: &str) {
        let layout = user.home.path("layout");
        let image = format!("{}:app", layout.display());
        succeed(Command::new("umoci").arg("init").arg("--layout").arg(&layout));
        succeed(Command::new("umoci").args(["new", "--image", &image]));
        let root = user.home.path("root");
        succeed(
            Command::new("umoci")
                .args(["insert", "--image", &image])
                .arg(&root)
                .arg("/"),
        );
        let command = [
            "--config.cmd",
            "/bin/sh",
            "--config.cmd",
            "-c",
            "--config.cmd",
            "echo from $WHERE",
        ];
        succeed(
            Command::new("umoci")
                .args(["config", "--image", &image, "--config.env", "WHERE=registry"])
                .args(command),
        );
        let to = format!("docker://localhost:{}/{name}", self.port);
        succeed(
            Command::new("skopeo")
                .args(["copy", "--insecure-policy", "--dest-tls-verify=false", "--quiet"])
                .arg(format!("oci:{image}"))
                .arg(to),
        );
    }
}

#[test]
fn an_image_is_pulled_when_it_is_missing_and_told_about_when_it_cannot_be() {
    let user = User::new();
    let registry = Registry::new(&user);
    registry.push(&user, "app:1");
    let name = format!("localhost:{}/app:1", registry.port);
    let (out, errors, code) = told(&user.done(&["run", "--rm", "--network", "none", &name]));
    assert_eq!(
        (out.as_str(), errors.as_str(), code),
        ("from registry\n", "", Some(0))
    );
    assert!(user.says(&["images", "--format", "{{.Image}}"]).contains(&name));
    user.says(&["pull", "--quiet", &name]);

    let address = format!("localhost:{}", registry.port);
    let missing = format!("{address}/app:2");
    let line = user.refused(&["run", "--rm", &missing], 125);
    assert!(
        line.contains(&format!("{address} has app, but not 2; it has 1")),
        "{line}"
    );
    let line = user.refused(&["run", "--rm", &format!("{address}/nothing")], 125);
    assert!(
        line.contains(&format!("{address} has no image nothing")),
        "{line}"
    );
    let line = user.refused(&["run", "--rm", "--pull", "never", &missing], 125);
    assert!(line.contains(&format!("no image \"{missing}\" here")), "{line}");
    drop(registry);
    // What is here needs no registry.
    let (out, _, code) = told(&user.done(&["run", "--rm", "--network", "none", &name]));
    assert_eq!((out.as_str(), code), ("from registry\n", Some(0)));
    let line = user.refused(&["pull", &missing], 125);
    assert!(
        line.contains(&format!("{address} cannot be reached")) && line.contains("Connection refused"),
        "{line}"
    );
    assert_eq!(
        user.says(&["images", "--format", "{{.Image}}"]),
        format!("{name}\n")
    );
    assert!(user.has_nothing_left(), "something is left behind");
    // By another name, it is the same; it goes with the last one, and its disk with it.
    user.says(&["tag", &name, "mine"]);
    let line = user.refused(&["tag", "nothing", "mine"], 125);
    assert!(line.contains("no image \"nothing:latest\" here"), "{line}");
    assert_eq!(user.says(&["rmi", &name]), format!("Untagged: {name}\n"));
    assert_eq!(user.says(&["images", "--format", "{{.Image}}"]), "mine:latest\n");
    user.says(&["rmi", "mine"]);
    assert_eq!(user.says(&["images", "--quiet"]), "");
    assert!(is_empty(&user.home.path("home/images/disks")));
}
