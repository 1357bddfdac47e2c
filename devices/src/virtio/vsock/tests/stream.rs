use std::net::Shutdown;
use std::thread;

use super::*;

/// Echoes in the guest whatever comes, as fast as credit allows, until a client got back all it sent.
fn echo(event_index: bool, guest_alloc: u32, rx_buffers: (usize, usize), bytes: usize) {
    let mut rig = Rig::with_event_index(event_index);
    rig.add_rx(rx_buffers.0, rx_buffers.1);
    let (client, mut guest) = rig.connected();
    guest.buf_alloc = guest_alloc;
    rig.send(guest.header(op::CREDIT_UPDATE), &[]);
    let data = noise(bytes, 7);
    let (expected, mut writer, mut reader) = (data.clone(), client.try_clone().unwrap(), client);
    let writing = thread::spawn(move || {
        for piece in data.chunks(40_000) {
            writer.write_all(piece).unwrap();
        }
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let reading = thread::spawn(move || {
        let mut back = Vec::new();
        reader.read_to_end(&mut back).unwrap();
        back
    });
    let mut waiting: VecDeque<u8> = VecDeque::new();
    let (mut sent, mut credit, mut ended, mut in_flight, mut confirmed) = (0u32, WINDOW, false, 0, 0);
    let end = Instant::now() + 2 * PATIENCE;
    while !ended || !waiting.is_empty() {
        assert!(Instant::now() < end, "{sent} of {bytes} bytes came back");
        rig.settle();
        while let Some(packet) = rig.inbox.pop_front() {
            credit = packet.header.buf_alloc - sent.wrapping_sub(packet.header.fwd_cnt);
            match packet.header.op {
                op::RW => {
                    in_flight += packet.header.len;
                    assert!(in_flight <= guest_alloc, "the guest's credit is kept");
                    waiting.extend(packet.data);
                }
                op::SHUTDOWN => {
                    assert_eq!(packet.header.flags, shutdown::SEND);
                    ended = true;
                }
                op::CREDIT_UPDATE => {}
                op::CREDIT_REQUEST => rig.send(guest.header(op::CREDIT_UPDATE), &[]),
                other => panic!("op {other}"),
            }
        }
        let len = waiting.len().min(60_000).min(credit as usize);
        if len > 0 {
            let part: Vec<_> = waiting.drain(..len).collect();
            guest.take(&part);
            in_flight -= len as u32;
            confirmed += len;
            rig.send(guest.header(op::RW), &part);
            sent = sent.wrapping_add(len as u32);
            credit -= len as u32;
        } else {
            readable(rig.vsock.backend_events()[0].fd, 1);
        }
    }
    assert_eq!(confirmed, bytes);
    rig.send(guest.shutdown(shutdown::BOTH), &[]);
    rig.expect_beyond_credit(op::RST);
    while rig.connections() > 0 {
        assert!(Instant::now() < end);
        rig.settle();
    }
    writing.join().unwrap();
    assert!(
        reading.join().unwrap() == expected,
        "the same bytes in the same order"
    );
    assert_eq!(rig.counters().conns_killed, 0);
}

#[test]
fn megabytes_come_back_unchanged() {
    echo(false, 256 << 10, (200, RX_BUFFER), 8 << 20);
}

#[test]
fn megabytes_come_back_unchanged_with_the_event_index() {
    echo(true, 256 << 10, (200, RX_BUFFER), 4 << 20);
}

#[test]
fn megabytes_come_back_through_little_credit_and_few_buffers() {
    echo(false, 5000, (3, 1000), 1 << 20);
}

#[test]
fn megabytes_come_back_through_large_buffers() {
    echo(true, 1 << 20, (100, HEADER_LEN + (64 << 10)), 4 << 20);
}

#[test]
fn one_read_fills_many_packets() {
    let mut rig = Rig::new();
    let (mut client, _guest) = rig.connected();
    let data = noise(100_000, 3);
    client.write_all(&data).unwrap();
    rig.line.take();
    rig.sleep_after(100);
    let packets: Vec<_> = {
        rig.collect();
        rig.inbox.drain(..).collect()
    };
    let bytes: Vec<_> = packets.iter().flat_map(|packet| packet.data.clone()).collect();
    assert!(bytes == data);
    assert!(rig.line.take() <= 2, "one interrupt tells of them all");
    let full = RX_BUFFER - HEADER_LEN;
    assert!(packets.iter().filter(|packet| packet.data.len() == full).count() >= data.len() / full - 3);
}

#[test]
fn data_waits_for_the_guests_credit_and_is_asked_for_it_once() {
    let mut rig = Rig::new();
    let mut client = rig.client(52);
    let mut guest = Guest::answering(&rig.expect(op::REQUEST).header);
    guest.buf_alloc = 10;
    rig.send(guest.header(op::RESPONSE), &[]);
    client.write_all(b"0123456789abcdef").unwrap();
    assert_eq!(rig.expect(op::RW).data, b"0123456789");
    rig.expect(op::CREDIT_REQUEST);
    rig.expect_silence();
    rig.send(guest.header(op::CREDIT_UPDATE), &[]);
    rig.expect_silence();
    guest.fwd_cnt = 4;
    rig.send(guest.header(op::CREDIT_UPDATE), &[]);
    assert_eq!(rig.expect(op::RW).data, b"abcd");
    rig.expect(op::CREDIT_REQUEST);
    // A guest that shrinks what it can hold below what is on its way, or claims to have passed on more than it got.
    guest.buf_alloc = 5;
    rig.send(guest.header(op::CREDIT_UPDATE), &[]);
    rig.expect(op::CREDIT_REQUEST);
    guest.fwd_cnt = 1000;
    rig.send(guest.header(op::CREDIT_UPDATE), &[]);
    rig.expect(op::CREDIT_REQUEST);
    guest.fwd_cnt = 14;
    rig.send(guest.header(op::CREDIT_UPDATE), &[]);
    assert_eq!(rig.expect(op::RW).data, b"ef");
}

#[test]
fn data_waits_for_the_guests_buffers() {
    let mut rig = Rig::with_event_index(false);
    rig.add_rx(1, RX_BUFFER);
    let (mut client, _guest) = rig.connected();
    let data = noise(3 * RX_BUFFER, 1);
    client.write_all(&data).unwrap();
    rig.sleep_after(100);
    assert_eq!(
        rig.queues[RX].used_index(),
        2,
        "the request, and one packet of data"
    );
    assert!(!rig.queues[RX].no_notify(), "the device wants to hear of buffers");
    let mut bytes = Vec::new();
    while bytes.len() < data.len() {
        bytes.extend(rig.expect(op::RW).data);
    }
    assert!(bytes == data);
}

#[test]
fn the_guest_hears_that_the_client_takes_what_it_sends() {
    let mut rig = Rig::new();
    let (mut client, guest) = rig.connected();
    let chunk = vec![5; 60_000];
    client.set_nonblocking(false).unwrap();
    for round in 1..=6u32 {
        rig.send(guest.header(op::RW), &chunk);
        read_exactly(&mut client, chunk.len());
        if round % 3 == 0 {
            let update = rig.expect(op::CREDIT_UPDATE).header;
            assert_eq!((update.buf_alloc, update.fwd_cnt), (WINDOW, round * 60_000));
        } else {
            rig.expect_silence();
        }
    }
    rig.send(guest.header(op::CREDIT_REQUEST), &[]);
    assert_eq!(rig.expect(op::CREDIT_UPDATE).header.fwd_cnt, 360_000);
}

/// Sends until the client's socket and the window are full; returns how much that was.
fn fill(rig: &mut Rig, guest: &Guest) -> usize {
    let chunk = noise(4096, 11);
    let mut total = 0;
    loop {
        let kept: usize = rig.vsock.hub().connections.values().map(|it| it.kept.len()).sum();
        if kept + chunk.len() > WINDOW as usize {
            rig.settle();
            rig.inbox.clear();
            return total;
        }
        rig.send(guest.header(op::RW), &chunk);
        total += chunk.len();
    }
}

#[test]
fn a_guest_that_ignores_the_credit_is_reset() {
    let mut rig = Rig::new();
    let (mut client, guest) = rig.connected();
    let total = fill(&mut rig, &guest);
    rig.send(guest.header(op::RW), &[1; 4097]);
    rig.expect(op::RST);
    assert_eq!(rig.connections(), 0);
    assert_eq!(rig.counters().conns_killed, 1);
    let mut rest = Vec::new();
    let _ = client.read_to_end(&mut rest);
    assert!(!rest.is_empty() && rest.len() < total);
}

#[test]
fn a_slow_client_gets_everything_the_guest_sent_before_it_closed() {
    for last in [op::SHUTDOWN, op::RST] {
        let mut rig = Rig::new();
        let (mut client, guest) = rig.connected();
        let total = fill(&mut rig, &guest);
        assert!(total > WINDOW as usize);
        let bye = Header {
            op: last,
            ..guest.shutdown(shutdown::BOTH)
        };
        rig.send(bye, &[]);
        if last == op::SHUTDOWN {
            rig.expect(op::RST);
        }
        // The guest has forgotten the connection, and may use its port again.
        rig.expect_silence();
        let reading = thread::spawn(move || {
            let mut bytes = Vec::new();
            client.read_to_end(&mut bytes).unwrap();
            bytes
        });
        let end = Instant::now() + PATIENCE;
        while rig.connections() > 0 {
            assert!(Instant::now() < end);
            rig.settle();
        }
        let bytes = reading.join().unwrap();
        assert_eq!(bytes.len(), total);
        assert!(bytes.chunks(4096).all(|chunk| chunk == noise(4096, 11)));
    }
}

#[test]
fn a_client_that_takes_nothing_is_not_waited_for_for_ever() {
    let mut rig = Rig::new();
    let (_client, guest) = rig.connected();
    fill(&mut rig, &guest);
    rig.send(guest.shutdown(shutdown::BOTH), &[]);
    rig.expect(op::RST);
    assert_eq!(rig.connections(), 1);
    rig.hasten();
    assert_eq!(rig.connections(), 0);
}

#[test]
fn a_client_may_end_its_direction_and_go_on_reading() {
    let mut rig = Rig::new();
    let (mut client, mut guest) = rig.connected();
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let question = rig.expect(op::RW);
    assert_eq!(question.data, b"question");
    assert_eq!(rig.expect(op::SHUTDOWN).header.flags, shutdown::SEND);
    guest.take(&question.data);
    let answer = noise(200_000, 5);
    let reading = thread::spawn(move || {
        let mut bytes = Vec::new();
        client.read_to_end(&mut bytes).unwrap();
        bytes
    });
    for part in answer.chunks(50_000) {
        rig.send(guest.header(op::RW), part);
    }
    rig.settle();
    rig.send(guest.shutdown(shutdown::BOTH), &[]);
    let end = Instant::now() + PATIENCE;
    while rig.connections() > 0 {
        assert!(Instant::now() < end);
        rig.settle();
    }
    assert!(reading.join().unwrap() == answer);
}

#[test]
fn the_guest_may_end_its_direction_and_go_on_reading() {
    let mut rig = Rig::new();
    let (mut client, guest) = rig.connected();
    rig.send(guest.header(op::RW), b"question");
    rig.send(guest.shutdown(shutdown::SEND), &[]);
    let mut question = Vec::new();
    client.read_to_end(&mut question).unwrap();
    assert_eq!(question, b"question");
    client.write_all(b"answer").unwrap();
    assert_eq!(rig.expect(op::RW).data, b"answer");
    drop(client);
    assert_eq!(rig.expect(op::SHUTDOWN).header.flags, shutdown::BOTH);
    rig.send(guest.header(op::RST), &[]);
    rig.expect_silence();
    assert_eq!(rig.connections(), 0);
}

#[test]
fn the_end_of_the_guests_direction_follows_what_a_slow_client_has_to_read() {
    let mut rig = Rig::new();
    let (mut client, guest) = rig.connected();
    let total = fill(&mut rig, &guest);
    rig.send(guest.shutdown(shutdown::SEND), &[]);
    let reading = thread::spawn(move || {
        let mut bytes = Vec::new();
        client.read_to_end(&mut bytes).unwrap();
        client.write_all(b"thanks").unwrap();
        (bytes.len(), client)
    });
    let packet = rig.expect_beyond_credit(op::RW);
    assert_eq!(packet.data, b"thanks");
    assert_eq!(reading.join().unwrap().0, total);
}

#[test]
fn a_client_cannot_write_what_the_guest_will_not_receive() {
    let mut rig = Rig::new();
    let (mut client, guest) = rig.connected();
    rig.send(guest.shutdown(shutdown::RECEIVE), &[]);
    assert_eq!(client.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
    rig.send(guest.header(op::RW), b"still talking");
    assert_eq!(read_exactly(&mut client, 13), b"still talking");
    rig.send(guest.shutdown(shutdown::SEND), &[]);
    rig.expect(op::RST);
    assert!(is_closed(&mut client));
}

#[test]
fn everything_a_client_wrote_before_it_closed_arrives() {
    let mut rig = Rig::new();
    let (mut client, mut guest) = rig.connected();
    guest.buf_alloc = 20_000;
    rig.send(guest.header(op::CREDIT_UPDATE), &[]);
    let data = noise(100_000, 9);
    client.write_all(&data).unwrap();
    drop(client);
    let mut bytes: Vec<u8> = Vec::new();
    loop {
        let packet = rig.next();
        match packet.header.op {
            op::RW => {
                bytes.extend(&packet.data);
                guest.take(&packet.data);
            }
            op::CREDIT_REQUEST => rig.send(guest.header(op::CREDIT_UPDATE), &[]),
            other => {
                assert_eq!((other, packet.header.flags), (op::SHUTDOWN, shutdown::BOTH));
                break;
            }
        }
    }
    assert!(bytes == data);
    assert_eq!(rig.connections(), 1, "the guest has yet to confirm");
    rig.send(guest.shutdown(shutdown::BOTH), &[]);
    rig.expect(op::RST);
    assert_eq!(rig.connections(), 0);
}

#[test]
fn a_guest_that_does_not_confirm_a_close_is_reset() {
    let mut rig = Rig::new();
    let (client, guest) = rig.connected();
    drop(client);
    rig.expect(op::SHUTDOWN);
    // It may still be sending meanwhile.
    rig.send(guest.header(op::RW), b"into the void");
    rig.expect_silence();
    assert_eq!(rig.connections(), 1);
    rig.hasten();
    assert_eq!(rig.next().header.op, op::RST);
    assert_eq!(rig.connections(), 0);
}

#[test]
fn the_guest_hears_that_a_client_reads_no_more_while_its_data_still_flows() {
    let mut rig = Rig::new();
    let (mut client, guest) = rig.connected();
    client.shutdown(Shutdown::Read).unwrap();
    rig.send(guest.header(op::RW), b"unheard");
    assert_eq!(rig.expect(op::SHUTDOWN).header.flags, shutdown::RECEIVE);
    client.write_all(b"but not silent").unwrap();
    assert_eq!(rig.expect(op::RW).data, b"but not silent");
    let counters = rig.counters();
    assert_eq!((counters.tx_write_fails, counters.conns_killed), (1, 0));
}

#[test]
fn a_client_that_leaves_data_unread_is_closed_both_ways() {
    let mut rig = Rig::new();
    let (client, guest) = rig.connected();
    rig.send(guest.header(op::RW), b"unread");
    drop(client);
    assert_eq!(rig.expect(op::SHUTDOWN).header.flags, shutdown::BOTH);
    assert_eq!(rig.counters().rx_read_fails, 0, "nothing failed on the host");
}

#[test]
fn a_client_that_passes_descriptors_stops_nothing() {
    let mut rig = Rig::new();
    let (client, _guest) = rig.connected();
    for part in [&b"one"[..], b"two", b"three"] {
        send_with_descriptor(&client, part);
    }
    let mut bytes = Vec::new();
    while bytes.len() < 11 {
        bytes.extend(rig.expect(op::RW).data);
    }
    assert_eq!(bytes, b"onetwothree");
}

fn send_with_descriptor(client: &UnixStream, bytes: &[u8]) {
    use std::os::fd::AsRawFd;

    use vmm_sys_util::sock_ctrl_msg::ScmSocket;
    client.send_with_fds(&[bytes], &[client.as_raw_fd()]).unwrap();
}

#[test]
fn connections_take_turns() {
    let mut rig = Rig::with_event_index(false);
    rig.add_rx(40, RX_BUFFER);
    let mut ends: Vec<_> = (0..3).map(|_| rig.connected()).collect();
    for (client, _) in &mut ends {
        client.set_nonblocking(true).unwrap();
        let _ = client.write(&[1; 200_000]);
    }
    let mut order = Vec::new();
    while order.len() < 150 {
        rig.settle();
        order.extend(rig.inbox.drain(..).map(|packet| packet.header.src_port));
    }
    let early: std::collections::HashSet<_> = order[..100].iter().collect();
    assert_eq!(early.len(), 3, "nobody waits until another is done");
}

#[test]
fn a_client_that_ended_its_direction_and_then_closes_is_gone() {
    let mut rig = Rig::new();
    let (client, guest) = rig.connected();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rig.expect(op::SHUTDOWN).header.flags, shutdown::SEND);
    drop(client);
    assert_eq!(rig.expect(op::SHUTDOWN).header.flags, shutdown::BOTH);
    rig.send(guest.header(op::RST), &[]);
    assert_eq!(rig.connections(), 0);
}

#[test]
fn what_a_client_still_reads_is_no_connection_of_the_guest_any_more() {
    let mut rig = Rig::new();
    let server = rig.server(53);
    let guest = Guest::new(1024, 53);
    rig.send(guest.header(op::REQUEST), &[]);
    rig.expect(op::RESPONSE);
    let (mut first, _) = server.accept().unwrap();
    let total = fill(&mut rig, &guest);
    rig.send(guest.shutdown(shutdown::BOTH), &[]);
    rig.expect(op::RST);
    rig.send(guest.header(op::RW), b"stray");
    rig.expect(op::RST);
    // The same ports again, side by side.
    rig.send(guest.header(op::REQUEST), &[]);
    rig.expect(op::RESPONSE);
    let (mut second, _) = server.accept().unwrap();
    rig.send(guest.header(op::RW), b"new");
    assert_eq!(read_exactly(&mut second, 3), b"new");
    let reading = thread::spawn(move || {
        let mut bytes = Vec::new();
        first.read_to_end(&mut bytes).unwrap();
        bytes.len()
    });
    let end = Instant::now() + PATIENCE;
    while rig.connections() > 1 {
        assert!(Instant::now() < end);
        rig.settle();
    }
    assert_eq!(reading.join().unwrap(), total);
    rig.send(guest.header(op::RW), b"still here");
    assert_eq!(read_exactly(&mut second, 10), b"still here");
}
