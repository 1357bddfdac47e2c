//! OCI layouts and docker archives.

use std::io::Write;
use std::path::PathBuf;

use koya_image::Digest;
use serde_json::{Value, json};

use super::folder::Folder;
use super::tar;

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

/// An OCI layout being made.
pub struct Layout {
    pub folder: Folder,
    pub manifests: Vec<Value>,
}

impl Layout {
    pub fn new() -> Self {
        let folder = Folder::new();
        folder.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
        let layout = Self {
            folder,
            manifests: Vec::new(),
        };
        layout.write_index();
        layout
    }

    /// A layout with one image of such layers.
    pub fn of(layers: &[Vec<u8>]) -> Self {
        let mut layout = Self::new();
        let descriptor = layout.image(layers, json!({}));
        layout.add(descriptor);
        layout
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    pub fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = Digest::of(bytes);
        self.folder.file(&format!("blobs/sha256/{}", digest.hex()), bytes);
        json!({"mediaType": media_type, "digest": digest.to_string(), "size": bytes.len()})
    }

    pub fn json(&self, media_type: &str, value: &Value) -> Value {
        self.blob(media_type, value.to_string().as_bytes())
    }

    /// Blobs of an image for this machine; its layers are stored as they are given.
    pub fn image(&self, layers: &[Vec<u8>], config: Value) -> Value {
        let diff_ids: Vec<_> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
        self.image_with(layers, &diff_ids, "amd64", config)
    }

    pub fn image_with(&self, layers: &[Vec<u8>], diff_ids: &[String], arch: &str, config: Value) -> Value {
        let config = json!({"architecture": arch, "os": "linux", "config": config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        let config = self.json(CONFIG, &config);
        let layers: Vec<_> = layers.iter().map(|layer| self.blob(LAYER, layer)).collect();
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
        self.json(MANIFEST, &manifest)
    }

    pub fn add(&mut self, descriptor: Value) {
        self.manifests.push(descriptor);
        self.write_index();
    }

    fn write_index(&self) {
        let index = json!({"schemaVersion": 2, "manifests": self.manifests});
        self.folder.file("index.json", index.to_string().as_bytes());
    }
}

/// What `docker save` wrote before it knew OCI: layers in folders, links for equal ones.
pub fn docker_archive(layers: &[Vec<u8>], tags: &[&str]) -> Vec<u8> {
    let diff_ids: Vec<_> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
    let config = json!({"architecture": "amd64", "os": "linux", "config": {"Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids}})
    .to_string();
    let config_name = format!("{}.json", Digest::of(config.as_bytes()).hex());
    let mut entries = vec![tar::file(&config_name, config.as_bytes())];
    let mut names: Vec<String> = Vec::new();
    for (index, layer) in layers.iter().enumerate() {
        let name = format!("l{index}/layer.tar");
        entries.push(tar::directory(&format!("l{index}/")));
        match layers.iter().take(index).position(|other| other == layer) {
            Some(same) => entries.push(tar::symlink(&name, &format!("../l{same}/layer.tar"))),
            None => entries.push(tar::file(&name, layer)),
        }
        names.push(name);
    }
    let manifest = json!([{"Config": config_name, "RepoTags": tags, "Layers": names}]).to_string();
    entries.push(tar::file("manifest.json", manifest.as_bytes()));
    tar::archive(&entries)
}
