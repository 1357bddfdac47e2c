//! How long a guest takes to touch each page of its memory for the first time.

use super::{Better, Context, Figure, Measurement};
use crate::bench::BenchError;
use crate::bench::vmm::{Machine, Vmm};

/// See the module.
#[derive(Debug)]
pub struct Touch;

const FIGURES: [Figure; 1] = [Figure {
    name: "touch-memory",
    title: "First touch of 128 MiB",
    unit: "ms",
    better: Better::Lower,
    goal: None,
}];

/// Pages of 128 MiB; a guest that touches far fewer has not understood its memory map.
const PAGES: f64 = 32768.0;

impl Measurement for Touch {
    fn figures(&self) -> &[Figure] {
        &FIGURES
    }

    fn rounds(&self, runs: usize) -> usize {
        runs.min(10)
    }

    fn sample(&self, vmm: &Vmm, context: &Context) -> Result<Vec<f64>, BenchError> {
        let mut process = context.start(vmm, &Machine::tiny(context.guest("touch")))?;
        let (pages, seconds) = context.span(&mut process, "touch")?;
        if pages < PAGES * 0.9 {
            return Err(BenchError::Output {
                expected: "about 32,000 pages",
                found: pages.to_string(),
            });
        }
        // VMMs keep different parts for themselves.
        Ok(vec![seconds * 1e3 * PAGES / pages])
    }
}
