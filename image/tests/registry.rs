//! Pulling from Debian's docker-registry, with images made by umoci and pushed by skopeo.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing
)]
#![allow(clippy::panic, clippy::unwrap_used)]

mod support;

use std::path::Path;
use std::process::Command;

use koya_image::{
    Credentials, Digest, Event, Image, ImageError, PullOptions, Quiet, Reference, Source, Store,
};
use serde_json::json;
use support::erofs::Disk;
use support::folder::Folder;
use support::oci::{INDEX, Layout};
use support::registry::Registry;
use support::tar::{archive, directory, file};
use support::told;

fn name(registry: &Registry, rest: &str) -> Reference {
    format!("{}/{rest}", registry.address).parse().unwrap()
}

fn pull(store: &Store, name: &Reference) -> Result<Image, ImageError> {
    store.pull(name, &anonymous(), &mut Quiet)
}

fn anonymous() -> PullOptions {
    PullOptions {
        credentials: Credentials::Anonymous,
        ..PullOptions::default()
    }
}

fn layers() -> [Vec<u8>; 3] {
    [
        archive(&[directory("bin"), file("bin/sh", b"#!")]),
        archive(&[file("big", &noise(3 << 20)), file("bin/.wh.sh", b"")]),
        archive(&[file("etc", b"3")]),
    ]
}

/// Bytes that do not become smaller.
fn noise(count: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..count).map(step).collect()
}

fn paths(store: &Store, image: &Image) -> Vec<String> {
    Disk::open(&store.disk(image).unwrap())
        .tree()
        .into_keys()
        .collect()
}

fn run(program: &str, arguments: &[&str]) {
    let done = Command::new(program).args(arguments).output();
    let done =
        done.unwrap_or_else(|error| panic!("{program}, which resources/install-packages installs: {error}"));
    assert!(
        done.status.success(),
        "{program}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
}

#[test]
fn an_image_is_pulled_and_found_under_its_name() {
    let (registry, folder) = (Registry::start().ready(), Folder::new());
    let layout = Layout::of(&layers());
    registry.push(&layout.path(), "team/app:1", &[]);
    let store = Store::open(folder.path()).unwrap();
    let name = name(&registry, "team/app:1");
    let (mut total, mut done) = (0, Vec::new());
    let mut watch = |event: Event<'_>| match event {
        Event::Downloading { total: bytes, layers } => {
            assert_eq!(layers, 3);
            total = bytes;
        }
        Event::Downloaded { done: bytes } => done.push(bytes),
        _ => {}
    };
    let image = store.pull(&name, &anonymous(), &mut watch).unwrap();
    assert!(
        done.is_sorted() && *done.last().unwrap() == total && total > 3 << 20,
        "{done:?} of {total}"
    );
    assert_eq!(paths(&store, &image), ["/", "/big", "/bin", "/etc"]);
    assert_eq!(image.names(), std::slice::from_ref(&name));
    assert_eq!(store.find(&name.to_string()).unwrap().id(), image.id());
    let local = Store::open(folder.path().join("other")).unwrap();
    let same = local.load(&Source::Path(layout.path()), &mut Quiet).unwrap();
    assert_eq!(same.id(), image.id(), "it has the same id wherever it comes from");
    let mut events = Vec::new();
    store
        .pull(&name, &anonymous(), &mut |event: Event<'_>| {
            events.push(format!("{event:?}"))
        })
        .unwrap();
    assert_eq!(events, ["Present"], "a second time, no layer is read");
}

#[test]
fn images_of_umoci_and_skopeo_in_every_form_are_pulled() {
    let (registry, folder) = (Registry::start().ready(), Folder::new());
    let layout = folder.path().join("layout");
    let shown = layout.to_str().unwrap().to_owned();
    let root = Folder::new();
    root.file("etc/motd", b"welcome");
    run("umoci", &["init", "--layout", &shown]);
    run("umoci", &["new", "--image", &format!("{shown}:made")]);
    let image = format!("{shown}:made");
    run(
        "umoci",
        &[
            "insert",
            "--image",
            &image,
            root.path().join("etc").to_str().unwrap(),
            "/etc",
        ],
    );
    run(
        "umoci",
        &[
            "config",
            "--image",
            &image,
            "--config.cmd",
            "/bin/motd",
            "--architecture",
            "amd64",
        ],
    );
    let source = |tag: &str| Path::new(&format!("{}:{tag}", layout.display())).to_owned();
    let forms: [(&str, &[&str]); 4] = [
        ("oci", &["--format", "oci"]),
        ("docker", &["--format", "v2s2"]),
        (
            "zstd",
            &[
                "--format",
                "oci",
                "--dest-compress-format",
                "zstd",
                "--dest-compress",
            ],
        ),
        ("plain", &["--format", "oci", "--dest-decompress"]),
    ];
    let store = Store::open(folder.path().join("store")).unwrap();
    for (form, arguments) in forms {
        registry.push(&source("made"), &format!("made:{form}"), arguments);
        let image = pull(&store, &name(&registry, &format!("made:{form}")));
        let image = image.unwrap_or_else(|error| panic!("{form}: {}", told(&error)));
        assert_eq!(image.config().command(), ["/bin/motd"], "{form}");
        assert!(paths(&store, &image).contains(&"/etc/motd".to_owned()), "{form}");
    }
}

#[test]
fn an_index_gives_what_this_machine_runs_and_a_digest_pins_it() {
    let (registry, folder) = (Registry::start().ready(), Folder::new());
    let mut layout = Layout::new();
    let layer = archive(&[file("x", b"amd64")]);
    let other = archive(&[file("x", b"arm64")]);
    let ids = |layer: &[u8]| vec![Digest::of(layer).to_string()];
    let mut arm = layout.image_with(std::slice::from_ref(&other), &ids(&other), "arm64", json!({}));
    let mut amd = layout.image(std::slice::from_ref(&layer), json!({}));
    arm["platform"] = json!({"os": "linux", "architecture": "arm64"});
    amd["platform"] = json!({"os": "linux", "architecture": "amd64"});
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [arm, amd]});
    let descriptor = layout.json(INDEX, &index);
    layout.add(descriptor.clone());
    registry.push(&layout.path(), "multi:1", &["--all", "--preserve-digests"]);
    let store = Store::open(folder.path()).unwrap();
    let image = pull(&store, &name(&registry, "multi:1")).unwrap();
    let disk = Disk::open(&store.disk(&image).unwrap()).tree();
    assert_eq!(disk["/x"].data, b"amd64");
    let index = descriptor["digest"].as_str().unwrap();
    assert!(image.digests().iter().any(|digest| digest.to_string() == index));
    let pinned = name(&registry, &format!("multi@{index}"));
    assert_eq!(pull(&store, &pinned).unwrap().id(), image.id());
    assert_eq!(store.find(&pinned.to_string()).unwrap().id(), image.id());
    let wrong = name(&registry, &format!("multi@{}", Digest::of(b"x")));
    let fault = told(&pull(&store, &wrong).unwrap_err());
    assert!(fault.contains("has multi, but not sha256:"), "{fault}");

    let mut layout = Layout::new();
    let arm = layout.image_with(std::slice::from_ref(&other), &ids(&other), "arm64", json!({}));
    layout.add(arm);
    registry.push(&layout.path(), "arm:1", &[]);
    let fault = told(&pull(&store, &name(&registry, "arm:1")).unwrap_err());
    assert!(
        fault.contains("it has nothing for linux/amd64, only for linux/arm64"),
        "{fault}"
    );
}

#[test]
fn missing_images_tags_and_registries_are_told_apart() {
    let (registry, folder) = (Registry::start().ready(), Folder::new());
    registry.push(&Layout::of(&[layers()[0].clone()]).path(), "app:1", &[]);
    let store = Store::open(folder.path()).unwrap();
    let fault = |name: &Reference| told(&pull(&store, name).unwrap_err());
    let address = &registry.address;
    assert_eq!(
        fault(&name(&registry, "nothing:1")),
        format!(
            "{address}/nothing:1: cannot be pulled: {address} has no image nothing; check its name, or push it first"
        )
    );
    assert_eq!(
        fault(&name(&registry, "app:2")),
        format!("{address}/app:2: cannot be pulled: {address} has app, but not 2; it has 1")
    );
    let down = fault(&"localhost:1/app:1".parse().unwrap());
    assert!(
        down.contains("localhost:1 cannot be reached (http://localhost:1/v2/app/manifests/1)"),
        "{down}"
    );
    assert!(down.ends_with("Connection refused (os error 111)"), "{down}");
    let unknown = fault(&"registry.invalid/app:1".parse().unwrap());
    assert!(
        unknown.contains("registry.invalid cannot be reached (https://registry.invalid/"),
        "{unknown}"
    );
    assert!(store.list().unwrap().is_empty());
}

#[test]
fn a_password_opens_a_registry_and_a_wrong_one_does_not() {
    let auth = "auth:\n  htpasswd:\n    realm: here\n    path: FOLDER/htpasswd\n";
    let registry = Registry::with("", auth);
    // ada:sesam by bcrypt.
    let hash = "ada:$2b$05$7q.24Ok2V2Wj4.r1VENLvegsZiPU.dUm/EOCZzNa0p9vH35ATNfce\n";
    registry.folder.file("htpasswd", hash.as_bytes());
    let registry = registry.ready();
    registry.push(
        &Layout::of(&[layers()[0].clone()]).path(),
        "app:1",
        &["--dest-creds", "ada:sesam"],
    );
    let (folder, docker) = (Folder::new(), Folder::new());
    let store = Store::open(folder.path()).unwrap();
    let name = name(&registry, "app:1");
    let fault = told(&pull(&store, &name).unwrap_err());
    assert!(
        fault.contains("refuses app to anybody who does not log in"),
        "{fault}"
    );
    let with = |credentials| PullOptions {
        credentials,
        ..PullOptions::default()
    };
    let wrong = Credentials::Password {
        user: "ada".into(),
        password: "wrong".into(),
    };
    let fault = told(&store.pull(&name, &with(wrong), &mut Quiet).unwrap_err());
    assert!(fault.contains("refuses app to user \"ada\""), "{fault}");
    let config = json!({"auths": {&registry.address: {"auth": "YWRhOnNlc2Ft"}}});
    docker.file("config.json", config.to_string().as_bytes());
    let found = Credentials::DockerFolder(docker.path().to_owned());
    store.pull(&name, &with(found), &mut Quiet).unwrap();
}

#[test]
fn certificates_are_checked() {
    let http = "  tls:\n    certificate: FOLDER/cert.pem\n    key: FOLDER/key.pem\n";
    let keys = Folder::new();
    let (key, cert) = (keys.path().join("key.pem"), keys.path().join("cert.pem"));
    let subject = [
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=DNS:localhost,IP:127.0.0.1",
        "-addext",
        "basicConstraints=critical,CA:FALSE",
    ];
    let mut arguments = vec![
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ];
    arguments.extend([
        "-days",
        "2",
        "-keyout",
        key.to_str().unwrap(),
        "-out",
        cert.to_str().unwrap(),
    ]);
    arguments.extend(subject);
    run("openssl", &arguments);
    let http = http.replace("FOLDER", keys.path().to_str().unwrap());
    let (registry, folder) = (Registry::with(&http, "").ready(), Folder::new());
    registry.push(&Layout::of(&[layers()[0].clone()]).path(), "app:1", &[]);
    let store = Store::open(folder.path()).unwrap();
    let name = name(&registry, "app:1");
    let with = |authorities| PullOptions {
        plain_http: Some(false),
        authorities,
        retries: 0,
        ..anonymous()
    };
    store.pull(&name, &with(Some(cert)), &mut Quiet).unwrap();
    let fault = told(&store.pull(&name, &with(None), &mut Quiet).unwrap_err());
    assert!(
        fault.contains("cannot be reached (https://127.0.0.1:") && fault.contains("certificate"),
        "{fault}"
    );
    let empty = keys.file("empty.pem", b"");
    let fault = told(&store.pull(&name, &with(Some(empty)), &mut Quiet).unwrap_err());
    assert!(
        fault.contains("no certificate authorities can be read from it"),
        "{fault}"
    );
}

#[test]
fn pulls_at_the_same_time_do_the_work_once_and_layers_are_shared() {
    let (registry, folder) = (Registry::start().ready(), Folder::new());
    registry.push(&Layout::of(&layers()).path(), "app:1", &[]);
    let mut more = layers().to_vec();
    more.push(archive(&[file("fourth", b"4")]));
    registry.push(&Layout::of(&more).path(), "app:2", &[]);
    let store = Store::open(folder.path()).unwrap();
    let started = std::sync::atomic::AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut watch = |event: Event<'_>| {
                    if matches!(event, Event::Downloading { .. }) {
                        started.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    }
                };
                let image = store
                    .pull(&name(&registry, "app:1"), &anonymous(), &mut watch)
                    .unwrap();
                Disk::open(&store.disk(&image).unwrap()).tree();
            });
        }
    });
    assert_eq!(started.into_inner(), 1);
    // The registry has only the last layer left to give.
    let cached = std::fs::read_dir(folder.path().join("cache/blobs/sha256"))
        .unwrap()
        .count();
    assert_eq!(cached, 3, "layers stay, documents do not");
    for entry in std::fs::read_dir(folder.path().join("cache/blobs/sha256")).unwrap() {
        let hex = entry.unwrap().file_name().into_string().unwrap();
        let blob = registry
            .folder
            .path()
            .join("data/docker/registry/v2/blobs/sha256");
        std::fs::remove_file(blob.join(&hex[..2]).join(&hex).join("data")).unwrap();
    }
    let image = pull(&store, &name(&registry, "app:2")).unwrap();
    assert!(paths(&store, &image).contains(&"/fourth".to_owned()));
    let fault = told(
        &pull(
            &Store::open(folder.path().join("new")).unwrap(),
            &name(&registry, "app:2"),
        )
        .unwrap_err(),
    );
    assert!(fault.contains("has lost a part of app"), "{fault}");
}

#[test]
fn the_cache_keeps_to_its_cap_and_goes_with_its_images() {
    let (registry, folder) = (Registry::start().ready(), Folder::new());
    registry.push(&Layout::of(&layers()).path(), "app:1", &[]);
    let cached = || {
        std::fs::read_dir(folder.path().join("cache/blobs/sha256"))
            .unwrap()
            .count()
    };
    let store = Store::open(folder.path()).unwrap();
    let name = name(&registry, "app:1");
    pull(&store, &name).unwrap();
    assert_eq!(cached(), 3);
    store.remove(&name.to_string()).unwrap();
    assert_eq!(cached(), 0);
    let limits = koya_image::Limits {
        cache_bytes: 1 << 20,
        ..koya_image::Limits::default()
    };
    let store = Store::with_limits(folder.path(), limits).unwrap();
    let image = pull(&store, &name).unwrap();
    assert!(cached() < 3, "the large layer is given up");
    assert_eq!(
        paths(&store, &image).len(),
        4,
        "the image needs no layers any more"
    );
}
