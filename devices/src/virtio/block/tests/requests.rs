//! Every type of request, however the driver cuts it up.

use super::*;

fn each(test: impl Fn(&mut Machine)) {
    for engine in ENGINES {
        test(&mut Machine::with_engine(engine));
    }
}

#[test]
fn a_read_fills_the_buffer_from_the_disk() {
    each(|machine| {
        let outcome = machine.read(3, 2048);
        assert_eq!((outcome.status(), outcome.len), (OK, 2049));
        assert_eq!(outcome.data(), pattern_at(3 * 512, 2048));
        assert_eq!(machine.line.take(), 1);
        let metrics = machine.block.metrics();
        assert_eq!((metrics.read_count, metrics.read_bytes), (1, 2048));
    });
}

#[test]
fn a_write_changes_its_sectors_and_no_others() {
    each(|machine| {
        let outcome = machine.write(5, &[0xee; 1024]);
        assert_eq!((outcome.status(), outcome.len), (OK, 1));
        assert_eq!(machine.disk(5 * 512, 1024), [0xee; 1024]);
        assert_eq!(machine.disk(0, 5 * 512), pattern_at(0, 5 * 512));
        assert_eq!(machine.disk(7 * 512, 57 * 512), pattern_at(7 * 512, 57 * 512));
        let metrics = machine.block.metrics();
        assert_eq!((metrics.write_count, metrics.write_bytes), (1, 1024));
    });
}

#[test]
fn the_last_sector_can_be_reached_and_the_next_cannot() {
    each(|machine| {
        assert_eq!(machine.read(SECTORS - 1, 512).status(), OK);
        assert_eq!(machine.write(SECTORS - 1, &[1; 512]).status(), OK);
        assert_eq!(machine.read(SECTORS - 1, 1024).status(), IOERR);
        assert_eq!(machine.write(SECTORS, &[1; 512]).status(), IOERR);
        let len = machine.file.as_file().metadata().unwrap().len();
        assert_eq!(len, SECTORS * 512, "the file must not grow");
    });
}

#[test]
fn a_flush_succeeds() {
    each(|machine| {
        machine.write(0, &[1; 512]);
        let outcome = machine.request(FLUSH, 0, &[], 0);
        assert_eq!((outcome.status(), outcome.len), (OK, 1));
        assert_eq!(machine.block.metrics().flush_count, 1);
    });
}

#[test]
fn the_serial_number_is_the_drive_id() {
    each(|machine| {
        let outcome = machine.request(GET_ID, 0, &[], 20);
        assert_eq!((outcome.status(), outcome.len), (OK, 21));
        assert_eq!(outcome.data(), b"rootfs\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        let longer = machine.request(GET_ID, 0, &[], 24);
        assert_eq!((longer.status(), longer.len), (OK, 25));
        assert_eq!(longer.data(), b"rootfs\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(machine.request(GET_ID, 0, &[], 19).status(), IOERR);
    });
}

#[test]
fn discarded_sectors_give_their_space_back() {
    use std::os::unix::fs::MetadataExt;
    each(|machine| {
        machine.write(0, &[7; 32 * 512]);
        machine.file.as_file().sync_all().unwrap();
        let before = machine.file.as_file().metadata().unwrap().blocks();
        let ranges = [range(0, 8, 0), range(16, 8, 0), range(40, 0, 0)].concat();
        assert_eq!(machine.request(DISCARD, 0, &ranges, 0).status(), OK);
        let after = machine.file.as_file().metadata().unwrap();
        assert_eq!(after.len(), SECTORS * 512);
        assert_eq!(before - after.blocks(), 16);
        assert_eq!(machine.disk(8 * 512, 8 * 512), [7; 8 * 512]);
        assert_eq!(machine.disk(24 * 512, 8 * 512), [7; 8 * 512]);
        let metrics = machine.block.metrics();
        assert_eq!((metrics.discard_count, metrics.discard_bytes), (1, 16 * 512));
    });
}

#[test]
fn zeroed_sectors_read_as_zeroes_with_and_without_unmap() {
    each(|machine| {
        for (sector, flags) in [(2, 0), (20, 1)] {
            assert_eq!(
                machine
                    .request(WRITE_ZEROES, 0, &range(sector, 9, flags), 0)
                    .status(),
                OK
            );
            let outcome = machine.read(sector - 1, 11 * 512);
            assert_eq!(outcome.data()[..512], pattern_at((sector - 1) * 512, 512));
            assert_eq!(outcome.data()[512..10 * 512], [0; 9 * 512]);
            assert_eq!(outcome.data()[10 * 512..], pattern_at((sector + 9) * 512, 512));
        }
    });
}

#[test]
fn an_unknown_type_is_unsupported() {
    each(|machine| {
        // 2 and 3 are SCSI passthrough, 14 is secure erase, 16 reports zones.
        for request_type in [2, 3, 5, 6, 7, 9, 10, 12, 14, 15, 16, 0x8000_0000, u32::MAX] {
            let outcome = machine.request(request_type, 0, &[], 512);
            assert_eq!(outcome.status(), UNSUPP, "{request_type}");
            assert_eq!(outcome.data(), [0xa5; 512], "{request_type}");
        }
        assert!(machine.disk_is_untouched());
        assert_eq!(machine.block.metrics().invalid_reqs_count, 13);
    });
}

/// Sends `readable` and `room` writable bytes, cut at `cuts` of all their bytes together.
fn send_cut(machine: &mut Machine, readable: &[u8], room: usize, cuts: &[usize], indirect: bool) -> Outcome {
    let whole_out = machine.queue.readable(readable);
    let whole_in = machine.queue.writable(room);
    let mut edges = vec![0, readable.len(), readable.len() + room];
    edges.extend(cuts);
    edges.sort_unstable();
    edges.dedup();
    let buffers: Vec<_> = edges
        .windows(2)
        .map(|edge| {
            let (from, whole) = match edge[0].checked_sub(readable.len()) {
                Some(from) => (from, whole_in),
                None => (edge[0], whole_out),
            };
            let len = u32::try_from(edge[1] - edge[0]).unwrap();
            Buffer {
                address: whole.address + from as u64,
                len,
                writable: whole.writable,
            }
        })
        .collect();
    if !indirect {
        return machine.send(&buffers);
    }
    machine.queue.add_indirect(&buffers);
    let len = machine.serve(1)[0].len;
    Outcome {
        len,
        written: machine.queue.contents(whole_in),
    }
}

#[test]
fn a_request_may_be_cut_at_every_byte() {
    for indirect in [false, true] {
        let mut machine = Machine::with_engine(Engine::Sync);
        for cut in 0..16 + 512 + 1 {
            let outcome = send_cut(&mut machine, &header(IN, 9), 513, &[cut, cut / 2], indirect);
            assert_eq!((outcome.status(), outcome.len), (OK, 513), "{cut}");
            assert_eq!(outcome.data(), pattern_at(9 * 512, 512), "{cut}");

            let data: Vec<u8> = (0..512).map(|byte| (byte + cut) as u8).collect();
            let outcome = send_cut(
                &mut machine,
                &[header(OUT, 11), data.clone()].concat(),
                1,
                &[cut, 3],
                indirect,
            );
            assert_eq!((outcome.status(), outcome.len), (OK, 1), "{cut}");
            assert_eq!(machine.disk(11 * 512, 512), data, "{cut}");

            let readable = [header(WRITE_ZEROES, 0), range(30, 1, 0)].concat();
            assert_eq!(
                send_cut(&mut machine, &readable, 1, &[cut % 33, 20], indirect).status(),
                OK,
                "{cut}"
            );
            assert_eq!(machine.disk(30 * 512, 512), [0; 512]);
            machine.write(30, &[1; 512]);

            let outcome = send_cut(&mut machine, &header(GET_ID, 0), 21, &[cut % 37], indirect);
            assert_eq!(&outcome.data()[..7], b"rootfs\0", "{cut}");
            // Buffers are never given back by the mock driver; start over with a fresh heap.
            machine.block.reset();
            machine.queue = MockQueue::new(&machine.memory, QUEUE_BASE, 256);
            machine.activate(features::F_EVENT_IDX);
        }
    }
}

#[test]
fn a_request_in_pieces_of_one_byte_needs_an_indirect_table_and_works() {
    each(|machine| {
        let cuts: Vec<usize> = (0..16 + 512 + 1).collect();
        let outcome = send_cut(machine, &header(IN, 4), 513, &cuts, true);
        assert_eq!(outcome.status(), OK);
        assert_eq!(outcome.data(), pattern_at(4 * 512, 512));
    });
}

#[test]
fn scattered_buffers_are_filled_in_their_order() {
    each(|machine| {
        let readable = machine.queue.readable(&header(IN, 0));
        let rooms: Vec<_> = [700, 1, 311, 12]
            .iter()
            .map(|len| machine.queue.writable(*len))
            .collect();
        let status = machine.queue.writable(1);
        let chain = [readable, rooms[2], rooms[0], rooms[3], rooms[1], status];
        let outcome = machine.send(&chain);
        assert_eq!(outcome.status(), OK);
        assert_eq!(outcome.data(), pattern_at(0, 1024));
    });
}

#[test]
fn a_queue_full_of_requests_takes_one_interrupt() {
    let mut machine = Machine::with_engine(Engine::Sync);
    let header = machine.queue.readable(&header(IN, 1));
    let rooms: Vec<_> = (0..85)
        .map(|_| (machine.queue.writable(512), machine.queue.writable(1)))
        .collect();
    for (room, status) in &rooms {
        machine.queue.add(&[header, *room, *status]);
    }
    machine.serve(85);
    assert_eq!(machine.line.take(), 1);
    for (room, status) in rooms {
        assert_eq!(machine.queue.contents(status), [OK]);
        assert_eq!(machine.queue.contents(room), pattern_at(512, 512));
    }
}

#[test]
fn pages_that_a_read_fills_are_marked_dirty_and_others_are_not() {
    use vm_memory::bitmap::Bitmap;
    use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};
    for engine in ENGINES {
        let mut machine = Machine::with_engine(engine);
        machine.block.reset();
        machine.memory = tracked_memory(&[(0, MEMORY)]);
        machine.queue = MockQueue::new(&machine.memory, QUEUE_BASE, 256);
        machine.activate(0);
        let header = machine.queue.readable(&header(IN, 0));
        let status = machine.queue.writable(1);
        let region = machine.memory.iter().next().unwrap();
        region.get_mmap().bitmap().as_ref().unwrap().reset();
        let room = Buffer {
            address: 0x5f00,
            len: 0x200,
            writable: true,
        };
        machine.queue.add(&[header, room, status]);
        machine.serve(1);
        let region = machine.memory.iter().next().unwrap();
        let dirty = |page: usize| region.bitmap().dirty_at(page << 12);
        assert_eq!([4, 5, 6, 7].map(dirty), [false, true, true, false]);
    }
}
