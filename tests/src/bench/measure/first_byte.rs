//! From the start of the VMM's process to the first byte that the guest writes to its serial port.

use super::{Better, Context, Figure, Goal, Measurement, milliseconds};
use crate::bench::BenchError;
use crate::bench::vmm::{Kind, Machine, Vmm};

/// What the guest `hello` says.
const GREETING: &str = "hello from a tiny guest";

/// See the module.
#[derive(Debug)]
pub struct FirstByte;

const FIGURES: [Figure; 1] = [Figure {
    name: "first-byte",
    title: "Spawn → first guest byte",
    unit: "ms",
    better: Better::Lower,
    goal: Some(Goal::AtMost(0.8)),
}];

impl Measurement for FirstByte {
    fn figures(&self) -> &[Figure] {
        &FIGURES
    }

    fn applies_to(&self, _kind: Kind) -> bool {
        true
    }

    fn sample(&self, vmm: &Vmm, context: &Context) -> Result<Vec<f64>, BenchError> {
        let mut process = context.start(vmm, &Machine::tiny(context.guest("hello")))?;
        let when = process.first_byte(context.limit)?;
        process.line(GREETING, context.limit)?;
        // A VMM's own chatter on the same pipe is not a guest's byte.
        if !process.output().starts_with(GREETING.as_bytes()) {
            let found = String::from_utf8_lossy(process.output())
                .chars()
                .take(80)
                .collect();
            return Err(BenchError::Output {
                expected: "the guest's line first",
                found,
            });
        }
        Ok(vec![milliseconds(&process, when)])
    }
}
