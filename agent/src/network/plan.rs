//! What a request says, checked: nothing of it has been done yet.

use std::fmt;
use std::net::IpAddr;

use koya_proto::v1::{self, ConfigureNetworkRequest};

use crate::error::{Result, invalid};

/// Network devices of one request. A guest has a few.
const MAX_INTERFACES: usize = 64;
/// Addresses of one device, routes and neighbours of one request.
const MAX_ENTRIES: usize = 1024;
/// `IFNAMSIZ` without the closing zero.
const MAX_NAME: usize = 15;

/// The address of a network device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, byte) in self.0.iter().enumerate() {
            let colon = if number > 0 { ":" } else { "" };
            write!(f, "{colon}{byte:02x}")?;
        }
        Ok(())
    }
}

/// A device.
#[derive(Debug)]
pub struct Interface {
    pub mac: Mac,
    pub name: String,
    pub mtu: Option<u32>,
    pub addresses: Vec<(IpAddr, u8)>,
}

/// A way to somewhere.
#[derive(Debug)]
pub struct Route {
    pub destination: (IpAddr, u8),
    pub gateway: Option<IpAddr>,
    pub interface: Option<String>,
    pub source: Option<IpAddr>,
    pub metric: u32,
}

/// Whose MAC is known.
#[derive(Debug)]
pub struct Neighbour {
    pub address: IpAddr,
    pub mac: Mac,
    pub interface: String,
}

/// A request.
#[derive(Debug)]
pub struct Plan {
    pub interfaces: Vec<Interface>,
    pub routes: Vec<Route>,
    pub neighbours: Vec<Neighbour>,
    /// What goes before all that.
    pub gone: Gone,
}

/// What a container is to have no more.
#[derive(Debug)]
pub struct Gone {
    pub interfaces: Vec<Mac>,
    pub routes: Vec<Route>,
}

impl Plan {
    /// Checks a request.
    pub fn parse(request: &ConfigureNetworkRequest) -> Result<Self> {
        check_count("interfaces", request.interfaces.len(), MAX_INTERFACES)?;
        check_count("routes", request.routes.len(), MAX_ENTRIES)?;
        check_count("neighbours", request.neighbours.len(), MAX_ENTRIES)?;
        check_count("gone_interfaces", request.gone_interfaces.len(), MAX_INTERFACES)?;
        check_count("gone_routes", request.gone_routes.len(), MAX_ENTRIES)?;
        if request.id.is_empty() && !request.gone_interfaces.is_empty() {
            return Err(invalid(
                "gone_interfaces are given back to the guest, which has them: id is empty",
            ));
        }
        let mut plan = Self {
            interfaces: each(&request.interfaces, interface)?,
            routes: each(&request.routes, route)?,
            neighbours: each(&request.neighbours, neighbour)?,
            gone: Gone {
                interfaces: each(&request.gone_interfaces, |bytes| mac("gone_interfaces", bytes))?,
                routes: each(&request.gone_routes, route)?,
            },
        };
        for (number, one) in plan.interfaces.iter().enumerate() {
            let before = || plan.interfaces.iter().take(number);
            if before().any(|other| other.name == one.name || other.mac == one.mac) {
                return Err(invalid(format!(
                    "interfaces has two with the name {:?} or the MAC {}",
                    one.name, one.mac
                )));
            }
        }
        // A gateway is found by the routes that are on the link.
        plan.routes.sort_by_key(|route| route.gateway.is_some());
        Ok(plan)
    }
}

fn each<M, T>(messages: &[M], parse: impl Fn(&M) -> Result<T>) -> Result<Vec<T>> {
    messages.iter().map(parse).collect()
}

fn check_count(what: &str, count: usize, most: usize) -> Result<()> {
    if count > most {
        return Err(invalid(format!(
            "{what} has {count} entries; at most {most} are taken"
        )));
    }
    Ok(())
}

fn interface(message: &v1::Interface) -> Result<Interface> {
    let name = name("interfaces.name", &message.name)?;
    check_count("interfaces.addresses", message.addresses.len(), MAX_ENTRIES)?;
    let mtu = match message.mtu {
        0 => None,
        mtu @ 68..=65535 => Some(mtu),
        mtu => {
            return Err(invalid(format!(
                "interfaces.mtu of {name} is {mtu}; want 68 to 65535, or 0"
            )));
        }
    };
    Ok(Interface {
        mac: mac("interfaces.mac", &message.mac)?,
        name,
        mtu,
        addresses: message
            .addresses
            .iter()
            .map(|text| prefix("interfaces.addresses", text))
            .collect::<Result<_>>()?,
    })
}

fn route(message: &v1::Route) -> Result<Route> {
    let optional = |field, text: &str| match text {
        "" => Ok(None),
        text => address(field, text).map(Some),
    };
    let destination = prefix("routes.destination", &message.destination)?;
    let gateway = optional("routes.gateway", &message.gateway)?;
    let source = optional("routes.source", &message.source)?;
    let other = |address: &IpAddr| address.is_ipv4() != destination.0.is_ipv4();
    if gateway.iter().chain(&source).any(other) {
        return Err(invalid(format!(
            "the route to {} mixes IPv4 and IPv6",
            message.destination
        )));
    }
    let interface = match message.interface.as_str() {
        "" => None,
        text => Some(name("routes.interface", text)?),
    };
    if gateway.is_none() && interface.is_none() {
        return Err(invalid(format!(
            "the route to {} has neither a gateway nor an interface",
            message.destination
        )));
    }
    Ok(Route {
        destination,
        gateway,
        interface,
        source,
        metric: message.metric,
    })
}

fn neighbour(message: &v1::Neighbour) -> Result<Neighbour> {
    Ok(Neighbour {
        address: address("neighbours.address", &message.address)?,
        mac: mac("neighbours.mac", &message.mac)?,
        interface: name("neighbours.interface", &message.interface)?,
    })
}

fn mac(field: &str, bytes: &[u8]) -> Result<Mac> {
    let mac = bytes.try_into().map(Mac);
    mac.map_err(|_| invalid(format!("{field} has {} bytes; want 6", bytes.len())))
}

/// As `dev_valid_name` of the kernel, which takes a percent sign for a pattern.
fn name(field: &str, text: &str) -> Result<String> {
    let fine = (1..=MAX_NAME).contains(&text.len())
        && !["lo", ".", ".."].contains(&text)
        && text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !b"/:%".contains(&byte));
    if fine {
        return Ok(text.to_owned());
    }
    Err(invalid(format!(
        "{field} is {}; want 1 to {MAX_NAME} letters without / : and %",
        shown(text)
    )))
}

fn address(field: &str, text: &str) -> Result<IpAddr> {
    let address = text.parse();
    address.map_err(|_| {
        invalid(format!(
            "{field} is {}; want an address of IPv4 or IPv6",
            shown(text)
        ))
    })
}

fn prefix(field: &str, text: &str) -> Result<(IpAddr, u8)> {
    let parsed = text.split_once('/').and_then(|(address, prefix)| {
        let address: IpAddr = address.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.parse().ok().filter(|&prefix: &u8| prefix <= most)?;
        Some((address, prefix))
    });
    parsed.ok_or_else(|| {
        invalid(format!(
            "{field} is {}; want an address and a prefix, like 10.0.0.2/24",
            shown(text)
        ))
    })
}

/// As much of it as fits into a message.
fn shown(text: &str) -> String {
    format!("{:?}", text.chars().take(64).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> ConfigureNetworkRequest {
        ConfigureNetworkRequest {
            interfaces: vec![v1::Interface {
                mac: vec![2, 0, 0, 0, 0, 1],
                name: "eth0".into(),
                mtu: 1500,
                addresses: vec!["10.0.0.2/24".into(), "fd00::2/64".into()],
                ..Default::default()
            }],
            routes: vec![
                v1::Route {
                    destination: "0.0.0.0/0".into(),
                    gateway: "10.0.0.1".into(),
                    ..Default::default()
                },
                v1::Route {
                    destination: "10.0.0.1/32".into(),
                    interface: "eth0".into(),
                    ..Default::default()
                },
            ],
            neighbours: vec![v1::Neighbour {
                address: "10.0.0.9".into(),
                mac: vec![2; 6],
                interface: "eth0".into(),
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    #[test]
    fn routes_on_the_link_come_first() {
        let plan = Plan::parse(&good()).unwrap();
        assert_eq!(plan.routes[0].destination, ("10.0.0.1".parse().unwrap(), 32));
        assert_eq!(plan.interfaces[0].mac.to_string(), "02:00:00:00:00:01");
        assert_eq!(plan.interfaces[0].addresses[1], ("fd00::2".parse().unwrap(), 64));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let refused = |change: &dyn Fn(&mut ConfigureNetworkRequest)| {
            let mut request = good();
            change(&mut request);
            Plan::parse(&request).unwrap_err().message
        };
        let says = |message: String, field: &str| assert!(message.contains(field), "{message}");
        says(refused(&|r| r.interfaces[0].mac = vec![2; 5]), "interfaces.mac");
        for name in ["", "lo", "eth%d", "a/b", "sixteen-letters-", "ö"] {
            says(
                refused(&|r| r.interfaces[0].name = name.into()),
                "interfaces.name",
            );
        }
        says(refused(&|r| r.interfaces[0].mtu = 67), "interfaces.mtu");
        for text in ["10.0.0.2", "10.0.0.2/33", "x/8", "/8", "fd00::1/129"] {
            says(
                refused(&|r| r.interfaces[0].addresses = vec![text.into()]),
                "interfaces.addresses",
            );
        }
        says(refused(&|r| r.interfaces.push(r.interfaces[0].clone())), "two");
        says(refused(&|r| r.routes[0].destination = "fd00::/8".into()), "IPv6");
        says(
            refused(&|r| r.routes[0].gateway = "nobody".into()),
            "routes.gateway",
        );
        says(refused(&|r| r.routes[0].gateway = String::new()), "neither");
        says(refused(&|r| r.neighbours[0].mac.clear()), "neighbours.mac");
        says(refused(&|r| r.gone_interfaces = vec![vec![2; 6]]), "id is empty");
        let of_a_container = |bytes: usize| {
            move |r: &mut ConfigureNetworkRequest| {
                r.id = "web".into();
                r.gone_interfaces = vec![vec![2; bytes]];
            }
        };
        says(refused(&of_a_container(5)), "gone_interfaces");
        says(refused(&|r| r.routes = vec![r.routes[0].clone(); 1025]), "1024");
    }
}
