//! Chooses ports of the host.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

use super::{PortError, PortMapping, Protocol, Published};

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
}
