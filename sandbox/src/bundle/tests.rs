mod specification;

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use super::*;
use crate::settings::Annotation;

/// A bundle's folder, gone with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("koya-bundle-{}-{count}", std::process::id()));
        fs::create_dir_all(path.join("rootfs")).unwrap();
        Self(fs::canonicalize(path).unwrap())
    }

    fn plan(&self, change: impl FnOnce(&mut Value)) -> Result<Plan, BundleError> {
        self.plan_with(&Settings::default(), change)
    }

    fn plan_with(&self, settings: &Settings, change: impl FnOnce(&mut Value)) -> Result<Plan, BundleError> {
        let mut config = good();
        change(&mut config);
        fs::write(self.0.join("config.json"), config.to_string()).unwrap();
        Plan::read(&self.0, "box", &Neighbours::default(), settings)
    }

    fn refusal(&self, change: impl FnOnce(&mut Value)) -> String {
        self.plan(change).unwrap_err().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn good() -> Value {
    json!({
        "ociVersion": "1.0.2-dev",
        "process": {
            "args": ["sh"], "cwd": "/", "user": { "uid": 0, "gid": 0 },
            "apparmorProfile": "host", "selinuxLabel": "a:b:c",
        },
        "root": { "path": "rootfs" },
        "hostname": "box",
        "mounts": [{ "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid"] }],
        "annotations": { "dev.koya.system": "true", "org.other": "x" },
        "hooks": { "prestart": null, "poststop": [{ "path": "/bin/true", "args": ["true"] }] },
        "linux": {
            "cgroupsPath": "/libpod/x",
            "resources": { "cpu": { "cpus": "0-7", "quota": 150_000, "period": 100_000 }, "memory": { "limit": 1 << 30 } },
            "namespaces": [
                { "type": "pid" }, { "type": "mount" }, { "type": "uts" }, { "type": "ipc" },
                { "type": "network", "path": "/run/netns/web" },
            ],
        },
    })
}

#[test]
fn the_guest_gets_what_is_its_own_and_the_host_keeps_the_rest() {
    let folder = Folder::new();
    let plan = folder.plan(|_| ()).unwrap();
    assert_eq!(plan.root, folder.0.join("rootfs"));
    assert_eq!(plan.network, Network::Of("/run/netns/web".into()));
    assert_eq!((plan.size.vcpus, plan.size.memory_mib), (2, 1024 + 96));
    assert_eq!(plan.cgroup.as_deref(), Some("/libpod/x"));
    assert_eq!(plan.hooks.poststop[0].path, Path::new("/bin/true"));
    assert_eq!(plan.annotations["org.other"], "x");
    assert!(!plan.terminal);
    assert_eq!(plan.volumes.len(), 1);
    let config = &plan.config;
    assert_eq!(config["annotations"], json!({ "dev.koya.system": "true" }));
    for gone in [
        "hooks",
        "/linux/cgroupsPath",
        "/process/apparmorProfile",
        "/process/selinuxLabel",
    ] {
        assert_eq!(config.pointer(gone).or_else(|| config.get(gone)), None, "{gone}");
    }
    // The host's processors say nothing about the guest's.
    assert_eq!(config["linux"]["resources"]["cpu"].get("cpus"), None);
    let kinds: Vec<_> = config["linux"]["namespaces"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| (entry["type"].as_str().unwrap(), entry.get("path")))
        .collect();
    for kind in ["pid", "network", "ipc", "uts", "mount", "cgroup"] {
        assert!(kinds.contains(&(kind, None)), "{kind}: {kinds:?}");
    }
}

#[test]
fn annotations_count_as_far_as_the_operator_wants() {
    let folder = Folder::new();
    folder.plan(|_| ()).unwrap();
    let settings = Settings {
        annotations: vec![Annotation::Vcpus],
        ..Settings::default()
    };
    let plan = || Plan::read(&folder.0, "box", &Neighbours::default(), &settings);
    let error = plan().unwrap_err().to_string();
    assert!(
        error.contains("dev.koya.system") && error.contains("/etc/koya/config.toml"),
        "{error}"
    );
    let mut config = good();
    config["annotations"] = json!({ "dev.koya.vcpus": "3", "org.other": "x" });
    fs::write(folder.0.join("config.json"), config.to_string()).unwrap();
    assert_eq!(plan().unwrap().size.vcpus, 3);
}

#[test]
fn paths_of_the_host_become_volumes() {
    let folder = Folder::new();
    fs::create_dir(folder.0.join("data")).unwrap();
    fs::write(folder.0.join("hosts"), "").unwrap();
    let data = folder.0.join("data");
    let plan = folder
        .plan(|config| {
            let mounts = config["mounts"].as_array_mut().unwrap();
            mounts.push(json!({ "destination": "/data", "type": "bind", "source": data, "options": ["rbind", "ro", "rprivate"] }));
            // Relative sources are below the bundle.
            mounts.push(json!({ "destination": "etc/hosts", "type": "none", "source": "hosts", "options": ["bind"] }));
            mounts.push(json!({ "destination": "/dev/shm", "type": "bind", "source": "/dev/shm", "options": ["bind", "nosuid"] }));
            mounts.push(json!({ "destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", "size=1m"] }));
        })
        .unwrap();
    let served: Vec<_> = plan
        .volumes
        .iter()
        .map(|volume| (volume.source.clone(), volume.target.as_str(), volume.read_only))
        .collect();
    let rootfs = folder.0.join("rootfs");
    let wanted = [
        (rootfs, "/", false),
        (folder.0.join("data"), "/data", true),
        (folder.0.join("hosts"), "/etc/hosts", false),
    ];
    assert_eq!(served, wanted);
    let mounts = plan.config["mounts"].as_array().unwrap();
    assert_eq!(mounts[1]["source"], "/run/koya/shares/volumes/1");
    assert_eq!(mounts[2]["source"], "/run/koya/shares/volumes/2");
    assert_eq!(mounts[2]["type"], "bind");
    assert_eq!(
        (&mounts[3]["type"], &mounts[3]["source"]),
        (&json!("shm"), &json!("box"))
    );
    assert_eq!(mounts[4]["options"], json!(["size=1m"]));
}

#[test]
fn what_a_guest_cannot_have_is_refused_with_the_reason() {
    let folder = Folder::new();
    let without = |kind: &'static str| {
        move |config: &mut Value| {
            let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.retain(|entry| entry["type"] != kind);
        }
    };
    assert!(folder.refusal(without("network")).contains("--network host"));
    assert!(folder.refusal(without("pid")).contains("--pid host"));
    let error = folder.refusal(|config| {
        config["annotations"]["io.kubernetes.cri.container-type"] = "sandbox".into();
        without("ipc")(config);
    });
    assert!(error.contains("hostIPC"), "{error}");
    folder.plan(without("ipc")).unwrap();
    let error = folder.refusal(|config| config["linux"]["namespaces"][3]["path"] = "/proc/7/ns/ipc".into());
    assert!(error.contains("ipc namespace \"/proc/7/ns/ipc\""), "{error}");
    let network =
        |path: &str| folder.refusal(|config| config["linux"]["namespaces"][4]["path"] = path.into());
    let error = network("/proc/7/ns/net");
    assert!(
        error.contains("/proc/7/ns/net") && error.contains("no container of Koya's"),
        "{error}"
    );
    let error = network("/proc/self/ns/net");
    assert!(error.contains("it is the host's"), "{error}");
    let socket = folder.0.join("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    let bind = |source: &Path| json!([{ "destination": "/x", "type": "bind", "source": source, "options": ["rbind"] }]);
    for (source, wanted) in [
        (socket.as_path(), "only files and folders"),
        (Path::new("/dev/null"), "only files and folders"),
        (Path::new("/no/such/path"), "/no/such/path"),
    ] {
        let error = folder.refusal(|config| config["mounts"] = bind(source));
        assert!(error.contains("\"/x\"") && error.contains(wanted), "{error}");
    }
    let error = folder.refusal(|config| {
        config["mounts"] = json!([{ "destination": "/x", "type": "nfs", "source": "host:/x" }]);
    });
    assert!(error.contains("\"nfs\""), "{error}");
    let error = folder.refusal(|config| {
        config["linux"]["resources"]["blockIO"] =
            json!({ "throttleReadBpsDevice": [{ "major": 8, "minor": 0, "rate": 1 }] });
    });
    assert!(error.contains("throttleReadBpsDevice"), "{error}");
    let error = folder.refusal(|config| {
        config["hooks"] = json!({ "startContainer": [{ "path": "/bin/x" }] });
    });
    assert!(error.contains("startContainer"), "{error}");
}

#[test]
fn devices_are_the_guests_and_never_the_hosts() {
    let folder = Folder::new();
    let disk = json!({ "path": "/dev/sda", "type": "b", "major": 8, "minor": 0 });
    let fuse = json!({ "path": "/dev/fuse", "type": "c", "major": 10, "minor": 229 });
    let serial = json!({ "path": "/dev/ttyS7", "type": "c", "major": 4, "minor": 71 });
    let error = folder.refusal(|config| config["linux"]["devices"] = json!([serial]));
    assert!(error.contains("\"/dev/ttyS7\""), "{error}");
    // Rules that refuse everything leave what every container has.
    let plan = folder.plan(|config| {
        config["linux"]["resources"]["devices"] = json!([{ "allow": false, "access": "rwm" }]);
    });
    let rules = &plan.unwrap().config["linux"]["resources"]["devices"];
    let null = json!({ "allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm" });
    let rules = rules.as_array().unwrap();
    assert_eq!(rules[0], json!({ "allow": false, "access": "rwm" }));
    assert!(rules.contains(&null), "{rules:?}");
    // What --privileged makes of a host.
    let plan = folder.plan(|config| {
        config["linux"]["devices"] = json!([disk, fuse]);
        config["linux"]["resources"]["devices"] = json!([{ "allow": true, "access": "rwm" }]);
    });
    assert_eq!(plan.unwrap().config["linux"]["devices"], json!([fuse]));
}

#[test]
fn malformed_configurations_are_told_by_their_fields() {
    let folder = Folder::new();
    for (pointer, value, wanted) in [
        ("/ociVersion", json!("2.0.0"), "\"2.0.0\""),
        ("/ociVersion", json!(1), "ociVersion is a number"),
        ("/process", Value::Null, "process is null"),
        ("/process/args", json!([]), "process.args"),
        ("/process/cwd", json!("tmp"), "process.cwd"),
        ("/root", json!({}), "root.path is missing"),
        ("/root/path", json!("nowhere"), "nowhere"),
        ("/mounts", json!({}), "mounts is an object"),
        ("/mounts", json!([1]), "mounts is a number"),
        ("/linux", json!([]), "linux is a list"),
        ("/linux/namespaces", json!([{ "type": "moon" }]), "pid, network"),
        ("/annotations", json!({ "a": 1 }), "annotations is a number"),
        (
            "/hooks",
            json!({ "prestart": [{ "path": "relative" }] }),
            "absolute path",
        ),
    ] {
        let error = folder.refusal(|config| *config.pointer_mut(pointer).unwrap() = value.clone());
        assert!(error.contains(wanted), "{pointer} {value}: {error}");
    }
    fs::write(folder.0.join("config.json"), "{").unwrap();
    assert!(matches!(
        Plan::read(&folder.0, "box", &Neighbours::default(), &Settings::default()),
        Err(BundleError::Json { .. })
    ));
    fs::remove_file(folder.0.join("config.json")).unwrap();
    assert!(matches!(
        Plan::read(&folder.0, "box", &Neighbours::default(), &Settings::default()),
        Err(BundleError::Read { .. })
    ));
}

#[test]
fn annotations_size_a_microvm_within_reason() {
    let folder = Folder::new();
    let sized = |name: &str, value: &str| folder.plan(|config| config["annotations"][name] = value.into());
    assert_eq!(sized("dev.koya.vcpus", "4").unwrap().size.vcpus, 4);
    assert_eq!(sized("dev.koya.memory-mib", "256").unwrap().size.memory_mib, 256);
    for (name, value) in [
        ("dev.koya.vcpus", "0"),
        ("dev.koya.vcpus", "33"),
        ("dev.koya.memory-mib", "1"),
        ("dev.koya.memory-mib", "lots"),
    ] {
        let error = sized(name, value).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
    // A limit that no host could give, as engines write for none.
    let plan = folder.plan(|config| config["linux"]["resources"]["memory"]["limit"] = i64::MAX.into());
    assert_eq!(plan.unwrap().size.memory_mib, 512);
}

#[test]
fn a_network_may_come_later_where_a_user_namespace_owns_it() {
    let folder = Folder::new();
    let plan = |namespaces: Value| {
        folder
            .plan(|config| config["linux"]["namespaces"] = namespaces)
            .unwrap()
    };
    let (pid, user) = (json!({ "type": "pid" }), json!({ "type": "user" }));
    let none = json!({ "type": "network" });
    let made = json!({ "type": "network", "path": "/run/netns/no-such-koya" });
    assert!(plan(json!([pid, none, user])).late);
    assert!(!plan(json!([pid, none])).late);
    assert!(!plan(json!([pid, made, user])).late);
    // The guest makes it, with the map as it is.
    let kinds = plan(json!([pid, none, user])).config["linux"]["namespaces"].clone();
    assert!(kinds.as_array().unwrap().contains(&user), "{kinds}");
}

#[test]
fn engines_write_more_kinds_of_propagation_than_the_specification_has() {
    let folder = Folder::new();
    for (written, wanted) in [("rslave", "slave"), ("rshared", "shared"), ("private", "private")] {
        let plan = folder.plan(|config| config["linux"]["rootfsPropagation"] = written.into());
        assert_eq!(plan.unwrap().config["linux"]["rootfsPropagation"], wanted);
    }
}

#[test]
fn an_update_leaves_alone_what_docker_gives_as_zero() {
    let mut resources = json!({
        "cpu": { "quota": 0, "period": 0, "shares": 0, "cpus": "", "idle": 0, "burst": 0 },
        "memory": { "limit": 134_217_728, "reservation": 0, "swap": -1 },
        "blockIO": { "weight": 0 },
        "pids": { "limit": 0 },
    });
    for_update(&mut resources).unwrap();
    // Others mean what they say.
    let wanted = json!({
        "cpu": { "idle": 0, "burst": 0 },
        "memory": { "limit": 134_217_728, "swap": -1 },
        "blockIO": {},
        "pids": {},
    });
    assert_eq!(resources, wanted);
}

/// A container that lives in a microVM, and one beside it; a third one has a microVM of its own. All are played by this
/// process and its parent, so that the first two have a network namespace that there is.
fn neighbours() -> Neighbours {
    let own = std::process::id();
    let parent = rustix::process::getppid()
        .unwrap()
        .as_raw_nonzero()
        .get()
        .cast_unsigned();
    let all = [
        ("first", "first", own),
        ("second", "first", parent),
        ("third", "third", u32::MAX),
    ];
    let all = all.map(|(id, house, pid)| Neighbour {
        id: id.to_owned(),
        house: house.to_owned(),
        memory: format!("memory of {id}"),
        pid,
    });
    all.into_iter().collect()
}

#[test]
fn who_names_the_namespaces_of_a_neighbour_moves_in() {
    let folder = Folder::new();
    let own = std::process::id();
    let parent = rustix::process::getppid().unwrap().as_raw_nonzero().get();
    let mut config = good();
    // The network under whatever name; the others as processes name them, and as engines keep them.
    let namespaces = json!([
        { "type": "pid", "path": format!("/proc/{parent}/ns/pid") }, { "type": "uts", "path": "/run/utsns/pod" },
        { "type": "ipc", "path": format!("/proc/{own}/ns/ipc") }, { "type": "network", "path": "/proc/thread-self/ns/net" },
    ]);
    config["linux"]["namespaces"] = namespaces;
    config["mounts"] = json!([
        { "destination": "/data", "type": "bind", "source": folder.0.join("rootfs"), "options": ["rbind"] },
        { "destination": "/dev/shm", "type": "bind", "source": "/dev/shm", "options": ["bind"] },
    ]);
    fs::write(folder.0.join("config.json"), config.to_string()).unwrap();
    let plan = Plan::read(&folder.0, "box", &neighbours(), &Settings::default()).unwrap();
    assert_eq!(plan.house.as_deref(), Some("first"));
    let namespaces = &plan.config["linux"]["namespaces"];
    let path = |kind: &str| {
        let mut all = namespaces.as_array().unwrap().iter();
        all.find(|entry| entry["type"] == kind).unwrap()["path"].clone()
    };
    assert_eq!(path("network"), "container:first");
    assert_eq!(path("ipc"), "container:first");
    assert_eq!(path("uts"), "container:first");
    assert_eq!(path("pid"), "container:second");
    assert_eq!(path("mount"), Value::Null);
    let served = format!("/run/koya/shares/volumes/{}", plan.served_as.clone().unwrap());
    assert!(served.contains("of-box-"), "{served}");
    assert_eq!(plan.served_at(0), format!("{served}/0"));
    let mounts = plan.config["mounts"].as_array().unwrap();
    assert_eq!(mounts[0]["source"], format!("{served}/1"));
    assert_eq!(mounts[1]["source"], "memory of first");

    // Who shares the network alone has memory of his own.
    let mut alone = config.clone();
    alone["linux"]["namespaces"] =
        json!([{ "type": "pid" }, { "type": "ipc" }, { "type": "network", "path": "/proc/self/ns/net" }]);
    fs::write(folder.0.join("config.json"), alone.to_string()).unwrap();
    let plan = Plan::read(&folder.0, "box", &neighbours(), &Settings::default()).unwrap();
    assert_eq!(
        (plan.house.as_deref(), plan.memory.as_str()),
        (Some("first"), "box")
    );
    assert_eq!(plan.config["mounts"][1]["source"], "box");

    let refusal = |kind: &str, path: &str, network: &str| {
        let mut config = config.clone();
        config["linux"]["namespaces"] = json!([
            { "type": "pid" }, { "type": kind, "path": path }, { "type": "network", "path": network },
        ]);
        fs::write(folder.0.join("config.json"), config.to_string()).unwrap();
        Plan::read(&folder.0, "box", &neighbours(), &Settings::default())
            .unwrap_err()
            .to_string()
    };
    let (shared, third) = ("/proc/self/ns/net", format!("/proc/{}/ns/ipc", u32::MAX));
    for (kind, path, network, wanted) in [
        ("ipc", third.as_str(), shared, "in another microVM"),
        ("ipc", "/proc/2/ns/ipc", shared, "not Koya's"),
        ("user", "/proc/2/ns/user", shared, "of this kind"),
        (
            "ipc",
            third.as_str(),
            "/run/netns/own",
            "share the other container's network",
        ),
        ("ipc", "/run/ipcns/x", "/run/netns/own", "not Koya's"),
        ("network", "/run/netns/own", shared, "two of the type"),
    ] {
        let error = refusal(kind, path, network);
        assert!(error.contains(wanted), "{kind} {path}: {error}");
    }
}

#[test]
fn what_is_not_there_is_of_another_kind_than_what_makes_no_sense() {
    let folder = Folder::new();
    let refusal = |change: &dyn Fn(&mut Value)| folder.plan(change).unwrap_err();
    let missing = refusal(&|config| config["root"]["path"] = "/no/such/root".into());
    assert_eq!(missing.kind(), Kind::NotFound, "{missing}");
    for (change, wanted) in [
        (
            &(|config: &mut Value| config["ociVersion"] = "2.0.0".into()) as &dyn Fn(&mut Value),
            "\"2.0.0\"",
        ),
        (
            &|config| config["linux"]["namespaces"] = json!([{ "type": "pid" }, { "type": "nonsense" }]),
            "linux.namespaces[].type is \"nonsense\"",
        ),
        (
            &|config| config["linux"]["devices"] = json!([{ "path": "/dev/x", "type": "q" }]),
            "\"/dev/x\" is of the type \"q\"",
        ),
        (
            &|config| config["linux"]["devices"] = json!([{ "path": "/dev/x" }]),
            "\"/dev/x\" is of the type null",
        ),
    ] {
        let error = refusal(change);
        assert!(error.to_string().contains(wanted), "{error}");
        assert_eq!(error.kind(), Kind::Invalid, "{error}");
    }
    fs::remove_file(folder.0.join("config.json")).unwrap();
    let gone = Plan::read(&folder.0, "web", &Neighbours::default(), &Settings::default()).unwrap_err();
    assert_eq!(gone.kind(), Kind::NotFound, "{gone}");
}
