//! How large a microVM is, from the container's limits and from annotations.

use serde::{Deserialize, Serialize};

use super::BundleError;
use super::config::{Config, wrong};

/// Annotations that say it outright.
const VCPUS: &str = "dev.koya.vcpus";
const MEMORY: &str = "dev.koya.memory-mib";
/// As many as a microVM may have.
const MAX_VCPUS: u64 = 32;
/// Memory in MiB unless more is needed.
const USUAL_MEMORY: u64 = 512;
/// What kernel and agent need beside the container's memory, in MiB.
const BESIDE: u64 = 96;
/// A kernel with its agent and little else.
const LEAST_MEMORY: u64 = 128;
/// Beyond any host: 16 TiB.
const MOST_MEMORY: u64 = 16 << 20;

/// How large a microVM is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Size {
    /// Processors: 1 to 32.
    pub vcpus: u8,
    /// Memory in MiB.
    pub memory_mib: u64,
}

impl Size {
    pub(super) fn of(config: &Config) -> Result<Self, BundleError> {
        let annotation = |name: &str, range: std::ops::RangeInclusive<u64>, wanted| {
            let value = config.get("annotations").and_then(|all| all.get(name));
            let Some(value) = value else { return Ok(None) };
            let number = value.as_str().and_then(|text| text.parse().ok());
            match number.filter(|number| range.contains(number)) {
                Some(number) => Ok(Some(number)),
                None => Err(wrong(format!("annotations[{name:?}]"), Some(value), wanted)),
            }
        };
        let vcpus = annotation(VCPUS, 1..=MAX_VCPUS, "a number from 1 to 32")?;
        let memory = annotation(
            MEMORY,
            LEAST_MEMORY..=MOST_MEMORY,
            "a number of MiB, at least 128",
        )?;
        let vcpus = vcpus.unwrap_or_else(|| processors(config)).clamp(1, MAX_VCPUS);
        Ok(Self {
            vcpus: u8::try_from(vcpus).unwrap_or(1),
            memory_mib: memory.unwrap_or_else(|| usual_memory(config)),
        })
    }
}

fn resource(config: &Config, group: &str, name: &str) -> Option<i64> {
    let resources = config.get("linux")?.get("resources")?;
    resources.get(group)?.get(name)?.as_i64()
}

/// As many as the container may use at once; 1 if that is not said.
fn processors(config: &Config) -> u64 {
    let positive = |name| {
        let number = resource(config, "cpu", name);
        number
            .and_then(|number| u64::try_from(number).ok())
            .filter(|&number| number > 0)
    };
    let Some(quota) = positive("quota") else { return 1 };
    let period = positive("period").unwrap_or(100_000);
    quota.div_ceil(period)
}

/// What the container may use, and what its kernel needs.
fn usual_memory(config: &Config) -> u64 {
    let limit = resource(config, "memory", "limit");
    let limit = limit.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0);
    let needed = limit.div_ceil(1 << 20).saturating_add(BESIDE);
    // A limit of more than any host has is none.
    match needed {
        more if more > MOST_MEMORY => USUAL_MEMORY,
        needed => needed.max(USUAL_MEMORY),
    }
}
