//! How many serial port writes a guest can make: each is an exit to the VMM and back.

use super::{Better, Context, Figure, Measurement};
use crate::bench::BenchError;
use crate::bench::vmm::{Machine, Vmm};

/// See the module.
#[derive(Debug)]
pub struct Ports;

const FIGURES: [Figure; 1] = [Figure {
    name: "port-exits",
    title: "Serial port exits",
    unit: "thousand/s",
    better: Better::Higher,
    goal: None,
}];

impl Measurement for Ports {
    fn figures(&self) -> &[Figure] {
        &FIGURES
    }

    fn rounds(&self, runs: usize) -> usize {
        runs.min(10)
    }

    fn sample(&self, vmm: &Vmm, context: &Context) -> Result<Vec<f64>, BenchError> {
        let mut process = context.start(vmm, &Machine::tiny(context.guest("ports")))?;
        let (writes, seconds) = context.span(&mut process, "ports")?;
        Ok(vec![writes / seconds / 1e3])
    }
}
