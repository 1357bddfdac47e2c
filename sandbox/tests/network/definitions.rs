//! Networks as files.

use std::collections::BTreeMap;

use koya_sandbox::network::{DEFAULT, NetworkError, NewNetwork};

use crate::host::{Host, run};

fn named(name: &str) -> NewNetwork {
    NewNetwork {
        name: name.to_owned(),
        ..Default::default()
    }
}

fn with_subnet(name: &str, subnet: &str) -> NewNetwork {
    NewNetwork {
        subnets: vec![(subnet.parse().unwrap(), None)],
        ..named(name)
    }
}

#[test]
fn networks_are_made_listed_and_removed() {
    let host = Host::new();
    let one = host.networks.create(named("one")).unwrap();
    let two = host.networks.create(named("two")).unwrap();
    assert!(!one.subnets[0].subnet.overlaps(two.subnets[0].subnet));
    assert_ne!(one.interface, two.interface);
    let names: Vec<_> = host
        .again()
        .list()
        .unwrap()
        .into_iter()
        .map(|network| network.name)
        .collect();
    assert_eq!(names, [DEFAULT, "one", "two"]);
    assert_eq!(host.again().inspect("two").unwrap(), two);
    host.networks.remove("one").unwrap();
    for (name, said) in [("one", "no such network"), (DEFAULT, "cannot be removed")] {
        let error = host.networks.remove(name).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn addresses_of_the_host_are_nobody_elses() {
    let host = Host::new();
    run("ip link add lan type bridge");
    run("ip address add 10.91.3.1/24 dev lan");
    run("ip link set lan up");
    // The default network gives way.
    let default = host.networks.inspect(DEFAULT).unwrap();
    assert_eq!(default.subnets[0].subnet.to_string(), "10.191.0.0/16");
    let taken = host
        .networks
        .create(with_subnet("mine", "10.91.0.0/16"))
        .unwrap_err();
    assert!(
        matches!(&taken, NetworkError::SubnetTaken { by, .. } if by == "the host"),
        "{taken}"
    );
    host.networks.create(with_subnet("mine", "10.98.0.0/24")).unwrap();
    let taken = host
        .networks
        .create(with_subnet("other", "10.98.0.128/25"))
        .unwrap_err();
    assert!(taken.to_string().contains("mine"), "{taken}");
}

#[test]
fn what_no_network_can_be_is_refused() {
    let host = Host::new();
    for name in ["", "none", "host", DEFAULT, "-x", "a/b", "../x", &"a".repeat(64)] {
        let error = host.networks.create(named(name)).unwrap_err();
        assert!(matches!(error, NetworkError::BadName(_)), "{name}: {error}");
    }
    for subnet in [
        "10.98.0.1/24",
        "10.98.0.0/31",
        "127.0.0.0/8",
        "224.0.0.0/24",
        "0.0.0.0/0",
    ] {
        let error = host.networks.create(with_subnet("bad", subnet)).unwrap_err();
        assert!(
            matches!(error, NetworkError::BadSubnet { .. }),
            "{subnet}: {error}"
        );
    }
    let mut far = with_subnet("bad", "10.98.0.0/24");
    far.subnets[0].1 = Some("10.97.0.1".parse().unwrap());
    assert!(matches!(
        host.networks.create(far),
        Err(NetworkError::BadSubnet { .. })
    ));
    for (option, value) in [("mtu", "67"), ("mtu", "x"), ("colour", "red"), ("isolate", "yes")] {
        let options = BTreeMap::from([(option.to_owned(), value.to_owned())]);
        let error = host
            .networks
            .create(NewNetwork {
                options,
                ..named("bad")
            })
            .unwrap_err();
        assert!(error.to_string().contains(option), "{error}");
    }
    host.networks.create(named("twice")).unwrap();
    assert!(matches!(
        host.networks.create(named("twice")),
        Err(NetworkError::Exists(_))
    ));
    assert!(matches!(
        host.networks.inspect("bad"),
        Err(NetworkError::Unknown(_))
    ));
}
