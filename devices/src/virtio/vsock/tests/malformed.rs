use virtio_queue::desc::split::Descriptor;

use super::*;
use crate::virtio::testing::{DESC_F_NEXT, DESC_F_WRITE, tracked_memory};

#[test]
fn packets_of_no_connection_are_answered_by_a_reset_and_resets_by_nothing() {
    let mut rig = Rig::new();
    let guest = Guest::new(1024, 53);
    for op in [
        op::RESPONSE,
        op::SHUTDOWN,
        op::RW,
        op::CREDIT_UPDATE,
        op::CREDIT_REQUEST,
        0,
        77,
    ] {
        rig.send(guest.header(op), &[]);
        let reset = rig.expect(op::RST).header;
        assert_eq!((reset.src_port, reset.dst_port, reset.len), (53, 1024, 0));
    }
    rig.send(guest.header(op::RST), &[]);
    rig.expect_silence();
}

#[test]
fn other_hosts_and_other_types_of_sockets_are_refused() {
    let mut rig = Rig::new();
    let _server = rig.server(53);
    let header = Guest::new(1024, 53).header(op::REQUEST);
    for dst_cid in [0, 1, 3, 4, u64::MAX, 2 | 1 << 32] {
        rig.send(Header { dst_cid, ..header }, &[]);
        rig.sleep_after(100);
        // The answer comes from whom the guest asked.
        let used = rig.queues[RX].used()[0];
        let buffer = rig.rx_buffers.remove(&used.head).unwrap();
        let bytes = rig.queues[RX].contents(buffer);
        let reset = Header::decode(bytes.first_chunk().unwrap());
        assert_eq!(
            (reset.op, reset.src_cid, reset.dst_cid),
            (op::RST, dst_cid, CID.into())
        );
        rig.give_rx(buffer);
    }
    for socket_type in [0, 2, 3, u16::MAX] {
        rig.send(
            Header {
                socket_type,
                ..header
            },
            &[],
        );
        let reset = rig.expect(op::RST).header;
        assert_eq!(reset.socket_type, socket_type);
    }
    assert_eq!(rig.connections(), 0);
}

#[test]
fn a_guest_cannot_speak_for_others() {
    let mut rig = Rig::new();
    let (mut client, guest) = rig.connected();
    for src_cid in [0, 1, 2, 4, 3 | 1 << 32] {
        rig.send(
            Header {
                src_cid,
                ..guest.header(op::RST)
            },
            &[],
        );
        rig.send(
            Header {
                src_cid,
                ..guest.header(op::RW)
            },
            b"forged",
        );
    }
    rig.expect_silence();
    rig.send(guest.header(op::RW), b"genuine");
    assert_eq!(read_exactly(&mut client, 7), b"genuine");
}

#[test]
fn operations_out_of_place_reset_the_connection_or_do_nothing() {
    let mut rig = Rig::new();
    let _server = rig.server(53);
    // Data before the answer.
    let mut client = rig.client(52);
    let guest = Guest::answering(&rig.expect(op::REQUEST).header);
    rig.send(guest.header(op::RW), b"early");
    rig.expect(op::RST);
    assert!(is_closed(&mut client));
    // A request for what exists.
    let (mut client, guest) = rig.connected();
    rig.send(guest.header(op::REQUEST), &[]);
    rig.expect(op::RST);
    assert!(is_closed(&mut client));
    // Data after its end.
    let (mut client, guest) = rig.connected();
    rig.send(guest.shutdown(shutdown::SEND), &[]);
    rig.send(guest.header(op::RW), b"late");
    rig.expect(op::RST);
    assert!(is_closed(&mut client));
    // What is unknown, twice accepted, or empty.
    let (mut client, guest) = rig.connected();
    for op in [0, 8, u16::MAX, op::RESPONSE, op::RW] {
        rig.send(guest.header(op), &[]);
    }
    rig.send(guest.shutdown(0), &[]);
    rig.send(guest.shutdown(!shutdown::BOTH), &[]);
    rig.expect_silence();
    rig.send(guest.header(op::RW), b"fine");
    assert_eq!(read_exactly(&mut client, 4), b"fine");
}

#[test]
fn a_packet_shorter_than_it_says_resets_its_connection() {
    let mut rig = Rig::new();
    for len in [5, 6, 1 << 16, u32::MAX] {
        let (mut client, guest) = rig.connected();
        let header = Header {
            len,
            ..guest.header(op::RW)
        };
        rig.send_raw(&[&header.encode()[..], b"four"].concat());
        rig.expect(op::RST);
        assert!(is_closed(&mut client));
    }
    assert_eq!(rig.counters().tx_queue_event_fails, 4);
}

#[test]
fn what_a_chain_holds_beyond_its_packet_is_not_sent() {
    let mut rig = Rig::new();
    let (mut client, guest) = rig.connected();
    let header = Header {
        len: 4,
        ..guest.header(op::RW)
    };
    rig.send_raw(&[&header.encode()[..], b"four and more"].concat());
    rig.send(guest.header(op::RW), b"!");
    assert_eq!(read_exactly(&mut client, 5), b"four!");
}

#[test]
fn a_packet_arrives_whole_however_its_pieces_are_cut() {
    let mut rig = Rig::new();
    let (mut client, guest) = rig.connected();
    let data = noise(200, 2);
    let header = Header {
        len: 200,
        ..guest.header(op::RW)
    };
    let bytes = [&header.encode()[..], &data].concat();
    let cuts: [&[usize]; 6] = [
        &[244],
        &[44, 200],
        &[1; 244],
        &[20, 24, 0, 100, 100],
        &[43, 201],
        &[45, 199],
    ];
    for (round, cut) in cuts.iter().enumerate() {
        let mut rest = &bytes[..];
        let mut pieces = Vec::new();
        for len in *cut {
            let (piece, after) = rest.split_at(*len);
            pieces.push(rig.queues[TX].readable(piece));
            rest = after;
        }
        if round % 2 == 0 {
            rig.queues[TX].add(&pieces);
        } else {
            rig.queues[TX].add_indirect(&pieces);
        }
        rig.announce(TX);
        rig.settle();
        assert!(read_exactly(&mut client, 200) == data, "{cut:?}");
    }
}

#[test]
fn a_packet_is_received_whole_however_the_buffers_are_cut() {
    let mut rig = Rig::with_event_index(false);
    rig.add_rx(1, RX_BUFFER);
    let (mut client, _guest) = rig.connected();
    let first = rig.rx_buffers.values().copied().next().unwrap();
    let cuts: [&[usize]; 6] = [
        &[244],
        &[44, 200],
        &[1; 244],
        &[20, 24, 0, 100, 100],
        &[43, 201],
        &[45, 199],
    ];
    // The one buffer that is left takes nothing.
    client.write_all(&[0; RX_BUFFER - HEADER_LEN]).unwrap();
    rig.sleep_after(100);
    rig.queues[RX].used();
    let _ = first;
    for (round, cut) in cuts.iter().enumerate() {
        let data = noise(200, round as u64);
        let pieces: Vec<_> = cut.iter().map(|len| rig.queues[RX].writable(*len)).collect();
        if round % 2 == 0 {
            rig.queues[RX].add_indirect(&pieces);
        } else {
            rig.queues[RX].add(&pieces);
        }
        client.write_all(&data).unwrap();
        rig.bells[RX].write(1).unwrap();
        rig.sleep_after(100);
        assert_eq!(rig.queues[RX].used()[0].len, 244, "{cut:?}");
        let bytes: Vec<_> = pieces
            .iter()
            .flat_map(|piece| rig.queues[RX].contents(*piece))
            .collect();
        let (header, rest) = bytes.split_first_chunk().unwrap();
        assert_eq!(
            (Header::decode(header).op, Header::decode(header).len),
            (op::RW, 200)
        );
        assert!(rest == data, "{cut:?}");
    }
}

#[test]
fn chains_that_hold_no_packet_are_given_back() {
    let mut rig = Rig::new();
    let (mut client, guest) = rig.connected();
    let whole = guest.header(op::RW).encode();
    let tx = &mut rig.queues[TX];
    tx.used();
    let good = tx.readable(&whole);
    let short = tx.readable(&whole[..43]);
    let writable = tx.writable(64);
    tx.add(&[short]);
    tx.add(&[writable]);
    tx.add(&[good, writable]);
    tx.add(&[Buffer {
        address: 1 << 40,
        ..good
    }]);
    tx.add(&[Buffer {
        address: MEMORY as u64 - 20,
        ..good
    }]);
    tx.add(&[Buffer {
        address: u64::MAX - 3,
        ..good
    }]);
    let endless = tx.take_descriptor();
    tx.write_descriptor(
        endless,
        Descriptor::new(good.address, good.len, DESC_F_NEXT, endless),
    );
    tx.publish(endless);
    tx.publish(0x1234);
    tx.add_indirect(&vec![Buffer { len: 1, ..good }; 1100]);
    rig.bells[TX].write(1).unwrap();
    rig.expect_silence();
    assert_eq!(rig.queues[TX].used().len(), 9);
    assert_eq!(rig.counters().tx_queue_event_fails, 9);
    rig.added[TX] = rig.added[TX].wrapping_add(9);
    rig.send(guest.header(op::RW), b"good");
    assert_eq!(read_exactly(&mut client, 4), b"good");
}

#[test]
fn useless_receive_buffers_are_given_back_and_lose_nothing() {
    let mut rig = Rig::with_event_index(false);
    let rx = &mut rig.queues[RX];
    let good = rx.writable(100);
    let readable = rx.readable(&[0; 100]);
    rx.add(&[Buffer { len: 44, ..good }]);
    rx.add(&[Buffer { len: 20, ..good }]);
    rx.add(&[readable]);
    rx.add(&[good, readable]);
    rx.add(&[Buffer {
        address: 1 << 40,
        ..good
    }]);
    let endless = rx.take_descriptor();
    rx.write_descriptor(
        endless,
        Descriptor::new(good.address, 64, DESC_F_NEXT | DESC_F_WRITE, endless),
    );
    rx.publish(endless);
    rx.add(&[good]);
    let mut client = rig.client(52);
    rig.bells[RX].write(1).unwrap();
    rig.sleep_after(100);
    let lens: Vec<_> = rig.queues[RX].used().iter().map(|used| used.len).collect();
    assert_eq!(lens, [0, 0, 0, 0, 0, 0, 44]);
    assert_eq!(rig.counters().rx_queue_event_fails, 6);
    let bytes = rig.queues[RX].contents(good);
    let request = Header::decode(bytes.first_chunk().unwrap());
    assert_eq!((request.op, request.dst_port), (op::REQUEST, 52));
    client.write_all(b"x").unwrap();
}

#[test]
fn a_guest_that_takes_no_answers_cannot_make_them_pile_up() {
    let mut rig = Rig::with_event_index(false);
    let guest = Guest::new(1024, 53);
    let buffer = rig.queues[TX].readable(&guest.header(op::RW).encode());
    for _ in 0..20 {
        for _ in 0..256 {
            rig.queues[TX].add(&[buffer]);
        }
        rig.bells[TX].write(1).unwrap();
        rig.sleep_after(1000);
        if rig.queues[TX].used().len() < 256 {
            break;
        }
    }
    let answered = rig.counters().tx_packets_count;
    assert!((1000..1100).contains(&answered), "{answered}");
    // Once it takes them, it is heard again.
    rig.add_rx(250, RX_BUFFER);
    let mut resets = 0;
    while resets < 1280 {
        rig.expect(op::RST);
        resets += 1;
    }
    rig.expect_silence();
}

#[test]
fn pages_that_a_packet_touched_are_dirty_and_no_others() {
    let mut rig = Rig::with_event_index(false);
    rig.vsock.reset();
    rig.memory = tracked_memory(&[(0, MEMORY)]);
    rig.queues = lay_out(&rig.memory);
    rig.activate();
    rig.add_rx(2, RX_BUFFER);
    let (mut client, _guest) = rig.connected();
    // Buffers that nobody has written to, behind the two that are still there.
    let at = rig.queues[RX].allocate(128 << 10).next_multiple_of(4096);
    for page in [0, 2, 4] {
        let (address, writable) = (at + page * 4096, true);
        let pieces = [
            Buffer {
                address,
                len: 44,
                writable,
            },
            Buffer {
                address: address + 4096,
                len: 3000,
                writable,
            },
        ];
        rig.queues[RX].add(&pieces);
    }
    client
        .write_all(&[7; 2 * (RX_BUFFER - HEADER_LEN) + 3500])
        .unwrap();
    rig.sleep_after(100);
    let lens: Vec<_> = rig.queues[RX].used().iter().map(|used| used.len).collect();
    assert_eq!(lens[lens.len() - 2..], [3044, 544]);
    let marks: Vec<_> = (0..6)
        .map(|page| is_dirty(&rig.memory, at + page * 4096))
        .collect();
    assert_eq!(marks, [true, true, true, true, false, false]);
}

fn is_dirty(memory: &GuestRam, address: u64) -> bool {
    use vm_memory::bitmap::Bitmap;
    use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};
    let region = memory.find_region(GuestAddress(address)).unwrap();
    region.bitmap().dirty_at(usize::try_from(address).unwrap())
}
