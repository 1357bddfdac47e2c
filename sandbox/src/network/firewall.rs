//! Rules of the packet filter: what leaves a network, what it may reach, and where published ports lead.
//!
//! ```text
//!  filter  FORWARD ────────────► KOYA-koya0            a network: not to isolated ones, out, and what belongs to that in
//!  filter  INPUT ──────────────► KOYA-IN-koya0         to the host: names, and not what only the host itself may reach
//!  nat     POSTROUTING ────────► KOYA-koya0            under the host's address
//!  nat     PREROUTING, OUTPUT ─► KOYA-PORTS-c0ffee...  a container: ports of the host
//! ```
//!
//! All of it is one `iptables-restore` for each family, where netavark starts iptables for every rule (see
//! docs/decisions/0019). The rules of a network come with its first container and go with its last one.
//!
//! They are in the chains that everybody uses, not in a table beside them: what is accepted there would be dropped all the
//! same where docker or ufw have FORWARD drop what nobody has accepted.

use std::fmt::Write;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

use super::definition::Network;
use super::ports::Published;
use super::{Attached, Link, NetworkError, program};

/// Where firewalld runs, one of these is there. It does not forward what it was not told of, and netavark tells it.
pub const FIREWALLD: [&str; 3] = [
    "/run/firewalld.pid",
    "/sys/fs/cgroup/system.slice/firewalld.service",
    "/sys/fs/cgroup/systemd/system.slice/firewalld.service",
];
/// Longest name of a chain is 28.
const LONGEST_ID: usize = 17;
/// How many rules that are alike are looked for, when it is not known what there is.
const MOST_ALIKE: usize = 8;
/// Published ports are those of the host's own addresses. From elsewhere nobody reaches those of its loopback device: what
/// comes to such an address by a wire is translated before Linux throws it away.
const LOCAL: &str = "-m addrtype --dst-type LOCAL ";
const LOCAL_BY_WIRE: [&str; 2] = [
    "-m addrtype --dst-type LOCAL ! -d 127.0.0.0/8 ",
    "-m addrtype --dst-type LOCAL ! -d ::1 ",
];

/// IPv4 and IPv6, which have tables of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Family {
    V4,
    V6,
}

/// What a container has of it, by which it is removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Rules {
    /// Its networks: their bridges, and a family of each's addresses.
    networks: Vec<(String, Family)>,
    /// In which families it has ports of the host.
    ports: Vec<Family>,
    /// Everything is there.
    up: bool,
}

/// A chain of a table, and the rules by which packets come to it.
#[derive(Debug)]
struct Chain {
    table: &'static str,
    name: String,
    rules: Vec<String>,
    /// What makes the rule, a chain, and what a packet has to be.
    jumps: Vec<(char, &'static str, &'static str)>,
}

/// Whether rules can be made here.
pub(super) fn is_ours() -> bool {
    program::find(Family::V4.restore()).is_some() && !FIREWALLD.iter().any(|path| Path::new(path).exists())
}

impl Rules {
    /// From now on it is not known what there is of them.
    pub(super) fn doubt(&mut self) {
        self.up = false;
    }

    /// What a container is to have.
    pub(super) fn of(links: &[(Network, Link)], ports: &[Published]) -> Self {
        let routed = || links.iter().filter(|(network, _)| !network.internal);
        let networks = routed().flat_map(|(network, _)| {
            let subnets = network.subnets.iter();
            subnets.map(|subnet| (network.interface.clone(), Family::of(subnet.gateway)))
        });
        let families = [Family::V4, Family::V6].into_iter();
        let is_published = |family: &Family| ports.iter().any(|port| family.has(port));
        let has_address = |family: &Family| target(*family, links).is_some();
        Self {
            networks: networks.collect(),
            ports: families.filter(is_published).filter(has_address).collect(),
            up: false,
        }
    }

    /// Makes them, but those of networks that others brought; `known` are all networks.
    pub(super) fn make(
        &mut self,
        id: &str,
        links: &[(Network, Link)],
        ports: &[Published],
        (others, known): (&[Attached], &[Network]),
    ) -> Result<(), NetworkError> {
        for family in [Family::V4, Family::V6] {
            let new = links.iter().map(|(network, _)| network).filter(|network| {
                self.has(&network.interface, family) && !is_up(&network.interface, family, others)
            });
            let mut chains: Vec<Chain> = new
                .flat_map(|network| network_chains(&network.interface, rules(network, family, known)))
                .collect();
            if self.ports.contains(&family) {
                let to = target(family, links);
                let wanted = ports.iter().filter(|port| family.has(port));
                let rules = wanted.flat_map(|port| to.into_iter().flat_map(|to| leads(port, to)));
                chains.push(ports_chain(id, family, rules.collect()));
            }
            family.restore_all(&chains, Chain::make)?;
        }
        self.up = true;
        Ok(())
    }

    /// Removes them, all or less, but those of networks that others have too.
    pub(super) fn remove(&self, id: &str, others: &[Attached]) -> Result<(), NetworkError> {
        for family in [Family::V4, Family::V6] {
            let bridges = self.networks.iter().filter(|(_, of)| *of == family);
            let left = bridges.filter(|(bridge, _)| !is_wanted(bridge, family, others));
            let mut chains: Vec<Chain> = left
                .flat_map(|(bridge, _)| network_chains(bridge, Default::default()))
                .collect();
            if self.ports.contains(&family) {
                chains.push(ports_chain(id, family, Vec::new()));
            }
            // All at once, if all is there. Otherwise somebody was killed half way.
            if !self.up || family.restore_all(&chains, Chain::remove).is_err() {
                for chain in &chains {
                    family.clear(chain)?;
                }
            }
        }
        Ok(())
    }

    fn has(&self, bridge: &str, family: Family) -> bool {
        let mut networks = self.networks.iter();
        networks.any(|(name, of)| name == bridge && *of == family)
    }
}

fn is_up(bridge: &str, family: Family, others: &[Attached]) -> bool {
    let mut rules = others.iter().filter_map(Attached::rules);
    rules.any(|rules| rules.up && rules.has(bridge, family))
}

fn is_wanted(bridge: &str, family: Family, others: &[Attached]) -> bool {
    let mut rules = others.iter().filter_map(Attached::rules);
    rules.any(|rules| rules.has(bridge, family))
}

/// Where ports lead in a family: a container's first address that is not in a network of its own.
fn target(family: Family, links: &[(Network, Link)]) -> Option<IpAddr> {
    let routed = links.iter().filter(|(network, _)| !network.internal);
    let mut addresses = routed.flat_map(|(_, link)| &link.addresses).copied();
    addresses.find(|address| Family::of(*address) == family)
}

/// Those of a network: what is forwarded, what comes to the host, and under which address things leave.
fn rules(network: &Network, family: Family, known: &[Network]) -> [Vec<String>; 3] {
    let bridge = &network.interface;
    let is_isolated = |network: &Network| {
        network
            .options
            .get("isolate")
            .is_some_and(|value| value == "true")
    };
    let apart = known
        .iter()
        .filter(|other| is_isolated(network) && is_isolated(other) && other.interface != *bridge);
    let mut forwarded: Vec<String> = apart
        .flat_map(|other| {
            let other = &other.interface;
            // Whichever comes up later has the rules of both ways.
            [
                format!("-i {bridge} -o {other} -j DROP"),
                format!("-i {other} -o {bridge} -j DROP"),
            ]
        })
        .collect();
    let subnets = network.subnets.iter().map(|subnet| subnet.subnet);
    let own: Vec<_> = subnets
        .filter(|subnet| Family::of(subnet.address()) == family)
        .collect();
    // What is no connection's would leave untranslated, and so would what says that it comes from elsewhere.
    forwarded.push(format!("-i {bridge} -m conntrack --ctstate INVALID -j DROP"));
    forwarded.extend(
        own.iter()
            .map(|subnet| format!("-i {bridge} -s {subnet} -j ACCEPT")),
    );
    forwarded.push(format!(
        "-o {bridge} -m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT"
    ));
    let mut received = Vec::new();
    if family == Family::V4 {
        // netavark lets the bridge route such addresses, for published ports; answers of those belong to a connection.
        received.push(format!(
            "-i {bridge} -d 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED -j DROP"
        ));
    }
    // The name server, also where a host accepts nothing else.
    received.extend(own.iter().flat_map(|subnet| {
        ["udp", "tcp"].map(|protocol| {
            format!("-i {bridge} -s {subnet} -p {protocol} -m {protocol} --dport 53 -j ACCEPT")
        })
    }));
    let mut translated: Vec<String> = own
        .iter()
        .flat_map(|subnet| {
            [
                // To a neighbour by a port of the host: its answers have to come back through here.
                format!("-s {subnet} -d {subnet} -m conntrack --ctstate DNAT -j MASQUERADE"),
                format!("-s {subnet} -d {subnet} -j RETURN"),
                format!("-s {subnet} ! -d {} -j MASQUERADE", family.multicast()),
            ]
        })
        .collect();
    if family == Family::V4 {
        // From the host itself, which no container could answer at that address.
        translated.push(format!("-s 127.0.0.0/8 -o {bridge} -j MASQUERADE"));
    }
    [forwarded, received, translated]
}

/// One for each port: ranges would have to be as long on both sides.
fn leads(port: &Published, to: IpAddr) -> impl Iterator<Item = String> {
    let Published {
        host_ip,
        host_port,
        container_port,
        protocol,
        ..
    } = *port;
    let on = host_ip
        .filter(|address| !address.is_unspecified())
        .map(|address| format!("-d {address} "))
        .unwrap_or_default();
    (0..port.count.max(1)).map(move |number| {
        let (from, at) = (
            host_port.saturating_add(number),
            container_port.saturating_add(number),
        );
        let to = match to {
            IpAddr::V4(to) => format!("{to}:{at}"),
            IpAddr::V6(to) => format!("[{to}]:{at}"),
        };
        format!("{on}-p {protocol} -m {protocol} --dport {from} -j DNAT --to-destination {to}")
    })
}

fn network_chains(bridge: &str, [forwarded, received, translated]: [Vec<String>; 3]) -> [Chain; 3] {
    let chain = |table, name: &str, rules, jump| Chain {
        table,
        name: format!("KOYA-{name}{bridge}"),
        rules,
        jumps: vec![jump],
    };
    [
        chain("filter", "", forwarded, ('I', "FORWARD", "")),
        chain("filter", "IN-", received, ('I', "INPUT", "")),
        chain("nat", "", translated, ('A', "POSTROUTING", "")),
    ]
}

fn ports_chain(id: &str, family: Family, rules: Vec<String>) -> Chain {
    let [v4, v6] = LOCAL_BY_WIRE;
    let (by_wire, from_here) = match family {
        Family::V4 => (v4, LOCAL),
        // IPv6 routes nothing from the loopback device.
        Family::V6 => (v6, v6),
    };
    Chain {
        table: "nat",
        name: format!("KOYA-PORTS-{}", id.chars().take(LONGEST_ID).collect::<String>()),
        rules,
        jumps: vec![('A', "PREROUTING", by_wire), ('A', "OUTPUT", from_here)],
    }
}

impl Chain {
    /// In the words of iptables-restore, which makes the chain, or empties it.
    fn make(&self, text: &mut String) {
        let name = &self.name;
        let _ = writeln!(text, ":{name} - [0:0]");
        for rule in &self.rules {
            let _ = writeln!(text, "-A {name} {rule}");
        }
        for (how, from, matches) in &self.jumps {
            let _ = writeln!(text, "-{how} {from} {matches}-j {name}");
        }
    }

    fn remove(&self, text: &mut String) {
        let name = &self.name;
        for (_, from, matches) in &self.jumps {
            let _ = writeln!(text, "-D {from} {matches}-j {name}");
        }
        let _ = writeln!(text, "-F {name}\n-X {name}");
    }
}

impl Family {
    fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// Whether a port is one of this family's addresses.
    fn has(self, port: &Published) -> bool {
        port.host_ip.is_none_or(|address| Self::of(address) == self)
    }

    fn program(self) -> &'static str {
        match self {
            Self::V4 => "iptables",
            Self::V6 => "ip6tables",
        }
    }

    fn restore(self) -> &'static str {
        match self {
            Self::V4 => "iptables-restore",
            Self::V6 => "ip6tables-restore",
        }
    }

    fn multicast(self) -> &'static str {
        match self {
            Self::V4 => "224.0.0.0/4",
            Self::V6 => "ff00::/8",
        }
    }

    /// Has a table changed as a whole, or not at all.
    fn restore_all(self, chains: &[Chain], write: fn(&Chain, &mut String)) -> Result<(), NetworkError> {
        let mut text = String::new();
        for table in ["filter", "nat"] {
            let mut own = chains.iter().filter(|chain| chain.table == table).peekable();
            if own.peek().is_some() {
                let _ = writeln!(text, "*{table}");
                own.for_each(|chain| write(chain, &mut text));
                text.push_str("COMMIT\n");
            }
        }
        if text.is_empty() {
            return Ok(());
        }
        let mut command = Command::new(self.restore());
        let outcome = program::run(command.args(["--noflush", "--wait"]), &text)?;
        match outcome.status.success() {
            true => Ok(()),
            false => Err(NetworkError::Rules {
                program: self.restore(),
                words: outcome.last_words(),
            }),
        }
    }

    /// Removes a chain of which it is not known whether it is there, nor what leads to it.
    fn clear(self, chain: &Chain) -> Result<(), NetworkError> {
        let Chain { table, name, .. } = chain;
        let ask = |arguments: &str| {
            let mut command = Command::new(self.program());
            command.args(["--wait", "-t", table]);
            program::run(command.args(arguments.split_whitespace()), "")
        };
        if !ask(&format!("-S {name}"))?.status.success() {
            return Ok(());
        }
        for (_, from, matches) in &chain.jumps {
            let jump = format!("-D {from} {matches}-j {name}");
            for _ in 0..MOST_ALIKE {
                if !ask(&jump)?.status.success() {
                    break;
                }
            }
        }
        ask(&format!("-F {name}"))?;
        let outcome = ask(&format!("-X {name}"))?;
        match outcome.status.success() {
            true => Ok(()),
            false => Err(NetworkError::Rules {
                program: self.program(),
                words: outcome.last_words(),
            }),
        }
    }
}
