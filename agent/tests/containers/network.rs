//! Networks of containers. A veth plays the guest's network card, in a network of the test's own.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::process::Command;
use std::time::{Duration, Instant};

use koya_proto::names::{Name, Transport};
use koya_proto::stream::Token;
use koya_proto::v1::{ConfigureNetworkRequest, DialRequest, Interface, Neighbour, Route, ServeNamesRequest};

use crate::place::{LONG, Place, config, output, process, shell};

const MAC: [u8; 6] = [2, 0, 0, 0, 5, 2];

fn run(line: &str) {
    let mut words = line.split(' ');
    let status = Command::new(words.next().unwrap()).args(words).status().unwrap();
    assert!(status.success(), "{line}");
}

/// An agent in a network where a card is, and what it is joined to.
fn place_with_card() -> Place {
    // SAFETY: the call takes flags only, and changes what this thread sees of the system, no memory.
    let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    run("ip link add card type veth peer name far");
    run("ip link set card address 02:00:00:00:05:02");
    run("ip address add 10.5.0.1/24 dev far");
    run("ip link set far up");
    run("ip link set lo up");
    Place::new()
}

fn default_by(gateway: &str) -> Route {
    Route {
        destination: "0.0.0.0/0".into(),
        gateway: gateway.into(),
        metric: 7,
        ..Default::default()
    }
}

fn wanted(id: &str) -> ConfigureNetworkRequest {
    ConfigureNetworkRequest {
        id: id.into(),
        interfaces: vec![Interface {
            mac: MAC.to_vec(),
            name: "eth0".into(),
            mtu: 1400,
            addresses: vec!["10.5.0.2/24".into()],
            ..Default::default()
        }],
        routes: vec![
            default_by("10.6.0.1"),
            default_by("10.6.0.2"),
            Route {
                destination: "10.6.0.0/16".into(),
                interface: "eth0".into(),
                source: "10.5.0.2".into(),
                ..Default::default()
            },
        ],
        neighbours: vec![Neighbour {
            address: "10.5.0.9".into(),
            mac: vec![2, 0, 0, 0, 5, 9],
            interface: "eth0".into(),
            ..Default::default()
        }],
        ..Default::default()
    }
}

#[test]
fn a_container_gets_the_card_with_all_that_belongs_to_it() {
    let place = place_with_card();
    let script = "ip -o link; ip -o -4 address; ip route; cat /proc/net/arp; nc 10.5.0.1 7000";
    let mut request = place.request("web", &shell(script));
    let (stdio, out) = output();
    request.stdio = Some(stdio).into();
    place.client.create(request).unwrap();
    place.client.configure_network(&wanted("web")).unwrap();
    // Again: nothing changes.
    place.client.configure_network(&wanted("web")).unwrap();
    let listener = TcpListener::bind("10.5.0.1:7000").unwrap();
    let mut stream = place.stream(out);
    place.client.start("web").unwrap();
    listener
        .accept()
        .unwrap()
        .0
        .write_all(b"word from afar\n")
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    place.client.wait(&"web".into(), Some(LONG)).unwrap();
    for part in [
        "lo: <LOOPBACK,UP",
        "eth0@",
        "mtu 1400",
        "02:00:00:00:05:02",
        "inet 10.5.0.2/24 brd 10.5.0.255",
        // The second comes second.
        "default via 10.6.0.1 dev eth0  metric 7 \ndefault via 10.6.0.2 dev eth0  metric 7 \n",
        "10.6.0.0/16 dev eth0 scope link  src 10.5.0.2",
        "02:00:00:00:05:09",
        "word from afar",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    place.client.delete("web", false).unwrap();
    place.assert_gone("web");
}

#[test]
fn a_card_has_its_ipv6_address_where_the_others_have_none() {
    let place = place_with_card();
    // As docker has it in every network namespace, and then turns it on for some interfaces.
    let mut config = config(&["sleep", "1000"]);
    config["linux"]["sysctl"] = serde_json::json!({ "net.ipv6.conf.all.disable_ipv6": "1" });
    place.client.create(place.request("web", &config)).unwrap();
    let mut request = wanted("web");
    request.interfaces[0].addresses.push("fd00:5::2/64".into());
    place.client.configure_network(&request).unwrap();
    place.client.start("web").unwrap();
    // Something with the same MAC is no card.
    let script = "ip -o -6 address; ip link add top address 02:00:00:00:05:02 type bridge 2>&1; ip -o link";
    let mut root = process(&["sh", "-c", script]);
    root["capabilities"]["effective"] = serde_json::json!(["CAP_NET_ADMIN"]);
    root["capabilities"]["permitted"] = serde_json::json!(["CAP_NET_ADMIN"]);
    root["capabilities"]["bounding"] = serde_json::json!(["CAP_NET_ADMIN"]);
    let (_, text) = place.exec("web", "look", &root, b"");
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("eth0    inet6 fd00:5::2/64"), "{text}");
    assert_eq!(text.matches("02:00:00:00:05:02").count(), 2, "{text}");
    let request = ConfigureNetworkRequest {
        id: "web".into(),
        gone_interfaces: vec![MAC.to_vec()],
        ..Default::default()
    };
    place.client.configure_network(&request).unwrap();
    let (_, text) = place.exec("web", "again", &process(&["ls", "/sys/class/net"]), b"");
    assert_eq!(String::from_utf8(text).unwrap(), "lo\ntop\n");
}

#[test]
fn a_container_that_runs_gives_cards_and_routes_back() {
    let place = place_with_card();
    place.sleeper("web");
    let look = || {
        let script = "ls /sys/class/net; ip route";
        let (_, text) = place.exec("web", "look", &process(&["sh", "-c", script]), b"");
        String::from_utf8(text).unwrap()
    };
    place.client.configure_network(&wanted("web")).unwrap();
    let change = |change: &dyn Fn(&mut ConfigureNetworkRequest)| {
        let mut request = ConfigureNetworkRequest {
            id: "web".into(),
            ..Default::default()
        };
        change(&mut request);
        place.client.configure_network(&request).unwrap();
        // What has gone is gone.
        place.client.configure_network(&request).unwrap();
    };
    change(&|request| request.gone_routes = vec![default_by("10.6.0.1")]);
    let text = look();
    assert!(
        !text.contains("via 10.6.0.1") && text.contains("via 10.6.0.2"),
        "{text}"
    );
    change(&|request| {
        request.gone_routes = vec![default_by("10.6.0.2")];
        request.gone_interfaces = vec![MAC.to_vec()];
    });
    assert_eq!(look(), "lo\n");
    // It goes and comes at once, too.
    for _ in 0..2 {
        let mut request = wanted("web");
        request.gone_interfaces = vec![MAC.to_vec()];
        place.client.configure_network(&request).unwrap();
        let text = look();
        assert!(
            text.starts_with("eth0\nlo\n") && text.contains("via 10.6.0.1"),
            "{text}"
        );
    }
}

#[test]
fn what_cannot_be_had_is_named() {
    let place = place_with_card();
    let refused =
        |request: &ConfigureNetworkRequest| place.client.configure_network(request).unwrap_err().to_string();
    assert!(refused(&wanted("nobody")).contains("nobody"));
    place.sleeper("web");
    let mut other = wanted("web");
    other.interfaces[0].mac = vec![2, 0, 0, 0, 5, 0xee];
    let start = Instant::now();
    assert!(refused(&other).contains("02:00:00:00:05:ee"));
    assert!(start.elapsed() < Duration::from_secs(20));
    let mut lost = wanted("web");
    lost.routes.last_mut().unwrap().interface = "eth7".into();
    assert!(refused(&lost).contains("eth7"));
    let mut unreachable = wanted("web");
    unreachable.routes.pop();
    assert!(refused(&unreachable).contains("route to 0.0.0.0/0"));
}

fn dial(place: &Place, id: &str, port: u32) -> Result<std::os::unix::net::UnixStream, String> {
    let token = Token::random().unwrap();
    let request = DialRequest {
        id: id.into(),
        port,
        stream: token.to_field(),
        ..Default::default()
    };
    place.client.dial(&request).map_err(|error| error.to_string())?;
    Ok(place.stream(token))
}

#[test]
fn a_port_of_the_loopback_device_is_dialled() {
    let place = Place::new();
    place.sleeper("web");
    place
        .client
        .configure_network(&ConfigureNetworkRequest {
            id: "web".into(),
            ..Default::default()
        })
        .unwrap();
    assert!(
        dial(&place, "web", 7)
            .unwrap_err()
            .contains("nothing listens on port 7")
    );
    assert!(dial(&place, "web", 70_000).unwrap_err().contains("70000"));
    assert!(dial(&place, "lost", 7).unwrap_err().contains("lost"));
    let server = process(&["nc", "-ll", "-p", "7", "-e", "cat"]);
    let request = crate::place::exec_request("web", "echo", &server, Default::default());
    place.client.exec(request).unwrap();
    let start = Instant::now();
    let stream = loop {
        match dial(&place, "web", 7) {
            Ok(stream) => break stream,
            Err(error) => assert!(start.elapsed() < LONG, "{error}"),
        }
    };
    let sent: Vec<u8> = (0..1 << 20).map(|number: u32| number.to_le_bytes()[1]).collect();
    let (mut writing, copy) = (stream.try_clone().unwrap(), sent.clone());
    let writer = std::thread::spawn(move || {
        writing.write_all(&copy).unwrap();
        writing.shutdown(Shutdown::Write).unwrap();
    });
    let mut received = Vec::new();
    (&stream).read_to_end(&mut received).unwrap();
    writer.join().unwrap();
    assert!(received == sent, "{} bytes came back", received.len());
    // One that nobody closes ends with the container.
    let mut idle = dial(&place, "web", 7).unwrap();
    place.client.delete("web", true).unwrap();
    assert_eq!(idle.read(&mut [0; 1]).unwrap(), 0);
    place.assert_gone("web");
}

/// What a name server says that knows one address, of any name: a DNS message without and with an answer.
fn answer(question: &[u8], address: [u8; 4]) -> Vec<u8> {
    let wants_ipv4 = question.ends_with(&[0, 1, 0, 1]);
    let mut message = question.to_vec();
    message[2..4].copy_from_slice(&[0x81, 0x80]);
    if wants_ipv4 {
        message[7] = 1;
        message.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4]);
        message.extend(address);
    }
    message
}

#[test]
fn names_that_a_container_asks_for_are_answered_by_the_host() {
    let place = Place::new();
    let script = "nslookup far.example 127.0.0.11; printf '\\000\\003why' | nc -w 5 127.0.0.11 53 | tail -c +3; \
                  nc -l -p 53 > /dev/null & sleep 1; grep -c :0035 /proc/net/tcp; kill $!";
    let mut request = place.request("web", &shell(script));
    let (stdio, out) = output();
    request.stdio = Some(stdio).into();
    place.client.create(request).unwrap();
    let network = ConfigureNetworkRequest {
        id: "web".into(),
        ..Default::default()
    };
    place.client.configure_network(&network).unwrap();
    let mut request = ServeNamesRequest {
        id: "web".into(),
        address: "127.0.0.1".into(),
        ..Default::default()
    };
    let refused = |request: &ServeNamesRequest| place.client.serve_names(request).unwrap_err().to_string();
    assert!(refused(&request).contains("127.0.0.2 to"));
    request.address = "127.0.0.11".into();
    assert!(refused(&request).contains("want a token"));
    let token = Token::random().unwrap();
    request.stream = token.to_field();
    let host = place.stream(token);
    place.client.serve_names(&request).unwrap();
    let mut output = place.stream(out);
    place.client.start("web").unwrap();
    let mut asked = Vec::new();
    while let Some(mut name) = Name::read(&host).unwrap() {
        asked.push(name.transport);
        name.message = match name.transport {
            Transport::Udp => answer(&name.message, [10, 1, 2, 3]),
            Transport::Tcp => [b"because ", name.message.as_slice()].concat(),
        };
        // One that nobody has asked for is nobody's.
        let lost = Name {
            tag: name.tag ^ 0x8000,
            ..name.clone()
        };
        for name in [lost, name] {
            (&host).write_all(&name.encode().unwrap()).unwrap();
        }
    }
    // The stream has ended with the container.
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    assert!(
        asked.contains(&Transport::Udp) && asked.contains(&Transport::Tcp),
        "{asked:?}"
    );
    assert!(text.contains("Address: 10.1.2.3"), "{text}");
    assert!(text.contains("because why"), "{text}");
    assert!(
        text.trim_end().ends_with('1'),
        "port 53 is the container's own: {text}"
    );
    place.client.delete("web", false).unwrap();
    place.assert_gone("web");
}
