//! From the start of the VMM's process to its end, when the guest resets at once; or powers off at once,
//! for a VMM that starts a reset guest anew.

use super::{Better, Context, Figure, Goal, Measurement, milliseconds};
use crate::bench::BenchError;
use crate::bench::vmm::{Kind, Machine, Vmm};

/// See the module.
#[derive(Debug)]
pub struct Exit;

const FIGURES: [Figure; 1] = [Figure {
    name: "exit",
    title: "Spawn → exit, guest resets at once",
    unit: "ms",
    better: Better::Lower,
    goal: Some(Goal::AtMost(1.5)),
}];

impl Measurement for Exit {
    fn figures(&self) -> &[Figure] {
        &FIGURES
    }

    fn applies_to(&self, _kind: Kind) -> bool {
        true
    }

    fn sample(&self, vmm: &Vmm, context: &Context) -> Result<Vec<f64>, BenchError> {
        let mut process = context.start(vmm, &Machine::tiny(context.guest(vmm.kind.ending_guest())))?;
        let (code, when) = process.exit(context.limit)?;
        if code != 0 {
            return Err(process.early_exit("a reset of the guest"));
        }
        Ok(vec![milliseconds(&process, when)])
    }
}
