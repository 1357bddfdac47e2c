//! A folder as an image that containerd imports: the archive of `docker save`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::bench::BenchError;
use crate::bench::tree;

/// Packs the folder `root` as the image `name`, which runs `words` by itself.
pub(super) fn pack(root: &Path, name: &str, words: &[&str], to: &Path) -> Result<PathBuf, BenchError> {
    let parts = to.with_extension("parts");
    tree::make_folder(&parts)?;
    let layer = tree::tar(root, &parts.join("layer.tar"))?;
    let sum = tree::run(Command::new("sha256sum").arg(&layer))?;
    let sum = sum.split(' ').next().unwrap_or_default();
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "config": { "Env": ["PATH=/bin"], "Cmd": words },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{sum}")] },
    });
    tree::write(&parts.join("config.json"), &config.to_string(), 0o644)?;
    let manifest = json!([{ "Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"] }]);
    tree::write(&parts.join("manifest.json"), &manifest.to_string(), 0o644)?;
    let archive = tree::tar(&parts, to)?;
    fs::remove_dir_all(&parts).map_err(BenchError::path("remove", parts))?;
    Ok(archive)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn an_archive_names_its_layer_by_its_digest() {
        let folder = std::env::temp_dir().join(format!("koya-archive-{}", std::process::id()));
        fs::create_dir_all(folder.join("root")).unwrap();
        fs::write(folder.join("root/file"), "text").unwrap();
        let archive = pack(&folder.join("root"), "one:1", &["sh"], &folder.join("image.tar")).unwrap();
        let part = |name: &str| {
            tree::run(
                Command::new("tar")
                    .arg("-xOf")
                    .arg(&archive)
                    .arg(format!("./{name}")),
            )
            .unwrap()
        };
        let manifest: Value = serde_json::from_str(&part("manifest.json")).unwrap();
        assert_eq!(manifest[0]["RepoTags"][0], "one:1");
        let config: Value = serde_json::from_str(&part("config.json")).unwrap();
        let line = format!("tar -xOf {} ./layer.tar | sha256sum", archive.display());
        let sum = tree::run(Command::new("sh").args(["-c", &line])).unwrap();
        let sum = sum.split(' ').next().unwrap();
        assert_eq!(config["rootfs"]["diff_ids"][0], format!("sha256:{sum}"));
        fs::remove_dir_all(folder).unwrap();
    }
}
