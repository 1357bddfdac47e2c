//! The service, with a script in the place of `koya-runtime`.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use ttrpc::{Code, TtrpcContext};

use super::*;
use crate::generated::forward::{ForwardRequest, ForwardResponse};
use crate::generated::forward_ttrpc::{Events, create_events};
use crate::reaper::Reaper;

const PATIENCE: Duration = Duration::from_secs(30);

/// Its containers are shells that wait for a file with their exit code. A process that is added copies its input.
const RUNTIME: &str = r#"#!/bin/sh
while :; do case $1 in --systemd-cgroup) shift;; --*) [ "$1" = --root ] && root=$2; [ "$1" = --log ] && log=$2; shift 2;; *) break;; esac; done
command=$1
for last; do [ "$before" = --pid-file ] && pid_file=$last; before=$last; done
fail() { printf 'broken\n{"level":"error","kind":"%s","msg":"%s"}\n{"level":"warning","msg":"x"}\n' "$1" "$2" >> "$log"; exit 1; }
end() { echo "$1" > "$root/$id.code" && mv "$root/$id.code" "$root/$id/end"; }
id=$last
echo "$*" >> "$root/calls"
case $command in
create)
    [ "$id" = bad ] && fail invalid "config.json: process.args is empty"
    [ "$id" = mute ] && exit 5
    mkdir "$root/$id" || fail exists "container with id '$id' already exists"
    sh -c 'while :; do [ -d "$0" ] || exit 137; [ -e "$0/end" ] && read code < "$0/end" && exit $code; sleep 0.02; done' "$root/$id" &
    echo $! > "$pid_file" ;;
start) [ "$id" = unstartable ] && fail no-program "no program 'nosuch'" ;;
exec) exec 3<&0; sh -c 'cat; exit 4' <&3 3<&- & echo $! > "$pid_file" ;;
kill) id=$(for word; do [ -d "$root/$word" ] && echo "$word"; done); end 137 ;;
delete) rm -rf "$root/$id" ;;
events) echo '{"data":{"pids":{"current":3}}}' ;;
esac
exit 0
"#;

/// One for all tests: it takes every child of the process.
pub fn reaper() -> Arc<Reaper> {
    static REAPER: OnceLock<Arc<Reaper>> = OnceLock::new();
    let start = || {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
        Reaper::start().unwrap()
    };
    Arc::clone(REAPER.get_or_init(start))
}

/// Runs a program to its end; its exit code.
pub fn run(mut command: Command) -> u32 {
    let reaper = reaper();
    let mark = reaper.mark();
    let pid = reaper.spawn(&mut command).unwrap();
    drop(command);
    reaper.wait(pid, mark, PATIENCE).unwrap().status
}

struct Inbox(Mutex<Sender<String>>);

impl Events for Inbox {
    fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<ForwardResponse> {
        let envelope = request.envelope.unwrap();
        assert_eq!(envelope.namespace, "space");
        self.0.lock().unwrap().send(envelope.topic).unwrap();
        Ok(ForwardResponse::default())
    }
}

struct Bench {
    folder: PathBuf,
    tasks: Tasks,
    told: Receiver<String>,
    _server: ttrpc::Server,
}

impl Bench {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("koya-tasks-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let program = folder.join("runtime");
        // While anybody has it open for writing, it cannot be run.
        reaper().undisturbed(|| fs::write(&program, RUNTIME).unwrap());
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let socket = folder.join("events");
        let publisher = Publisher::start(socket.to_str().unwrap(), "space").unwrap();
        let (sender, told) = channel();
        let mut server = ttrpc::Server::new()
            .bind(&format!("unix://{}", socket.display()))
            .unwrap()
            .register_service(create_events(Arc::new(Inbox(Mutex::new(sender)))));
        server.start().unwrap();
        let runtime = Runtime::at(program, folder.clone(), reaper());
        Self {
            tasks: Tasks::new(runtime, publisher),
            folder,
            told,
            _server: server,
        }
    }

    fn create(&self, id: &str) -> Result<u32, TaskError> {
        self.tasks.create(&task::CreateTaskRequest {
            id: id.to_owned(),
            bundle: self.folder.to_str().unwrap().to_owned(),
            ..Default::default()
        })
    }

    fn status(&self, id: &str) -> Status {
        self.tasks.process(id, "").unwrap().seen().status
    }

    fn kill(&self, id: &str) -> Result<(), TaskError> {
        self.tasks.kill(&task::KillRequest {
            id: id.to_owned(),
            signal: 9,
            all: true,
            ..Default::default()
        })
    }

    fn told(&self) -> String {
        self.told.recv_timeout(PATIENCE).unwrap()
    }

    fn calls(&self) -> String {
        fs::read_to_string(self.folder.join("calls")).unwrap()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn code<T>(result: Result<T, TaskError>) -> Code {
    result.map(drop).unwrap_err().code()
}

#[test]
fn a_container_goes_its_way_and_no_other() {
    let bench = Bench::new("way");
    let tasks = &bench.tasks;
    let pid = bench.create("web").unwrap();
    assert_eq!(bench.status("web"), Status::Created);
    assert_eq!(code(bench.create("web")), Code::ALREADY_EXISTS);
    assert_eq!(code(tasks.freeze("web", true)), Code::FAILED_PRECONDITION);
    assert_eq!(tasks.start("web").unwrap(), pid);
    assert_eq!(bench.status("web"), Status::Running);
    assert_eq!(code(tasks.start("web")), Code::FAILED_PRECONDITION);
    assert_eq!(code(tasks.delete("web", "")), Code::FAILED_PRECONDITION);
    tasks.freeze("web", true).unwrap();
    assert_eq!(bench.status("web"), Status::Paused);
    assert_eq!(code(tasks.start_exec("web", "x")), Code::NOT_FOUND);
    tasks.freeze("web", false).unwrap();
    assert_eq!(code(tasks.freeze("web", false)), Code::FAILED_PRECONDITION);
    assert_eq!(tasks.container("web").unwrap().pids(), [pid]);
    bench.kill("web").unwrap();
    assert_eq!(tasks.wait("web", "").unwrap().status, 137);
    assert_eq!(code(bench.kill("web")), Code::NOT_FOUND);
    assert_eq!(code(tasks.start("web")), Code::FAILED_PRECONDITION);
    let (ended, exit) = tasks.delete("web", "").unwrap();
    assert_eq!((ended, exit.status), (pid, 137));
    for result in [
        tasks.start("web").map(drop),
        bench.kill("web"),
        tasks.delete("web", "").map(drop),
    ] {
        assert_eq!(code(result), Code::NOT_FOUND);
    }
    let topics = ["create", "start", "paused", "resumed", "exit", "delete"];
    for topic in topics {
        assert_eq!(bench.told(), format!("/tasks/{topic}"));
    }
    assert!(bench.calls().contains("kill --all web 9\n"), "{}", bench.calls());
}

#[test]
fn a_want_of_memory_is_told_before_the_end() {
    let bench = Bench::new("oom");
    bench.create("web").unwrap();
    bench.tasks.start("web").unwrap();
    fs::write(bench.folder.join("web/oom"), "").unwrap();
    bench.kill("web").unwrap();
    bench.tasks.wait("web", "").unwrap();
    for topic in ["create", "start", "oom", "exit"] {
        assert_eq!(bench.told(), format!("/tasks/{topic}"));
    }
}

#[test]
fn who_waits_for_one_that_is_never_started_is_told() {
    let bench = Bench::new("never");
    bench.create("unstartable").unwrap();
    let error = bench.tasks.start("unstartable").unwrap_err();
    assert_eq!(error.one_line(), "no program 'nosuch'");
    assert_eq!(bench.status("unstartable"), Status::Created);
    let exit = thread::scope(|scope| {
        let waiting = scope.spawn(|| bench.tasks.wait("unstartable", ""));
        bench.tasks.shut_down();
        bench.tasks.delete("unstartable", "").unwrap();
        waiting.join().unwrap()
    });
    // It may have been deleted before anybody asked.
    assert!(exit.is_ok_and(|exit| exit.status == 137) || bench.tasks.containers().is_empty());
    // With containers it stays, and now there is none.
    bench.tasks.shut_down();
    bench.tasks.await_end();
}

#[test]
fn a_refusal_is_told_as_the_runtime_says_it_and_leaves_nothing() {
    let bench = Bench::new("refusal");
    for _ in 0..2 {
        let error = bench.create("bad").unwrap_err();
        assert_eq!(error.one_line(), "config.json: process.args is empty");
        assert_eq!(error.code(), Code::INVALID_ARGUMENT);
    }
    assert!(
        bench.calls().ends_with("delete --force bad\n"),
        "{}",
        bench.calls()
    );
    let error = bench.create("mute").unwrap_err().one_line();
    assert!(
        error.contains("create") && error.contains("exit code 5"),
        "{error}"
    );
    assert_eq!(code(bench.create("../up")), Code::INVALID_ARGUMENT);
    assert!(bench.tasks.containers().is_empty());
    let logs = fs::read_dir(&bench.folder).unwrap().flatten();
    let mut logs = logs.filter(|entry| entry.file_name().to_string_lossy().ends_with(".log"));
    assert!(logs.next().is_none(), "a log stays");
}

#[test]
fn another_process_has_streams_an_end_and_an_exit_code() {
    let bench = Bench::new("exec");
    let tasks = &bench.tasks;
    let path = |name: &str| bench.folder.join(name);
    for name in ["in", "out"] {
        mknodat(CWD, path(name), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    }
    let text = |name: &str| path(name).to_str().unwrap().to_owned();
    let request = task::ExecProcessRequest {
        id: "web".to_owned(),
        exec_id: "e1".to_owned(),
        stdin: text("in"),
        stdout: text("out"),
        spec: Some(task::Any {
            value: b"{}".to_vec(),
            ..Default::default()
        })
        .into(),
        ..Default::default()
    };
    assert_eq!(code(tasks.add(&request)), Code::NOT_FOUND);
    bench.create("web").unwrap();
    tasks.add(&request).unwrap();
    assert_eq!(code(tasks.add(&request)), Code::ALREADY_EXISTS);
    assert_eq!(code(tasks.start_exec("web", "e1")), Code::FAILED_PRECONDITION);
    tasks.start("web").unwrap();
    let pid = tasks.start_exec("web", "e1").unwrap();
    assert_eq!(code(tasks.start_exec("web", "e1")), Code::FAILED_PRECONDITION);
    assert_eq!(code(tasks.delete("web", "e1")), Code::FAILED_PRECONDITION);
    let mut typing = File::options().write(true).open(path("in")).unwrap();
    typing.write_all(b"typed\n").unwrap();
    let process = tasks.process("web", "e1").unwrap();
    process.close_stdin();
    assert_eq!(tasks.wait("web", "e1").unwrap().status, 4);
    // A reader that comes late.
    let mut reading = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path("out"))
        .unwrap();
    let (ended, exit) = tasks.delete("web", "e1").unwrap();
    let mut said = String::new();
    reading.read_to_string(&mut said).unwrap();
    assert_eq!(said, "typed\n");
    assert_eq!((ended, exit.status), (pid, 4));
    assert_eq!(code(process.signal(9)), Code::NOT_FOUND);
    assert_eq!(code(tasks.delete("web", "e1")), Code::NOT_FOUND);
    // Input that is closed before the start, while somebody still could write.
    let mut other = request;
    other.exec_id = "e2".to_owned();
    tasks.add(&other).unwrap();
    tasks.process("web", "e2").unwrap().close_stdin();
    tasks.start_exec("web", "e2").unwrap();
    assert_eq!(tasks.wait("web", "e2").unwrap().status, 4);
    drop(typing);
    bench.kill("web").unwrap();
    tasks.wait("web", "").unwrap();
    tasks.delete("web", "").unwrap();
    for topic in [
        "create",
        "exec-added",
        "start",
        "exec-started",
        "exit",
        "exec-added",
        "exec-started",
        "exit",
        "exit",
        "delete",
    ] {
        assert_eq!(bench.told(), format!("/tasks/{topic}"));
    }
}

#[test]
fn events_wait_for_a_containerd_that_is_away() {
    let folder = std::env::temp_dir().join(format!("koya-away-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let socket = folder.join("events");
    let publisher = Publisher::start(socket.to_str().unwrap(), "space").unwrap();
    let event = events::TaskPaused::default();
    publisher.publish("/tasks/paused", "TaskPaused", &event);
    publisher.publish("/tasks/resumed", "TaskResumed", &event);
    // Nobody is kept waiting.
    let begun = std::time::Instant::now();
    publisher.flush(Duration::from_millis(100));
    assert!(begun.elapsed() < Duration::from_secs(10));
    let (sender, told) = channel();
    let mut server = ttrpc::Server::new()
        .bind(&format!("unix://{}", socket.display()))
        .unwrap()
        .register_service(create_events(Arc::new(Inbox(Mutex::new(sender)))));
    server.start().unwrap();
    for topic in ["/tasks/paused", "/tasks/resumed"] {
        assert_eq!(told.recv_timeout(PATIENCE).unwrap(), topic);
    }
    publisher.flush(PATIENCE);
    let _ = fs::remove_dir_all(&folder);
}
