//! The size of the VMM's binary, stripped.

use std::process::{Command, Stdio};

use super::{Better, Context, Figure, Goal, Measurement, size_of};
use crate::bench::BenchError;
use crate::bench::vmm::Vmm;

/// See the module.
#[derive(Debug)]
pub struct BinarySize;

const FIGURES: [Figure; 1] = [Figure {
    name: "binary-size",
    title: "Binary, stripped",
    unit: "MB",
    better: Better::Lower,
    goal: Some(Goal::AtMost(2.5)),
}];

impl Measurement for BinarySize {
    fn figures(&self) -> &[Figure] {
        &FIGURES
    }

    fn rounds(&self, _runs: usize) -> usize {
        1
    }

    fn needs_warming(&self) -> bool {
        false
    }

    fn sample(&self, vmm: &Vmm, context: &Context) -> Result<Vec<f64>, BenchError> {
        let stripped = context.scratch.join("stripped");
        let status = Command::new("strip")
            .arg("-o")
            .arg(&stripped)
            .arg(&vmm.binary)
            .stderr(Stdio::null())
            .status();
        let status = status.map_err(BenchError::path("run", "strip"))?;
        if !status.success() {
            let found = vmm.binary.display().to_string();
            return Err(BenchError::Output {
                expected: "a binary that can be stripped",
                found,
            });
        }
        Ok(vec![size_of(&stripped)? as f64 / 1e6])
    }
}
