use super::*;

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// The descriptors of this process are counted, so that tests that open many must not run side by side. Returns how many
/// there may be.
fn alone() -> (std::sync::MutexGuard<'static, ()>, usize) {
    static LOCK: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let guard = LOCK.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: both read or write one rlimit, which outlives the calls.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit), 0);
        limit.rlim_cur = limit.rlim_max;
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit), 0);
    }
    (guard, usize::try_from(limit.rlim_max).unwrap())
}

#[test]
fn a_thousand_connections_carry_their_own_data() {
    let (_guard, _) = alone();
    let mut rig = Rig::new();
    let mut ends: Vec<_> = (0..1000).map(|_| rig.connected()).collect();
    for (index, (client, _)) in ends.iter_mut().enumerate() {
        client.write_all(format!("to guest {index}").as_bytes()).unwrap();
    }
    let mut heard = HashMap::new();
    while heard.len() < ends.len() {
        let packet = rig.expect(op::RW);
        heard.insert(packet.header.src_port, packet.data);
    }
    for (index, (client, guest)) in ends.iter_mut().enumerate() {
        assert_eq!(heard[&guest.host_port], format!("to guest {index}").as_bytes());
        let text = format!("to host {index}");
        rig.send(guest.header(op::RW), text.as_bytes());
        assert_eq!(read_exactly(client, text.len()), text.as_bytes());
    }
    let windows: u64 = rig
        .vsock
        .hub()
        .connections
        .values()
        .map(|it| u64::from(it.window))
        .sum();
    assert_eq!(windows, 256 * (256 << 10) + 744 * (16 << 10));
    assert!(
        rig.vsock
            .hub()
            .connections
            .values()
            .all(|it| it.kept.capacity() == 0),
        "idle ones keep nothing"
    );
    ends.truncate(900);
    rig.settle();
    assert_eq!(
        rig.inbox
            .drain(..)
            .filter(|packet| packet.header.op == op::SHUTDOWN)
            .count(),
        100
    );
    let before = open_descriptors();
    rig.vsock.reset();
    assert!(before - open_descriptors() >= 1000);
    assert!(ends.iter_mut().all(|(client, _)| is_closed(client)));
}

#[test]
fn one_connection_too_many_is_refused_on_either_side() {
    let (_guard, most) = alone();
    assert!(
        most > 2 * CONNECTIONS_MAX + 200,
        "the limit of open files allows this test"
    );
    let mut rig = Rig::new();
    let server = rig.server(53);
    let mut clients = Vec::new();
    while clients.len() < CONNECTIONS_MAX {
        clients.push(UnixStream::connect(rig.path()).unwrap());
        if clients.len().is_multiple_of(64) {
            rig.settle();
        }
    }
    assert_eq!(rig.connections(), CONNECTIONS_MAX);
    let mut refused = UnixStream::connect(rig.path()).unwrap();
    rig.settle();
    assert!(is_closed(&mut refused));
    rig.send(Guest::new(1024, 53).header(op::REQUEST), &[]);
    rig.expect(op::RST);
    clients.pop();
    rig.settle();
    rig.send(Guest::new(1024, 53).header(op::REQUEST), &[]);
    rig.expect(op::RESPONSE);
    drop(server);
}

#[test]
fn a_reset_under_load_leaves_no_descriptor_and_the_next_driver_finds_a_working_device() {
    let (_guard, _) = alone();
    let mut rig = Rig::new();
    let server = rig.server(53);
    // Other tests open and close descriptors meanwhile, hence the many connections.
    let before = open_descriptors();
    let mut ends = Vec::new();
    for port in 0..150 {
        let (mut client, guest) = rig.connected();
        client.set_nonblocking(true).unwrap();
        let _ = client.write(&[1; 300_000]);
        rig.send(guest.header(op::RW), &[2; 60_000]);
        rig.send(Guest::new(2000 + port, 53).header(op::REQUEST), &[]);
        let mut half_said = UnixStream::connect(rig.path()).unwrap();
        half_said.write_all(b"CONNECT 9").unwrap();
        ends.push((client, half_said, server.accept().unwrap()));
        rig.settle();
        rig.inbox.clear();
    }
    assert!(rig.connections() >= 300);
    rig.restart();
    assert_eq!(rig.connections(), 0);
    drop(ends);
    assert!(open_descriptors() < before + 100);
    rig.settle();
    rig.inbox.clear();
    let (mut client, guest) = rig.connected();
    rig.send(guest.header(op::RW), b"fresh");
    assert_eq!(read_exactly(&mut client, 5), b"fresh");
}

#[test]
fn late_events_of_the_last_life_do_nothing() {
    let mut rig = Rig::new();
    let (_client, _guest) = rig.connected();
    rig.vsock.reset();
    assert!(rig.vsock.queue_positions().is_empty());
    for index in [RX, TX, EVENT, 7] {
        rig.vsock.process_queue(index).unwrap();
    }
    for token in [0, 9] {
        rig.vsock.process_backend(token, EventSet::IN).unwrap();
    }
}

#[test]
fn a_turn_is_bounded_and_goes_on_by_itself() {
    let mut rig = Rig::with_event_index(false);
    rig.add_rx(200, HEADER_LEN + (64 << 10));
    let mut ends = Vec::new();
    for _ in 0..12 {
        let (mut client, mut guest) = rig.connected();
        guest.buf_alloc = 0;
        rig.send(guest.header(op::CREDIT_UPDATE), &[]);
        client.set_nonblocking(true).unwrap();
        while client.write(&[3; 1 << 16]).is_ok() {}
        rig.expect(op::CREDIT_REQUEST);
        ends.push((client, guest));
    }
    rig.settle();
    rig.inbox.clear();
    rig.queues[RX].used();
    // All get credit at once.
    for (_, guest) in &ends {
        let header = Header {
            buf_alloc: 1 << 20,
            ..guest.header(op::CREDIT_UPDATE)
        };
        let buffer = rig.queues[TX].readable(&header.encode());
        rig.queues[TX].add(&[buffer]);
    }
    rig.counters();
    rig.vsock.process_queue(TX).unwrap();
    let first = rig.counters().rx_bytes_count;
    assert!(
        (TURN_BYTES as u64..=TURN_BYTES as u64 + (64 << 10)).contains(&first),
        "{first}"
    );
    assert!(rig.turn());
    rig.sleep_after(100);
    assert!(rig.counters().rx_bytes_count > 0);
}

#[test]
fn requests_of_the_guest_cost_more_of_a_turn_than_other_packets() {
    let mut rig = Rig::new();
    for port in 0..200 {
        let buffer = rig.queues[TX].readable(&Guest::new(port, 53).header(op::REQUEST).encode());
        rig.queues[TX].add(&[buffer]);
    }
    rig.vsock.process_queue(TX).unwrap();
    let first = rig.counters().tx_packets_count;
    assert!((20..50).contains(&first), "{first}");
    rig.settle();
    assert_eq!(rig.counters().tx_packets_count + first, 200);
}

#[test]
fn the_window_of_a_closed_connection_goes_to_the_next() {
    let mut rig = Rig::new();
    for _ in 0..WIDE_WINDOWS + 10 {
        let (client, guest) = rig.connected();
        assert_eq!(
            rig.vsock.hub().connections.values().next().unwrap().window,
            WINDOW
        );
        drop(client);
        rig.expect(op::SHUTDOWN);
        rig.send(guest.header(op::RST), &[]);
    }
}
