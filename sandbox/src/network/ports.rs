//! Ports of the host that lead to ports of a container, written as docker's users write them.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Ports cannot be published as wished.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// Not the description of a mapping.
    #[error(
        "{0:?} publishes no port; want [[IP:]HOSTPORT:]PORT[/tcp|/udp|/sctp], where a port is 1 to 65535 or a range like \
         8000-8010"
    )]
    Syntax(String),
    /// Two ranges that do not fit.
    #[error(
        "{text:?} maps {host} ports of the host to {container} of the container; want equal numbers, or one port of the container"
    )]
    Ranges {
        /// What was written.
        text: String,
        /// Ports of the host.
        host: u16,
        /// Ports of the container.
        container: u16,
    },
    /// Somebody on the host uses it.
    #[error("port {port} of {} is in use already: stop what listens there, or publish another port", on(*.address))]
    Taken {
        /// Which address; `None` is any.
        address: Option<IpAddr>,
        /// With its protocol.
        port: String,
    },
    /// Another container has it.
    #[error("port {port} of {} is published already, by {by}: publish another port", on(*.address))]
    Published {
        /// Which address; `None` is any.
        address: Option<IpAddr>,
        /// With its protocol.
        port: String,
        /// Whose it is.
        by: String,
    },
    /// The host does not have the address.
    #[error("cannot publish a port on {address}: the host has no such address")]
    NoAddress {
        /// Which.
        address: IpAddr,
    },
    /// The host refuses to say.
    #[error("cannot try whether port {port} of {} is free", on(*.address))]
    Try {
        /// Which address; `None` is any.
        address: Option<IpAddr>,
        /// With its protocol.
        port: String,
        /// Why.
        source: io::Error,
    },
}

fn on(address: Option<IpAddr>) -> String {
    address.map_or_else(|| "the host".to_owned(), |address| address.to_string())
}

/// What a port carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Streams.
    Tcp,
    /// Datagrams.
    Udp,
    /// Streams of messages.
    Sctp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// Ports that follow one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// How many there are: 1 to 65535.
    pub fn count(self) -> u16 {
        self.last.saturating_sub(self.first).saturating_add(1)
    }

    fn parse(text: &str) -> Option<Self> {
        let port = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|&port: &u16| digits && port > 0)
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let range = Self {
            first: port(first)?,
            last: port(last)?,
        };
        (range.first <= range.last).then_some(range)
    }
}

/// Ports of the host that are to lead to ports of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// Only on this address of the host; `None`: on all.
    pub host_ip: Option<IpAddr>,
    /// `None`: any that is free. More than the container's one port: the first of them that is free.
    pub host: Option<PortRange>,
    /// Of the container.
    pub container: PortRange,
    /// What they carry.
    pub protocol: Protocol,
}

impl FromStr for PortMapping {
    type Err = PortError;

    /// From docker's `[[IP:]HOSTPORT:]PORT[/PROTOCOL]`; an IPv6 address is written in brackets.
    fn from_str(text: &str) -> Result<Self, PortError> {
        let mapping = parse(text).ok_or_else(|| PortError::Syntax(text.chars().take(64).collect()))?;
        match mapping.host {
            Some(host) if host.count() != mapping.container.count() && mapping.container.count() != 1 => {
                Err(PortError::Ranges {
                    text: text.to_owned(),
                    host: host.count(),
                    container: mapping.container.count(),
                })
            }
            _ => Ok(mapping),
        }
    }
}

fn parse(text: &str) -> Option<PortMapping> {
    let (text, protocol) = match text.split_once('/') {
        None | Some((_, "tcp")) => (text.split('/').next()?, Protocol::Tcp),
        Some((text, "udp")) => (text, Protocol::Udp),
        Some((text, "sctp")) => (text, Protocol::Sctp),
        Some(_) => return None,
    };
    let (rest, container) = text
        .rsplit_once(':')
        .map_or((None, text), |(rest, port)| (Some(rest), port));
    let (host_ip, host) = match rest {
        None => (None, None),
        Some(rest) => match rest.rsplit_once(':') {
            None => (None, Some(rest)),
            Some((ip, host)) => (Some(address(ip)?), Some(host)),
        },
    };
    Some(PortMapping {
        // "0.0.0.0" is what docker's users write for all of them.
        host_ip: host_ip.filter(|ip| *ip != IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        host: match host {
            // Nothing between two colons is any port; nothing before the only colon is a mistake.
            None => None,
            Some("") if host_ip.is_some() => None,
            Some(host) => Some(PortRange::parse(host)?),
        },
        container: PortRange::parse(container)?,
        protocol,
    })
}

fn address(text: &str) -> Option<IpAddr> {
    match text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        Some(text) => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    }
}

/// Ports of the host that lead to ports of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// Only on this address of the host; `None`: on all.
    pub host_ip: Option<IpAddr>,
    /// The first one of the host.
    pub host_port: u16,
    /// The first one of the container.
    pub container_port: u16,
    /// How many; at least 1.
    pub count: u16,
    /// What they carry.
    pub protocol: Protocol,
}

impl Published {
    fn last(&self) -> u16 {
        self.host_port.saturating_add(self.count.saturating_sub(1))
    }

    fn port(&self, port: u16) -> String {
        format!("{port}/{}", self.protocol)
    }

    /// Whether somebody who connects could mean both.
    fn collides(&self, other: &Self) -> bool {
        let same_address = match (self.host_ip, other.host_ip) {
            (Some(one), Some(other)) => one == other,
            _ => true,
        };
        same_address
            && self.protocol == other.protocol
            && self.host_port <= other.last()
            && other.host_port <= self.last()
    }
}

impl fmt::Display for Published {
    /// As docker's `ps` shows it: `0.0.0.0:8080->80/tcp`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ip = self.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
        let range = |first: u16| match self.count {
            0 | 1 => first.to_string(),
            count => format!("{first}-{}", first.saturating_add(count.saturating_sub(1))),
        };
        let ip = match ip {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        let (host, container) = (range(self.host_port), range(self.container_port));
        write!(f, "{ip}:{host}->{container}/{}", self.protocol)
    }
}

/// Chooses ports of the host for mappings. `taken` are those of other containers, with their names.
///
/// # Errors
/// [`PortError`], if one of them is in use.
pub fn publish(mappings: &[PortMapping], taken: &[(String, Published)]) -> Result<Vec<Published>, PortError> {
    let mut all: Vec<Published> = Vec::new();
    for mapping in mappings {
        let mut taken: Vec<_> = taken.iter().map(|(id, port)| (id.as_str(), *port)).collect();
        taken.extend(
            all.iter()
                .map(|port| ("another mapping of this container", *port)),
        );
        all.extend(publish_one(mapping, &taken)?);
    }
    Ok(all)
}

fn publish_one(mapping: &PortMapping, taken: &[(&str, Published)]) -> Result<Vec<Published>, PortError> {
    let one = |host_port, container_port, count| Published {
        host_ip: mapping.host_ip,
        host_port,
        container_port,
        count,
        protocol: mapping.protocol,
    };
    let container = mapping.container;
    match mapping.host {
        None => (container.first..=container.last)
            .map(|port| any_free(&one(0, port, 1), taken))
            .collect(),
        Some(host) if host.count() == container.count() => {
            let wanted = one(host.first, container.first, host.count());
            check(&wanted, taken)?;
            Ok(vec![wanted])
        }
        Some(host) => {
            let mut last = None;
            for port in host.first..=host.last {
                let wanted = one(port, container.first, 1);
                match check(&wanted, taken) {
                    Ok(()) => return Ok(vec![wanted]),
                    Err(error) => last = Some(error),
                }
            }
            last.map_or(Ok(Vec::new()), Err)
        }
    }
}

/// Tries of a port that the kernel chose and another container has; each is another port.
const TRIES: usize = 64;

fn any_free(wanted: &Published, taken: &[(&str, Published)]) -> Result<Published, PortError> {
    let mut outcome = Ok(*wanted);
    for _ in 0..TRIES {
        let chosen = Published {
            host_port: bind(wanted, 0)?,
            ..*wanted
        };
        outcome = check(&chosen, taken).map(|()| chosen);
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

fn check(wanted: &Published, taken: &[(&str, Published)]) -> Result<(), PortError> {
    if let Some((id, other)) = taken.iter().find(|(_, other)| other.collides(wanted)) {
        return Err(PortError::Published {
            address: wanted.host_ip,
            port: wanted.port(wanted.host_port.max(other.host_port)),
            by: (*id).to_owned(),
        });
    }
    for port in wanted.host_port..=wanted.last() {
        bind(wanted, port)?;
    }
    Ok(())
}

/// Listens on a port for an instant, because the rules that lead to a container would silently win over whoever listens
/// there. Answers the port.
fn bind(wanted: &Published, port: u16) -> Result<u16, PortError> {
    let families: &[IpAddr] = match &wanted.host_ip {
        Some(ip) => std::slice::from_ref(ip),
        None => &[
            IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        ],
    };
    let mut port = port;
    for &ip in families {
        let at = SocketAddr::new(ip, port);
        let bound = match wanted.protocol {
            Protocol::Tcp => TcpListener::bind(at).and_then(|socket| socket.local_addr()),
            Protocol::Udp => UdpSocket::bind(at).and_then(|socket| socket.local_addr()),
            // A port of its own kind, of which the standard library knows nothing; who has it is told by other containers.
            Protocol::Sctp => Ok(at),
        };
        match bound {
            Ok(address) => port = address.port(),
            Err(error) => tell(wanted, port, ip, error)?,
        }
    }
    Ok(port)
}

fn tell(wanted: &Published, port: u16, ip: IpAddr, error: io::Error) -> Result<(), PortError> {
    let address = wanted.host_ip;
    let name = wanted.port(port);
    match error.kind() {
        io::ErrorKind::AddrInUse => Err(PortError::Taken { address, port: name }),
        // A host without IPv6.
        _ if address.is_none() && ip.is_ipv6() => Ok(()),
        io::ErrorKind::AddrNotAvailable => Err(PortError::NoAddress { address: ip }),
        _ => Err(PortError::Try {
            address,
            port: name,
            source: error,
        }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::arithmetic_side_effects)]

    use super::*;

    fn mapping(text: &str) -> PortMapping {
        text.parse().unwrap()
    }

    fn range(first: u16, last: u16) -> PortRange {
        PortRange { first, last }
    }

    #[test]
    fn what_docker_users_write() {
        let (any, tcp) = (None, Protocol::Tcp);
        for (text, host_ip, host, container, protocol) in [
            ("80", any, None, range(80, 80), tcp),
            ("8080:80", any, Some(range(8080, 8080)), range(80, 80), tcp),
            ("8080:80/tcp", any, Some(range(8080, 8080)), range(80, 80), tcp),
            (
                "53:53/udp",
                any,
                Some(range(53, 53)),
                range(53, 53),
                Protocol::Udp,
            ),
            ("0.0.0.0:1:2", any, Some(range(1, 1)), range(2, 2), tcp),
            (
                "127.0.0.1:8080:80",
                Some("127.0.0.1"),
                Some(range(8080, 8080)),
                range(80, 80),
                tcp,
            ),
            ("127.0.0.1::80", Some("127.0.0.1"), None, range(80, 80), tcp),
            (
                "[::1]:8080:80",
                Some("::1"),
                Some(range(8080, 8080)),
                range(80, 80),
                tcp,
            ),
            (
                "8000-8010:9000-9010",
                any,
                Some(range(8000, 8010)),
                range(9000, 9010),
                tcp,
            ),
            ("8000-8010:80", any, Some(range(8000, 8010)), range(80, 80), tcp),
        ] {
            let wanted = PortMapping {
                host_ip: host_ip.map(|ip| ip.parse().unwrap()),
                host,
                container,
                protocol,
            };
            assert_eq!(mapping(text), wanted, "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [
            "",
            ":",
            ":80",
            "80:",
            "x",
            "0:80",
            "80:0",
            "70000:80",
            "8080:80/icmp",
            "8080:80/",
            "1:2:3",
            "::80",
            "host:1:2",
            "8-7:80",
            "-1:80",
            "+1:80",
            "[::1]",
            "::1:8080:80",
            "1.2.3.4:80",
            "8080:80/tcp/udp",
        ] {
            assert!(
                matches!(bad.parse::<PortMapping>(), Err(PortError::Syntax(_))),
                "{bad}"
            );
        }
        assert!(matches!(
            "1-2:1-3".parse::<PortMapping>(),
            Err(PortError::Ranges { .. })
        ));
    }

    #[test]
    fn a_port_that_somebody_listens_on_is_not_published() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        for text in [format!("{port}:80"), format!("127.0.0.1:{port}:80")] {
            let error = publish(&[mapping(&text)], &[]).unwrap_err();
            assert!(matches!(error, PortError::Taken { .. }), "{text}: {error}");
            assert!(error.to_string().contains(&port.to_string()));
        }
        // Another protocol, and another address.
        publish(&[mapping(&format!("{port}:80/udp"))], &[]).unwrap();
        publish(&[mapping(&format!("127.0.0.2:{port}:80"))], &[]).unwrap();
        let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = datagrams.local_addr().unwrap().port();
        assert!(publish(&[mapping(&format!("{port}:80/udp"))], &[]).is_err());
        drop(listener);
    }

    #[test]
    fn a_port_of_another_container_is_not_published() {
        let taken = publish(&[mapping("127.0.0.1::80")], &[]).unwrap();
        assert!(taken[0].host_port > 0);
        let port = taken[0].host_port;
        let taken = [("web".to_owned(), taken[0])];
        let error = publish(&[mapping(&format!("{port}:80"))], &taken).unwrap_err();
        assert!(error.to_string().contains("web"), "{error}");
        publish(&[mapping(&format!("127.0.0.2:{port}:80"))], &taken).unwrap();
        // Of a range, the next one; twice the same is an error.
        let two = mapping(&format!("127.0.0.1:{port}-{}:80", port + 1));
        assert_eq!(publish(&[two], &taken).unwrap()[0].host_port, port + 1);
        let twice = [mapping("127.0.0.3:4444:80"), mapping("127.0.0.3:4444:81")];
        assert!(matches!(publish(&twice, &[]), Err(PortError::Published { .. })));
    }

    #[test]
    fn an_address_of_another_host_is_named() {
        let error = publish(&[mapping("192.0.2.123:8080:80")], &[]).unwrap_err();
        assert!(matches!(error, PortError::NoAddress { .. }), "{error}");
    }

    #[test]
    fn shown_as_docker_shows_it() {
        let published = Published {
            host_ip: None,
            host_port: 8000,
            container_port: 80,
            count: 1,
            protocol: Protocol::Tcp,
        };
        assert_eq!(published.to_string(), "0.0.0.0:8000->80/tcp");
        let range = Published {
            host_ip: Some("::1".parse().unwrap()),
            count: 3,
            ..published
        };
        assert_eq!(range.to_string(), "[::1]:8000-8002->80-82/tcp");
    }
}
