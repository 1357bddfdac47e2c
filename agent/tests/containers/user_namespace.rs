//! Containers whose root is nobody outside.

use crate::place::{Place, mapped, process, shell};

const MAP: &str = "         0     100000      65536\n";

#[test]
fn the_first_process_is_mapped() {
    let place = Place::mapped();
    let script = "id -u; cat /proc/self/uid_map";
    assert_eq!(
        place.run("room", &mapped(shell(script))),
        (0, format!("0\n{MAP}"))
    );
    place.assert_gone("room");
}

#[test]
fn a_further_process_is_mapped_too() {
    let place = Place::mapped();
    place
        .client
        .create(place.request("room", &mapped(shell("sleep 1000"))))
        .unwrap();
    place.client.start("room").unwrap();
    let script = "id -u; cat /proc/self/uid_map; [ \"$(readlink /proc/self/ns/user)\" = \"$(readlink /proc/1/ns/user)\" ]";
    let (code, output) = place.exec("room", "x", &process(&["sh", "-c", script]), b"");
    assert_eq!(
        (code, String::from_utf8(output).unwrap()),
        (0, format!("0\n{MAP}"))
    );
}

#[test]
fn the_root_file_system_is_its_own_roots() {
    let place = Place::mapped();
    let script = "stat -c %u:%g / /bin/busybox && touch /tmp/mapped-file && stat -c %u /tmp/mapped-file";
    assert_eq!(
        place.run("room", &mapped(shell(script))),
        (0, "0:0\n0:0\n0\n".to_owned())
    );
    place.assert_gone("room");
}

#[test]
fn its_root_arranges_cgroups_and_cannot_lift_limits() {
    let place = Place::mapped();
    let mut config = mapped(shell(
        "cd /sys/fs/cgroup && mkdir sub && echo 0 > sub/cgroup.procs && cat /proc/self/cgroup \
         && ! echo max > cgroup.max.descendants 2>/dev/null",
    ));
    let mounts = config["mounts"].as_array_mut().unwrap();
    mounts.push(serde_json::json!(
        { "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev"] }
    ));
    let (code, output) = place.run("room", &config);
    assert_eq!(code, 0, "{output}");
    assert!(output.lines().any(|line| line == "0::/sub"), "{output}");
    place.assert_gone("room");
}
