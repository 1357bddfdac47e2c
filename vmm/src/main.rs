//! `koya-vmm`: one process, one microVM.

use std::io::Write;
use std::process;

use koya_api::FIRECRACKER_API_VERSION;
use koya_vmm::cli::{self, Command};
use koya_vmm::exit::ExitCode;
use koya_vmm::run;

fn main() {
    one_arena();
    let code = match cli::parse(std::env::args_os().skip(1)) {
        Ok(Command::Help) => print(cli::HELP),
        Ok(Command::Version) => print(&version()),
        Ok(Command::Run(options)) => run::run(&options),
        Err(error) => run::fail(&error, ExitCode::ArgParsing),
    };
    // Without unwinding or destructors: the kernel frees faster, and whoever waits is told sooner.
    process::exit(code.into())
}

/// The API level comes first: clients take the second word for Firecracker's version, and refuse old ones.
fn version() -> String {
    format!(
        "Firecracker-compatible v{FIRECRACKER_API_VERSION}\nKoya v{}\n",
        env!("CARGO_PKG_VERSION")
    )
}

/// Lets all threads allocate from one heap. glibc would give each vCPU thread a heap of its own, which costs time at its
/// start and memory for good, and vCPU threads hardly ever allocate.
fn one_arena() {
    // SAFETY: sets a parameter of the allocator, before there is a second thread.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Prints to standard output, whose reader may have gone.
fn print(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::Ok,
        Err(_) => ExitCode::GenericError,
    }
}
