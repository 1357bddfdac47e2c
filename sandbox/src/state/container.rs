//! What is known of a container.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Health, HealthCheck, RestartPolicy, Restarts, VmSettings};
use crate::container::ContainerSpec;
use crate::network::NetworkRequest;
use crate::volumes::Volume;

/// OCI runtime specification, section "State", and what a host has to tell beyond it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It is there, and has never run.
    Created,
    /// It is being started.
    Creating,
    /// Its first process runs.
    Running,
    /// It is frozen.
    Paused,
    /// It has ended, and will be started again.
    Restarting,
    /// It has ended.
    Stopped,
    /// Whoever ran it died before it ended. Never written; that is what is found.
    Dead,
}

/// How a container's first process ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Exit {
    /// The exit code, or 128 and the signal; what `koya run` ends with.
    pub code: u8,
    /// The kernel killed a process of it for want of memory.
    pub oom_killed: bool,
    /// What else went wrong; empty if nothing did.
    pub error: String,
}

impl Exit {
    /// That of a container whose microVM or monitor went down with it: as of a process that was killed.
    pub fn killed(error: impl Into<String>) -> Self {
        Self {
            code: 137,
            oom_killed: false,
            error: error.into(),
        }
    }
}

/// Where its output is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogSettings {
    /// Bytes of a file; 0: nothing is kept.
    pub max_size: u64,
    /// How many files, the one being written included; at least 1.
    pub max_files: u32,
}

impl Default for LogSettings {
    /// 10 MB, twice.
    fn default() -> Self {
        Self {
            max_size: 10 << 20,
            max_files: 2,
        }
    }
}

/// What a container is to be.
#[derive(Debug, Clone, PartialEq)]
pub struct NewContainer {
    /// Unique among all; its id if there is none.
    pub name: Option<String>,
    /// Where it is to live.
    pub place: Place,
    /// The rest.
    pub settings: Settings,
}

/// Where a container is to live.
#[derive(Debug, Clone, PartialEq)]
pub enum Place {
    /// In a microVM of its own.
    New(VmSettings),
    /// In one that is there already, by its id.
    Vm(String),
}

/// What the user asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// As the user named it.
    pub image: String,
    /// Its digest, or whatever tells it from others.
    pub image_id: String,
    /// What it consists of.
    pub spec: ContainerSpec,
    /// `user[:group]`, names or numbers of its own files; empty: as the specification says.
    #[serde(default)]
    pub user: String,
    /// Whether a small init stands before its first process.
    #[serde(default)]
    pub init: bool,
    /// Networks and ports.
    #[serde(default)]
    pub network: NetworkRequest,
    /// Folders and files of the host.
    #[serde(default)]
    pub volumes: Vec<Volume>,
    /// The signal that asks its first process to end.
    pub stop_signal: u32,
    /// Seconds that it has for that.
    pub stop_timeout: u64,
    /// Whether it has an input, which stays open when nobody is attached.
    pub open_stdin: bool,
    /// Whether its input ends when the first one who is attached to it leaves.
    pub stdin_once: bool,
    /// Whether it is removed when it has ended.
    pub auto_remove: bool,
    /// Whether it is started again when it has ended.
    #[serde(default)]
    pub restart: RestartPolicy,
    /// How it is found out whether it is well.
    #[serde(default)]
    pub health: Option<HealthCheck>,
    /// The user's own words about it.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Where its output is kept.
    #[serde(default)]
    pub log: LogSettings,
}

/// A container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Container {
    /// 12 hexadecimal digits.
    pub id: String,
    /// Unique among all.
    pub name: String,
    /// The id of the microVM it lives in.
    pub vm: String,
    /// Nanoseconds since 1970 UTC.
    pub created: u64,
    /// When it was started last; 0: never.
    pub started: u64,
    /// When it ended last; 0: never.
    pub finished: u64,
    /// What it was when this was written.
    pub status: Status,
    /// Its first process in the guest, while it runs.
    pub pid: Option<u32>,
    /// How it ended last.
    pub exit: Option<Exit>,
    /// How often it has been started again.
    #[serde(default)]
    pub restarts: Restarts,
    /// How it is doing, or was when it ended, if somebody asks.
    #[serde(default)]
    pub health: Option<Health>,
    /// What the user asked for.
    pub settings: Settings,
}

impl Container {
    pub(super) fn new(id: String, name: String, vm: String, created: u64, settings: Settings) -> Self {
        Self {
            id,
            name,
            vm,
            created,
            started: 0,
            finished: 0,
            status: Status::Created,
            pid: None,
            exit: None,
            restarts: Restarts::default(),
            health: None,
            settings,
        }
    }

    /// What it calls itself: its id, unless the user has something better.
    pub fn hostname(&self) -> &str {
        match self.settings.spec.hostname.as_str() {
            "" => &self.id,
            name => name,
        }
    }

    /// Whether it runs, is frozen, or is about to run.
    pub fn is_active(&self) -> bool {
        matches!(
            self.status,
            Status::Creating | Status::Running | Status::Paused | Status::Restarting
        )
    }
}
