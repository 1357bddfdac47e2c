//! From the start of the VMM's process to the first line that the guest's init writes, with our kernel, one
//! disk and one network card; and the same moment by the guest's own clock, which starts with its kernel.

use super::{Better, Context, Figure, Goal, Measurement, milliseconds};
use crate::bench::BenchError;
use crate::bench::linux::{INIT_LINE, Linux};
use crate::bench::subject::Subject;
use crate::bench::vmm::Vmm;

/// See the module.
#[derive(Debug)]
pub struct Boot(pub Linux);

const FIGURES: [Figure; 2] = [
    Figure {
        name: "boot",
        title: "Spawn → first line of init",
        unit: "ms",
        better: Better::Lower,
        goal: Some(Goal::AtMostTimes(0.5, Subject::QEMU)),
    },
    Figure {
        name: "boot-guest-clock",
        title: "Kernel → init by the guest's clock",
        unit: "ms",
        better: Better::Lower,
        goal: None,
    },
];

impl Measurement for Boot {
    fn figures(&self) -> &[Figure] {
        &FIGURES
    }

    fn sample(&self, vmm: &Vmm, context: &Context) -> Result<Vec<f64>, BenchError> {
        let mut process = context.start(vmm, &self.0.machine(None))?;
        let when = process.line(INIT_LINE, context.limit)?;
        let (rest, _) = process.rest_of_line(INIT_LINE, context.limit)?;
        let uptime = rest
            .split(' ')
            .next()
            .and_then(|number| number.parse::<f64>().ok());
        let uptime = uptime.ok_or(BenchError::Output {
            expected: "seconds since boot",
            found: rest,
        })?;
        Ok(vec![milliseconds(&process, when), uptime * 1e3])
    }
}
