//! Several networks of a container.

use super::{IMAGE, Podman, is_nothing_left, until};

/// What it sees of them, without the addresses that podman counts up; and what answers at their other ends.
const LOOK: &str = "for n in 1 2; do ip -o -4 addr | grep -o \"10[.]91[.]$n[.].*/24\" | sed 's/[.][0-9]*[/]/.N\\//'; \
                    wget -q -O - http://10.91.$n.9:8000/page; done; \
                    ls /sys/class/net; ip route | sed 's/10[.]91[.]\\([12]\\)[.][0-9]* *$/10.91.\\1.N/' | sort";
const SERVES: &str = "echo served > /tmp/page; exec httpd -f -p 8000 -h /tmp";

#[test]
fn a_container_is_on_two_networks_as_with_crun() {
    let user = Podman::new();
    for (name, subnet) in [("koya-a", "10.91.1.0/24"), ("koya-b", "10.91.2.0/24")] {
        user.koya(&["network", "create", "--disable-dns", "--subnet", subnet, name]);
    }
    let mut serve = vec!["run", "--detach", "--name", "far"];
    serve.extend([
        "--network",
        "koya-a:ip=10.91.1.9",
        "--network",
        "koya-b:ip=10.91.2.9",
    ]);
    serve.extend([IMAGE, "sh", "-c", SERVES]);
    let said = user.said("crun", &serve);
    assert_eq!(said.code, Some(0), "{said:?}");
    // Otherwise, podman deals the names out as it likes.
    let said = user.same(&[
        "run",
        "--rm",
        "--network",
        "koya-a:interface_name=eth0",
        "--network",
        "koya-b:interface_name=eth1",
        IMAGE,
        "sh",
        "-c",
        LOOK,
    ]);
    assert_eq!(said.out.matches("served\n").count(), 2, "{said:?}");
    assert_eq!(said.out.matches(".N/24").count(), 2, "{said:?}");
    assert!(said.out.contains("eth0\neth1\nlo\n"), "{said:?}");
    // Both say that they lead everywhere.
    assert_eq!(said.out.matches("default via").count(), 2, "{said:?}");
    a_container_that_runs_joins_one(&user);
    until("something is left of the container", is_nothing_left);
    user.koya(&["rm", "--force", "--time", "0", "far"]);
    user.koya(&["network", "rm", "koya-a", "koya-b"]);
}

/// `network connect` and `disconnect`, beside the server on both.
fn a_container_that_runs_joins_one(user: &Podman) {
    let comes = "n=0; until wget -q -O - http://10.91.2.9:8000/page || [ $n = 100 ]; do n=$((n + 1)); sleep 0.2; done; \
                 ls /sys/class/net; ip route | grep 91.2";
    let goes = "n=0; until [ ! -e /sys/class/net/eth1 ] || [ $n = 100 ]; do n=$((n + 1)); sleep 0.2; done; ls /sys/class/net; \
                wget -q -O - http://10.91.1.9:8000/page";
    let said = user.both().map(|runtime| {
        let done = |words: &[&str]| {
            let said = user.said(&runtime, words);
            assert_eq!(said.code, Some(0), "{words:?}: {said:?}");
            said.out
        };
        done(&[
            "run",
            "--detach",
            "--name",
            "near",
            "--network",
            "koya-a:interface_name=eth0",
            IMAGE,
            "sleep",
            "1000",
        ]);
        let words = ["network", "connect", "--ip", "10.91.2.77", "koya-b", "near"];
        done(&words);
        let there = done(&["exec", "near", "sh", "-c", comes]);
        done(&["network", "disconnect", "koya-b", "near"]);
        let gone = done(&["exec", "near", "sh", "-c", goes]);
        done(&["rm", "--force", "--time", "0", "near"]);
        [there, gone]
    });
    let [crun, koya] = said;
    assert_eq!(koya, crun);
    assert!(koya[0].starts_with("served\neth0\neth1\nlo\n"), "{koya:?}");
    assert_eq!(koya[1], "eth0\nlo\nserved\n");
}
