//! Namespaces that somebody else has made, as CNI would.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;

use koya_sandbox::network::takeover::{Within, give_back, take_over};
use koya_sandbox::network::{Namespace, NamespaceError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::guest::{Guest, hear, open_tap};
use crate::host::{Host, run};

/// A namespace with a veth to the host, and what else may be in one.
fn somebodys(host: &Host) -> Namespace {
    let path = host.run_folder().join("netns/pod");
    let namespace = Namespace::create(&path).unwrap();
    run("ip link add veth0 type veth peer name peer0");
    run("ip address add 10.9.0.1/24 dev veth0");
    run("ip -6 address add fd00:9::1/64 dev veth0 nodad");
    run("ip link set veth0 mtu 1400 up");
    // By a descriptor of this process, so that no name has to be known to `ip`.
    let move_it = namespace
        .run(|| File::open("/proc/thread-self/ns/net").unwrap())
        .unwrap();
    let fd = std::os::fd::AsRawFd::as_raw_fd(&move_it);
    run(&format!(
        "ip link set peer0 netns /proc/{}/fd/{fd}",
        std::process::id()
    ));
    let inside = || {
        run("ip link set lo up");
        run("ip link set peer0 name eth0 address 02:00:00:00:09:02 mtu 1400");
        run("ip address add 10.9.0.2/24 dev eth0");
        run("ip -6 address add fd00:9::2/64 dev eth0 nodad");
        run("ip link set eth0 up");
        run("ip route add 10.77.0.0/16 via 10.9.0.1 src 10.9.0.2 metric 7");
        run("ip route add default via 10.9.0.1");
        run("ip -6 route add default via fd00:9::1");
        run("ip neighbour add 10.9.0.250 lladdr 02:00:00:00:09:fa dev eth0 nud permanent");
        run("ip link add unused type bridge");
        run("ip link add name wire type veth peer name eriw");
    };
    namespace.run(inside).unwrap();
    namespace
}

#[test]
fn a_guest_gets_all_that_an_interface_has() {
    let host = Host::new();
    let namespace = somebodys(&host);
    let taken = take_over(&namespace, Within::Nobody).unwrap();
    let [interface] = taken.interfaces.as_slice() else {
        panic!("only one is up: {taken:?}")
    };
    assert_eq!(interface.name, "eth0");
    assert_eq!(interface.tap, "tap0");
    assert_eq!(interface.mac.to_string(), "02:00:00:00:09:02");
    assert_eq!(interface.mtu, 1400);
    let addresses: Vec<_> = interface.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.9.0.2/24", "fd00:9::2/64"]);
    let routes: Vec<_> = taken
        .routes
        .iter()
        .map(|route| {
            (
                route.destination.to_string(),
                route.gateway.unwrap().to_string(),
                route.metric,
            )
        })
        .collect();
    for wanted in [
        ("10.77.0.0/16", "10.9.0.1", 7),
        ("0.0.0.0/0", "10.9.0.1", 0),
        ("::/0", "fd00:9::1", 1024),
    ] {
        let found = routes.iter().find(|(destination, gateway, _)| {
            (destination.as_str(), gateway.as_str()) == (wanted.0, wanted.1)
        });
        assert_eq!(found.map(|route| route.2), Some(wanted.2), "{routes:?}");
    }
    assert_eq!(routes.len(), 3, "{routes:?}");
    let source = taken
        .routes
        .iter()
        .find(|route| route.metric == 7)
        .unwrap()
        .source;
    assert_eq!(source, Some("10.9.0.2".parse().unwrap()));
    let neighbours: Vec<_> = taken
        .neighbours
        .iter()
        .map(|neighbour| (neighbour.address.to_string(), neighbour.mac.to_string()))
        .collect();
    assert_eq!(
        neighbours,
        [("10.9.0.250".to_owned(), "02:00:00:00:09:fa".to_owned())]
    );
    // Whoever made it finds it as it was.
    let left = namespace.run(|| run("ip -4 address show dev eth0")).unwrap();
    assert!(left.contains("10.9.0.2/24"), "{left}");
    let request = taken.request("pod");
    assert_eq!((request.id.as_str(), request.interfaces[0].mtu), ("pod", 1400));
}

#[test]
fn frames_go_both_ways_and_none_is_answered_by_the_host() {
    let host = Host::new();
    let namespace = somebodys(&host);
    let taken = take_over(&namespace, Within::Nobody).unwrap();
    // Nobody plays the guest: the kernel, which still has the address, must not.
    assert!(crate::host::attempt("ping -n -q -c 1 -W 1 10.9.0.2").is_err());
    let guest = Guest::new(&namespace, &taken, &host.run_folder().join("netns/guest"));
    for address in ["10.9.0.1", "fd00:9::1"] {
        assert!(guest.pings(address), "{address}");
    }
    run("ping -n -q -c 2 -i 0.2 -W 5 10.9.0.2");
    run("ping -n -q -c 2 -i 0.2 -W 5 fd00:9::2");
    // Larger than the MTU allows, whole.
    run("ping -n -q -c 1 -W 5 -s 4000 10.9.0.2");
    guest.serve(80, "the guest");
    assert_eq!(hear("10.9.0.2:80").unwrap(), "the guest");
}

/// Plays slirp4netns: a tap that a program keeps open, with an address.
fn kept_up(namespace: &Namespace) -> File {
    let tap = namespace.run(|| open_tap("tap0")).unwrap();
    let inside = || {
        run("ip link set tap0 address 02:00:00:00:0a:02 mtu 65520 up");
        run("ip address add 10.10.0.100/24 dev tap0");
        run("ip route add default via 10.10.0.2 metric 9");
    };
    namespace.run(inside).unwrap();
    tap
}

/// Whether a frame is about this address in what has arrived at a tap.
fn hears_of(tap: &mut File, address: [u8; 4]) -> bool {
    let mut frame = [0; 2000];
    loop {
        let mut wanted = [PollFd::from_borrowed_fd(tap.as_fd(), PollFlags::IN)];
        if poll(&mut wanted, Some(&Timespec::default())).unwrap() == 0 {
            return false;
        }
        let length = tap.read(&mut frame).unwrap();
        if frame[..length].windows(4).any(|bytes| bytes == address) {
            return true;
        }
    }
}

#[test]
fn programs_of_the_namespace_reach_the_guest() {
    let host = Host::new();
    let namespace = somebodys(&host);
    let mut tap = kept_up(&namespace);
    let taken = take_over(&namespace, Within::Programs).unwrap();
    let named: Vec<_> = taken
        .interfaces
        .iter()
        .map(|one| (one.name.as_str(), one.tap.as_str()))
        .collect();
    assert_eq!(named, [("eth0", "tap1"), ("tap0", "tap2")]);
    assert_eq!(taken.interfaces[1].mtu, 65520);
    let guest = Guest::new(&namespace, &taken, &host.run_folder().join("netns/guest"));
    guest.serve(80, "the guest");
    for address in ["10.9.0.2:80", "10.10.0.100:80"] {
        let said = namespace.run(|| hear(address)).unwrap();
        assert_eq!(said.unwrap(), "the guest", "{address}");
    }
    // From outside as well, and the guest itself gets out.
    assert_eq!(hear("10.9.0.2:80").unwrap(), "the guest");
    assert!(guest.pings("10.9.0.1"));
    // Whoever keeps the other one up hears the guest ask for it.
    assert!(!guest.pings("10.10.0.2"));
    assert!(hears_of(&mut tap, [10, 10, 0, 2]));
}

#[test]
fn a_namespace_is_given_back_as_it_was_unless_a_guest_has_it() {
    let host = Host::new();
    let namespace = somebodys(&host);
    let changes = || {
        let inside = || run("ip -oneline link show type tun") + &run("tc qdisc show dev eth0 ingress");
        namespace.run(inside).unwrap()
    };
    take_over(&namespace, Within::Nobody).unwrap();
    assert!(changes().contains("tap0"), "{}", changes());
    // What nobody has given back is in nobody's way.
    let taken = take_over(&namespace, Within::Nobody).unwrap();
    let guest = Guest::new(&namespace, &taken, &host.run_folder().join("netns/guest"));
    give_back(&namespace).unwrap();
    assert!(
        guest.pings("10.9.0.1"),
        "it was taken away from a guest that lives"
    );
    drop(guest);
    give_back(&namespace).unwrap();
    assert_eq!(changes(), "");
    // The kernel, which has the address, answers again.
    run("ping -n -q -c 1 -W 5 10.9.0.2");
    give_back(&namespace).unwrap();
}

#[test]
fn what_is_no_namespace_is_refused() {
    let error = Namespace::open("/etc/passwd".as_ref()).unwrap_err();
    assert!(matches!(error, NamespaceError::Open { .. }));
    assert!(error.to_string().contains("/etc/passwd"), "{error}");
}
