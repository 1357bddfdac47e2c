//! Where rings and tables lie in memory.

use vm_memory::GuestMemoryBackend;
use vm_memory::bitmap::Bitmap;

use super::*;
use crate::virtio::testing::{guest_memory_ranges, tracked_memory};

/// A queue of 8 descriptors: table, available ring and, after a gap of 2 bytes, used ring.
fn queue_at(base: u64) -> Queue {
    let mut queue = Queue::new(8).unwrap();
    let base = u32::try_from(base).unwrap();
    queue.set_desc_table_address(Some(base), None);
    queue.set_avail_ring_address(Some(base + 128), None);
    queue.set_used_ring_address(Some(base + 152), None);
    queue.set_event_idx(true);
    queue.set_ready(true);
    queue
}

/// Bytes of [`queue_at`].
const QUEUE: u64 = 152 + 6 + 8 * 8;

#[test]
fn rings_work_in_any_region() {
    let memory = guest_memory_ranges(&[(0, 0x10000), (0x10000, 0x10000), (1 << 32, 0x10000)]);
    for base in [0x1000, 0x10000, 1 << 32] {
        let mut bench = bench_in(&memory, base, 8, true);
        let request = bench.driver.readable(b"ping");
        let head = bench.driver.add(&[request]);
        let mut seen = Vec::new();
        let drained = bench.device.drain(|chain| {
            seen.extend(chain.map(|part| part.addr().0));
            Step::Used(3)
        });
        assert_eq!(drained.unwrap(), Drained::Empty);
        assert_eq!(seen, [request.address]);
        assert_eq!(bench.driver.used(), [Used { head, len: 3 }]);
        assert_eq!(bench.driver.avail_event(), 1);
    }
}

#[test]
fn every_ring_must_lie_in_one_region() {
    // Just right: the last field of the used ring, which is written first, ends with the region.
    let memory_of =
        |size: u64| guest_memory_ranges(&[(0x4000, 0x1000), (0x5000, usize::try_from(size).unwrap())]);
    let activate = |memory: GuestRam, base| {
        let doorbell = Arc::new(EventFd::new(0).unwrap());
        ActiveQueue::new(queue_at(base), memory, CountingLine::shared(), doorbell)
    };
    let mut device = activate(memory_of(QUEUE), 0x5000).unwrap();
    assert!(!device.enable_notification().unwrap());
    device.push_used(&[(0, 0); 8]).unwrap();

    for (size, base) in [
        (QUEUE - 1, 0x5000),
        (QUEUE, 0x5010),
        (QUEUE, 0x4000 - 16),
        // Descriptor table, available ring and used ring across the border of two regions.
        (0x1000, 0x5000 - 16),
        (0x1000, 0x5000 - 144),
        (0x1000, 0x5000 - 160),
    ] {
        let device = activate(memory_of(size), base);
        assert!(matches!(device, Err(QueueFault::Memory)), "{size:#x} {base:#x}");
    }
}

#[test]
fn an_indirect_table_may_lie_anywhere() {
    let memory = guest_memory_ranges(&[(0, 0x10000), (1 << 32, 0x10000)]);
    for table in [0x8001, (1 << 32) + 7, 0x10000 - 32] {
        let mut bench = bench_in(&memory, 0x1000, 8, false);
        for (index, flags) in [(0, DESC_F_NEXT), (1, DESC_F_WRITE)] {
            let part = Descriptor::new(0x9000 + index, 0x10, flags, 1);
            memory.write_obj(part, GuestAddress(table + 16 * index)).unwrap();
        }
        let refers = Descriptor::new(table, 32, DESC_F_INDIRECT, 0);
        bench.driver.write_descriptor(0, refers);
        bench.driver.publish(0);
        let mut seen = Vec::new();
        let drained = bench.device.drain(|chain| {
            seen.extend(chain.map(|part| (part.addr().0, part.is_write_only())));
            Step::Used(0)
        });
        drained.unwrap();
        assert_eq!(seen, [(0x9000, false), (0x9001, true)], "{table:#x}");
    }
}

#[test]
fn a_table_that_leaves_memory_ends_the_chain_there() {
    let memory = guest_memory_ranges(&[(0, 0x10000)]);
    let mut bench = bench_in(&memory, 0x1000, 8, false);
    let table = 0x10000 - 24;
    let part = Descriptor::new(0x9000, 0x10, DESC_F_NEXT, 1);
    memory.write_obj(part, GuestAddress(table)).unwrap();
    let refers = Descriptor::new(table, 64, DESC_F_INDIRECT, 0);
    bench.driver.write_descriptor(0, refers);
    bench.driver.publish(0);
    let mut parts = 0;
    let drained = bench.device.drain(|mut chain| {
        parts += chain.by_ref().count();
        assert!(chain.next().is_none(), "an ended chain stays ended");
        Step::Used(0)
    });
    assert_eq!(drained.unwrap(), Drained::Empty);
    assert_eq!(parts, 1);
}

#[test]
fn a_table_may_follow_direct_descriptors() {
    let mut bench = bench(8, false);
    let (request, answer) = (bench.driver.readable(b"ping"), bench.driver.writable(8));
    let table = bench.driver.allocate(16);
    let last = Descriptor::new(answer.address, answer.len, DESC_F_WRITE, 0);
    let ram = bench.device.memory().ram();
    ram.write_obj(last, GuestAddress(table)).unwrap();
    let first = Descriptor::new(request.address, request.len, DESC_F_NEXT, 5);
    bench.driver.write_descriptor(0, first);
    let refers = Descriptor::new(table, 16, DESC_F_INDIRECT, 0);
    bench.driver.write_descriptor(5, refers);
    bench.driver.publish(0);
    let mut seen = Vec::new();
    let drained = bench.device.drain(|chain| {
        seen.extend(chain.map(|part| part.addr().0));
        Step::Used(0)
    });
    drained.unwrap();
    assert_eq!(seen, [request.address, answer.address]);
}

#[test]
fn what_the_device_writes_into_its_ring_counts_as_dirty() {
    // 1024 descriptors fill four pages. Page 4 holds the available ring and the used ring's beginning, page 6 its end.
    for (event_index, expected) in [(false, vec![4]), (true, vec![4, 6])] {
        let memory = tracked_memory(&[(0, 0x10000)]);
        let mut bench = bench_in(&memory, 0, 1024, event_index);
        bench.driver.publish(0);
        let region = GuestMemoryBackend::iter(&memory).next().unwrap();
        let mapping = region.get_mmap();
        let tracker = mapping.bitmap().as_ref().unwrap();
        tracker.reset();
        bench.drain();
        let dirty: Vec<_> = (0..16).filter(|page| tracker.dirty_at(page * 4096)).collect();
        assert_eq!(dirty, expected, "event index {event_index}");
    }
}
