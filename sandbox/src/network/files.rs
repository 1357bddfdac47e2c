//! Files that a container finds its network in: /etc/hosts, /etc/hostname and /etc/resolv.conf.

use std::fmt::Write;
use std::fs;
use std::net::IpAddr;

use koya_proto::v1;

use super::Attached;

/// Everybody may read them, the container's root may write.
const MODE: u32 = 0o644;
/// Where the host's name servers are, the second behind systemd's own one.
const RESOLV_CONF: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

impl Attached {
    /// What goes with the container when it is created.
    pub fn files(&self) -> Vec<v1::File> {
        [
            ("/etc/hosts", self.hosts()),
            ("/etc/hostname", format!("{}\n", self.request.hostname)),
            ("/etc/resolv.conf", self.resolv_conf(&host_resolv_conf())),
        ]
        .into_iter()
        .map(|(path, content)| v1::File {
            path: path.to_owned(),
            content: content.into_bytes(),
            mode: MODE,
            ..Default::default()
        })
        .collect()
    }

    fn hosts(&self) -> String {
        let mut text = String::from(
            "127.0.0.1\tlocalhost\n\
             ::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::\tip6-localnet\n\
             ff00::\tip6-mcastprefix\n\
             ff02::1\tip6-allnodes\n\
             ff02::2\tip6-allrouters\n",
        );
        for (name, address) in &self.request.hosts {
            let _ = writeln!(text, "{address}\t{name}");
        }
        let mut names = vec![self.request.hostname.as_str()];
        let more = std::iter::once(&self.request.name).chain(&self.request.aliases);
        for name in more.map(String::as_str) {
            if !name.is_empty() && !names.contains(&name) {
                names.push(name);
            }
        }
        let names = names.join(" ");
        let addresses: Vec<_> = self.links.iter().flat_map(|link| &link.addresses).collect();
        for address in &addresses {
            let _ = writeln!(text, "{address}\t{names}");
        }
        if addresses.is_empty() {
            let _ = writeln!(text, "127.0.1.1\t{names}");
        }
        text
    }

    /// The name server of its networks knows the other containers, and asks the host's for the rest. One that was asked for
    /// is asked alone: netavark 1.4 cannot tell it to that of a network.
    fn resolv_conf(&self, host: &str) -> String {
        let wanted = match self.request.dns.as_slice() {
            [] => &self.name_servers,
            _ => &self.request.dns,
        };
        let mut servers: Vec<String> = wanted.iter().map(IpAddr::to_string).collect();
        let of_the_host = servers.is_empty();
        let mut search = self.request.dns_search.clone();
        search.extend(self.search.iter().cloned());
        let mut options = Vec::new();
        for line in host.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") if of_the_host => {
                    // The guest's own loopback device leads nowhere.
                    let elsewhere = |word: &&str| word.parse().is_ok_and(|ip: IpAddr| !ip.is_loopback());
                    servers.extend(words.next().filter(elsewhere).map(str::to_owned));
                }
                Some("search") if self.request.dns_search.is_empty() => {
                    search.extend(words.map(str::to_owned));
                }
                Some("options") => options.extend(words.map(str::to_owned)),
                _ => {}
            }
        }
        let mut text = String::new();
        if !search.is_empty() {
            let _ = writeln!(text, "search {}", search.join(" "));
        }
        for server in servers {
            let _ = writeln!(text, "nameserver {server}");
        }
        if !options.is_empty() {
            let _ = writeln!(text, "options {}", options.join(" "));
        }
        text
    }
}

/// The host's, or nothing.
fn host_resolv_conf() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let [first, second] = RESOLV_CONF.map(read);
    let only_loopback = first
        .lines()
        .filter_map(|line| line.strip_prefix("nameserver"))
        .all(|address| address.trim().parse().is_ok_and(|ip: IpAddr| ip.is_loopback()));
    if only_loopback && !second.is_empty() {
        second
    } else {
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::{Link, Mac, NetworkRequest};

    fn attached(addresses: &[&str]) -> Attached {
        let addresses: Vec<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
        let link = Link {
            network: "koya".into(),
            bridge: "koya0".into(),
            tap: "tap0".into(),
            mac: Mac::local([0; 6]),
            host_name: "eth0".into(),
            name: "eth0".into(),
            addresses: addresses.clone(),
            gateways: Vec::new(),
        };
        Attached {
            id: "0123".into(),
            vm: "0123".into(),
            request: NetworkRequest {
                name: "web".into(),
                hostname: "box".into(),
                hosts: vec![("db".into(), "10.0.0.9".parse().unwrap())],
                ..Default::default()
            },
            links: if addresses.is_empty() {
                Vec::new()
            } else {
                vec![link]
            },
            ports: Vec::new(),
            taken: Default::default(),
            name_servers: Vec::new(),
            search: Vec::new(),
            netns: None,
            options: serde_json::Value::Null,
            builder: None,
            rules: None,
        }
    }

    #[test]
    fn a_container_finds_itself_and_others_in_hosts() {
        let hosts = attached(&["10.91.0.2", "fd00::2"]).hosts();
        for line in [
            "127.0.0.1\tlocalhost",
            "10.91.0.2\tbox web",
            "fd00::2\tbox web",
            "10.0.0.9\tdb",
        ] {
            assert!(hosts.lines().any(|found| found == line), "{line}: {hosts}");
        }
        assert!(attached(&[]).hosts().contains("127.0.1.1\tbox web\n"));
    }

    #[test]
    fn names_are_looked_up_where_the_network_says() {
        let host =
            "# host\nnameserver 127.0.0.53\nnameserver 192.0.2.1\nsearch example.org\noptions ndots:2\n";
        let mut container = attached(&["10.91.0.2"]);
        assert_eq!(
            container.resolv_conf(host),
            "search example.org\nnameserver 192.0.2.1\noptions ndots:2\n"
        );
        container.name_servers = vec!["10.91.0.1".parse().unwrap()];
        container.search = vec!["dns.podman".into()];
        assert_eq!(
            container.resolv_conf(host),
            "search dns.podman example.org\nnameserver 10.91.0.1\noptions ndots:2\n"
        );
        container.request.dns = vec!["192.0.2.9".parse().unwrap()];
        container.request.dns_search = vec!["lan".into()];
        assert_eq!(
            container.resolv_conf(host),
            "search lan dns.podman\nnameserver 192.0.2.9\noptions ndots:2\n"
        );
    }
}
