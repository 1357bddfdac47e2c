//! What no sensible driver sends.

use virtio_queue::desc::split::Descriptor;

use super::*;
use crate::virtio::testing::{DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE};

/// The machine's answer to `buffers`, with nothing changed on the disk.
fn refused(build: impl Fn(&mut MockQueue) -> Vec<Buffer>) -> (u32, Vec<u8>) {
    let mut answers = ENGINES.iter().map(|engine| {
        let mut machine = Machine::with_engine(*engine);
        let buffers = build(&mut machine.queue);
        let outcome = machine.send(&buffers);
        assert!(machine.disk_is_untouched());
        assert_eq!(machine.block.metrics().invalid_reqs_count, 1);
        assert_eq!(machine.read(0, 512).status(), OK, "the disk works on");
        (outcome.len, outcome.written)
    });
    let answer = answers.next().unwrap();
    assert_eq!(answers.next().unwrap(), answer);
    answer
}

#[test]
fn a_chain_without_a_writable_byte_is_given_back_unanswered() {
    assert_eq!(refused(|queue| vec![queue.readable(&header(IN, 0))]), (0, vec![]));
    assert_eq!(
        refused(|queue| vec![queue.readable(&header(OUT, 0)), queue.readable(&[1; 512])]),
        (0, vec![])
    );
    let empty_status = |queue: &mut MockQueue| {
        let status = Buffer {
            len: 0,
            ..queue.writable(1)
        };
        vec![queue.readable(&header(IN, 0)), status]
    };
    assert_eq!(refused(empty_status), (0, vec![]));
}

#[test]
fn a_header_that_is_writable_or_short_is_an_error() {
    assert_eq!(
        refused(|queue| vec![queue.writable(16), queue.writable(1)])
            .1
            .last(),
        Some(&IOERR)
    );
    assert_eq!(refused(|queue| vec![queue.writable(1)]), (1, vec![IOERR]));
    assert_eq!(
        refused(|queue| vec![queue.readable(&[0; 15]), queue.writable(1)]),
        (1, vec![IOERR])
    );
}

#[test]
fn readable_data_after_writable_is_an_error() {
    let build = |queue: &mut MockQueue| {
        let status = queue.writable(1);
        vec![queue.readable(&header(OUT, 0)), status, queue.readable(&[1; 512])]
    };
    assert_eq!(refused(build), (1, vec![IOERR]));
}

#[test]
fn data_that_does_not_suit_the_request_is_an_error_and_stays_as_it_is() {
    let cases: [(u32, usize, usize); 16] = [
        (IN, 0, 0),
        (IN, 0, 511),
        (IN, 0, 513),
        (IN, 512, 0),
        (IN, 512, 512),
        (OUT, 0, 0),
        (OUT, 1000, 0),
        (OUT, 0, 512),
        (OUT, 512, 512),
        (FLUSH, 512, 0),
        (FLUSH, 0, 512),
        (GET_ID, 20, 0),
        (GET_ID, 0, 0),
        (DISCARD, 0, 16),
        (WRITE_ZEROES, 0, 16),
        (WRITE_ZEROES, 16, 16),
    ];
    for (request_type, data_out, data_in) in cases {
        let (len, written) = refused(|queue| {
            let mut buffers = vec![queue.readable(&[header(request_type, 0), vec![0; data_out]].concat())];
            buffers.push(queue.writable(data_in + 1));
            buffers
        });
        let (status, data) = written.split_last().unwrap();
        assert_eq!(*status, IOERR, "{request_type} {data_out} {data_in}");
        assert!(
            data.iter().all(|byte| *byte == 0xa5),
            "{request_type} {data_out} {data_in}"
        );
        assert_eq!(len, if data_in == 0 { 1 } else { 0 });
    }
}

#[test]
fn sectors_that_are_not_there_are_an_error_even_when_their_number_overflows() {
    for sector in [
        SECTORS,
        SECTORS + 1,
        1 << 55,
        u64::MAX / 512,
        u64::MAX - 1,
        u64::MAX,
    ] {
        let read = refused(|queue| vec![queue.readable(&header(IN, sector)), queue.writable(513)]);
        assert_eq!(read.1.last(), Some(&IOERR), "{sector:#x}");
        let write = refused(|queue| {
            vec![
                queue.readable(&[header(OUT, sector), vec![1; 512]].concat()),
                queue.writable(1),
            ]
        });
        assert_eq!(write, (1, vec![IOERR]), "{sector:#x}");
        for request_type in [DISCARD, WRITE_ZEROES] {
            let change = refused(|queue| {
                let data = [header(request_type, 0), range(sector, 1, 0)].concat();
                vec![queue.readable(&data), queue.writable(1)]
            });
            assert_eq!(change, (1, vec![IOERR]), "{sector:#x}");
        }
    }
}

#[test]
fn ranges_must_suit_what_the_device_offers() {
    let cases = [
        (DISCARD, range(0, 1, 1), UNSUPP),
        (DISCARD, range(0, 1, 2), UNSUPP),
        (WRITE_ZEROES, range(0, 1, 2), UNSUPP),
        (WRITE_ZEROES, range(0, 1, u32::MAX), UNSUPP),
        (DISCARD, range(0, u32::MAX, 0), IOERR),
        (WRITE_ZEROES, range(0, u32::MAX, 0), IOERR),
        (WRITE_ZEROES, [range(0, 1, 0), range(1, 1, 0)].concat(), IOERR),
        (DISCARD, range(0, 1, 0)[..15].to_vec(), IOERR),
        (DISCARD, range(0, 1, 0).repeat(17), IOERR),
        (DISCARD, [range(0, 1, 0), vec![0]].concat(), IOERR),
        // One bad range spoils the good one before it.
        (DISCARD, [range(0, 8, 0), range(SECTORS, 8, 0)].concat(), IOERR),
    ];
    for (request_type, ranges, status) in cases {
        let build = |queue: &mut MockQueue| {
            vec![
                queue.readable(&[header(request_type, 0), ranges.clone()].concat()),
                queue.writable(1),
            ]
        };
        assert_eq!(refused(build), (1, vec![status]), "{request_type} {ranges:?}");
    }
}

#[test]
fn a_giant_number_of_ranges_is_refused_without_a_look_at_them() {
    let mut machine = Machine::with_engine(Engine::Sync);
    let head = machine.queue.readable(&header(DISCARD, 0));
    let status = machine.queue.writable(1);
    let ranges = Buffer {
        address: 0,
        len: 0xffff_ff00,
        writable: false,
    };
    machine.queue.add(&[head, ranges, status]);
    machine.serve(1);
    assert_eq!(machine.queue.contents(status), [IOERR]);
}

#[test]
fn buffers_outside_memory_are_an_error() {
    for (address, len) in [
        (MEMORY as u64, 512),
        (MEMORY as u64 - 1, 512),
        (u64::MAX - 511, 512),
        (u64::MAX, 512),
    ] {
        for engine in ENGINES {
            let mut machine = Machine::with_engine(engine);
            for (request_type, writable) in [(IN, true), (OUT, false)] {
                let head = machine.queue.readable(&header(request_type, 0));
                let status = machine.queue.writable(1);
                machine.queue.add(&[
                    head,
                    Buffer {
                        address,
                        len,
                        writable,
                    },
                    status,
                ]);
                machine.serve(1);
                assert_eq!(machine.queue.contents(status), [IOERR], "{address:#x}");
            }
            let status = machine.queue.writable(1);
            machine.queue.add(&[
                Buffer {
                    address,
                    len: 16,
                    writable: false,
                },
                status,
            ]);
            assert_eq!(machine.serve(1)[0].len, 1);
            assert_eq!(machine.queue.contents(status), [IOERR], "{address:#x}");
            let head = machine.queue.readable(&header(FLUSH, 0));
            machine.queue.add(&[
                head,
                Buffer {
                    address,
                    len: 1,
                    writable: true,
                },
            ]);
            let used = machine.serve(1)[0];
            assert_eq!(
                used.len,
                if address == MEMORY as u64 - 1 { 1 } else { 0 },
                "{address:#x}"
            );
            assert!(machine.disk_is_untouched());
        }
    }
}

#[test]
fn one_page_named_ever_so_often_does_not_make_a_request_of_gigabytes() {
    let mut machine = Machine::new(Options {
        sectors: 1 << 16,
        ..Default::default()
    });
    machine.truncate(1 << 40);
    machine
        .block
        .replace_backend(Engine::Sync.open(&machine.path(), false))
        .unwrap();
    let head = machine.queue.readable(&header(IN, 0));
    let status = machine.queue.writable(1);
    let mut chain = vec![head];
    chain.extend(
        [Buffer {
            address: 0,
            len: 1 << 20,
            writable: true,
        }; 64],
    );
    chain.push(status);
    machine.queue.add(&chain);
    machine.serve(1);
    assert_eq!(machine.queue.contents(status), [IOERR]);
}

#[test]
fn chains_that_loop_or_leave_their_table_are_given_back_unanswered() {
    let mut machine = Machine::with_engine(Engine::Sync);
    let head = machine.queue.readable(&header(IN, 0));
    let room = machine.queue.writable(513);
    let table = machine.queue.allocate(64);
    let last = Descriptor::new(room.address, 513, DESC_F_WRITE, 0);
    let chains: [&[Descriptor]; 6] = [
        // Loops.
        &[
            Descriptor::new(head.address, 16, DESC_F_NEXT, 1),
            Descriptor::new(room.address, 513, DESC_F_WRITE | DESC_F_NEXT, 0),
        ],
        // Leaves the table.
        &[
            Descriptor::new(head.address, 16, DESC_F_NEXT, 1),
            Descriptor::new(room.address, 513, DESC_F_WRITE | DESC_F_NEXT, 256),
        ],
        // An indirect table outside memory, of odd length, and none at all.
        &[Descriptor::new(u64::MAX - 15, 32, DESC_F_INDIRECT, 0), last],
        &[Descriptor::new(table, 33, DESC_F_INDIRECT, 0), last],
        &[Descriptor::new(table, 0, DESC_F_INDIRECT, 0), last],
        // More than 2³² bytes.
        &[
            Descriptor::new(head.address, 16, DESC_F_NEXT, 1),
            Descriptor::new(0, u32::MAX, DESC_F_WRITE | DESC_F_NEXT, 2),
            Descriptor::new(0, u32::MAX, DESC_F_WRITE | DESC_F_NEXT, 3),
            last,
        ],
    ];
    for (number, chain) in chains.iter().enumerate() {
        for (index, descriptor) in (0..).zip(*chain) {
            machine.queue.write_descriptor(index, *descriptor);
        }
        machine.queue.publish(0);
        assert_eq!(machine.serve(1)[0].len, 0, "{number}");
        assert_eq!(machine.queue.contents(room), [0xa5; 513], "{number}");
    }
    // A table that refers to a table.
    let inner = Descriptor::new(table, 32, DESC_F_INDIRECT, 0);
    vm_memory::Bytes::write_obj(&machine.memory, inner, GuestAddress(table)).unwrap();
    machine.queue.write_descriptor(0, inner);
    machine.queue.publish(0);
    assert_eq!(machine.serve(1)[0].len, 0);
    // A head that is no descriptor.
    machine.queue.publish(256);
    assert_eq!(machine.serve(1)[0].len, 0);
    assert_eq!(machine.block.metrics().invalid_reqs_count, 8);
}

#[test]
fn a_chain_of_too_many_descriptors_is_given_back_unanswered() {
    let mut machine = Machine::with_engine(Engine::Sync);
    let head = machine.queue.readable(&header(IN, 0));
    let room = machine.queue.writable(1);
    let mut chain = vec![head];
    chain.extend([room; 513]);
    machine.queue.add_indirect(&chain);
    assert_eq!(machine.serve(1)[0].len, 513, "many descriptors are fine");
    chain.extend([room; 1024]);
    machine.queue.add_indirect(&chain);
    assert_eq!(machine.serve(1)[0].len, 0);
}

#[test]
fn an_available_index_that_ran_ahead_is_a_fault_and_a_reset_heals_it() {
    for engine in ENGINES {
        let mut machine = Machine::with_engine(engine);
        machine.queue.set_avail_index(300);
        assert!(machine.block.process_queue(0).is_err());
        assert_eq!(machine.block.metrics().event_fails, 1);
        machine.block.reset();
        assert!(machine.block.queue_positions().is_empty());
        machine.queue = MockQueue::new(&machine.memory, QUEUE_BASE, 256);
        machine.activate(0);
        assert_eq!(machine.read(0, 512).status(), OK);
    }
}

#[test]
fn the_guest_cannot_change_a_read_only_disk() {
    for engine in ENGINES {
        let mut machine = Machine::new(Options {
            engine,
            read_only: true,
            ..Default::default()
        });
        assert_eq!(machine.write(0, &[1; 512]).status(), IOERR);
        assert_eq!(machine.request(DISCARD, 0, &range(0, 8, 0), 0).status(), IOERR);
        assert_eq!(
            machine.request(WRITE_ZEROES, 0, &range(0, 8, 1), 0).status(),
            IOERR
        );
        assert!(machine.disk_is_untouched());
        assert_eq!(machine.read(0, 512).status(), OK);
        assert_eq!(machine.request(FLUSH, 0, &[], 0).status(), OK);
    }
}
