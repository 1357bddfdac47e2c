use super::*;

#[test]
fn a_client_is_connected_once_the_guest_accepts() {
    let mut rig = Rig::new();
    let mut client = rig.client(52);
    let request = rig.expect(op::REQUEST).header;
    assert_eq!(
        (request.dst_port, request.src_port),
        (52, 1 << 30),
        "Firecracker's first port"
    );
    assert_eq!(
        (request.socket_type, request.buf_alloc, request.fwd_cnt),
        (TYPE_STREAM, WINDOW, 0)
    );
    client.set_nonblocking(true).unwrap();
    assert_eq!(
        client.read(&mut [0; 9]).unwrap_err().kind(),
        ErrorKind::WouldBlock,
        "not before the guest accepts"
    );
    client.set_nonblocking(false).unwrap();
    let guest = Guest::answering(&request);
    rig.send(guest.header(op::RESPONSE), &[]);
    assert_eq!(read_exactly(&mut client, 14), b"OK 1073741824\n");
    client.write_all(b"ping").unwrap();
    let packet = rig.expect(op::RW);
    assert_eq!((packet.data, packet.header.dst_port), (b"ping".to_vec(), 52));
    rig.send(guest.header(op::RW), b"pong");
    assert_eq!(read_exactly(&mut client, 4), b"pong");
    let counters = rig.counters();
    assert_eq!(
        (
            counters.conns_added,
            counters.rx_bytes_count,
            counters.tx_bytes_count
        ),
        (1, 4, 4)
    );
    assert_eq!((counters.rx_packets_count, counters.tx_packets_count), (2, 2));
}

#[test]
fn what_follows_the_line_at_once_is_not_lost() {
    let mut rig = Rig::new();
    let mut client = UnixStream::connect(rig.path()).unwrap();
    client.write_all(b"CONNECT 52\nfirst words\nand more").unwrap();
    let guest = Guest::answering(&rig.expect(op::REQUEST).header);
    rig.expect_silence();
    rig.send(guest.header(op::RESPONSE), &[]);
    assert_eq!(rig.expect(op::RW).data, b"first words\nand more");
    assert_eq!(read_exactly(&mut client, 14), b"OK 1073741824\n");
}

#[test]
fn a_line_may_be_typed_slowly() {
    let mut rig = Rig::new();
    let mut client = UnixStream::connect(rig.path()).unwrap();
    for byte in b"connect 52\r\n" {
        rig.expect_silence();
        client.write_all(&[*byte]).unwrap();
    }
    assert_eq!(rig.expect(op::REQUEST).header.dst_port, 52);
}

#[test]
fn clients_that_say_something_else_are_closed() {
    let mut rig = Rig::new();
    for line in [
        &b"GET / HTTP/1.1\r\n"[..],
        b"CONNECT 4294967296\n",
        b"CONNECT\n",
        b"CONNECT 5 6\n",
        &[b'C'; 10_000],
        b"\n",
    ] {
        let mut client = UnixStream::connect(rig.path()).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.write_all(line).unwrap();
        rig.expect_silence();
        assert!(is_closed(&mut client), "{line:?}");
    }
    assert_eq!(rig.connections(), 0);
}

#[test]
fn clients_that_leave_before_they_said_anything_leave_nothing() {
    let mut rig = Rig::new();
    for line in [&b""[..], b"CONNECT 5"] {
        let mut client = UnixStream::connect(rig.path()).unwrap();
        client.write_all(line).unwrap();
        rig.settle();
        assert_eq!(rig.connections(), 1);
        drop(client);
        rig.settle();
        assert_eq!(rig.connections(), 0);
    }
    // Nor does one that will send no more.
    let mut client = UnixStream::connect(rig.path()).unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    rig.expect_silence();
    assert!(is_closed(&mut client));
}

#[test]
fn a_client_that_dawdles_is_closed() {
    let mut rig = Rig::new();
    let mut client = UnixStream::connect(rig.path()).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(b"CONNECT").unwrap();
    rig.settle();
    let deadline = rig
        .vsock
        .hub()
        .connections
        .values()
        .next()
        .unwrap()
        .deadline
        .unwrap();
    assert!(deadline <= Instant::now() + LINE_DEADLINE);
    rig.hasten();
    assert!(is_closed(&mut client));
    assert_eq!(rig.connections(), 0);
}

#[test]
fn a_client_is_closed_when_the_guest_refuses() {
    let mut rig = Rig::new();
    for op in [op::RST, op::SHUTDOWN] {
        let mut client = rig.client(52);
        let guest = Guest::answering(&rig.expect(op::REQUEST).header);
        rig.send(guest.header(op), &[]);
        assert!(is_closed(&mut client));
        if op == op::SHUTDOWN {
            rig.expect(op::RST);
        }
        rig.expect_silence();
    }
    assert_eq!(rig.connections(), 0);
}

#[test]
fn a_guest_that_does_not_answer_is_not_waited_for_for_ever() {
    let mut rig = Rig::new();
    let mut client = rig.client(52);
    let guest = Guest::answering(&rig.expect(op::REQUEST).header);
    rig.hasten();
    assert!(is_closed(&mut client));
    rig.expect(op::RST);
    rig.send(guest.header(op::RESPONSE), &[]);
    rig.expect(op::RST);
}

#[test]
fn an_accepted_connection_has_no_deadline() {
    let mut rig = Rig::new();
    let _ends = rig.connected();
    assert!(
        rig.vsock
            .hub()
            .connections
            .values()
            .all(|it| it.deadline.is_none())
    );
}

#[test]
fn the_guest_hears_when_a_client_leaves_before_it_answered() {
    let mut rig = Rig::new();
    let client = rig.client(52);
    let guest = Guest::answering(&rig.expect(op::REQUEST).header);
    drop(client);
    assert_eq!(rig.expect(op::RST).header.dst_port, guest.port);
    assert_eq!(rig.connections(), 0);
}

#[test]
fn the_guest_is_connected_to_who_listens_for_its_port() {
    let mut rig = Rig::new();
    let server = rig.server(53);
    let guest = Guest::new(1024, 53);
    rig.send(guest.header(op::REQUEST), &[]);
    let response = rig.expect(op::RESPONSE).header;
    assert_eq!((response.src_port, response.dst_port), (53, 1024));
    let (mut stream, _) = server.accept().unwrap();
    rig.send(guest.header(op::RW), b"hello");
    assert_eq!(read_exactly(&mut stream, 5), b"hello");
    stream.write_all(b"world").unwrap();
    assert_eq!(rig.expect(op::RW).data, b"world");
}

#[test]
fn the_guest_is_refused_where_nobody_listens() {
    let mut rig = Rig::new();
    // A file that is no socket, and a socket whose server is gone.
    std::fs::write(rig.folder.as_path().join("v.sock_54"), "").unwrap();
    drop(rig.server(55));
    for port in [53, 54, 55, u32::MAX] {
        rig.send(Guest::new(1024, port).header(op::REQUEST), &[]);
        let reset = rig.expect(op::RST).header;
        assert_eq!((reset.src_port, reset.dst_port), (port, 1024));
    }
    assert_eq!(rig.connections(), 0);
}

/// A server whose backlog has room for one more.
fn narrow_server(rig: &Rig, port: u32) -> UnixListener {
    use std::os::fd::AsRawFd;
    let server = rig.server(port);
    // SAFETY: no memory is passed.
    assert_eq!(unsafe { libc::listen(server.as_raw_fd(), 0) }, 0);
    server
}

#[test]
fn the_guest_waits_for_room_in_a_backlog() {
    let mut rig = Rig::new();
    let server = narrow_server(&rig, 53);
    for port in [1024, 1025] {
        rig.send(Guest::new(port, 53).header(op::REQUEST), &[]);
    }
    assert_eq!(rig.expect(op::RESPONSE).header.dst_port, 1024);
    rig.expect_silence();
    let _first = server.accept().unwrap();
    assert_eq!(rig.expect(op::RESPONSE).header.dst_port, 1025);
}

#[test]
fn the_guest_is_refused_when_a_backlog_stays_full() {
    let mut rig = Rig::new();
    let _server = narrow_server(&rig, 53);
    for port in [1024, 1025] {
        rig.send(Guest::new(port, 53).header(op::REQUEST), &[]);
    }
    rig.expect(op::RESPONSE);
    assert_eq!(rig.expect(op::RST).header.dst_port, 1025);
    assert_eq!(rig.connections(), 1);
}

#[test]
fn ports_of_the_host_are_not_given_twice() {
    let mut rig = Rig::new();
    let ports: std::collections::HashSet<_> = (0..20)
        .map(|_| {
            let client = rig.client(52);
            let port = rig.expect(op::REQUEST).header.src_port;
            drop(client);
            rig.expect(op::RST);
            port
        })
        .collect();
    assert_eq!(ports.len(), 20);
    assert!(ports.iter().all(|port| port >> 30 == 1));
}
