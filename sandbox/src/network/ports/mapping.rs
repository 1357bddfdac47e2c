//! Mappings of ports, as docker's users write them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{PortError, Protocol};

/// Ports that follow one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRange {
    pub(super) first: u16,
    pub(super) last: u16,
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

#[cfg(test)]
mod tests {
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
}
