//! What the config of an image asks of a container (OCI image specification, config §properties).

use std::collections::BTreeMap;

use oci_spec::image::ImageConfiguration;

use crate::health::HealthCheck;

/// How to run an image, as plain data. Whatever its config leaves open is empty or `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// Program and its first arguments; `cmd` follows.
    pub entrypoint: Vec<String>,
    /// Default arguments, or the whole command if there is no entry point.
    pub cmd: Vec<String>,
    /// `NAME=value` each.
    pub env: Vec<String>,
    /// Absolute path; `/` if the image names none.
    pub working_dir: String,
    /// `user`, `uid`, `user:group` and so on, to be looked up in the image's own `/etc/passwd`.
    pub user: Option<String>,
    /// Labels by name.
    pub labels: BTreeMap<String, String>,
    /// `SIGTERM`, `RTMIN+3`, `15` and so on, as written.
    pub stop_signal: Option<String>,
    /// How it is found out whether a container is well.
    pub health: Option<HealthCheck>,
    /// Ports the image says it listens on, in order.
    pub exposed_ports: Vec<ExposedPort>,
    /// Absolute paths that should be volumes.
    pub volumes: Vec<String>,
    /// Processor, in Go's terms: `amd64`.
    pub architecture: String,
    /// Operating system: `linux`.
    pub os: String,
    /// When it was made (RFC 3339), if it says so.
    pub created: Option<String>,
}

/// A port a container listens on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExposedPort {
    /// 1 to 65535.
    pub number: u16,
    /// What runs over it.
    pub protocol: Protocol,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// The default.
    Tcp,
    /// Datagrams.
    Udp,
    /// Streams of messages.
    Sctp,
}

impl ImageConfig {
    /// The entry point followed by the default arguments.
    pub fn command(&self) -> Vec<&str> {
        self.entrypoint
            .iter()
            .chain(&self.cmd)
            .map(String::as_str)
            .collect()
    }

    /// Reads an image's config.
    ///
    /// # Errors
    /// When it is no such JSON.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, serde_json::Error> {
        let document = serde_json::from_slice(json)?;
        Ok(Self {
            health: HealthCheck::of(json),
            ..Self::from_oci(&document)
        })
    }

    fn from_oci(document: &ImageConfiguration) -> Self {
        let mut config = Self {
            working_dir: "/".to_owned(),
            architecture: document.architecture().to_string(),
            os: document.os().to_string(),
            created: document.created().clone(),
            ..Self::default()
        };
        let Some(asked) = document.config() else {
            return config;
        };
        config.entrypoint = asked.entrypoint().clone().unwrap_or_default();
        config.cmd = asked.cmd().clone().unwrap_or_default();
        config.env = asked.env().clone().unwrap_or_default();
        config.user = asked.user().clone().filter(|user| !user.is_empty());
        config.stop_signal = asked.stop_signal().clone().filter(|signal| !signal.is_empty());
        config.labels = asked.labels().clone().unwrap_or_default().into_iter().collect();
        config.volumes = asked.volumes().clone().unwrap_or_default();
        config.volumes.sort();
        let ports = asked.exposed_ports().clone().unwrap_or_default();
        config.exposed_ports = ports.iter().flat_map(|port| ExposedPort::parse(port)).collect();
        config.exposed_ports.sort();
        if let Some(dir) = asked.working_dir().as_ref().filter(|dir| !dir.is_empty()) {
            config.working_dir = if dir.starts_with('/') {
                dir.clone()
            } else {
                format!("/{dir}")
            };
        }
        config
    }
}

impl ExposedPort {
    /// Reads `80`, `80/udp` or a range `8000-8010/tcp`; anything else stands for no port, as for docker.
    fn parse(text: &str) -> Vec<Self> {
        let (numbers, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let protocol = match protocol.to_ascii_lowercase().as_str() {
            "tcp" | "" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            _ => return Vec::new(),
        };
        let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
        let (Ok(first), Ok(last)) = (first.parse::<u16>(), last.parse::<u16>()) else {
            return Vec::new();
        };
        (first.max(1)..=last)
            .map(|number| Self { number, protocol })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> ImageConfig {
        ImageConfig::parse(json.as_bytes()).unwrap()
    }

    #[test]
    fn dockers_config_is_understood() {
        let config = read(
            r#"{"architecture":"amd64","os":"linux","docker_version":"20.10","container":"abc",
            "config":{"Hostname":"x","AttachStdin":false,"User":"www:www","ExposedPorts":{"80/tcp":{},"53/udp":{},"x":{},"9-8":{}},
            "Env":["PATH=/bin","A=b=c"],"Entrypoint":["/e","-x"],"Cmd":["a"],"WorkingDir":"/srv","OnBuild":null,
            "Labels":{"k":"v"},"StopSignal":"SIGRTMIN+3","Volumes":{"/b":{},"/a":{}},"Healthcheck":{"Test":["CMD","true"]}},
            "rootfs":{"type":"layers","diff_ids":[]}}"#,
        );
        assert_eq!(config.command(), ["/e", "-x", "a"]);
        assert_eq!(config.env, ["PATH=/bin", "A=b=c"]);
        assert_eq!(
            (config.working_dir.as_str(), config.user.as_deref()),
            ("/srv", Some("www:www"))
        );
        assert_eq!(config.stop_signal.as_deref(), Some("SIGRTMIN+3"));
        assert_eq!(config.health.unwrap().command, ["true"]);
        assert_eq!(config.volumes, ["/a", "/b"]);
        assert_eq!(config.labels.get("k").unwrap(), "v");
        let ports: Vec<_> = config
            .exposed_ports
            .iter()
            .map(|port| (port.number, port.protocol))
            .collect();
        assert_eq!(ports, [(53, Protocol::Udp), (80, Protocol::Tcp)]);
    }

    #[test]
    fn nulls_and_absent_fields_mean_nothing_is_asked() {
        let config = read(
            r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]},
            "config":{"User":"","ExposedPorts":null,"Env":null,"Entrypoint":null,"Cmd":null,"Volumes":null,
            "WorkingDir":"","Labels":null,"StopSignal":""}}"#,
        );
        let nothing = ImageConfig {
            working_dir: "/".into(),
            architecture: "amd64".into(),
            os: "linux".into(),
            ..ImageConfig::default()
        };
        assert_eq!(config, nothing);
    }
}
