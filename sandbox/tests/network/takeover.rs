//! Namespaces that somebody else has made, as CNI would.

use koya_sandbox::network::takeover::take_over;
use koya_sandbox::network::{Namespace, NamespaceError};

use crate::guest::{Guest, hear};
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
        .run(|| std::fs::File::open("/proc/thread-self/ns/net").unwrap())
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
    let taken = take_over(&namespace).unwrap();
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
    let taken = take_over(&namespace).unwrap();
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

#[test]
fn what_is_no_namespace_is_refused() {
    let error = Namespace::open("/etc/passwd".as_ref()).unwrap_err();
    assert!(matches!(error, NamespaceError::Open { .. }));
    assert!(error.to_string().contains("/etc/passwd"), "{error}");
}
