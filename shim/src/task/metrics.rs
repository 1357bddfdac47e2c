//! What a container uses, as those who read cgroups of version 2 know it.

use protobuf::Message;
use serde_json::Value;

use crate::generated::metrics::{CPUStat, IOEntry, IOStat, MemoryEvents, MemoryStat, Metrics, PidsStat};
use crate::generated::task::Any;

/// Of what `koya-runtime events --stats` prints.
pub fn of(event: &Value) -> Any {
    let number = |path: &str| event.pointer(path).and_then(Value::as_u64).unwrap_or(0);
    let microseconds = |path: &str| number(path) / 1000;
    // The agent says 0 where there is no limit, and others "max".
    let limit = |path: &str| match number(path) {
        0 => u64::MAX,
        limit => limit,
    };
    let metrics = Metrics {
        pids: Some(PidsStat {
            current: number("/data/pids/current"),
            limit: limit("/data/pids/limit"),
            ..Default::default()
        })
        .into(),
        cpu: Some(CPUStat {
            usage_usec: microseconds("/data/cpu/usage/total"),
            user_usec: microseconds("/data/cpu/usage/user"),
            system_usec: microseconds("/data/cpu/usage/kernel"),
            throttled_usec: microseconds("/data/cpu/throttling/throttledTime"),
            ..Default::default()
        })
        .into(),
        memory: Some(MemoryStat {
            inactive_file: number("/data/memory/cache"),
            usage: number("/data/memory/usage/usage"),
            usage_limit: limit("/data/memory/usage/limit"),
            max_usage: number("/data/memory/usage/max"),
            swap_usage: number("/data/memory/swap/usage"),
            ..Default::default()
        })
        .into(),
        memory_events: Some(MemoryEvents {
            oom_kill: number("/data/memory/usage/failcnt"),
            ..Default::default()
        })
        .into(),
        io: Some(IOStat {
            // All of the guest's disks together, which have no numbers of the host.
            usage: vec![IOEntry {
                rbytes: number("/data/blkio/ioServiceBytesRecursive/0/value"),
                wbytes: number("/data/blkio/ioServiceBytesRecursive/1/value"),
                rios: number("/data/blkio/ioServicedRecursive/0/value"),
                wios: number("/data/blkio/ioServicedRecursive/1/value"),
                ..Default::default()
            }],
            ..Default::default()
        })
        .into(),
        ..Default::default()
    };
    Any {
        type_url: "io.containerd.cgroups.v2.Metrics".to_owned(),
        // Writing into a vector cannot fail.
        value: metrics.write_to_bytes().unwrap_or_default(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_counted_keeps_its_unit() {
        let event = json!({ "type": "stats", "id": "web", "data": {
            "cpu": { "usage": { "total": 5_000_000, "kernel": 2000, "user": 3000 } },
            "memory": { "cache": 7, "usage": { "limit": 1 << 20, "usage": 4096, "max": 8192, "failcnt": 1 } },
            "pids": { "current": 3, "limit": 50 },
            "blkio": { "ioServiceBytesRecursive": [{ "op": "Read", "value": 512 }, { "op": "Write", "value": 1024 }] },
        } });
        let any = of(&event);
        let metrics = Metrics::parse_from_bytes(&any.value).unwrap();
        assert_eq!((metrics.cpu.usage_usec, metrics.cpu.user_usec), (5000, 3));
        assert_eq!(
            (metrics.memory.usage, metrics.memory.usage_limit),
            (4096, 1 << 20)
        );
        assert_eq!(
            (metrics.memory.inactive_file, metrics.memory_events.oom_kill),
            (7, 1)
        );
        assert_eq!((metrics.pids.current, metrics.pids.limit), (3, 50));
        assert_eq!(
            Metrics::parse_from_bytes(&of(&json!({})).value)
                .unwrap()
                .memory
                .usage_limit,
            u64::MAX
        );
        assert_eq!(
            (metrics.io.usage[0].rbytes, metrics.io.usage[0].wbytes),
            (512, 1024)
        );
    }
}
