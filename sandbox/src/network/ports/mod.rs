//! Ports of the host that lead to ports of a container.

mod mapping;
mod publish;

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

pub use mapping::{PortMapping, PortRange};
pub use publish::publish;

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

#[cfg(test)]
mod tests {
    use super::*;

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
