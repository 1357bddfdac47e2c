//! Compiles the system call filters of `resources/seccomp`, so that the monitor starts without doing so.

use std::error::Error;
use std::fmt::Write;
use std::fs::{self, File};
use std::path::Path;

use seccompiler::{TargetArch, compile_from_json};

const POLICY: &str = "../resources/seccomp/koya-vmm.json";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={POLICY}");
    let filters = compile_from_json(File::open(POLICY)?, TargetArch::x86_64)?;
    let mut code = String::new();
    for (thread, program) in &filters {
        let name = thread.to_uppercase();
        writeln!(code, "static {name}: [libc::sock_filter; {}] = [", program.len())?;
        for seccompiler::sock_filter { code: op, jt, jf, k } in program {
            writeln!(
                code,
                "    libc::sock_filter {{ code: {op}, jt: {jt}, jf: {jf}, k: {k} }},"
            )?;
        }
        writeln!(code, "];")?;
    }
    let folder = std::env::var("OUT_DIR")?;
    fs::write(Path::new(&folder).join("seccomp.rs"), code)?;
    Ok(())
}
