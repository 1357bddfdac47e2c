//! Containers that have ended before their networks were taken down.

use std::cell::Cell;

use koya_sandbox::network::{Attached, NetworkRequest, NewNetwork};

use crate::host::{Host, run};

fn request(name: &str, networks: &[&str], ports: &[&str]) -> NetworkRequest {
    NetworkRequest {
        networks: networks.iter().map(|&name| name.to_owned()).collect(),
        ports: ports.iter().map(|port| port.parse().unwrap()).collect(),
        name: name.to_owned(),
        hostname: name.to_owned(),
        ..Default::default()
    }
}

/// In a microVM of its own, which has the same id.
fn attach(host: &Host, id: &str, request: &NetworkRequest) -> Attached {
    host.networks.prepare(id, 1, 1).unwrap();
    host.networks.attach(id, id, request).unwrap()
}

fn ids(host: &Host) -> Vec<String> {
    let all = host.again().all_attached().unwrap();
    all.into_iter().map(|attached| attached.id).collect()
}

#[test]
fn name_and_ports_are_the_next_ones_before_they_have_been_taken_down() {
    let host = Host::new();
    attach(&host, "one", &request("web", &[], &["8080:80"]));
    host.networks.leave("one").unwrap();
    assert!(host.networks.attached("one").unwrap().is_none());
    // As the next process, while the first one has not got further.
    let two = attach(&host, "two", &request("web", &[], &["8080:80"]));
    assert_eq!(ids(&host), ["two"]);
    let to = format!("--to-destination {}:80", two.address().unwrap());
    assert!(run("iptables-save").contains(&to));
    host.networks.detach("one").unwrap();
    assert!(run("iptables-save").contains(&to));
    for vm in ["one", "two"] {
        host.networks.dismantle(vm).unwrap();
    }
    host.assert_clean();
}

#[test]
fn what_is_in_nobodys_way_is_left_to_whoever_takes_it_down() {
    let host = Host::new();
    let one = attach(&host, "one", &request("one", &[], &["8080:80"]));
    host.networks.leave("one").unwrap();
    // Not a network's user any more, and yet its address is nobody else's.
    let two = attach(&host, "two", &request("two", &[], &[]));
    assert_eq!(ids(&host), ["one", "two"]);
    assert_ne!(one.address(), two.address());
    assert_eq!(host.networks.users("koya").unwrap(), ["two"]);
    // Its process died before it got further.
    host.again().sweep(|vm| vm == "two").unwrap();
    assert_eq!(ids(&host), ["two"]);
    host.networks.dismantle("two").unwrap();
    host.assert_clean();
}

#[test]
fn the_last_address_and_the_network_itself_are_free() {
    let host = Host::new();
    let new = NewNetwork {
        name: "small".into(),
        subnets: vec![("10.99.0.0/30".parse().unwrap(), None)],
        ..Default::default()
    };
    host.networks.create(new).unwrap();
    let one = attach(&host, "one", &request("one", &["small"], &[]));
    assert!(host.networks.remove("small").is_err());
    host.networks.leave("one").unwrap();
    let two = attach(&host, "two", &request("two", &["small"], &[]));
    assert_eq!(one.address(), two.address());
    host.networks.leave("two").unwrap();
    host.networks.remove("small").unwrap();
    for vm in ["one", "two"] {
        host.networks.dismantle(vm).unwrap();
    }
    host.assert_clean();
}

/// As after kill -9, and nobody has swept yet.
#[test]
fn what_the_killed_had_is_the_next_ones() {
    let host = Host::new();
    for (id, port) in [("dead", "8001:80"), ("alive", "8002:80")] {
        attach(&host, id, &request(id, &[], &[port]));
    }
    host.again().abandon(|vm| vm == "alive").unwrap();
    assert_eq!(ids(&host), ["alive", "dead"]);
    host.networks.prepare("next", 1, 1).unwrap();
    let taken = host
        .networks
        .attach("next", "next", &request("next", &[], &["8002:80"]));
    assert!(taken.unwrap_err().to_string().contains("container alive"));
    host.networks
        .attach("next", "next", &request("next", &[], &["8001:80"]))
        .unwrap();
    assert_eq!(ids(&host), ["alive", "next"]);
    // As if its record had gone while it was noted that it has left.
    host.networks.leave("nobody").unwrap();
    std::fs::write(host.attached_folder().join("nobody.left"), "").unwrap();
    for vm in ["dead", "alive", "next"] {
        host.networks.dismantle(vm).unwrap();
    }
    host.assert_clean();
}

#[test]
fn what_is_started_again_while_others_sweep_stays() {
    let host = Host::new();
    attach(&host, "web", &request("web", &[], &[]));
    let asked = Cell::new(0);
    // Dead when it is looked for, alive once it is its turn.
    let alive = |_: &str| asked.replace(asked.get() + 1) > 0;
    host.networks.sweep(alive).unwrap();
    assert_eq!(ids(&host), ["web"]);
    host.networks.dismantle("web").unwrap();
    host.assert_clean();
}
