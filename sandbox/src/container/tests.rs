//! Whole configurations.

use super::*;

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn spec(env: &[&str], privileged: bool) -> ContainerSpec {
    ContainerSpec {
        process: ProcessSpec {
            args: vec!["sh".into()],
            env: env.iter().map(|&variable| variable.to_owned()).collect(),
            privileged,
            ..Default::default()
        },
        hostname: "room".into(),
        ..Default::default()
    }
}

#[test]
fn the_last_variable_of_a_name_wins() {
    let json = spec(&["A=1", "PATH=/bin", "AB=2", "A=3"], false).to_json();
    assert_eq!(json["process"]["env"], json!(["PATH=/bin", "AB=2", "A=3"]));
    let json = spec(&[], false).to_json();
    assert_eq!(json["process"]["env"], json!([PATH]));
}

#[test]
fn a_container_cannot_reach_the_guests_disks_unless_privileged() {
    let json = spec(&[], false).to_json();
    let rules = json["linux"]["resources"]["devices"].as_array().unwrap();
    assert_eq!(rules[0], json!({ "allow": false, "access": "rwm" }));
    let opens_disks = |rule: &&Value| rule["allow"] == true && rule["type"] != "c" && rule["access"] != "m";
    assert_eq!(rules.iter().find(opens_disks), None);
    assert!(
        json["linux"]["maskedPaths"]
            .as_array()
            .unwrap()
            .contains(&json!("/proc/kcore"))
    );

    let json = spec(&[], true).to_json();
    assert_eq!(json["linux"]["maskedPaths"], json!([]));
    let bounding = json["process"]["capabilities"]["bounding"].as_array().unwrap();
    assert!(bounding.contains(&json!("CAP_SYS_ADMIN")));
    assert_eq!(bounding.len(), 41);
}

#[test]
fn an_init_has_all_namespaces_and_is_told_where_it_is() {
    let mut system = spec(&[], false);
    system.process.system = true;
    system.id_map = Some(IdMap::of_room(0));
    system.uuid = Some("0123456789abcdef0123456789abcdef".into());
    let json = system.to_json();
    assert_eq!(json["linux"]["namespaces"].as_array().unwrap().len(), 8);
    let mapping = json!([{ "containerID": 0, "hostID": 1_048_576, "size": 65_536 }]);
    assert_eq!(json["linux"]["uidMappings"], mapping);
    assert_eq!(json["linux"]["gidMappings"], mapping);
    let environment = json["process"]["env"].as_array().unwrap();
    for wanted in [
        "container=koya",
        "container_uuid=0123456789abcdef0123456789abcdef",
    ] {
        assert!(environment.contains(&json!(wanted)), "{environment:?}");
    }
    let mounts = json["mounts"].as_array().unwrap();
    let at = |path: &str| {
        mounts
            .iter()
            .find(|mount| mount["destination"] == path)
            .unwrap_or_else(|| panic!("{path}"))
    };
    for path in ["/run", "/run/lock", "/tmp"] {
        assert_eq!(at(path)["type"], "tmpfs");
    }
    assert!(
        at("/sys/fs/cgroup")["options"]
            .as_array()
            .unwrap()
            .contains(&json!("rw"))
    );
}

#[test]
fn what_a_container_mounts_itself_takes_the_place_of_the_usual() {
    let mut own = spec(&[], false);
    own.mounts.push(Mount {
        destination: "/dev/shm".into(),
        kind: "tmpfs".into(),
        source: "shm".into(),
        options: vec!["size=1g".into()],
    });
    let json = own.to_json();
    let shm: Vec<&Value> = json["mounts"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|mount| mount["destination"] == "/dev/shm")
        .collect();
    assert_eq!(shm.len(), 1);
    assert_eq!(shm[0]["options"], json!(["size=1g"]));
}

#[test]
fn engines_in_a_system_container_have_the_disk_itself() {
    let engines = |mounted: &[&str]| -> Vec<String> {
        let mut system = spec(&[], false);
        system.process.system = true;
        system.mounts = mounted.iter().map(|&at| Mount::of("tmpfs", at, &[])).collect();
        let json = system.to_json();
        let mounts = json["mounts"].as_array().unwrap();
        let folders = mounts.iter().filter(|mount| mount["type"] == "scratch");
        folders
            .map(|mount| mount["destination"].as_str().unwrap().to_owned())
            .collect()
    };
    let (podman, docker, containerd) = ("/var/lib/containers", "/var/lib/docker", "/var/lib/containerd");
    assert_eq!(engines(&[]), [podman, docker, containerd]);
    // What the user puts there, or above, is what he wants there.
    assert_eq!(engines(&["/var/lib/docker/"]), [podman, containerd]);
    assert_eq!(engines(&["/var"]), [""; 0]);
    assert_eq!(
        engines(&["/var/lib/docker/volumes", "/var/lib/con"]),
        [podman, docker, containerd]
    );
    let json = spec(&[], false).to_json();
    assert!(
        json["mounts"]
            .as_array()
            .unwrap()
            .iter()
            .all(|mount| mount["type"] != "scratch")
    );
}

#[test]
fn servers_may_open_many_files_unless_told_otherwise() {
    let mut spec = spec(&[], false);
    let limits = |spec: &ContainerSpec| spec.to_json()["process"]["rlimits"].clone();
    let files = |soft: u64, hard: u64| json!([{ "type": "RLIMIT_NOFILE", "soft": soft, "hard": hard }]);
    assert_eq!(limits(&spec), files(1024, 524_288));
    spec.process.ulimits.push("nofile=5:6".parse().unwrap());
    assert_eq!(limits(&spec), files(5, 6));
}
