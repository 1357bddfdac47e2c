//! The program netavark: what it is told, how it is run, what it answers.
//!
//! It makes the bridge and its addresses, a veth into a namespace, the rules of the firewall, and has aardvark-dns know the
//! container's names. Which addresses are free is for its caller to know.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::definition::Network;
use super::error::file;
use super::names::{NameServer, Question};
use super::ports::Published;
use super::{Attached, Link, NetworkError, NetworkRequest, firewall, program, records};
use crate::parts::{Parts, PartsError};

/// Where distributions put it.
pub const FOLDERS: [&str; 4] = [
    "/usr/local/libexec/podman",
    "/usr/libexec/podman",
    "/usr/lib/podman",
    "/usr/bin",
];
/// Its companion.
const NAME_SERVER: &str = "aardvark-dns";
/// Which rules it is to make, for versions of all ages, and what those answer that cannot do without.
const RULES: (&str, &str) = ("NETAVARK_FW", "none");
const NOT_WITHOUT_RULES: &str = "valid firewall backend";
/// The metric of the first network's default route; each further one's is larger by one.
const METRIC: usize = 100;

/// It and its companion.
#[derive(Debug)]
pub(super) struct Netavark {
    by: Builder,
    name_server: Option<PathBuf>,
    /// Where it and aardvark-dns keep what they know.
    config: PathBuf,
}

/// By what a container was attached, which is what it is detached by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Builder {
    /// Which netavark.
    program: PathBuf,
    /// Whether that makes the rules of the packet filter, too.
    pub(super) makes_rules: bool,
}

/// What it is to do.
#[derive(Debug, Clone, Copy)]
pub(super) enum Verb {
    Setup,
    Teardown,
}

/// What it says about one network.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    pub(super) dns_server_ips: Option<Vec<IpAddr>>,
    pub(super) dns_search_domains: Option<Vec<String>>,
}

/// Its answers, by network.
pub(super) type Answer = BTreeMap<String, Status>;

/// The first netavark there is: the one that is named, Koya's own, or a distribution's.
///
/// # Errors
/// [`NetworkError::NoNetavark`], [`NetworkError::Part`]
pub(super) fn find() -> Result<PathBuf, NetworkError> {
    match Parts::find_netavark() {
        Err(PartsError::Missing { .. }) => of_distribution("netavark").ok_or(NetworkError::NoNetavark),
        other => Ok(other?),
    }
}

/// The program aardvark-dns that goes with a netavark: the one beside it, or a distribution's.
fn name_server_of(netavark: &Path) -> Option<PathBuf> {
    let beside = netavark.with_file_name(NAME_SERVER);
    match beside.is_file() {
        true => Some(beside),
        false => of_distribution(NAME_SERVER),
    }
}

fn of_distribution(name: &str) -> Option<PathBuf> {
    let mut places = FOLDERS.iter().map(|folder| Path::new(folder).join(name));
    places.find(|place| place.is_file())
}

impl Builder {
    /// That of containers of which it was not noted: a distribution's.
    pub(super) fn of_old() -> Option<Self> {
        Some(Self {
            program: of_distribution("netavark")?,
            makes_rules: true,
        })
    }
}

impl Netavark {
    /// The one by which containers are attached now: the others' while there are some, so that no network is made by two.
    pub(super) fn find(run: &Path, others: &[Attached]) -> Result<Self, NetworkError> {
        let mut others = others.iter().filter_map(Attached::builder);
        let by = match others.find(|by| by.program.is_file()) {
            Some(by) => by,
            None => Builder {
                program: find()?,
                makes_rules: !firewall::is_ours(),
            },
        };
        Self::of(run, by)
    }

    /// The one by which a container was attached, or another if that is not there any more.
    pub(super) fn that_made(run: &Path, attached: &Attached) -> Result<Self, NetworkError> {
        let by = attached.builder().filter(|by| by.program.is_file());
        match by {
            Some(by) => Self::of(run, by),
            None => Self::find(run, &[]).map(|mut other| {
                other.by.makes_rules = attached.rules().is_none();
                other
            }),
        }
    }

    fn of(run: &Path, by: Builder) -> Result<Self, NetworkError> {
        fs::create_dir_all(run).map_err(file(run))?;
        Ok(Self {
            name_server: name_server_of(&by.program),
            config: run.to_owned(),
            by,
        })
    }

    /// Whether names are looked up at all.
    pub(super) fn has_dns(&self) -> bool {
        self.name_server.is_some()
    }

    /// What is to be known of it for the end of what it makes.
    pub(super) fn builder(&self) -> &Builder {
        &self.by
    }

    /// Leaves the rules of the packet filter to it.
    pub(super) fn make_rules(&mut self) {
        self.by.makes_rules = true;
    }

    /// Runs it on a namespace. It gets all the time it needs, but not more than a minute.
    pub(super) fn run(&self, verb: Verb, netns: &Path, options: &Value) -> Result<Answer, NetworkError> {
        // Two at once would make one bridge.
        let _lock = records::lock(&self.config.join("netavark.lock"))?;
        let names = NameServer::of(&self.config);
        names.settle();
        names.while_names_go(|| self.execute(verb, netns, options))
    }

    /// Waits until the name server gives these answers.
    ///
    /// # Errors
    /// [`NetworkError::NoNames`]
    pub(super) fn await_names(&self, questions: &[Question]) -> Result<(), NetworkError> {
        match self.has_dns() {
            true => NameServer::of(&self.config).await_answers(questions),
            false => Ok(()),
        }
    }

    fn execute(&self, verb: Verb, netns: &Path, options: &Value) -> Result<Answer, NetworkError> {
        let mut command = Command::new(&self.by.program);
        command.arg("--config").arg(&self.config);
        if let Some(name_server) = &self.name_server {
            command.arg("--aardvark-binary").arg(name_server);
        }
        if !self.by.makes_rules {
            command.env(RULES.0, RULES.1);
        }
        command
            .arg(match verb {
                Verb::Setup => "setup",
                Verb::Teardown => "teardown",
            })
            .arg(netns);
        let outcome = program::run(&mut command, &options.to_string())?;
        if outcome.status.success() {
            return Ok(serde_json::from_str(&outcome.output).unwrap_or_default());
        }
        let words = complaint(&outcome.output).unwrap_or_else(|| outcome.last_words());
        match !self.by.makes_rules && words.contains(NOT_WITHOUT_RULES) {
            true => Err(NetworkError::OwnRules),
            false => Err(NetworkError::Netavark(words)),
        }
    }
}

/// An error is an object with one member.
fn complaint(output: &str) -> Option<String> {
    let value: Value = serde_json::from_str(output).ok()?;
    Some(value.get("error")?.as_str()?.to_owned())
}

/// What it is told about a container.
pub(super) fn options(
    id: &str,
    request: &NetworkRequest,
    links: &[(Network, Link)],
    ports: &[Published],
    has_dns: bool,
) -> Value {
    // It knows the container's name anyway, and would answer twice.
    let names: Vec<&str> = std::iter::once(id)
        .chain(request.aliases.iter().map(String::as_str))
        .filter(|name| *name != request.name)
        .collect();
    // Its names of networks are the bridges': those are unique on the host, whoever else uses it.
    let networks: Map<String, Value> = links
        .iter()
        .map(|(network, link)| {
            let value = json!({
                "interface_name": link.host_name,
                "static_ips": link.addresses,
                "static_mac": link.mac,
                "aliases": names,
            });
            (network.interface.clone(), value)
        })
        .collect();
    let info: Map<String, Value> = links
        .iter()
        .enumerate()
        .map(|(number, (network, _))| (network.interface.clone(), network_info(network, number, has_dns)))
        .collect();
    json!({
        "container_id": id,
        "container_name": request.name,
        "networks": networks,
        "network_info": info,
        "port_mappings": ports.iter().map(port_mapping).collect::<Vec<_>>(),
    })
}

/// What it is told about a network, the container's `number`th.
fn network_info(network: &Network, number: usize, has_dns: bool) -> Value {
    let mut options = network.options.clone();
    options.insert("metric".to_owned(), METRIC.saturating_add(number).to_string());
    json!({
        "name": network.interface,
        "id": format!("{:0>64}", ""),
        "driver": "bridge",
        "network_interface": network.interface,
        "subnets": network.subnets,
        "ipv6_enabled": network.subnets.iter().any(|subnet| subnet.gateway.is_ipv6()),
        "internal": network.internal,
        "dns_enabled": network.dns && has_dns,
        "ipam_options": { "driver": "host-local" },
        "options": options,
    })
}

fn port_mapping(port: &Published) -> Value {
    json!({
        "host_ip": port.host_ip.map(|ip| ip.to_string()).unwrap_or_default(),
        "host_port": port.host_port,
        "container_port": port.container_port,
        "range": port.count,
        "protocol": port.protocol,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_netavark_complains_of() {
        assert_eq!(
            complaint(r#"{"error":"no bridge"}"#).as_deref(),
            Some("no bridge")
        );
        assert_eq!(complaint("{}"), None);
        assert_eq!(complaint("panicked at"), None);
    }
}
