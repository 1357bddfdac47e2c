//! What a virtio doorbell costs, and a round trip through an entropy device that answers four bytes.
//!
//! A doorbell that the kernel handles (an ioeventfd) does not leave it; one that the VMM handles makes an
//! exit to it. The guest rings from user mode, and polls for the answers.

use super::{Better, Context, Figure, Measurement};
use crate::bench::BenchError;
use crate::bench::vmm::{Kind, Machine, Vmm};

/// See the module.
#[derive(Debug)]
pub struct Doorbell;

const FIGURES: [Figure; 2] = [
    Figure {
        name: "doorbells",
        title: "Doorbells",
        unit: "thousand/s",
        better: Better::Higher,
        goal: None,
    },
    Figure {
        name: "round-trips",
        title: "Entropy device round trips",
        unit: "thousand/s",
        better: Better::Higher,
        goal: None,
    },
];

impl Measurement for Doorbell {
    fn figures(&self) -> &[Figure] {
        &FIGURES
    }

    fn rounds(&self, runs: usize) -> usize {
        runs.min(10)
    }

    fn applies_to(&self, kind: Kind) -> bool {
        kind.has_virtio_mmio()
    }

    fn sample(&self, vmm: &Vmm, context: &Context) -> Result<Vec<f64>, BenchError> {
        let machine = Machine {
            entropy: true,
            ..Machine::tiny(context.guest("doorbell"))
        };
        let mut process = context.start(vmm, &machine)?;
        let (rings, ringing) = context.span(&mut process, "doorbell")?;
        let (trips, travelling) = context.span(&mut process, "round trip")?;
        if trips == 0.0 {
            return Err(BenchError::Timeout {
                awaited: "answer to a request".into(),
                limit: context.limit,
            });
        }
        Ok(vec![rings / ringing / 1e3, trips / travelling / 1e3])
    }
}
