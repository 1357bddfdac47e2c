//! The floor of a host: a program of a hundred lines that does for a guest only what every VMM must, by bare ioctls.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::BenchError;
use super::tree;
use super::vmm::{Kind, Vmm};

/// Builds the program in `folder`, as a column of the results.
///
/// # Errors
/// When there is no C compiler that links statically, or the folder cannot be written.
pub fn build(folder: &Path) -> Result<Vmm, BenchError> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bench/floor.c");
    let binary: PathBuf = folder.join("floor");
    let mut compiler = Command::new("cc");
    compiler
        .args([
            "-O2",
            "-std=gnu11",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-static",
            "-s",
            "-o",
        ])
        .arg(&binary)
        .arg(source);
    tree::run(&mut compiler)?;
    Ok(Vmm {
        kind: Kind::Floor,
        binary,
        version: "bare ioctls in a static C program: memory, interrupt controller, one vCPU".into(),
    })
}
