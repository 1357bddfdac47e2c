//! Rules of the packet filter, whoever has made them: Koya, or a netavark that insists on its own.

use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Duration;
use std::{env, fs};

use koya_sandbox::network::{Attached, Namespace, NetworkRequest, NewNetwork};

use crate::guest::{Guest, hear};
use crate::host::{Host, attempt, run};
use serde_json::{Value, json};

/// Debian's.
const OF_DISTRIBUTION: &str = "/usr/lib/podman/netavark";

fn request(name: &str, network: &str, ports: &[&str]) -> NetworkRequest {
    NetworkRequest {
        networks: vec![network.to_owned()],
        ports: ports.iter().map(|port| port.parse().unwrap()).collect(),
        name: name.to_owned(),
        hostname: name.to_owned(),
        ..Default::default()
    }
}

/// A container in a microVM of its own, which has the same id.
fn start(host: &Host, name: &str, network: &str, ports: &[&str]) -> (Attached, Guest) {
    let vm = host.networks.prepare(name, 1, 1).unwrap();
    let attached = host
        .networks
        .attach(name, name, &request(name, network, ports))
        .unwrap();
    let path = host.run_folder().join("netns").join(format!("guest-{name}"));
    let guest = Guest::new(&vm.namespace().unwrap(), &attached.taken, &path);
    (attached, guest)
}

fn create(host: &Host, name: &str, subnets: &[&str], isolate: bool) {
    let subnets = subnets.iter().map(|subnet| (subnet.parse().unwrap(), None));
    let options = isolate.then(|| ("isolate".to_owned(), "true".to_owned()));
    let new = NewNetwork {
        name: name.to_owned(),
        subnets: subnets.collect(),
        options: options.into_iter().collect(),
        ..Default::default()
    };
    host.networks.create(new).unwrap();
}

fn stop(host: &Host, started: Vec<(Attached, Guest)>) {
    for (attached, guest) in started {
        drop(guest);
        host.networks.dismantle(&attached.vm).unwrap();
    }
}

/// Someone beyond the host, 192.0.2.2, who knows nothing of the networks in it.
fn beyond(host: &Host) -> Guest {
    let path = host.run_folder().join("beyond");
    let namespace = Namespace::create(&path).unwrap();
    run("ip link add out type veth peer name beyond");
    run("ip address add 192.0.2.1/24 dev out");
    run("ip link set out up");
    run(&format!("ip link set beyond netns {}", path.display()));
    let set_up = || {
        run("ip link set lo up");
        run("ip address add 192.0.2.2/24 dev beyond");
        run("ip link set beyond up");
    };
    namespace.run(set_up).unwrap();
    Guest::of(namespace)
}

/// One that knows no other way than rules of its own.
fn has_rules_of_its_own() -> bool {
    let program = env::var("KOYA_NETAVARK").unwrap_or_else(|_| OF_DISTRIBUTION.to_owned());
    run(&format!("{program} --version")).contains("netavark 1.4.")
}

/// What a test with `ours` in its name is about; tests/run leaves those out where it brings another netavark.
fn needs_rules_of_ours() {
    assert!(
        !has_rules_of_its_own(),
        "this takes KOYA_NETAVARK=$(resources/netavark/build)"
    );
}

/// Docker and ufw set the host up so. No program of the firewall is started by a netavark that can do without.
#[test]
fn the_world_is_reached_and_reaches_ports_where_nothing_else_is_forwarded() {
    let host = Host::new();
    run("iptables -P FORWARD DROP");
    let world = beyond(&host);
    world.serve(7, "world");
    let (web, at_web) = start(&host, "web", "koya", &["8080:80", "192.0.2.1:9090-9091:90-91"]);
    at_web.serve(80, "web");
    at_web.serve(91, "more");
    assert_eq!(at_web.hear("192.0.2.2:7").unwrap(), "world");
    assert_eq!(hear("192.0.2.1:9091").unwrap(), "more");
    let rules = run("iptables-save");
    assert_eq!(rules.contains("NETAVARK"), has_rules_of_its_own(), "{rules}");
    if !has_rules_of_its_own() {
        assert_eq!(world.hear("192.0.2.1:8080").unwrap(), "web");
        assert_eq!(world.hear("192.0.2.1:9091").unwrap(), "more");
    }
    let direct = world
        .namespace
        .run(|| run("ip route add 10.91.0.0/16 via 192.0.2.1"));
    direct.unwrap();
    assert!(!world.pings(&web.address().unwrap().to_string()));
    stop(&host, vec![(web, at_web)]);
    drop(world);
    run("ip link delete out");
    host.assert_clean();
}

/// Addresses of the loopback device come by a wire only if somebody wants in.
#[test]
fn ours_let_nobody_else_reach_what_the_host_has_for_itself() {
    needs_rules_of_ours();
    let host = Host::new();
    let world = beyond(&host);
    let (web, at_web) = start(&host, "web", "koya", &["127.0.0.1:8080:80"]);
    at_web.serve(80, "web");
    assert_eq!(hear("127.0.0.1:8080").unwrap(), "web");
    let own = TcpListener::bind("127.0.0.1:9999").unwrap();
    own.set_nonblocking(true).unwrap();
    let gateway = web.links[0].gateways[0];
    for (from, card, way) in [
        (&world, "beyond", "192.0.2.1"),
        (&at_web, "eth0", &*gateway.to_string()),
    ] {
        let seek = || {
            for card in [card, "lo"] {
                fs::write(format!("/proc/sys/net/ipv4/conf/{card}/route_localnet"), "1").unwrap();
            }
            let _ = attempt("ip route del local 127.0.0.0/8 dev lo table local");
            let _ = attempt("ip route del local 127.0.0.1 dev lo table local");
            run(&format!("ip route add 127.0.0.1 via {way} dev {card}"));
            ["127.0.0.1:8080", "127.0.0.1:9999"].map(|place| {
                let place = place.parse().unwrap();
                TcpStream::connect_timeout(&place, Duration::from_secs(2)).is_ok()
            })
        };
        assert_eq!(from.namespace.run(seek).unwrap(), [false, false], "{card}");
    }
    assert!(own.accept().is_err());
    assert_eq!(hear("127.0.0.1:8080").unwrap(), "web");
    stop(&host, vec![(web, at_web)]);
    run("ip link delete out");
    drop(world);
    host.assert_clean();
}

/// As where ufw lets nothing in.
#[test]
fn ours_let_names_be_asked_for_where_nothing_else_comes_in() {
    needs_rules_of_ours();
    let host = Host::new();
    run("iptables -P INPUT DROP");
    run("iptables -A INPUT -i lo -j ACCEPT");
    run("iptables -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT");
    create(&host, "named", &["10.92.4.0/24"], false);
    let (db, at_db) = start(&host, "db", "named", &[]);
    let gateway = db.links[0].gateways[0];
    // Its own name, of a kind that has one answer (RFC 1035 §4.1).
    let question = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x02db\x00\x00\x01\x00\x01";
    let ask = |port: u16| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(if port == 53 { 20 } else { 1 })))
            .unwrap();
        socket.send_to(question, (gateway, port)).unwrap();
        let mut answer = [0; 512];
        socket
            .recv(&mut answer)
            .map(|length| answer[..length.min(2)].to_vec())
    };
    let answer = at_db.namespace.run(|| ask(53)).unwrap();
    assert_eq!(answer.unwrap(), question[..2], "no name server at {gateway}");
    let other = at_db.namespace.run(|| ask(54)).unwrap();
    assert_eq!(other.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    stop(&host, vec![(db, at_db)]);
    host.assert_clean();
}

/// Whoever comes after a container that could not be taken down has the rules all the same.
#[test]
fn ours_do_not_rest_on_a_container_that_is_half_gone() {
    needs_rules_of_ours();
    let host = Host::new();
    create(&host, "shared", &["10.92.5.0/24"], false);
    let (first, at_first) = start(&host, "first", "shared", &[]);
    // Somebody was killed behind its rules.
    rewrite(&host, "first", |record| record["rules"]["up"] = json!(false));
    for chain in ["-D FORWARD -j KOYA-", "-F KOYA-"] {
        run(&format!("iptables {chain}{}", first.links[0].bridge));
    }
    let (second, at_second) = start(&host, "second", "shared", &[]);
    let rules = run("iptables-save");
    assert!(rules.contains("-A FORWARD -j KOYA-"), "{rules}");
    stop(&host, vec![(first, at_first), (second, at_second)]);
    host.assert_clean();
}

#[test]
fn isolated_networks_are_closed_to_each_other_and_to_nobody_else() {
    let host = Host::new();
    create(&host, "one", &["10.92.1.0/24"], true);
    create(&host, "two", &["10.92.2.0/24"], true);
    create(&host, "open", &["10.92.3.0/24"], false);
    let started: Vec<_> = ["one", "two", "open"]
        .into_iter()
        .map(|name| start(&host, name, name, &[]))
        .collect();
    let pings = |from: usize, to: usize| {
        let address = started[to].0.address().unwrap();
        let ping = format!("ping -n -q -c 1 -W 2 {address}");
        started[from].1.attempt(&ping).is_ok()
    };
    for (from, to) in [(0, 1), (1, 0)] {
        assert!(!pings(from, to), "{from} reaches {to}");
    }
    for (from, to) in [(0, 2), (2, 0), (1, 2)] {
        assert!(pings(from, to), "{from} does not reach {to}");
    }
    stop(&host, started);
    host.assert_clean();
}

#[test]
fn ports_of_both_families_lead_to_a_container() {
    let host = Host::new();
    create(&host, "both", &["10.92.4.0/24", "fd00:92::/64"], false);
    let (web, at_web) = start(&host, "web", "both", &["8080:80"]);
    at_web.serve_at("[::]:80", "web");
    for at in ["127.0.0.1:8080", "10.92.4.1:8080", "[fd00:92::1]:8080"] {
        assert_eq!(hear(at).unwrap(), "web", "{at}");
    }
    stop(&host, vec![(web, at_web)]);
    let rules = run("ip6tables-save");
    assert!(!rules.contains("dport") && !rules.contains("KOYA-"), "{rules}");
    host.assert_clean();
}

/// As after `iptables -F`, or a firewall that has been loaded anew.
#[test]
fn rules_that_somebody_has_removed_are_in_nobodys_way() {
    let host = Host::new();
    let started = ["one", "two"].map(|name| start(&host, name, "koya", &[]));
    let (web, at_web) = start(&host, "web", "koya", &["8080:80"]);
    run("iptables -F FORWARD");
    run("iptables -t nat -F OUTPUT");
    run("iptables -t nat -F POSTROUTING");
    stop(&host, vec![(web, at_web)]);
    stop(&host, started.into());
    host.assert_clean();
    // All of it comes anew.
    let (web, at_web) = start(&host, "web", "koya", &["8080:80"]);
    at_web.serve(80, "web");
    assert_eq!(hear("127.0.0.1:8080").unwrap(), "web");
    stop(&host, vec![(web, at_web)]);
    host.assert_clean();
}

/// Its record, which is changed behind everybody's back; what it was.
fn rewrite(host: &Host, id: &str, change: impl FnOnce(&mut Value)) -> Value {
    let path = host.attached_folder().join(format!("{id}.json"));
    let old: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let mut new = old.clone();
    change(&mut new);
    fs::write(&path, new.to_string()).unwrap();
    old
}

/// While Koya, or its netavark, is exchanged under containers that run.
#[test]
fn each_is_detached_by_what_it_was_attached_by() {
    let host = Host::new();
    create(&host, "back", &["10.92.5.0/24"], false);
    let one = start(&host, "one", "koya", &["8001:80"]);
    let distribution = json!({ "program": OF_DISTRIBUTION, "makesRules": true });
    let own = rewrite(&host, "one", |record| record["builder"] = distribution.clone());
    let two = start(&host, "two", "back", &["8002:80"]);
    rewrite(&host, "one", |record| *record = own);
    // One of a Koya that noted nothing of that.
    let noted = rewrite(&host, "two", |record| {
        let record = record.as_object_mut().unwrap();
        record.retain(|name, _| !["builder", "rules"].contains(&name.as_str()));
    });
    assert_eq!(
        (&noted["builder"], &noted["rules"]),
        (&distribution, &Value::Null)
    );
    two.1.serve(80, "two");
    assert_eq!(hear("127.0.0.1:8002").unwrap(), "two");
    stop(&host, vec![two]);
    let rules = run("iptables-save");
    assert!(!rules.contains("8002") && rules.contains("8001"), "{rules}");
    one.1.serve(80, "one");
    assert_eq!(hear("127.0.0.1:8001").unwrap(), "one");
    stop(&host, vec![one]);
    host.assert_clean();
}
