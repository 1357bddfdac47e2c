//! `koya-agent`: PID 1 of a guest, and the far end of `koya.agent.v1`.
//!
//! ```text
//!  vsock 900 ──► rpc::server ──► rpc::service ──► containers ──► helper (own process, one thread)
//!  vsock 901 ──► streams::listener ──► streams::broker ──► streams::pump ◄──► a process's pipes or terminal
//!                                      children ──► reaps everything, wakes whoever waits
//! ```
//!
//! As PID 1 it sets up the guest first (see [`boot`]) and never exits. With
//! `--listen-unix` it is an ordinary process that mounts nothing.

mod boot;
mod children;
mod containers;
mod copy;
mod error;
mod files;
mod guest;
mod helper;
mod listener;
mod network;
mod options;
mod rpc;
mod shares;
mod streams;
mod sys;
mod windows;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use children::Children;
use containers::Containers;
use options::{Mode, Options};
use streams::Broker;

fn main() -> ExitCode {
    let options = match Options::from_environment() {
        Ok(options) => options,
        Err(error) => {
            eprintln!("koya-agent: {error}");
            return ExitCode::from(2);
        }
    };
    match options.mode {
        Mode::Helper => helper::run(),
        Mode::Map(file) => helper::map::write(file, std::env::args().skip(1)),
        Mode::Init => boot::init(),
        Mode::Unix(folder) => serve_unix(&folder),
        Mode::Help => {
            print!("{}", options::HELP);
            ExitCode::SUCCESS
        }
        Mode::Version => {
            println!("koya-agent {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
    }
}

/// Serves on unix sockets in a folder until a signal ends it.
fn serve_unix(folder: &Path) -> ExitCode {
    let outcome = boot::signals().and_then(|signals| {
        let (rpc, streams) = listener::Listener::unix_pair(folder)?;
        let power: rpc::Power = Arc::new(|_| {
            Err(error::unsupported(
                "shut down the machine that --listen-unix runs on",
            ))
        });
        let containers = start(
            &folder.join("state"),
            format!("koya-{}", std::process::id()),
            rpc,
            streams,
            power,
        )?;
        println!("koya-agent: ready, listening in {}", folder.display());
        signals.wait();
        containers.remove_all();
        Ok(())
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("koya-agent: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Starts everything that runs in threads, and returns.
fn start(
    state: &Path,
    cgroup: String,
    rpc: listener::Listener,
    streams: listener::Listener,
    power: rpc::Power,
) -> Result<Arc<Containers>, error::StartError> {
    sys::raise_files();
    let children = Children::start()?;
    let broker = Arc::new(Broker::default());
    let containers = Arc::new(Containers::new(state, cgroup, children, Arc::clone(&broker))?);
    streams::serve(streams, broker)?;
    rpc::serve(rpc, rpc::Service::new(Arc::clone(&containers), power))?;
    Ok(containers)
}
