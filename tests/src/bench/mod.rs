//! Benchmarks: Koya and its peers, side by side in one run.
//!
//! ```text
//!  options ─► suite ─► for each round, for each measurement, for each VMM ─► one sample   (A B A B …)
//!                        measure::*         vmm + process                      │
//!              host ──────────────────────────────────────► results ◄── stats ─┘
//!                                                             └─► report: table, JSON, SVG
//!             (containers and engines: suites of their own, with koya run, podman, containerd, crun and runc)
//! ```
//!
//! Rounds are interleaved so that whatever drifts on the machine (frequency, neighbours, caches) hits every
//! VMM alike. Nothing here is asserted: goals are printed as met or missed. A VMM that fails, or that does
//! not answer in time, is reported as failed and not waited for.

pub mod bare;
mod clocks;
pub mod containers;
pub mod engines;
pub mod error;
mod floor;
pub mod guests;
pub mod host;
pub mod linux;
pub mod measure;
pub mod options;
pub mod process;
pub mod report;
pub mod sheet;
mod smaps;
pub mod stats;
pub mod subject;
pub mod suite;
pub mod timeline;
mod tree;
pub mod vmm;

pub use error::BenchError;
