//! Limits of a container, as the cgroup v2 controllers of its guest apply them.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// How long a period is in which processor time is counted, in microseconds; docker's.
const PERIOD: u64 = 100_000;
/// Billionths of a processor that are a microsecond of each period.
const NANO_PER_QUOTA: u64 = 1_000_000_000 / PERIOD;
/// The kernel's own smallest quota, in microseconds.
const LEAST_QUOTA: u64 = 1000;

/// Limits. What is `None` is not limited, or, in an update, stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Resources {
    /// Processors, in billionths of one: 1_500_000_000 is one and a half. At least a hundredth of one is granted.
    pub nano_cpus: Option<u64>,
    /// Share of the processors when they are wanted by several, 2 to 262144; 1024 is usual.
    pub cpu_shares: Option<u64>,
    /// Processors it may run on: `0-2,4`.
    pub cpuset_cpus: Option<String>,
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Bytes of memory and swap together, at least [`Self::memory`]; -1 is as much swap as there is. Without it,
    /// as much swap as memory.
    pub memory_swap: Option<i64>,
    /// Bytes of memory that are taken from it last when memory is short.
    pub memory_reservation: Option<u64>,
    /// Processes and threads; -1 is no limit.
    pub pids_limit: Option<i64>,
    /// Limits of single disks.
    pub disks: Vec<DiskLimit>,
}

/// Limits of one disk. What is `None` is not limited.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DiskLimit {
    /// The serial by which the guest knows the disk.
    pub serial: String,
    /// Bytes per second read.
    pub read_bps: Option<u64>,
    /// Bytes per second written.
    pub write_bps: Option<u64>,
    /// Reads per second.
    pub read_iops: Option<u64>,
    /// Writes per second.
    pub write_iops: Option<u64>,
}

impl Resources {
    /// `linux.resources` of the specification, for `config.json` and for the agent's Update. A disk is named by
    /// `serial` in place of `major` and `minor`, which the agent fills in.
    pub fn to_json(&self) -> Value {
        let mut resources = Map::new();
        let mut put = |name: &str, value: Map<String, Value>| {
            if !value.is_empty() {
                resources.insert(name.to_owned(), Value::Object(value));
            }
        };
        put("cpu", self.cpu());
        put("memory", self.memory_object());
        put(
            "pids",
            object([("limit", self.pids_limit.map(|limit| json!(limit)))]),
        );
        put("blockIO", self.block_io());
        Value::Object(resources)
    }

    /// These limits where `new` has none of its own. Disks stay as they are.
    #[must_use]
    pub fn updated(&self, new: &Self) -> Self {
        Self {
            nano_cpus: new.nano_cpus.or(self.nano_cpus),
            cpu_shares: new.cpu_shares.or(self.cpu_shares),
            cpuset_cpus: new.cpuset_cpus.clone().or_else(|| self.cpuset_cpus.clone()),
            memory: new.memory.or(self.memory),
            memory_swap: new.memory_swap.or(self.memory_swap),
            memory_reservation: new.memory_reservation.or(self.memory_reservation),
            pids_limit: new.pids_limit.or(self.pids_limit),
            disks: self.disks.clone(),
        }
    }

    /// Whether memory and swap together are less than memory, which no kernel takes. 0 is the same as none.
    pub fn has_swap_below_memory(&self) -> bool {
        let swap = self.memory_swap.and_then(|swap| u64::try_from(swap).ok());
        let swap = swap.filter(|&swap| swap != 0);
        self.memory.zip(swap).is_some_and(|(memory, swap)| swap < memory)
    }

    fn cpu(&self) -> Map<String, Value> {
        let quota = self
            .nano_cpus
            .map(|nano| (nano / NANO_PER_QUOTA).max(LEAST_QUOTA));
        object([
            ("quota", quota.map(|quota| json!(quota))),
            ("period", quota.map(|_| json!(PERIOD))),
            ("shares", self.cpu_shares.map(|shares| json!(shares))),
            ("cpus", self.cpuset_cpus.as_ref().map(|cpus| json!(cpus))),
        ])
    }

    fn memory_object(&self) -> Map<String, Value> {
        // docker's: a limit of memory alone allows as much again in swap.
        let doubled = || {
            self.memory
                .map(|bytes| i64::try_from(bytes.saturating_mul(2)).unwrap_or(i64::MAX))
        };
        let swap = self.memory_swap.filter(|&swap| swap != 0).or_else(doubled);
        object([
            ("limit", self.memory.map(|bytes| json!(bytes))),
            ("swap", swap.map(|bytes| json!(bytes))),
            ("reservation", self.memory_reservation.map(|bytes| json!(bytes))),
        ])
    }

    fn block_io(&self) -> Map<String, Value> {
        let list = |rate: fn(&DiskLimit) -> Option<u64>| {
            let entries = self
                .disks
                .iter()
                .filter_map(|disk| Some(json!({ "serial": disk.serial, "rate": rate(disk)? })));
            let entries: Vec<Value> = entries.collect();
            (!entries.is_empty()).then_some(Value::Array(entries))
        };
        object([
            ("throttleReadBpsDevice", list(|disk| disk.read_bps)),
            ("throttleWriteBpsDevice", list(|disk| disk.write_bps)),
            ("throttleReadIOPSDevice", list(|disk| disk.read_iops)),
            ("throttleWriteIOPSDevice", list(|disk| disk.write_iops)),
        ])
    }
}

fn object<const N: usize>(fields: [(&str, Option<Value>); N]) -> Map<String, Value> {
    let present = fields
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)));
    present.collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::arithmetic_side_effects)]

    use super::*;

    #[test]
    fn an_update_leaves_what_it_does_not_name() {
        let old = Resources {
            memory: Some(64 << 20),
            pids_limit: Some(200),
            disks: vec![DiskLimit::default()],
            ..Default::default()
        };
        let new = Resources {
            memory: Some(96 << 20),
            cpu_shares: Some(512),
            ..Default::default()
        };
        let updated = old.updated(&new);
        assert_eq!((updated.memory, updated.pids_limit), (new.memory, old.pids_limit));
        assert_eq!((updated.cpu_shares, updated.disks.len()), (new.cpu_shares, 1));
        let swapping = |swap| Resources {
            memory_swap: Some(swap),
            ..updated.clone()
        };
        for (swap, is_below) in [(-1, false), (0, false), (95 << 20, true), (96 << 20, false)] {
            assert_eq!(swapping(swap).has_swap_below_memory(), is_below, "{swap}");
        }
    }

    #[test]
    fn limits_become_what_the_specification_says() {
        let resources = Resources {
            nano_cpus: Some(1_500_000_000),
            cpu_shares: Some(512),
            cpuset_cpus: Some("0-1".into()),
            memory: Some(64 << 20),
            memory_reservation: Some(32 << 20),
            pids_limit: Some(200),
            disks: vec![DiskLimit {
                serial: "scratch".into(),
                read_bps: Some(1 << 20),
                write_iops: Some(50),
                ..Default::default()
            }],
            ..Default::default()
        };
        let wanted = json!({
            "cpu": { "quota": 150_000, "period": 100_000, "shares": 512, "cpus": "0-1" },
            "memory": { "limit": 64 << 20, "swap": 128 << 20, "reservation": 32 << 20 },
            "pids": { "limit": 200 },
            "blockIO": {
                "throttleReadBpsDevice": [{ "serial": "scratch", "rate": 1 << 20 }],
                "throttleWriteIOPSDevice": [{ "serial": "scratch", "rate": 50 }],
            },
        });
        assert_eq!(resources.to_json(), wanted);
    }

    #[test]
    fn what_is_not_said_is_not_limited() {
        assert_eq!(Resources::default().to_json(), json!({}));
        let unlimited = Resources {
            memory: Some(1 << 20),
            memory_swap: Some(-1),
            ..Default::default()
        };
        assert_eq!(
            unlimited.to_json(),
            json!({ "memory": { "limit": 1 << 20, "swap": -1 } })
        );
    }

    #[test]
    fn a_hundredth_of_a_processor_is_the_least() {
        let least = Resources {
            nano_cpus: Some(1),
            ..Default::default()
        };
        assert_eq!(least.to_json()["cpu"]["quota"], 1000);
    }
}
