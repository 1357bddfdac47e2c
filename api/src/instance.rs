//! What `GET /` and `GET /version` answer.

use serde::{Deserialize, Serialize};

/// The Firecracker release whose API Koya follows.
///
/// Clients parse it as a semantic version and switch features by it, so it is a released version and carries no name
/// of ours; Koya's own version stands beside it in a field of its own.
pub const FIRECRACKER_API_VERSION: &str = "1.16.1";

/// Koya's own version.
pub const KOYA_VERSION: &str = env!("CARGO_PKG_VERSION");

/// The name of the program in `GET /`.
pub const APP_NAME: &str = "Koya";

/// Whether the microVM runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum InstanceState {
    /// Still being configured.
    #[default]
    #[serde(rename = "Not started")]
    NotStarted,
    /// The vCPUs run.
    Running,
    /// The vCPUs are stopped and can be resumed.
    Paused,
}

/// The answer to `GET /`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceInfo {
    /// The identifier given with `--id`.
    pub id: String,
    /// Whether the microVM runs.
    pub state: InstanceState,
    /// The same as `firecracker_version` of `GET /version`: clients compare it with the versions they know.
    pub vmm_version: String,
    /// The program that answers: `Koya`.
    pub app_name: String,
    /// Koya's own version. Not a field of Firecracker's.
    pub koya_version: String,
}

impl InstanceInfo {
    /// The information on this program's instance `id`.
    pub fn new(id: impl Into<String>, state: InstanceState) -> Self {
        Self {
            id: id.into(),
            state,
            vmm_version: FIRECRACKER_API_VERSION.into(),
            app_name: APP_NAME.into(),
            koya_version: KOYA_VERSION.into(),
        }
    }
}

/// The answer to `GET /version`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionInfo {
    /// The Firecracker release whose API is served, a semantic version.
    pub firecracker_version: String,
    /// Koya's own version. Not a field of Firecracker's.
    pub koya_version: String,
}

impl Default for VersionInfo {
    fn default() -> Self {
        Self {
            firecracker_version: FIRECRACKER_API_VERSION.into(),
            koya_version: KOYA_VERSION.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_spelled_as_clients_expect() {
        for (state, text) in [
            (InstanceState::NotStarted, "\"Not started\""),
            (InstanceState::Running, "\"Running\""),
            (InstanceState::Paused, "\"Paused\""),
        ] {
            assert_eq!(serde_json::to_string(&state).unwrap(), text);
        }
    }

    #[test]
    fn the_version_is_a_released_semantic_version() {
        let parts: Vec<u32> = VersionInfo::default()
            .firecracker_version
            .split('.')
            .map(|part| part.parse().unwrap())
            .collect();
        assert_eq!(parts.len(), 3);
        assert_eq!(
            InstanceInfo::new("a", InstanceState::Running).vmm_version,
            FIRECRACKER_API_VERSION
        );
    }
}
