//! Namespaces that somebody else has made, as CNI would.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;

use koya_sandbox::network::takeover::{Card, Live, Taken, Watch, Within, give_back};
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

fn taken(namespace: &Namespace, within: Within) -> Taken {
    Live::take(namespace, within).unwrap().taken().clone()
}

#[test]
fn a_guest_gets_all_that_an_interface_has() {
    let host = Host::new();
    let namespace = somebodys(&host);
    let taken = taken(&namespace, Within::Nobody);
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
    let taken = taken(&namespace, Within::Nobody);
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
    let taken = taken(&namespace, Within::Programs);
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
    taken(&namespace, Within::Nobody);
    assert!(changes().contains("tap0"), "{}", changes());
    // What nobody has given back is in nobody's way.
    let taken = taken(&namespace, Within::Nobody);
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

/// Brings another interface, on a network of its own, as `network connect` does.
fn connect(namespace: &Namespace, name: &str, subnet: &str) {
    let inside = || {
        run(&format!("ip link add {name} type veth peer name far-{name}"));
        run(&format!("ip address add {subnet}.2/24 dev {name}"));
        run(&format!("ip link set {name} up"));
    };
    namespace.run(inside).unwrap();
}

/// Looks once, at a namespace whose guest gets at most this many cards more; which it got, and what is asked of the agent.
fn look(
    live: &mut Live,
    namespace: &Namespace,
    most: usize,
) -> (Vec<Card>, koya_proto::v1::ConfigureNetworkRequest) {
    let mut cards = Vec::new();
    let mut plug = |card: &Card| {
        let has = cards.len() < most;
        cards.extend(has.then(|| card.clone()));
        has
    };
    let change = live.look(namespace, &mut plug).unwrap();
    let request = change.request("web");
    live.settle(change);
    (cards, request)
}

#[test]
fn what_comes_and_goes_while_a_guest_runs_is_followed() {
    let host = Host::new();
    let namespace = somebodys(&host);
    let watch = namespace.run(|| Watch::open().unwrap()).unwrap();
    let mut live = Live::take(&namespace, Within::Nobody).unwrap();
    assert_eq!(live.cards().len(), 1);
    connect(&namespace, "eth1", "10.11.0");
    watch.wait(None).unwrap();
    let (cards, request) = look(&mut live, &namespace, 1);
    assert_eq!(cards[0].tap, "tap1");
    assert_eq!(request.interfaces[0].name, "eth1");
    assert_eq!(request.interfaces[0].addresses, ["10.11.0.2/24"]);
    assert_eq!(request.interfaces[0].mac, cards[0].mac.bytes().to_vec());
    // It is the guest that answers now.
    let guest = Guest::new(&namespace, live.taken(), &host.run_folder().join("netns/guest"));
    let beyond = || {
        run("ip address add 10.11.0.1/24 dev far-eth1");
        run("ip link set far-eth1 up");
    };
    // The far end of the wire, in a namespace of its own, as the namespace would answer itself.
    let far = Namespace::create(&host.run_folder().join("netns/far")).unwrap();
    let file = far
        .run(|| File::open("/proc/thread-self/ns/net").unwrap())
        .unwrap();
    let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
    let move_it = format!("ip link set far-eth1 netns /proc/{}/fd/{fd}", std::process::id());
    namespace.run(|| run(&move_it)).unwrap();
    far.run(beyond).unwrap();
    far.run(|| run("ping -n -q -c 2 -i 0.2 -W 5 10.11.0.2")).unwrap();
    drop(guest);
    // A route goes, another comes.
    let reroute = || run("ip route replace default via 10.11.0.1");
    namespace.run(reroute).unwrap();
    let (_, request) = look(&mut live, &namespace, 0);
    assert_eq!(request.gone_routes[0].gateway, "10.9.0.1");
    assert_eq!(request.routes[0].gateway, "10.11.0.1");
    assert!(
        request.interfaces.is_empty() && request.gone_interfaces.is_empty(),
        "{request:?}"
    );
    // Of two ways to one place, the kernel makes one route for IPv6.
    let append = || run("ip -6 route append default via fd00:9::7 dev eth0 metric 1024");
    namespace.run(append).unwrap();
    let (_, request) = look(&mut live, &namespace, 0);
    let gateways: Vec<_> = request
        .routes
        .iter()
        .map(|route| route.gateway.as_str())
        .collect();
    assert_eq!(gateways, ["fd00:9::1", "fd00:9::7"]);
    // It goes.
    namespace.run(|| run("ip link del eth1")).unwrap();
    let (_, request) = look(&mut live, &namespace, 0);
    assert_eq!(request.gone_interfaces, [cards[0].mac.bytes().to_vec()]);
    // Nothing is left to be told.
    let (_, request) = look(&mut live, &namespace, 0);
    let nothing = koya_proto::v1::ConfigureNetworkRequest {
        id: "web".into(),
        ..Default::default()
    };
    assert_eq!(request, nothing);
    give_back(&namespace).unwrap();
    let left = namespace
        .run(|| run("ip -oneline link show type tun") + &run("tc qdisc show ingress"))
        .unwrap();
    assert!(!left.contains("tap") && !left.contains("eth"), "{left}");
    Namespace::remove(far.path()).unwrap();
}

#[test]
fn a_card_waits_for_its_like_and_for_others_when_there_are_no_more() {
    let host = Host::new();
    let namespace = somebodys(&host);
    let mut live = Live::take(&namespace, Within::Nobody).unwrap();
    let mac = |card: &Card| card.mac.bytes().to_vec();
    // A guest that takes no card has the interface when it does. The tap stays meanwhile: another would be another change.
    connect(&namespace, "eth1", "10.11.0");
    let shown = |name: &str| {
        let line = format!("ip -oneline link show {name}");
        namespace.run(|| run(&line)).unwrap()
    };
    let index = || shown("tap1").split(':').next().unwrap().to_owned();
    let (cards, request) = look(&mut live, &namespace, 0);
    assert!(cards.is_empty() && request.interfaces.is_empty(), "{request:?}");
    assert!(live.lacks_cards());
    let before = index();
    look(&mut live, &namespace, 0);
    let (cards, request) = look(&mut live, &namespace, 1);
    assert_eq!((index(), live.lacks_cards()), (before, false));
    assert_eq!(request.interfaces[0].mac, mac(&cards[0]));
    // Two come, and one more card: one of them has to do with the one that waits.
    namespace.run(|| run("ip link del eth1")).unwrap();
    connect(&namespace, "eth2", "10.12.0");
    connect(&namespace, "eth3", "10.13.0");
    let (more, request) = look(&mut live, &namespace, 1);
    assert_eq!(more[0].tap, "tap2");
    let macs: Vec<_> = request.interfaces.iter().map(|one| one.mac.clone()).collect();
    assert_eq!(macs, [mac(&cards[0]), mac(&more[0])]);
    assert!(
        shown("eth2").contains(&more[0].mac.to_string()),
        "{}",
        shown("eth2")
    );
    // One that is taken down is gone as well, and comes again to the card with its MAC. What waits is not up.
    for name in ["eth2", "eth3"] {
        namespace
            .run(|| run(&format!("ip link set {name} down")))
            .unwrap();
    }
    look(&mut live, &namespace, 0);
    let taps = namespace.run(|| run("ip -oneline link show type tun")).unwrap();
    assert_eq!(taps.matches(",UP").count(), 1, "{taps}");
    namespace.run(|| run("ip link set eth2 up")).unwrap();
    let (_, request) = look(&mut live, &namespace, 0);
    assert_eq!(request.interfaces[0].mac, mac(&more[0]));
    // What the guest was told in vain it may have all the same.
    namespace.run(|| run("ip link set eth3 up")).unwrap();
    drop(live.look(&namespace, &mut |_| false).unwrap());
    namespace.run(|| run("ip link set eth3 down")).unwrap();
    let (_, request) = look(&mut live, &namespace, 0);
    assert_eq!(request.gone_interfaces, [mac(&cards[0])]);
}
