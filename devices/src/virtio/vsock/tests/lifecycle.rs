use virtio_queue::QueueT;

use super::*;
use crate::state::{RestoreError, Snapshot};
use crate::virtio::device::ActivateError;
use crate::virtio::queue::ActiveQueue;

#[test]
fn the_configuration_is_the_guests_address() {
    let folder = folder();
    let vsock = Vsock::new(config(&folder)).unwrap();
    assert_eq!(vsock.device_type(), 19);
    assert_eq!(vsock.queue_max_sizes(), [256, 256, 256]);
    let mut bytes = [0xff; 8];
    vsock.read_config(0, &mut bytes);
    assert_eq!(u64::from_le_bytes(bytes), 3);
    let mut high = [0xff; 4];
    vsock.read_config(4, &mut high);
    assert_eq!(high, [0; 4]);
}

#[test]
fn a_driver_cannot_change_the_configuration() {
    let mut rig = Rig::new();
    rig.vsock.write_config(0, &[9; 8]);
    assert_eq!(rig.vsock.guest_cid(), CID);
    assert_eq!(rig.counters().cfg_fails, 1);
}

#[test]
fn addresses_that_mean_something_else_are_refused() {
    for guest_cid in [0, 1, 2, u32::MAX] {
        let folder = folder();
        let config = VsockConfig {
            guest_cid,
            ..config(&folder)
        };
        let error = Vsock::new(config.clone()).err().unwrap().to_string();
        assert_eq!(
            error,
            format!("{guest_cid} cannot be the CID of a guest: it must be from 3 to 4294967294")
        );
        assert!(!config.uds_path.exists());
    }
}

#[test]
fn a_path_that_is_taken_is_refused_and_left_alone() {
    let folder = folder();
    let config = config(&folder);
    std::fs::write(&config.uds_path, "precious").unwrap();
    let error = Vsock::new(config.clone()).err().unwrap();
    assert!(
        error.to_string().contains(&config.uds_path.display().to_string()),
        "{error}"
    );
    let VsockError::Listen { source, .. } = error else {
        panic!("{error}");
    };
    assert_eq!(source.raw_os_error(), Some(libc::EADDRINUSE));
    assert_eq!(std::fs::read(&config.uds_path).unwrap(), b"precious");
}

#[test]
fn a_path_that_cannot_be_is_refused() {
    let folder = folder();
    for name in ["missing/v.sock".to_owned(), "x".repeat(120)] {
        let uds_path = folder.as_path().join(name);
        let error = Vsock::new(VsockConfig {
            guest_cid: 3,
            uds_path,
        })
        .err()
        .unwrap();
        assert!(error.to_string().contains("107 bytes"), "{error}");
    }
}

#[test]
fn the_name_is_removed_with_the_device() {
    let rig = Rig::new();
    let path = rig.path();
    assert!(path.exists());
    drop(rig.vsock);
    assert!(!path.exists());
}

#[test]
fn descriptors_are_not_inherited() {
    let mut rig = Rig::new();
    let server = rig.server(53);
    rig.send(Guest::new(1000, 53).header(op::REQUEST), &[]);
    let _accepted = server.accept().unwrap();
    let (_client, _guest) = {
        rig.expect(op::RESPONSE);
        rig.connected()
    };
    let sockets: Vec<_> = rig
        .vsock
        .hub()
        .connections
        .values()
        .map(|it| {
            use std::os::fd::AsRawFd;
            it.socket.as_raw_fd()
        })
        .collect();
    assert_eq!(sockets.len(), 2);
    for fd in sockets.into_iter().chain([rig.vsock.backend_events()[0].fd]) {
        // SAFETY: no memory is passed.
        let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
        assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
    }
}

#[test]
fn all_queues_are_needed() {
    let mut rig = Rig::new();
    rig.vsock.reset();
    for missing in [RX, TX, EVENT] {
        let queues = rig.queues.iter().enumerate().map(|(index, mock)| {
            let mut queue = mock.queue();
            queue.set_ready(index != missing);
            let bell = rig.bells[index].clone();
            ActiveQueue::new(queue, rig.memory.clone(), rig.line.clone(), bell).unwrap()
        });
        let activation = Activation {
            memory: rig.memory.clone(),
            queues: queues.collect(),
            features: 0,
        };
        let error = rig.vsock.activate(activation).unwrap_err();
        assert!(
            matches!(error, ActivateError::QueueMissing(index) if index == missing),
            "{error}"
        );
    }
    assert_eq!(rig.counters().activate_fails, 3);
}

#[test]
fn clients_that_come_before_the_driver_are_served_when_it_is_there() {
    let folder = folder();
    let vsock = Vsock::new(config(&folder)).unwrap();
    let mut client = UnixStream::connect(vsock.uds_path()).unwrap();
    client.write_all(b"CONNECT 7\n").unwrap();
    let mut rig = Rig::around(vsock, folder, false);
    rig.add_rx(4, RX_BUFFER);
    assert_eq!(rig.expect(op::REQUEST).header.dst_port, 7);
}

/// Saves a device, and brings it back as another, whose guest goes on with its queues.
fn saved_and_restored(rig: Rig) -> Rig {
    let json = serde_json::to_string(&rig.vsock.save()).unwrap();
    let positions = rig.vsock.queue_positions();
    drop(rig.vsock);
    let mut vsock = Vsock::new(VsockConfig {
        guest_cid: 9,
        ..config(&rig.folder)
    })
    .unwrap();
    vsock.restore(&serde_json::from_str(&json).unwrap()).unwrap();
    let queues = rig
        .queues
        .iter()
        .zip(positions)
        .zip(&rig.bells)
        .map(|((mock, position), bell)| {
            let mut queue = mock.queue();
            queue.set_next_avail(position.next_avail);
            queue.set_next_used(position.next_used);
            // As Linux, which then rings only where it is asked to.
            queue.set_event_idx(std::ptr::eq(mock, &raw const rig.queues[EVENT]));
            ActiveQueue::new(queue, rig.memory.clone(), rig.line.clone(), bell.clone()).unwrap()
        });
    let activation = Activation {
        memory: rig.memory.clone(),
        queues: queues.collect(),
        features: 0,
    };
    vsock.activate(activation).unwrap();
    Rig { vsock, ..rig }
}

fn add_event_buffer(rig: &mut Rig, len: usize) -> Buffer {
    let buffer = rig.queues[EVENT].writable(len);
    rig.queues[EVENT].add(&[buffer]);
    rig.announce(EVENT);
    buffer
}

#[test]
fn a_guest_that_was_restored_is_told_that_its_connections_are_gone() {
    let mut rig = Rig::new();
    let event = add_event_buffer(&mut rig, 8);
    add_event_buffer(&mut rig, 8);
    add_event_buffer(&mut rig, 8);
    let (mut old_client, guest) = rig.connected();
    assert!(rig.queues[EVENT].used().is_empty(), "no event without a reason");
    let mut rig = saved_and_restored(rig);
    assert!(is_closed(&mut old_client));
    assert_eq!(rig.vsock.guest_cid(), CID);
    rig.line.take();
    // A client in a hurry waits until the guest has ended its old connections: it would end the new one, too.
    let _client = rig.client(7);
    rig.expect_silence();
    let used = rig.queues[EVENT].used();
    assert_eq!(used.iter().map(|used| used.len).collect::<Vec<_>>(), [4]);
    assert_eq!(rig.queues[EVENT].contents(event)[..4], 0u32.to_le_bytes());
    assert_eq!(rig.line.take(), 1);
    // The driver has buffers left: it shall ring for the one that it gives back.
    assert_eq!(rig.queues[EVENT].avail_event(), 3);
    add_event_buffer(&mut rig, 8);
    assert_eq!(rig.expect(op::REQUEST).header.dst_port, 7);
    // What the guest still says about the old one is answered by a reset.
    rig.send(guest.header(op::RW), b"late");
    assert_eq!(rig.expect(op::RST).header.dst_port, guest.port);
    rig.send(guest.header(op::CREDIT_UPDATE), &[]);
    rig.expect(op::RST);
}

#[test]
fn a_driver_that_never_confirms_the_event_is_not_waited_for_for_ever() {
    let mut rig = Rig::new();
    add_event_buffer(&mut rig, 4);
    rig.settle();
    let mut rig = saved_and_restored(rig);
    let _client = rig.client(7);
    rig.expect_silence();
    assert_eq!(rig.expect(op::REQUEST).header.dst_port, 7);
}

#[test]
fn buffers_that_cannot_hold_an_event_are_given_back_and_the_next_is_used() {
    let mut rig = Rig::new();
    add_event_buffer(&mut rig, 3);
    let readable = rig.queues[EVENT].readable(&[1; 8]);
    rig.queues[EVENT].add(&[readable]);
    let mut rig = saved_and_restored(rig);
    rig.settle();
    assert_eq!(
        rig.queues[EVENT]
            .used()
            .iter()
            .map(|used| used.len)
            .collect::<Vec<_>>(),
        [0, 0]
    );
    add_event_buffer(&mut rig, 4);
    rig.settle();
    assert_eq!(rig.queues[EVENT].used()[0].len, 4);
    assert_eq!(rig.counters().ev_queue_event_fails, 2);
}

#[test]
fn states_that_were_never_saved_are_refused() {
    let good = Rig::new().vsock.save();
    let restore = |state: &VsockState| {
        let folder = folder();
        Vsock::new(config(&folder)).unwrap().restore(state)
    };
    assert!(restore(&good).is_ok());
    let newer = VsockState {
        version: 2,
        ..good.clone()
    };
    assert!(matches!(
        restore(&newer),
        Err(RestoreError::Version { found: 2, .. })
    ));
    let host = VsockState { guest_cid: 2, ..good };
    assert!(matches!(
        restore(&host),
        Err(RestoreError::Field {
            field: "guest_cid",
            ..
        })
    ));
}
