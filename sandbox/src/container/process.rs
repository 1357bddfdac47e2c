//! A process of a container: what it runs, as whom, with which rights.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use thiserror::Error;

use super::security;

/// Where programs are looked for if the image does not say.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How many files a process may have open, at first and at most; systemd's, and docker's since it follows it. The
/// kernel's own for its first process are 1024 and 4096, which is little for servers.
const OPEN_FILES: (u64, u64) = (1024, 524_288);

/// A process that a container runs, the first one or a later one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProcessSpec {
    /// The program and its arguments; not empty.
    pub args: Vec<String>,
    /// `NAME=value`, the later one of two with the same name wins.
    pub env: Vec<String>,
    /// Absolute; empty is `/`.
    pub cwd: String,
    /// User and group. Names go to the agent beside this: `CreateRequest.user`, `ExecRequest.user`.
    pub user: (u32, u32),
    /// Further groups.
    pub groups: Vec<u32>,
    /// Whether it has a terminal.
    pub terminal: bool,
    /// All capabilities there are, not only the usual ones; no filter of system calls, no rules for devices.
    pub privileged: bool,
    /// It is, or belongs to, a distribution's init: more namespaces, and every capability that a user namespace
    /// confines.
    pub system: bool,
    /// Capabilities beyond the usual ones, as [`capability`](super::capability) reads them; `ALL` is every one.
    pub cap_add: Vec<String>,
    /// Capabilities taken away; `ALL` is every one that [`Self::cap_add`] does not name.
    pub cap_drop: Vec<String>,
    /// Neither it nor what it starts may gain rights from set-user-id programs or file capabilities.
    pub no_new_privileges: bool,
    /// Limits of the process itself (setrlimit(2)).
    pub ulimits: Vec<Ulimit>,
    /// -1000 (never killed for want of memory) to 1000 (first).
    pub oom_score_adj: Option<i32>,
}

/// A limit of setrlimit(2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// Its name in lower case without `RLIMIT_`: `nofile`.
    pub name: String,
    /// What holds at first; `u64::MAX` is unlimited.
    pub soft: u64,
    /// Up to which the process may raise it; `u64::MAX` is unlimited.
    pub hard: u64,
}

/// Why a text is no limit.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum UlimitError {
    /// No `=`, or no number.
    #[error(
        "ulimit '{0}' is not NAME=SOFT[:HARD]; numbers or 'unlimited' are wanted, as in nofile=1024:4096"
    )]
    Form(String),
    /// A name that Linux does not know.
    #[error("ulimit '{0}' is unknown; there are {known}", known = Ulimit::NAMES.join(", "))]
    Name(String),
    /// A soft limit above the hard one.
    #[error("ulimit '{0}' is higher at first than it may ever be; want SOFT no higher than HARD")]
    Order(String),
}

impl Ulimit {
    /// All there are (getrlimit(2)).
    pub const NAMES: [&str; 16] = [
        "as",
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ];
}

impl FromStr for Ulimit {
    type Err = UlimitError;

    /// `nofile=1024`, `nofile=1024:4096`, `core=unlimited`.
    fn from_str(text: &str) -> Result<Self, UlimitError> {
        let form = || UlimitError::Form(text.to_owned());
        let number = |text: &str| match text {
            "unlimited" | "-1" => Ok(u64::MAX),
            number => number.parse().map_err(|_| form()),
        };
        let (name, values) = text.split_once('=').ok_or_else(form)?;
        if !Self::NAMES.contains(&name) {
            return Err(UlimitError::Name(name.to_owned()));
        }
        let (soft, hard) = values.split_once(':').unwrap_or((values, values));
        let (soft, hard) = (number(soft)?, number(hard)?);
        if soft > hard {
            return Err(UlimitError::Order(text.to_owned()));
        }
        Ok(Self {
            name: name.to_owned(),
            soft,
            hard,
        })
    }
}

impl ProcessSpec {
    /// The process object of the specification (section "Process").
    pub fn to_json(&self) -> Value {
        let capabilities = security::capabilities(self);
        let files = Ulimit {
            name: "nofile".to_owned(),
            soft: OPEN_FILES.0,
            hard: OPEN_FILES.1,
        };
        let usual = (!self.ulimits.iter().any(|limit| limit.name == files.name)).then_some(&files);
        let limits = self.ulimits.iter().chain(usual).map(|limit| {
            json!({
                "type": format!("RLIMIT_{}", limit.name.to_uppercase()), "soft": limit.soft, "hard": limit.hard,
            })
        });
        let mut process = json!({
            "terminal": self.terminal,
            "user": { "uid": self.user.0, "gid": self.user.1, "additionalGids": self.groups },
            "args": self.args,
            "env": self.environment(),
            "cwd": if self.cwd.is_empty() { "/" } else { &self.cwd },
            "capabilities": { "bounding": capabilities, "effective": capabilities, "permitted": capabilities },
            "rlimits": limits.collect::<Vec<_>>(),
            "noNewPrivileges": self.no_new_privileges,
        });
        if let Some(score) = self.oom_score_adj {
            super::put(&mut process, "oomScoreAdj", score.into());
        }
        process
    }

    /// Each name once, and the ones that every container has.
    fn environment(&self) -> Vec<String> {
        let terminal = self.terminal.then_some("TERM=xterm");
        let defaults = [Some(PATH), terminal].into_iter().flatten().map(str::to_owned);
        let mut environment: Vec<String> = Vec::new();
        for variable in defaults.chain(self.env.iter().cloned()) {
            let name = |variable: &str| variable.split('=').next().map(str::to_owned);
            environment.retain(|known| name(known) != name(&variable));
            environment.push(variable);
        }
        environment
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_as_docker_reads_them() {
        let limit = |text: &str| text.parse::<Ulimit>().map(|limit| (limit.soft, limit.hard));
        assert_eq!(limit("nofile=1024"), Ok((1024, 1024)));
        assert_eq!(limit("nofile=1:2"), Ok((1, 2)));
        assert_eq!(limit("core=0:unlimited"), Ok((0, u64::MAX)));
        assert_eq!(limit("files=1"), Err(UlimitError::Name("files".into())));
        assert_eq!(limit("nofile=2:1"), Err(UlimitError::Order("nofile=2:1".into())));
        for bad in ["nofile", "nofile=", "nofile=x", "nofile=1:2:3"] {
            assert_eq!(limit(bad), Err(UlimitError::Form(bad.into())));
        }
    }
}
