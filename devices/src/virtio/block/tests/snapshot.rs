//! Saved in one process, brought back in another.

use super::*;
use crate::rate_limiter::{BucketConfig, RateLimiter};
use crate::state::Snapshot;
use crate::virtio::block::BlockState;

fn limited(engine: Engine) -> Machine {
    let ops = BucketConfig {
        size: 2,
        one_time_burst: 0,
        refill_time_ms: 300,
    };
    let rate_limiter = RateLimiter::new(None, Some(ops)).unwrap();
    let config = BlockConfig {
        id: "rootfs".into(),
        cache: CacheMode::Writeback,
        rate_limiter,
    };
    Machine::new(Options {
        engine,
        config,
        ..Default::default()
    })
}

fn through_json(state: &BlockState) -> BlockState {
    serde_json::from_str(&serde_json::to_string(state).unwrap()).unwrap()
}

#[test]
fn a_disk_goes_on_where_it_was_saved_with_requests_waiting() {
    for engine in ENGINES {
        let mut machine = limited(engine);
        let rooms: Vec<_> = (0..3).map(|_| machine.queue.writable(513)).collect();
        for (sector, room) in (7..).zip(&rooms) {
            let head = machine.queue.readable(&header(IN, sector));
            machine.queue.add(&[head, *room]);
        }
        machine.block.process_queue(0).unwrap();
        machine.block.quiesce().unwrap();
        assert_eq!(
            machine.queue.used().len(),
            2,
            "the third waits for the rate limiter"
        );
        let state = through_json(&machine.block.save());
        let positions = machine.block.queue_positions();
        assert_eq!((positions[0].next_avail, positions[0].next_used), (2, 2));

        let config = BlockConfig {
            id: "rootfs".into(),
            cache: CacheMode::Writeback,
            ..Default::default()
        };
        let mut restored = Block::new(config, engine.open(&machine.path(), false)).unwrap();
        restored.restore(&state).unwrap();
        let mut queue = machine.queue.queue();
        virtio_queue::QueueT::set_next_avail(&mut queue, positions[0].next_avail);
        virtio_queue::QueueT::set_next_used(&mut queue, positions[0].next_used);
        let doorbell = Arc::new(vmm_sys_util::eventfd::EventFd::new(libc::EFD_NONBLOCK).unwrap());
        let queue =
            crate::virtio::ActiveQueue::new(queue, machine.memory.clone(), machine.line.clone(), doorbell)
                .unwrap();
        let features = restored.features();
        restored
            .activate(Activation {
                memory: machine.memory.clone(),
                queues: vec![queue],
                features,
            })
            .unwrap();
        machine.block = restored;
        assert_eq!(through_json(&machine.block.save()).id, "rootfs");
        machine.block.process_queue(0).unwrap();
        assert!(
            machine.queue.used().is_empty(),
            "the rest of the wait was saved too"
        );
        while machine.queue.used().is_empty() {
            machine.serve_event();
        }
        let third = machine.queue.contents(rooms[2]);
        assert_eq!(third[..512], pattern_at(9 * 512, 512));
    }
}

#[test]
fn a_state_of_another_disk_or_version_is_refused() {
    let state = Machine::with_engine(Engine::Sync).block.save();
    type Change = fn(&mut BlockState);
    let changes: [(Change, &str); 6] = [
        (|state| state.version = 2, "version"),
        (|state| state.id = "other".into(), "`id`"),
        (|state| state.read_only = true, "`read_only`"),
        (|state| state.cache = CacheMode::Unsafe, "`cache`"),
        (|state| state.sectors = SECTORS + 1, "`sectors`"),
        (|state| state.rate_limiter.version = 77, "version 77"),
    ];
    for (change, expected) in changes {
        let mut changed = state.clone();
        change(&mut changed);
        let mut machine = Machine::with_engine(Engine::Sync);
        let message = machine.block.restore(&changed).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
    let mut machine = Machine::with_engine(Engine::Sync);
    machine
        .block
        .restore(&BlockState {
            sectors: 1,
            ..state.clone()
        })
        .unwrap();
    assert_eq!(machine.block.sectors(), SECTORS);
    let json = serde_json::to_string(&state).unwrap();
    assert!(serde_json::from_str::<BlockState>(&json.replacen('{', "{\"extra\":1,", 1)).is_err());
}
