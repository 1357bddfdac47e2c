//! `containerd-shim-koya-v2`: containerd's way to `koya-runtime`, in the place where runc's or Kata's shim stood.
//!
//! ```text
//!  containerd ── start ──► this program ──► the same, as a shim: one for a container, or for a pod
//!      │                                      │
//!      ├──── ttRPC: Create, Start … ─────────►├──► koya-runtime create, start … ──► a microVM
//!      │◄─── ttRPC: events ───────────────────┤      └─► a process that stands for the container: the shim's child
//!      │
//!      └── delete ─► this program: removes what a shim has left that was killed
//! ```

mod args;
mod bundle;
mod delete;
mod error;
mod generated;
mod log;
mod mounts;
mod place;
mod publish;
mod reaper;
mod runtime;
mod seat;
mod serve;
mod start;
mod stdio;
mod task;
mod time;

use std::io::{self, Write};
use std::process::ExitCode;

use args::{Action, Args};

fn main() -> ExitCode {
    // Whoever ignores it has passed that on, and no end of a child could be waited for.
    // SAFETY: restores a default, before there is a second thread.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
    let args = match Args::parse(std::env::args_os().skip(1)) {
        Ok(args) => args,
        Err(error) => return fail(&error.to_string()),
    };
    let said = match args.action {
        Action::Version => Ok(concat!("containerd-shim-koya-v2 ", env!("CARGO_PKG_VERSION"), "\n").into()),
        Action::Start => start::start(&args).map(String::into_bytes),
        Action::Delete => delete::delete(&args),
        Action::Serve => serve::serve(&args).map(|()| Vec::new()),
    };
    match said {
        Ok(bytes) if io::stdout().write_all(&bytes).is_ok() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            let line = error.one_line();
            log::tell(&line);
            fail(&line)
        }
    }
}

fn fail(line: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "containerd-shim-koya-v2: {line}");
    ExitCode::FAILURE
}
