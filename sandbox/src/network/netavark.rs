//! The program netavark: what it is told, how it is run, what it answers.
//!
//! It makes the bridge and its addresses, a veth into a namespace, the rules of the firewall, and has aardvark-dns know the
//! container's names. Which addresses are free is for its caller to know.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::definition::Network;
use super::error::file;
use super::names::{NameServer, Question};
use super::ports::Published;
use super::{Link, NetworkError, NetworkRequest, records};

/// Where distributions put it.
pub const FOLDERS: [&str; 4] = [
    "/usr/local/libexec/podman",
    "/usr/libexec/podman",
    "/usr/lib/podman",
    "/usr/bin",
];
/// Names it instead.
const VARIABLE: &str = "KOYA_NETAVARK";
/// How long it may take. A tenth of a second is usual.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at it.
const PAUSE: Duration = Duration::from_millis(2);
/// Longest answer that is read.
const MAX_ANSWER: u64 = 1 << 20;
/// The metric of the first network's default route; each further one's is larger by one.
const METRIC: usize = 100;

/// It and its companion.
#[derive(Debug)]
pub(super) struct Netavark {
    program: PathBuf,
    /// Where it and aardvark-dns keep what they know.
    config: PathBuf,
    /// Whether names are looked up at all.
    pub(super) has_dns: bool,
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

impl Netavark {
    pub(super) fn find(run: &Path) -> Result<Self, NetworkError> {
        let places: Vec<PathBuf> = match env::var_os(VARIABLE) {
            Some(path) => vec![path.into()],
            None => FOLDERS.map(|folder| Path::new(folder).join("netavark")).to_vec(),
        };
        let program = places.iter().find(|place| place.is_file()).cloned();
        let program = program.ok_or_else(|| NetworkError::NoNetavark {
            looked: places
                .iter()
                .map(|place| place.display().to_string())
                .collect::<Vec<_>>()
                .join(", "),
        })?;
        fs::create_dir_all(run).map_err(file(run))?;
        Ok(Self {
            has_dns: program.with_file_name("aardvark-dns").is_file(),
            config: run.to_owned(),
            program,
        })
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
        match self.has_dns {
            true => NameServer::of(&self.config).await_answers(questions),
            false => Ok(()),
        }
    }

    fn execute(&self, verb: Verb, netns: &Path, options: &Value) -> Result<Answer, NetworkError> {
        let failed = |source| NetworkError::Run {
            program: self.program.clone(),
            source,
        };
        // A pipe would stay open as long as aardvark-dns runs, which it starts.
        let mut input = memory().map_err(failed)?;
        let (output, errors) = (memory().map_err(failed)?, memory().map_err(failed)?);
        input
            .write_all(options.to_string().as_bytes())
            .and_then(|()| input.rewind())
            .map_err(failed)?;
        let mut command = Command::new(&self.program);
        command
            .arg("--config")
            .arg(&self.config)
            .arg(match verb {
                Verb::Setup => "setup",
                Verb::Teardown => "teardown",
            })
            .arg(netns)
            // iptables is not in everybody's PATH. It is run some forty times, and found in the first place.
            .env(
                "PATH",
                "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin",
            )
            .stdin(input)
            .stdout(output.try_clone().map_err(failed)?)
            .stderr(errors.try_clone().map_err(failed)?);
        let mut child = command.spawn().map_err(failed)?;
        let status = await_end(&mut child).map_err(failed)?;
        let Some(status) = status else {
            let _ = child.kill();
            let _ = child.wait();
            return Err(NetworkError::Slow(PATIENCE.as_secs()));
        };
        let output = text(output).map_err(failed)?;
        if status.success() {
            return Ok(serde_json::from_str(&output).unwrap_or_default());
        }
        let words = complaint(&output)
            .or_else(|| text(errors).ok()?.lines().last().map(str::to_owned))
            .unwrap_or_else(|| status.to_string());
        Err(NetworkError::Netavark(words))
    }
}

/// Waits for a program, but not for ever; `None` if it has not ended by then.
fn await_end(child: &mut Child) -> io::Result<Option<ExitStatus>> {
    let end = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).ok();
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        match &end {
            Some(end) => {
                let rest = PATIENCE.saturating_sub(start.elapsed()).try_into().ok();
                let _ = poll(&mut [PollFd::new(end, PollFlags::IN)], rest.as_ref());
            }
            // A kernel without pidfd_open(2).
            None => thread::sleep(PAUSE),
        }
    }
    child.try_wait()
}

/// An error is an object with one member.
fn complaint(output: &str) -> Option<String> {
    let value: Value = serde_json::from_str(output).ok()?;
    Some(value.get("error")?.as_str()?.to_owned())
}

fn memory() -> io::Result<File> {
    Ok(File::from(memfd_create("netavark", MemfdFlags::CLOEXEC)?))
}

fn text(mut file: File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.take(MAX_ANSWER).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
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
