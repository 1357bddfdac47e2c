//! What a shim wants to know of a bundle's `config.json`; all else is the runtime's matter.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::Value;

use crate::error::TaskError;

/// Longest file that is read; the runtime refuses one of more than 1 MiB.
const MAX_CONFIG: u64 = 4 << 20;
/// Annotations with a pod's id, as containerd and CRI-O write them.
const PODS: [&str; 2] = ["io.kubernetes.cri.sandbox-id", "io.kubernetes.cri-o.SandboxID"];

/// A bundle's configuration.
#[derive(Debug)]
pub struct Bundle(Value);

impl Bundle {
    /// Reads it.
    ///
    /// # Errors
    /// [`TaskError::File`]
    pub fn read(folder: &Path) -> Result<Self, TaskError> {
        let path = folder.join("config.json");
        let mut text = String::new();
        File::open(&path)
            .and_then(|file| file.take(MAX_CONFIG).read_to_string(&mut text))
            .map_err(TaskError::file("read", &path))?;
        let config =
            serde_json::from_str(&text).map_err(|error| TaskError::file("understand", &path)(error.into()));
        config.map(Self)
    }

    /// The pod it is of.
    pub fn pod(&self) -> Option<&str> {
        let annotations = self.0.get("annotations")?;
        let mut found = PODS.iter().filter_map(|name| annotations.get(name)?.as_str());
        found.find(|pod| !pod.is_empty())
    }

    /// Whether its cgroup is named as systemd's are, SLICE:PREFIX:NAME.
    pub fn names_slices(&self) -> bool {
        let path = self.0.pointer("/linux/cgroupsPath").and_then(Value::as_str);
        path.is_some_and(|path| !path.contains('/') && path.split(':').count() == 3)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_is_found_by_either_name() {
        for name in PODS {
            let bundle = Bundle(json!({ "annotations": { name: "pod1", "other": "x" } }));
            assert_eq!(bundle.pod(), Some("pod1"));
        }
        assert_eq!(Bundle(json!({ "annotations": { "a": "b" } })).pod(), None);
        assert_eq!(Bundle(json!({})).pod(), None);
    }

    #[test]
    fn systemds_cgroups_are_told_from_paths() {
        let named = |path: &str| Bundle(json!({ "linux": { "cgroupsPath": path } })).names_slices();
        assert!(named("kubepods-pod1.slice:cri-containerd:abc"));
        assert!(!named("/default/web"));
        assert!(!named("web"));
        assert!(!named("/a:b:c"));
    }
}
