//! With real taps, each test in a network namespace of its own.

use std::fs::{File, OpenOptions};
use std::mem::size_of;
use std::os::fd::{FromRawFd, OwnedFd};

use virtio_bindings::virtio_net::VIRTIO_NET_F_GUEST_TSO4;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::*;

const TAP: &str = "koyatap0";
const STRANGER: MacAddress = [0x02, 0xaa, 0xaa, 0xaa, 0xaa, 0x01];
const LARGE: usize = HEADERS + 8000;
/// Ethernet, IPv4 and TCP.
const HEADERS: usize = 14 + 20 + 20;
const SEGMENT: u16 = 1400;

/// Runs `test` in a fresh network namespace. A machine that allows none fails the test, unless told otherwise.
fn in_namespace(test: fn()) {
    let run = move || {
        // SAFETY: no memory is passed; only this thread changes its namespace.
        let unshared = unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0;
        let reason = if unshared {
            OpenOptions::new()
                .read(true)
                .write(true)
                .open("/dev/net/tun")
                .err()
        } else {
            Some(io::Error::last_os_error())
        };
        match reason {
            None => test(),
            Some(_) if std::env::var_os("KOYA_TESTS_WITHOUT_TUN").is_some_and(|value| value == "1") => {
                eprintln!("NOT TESTED: taps (KOYA_TESTS_WITHOUT_TUN=1)");
            }
            Some(reason) => panic!(
                "cannot test taps: {reason}; be root with /dev/net/tun, or set KOYA_TESTS_WITHOUT_TUN=1 to go without"
            ),
        }
    };
    if let Err(panic) = std::thread::spawn(run).join() {
        std::panic::resume_unwind(panic);
    }
}

fn named(name: &str) -> libc::ifreq {
    // SAFETY: an ifreq of zeros is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request
}

fn ioctl<T>(fd: &impl AsRawFd, code: libc::Ioctl, argument: &mut T) {
    // SAFETY: every caller passes the structure that its request reads and writes.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), code, argument as *mut T) };
    assert!(result >= 0, "ioctl {code:#x}: {}", io::Error::last_os_error());
}

fn socket(domain: i32, kind: i32, protocol: i32) -> OwnedFd {
    // SAFETY: no memory is passed.
    let fd = unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol) };
    assert!(fd >= 0, "{}", io::Error::last_os_error());
    // SAFETY: the descriptor is new and nobody else's.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Makes a persistent interface, as `ip tuntap add` does, and starts it.
fn make_tap(name: &str, flags: i32) {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .unwrap();
    let mut request = named(name);
    request.ifr_ifru.ifru_flags = (flags | libc::IFF_NO_PI) as i16;
    ioctl(&file, libc::TUNSETIFF, &mut request);
    // SAFETY: TUNSETPERSIST takes a number.
    let kept = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETPERSIST, 1) };
    assert_eq!(kept, 0);
    let control = socket(libc::AF_INET, libc::SOCK_DGRAM, 0);
    let mut request = named(name);
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    ioctl(&control, libc::SIOCSIFFLAGS, &mut request);
}

fn index_of(name: &str) -> i32 {
    let control = socket(libc::AF_INET, libc::SOCK_DGRAM, 0);
    let mut request = named(name);
    ioctl(&control, libc::SIOCGIFINDEX, &mut request);
    // SAFETY: SIOCGIFINDEX filled this member.
    unsafe { request.ifr_ifru.ifru_ifindex }
}

/// `ip link del`
fn delete(name: &str) {
    #[repr(C)]
    struct Request {
        header: libc::nlmsghdr,
        info: [u8; 16],
    }
    let mut info = [0; 16];
    info[4..8].copy_from_slice(&index_of(name).to_ne_bytes());
    let header = libc::nlmsghdr {
        nlmsg_len: size_of::<Request>() as u32,
        nlmsg_type: libc::RTM_DELLINK,
        nlmsg_flags: (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16,
        nlmsg_seq: 1,
        nlmsg_pid: 0,
    };
    let request = Request { header, info };
    let netlink = File::from(socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE));
    // SAFETY: the structure outlives the call.
    let sent = unsafe {
        libc::send(
            netlink.as_raw_fd(),
            (&raw const request).cast(),
            size_of::<Request>(),
            0,
        )
    };
    assert_eq!(sent, size_of::<Request>() as isize);
    let mut answer = [0u8; 256];
    io::Read::read(&mut &netlink, &mut answer).unwrap();
    assert_eq!(answer[16..20], [0; 4], "the interface was not deleted");
}

/// The host's end: sends and receives frames with virtio headers (of 10 bytes) on the interface.
struct HostEnd(File);

impl HostEnd {
    fn new(name: &str) -> Self {
        let all = i32::from((libc::ETH_P_ALL as u16).to_be());
        let socket = socket(libc::AF_PACKET, libc::SOCK_RAW, all);
        // SAFETY: an address of zeros is valid.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = index_of(name);
        let (one, timeout) = (
            1i32,
            libc::timeval {
                tv_sec: 5,
                tv_usec: 0,
            },
        );
        let fd = socket.as_raw_fd();
        // SAFETY: all structures outlive the calls that read them.
        unsafe {
            let len = size_of::<libc::sockaddr_ll>() as u32;
            assert_eq!(libc::bind(fd, (&raw const address).cast(), len), 0);
            let set = |level, option, value: *const libc::c_void, len: usize| {
                assert_eq!(libc::setsockopt(fd, level, option, value, len as u32), 0);
            };
            set(
                libc::SOL_PACKET,
                15, /* PACKET_VNET_HDR */
                (&raw const one).cast(),
                4,
            );
            let len = size_of::<libc::timeval>();
            set(
                libc::SOL_SOCKET,
                libc::SO_RCVTIMEO,
                (&raw const timeout).cast(),
                len,
            );
        }
        Self(File::from(socket))
    }

    fn send(&self, frame: &[u8]) {
        let sent = [&frame[..10], &frame[12..]].concat();
        assert_eq!(io::Write::write(&mut &self.0, &sent).unwrap(), sent.len());
    }

    /// The next frame to or from the guest, with a header of 12 bytes; the host's own chatter is left out.
    fn receive(&self) -> Vec<u8> {
        let mut bytes = vec![0; 70_000];
        loop {
            let len = io::Read::read(&mut &self.0, &mut bytes).expect("a frame from the guest");
            if bytes[16..22] == MAC {
                return [&bytes[..10], &[0; 2], &bytes[10..len]].concat();
            }
        }
    }
}

/// A TCP segment to be cut by whoever sends it on: checksum and segmentation offloads in its virtio header.
fn large_tcp(source: MacAddress, destination: MacAddress) -> Vec<u8> {
    let mut frame = frame_from(source, 12 + LARGE, 1);
    frame[..12].copy_from_slice(&[1, 1, HEADERS as u8, 0, 0, 0, 34, 0, 16, 0, 0, 0]);
    frame[4..6].copy_from_slice(&SEGMENT.to_le_bytes());
    let ethernet = &mut frame[12..];
    ethernet[..6].copy_from_slice(&destination);
    ethernet[12..14].copy_from_slice(&[8, 0]);
    let ip = &mut ethernet[14..34];
    ip.copy_from_slice(&[0x45, 0, 0, 0, 0, 1, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    ip[2..4].copy_from_slice(&((LARGE - 14) as u16).to_be_bytes());
    let sum: u32 = ip
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    ip[10..12].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
    // Data offset of five words, ACK.
    ethernet[46..48].copy_from_slice(&[0x50, 0x10]);
    frame
}

struct TapRig {
    net: Net<Tap>,
    host: HostEnd,
    rx: MockQueue,
    tx: MockQueue,
    buffers: Vec<Buffer>,
}

impl TapRig {
    fn new(features: u64) -> Self {
        make_tap(TAP, libc::IFF_TAP);
        Self::on_tap(features, |_| ())
    }

    /// Opens the tap, calls `before` with the host's end, and only then starts the driver.
    fn on_tap(features: u64, before: impl FnOnce(&HostEnd)) -> Self {
        let memory = guest_memory(MEMORY);
        let mut net = Net::new(config(Some(MAC)), Tap::open(TAP).unwrap()).unwrap();
        let host = HostEnd::new(TAP);
        before(&host);
        let (mut rx, tx) = (
            MockQueue::new(&memory, 0x1000, 256),
            MockQueue::new(&memory, 0x100_0000, 256),
        );
        let line = CountingLine::shared();
        let queues = vec![rx.activate(line.clone(), true).0, tx.activate(line, true).0];
        net.activate(Activation {
            memory,
            queues,
            features,
        })
        .unwrap();
        let buffers: Vec<_> = (0..256).map(|_| rx.writable(1536)).collect();
        for buffer in &buffers {
            rx.add(&[*buffer]);
        }
        net.process_queue(RX).unwrap();
        Self {
            net,
            host,
            rx,
            tx,
            buffers,
        }
    }

    fn transmit(&mut self, frame: &[u8]) {
        let buffer = self.tx.readable(frame);
        self.tx.add(&[buffer]);
        self.net.process_queue(TX).unwrap();
    }

    /// Frames for the guest that arrived by now.
    fn received(&mut self) -> Vec<Vec<u8>> {
        let (mut frames, mut missing) = (Vec::new(), 0);
        for used in self.rx.used() {
            let bytes = self.rx.contents(Buffer {
                len: used.len,
                ..self.buffers[usize::from(used.head)]
            });
            if missing == 0 {
                missing = u16::from_le_bytes([bytes[10], bytes[11]]);
                frames.push(Vec::new());
            }
            missing -= 1;
            frames.last_mut().unwrap().extend(bytes);
        }
        assert_eq!(missing, 0);
        frames.retain(|frame| frame[12..18] == MAC);
        frames
    }
}

fn opening(name: &str) -> String {
    Tap::open(name).unwrap_err().to_string()
}

#[test]
fn frames_pass_both_ways_through_a_tap() {
    in_namespace(|| {
        let mut rig = TapRig::new(COMMON);
        let mut out = frame(900, 3);
        out[24..26].copy_from_slice(&[0x88, 0xb5]);
        rig.transmit(&out);
        assert_eq!(rig.host.receive()[12..], out[12..]);
        let mut back = frame_from(STRANGER, 1200, 4);
        back[12..18].copy_from_slice(&MAC);
        rig.host.send(&back);
        transmit::wait_readable(rig.net.backend().fd());
        rig.net.process_backend(0, EventSet::IN).unwrap();
        let got = rig.received();
        assert_eq!(got.len(), 1);
        assert_eq!(got[0][12..], back[12..]);
        let used = rig.tx.used();
        assert_eq!(used.len(), 1);
    });
}

#[test]
fn a_large_segment_of_the_guest_reaches_the_host_uncut() {
    in_namespace(|| {
        let mut rig = TapRig::new(COMMON);
        let large = large_tcp(MAC, STRANGER);
        rig.transmit(&large);
        let got = rig.host.receive();
        assert_eq!(got[..2], [1, 1]);
        assert_eq!(got[12..], large[12..]);
        let mut lying = large;
        // Headers that would be longer than the frame.
        lying[2..4].copy_from_slice(&[0xff, 0xff]);
        rig.transmit(&lying);
        use crate::state::Metered;
        let counters = rig.net.take_metrics();
        assert_eq!((counters.tx_packets_count, counters.tx_malformed_frames), (1, 1));
    });
}

#[test]
fn a_guest_gets_large_segments_whole_only_if_it_asked_for_them() {
    in_namespace(|| {
        let mut rig = TapRig::new(COMMON | 1 << VIRTIO_NET_F_GUEST_TSO4);
        let large = large_tcp(STRANGER, MAC);
        rig.host.send(&large);
        transmit::wait_readable(rig.net.backend().fd());
        rig.net.process_backend(0, EventSet::IN).unwrap();
        let got = rig.received();
        assert_eq!(got.len(), 1);
        assert_eq!(got[0][1], 1);
        assert_eq!(got[0][12..], large[12..]);
    });
    in_namespace(|| {
        let mut rig = TapRig::new(MERGE);
        rig.host.send(&large_tcp(STRANGER, MAC));
        transmit::wait_readable(rig.net.backend().fd());
        rig.net.process_backend(0, EventSet::IN).unwrap();
        let got = rig.received();
        assert_eq!(got.len(), 6, "8,000 bytes in segments of 1,400");
        assert!(
            got.iter()
                .all(|frame| frame[..10] == [0; 10] && frame.len() <= 12 + HEADERS + 1400)
        );
    });
}

#[test]
fn what_the_last_microvm_accepted_is_not_for_the_next() {
    in_namespace(|| {
        make_tap(TAP, libc::IFF_TAP);
        let mut last = Tap::open(TAP).unwrap();
        last.set_offloads(Offloads {
            checksum: true,
            tso4: true,
            tso6: true,
            ufo: true,
        })
        .unwrap();
        drop(last);
        let mut rig = TapRig::on_tap(MERGE, |host| host.send(&large_tcp(STRANGER, MAC)));
        rig.net.process_backend(0, EventSet::IN).unwrap();
        let got = rig.received();
        assert_eq!(got.len(), 6, "8,000 bytes in segments of 1,400");
    });
}

#[test]
fn a_tap_that_is_deleted_under_the_device_is_no_storm() {
    in_namespace(|| {
        let mut rig = TapRig::new(COMMON);
        let event = rig.net.backend_events()[0];
        let epoll = Epoll::new().unwrap();
        let watch = EpollEvent::new(event.events, 0);
        epoll.ctl(ControlOperation::Add, event.fd, watch).unwrap();
        delete(TAP);
        let mut wakes = 0;
        let mut ready = [EpollEvent::default(); 4];
        while epoll.wait(100, &mut ready).unwrap() > 0 {
            rig.net.process_backend(event.token, EventSet::ERROR).unwrap();
            wakes += 1;
            assert!(wakes < 5, "a tap that is gone keeps waking the loop");
        }
        rig.net.process_queue(RX).unwrap();
        rig.transmit(&frame(60, 0));
        assert_eq!(rig.tx.used().len(), 1);
        use crate::state::Metered;
        let counters = rig.net.take_metrics();
        assert!(
            counters.tap_read_fails > 0 && counters.tap_write_fails > 0,
            "{counters:?}"
        );
        rig.net.reset();
    });
}

#[test]
fn a_missing_tap_is_refused_with_the_command_that_makes_it() {
    in_namespace(|| {
        let message = opening(TAP);
        assert!(
            message.contains("no tap `koyatap0`: `ip tuntap add koyatap0 mode tap`"),
            "{message}"
        );
        // SAFETY: the name is a string that ends with a zero.
        let made = unsafe { libc::if_nametoindex(c"koyatap0".as_ptr()) };
        assert_eq!(made, 0, "it was not made by looking for it");
    });
}

#[test]
fn a_tap_carries_one_microvm_and_then_the_next() {
    in_namespace(|| {
        make_tap(TAP, libc::IFF_TAP);
        let first = Tap::open(TAP).unwrap();
        assert_eq!(first.name(), TAP);
        let message = opening(TAP);
        assert!(
            message.contains("`koyatap0` is in use by another process"),
            "{message}"
        );
        drop(first);
        Tap::open(TAP).unwrap();
    });
}

#[test]
fn what_is_not_a_plain_tap_is_named() {
    in_namespace(|| {
        let message = opening("lo");
        assert!(message.contains("`lo` is not a tap but "), "{message}");
        make_tap("tun0", libc::IFF_TUN);
        let message = opening("tun0");
        assert!(message.contains("`tun0` is not a tap but a tun"), "{message}");
        make_tap("many0", libc::IFF_TAP | libc::IFF_MULTI_QUEUE);
        let message = opening("many0");
        assert!(
            message.contains("`many0` was made with several queues"),
            "{message}"
        );
    });
}

#[test]
fn names_that_no_interface_can_have_are_refused() {
    for name in [
        "",
        "sixteen_bytes_xx",
        "a/b",
        "../tap",
        ".",
        "..",
        "tap%d",
        "tap 0",
        "tap\n",
        "tap\0",
        "tap:1",
    ] {
        let message = opening(name);
        assert!(
            message.contains("cannot be the name of a tap"),
            "{name:?}: {message}"
        );
        assert!(!message.contains(['\n', '\0']), "one line: {message:?}");
    }
    let long = "x".repeat(100_000);
    assert!(opening(&long).len() < 300);
}
