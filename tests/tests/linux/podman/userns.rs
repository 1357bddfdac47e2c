//! User namespaces of root's containers: the guest has the same one.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::process::Command;

use super::life::reach_from_within;
use super::{IMAGE, Podman, is_nothing_left};
use crate::support::{succeed, until};

#[test]
fn ids_of_a_user_namespace_are_as_with_crun() {
    let user = Podman::new();
    let data = user.home.path("data");
    fs::create_dir(&data).unwrap();
    chown(&data, Some(100_000), Some(200_000)).unwrap();
    fs::write(data.join("roots"), "the host's\n").unwrap();
    let volume = format!("{}:/data", data.display());
    // Two ranges: more than one line in the map.
    let options = [
        "--uidmap",
        "0:100000:1000",
        "--uidmap",
        "1000:300000:10",
        "--gidmap",
        "0:200000:1010",
    ];
    let script = "id; cat /proc/self/uid_map /proc/self/gid_map; touch /data/mine /data/webs; chown 1000:1000 /data/webs; \
                  stat -c '%u:%g %n' /data/* /etc/passwd /root; chown 0:0 /data/roots || echo not his";
    let mut words = vec!["run", "--rm", "--network", "none"];
    words.extend(options);
    words.extend(["--volume", &volume, IMAGE, "sh", "-c", script]);
    let said = user.same(&words);
    assert!(said.out.ends_with("not his\n"), "{said:?}");
    let owner = |name: &str| {
        let found = fs::metadata(data.join(name)).unwrap();
        (found.uid(), found.gid())
    };
    assert_eq!(owner("mine"), (100_000, 200_000));
    assert_eq!(owner("webs"), (300_000, 201_000));
    assert_eq!(owner("roots"), (0, 0));
    network_that_comes_later(&user);
    until("something is left of the containers", is_nothing_left);
}

/// Where a user namespace is to own the network, podman makes it after the container.
fn network_that_comes_later(user: &Podman) {
    let options = [
        "--uidmap",
        "0:100000:1000",
        "--publish",
        "18290:80",
        "--name",
        "web",
    ];
    let mut words = vec!["run", "--detach"];
    words.extend(options);
    words.extend([IMAGE, "httpd", "-f", "-p", "80", "-h", "/etc"]);
    user.koya(&words);
    let url = "http://127.0.0.1:18290/group";
    let heard = succeed(
        Command::new("curl")
            .args(["--silent", "--max-time", "30", "--retry", "5"])
            .args(["--retry-connrefused", url]),
    );
    assert_eq!(heard, "root:x:0:\nweb:x:1000:\n");
    let address = user.koya(&["inspect", "--format", "{{.NetworkSettings.IPAddress}}", "web"]);
    let script =
        "ip -o -4 addr show eth0 | grep -o 'inet [0-9.]*'; ip route | grep -o 'default via [0-9.]*' | wc -l";
    let seen = user.koya(&["exec", "web", "sh", "-c", script]);
    assert_eq!(seen, format!("inet {}\n1\n", address.trim()));
    reach_from_within(user, "web");
    user.koya(&["rm", "--force", "--time", "0", "web"]);
}
