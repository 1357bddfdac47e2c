//! Life as PID 1: sets the guest up, serves, and takes it down cleanly.
//!
//! PID 1 must not end, or the kernel panics. So whatever goes wrong is said on
//! the console, and the guest powers off.

mod mounts;
mod network;
mod parameters;
mod power;
mod template;

use std::fs::OpenOptions;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use koya_proto::v1::ShutdownKind;
use nix::sys::signal::{SigSet, Signal};

use crate::error::StartError;
use crate::listener::Listener;
use crate::sys::lock;
use parameters::Parameters;

/// Where the agent keeps its state: memory.
const STATE: &str = "/run/koya";
/// Below which all containers are.
const CGROUP: &str = "koya";
/// For the answer to a shutdown request to reach the host.
const LAST_WORDS: Duration = Duration::from_millis(50);

/// PID 1's `main`. Does not return.
pub fn init() -> ExitCode {
    let kind = match run() {
        Ok(kind) => kind,
        Err(error) => {
            println!("koya-agent: fatal: {error}");
            ShutdownKind::SHUTDOWN_KIND_POWEROFF
        }
    };
    power::go_down(kind)
}

fn run() -> Result<ShutdownKind, StartError> {
    // Before there are threads: they inherit what is blocked.
    let signals = signals()?;
    mounts::mount_all()?;
    open_console()?;
    mounts::settle_root()?;
    power::take_keys()?;
    let parameters = Parameters::read()?;
    nix::unistd::sethostname(&parameters.hostname).map_err(StartError::errno("set the hostname"))?;
    network::loopback_up().map_err(StartError::io("bring the loopback interface up"))?;
    let (mut rpc, streams) = Listener::vsock_pair()?;
    if parameters.template {
        rpc.before_call(template::be_forked);
    }
    let (sender, receiver) = channel();
    listen_for_signals(signals, sender.clone())?;
    let asked = Mutex::new(sender);
    let power = move |kind| {
        // The receiver lives as long as the guest.
        let _ = lock(&asked).send(kind);
        Ok(())
    };
    let containers = crate::start(Path::new(STATE), CGROUP.to_owned(), rpc, streams, Arc::new(power))?;
    println!("koya-agent: ready");
    let kind = await_end(&receiver);
    containers.remove_all();
    Ok(kind)
}

fn await_end(receiver: &Receiver<ShutdownKind>) -> ShutdownKind {
    let kind = receiver.recv().unwrap_or(ShutdownKind::SHUTDOWN_KIND_POWEROFF);
    std::thread::sleep(LAST_WORDS);
    kind
}

/// The kernel gives PID 1 a console only if the initramfs has its node.
fn open_console() -> Result<(), StartError> {
    let act = "open /dev/console";
    let console = OpenOptions::new().read(true).write(true).open("/dev/console");
    let console = console.map_err(StartError::io(act))?;
    for number in 0..3 {
        nix::unistd::dup2(console.as_raw_fd(), number).map_err(StartError::errno(act))?;
    }
    Ok(())
}

/// Signals that end the agent: blocked everywhere, waited for in one place.
pub struct Signals(SigSet);

/// Blocks them. Has to happen before the first thread starts.
pub fn signals() -> Result<Signals, StartError> {
    // SIGINT is what the kernel sends PID 1 for Ctrl-Alt-Del, SIGPWR a power failure.
    let set: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGPWR]
        .into_iter()
        .collect();
    set.thread_block().map_err(StartError::errno("block signals"))?;
    Ok(Signals(set))
}

impl Signals {
    /// Waits for one of them.
    pub fn wait(&self) {
        // Fails for an empty set only.
        while self.0.wait().is_err() {}
    }
}

fn listen_for_signals(signals: Signals, sender: Sender<ShutdownKind>) -> Result<(), StartError> {
    let wait = move || {
        signals.wait();
        let _ = sender.send(ShutdownKind::SHUTDOWN_KIND_POWEROFF);
    };
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(wait)
        .map(drop)
        .map_err(StartError::io("start a thread for signals"))
}
