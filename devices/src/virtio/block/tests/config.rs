//! What a driver learns before its first request.

use super::*;

fn config(machine: &Machine) -> [u8; 64] {
    let mut config = [0; 64];
    machine.block.read_config(0, &mut config);
    config
}

fn u32_at(config: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(config[offset..offset + 4].try_into().unwrap())
}

#[test]
fn a_writable_disk_describes_itself() {
    let machine = Machine::with_engine(Engine::Sync);
    assert_eq!(machine.block.device_type(), 2);
    assert_eq!(machine.block.queue_max_sizes(), [256]);
    let config = config(&machine);
    assert_eq!(u64::from_le_bytes(config[..8].try_into().unwrap()), SECTORS);
    let fields = [8, 12, 20, 36, 40, 44, 48, 52].map(|offset| u32_at(&config, offset));
    assert_eq!(fields, [256 << 10, 254, 512, 1 << 21, 16, 8, 1 << 17, 1]);
    assert_eq!(config[34..36], [1, 0], "one queue");
    assert_eq!(config[56], 1, "write-zeroes may unmap");
    assert_eq!(config[60..], [0; 4]);
}

#[test]
fn features_follow_cache_and_access() {
    let features = |read_only, cache| {
        let config = BlockConfig {
            cache,
            ..Default::default()
        };
        Machine::new(Options {
            read_only,
            config,
            ..Default::default()
        })
        .block
        .features()
    };
    let common = 1 << 1 | 1 << 2 | 1 << 6 | 1 << 28 | 1 << 29;
    let changes = 1 << 13 | 1 << 14;
    assert_eq!(features(false, CacheMode::Unsafe), common | changes);
    assert_eq!(features(false, CacheMode::Writeback), common | changes | 1 << 9);
    assert_eq!(features(true, CacheMode::Unsafe), common | 1 << 5);
    assert_eq!(features(true, CacheMode::Writeback), common | 1 << 5 | 1 << 9);
}

#[test]
fn the_configuration_cannot_be_written() {
    let mut machine = Machine::with_engine(Engine::Sync);
    let before = config(&machine);
    machine.block.write_config(0, &[0xff; 8]);
    assert_eq!(config(&machine), before);
    assert_eq!(machine.block.metrics().cfg_fails, 1);
}

#[test]
fn a_disk_without_its_queue_does_not_start() {
    let file = disk_file(1);
    let mut block = Block::new(BlockConfig::default(), Engine::Sync.open(file.as_path(), false)).unwrap();
    let memory = guest_memory(MEMORY);
    assert!(
        block
            .activate(Activation {
                memory,
                queues: Vec::new(),
                features: 0
            })
            .is_err()
    );
    assert_eq!(block.metrics().activate_fails, 1);
    block.process_queue(0).unwrap();
    block.reset();
}

#[test]
fn with_the_event_index_the_driver_is_interrupted_when_it_asked_for_it() {
    for engine in ENGINES {
        let mut machine = Machine::new(Options {
            engine,
            refused_features: 0,
            ..Default::default()
        });
        let head = machine.queue.readable(&header(IN, 0));
        let rest = machine.queue.writable(513);
        machine.queue.set_used_event(2);
        for expected in [0, 0, 1, 0] {
            machine.queue.add(&[head, rest]);
            machine.serve(1);
            assert_eq!(machine.line.take(), expected);
        }
    }
}
