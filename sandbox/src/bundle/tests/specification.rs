//! What the OCI runtime specification wants of who reads a bundle.

use super::*;

#[test]
fn versions_are_those_of_semantic_versioning() {
    let folder = Folder::new();
    for good in ["1.0.0", "1.0.2-dev", "1.1.0+build.7", "1.2.99"] {
        let plan = folder.plan(|config| config["ociVersion"] = good.into()).unwrap();
        assert_eq!(plan.version, good);
    }
    for bad in ["", "1", "1.0", "1.2.x", "1.3.0", "0.9.0", "2.0.0", "1.2.0.1"] {
        let error = folder.refusal(|config| config["ociVersion"] = bad.into());
        assert!(error.contains(&format!("{bad:?}")), "{bad}: {error}");
    }
}

#[test]
fn what_is_unknown_is_passed_over() {
    let folder = Folder::new();
    let plan = folder.plan(|config| {
        config["mounts"][0]["type"] = "proc".into();
        for pointer in [
            "",
            "/process",
            "/root",
            "/linux",
            "/linux/resources",
            "/mounts/0",
            "/hooks",
            "/hooks/poststop/0",
        ] {
            config.pointer_mut(pointer).unwrap()["org.example.later"] = json!([{ "deep": 1 }]);
        }
        config["annotations"]["org.example.unknown"] = "".into();
    });
    let plan = plan.unwrap();
    assert_eq!(plan.hooks.poststop.len(), 1);
    assert_eq!(plan.annotations["org.example.unknown"], "");
}

#[test]
fn a_capability_that_no_kernel_has_is_left_out_and_told() {
    let folder = Folder::new();
    let sets = ["effective", "bounding", "inheritable", "permitted", "ambient"];
    let plan = folder.plan(|config| {
        let both = json!(["CAP_CHOWN", "CAP_FLY"]);
        config["process"]["capabilities"] =
            sets.iter().map(|set| ((*set).to_owned(), both.clone())).collect();
    });
    let plan = plan.unwrap();
    for set in sets {
        assert_eq!(
            plan.config["process"]["capabilities"][set],
            json!(["CAP_CHOWN"]),
            "{set}"
        );
        let told = format!("\"CAP_FLY\" of process.capabilities.{set}");
        assert!(plan.left_out.contains(&told), "{:?}", plan.left_out);
    }
}

#[test]
fn what_contradicts_itself_or_says_nothing_is_refused() {
    let folder = Folder::new();
    let limit = |kind: &str| json!({ "type": kind, "soft": 1, "hard": 2 });
    let twice = json!([
        limit("RLIMIT_NOFILE"),
        limit("RLIMIT_CORE"),
        limit("RLIMIT_NOFILE")
    ]);
    let hook = |timeout: Value| json!({ "poststart": [{ "path": "/bin/true", "timeout": timeout }] });
    for (pointer, value, wanted) in [
        ("/process/rlimits", twice, "\"RLIMIT_NOFILE\" twice"),
        ("/hooks", hook(json!(0)), "the timeout of the hook \"/bin/true\""),
        ("/hooks", hook(json!(-1)), "hooks"),
        ("/annotations", json!({ "": "x" }), "annotations"),
        ("/linux/intelRdt", json!({ "closID": "x" }), "linux.intelRdt"),
        (
            "/linux/namespaces",
            json!([{ "type": "pid" }, { "type": "network", "path": "netns/web" }]),
            "an absolute path",
        ),
        (
            "/linux/namespaces",
            json!([{ "type": "pid" }, { "type": "network" }, { "type": "pid" }]),
            "two of the type",
        ),
        (
            "/process/consoleSize",
            json!({ "height": 1 }),
            "process.consoleSize",
        ),
        (
            "/mounts",
            json!([{ "destination": "/x", "type": "overlay", "options": ["ro"] }]),
            "no layers",
        ),
        (
            "/mounts",
            json!([{ "destination": "/x", "type": "bind", "source": "rootfs", "options": ["bind", "idmap"] }]),
            "idmapped",
        ),
        (
            "/mounts",
            json!([{ "destination": "/x", "type": "bind", "source": "rootfs", "options": ["bind"], "uidMappings": [] }]),
            "idmapped",
        ),
    ] {
        let error = folder.refusal(|config| {
            config["process"]["terminal"] = true.into();
            let (above, name) = pointer.rsplit_once('/').unwrap();
            config.pointer_mut(above).unwrap()[name] = value.clone();
        });
        assert!(error.contains(wanted), "{pointer} {value}: {error}");
    }
}

#[test]
fn a_size_is_a_terminals() {
    let folder = Folder::new();
    let size = |terminal: bool, size: Value| {
        let plan = folder.plan(|config| {
            config["process"]["terminal"] = terminal.into();
            config["process"]["consoleSize"] = size;
        });
        plan.unwrap().terminal_size
    };
    let wanted = json!({ "height": 25, "width": 80 });
    assert_eq!(size(true, wanted.clone()), Some((25, 80)));
    assert_eq!(size(false, wanted), None);
    assert_eq!(size(false, json!("nonsense")), None);
}

#[test]
fn what_a_host_mounts_later_is_seen_where_that_is_wanted_and_cannot_be_written() {
    let folder = Folder::new();
    let following = Settings {
        follow_host_mounts: true,
        ..Settings::default()
    };
    let follows = |options: Value| {
        let plan = folder.plan_with(&following, |config| {
            config["mounts"] =
                json!([{ "destination": "/x", "type": "bind", "source": "rootfs", "options": options }]);
        });
        let plan = plan.unwrap();
        // The guest's own mount propagates as it is told to.
        let kept = plan.config["mounts"][0]["options"].as_array().unwrap();
        assert!(
            options
                .as_array()
                .unwrap()
                .iter()
                .all(|option| option == "bind" || kept.contains(option))
        );
        let told = plan.left_out.into_iter().filter(|told| told.contains("mount at"));
        (plan.volumes[1].follows, told.collect::<Vec<_>>())
    };
    assert_eq!(follows(json!(["bind"])), (false, vec![]));
    assert_eq!(follows(json!(["rbind", "rprivate"])), (false, vec![]));
    assert_eq!(follows(json!(["rbind", "rslave"])), (true, vec![]));
    assert_eq!(follows(json!(["rbind", "ro", "rslave"])), (false, vec![]));
    let (both, told) = follows(json!(["rbind", "rshared"]));
    assert!(
        both && told[0].contains("rshared of the mount at \"/x\""),
        "{told:?}"
    );
    // Unless the operator wants it, it is not done, and that is told.
    let plan = folder.plan(|config| {
        config["mounts"] =
            json!([{ "destination": "/x", "type": "bind", "source": "rootfs", "options": ["rslave"] }]);
    });
    let plan = plan.unwrap();
    assert!(
        !plan.volumes[1].follows
            && plan
                .left_out
                .iter()
                .any(|told| told.contains("follow_host_mounts")),
        "{plan:?}"
    );
}

#[test]
fn what_is_mounted_below_a_folder_comes_with_it_if_that_is_said() {
    let folder = Folder::new();
    let top_only = |options: Value| {
        let plan = folder.plan(|config| {
            config["mounts"] =
                json!([{ "destination": "/x", "type": "bind", "source": "rootfs", "options": options }]);
        });
        plan.unwrap().volumes[1].top_only
    };
    assert!(top_only(json!(["bind", "ro"])));
    assert!(!top_only(json!(["rbind"])) && !top_only(json!(["bind", "rbind"])));
    // Not said either way, all of it.
    assert!(!top_only(json!(["ro"])));
}

#[test]
fn a_remount_is_of_what_the_guest_has() {
    let folder = Folder::new();
    let plan = folder.plan(|config| {
        config["mounts"] = json!([
            { "destination": "/x", "type": "bind", "source": "rootfs", "options": ["bind"] },
            { "destination": "x", "type": "bind", "source": "/no/such", "options": ["remount", "bind", "ro"] },
        ]);
    });
    let plan = plan.unwrap();
    assert_eq!(plan.volumes.len(), 2);
    let wanted = json!({ "destination": "/x", "type": "none", "options": ["remount", "bind", "ro"] });
    assert_eq!(plan.config["mounts"][1], wanted);
}

#[test]
fn layers_of_the_host_become_a_folder_of_it() {
    let folder = Folder::new();
    let mut plan = folder
        .plan(|config| {
            config["mounts"] = json!([
                { "destination": "/o", "type": "overlay", "source": "x",
                  "options": ["lowerdir=/a", "upperdir=/b", "workdir=/c", "private", "userxattr"] },
                { "destination": "/i", "type": "overlay", "source": "x", "options": ["lowerdir=/a:/b", "nosuid"] },
            ]);
        })
        .unwrap();
    plan.place_overlays(&folder.0).unwrap();
    let sources: Vec<_> = plan.volumes[1..]
        .iter()
        .map(|volume| (volume.source.clone(), volume.read_only))
        .collect();
    assert_eq!(
        sources,
        [
            (folder.0.join("overlay1"), false),
            (folder.0.join("overlay2"), true)
        ]
    );
    assert!(sources.iter().all(|(source, _)| source.is_dir()));
    let wanted = |number: usize, at: &str, options: Value| {
        json!({
            "destination": at, "type": "bind", "source": format!("/run/koya/shares/volumes/{number}"), "options": options,
        })
    };
    let mounts = [
        wanted(1, "/o", json!(["private", "rbind"])),
        wanted(2, "/i", json!(["nosuid", "rbind"])),
    ];
    assert_eq!(plan.config["mounts"], json!(mounts));
    // Whose place is taken is told where.
    let error = plan.place_overlays(&folder.0).unwrap_err().to_string();
    assert!(error.contains("\"/o\""), "{error}");
}
