//! Containers on networks that netavark makes.

use std::fs;
use std::net::TcpListener;

use koya_sandbox::network::{Attached, NetworkError, NetworkRequest, NewNetwork, PortError};

use crate::guest::{Guest, hear};
use crate::host::{Host, attempt, links, run};

fn request(name: &str, networks: &[&str], ports: &[&str]) -> NetworkRequest {
    NetworkRequest {
        networks: networks.iter().map(|&name| name.to_owned()).collect(),
        ports: ports.iter().map(|port| port.parse().unwrap()).collect(),
        name: name.to_owned(),
        hostname: name.to_owned(),
        ..Default::default()
    }
}

fn guest(host: &Host, attached: &Attached) -> Guest {
    let vms = host.networks.all_vms().unwrap();
    let vm = vms.iter().find(|vm| vm.vm == attached.vm).unwrap();
    let path = host
        .run_folder()
        .join("netns")
        .join(format!("guest-{}", attached.id));
    Guest::new(&vm.namespace().unwrap(), &attached.taken, &path)
}

fn address(attached: &Attached) -> String {
    attached.address().unwrap().to_string()
}

#[test]
fn a_container_reaches_its_gateway_and_is_reached_through_its_port() {
    let host = Host::new();
    let vm = host.networks.prepare("vm1", 1, 1).unwrap();
    assert_eq!(vm.cards.len(), 1);
    let web = host
        .networks
        .attach(
            "web1",
            "vm1",
            &request("web", &[], &["8080:80", "127.0.0.1:9090:80"]),
        )
        .unwrap();
    let interface = &web.taken.interfaces[0];
    assert_eq!(
        (interface.name.as_str(), interface.mac),
        ("eth0", vm.cards[0].mac)
    );
    assert_eq!(interface.addresses[0].to_string(), "10.91.0.2/16");
    assert_eq!(web.taken.routes[0].gateway, Some("10.91.0.1".parse().unwrap()));
    let guest = guest(&host, &web);
    assert!(guest.pings("10.91.0.1"));
    guest.serve(80, "web");
    for at in [
        "127.0.0.1:8080",
        "10.91.0.1:8080",
        "127.0.0.1:9090",
        "10.91.0.2:80",
    ] {
        assert_eq!(hear(at).unwrap(), "web", "{at}");
    }
    let refused = hear("10.91.0.1:9090").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    drop(guest);
    host.networks.dismantle("vm1").unwrap();
    host.assert_clean();
}

#[test]
fn containers_find_each_other_by_name() {
    let host = Host::new();
    for (vm, id) in [("vm1", "web"), ("vm2", "db")] {
        host.networks.prepare(vm, 1, 1).unwrap();
        host.networks.attach(id, vm, &request(id, &[], &[])).unwrap();
    }
    let [db, web] = host.networks.all_attached().unwrap().try_into().unwrap();
    assert_eq!(
        web.name_servers,
        ["10.91.0.1".parse::<std::net::IpAddr>().unwrap()]
    );
    let (at_web, at_db) = (guest(&host, &web), guest(&host, &db));
    at_db.serve(5432, "database");
    assert_eq!(
        at_web.hear(&format!("{}:5432", address(&db))).unwrap(),
        "database"
    );
    let found = at_web
        .attempt("busybox nslookup db.dns.podman 10.91.0.1")
        .unwrap();
    assert_eq!(found.matches(&address(&db)).count(), 1, "{found}");
    let resolv = web
        .files()
        .into_iter()
        .find(|file| file.path == "/etc/resolv.conf")
        .unwrap();
    let resolv = String::from_utf8(resolv.content).unwrap();
    assert!(resolv.contains("nameserver 10.91.0.1\n"), "{resolv}");
    host.networks.detach("db").unwrap();
    assert!(
        at_web
            .attempt("busybox nslookup db.dns.podman 10.91.0.1")
            .is_err()
    );
    drop((at_web, at_db));
    host.networks.dismantle("vm1").unwrap();
    host.networks.dismantle("vm2").unwrap();
    host.assert_clean();
}

/// The name server ends with the last name and is started for the next one; nobody runs into that.
#[test]
fn a_name_is_answered_as_soon_as_its_container_is_attached() {
    let host = Host::new();
    host.networks.prepare("vm1", 1, 1).unwrap();
    for _ in 0..2 {
        let room = host
            .networks
            .attach("room", "vm1", &request("room", &[], &[]))
            .unwrap();
        let found = run("busybox nslookup room.dns.podman 10.91.0.1");
        assert!(found.contains(&address(&room)), "{found}");
        host.networks.detach("room").unwrap();
    }
    host.networks.dismantle("vm1").unwrap();
    host.assert_clean();
}

/// Each has its own address, port 80 and published port; they reach each other over the bridge, though both interfaces are
/// in one namespace of the host.
#[test]
fn two_rooms_of_one_microvm() {
    let host = Host::new();
    host.networks.prepare("vm1", 3, 1).unwrap();
    let one = host
        .networks
        .attach("one", "vm1", &request("one", &[], &["8001:80"]))
        .unwrap();
    let at_one = guest(&host, &one);
    // The first one runs already.
    let two = host
        .networks
        .attach("two", "vm1", &request("two", &[], &["8002:80"]))
        .unwrap();
    let at_two = guest(&host, &two);
    assert_ne!(one.links[0].tap, two.links[0].tap);
    assert_eq!(
        (two.links[0].host_name.as_str(), two.links[0].name.as_str()),
        ("eth1", "eth0")
    );
    at_one.serve(80, "one");
    at_two.serve(80, "two");
    assert_eq!(hear("127.0.0.1:8001").unwrap(), "one");
    assert_eq!(hear("127.0.0.1:8002").unwrap(), "two");
    assert_eq!(at_one.hear(&format!("{}:80", address(&two))).unwrap(), "two");
    assert_eq!(at_two.hear(&format!("{}:80", address(&one))).unwrap(), "one");
    // Through the host's port, from the same network.
    assert_eq!(at_one.hear("10.91.0.1:8002").unwrap(), "two");
    // Whoever asks for an address learns the card's MAC, of nobody else's.
    let seen = at_one.attempt("ip neighbour show").unwrap();
    assert!(
        seen.contains(&format!("{} dev eth0 lladdr {}", address(&two), two.links[0].mac)),
        "{seen}"
    );
    // The second one goes, a third one gets its card; the first one does not notice.
    drop(at_two);
    host.networks.detach("two").unwrap();
    assert!(hear("127.0.0.1:8002").is_err());
    assert_eq!(hear("127.0.0.1:8001").unwrap(), "one");
    let three = host
        .networks
        .attach("three", "vm1", &request("three", &[], &["8002:80"]))
        .unwrap();
    assert_eq!(three.links[0].tap, two.links[0].tap);
    let at_three = guest(&host, &three);
    at_three.serve(80, "three");
    assert_eq!(hear("127.0.0.1:8002").unwrap(), "three");
    assert_eq!(at_one.hear(&format!("{}:80", address(&three))).unwrap(), "three");
    drop((at_one, at_three));
    host.networks.dismantle("vm1").unwrap();
    host.assert_clean();
}

#[test]
fn a_container_on_two_networks_has_two_interfaces() {
    let host = Host::new();
    let new = NewNetwork {
        name: "back".into(),
        internal: true,
        subnets: vec![
            ("10.99.7.0/24".parse().unwrap(), None),
            ("fd00:99::/64".parse().unwrap(), None),
        ],
        ..Default::default()
    };
    host.networks.create(new).unwrap();
    host.networks.prepare("vm1", 2, 2).unwrap();
    let both = host
        .networks
        .attach("both", "vm1", &request("both", &["koya", "back"], &[]))
        .unwrap();
    let guest = guest(&host, &both);
    for gateway in ["10.91.0.1", "10.99.7.1", "fd00:99::1"] {
        assert!(guest.pings(gateway), "{gateway}");
    }
    let names: Vec<_> = both
        .taken
        .interfaces
        .iter()
        .map(|interface| interface.name.as_str())
        .collect();
    assert_eq!(names, ["eth0", "eth1"]);
    let in_use = host.networks.remove("back").unwrap_err();
    assert!(
        matches!(&in_use, NetworkError::InUse { users, .. } if users == "both"),
        "{in_use}"
    );
    drop(guest);
    host.networks.dismantle("vm1").unwrap();
    host.networks.remove("back").unwrap();
    host.assert_clean();
}

#[test]
fn ports_in_use_are_refused_and_nothing_is_left() {
    let host = Host::new();
    let listener = TcpListener::bind("127.0.0.1:8080").unwrap();
    host.networks.prepare("vm1", 2, 2).unwrap();
    let refused = host
        .networks
        .attach("web", "vm1", &request("web", &[], &["8080:80"]))
        .unwrap_err();
    assert!(
        matches!(refused, NetworkError::Port(PortError::Taken { .. })),
        "{refused}"
    );
    drop(listener);
    let first = host
        .networks
        .attach("web", "vm1", &request("web", &[], &["8080:80", "80"]))
        .unwrap();
    assert_eq!(first.ports[0].host_port, 8080);
    assert!(first.ports[1].host_port > 0);
    let refused = host
        .networks
        .attach("two", "vm1", &request("two", &[], &["8080:80"]))
        .unwrap_err();
    assert!(refused.to_string().contains("web"), "{refused}");
    host.networks.dismantle("vm1").unwrap();
    host.assert_clean();
}

#[test]
fn more_than_a_microvm_has_cards_for_is_refused() {
    let host = Host::new();
    let networks = &host.networks;
    let refused = networks.attach("a", "vm0", &request("a", &[], &[])).unwrap_err();
    assert!(matches!(refused, NetworkError::NoCards(_)), "{refused}");
    networks.prepare("vm1", 1, 1).unwrap();
    networks.attach("a", "vm1", &request("a", &[], &[])).unwrap();
    let refused = networks.attach("b", "vm1", &request("b", &[], &[])).unwrap_err();
    assert!(
        matches!(
            refused,
            NetworkError::TooFewCards {
                free: 0,
                wanted: 1,
                ..
            }
        ),
        "{refused}"
    );
    // Without a network, there is no need of one.
    let none = networks
        .attach("c", "vm1", &request("c", &["none"], &[]))
        .unwrap();
    assert!(none.netns().is_none() && none.taken.interfaces.is_empty());
    for (wanted, ports) in [
        (vec!["none", "koya"], vec![]),
        (vec!["none"], vec!["80"]),
        (vec!["host"], vec![]),
    ] {
        networks
            .attach("d", "vm1", &request("d", &wanted, &ports))
            .unwrap_err();
    }
    let unknown = networks
        .attach("d", "vm1", &request("d", &["lost"], &[]))
        .unwrap_err();
    assert!(unknown.to_string().contains("lost"), "{unknown}");
    networks.dismantle("vm1").unwrap();
    host.assert_clean();
}

/// As after kill -9: the next process sweeps, and leaves what lives.
#[test]
fn what_a_killed_process_left_is_swept() {
    let host = Host::new();
    for vm in ["dead", "alive"] {
        host.networks.prepare(vm, 1, 1).unwrap();
        let ports = if vm == "dead" { "8001:80" } else { "8002:80" };
        host.networks.attach(vm, vm, &request(vm, &[], &[ports])).unwrap();
    }
    host.again().sweep(|vm| vm == "alive").unwrap();
    let rules = run("iptables-save");
    assert!(!rules.contains("8001") && rules.contains("8002"), "{rules}");
    let attached = host.again().all_attached().unwrap();
    assert_eq!(
        attached.iter().map(|one| one.id.as_str()).collect::<Vec<_>>(),
        ["alive"]
    );
    // Somebody has even removed the namespace.
    run(&format!("umount {}", attached[0].netns().unwrap().display()));
    host.again().sweep(|_| false).unwrap();
    host.assert_clean();
}

#[test]
fn what_fails_half_way_leaves_nothing() {
    let host = Host::new();
    host.networks.prepare("vm1", 1, 1).unwrap();
    // The card's tap cannot be made: something else has its name.
    let vms = host.networks.all_vms().unwrap();
    let namespace = vms[0].namespace().unwrap();
    let obstruct = || {
        run("ip link delete tap0");
        run("ip link add tap0 type bridge");
    };
    namespace.run(obstruct).unwrap();
    let failed = host
        .networks
        .attach("web", "vm1", &request("web", &[], &["8080:80"]))
        .unwrap_err();
    assert!(failed.to_string().contains("tap0"), "{failed}");
    assert_eq!(links(), ["lo"]);
    assert!(!run("iptables-save").contains("8080"));
    // netavark itself finds something in its way, when the bridge is there already.
    namespace.run(|| run("ip link add eth0 type bridge")).unwrap();
    let failed = host
        .networks
        .attach("web", "vm1", &request("web", &[], &["8080:80"]))
        .unwrap_err();
    assert!(matches!(failed, NetworkError::Netavark(_)), "{failed}");
    assert_eq!(links(), ["lo"]);
    host.networks.dismantle("vm1").unwrap();
    host.assert_clean();
}

/// Another boot's files say nothing about this one.
#[test]
fn what_was_before_the_machine_was_switched_off_is_forgotten() {
    let host = Host::new();
    host.networks.prepare("vm1", 1, 1).unwrap();
    host.networks
        .attach("web", "vm1", &request("web", &[], &[]))
        .unwrap();
    host.networks.dismantle("vm1").unwrap();
    let home = host.run_folder().parent().unwrap().join("networks");
    let old = home.join("boot-0000");
    fs::create_dir_all(old.join("attached")).unwrap();
    fs::write(old.join("attached/web.json"), "{}").unwrap();
    assert!(host.again().all_attached().unwrap().is_empty());
    assert!(!old.exists());
    assert!(attempt("ip link show koya0").is_err());
}
