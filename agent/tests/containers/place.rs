//! An agent of the test's own, and what its containers are made of.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use koya_proto::client::{AgentClient, ProcessId, connect};
use koya_proto::stream::{Token, open};
use koya_proto::v1::{self, CreateRequest, ExecRequest, RootFilesystem};
use koya_proto::{RPC_SOCKET, STREAM_SOCKET};
use serde_json::{Value, json};

/// Long for anything here, even on an emulated processor.
pub const LONG: Duration = Duration::from_secs(60);

/// A running agent, ended and checked for leftovers when dropped.
pub struct Place {
    agent: Child,
    folder: PathBuf,
    pub client: AgentClient,
    pub root: String,
}

static NUMBER: AtomicU32 = AtomicU32::new(0);

impl Place {
    pub fn new() -> Self {
        Self::on(root_folder())
    }

    /// With a root folder for containers that have user namespaces.
    pub fn mapped() -> Self {
        Self::on(mapped_root())
    }

    fn on(root: &str) -> Self {
        assert!(
            Path::new("/sys/fs/cgroup/cgroup.controllers").exists(),
            "these tests need a cgroup v2 tree at /sys/fs/cgroup; run them in tests/host/kvm-host"
        );
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("koya-agent-{}-{number}", std::process::id()));
        let mut agent = Command::new(env!("CARGO_BIN_EXE_koya-agent"))
            .arg("--listen-unix")
            .arg(&folder)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(agent.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert!(line.starts_with("koya-agent: ready"), "{line:?}");
        let client = connect(UnixStream::connect(folder.join(RPC_SOCKET)).unwrap())
            .unwrap()
            .with_deadline(LONG);
        Self {
            agent,
            folder,
            client,
            root: root.to_owned(),
        }
    }

    pub fn cgroup(&self, id: &str) -> PathBuf {
        Path::new("/sys/fs/cgroup")
            .join(format!("koya-{}", self.agent.id()))
            .join(id)
    }

    pub fn agent_pid(&self) -> u32 {
        self.agent.id()
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Another connection, without handshake.
    pub fn socket(&self) -> UnixStream {
        UnixStream::connect(self.folder.join(RPC_SOCKET)).unwrap()
    }

    pub fn stream(&self, token: Token) -> UnixStream {
        let stream = UnixStream::connect(self.folder.join(STREAM_SOCKET)).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        open(&stream, token).unwrap();
        stream
    }

    pub fn request(&self, id: &str, config: &Value) -> CreateRequest {
        let source = Some(v1::root_filesystem::Source::Folder(self.root.clone()));
        CreateRequest {
            id: id.to_owned(),
            root: Some(RootFilesystem {
                source,
                ..Default::default()
            })
            .into(),
            config: config.to_string().into_bytes(),
            ..Default::default()
        }
    }

    /// A container that sleeps until it is killed.
    pub fn sleeper(&self, id: &str) {
        self.client
            .create(self.request(id, &config(&["sleep", "1000"])))
            .unwrap();
        self.client.start(id).unwrap();
    }

    /// Runs a container to its end; answers its exit code and its output.
    pub fn run(&self, id: &str, config: &Value) -> (u32, String) {
        let mut request = self.request(id, config);
        let (stdio, out) = output();
        request.stdio = Some(stdio).into();
        self.client.create(request).unwrap();
        let mut stream = self.stream(out);
        self.client.start(id).unwrap();
        let exit = self.client.wait(&id.into(), Some(LONG)).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        self.client.delete(id, false).unwrap();
        (exit.code, text)
    }

    /// Runs a process in a container to its end.
    pub fn exec(&self, id: &str, name: &str, process: &Value, input: &[u8]) -> (u32, Vec<u8>) {
        let (mut stdio, out) = output();
        let stdin = Token::random().unwrap();
        stdio.stdin = stdin.to_field();
        self.client.exec(exec_request(id, name, process, stdio)).unwrap();
        let (mut sending, mut receiving) = (self.stream(stdin), self.stream(out));
        let input = input.to_vec();
        let sender = std::thread::spawn(move || {
            // A process that ends without reading breaks this off.
            let _ = sending.write_all(&input);
        });
        let mut bytes = Vec::new();
        receiving.read_to_end(&mut bytes).unwrap();
        sender.join().unwrap();
        let exit = self.client.wait(&ProcessId::exec(id, name), Some(LONG)).unwrap();
        (exit.code, bytes)
    }

    /// Ends the agent as an operator would, and waits for it.
    pub fn end(&mut self) {
        let pid = self.agent.id().to_string();
        Command::new("kill").arg(pid).status().unwrap();
        let deadline = Instant::now() + LONG;
        while self.agent.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "the agent does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Nothing of a container is left anywhere.
    pub fn assert_gone(&self, id: &str) {
        self.assert_no_folder(id);
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let folder = self.folder.to_str().unwrap();
        assert!(!mounts.contains(folder), "mounts below {folder}:\n{mounts}");
    }

    /// No cgroup or folder has this container's name; others may be there.
    pub fn assert_no_folder(&self, id: &str) {
        assert!(!self.cgroup(id).exists(), "cgroup of {id}");
        assert!(
            !self.folder.join("state/bundles").join(id).exists(),
            "bundle of {id}"
        );
        assert!(
            !self.folder.join("state/runtime").join(id).exists(),
            "runtime state of {id}"
        );
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.agent.kill();
        let _ = self.agent.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Tokens for stdout alone.
pub fn output() -> (v1::Stdio, Token) {
    let token = Token::random().unwrap();
    let stdio = v1::Stdio {
        stdout: token.to_field(),
        ..Default::default()
    };
    (stdio, token)
}

pub fn exec_request(id: &str, name: &str, process: &Value, stdio: v1::Stdio) -> ExecRequest {
    ExecRequest {
        id: id.to_owned(),
        exec_id: name.to_owned(),
        process: process.to_string().into_bytes(),
        stdio: Some(stdio).into(),
        ..Default::default()
    }
}

/// Capabilities as docker's default has them, more or less.
const CAPABILITIES: [&str; 6] = [
    "CAP_CHOWN",
    "CAP_KILL",
    "CAP_SETUID",
    "CAP_SETGID",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
];

pub fn process(arguments: &[&str]) -> Value {
    let all = json!(CAPABILITIES);
    json!({
        "terminal": false,
        "user": { "uid": 0, "gid": 0 },
        "args": arguments,
        "env": ["PATH=/usr/bin:/bin", "COLOUR=red"],
        "cwd": "/",
        "capabilities": { "bounding": all, "effective": all, "permitted": all },
    })
}

pub fn config(arguments: &[&str]) -> Value {
    json!({
        "ociVersion": "1.2.0",
        "process": process(arguments),
        "root": { "path": "rootfs" },
        "hostname": "room",
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
              "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"] },
            { "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"] },
        ],
        "linux": {
            "namespaces": [
                { "type": "pid" }, { "type": "mount" }, { "type": "ipc" },
                { "type": "uts" }, { "type": "network" }, { "type": "cgroup" },
            ],
            "resources": { "pids": { "limit": 64 }, "memory": { "limit": 67108864 } },
        },
    })
}

pub fn shell(script: &str) -> Value {
    config(&["sh", "-c", script])
}

/// busybox with its names, made once for all tests.
fn root_folder() -> &'static str {
    static ROOT: OnceLock<String> = OnceLock::new();
    ROOT.get_or_init(|| make_root("root"))
}

/// First user of the guest that belongs to the container of [`mapped`].
const FIRST_USER: u32 = 100_000;

/// The same, owned by the root of a container with a user namespace.
pub fn mapped_root() -> &'static str {
    static ROOT: OnceLock<String> = OnceLock::new();
    ROOT.get_or_init(|| {
        let root = make_root("mapped-root");
        let owner = format!("{FIRST_USER}:{FIRST_USER}");
        let status = Command::new("chown").args(["-hR", &owner, &root]).status();
        assert!(status.unwrap().success());
        root
    })
}

/// A configuration with a user namespace.
pub fn mapped(mut config: Value) -> Value {
    let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.push(json!({ "type": "user" }));
    let mapping = json!([{ "containerID": 0, "hostID": FIRST_USER, "size": 65_536 }]);
    config["linux"]["uidMappings"] = mapping.clone();
    config["linux"]["gidMappings"] = mapping;
    config
}

fn make_root(name: &str) -> String {
    let root = std::env::temp_dir().join(format!("koya-agent-{name}-{}", std::process::id()));
    for folder in ["bin", "dev", "proc", "sys", "tmp", "etc"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).expect("a static /bin/busybox");
    let install = Command::new("chroot")
        .arg(&root)
        .args(["/bin/busybox", "--install", "-s", "/bin"])
        .status();
    assert!(install.unwrap().success());
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0::/root:/bin/sh\nada:x:1000:1000::/home/ada:/bin/sh\n",
    )
    .unwrap();
    fs::write(
        root.join("etc/group"),
        "root:x:0:\nlog:x:7:ada\nusers:x:100:ada\nada:x:1000:\n",
    )
    .unwrap();
    fs::write(root.join("etc/text"), "not a program\n").unwrap();
    root.to_str().unwrap().to_owned()
}
