//! Everything an image can be loaded from, and everything that can be wrong with it.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing
)]
#![allow(clippy::panic, clippy::unwrap_used)]

mod support;

use std::path::Path;

use koya_image::{Digest, Image, Limits, Quiet, Reference, Source, Store};
use serde_json::json;
use support::erofs::Disk;
use support::folder::Folder;
use support::oci::{self, CONFIG, INDEX, LAYER, Layout, MANIFEST};
use support::tar::{archive, directory, file};
use support::told;

fn layer() -> Vec<u8> {
    archive(&[directory("bin"), file("bin/sh", b"#!"), file("x", &[9; 70_000])])
}

struct Loaded {
    _folder: Folder,
    store: Store,
    image: Image,
}

impl Loaded {
    fn paths(&self) -> Vec<String> {
        Disk::open(&self.store.disk(&self.image).unwrap())
            .tree()
            .into_keys()
            .collect()
    }
}

fn load(source: &str) -> Result<Loaded, String> {
    let folder = Folder::new();
    let store = Store::open(folder.path()).unwrap();
    let image = store
        .load(&Source::parse(source).unwrap(), &mut Quiet)
        .map_err(|error| told(&error))?;
    Ok(Loaded {
        _folder: folder,
        store,
        image,
    })
}

fn shown(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn sources_are_told_apart_by_how_they_are_written() {
    let parse = |text: &str| Source::parse(text).unwrap();
    let path = |text: &str| Source::Path(text.into());
    for text in [
        "./r",
        "/r",
        ".",
        "r/",
        "d.tar",
        "d.tar.gz",
        "d.tgz",
        "a/d.tar.zst",
    ] {
        assert_eq!(parse(text), path(text));
    }
    for text in [
        "debian",
        "debian:12",
        "localhost:5000/app:1",
        "docker://debian:12",
    ] {
        let name: Reference = text.trim_start_matches("docker://").parse().unwrap();
        assert_eq!(parse(text), Source::Reference(name));
    }
    let (folder, name) = ("/x".into(), Some("a/b:1".into()));
    assert_eq!(parse("oci:/x:a/b:1"), Source::OciLayout { path: folder, name });
    assert_eq!(
        parse("oci-archive:x.tar"),
        Source::OciArchive {
            path: "x.tar".into(),
            name: None
        }
    );
    assert_eq!(
        parse("docker-archive:x"),
        Source::DockerArchive {
            path: "x".into(),
            name: None
        }
    );
    let fault = told(&Source::parse("Debian").unwrap_err());
    assert!(
        fault.starts_with("\"Debian\" is no image name: \"Debian\" cannot be part"),
        "{fault}"
    );
}

#[test]
fn a_tar_is_a_root_file_system_however_it_is_compressed() {
    let folder = Folder::new();
    let plain = load(shown(&folder.file("r.tar", &layer()))).unwrap();
    assert_eq!(plain.paths(), ["/", "/bin", "/bin/sh", "/x"]);
    assert_eq!(plain.image.config().command(), [""; 0]);
    let half = layer().len() / 2;
    let members = [oci::gzip(&layer()[..half]), oci::gzip(&layer()[half..])].concat();
    let skippable = [b"\x50\x2a\x4d\x18\x03\0\0\0abc".to_vec(), oci::zstd(&layer())].concat();
    let frames = [
        oci::zstd(&layer()[..half]),
        skippable[..11].to_vec(),
        oci::zstd(&layer()[half..]),
    ]
    .concat();
    for (name, bytes) in [
        ("a.tar.gz", oci::gzip(&layer())),
        ("b.tar.gz", members),
        ("c.tar.zst", oci::zstd(&layer())),
        ("d.tar.zst", skippable),
        ("e.tar.zst", frames),
    ] {
        let packed =
            load(shown(&folder.file(name, &bytes))).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(packed.image.id(), plain.image.id(), "{name}");
    }
}

#[test]
fn marks_of_layers_mean_nothing_in_a_root_file_system() {
    let folder = Folder::new();
    let bytes = archive(&[
        file("a", b""),
        file(".wh.a", b""),
        file("manifest.json", b"no archive"),
        file("index.json", b""),
    ]);
    let loaded = load(shown(&folder.file("r.tar", &bytes))).unwrap();
    assert_eq!(
        loaded.paths(),
        ["/", "/.wh.a", "/a", "/index.json", "/manifest.json"]
    );
}

#[test]
fn a_folder_becomes_an_image_without_following_its_links() {
    let folder = Folder::new();
    folder.file("root/a/x", b"data");
    folder.file("secret", b"outside");
    let root = folder.path().join("root");
    std::os::unix::fs::symlink("../secret", root.join("link")).unwrap();
    std::os::unix::fs::symlink(folder.path(), root.join("out")).unwrap();
    std::fs::hard_link(root.join("a/x"), root.join("y")).unwrap();
    let loaded = load(shown(&root)).unwrap();
    assert_eq!(loaded.paths(), ["/", "/a", "/a/x", "/link", "/out", "/y"]);
    let tree = Disk::open(&loaded.store.disk(&loaded.image).unwrap()).tree();
    assert_eq!(tree["/a/x"].number, tree["/y"].number);
    assert_eq!(tree["/link"].data, b"../secret");
    let again = loaded
        .store
        .load(&Source::Path(root.clone()), &mut Quiet)
        .unwrap();
    assert_eq!(again.id(), loaded.image.id());
    std::fs::write(root.join("a/x"), b"more").unwrap();
    let changed = loaded.store.load(&Source::Path(root), &mut Quiet).unwrap();
    assert_ne!(changed.id(), loaded.image.id(), "a change is seen");
}

#[test]
fn layouts_and_archives_of_an_image_are_the_same_image() {
    let layers = [layer(), archive(&[file(".wh.x", b"")]), layer()];
    let mut layout = Layout::new();
    let mut descriptor = layout.image(&layers, json!({"Cmd": ["sh"]}));
    descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": "example.org/app:1"});
    layout.add(descriptor);
    let folder = Folder::new();
    let mut entries = vec![directory("blobs"), directory("blobs/sha256")];
    for path in ["oci-layout", "index.json"] {
        entries.push(file(path, &std::fs::read(layout.path().join(path)).unwrap()));
    }
    for blob in std::fs::read_dir(layout.path().join("blobs/sha256")).unwrap() {
        let blob = blob.unwrap().path();
        let name = format!("./blobs/sha256/{}", shown(Path::new(blob.file_name().unwrap())));
        entries.push(file(&name, &std::fs::read(&blob).unwrap()));
    }
    let oci = folder.file("oci.tar", &archive(&entries));
    let oci_gz = folder.file("oci.tar.gz", &oci::gzip(&archive(&entries)));
    let docker = folder.file(
        "docker.tar",
        &oci::docker_archive(&layers, &["example.org/app:1"]),
    );
    let reference = load(&format!("oci:{}", shown(&layout.path()))).unwrap();
    assert_eq!(reference.paths(), ["/", "/bin", "/bin/sh", "/x"]);
    assert_eq!(reference.image.config().cmd, ["sh"]);
    for source in [
        shown(&layout.path()).to_owned(),
        format!("oci:{}:example.org/app:1", shown(&layout.path())),
        shown(&oci).to_owned(),
        format!("oci-archive:{}", shown(&oci_gz)),
    ] {
        let loaded = load(&source).unwrap_or_else(|error| panic!("{source}: {error}"));
        assert_eq!(
            loaded.image,
            Image::clone(&loaded.store.find("example.org/app:1").unwrap())
        );
        assert_eq!(loaded.image.id(), reference.image.id(), "{source}");
        assert_eq!(loaded.image.digests(), reference.image.digests());
    }
    for source in [
        shown(&docker).to_owned(),
        format!("docker-archive:{}:example.org/app:1", shown(&docker)),
    ] {
        let loaded = load(&source).unwrap_or_else(|error| panic!("{source}: {error}"));
        assert_eq!(loaded.image.layers(), reference.image.layers());
        assert_eq!(loaded.paths(), reference.paths());
        assert_eq!(
            loaded.store.find("example.org/app:1").unwrap().id(),
            loaded.image.id()
        );
    }
}

#[test]
fn the_image_for_this_machine_is_chosen() {
    let mut layout = Layout::new();
    let digest = Digest::of(&layer()).to_string();
    let arm = layout.image_with(&[layer()], std::slice::from_ref(&digest), "arm64", json!({}));
    let mut here = layout.image(&[layer()], json!({"Cmd": ["here"]}));
    here["platform"] = json!({"os": "linux", "architecture": "amd64"});
    let mut elsewhere = arm.clone();
    elsewhere["platform"] = json!({"os": "linux", "architecture": "arm64", "variant": "v8"});
    let mut attestation = arm.clone();
    attestation["platform"] = json!({"os": "unknown", "architecture": "unknown"});
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [elsewhere, attestation, here]});
    let descriptor = layout.json(INDEX, &index);
    layout.add(descriptor);
    let loaded = load(shown(&layout.path())).unwrap();
    assert_eq!(loaded.image.config().cmd, ["here"]);
    assert_eq!(loaded.image.digests().len(), 2, "manifest and index");
    for descriptor in [arm, elsewhere] {
        layout.manifests.clear();
        layout.add(descriptor);
        let message = load(shown(&layout.path())).err().unwrap();
        assert!(
            message.contains("it has nothing for linux/amd64, only for linux/arm64"),
            "{message}"
        );
    }
}

#[test]
fn several_images_need_a_name() {
    let mut layout = Layout::new();
    for name in ["a:1", "b:2"] {
        let mut descriptor = layout.image(&[layer()], json!({"Cmd": [name]}));
        descriptor["annotations"] = json!({"io.containerd.image.name": format!("docker.io/library/{name}")});
        layout.add(descriptor);
    }
    let path = layout.path();
    let message = load(shown(&path)).err().unwrap();
    assert!(
        message.contains("several images, so one must be named after a colon: a:1, b:2"),
        "{message}"
    );
    assert_eq!(
        load(&format!("oci:{}:b:2", shown(&path)))
            .unwrap()
            .image
            .config()
            .cmd,
        ["b:2"]
    );
    let message = load(&format!("oci:{}:c", shown(&path))).err().unwrap();
    assert!(
        message.contains("no image named \"c\", but docker.io/library/a:1"),
        "{message}"
    );
    let folder = Folder::new();
    let store = Store::open(folder.path()).unwrap();
    let images = store.load_all(&Source::Path(path), &mut Quiet).unwrap();
    assert_eq!(images.len(), 2);
    assert_eq!(
        store.disk(&images[0]).unwrap(),
        store.disk(&images[1]).unwrap(),
        "equal layers share a disk"
    );
}

#[test]
fn bytes_that_are_not_what_their_names_say_are_refused() {
    let layout = Layout::of(&[layer()]);
    let read = |name: &str| std::fs::read(layout.path().join(name)).unwrap();
    let index: serde_json::Value = serde_json::from_slice(&read("index.json")).unwrap();
    let name = |digest: &serde_json::Value| format!("blobs/sha256/{}", &digest.as_str().unwrap()[7..]);
    let manifest_name = name(&index["manifests"][0]["digest"]);
    let manifest: serde_json::Value = serde_json::from_slice(&read(&manifest_name)).unwrap();
    let (config_name, layer_name) = (
        name(&manifest["config"]["digest"]),
        name(&manifest["layers"][0]["digest"]),
    );
    for (name, fault) in [
        (&manifest_name, "have the digest sha256:"),
        (&config_name, "have the digest sha256:"),
        (&layer_name, ") is refused: its digest is sha256:"),
    ] {
        let whole = read(name);
        let mut flipped = whole.clone();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 1;
        layout.folder.file(name, &flipped);
        let message = load(shown(&layout.path())).err().unwrap();
        assert!(message.contains(fault), "{message}");
        layout.folder.file(name, &whole[..whole.len() - 1]);
        let message = load(shown(&layout.path())).err().unwrap();
        assert!(message.contains("bytes, its descriptor says"), "{message}");
        std::fs::remove_file(layout.path().join(name)).unwrap();
        let message = load(shown(&layout.path())).err().unwrap();
        assert!(message.ends_with("is missing"), "{message}");
        layout.folder.file(name, &whole);
    }
    assert!(load(shown(&layout.path())).is_ok());
}

#[test]
fn a_false_diff_id_is_refused() {
    let mut layout = Layout::new();
    let false_id = Digest::of(b"else").to_string();
    let descriptor = layout.image_with(&[layer()], std::slice::from_ref(&false_id), "amd64", json!({}));
    layout.add(descriptor);
    let message = load(shown(&layout.path())).err().unwrap();
    assert!(
        message.ends_with(&format!("the config's diff_id says {false_id}")),
        "{message}"
    );
}

#[test]
fn manifests_that_make_no_sense_are_refused() {
    let fault = |make: &dyn Fn(&Layout) -> serde_json::Value| {
        let mut layout = Layout::new();
        let descriptor = make(&layout);
        layout.add(descriptor);
        load(shown(&layout.path())).err().unwrap()
    };
    let message = fault(&|layout| layout.json("application/x", &json!({})));
    assert!(
        message.contains("has the media type \"application/x\", which is not supported"),
        "{message}"
    );
    let message = fault(&|layout| layout.json(MANIFEST, &json!({"layers": [], "manifests": []})));
    assert!(
        message.contains("it could mean two different images"),
        "{message}"
    );
    let message = fault(&|layout| layout.blob(MANIFEST, b"{"));
    assert!(message.contains("is malformed: EOF"), "{message}");
    let message = fault(&|layout| {
        let config = layout.blob(CONFIG, b"{}");
        let layer = layout.blob(&format!("{LAYER}+encrypted"), b"");
        layout.json(
            MANIFEST,
            &json!({"schemaVersion": 2, "config": config, "layers": [layer]}),
        )
    });
    assert!(message.contains("is malformed: missing field"), "{message}");
    let message = fault(&|layout| layout.image_with(&[layer()], &[], "amd64", json!({})));
    assert!(
        message.contains("its manifest has 1 layers, its config 0 diff_ids"),
        "{message}"
    );
    let message = fault(&|layout| {
        (0..6).fold(layout.image(&[], json!({})), |inner, _| {
            layout.json(INDEX, &json!({"schemaVersion": 2, "manifests": [inner]}))
        })
    });
    assert!(message.contains("nested more than 4 deep"), "{message}");
    let message = fault(&|layout| {
        let mut descriptor = layout.image(&[], json!({}));
        descriptor["digest"] = json!(format!("sha512:{}", "a".repeat(128)));
        descriptor
    });
    assert!(
        message.contains("digest algorithm \"sha512\" is not supported"),
        "{message}"
    );
    let message = fault(&|layout| layout.blob(MANIFEST, &vec![b' '; 5 << 20]));
    assert!(message.contains("has more than 4194304 bytes"), "{message}");
}

#[test]
fn what_is_no_image_is_refused_in_one_line() {
    let folder = Folder::new();
    let text = folder.file("a.tar", b"this is no tar archive at all");
    let cut = folder.file("b.tar.gz", &oci::gzip(&layer())[..100]);
    let garbled = folder.file("c.tar.zst", b"\x28\xb5\x2f\xfd garbage garbage");
    let socket = folder.path().join("s.tar");
    let _socket = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    std::fs::create_dir(folder.path().join("empty")).unwrap();
    for (source, fault) in [
        (shown(&text).to_owned(), "it is no tar archive"),
        (shown(&cut).to_owned(), "is no image that can be read"),
        (shown(&garbled).to_owned(), "is no image that can be read"),
        (shown(&socket).to_owned(), "neither a regular file nor a folder"),
        (
            "/nowhere/x.tar".to_owned(),
            "/nowhere/x.tar: cannot be opened as an image: No such file",
        ),
        (
            format!("oci:{}", shown(&folder.path().join("empty"))),
            "it has no index.json",
        ),
        (
            format!("docker-archive:{}", shown(&folder.file("r.tar", &layer()))),
            "it has no manifest.json",
        ),
        (
            format!("oci-archive:{}", shown(&folder.file("q.tar", &layer()))),
            "it has no index.json",
        ),
        ("debian:12".to_owned(), "no image \"debian:12\" here"),
    ] {
        let message = load(&source)
            .err()
            .unwrap_or_else(|| panic!("{source} is refused"));
        assert!(message.contains(fault) && !message.contains('\n'), "{message}");
    }
}

#[test]
fn a_bomb_is_stopped_by_its_ratio() {
    let folder = Folder::new();
    let bytes = archive(&[file("zeros", &vec![0; 40 << 20])]);
    let limits = Limits {
        ratio: 50,
        ratio_floor: 1 << 20,
        ..Limits::default()
    };
    let store = Store::with_limits(folder.path().join("store"), limits).unwrap();
    let mut layout = Layout::new();
    let digest = Digest::of(&bytes).to_string();
    let descriptor = layout.image_with(&[oci::gzip(&bytes)], &[digest], "amd64", json!({}));
    layout.add(descriptor);
    let tar = folder.file("bomb.tar.gz", &oci::gzip(&bytes));
    for path in [layout.path(), tar] {
        let message = told(&store.load(&Source::Path(path), &mut Quiet).unwrap_err());
        assert!(message.contains("more than 50 times as many"), "{message}");
    }
    assert!(store.list().unwrap().is_empty());
}
