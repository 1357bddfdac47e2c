#![allow(clippy::arithmetic_side_effects)]

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicUsize};
use std::thread;
use std::time::Instant;

use koya_sandbox::parts::Parts;
use koya_sandbox::{Progress, Sandbox, SandboxSpec};
use serde_json::Value;
use ttrpc::TtrpcContext;

use super::*;
use crate::control::{Request, ask, socket};
use crate::descriptors::Inherited;
use crate::log::{Format, Log};
use crate::record::Process;
use crate::record::tests::record;
use crate::store::Store;

/// More than anything here takes on a slow host.
const LATE: Duration = Duration::from_secs(60);
/// How long the agent takes to freeze a container.
const FREEZING: Duration = Duration::from_millis(300);

/// How long one that hangs says nothing.
const HANGING: Duration = Duration::from_secs(8);

/// An agent that says that all is done, and does nothing.
#[derive(Default)]
struct Liar {
    signals: AtomicUsize,
    pauses: AtomicUsize,
    hangs: AtomicBool,
}

impl v1::Agent for Liar {
    fn version(&self, _: &TtrpcContext, request: v1::VersionRequest) -> ttrpc::Result<v1::VersionResponse> {
        Ok(v1::VersionResponse {
            protocol_major: request.protocol_major,
            protocol_minor: request.protocol_minor,
            ..Default::default()
        })
    }

    fn signal(&self, _: &TtrpcContext, _: v1::SignalRequest) -> ttrpc::Result<v1::Empty> {
        self.signals.fetch_add(1, Ordering::SeqCst);
        if self.hangs.load(Ordering::SeqCst) {
            thread::sleep(HANGING);
        }
        Ok(v1::Empty::new())
    }

    fn pause(&self, _: &TtrpcContext, _: v1::PauseRequest) -> ttrpc::Result<v1::Empty> {
        self.pauses.fetch_add(1, Ordering::SeqCst);
        thread::sleep(FREEZING);
        Ok(v1::Empty::new())
    }
}

/// A monitor of a microVM that is a sleeping program, with such an agent.
struct Place {
    monitor: Arc<Monitor>,
    agent: Arc<Liar>,
    vmm: Process,
    root: std::path::PathBuf,
    _server: ttrpc::Server,
}

impl Place {
    fn new(grace: Duration) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("koya-monitor-{}-{count}", std::process::id()));
        let context = Context {
            store: Store::at(Some(root.clone())),
            log: Log::new(None, Format::Text),
            systemd_cgroup: false,
            inherited: Inherited::default(),
        };
        let mut record = record("web");
        // The lock goes with the test's process only, as a monitor's does.
        std::mem::forget(context.store.make(&record).unwrap());
        record.status = Status::Running;
        let folder = context.store.folder("web");
        let agent = Arc::new(Liar::default());
        let address = folder.join("rpc.sock");
        let server = ttrpc::Server::new()
            .bind(&format!("unix://{}", address.display()))
            .unwrap();
        let mut server = server.register_service(v1::create_agent(Arc::clone(&agent) as _));
        server.start().unwrap();
        let (sandbox, vmm) = boot(&folder, &address);
        let monitor = Monitor {
            context,
            record: Mutex::new(record),
            house: House::Own {
                sandbox,
                volumes: Mutex::new(None),
            },
            network: None,
            own: Own::Standard,
            answering: RwLock::new(()),
            changing: Mutex::new(()),
            started: AtomicBool::new(true),
            doomed: AtomicBool::new(false),
            grace,
        };
        let monitor = Arc::new(monitor);
        server::listen(&monitor).unwrap();
        Self {
            monitor,
            agent,
            vmm,
            root,
            _server: server,
        }
    }

    fn ask(&self, request: &Request) -> Result<Value, RuntimeError> {
        ask(&self.monitor.context.store.folder("web"), "web", request)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.monitor.house.end();
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

/// A microVM whose agent, behind `address`, calls as soon as somebody listens.
fn boot(folder: &Path, address: &Path) -> (Sandbox, Process) {
    let vmm = folder.join("vmm");
    std::fs::write(&vmm, "#!/bin/sh\nexec sleep 1000\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&vmm, mode).unwrap();
    let agent = folder.join("agent");
    std::fs::write(&agent, "").unwrap();
    let parts = Parts {
        vmm,
        kernel: "/nowhere".into(),
        agent,
    };
    let spec = SandboxSpec {
        vcpus: 1,
        memory_mib: 128,
        disks: Vec::new(),
        share: None,
        network: None,
        templates: false,
    };
    let (call, address) = (folder.join("v.sock_902"), address.to_owned());
    thread::spawn(move || {
        let begun = Instant::now();
        let host = loop {
            match UnixStream::connect(&call) {
                Ok(host) => break host,
                Err(_) if begun.elapsed() < LATE => thread::sleep(Duration::from_millis(5)),
                Err(error) => panic!("{error}"),
            }
        };
        let guest = UnixStream::connect(address).unwrap();
        let (mut from, mut to) = (guest.try_clone().unwrap(), host.try_clone().unwrap());
        thread::spawn(move || io::copy(&mut from, &mut to));
        let _ = io::copy(&mut &host, &mut &guest);
    });
    let mut pid = 0;
    let started = Sandbox::start(
        &parts,
        &spec,
        folder,
        folder,
        || false,
        |progress| {
            if let Progress::Spawned(id) = progress {
                pid = id;
            }
        },
    );
    (started.unwrap(), Process::of(pid).unwrap())
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < LATE, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_guest_that_only_says_that_it_was_killed_ends_all_the_same() {
    let house = Place::new(Duration::from_millis(300));
    let kill = |signal: i32| Request::Kill {
        signal: signal.cast_unsigned(),
        all: false,
    };
    house.ask(&kill(libc::SIGTERM)).unwrap();
    thread::sleep(house.monitor.grace * 2);
    assert!(house.vmm.is_there(), "a container may take SIGTERM as it likes");
    let begun = Instant::now();
    for _ in 0..3 {
        house.ask(&kill(libc::SIGKILL)).unwrap();
    }
    until("the microVM lives on", || !house.vmm.is_there());
    assert!(begun.elapsed() >= house.monitor.grace, "it was given no time");
    assert_eq!(house.agent.signals.load(Ordering::SeqCst), 4);
}

#[test]
fn a_guest_that_hangs_is_killed_without_being_asked_for_long() {
    let house = Place::new(GRACE);
    house.agent.hangs.store(true, Ordering::SeqCst);
    let kill = Request::Kill {
        signal: libc::SIGKILL.cast_unsigned(),
        all: true,
    };
    let begun = Instant::now();
    house.ask(&kill).unwrap();
    assert!(!house.vmm.is_there(), "the microVM lives on");
    assert!(begun.elapsed() < HANGING / 2, "{:?}", begun.elapsed());
}

#[test]
fn of_two_who_pause_a_container_one_does() {
    let house = Place::new(GRACE);
    let answers = thread::scope(|scope| {
        let threads = [(); 2].map(|()| scope.spawn(|| house.ask(&Request::Pause)));
        threads.map(|thread| thread.join().unwrap())
    });
    assert_eq!(house.agent.pauses.load(Ordering::SeqCst), 1);
    let refusals: Vec<_> = answers.into_iter().filter_map(Result::err).collect();
    let [refusal] = refusals.as_slice() else {
        panic!("{refusals:?}");
    };
    assert!(refusal.one_line().contains("is paused"), "{}", refusal.one_line());
    // What it is, everybody sees.
    let record = house.monitor.context.store.load("web").unwrap();
    assert_eq!(record.status, Status::Paused);
}

#[test]
fn sigkill_waits_for_no_other_command() {
    let house = Place::new(Duration::ZERO);
    let is_refused = |request: &Request| {
        let answer = house.ask(request);
        answer.is_err_and(|error| error.one_line().contains("try again"))
    };
    thread::scope(|scope| {
        // As if the guest hung in a command.
        let changing = house.monitor.changing.lock().unwrap();
        for _ in 0..server::MAX_COMMANDS {
            scope.spawn(|| until("there is no room", || !is_refused(&Request::Pause)));
        }
        until("there is room for any number of commands", || {
            is_refused(&Request::Stats)
        });
        // The end of the container, which does not wait for those who wait.
        let last = house.monitor.answering.write().unwrap();
        let kill = Request::Kill {
            signal: libc::SIGKILL.cast_unsigned(),
            all: false,
        };
        house.ask(&kill).unwrap();
        until("the microVM lives on", || !house.vmm.is_there());
        drop(last);
        drop(changing);
    });
}

#[test]
fn who_connects_and_says_nothing_keeps_nobody_out_for_long() {
    let house = Place::new(GRACE);
    let path = socket(&house.monitor.context.store.folder("web"));
    let silent: Vec<_> = (0..server::MAX_COMMANDS + 2)
        .map(|_| koya_sandbox::sockets::connect(&path).unwrap())
        .collect();
    let error = house.ask(&Request::Pause).unwrap_err().one_line();
    assert!(error.contains("try again"), "{error}");
    // After their time is up, there is room again.
    until("nobody is answered any more", || {
        house.ask(&Request::Pause).is_ok()
    });
    drop(silent);
}
