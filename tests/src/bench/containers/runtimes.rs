//! The three container runtimes, behind the same four verbs.

use std::ffi::OsString;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use koya_proto::RPC_SOCKET;
use koya_proto::client::{AgentClient, ClientError, ProcessId, connect};
use koya_proto::v1::{CreateRequest, ExecRequest, RootFilesystem, root_filesystem};
use koya_sandbox::container::{ContainerSpec, ProcessSpec};
use serde_json::{Value, json};

use super::tree::{AGENT, BUNDLE_ROOT, PROGRAMS};
use super::{Subject, command};
use crate::bench::BenchError;
use crate::bench::process::Process;

/// How long one step may take, where everything is emulated.
const LIMIT: Duration = Duration::from_secs(60);
/// A folder in memory of the guest.
const FOLDER: &str = "/run/bench";

/// What makes containers.
pub(super) enum Runtime {
    /// The agent, over its socket.
    Agent(AgentClient, Process),
    /// crun or runc.
    Program(Subject, PathBuf),
}

/// The configuration that `koya run` gives a container of these words.
fn config(words: &[&str]) -> Value {
    let spec = ContainerSpec {
        process: process(words),
        hostname: "room".into(),
        ..ContainerSpec::default()
    };
    let mut config = spec.to_json();
    if let Some(root) = config.get_mut("root") {
        *root = json!({ "path": BUNDLE_ROOT });
    }
    config
}

fn process(words: &[&str]) -> ProcessSpec {
    ProcessSpec {
        args: words.iter().map(|word| (*word).to_owned()).collect(),
        env: vec!["PATH=/bin".into()],
        cwd: "/".into(),
        ..ProcessSpec::default()
    }
}

impl Runtime {
    /// Starts the agent as a program of this guest.
    pub fn agent() -> Result<Self, BenchError> {
        let folder = Path::new(FOLDER).join("agent");
        let path = folder.to_string_lossy().into_owned();
        let argv = command(Path::new(AGENT), ["--listen-unix", &path]);
        let mut agent = Process::spawn(&argv, &Path::new(FOLDER).join("agent.errors"))?;
        agent.line("koya-agent: ready", LIMIT)?;
        let socket = folder.join(RPC_SOCKET);
        let stream = UnixStream::connect(&socket).map_err(BenchError::path("connect to", socket))?;
        Ok(Self::Agent(connect(stream).map_err(refused)?, agent))
    }

    /// crun and runc.
    pub fn programs() -> [Self; 2] {
        let [crun, runc] = PROGRAMS.map(PathBuf::from);
        [
            Self::Program(Subject::Crun, crun),
            Self::Program(Subject::Runc, runc),
        ]
    }

    /// Whose column it is.
    pub fn subject(&self) -> Subject {
        match self {
            Self::Agent(..) => Subject::KOYA,
            Self::Program(subject, _) => *subject,
        }
    }

    /// The resident memory of the agent, in MB; of programs that end, none.
    pub fn resident(&self) -> Option<f64> {
        let Self::Agent(_, process) = self else {
            return None;
        };
        let status = fs::read_to_string(format!("/proc/{}/status", process.pid())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kib: f64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
        Some(kib * 1024.0 / 1e6)
    }

    /// Creates a container of these words.
    pub fn create(&self, id: &str, words: &[&str]) -> Result<Created, BenchError> {
        let mut config = config(words);
        match self {
            Self::Agent(client, _) => {
                let source = Some(root_filesystem::Source::Folder(BUNDLE_ROOT.to_owned()));
                let root = RootFilesystem {
                    source,
                    ..Default::default()
                };
                let request = CreateRequest {
                    id: id.to_owned(),
                    root: Some(root).into(),
                    config: config.to_string().into_bytes(),
                    ..Default::default()
                };
                Ok(Created::Request(Box::new(request), client.clone()))
            }
            Self::Program(..) => {
                // Debian's crun refuses versions that are younger than itself.
                if let Some(version) = config.get_mut("ociVersion") {
                    *version = "1.0.2".into();
                }
                if let Some(linux) = config.get_mut("linux").and_then(Value::as_object_mut) {
                    linux.insert("cgroupsPath".into(), format!("/{}/{id}", self.name()).into());
                }
                let bundle = Path::new(FOLDER).join(id);
                fs::create_dir_all(&bundle).map_err(BenchError::path("make", &bundle))?;
                let file = bundle.join("config.json");
                fs::write(&file, config.to_string()).map_err(BenchError::path("write", &file))?;
                let (bundle, pid) = (bundle.to_string_lossy().into_owned(), bundle.join("pid"));
                let pid_file = pid.to_string_lossy().into_owned();
                let argv = self.argv(["create", "--bundle", &bundle, "--pid-file", &pid_file, id]);
                Ok(Created::Command(argv, pid))
            }
        }
    }

    /// Starts the first process of a container.
    pub fn start(&self, id: &str) -> Result<(), BenchError> {
        match self {
            Self::Agent(client, _) => client.start(id).map_err(refused),
            Self::Program(..) => finish(&self.argv(["start", id])),
        }
    }

    /// Waits for the end of the first process.
    pub fn await_end(&self, id: &str, pid: libc::pid_t) -> Result<(), BenchError> {
        match self {
            Self::Agent(client, _) => client.wait(&id.into(), Some(LIMIT)).map(drop).map_err(refused),
            Self::Program(..) => reap(pid),
        }
    }

    /// Removes a container, with `force` a running one.
    pub fn delete(&self, id: &str, force: bool) -> Result<(), BenchError> {
        match self {
            Self::Agent(client, _) => client.delete(id, force).map_err(refused),
            Self::Program(..) if force => finish(&self.argv(["delete", "--force", id])),
            Self::Program(..) => finish(&self.argv(["delete", id])),
        }
    }

    /// What runs these words in a container.
    pub fn exec(&self, id: &str, name: &str, words: &[&str]) -> Result<Exec, BenchError> {
        let process = process(words).to_json().to_string();
        match self {
            Self::Agent(client, _) => {
                let request = ExecRequest {
                    id: id.to_owned(),
                    exec_id: name.to_owned(),
                    process: process.into_bytes(),
                    ..Default::default()
                };
                Ok(Exec::Request(Box::new(request), client.clone()))
            }
            Self::Program(..) => {
                let file = Path::new(FOLDER).join("process.json");
                fs::write(&file, process).map_err(BenchError::path("write", &file))?;
                Ok(Exec::Command(self.argv([
                    "exec",
                    "--process",
                    &file.to_string_lossy(),
                    id,
                ])))
            }
        }
    }

    fn name(&self) -> &'static str {
        self.subject().label()
    }

    fn argv<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Vec<OsString> {
        let program = match self {
            Self::Agent(..) => Path::new(AGENT),
            Self::Program(_, program) => program,
        };
        let root = format!("--root={FOLDER}/{}", self.name());
        let mut argv = command(program, [root.as_str()]);
        argv.extend(words.into_iter().map(OsString::from));
        argv
    }
}

/// A container that is ready to be created, so that the clock need not wait for its files.
pub(super) enum Created {
    /// A call to the agent.
    Request(Box<CreateRequest>, AgentClient),
    /// A program to run, and where it writes the container's process id.
    Command(Vec<OsString>, PathBuf),
}

impl Created {
    /// Does it; the pid of the container's first process.
    pub fn run(self) -> Result<libc::pid_t, BenchError> {
        match self {
            Self::Request(request, client) => client.create(*request).map(u32::cast_signed).map_err(refused),
            Self::Command(argv, pid) => {
                finish(&argv)?;
                let text = fs::read_to_string(&pid).map_err(BenchError::path("read", &pid))?;
                text.trim().parse().map_err(|_| BenchError::Output {
                    expected: "a process id",
                    found: text,
                })
            }
        }
    }
}

/// A process that is ready to be started.
pub(super) enum Exec {
    /// A call to the agent.
    Request(Box<ExecRequest>, AgentClient),
    /// A program to run.
    Command(Vec<OsString>),
}

impl Exec {
    /// Runs it to its end.
    pub fn run(self) -> Result<(), BenchError> {
        match self {
            Self::Request(request, client) => {
                let id = ProcessId::exec(&request.id, &request.exec_id);
                client.exec(*request).map_err(refused)?;
                client.wait(&id, Some(LIMIT)).map(drop).map_err(refused)
            }
            Self::Command(argv) => finish(&argv),
        }
    }
}

/// Runs a program to its good end.
fn finish(argv: &[OsString]) -> Result<(), BenchError> {
    let mut process = Process::spawn(argv, &Path::new(FOLDER).join("errors"))?;
    match process.exit(LIMIT)?.0 {
        0 => Ok(()),
        _ => {
            let words: Vec<_> = argv.iter().map(|word| word.to_string_lossy()).collect();
            Err(process.early_exit(&words.join(" ")))
        }
    }
}

/// Makes this process the parent of those whose own has gone, as a runtime's containers, and makes its folder.
pub(super) fn prepare() -> Result<(), BenchError> {
    fs::create_dir_all(FOLDER).map_err(BenchError::path("make", FOLDER))?;
    // SAFETY: the call takes numbers only.
    match unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) } {
        0 => Ok(()),
        _ => Err(BenchError::host("become a subreaper")(
            std::io::Error::last_os_error(),
        )),
    }
}

fn reap(pid: libc::pid_t) -> Result<(), BenchError> {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    match unsafe { libc::waitpid(pid, &raw mut status, 0) } {
        reaped if reaped == pid => Ok(()),
        _ => Err(BenchError::host("wait for a container")(
            std::io::Error::last_os_error(),
        )),
    }
}

fn refused(error: ClientError) -> BenchError {
    BenchError::Agent(Box::new(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_names_the_bundles_root_and_the_program() {
        let config = config(&["true"]);
        assert_eq!(config["root"]["path"], BUNDLE_ROOT);
        assert_eq!(config["process"]["args"], json!(["true"]));
        assert!(config["linux"]["seccomp"].is_object());
    }
}
