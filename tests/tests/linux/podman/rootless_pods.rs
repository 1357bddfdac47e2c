//! Pods of an ordinary user.

use std::process::Command;

use super::rootless::Somebody;
use super::{IMAGE, pids_of, until};
use crate::support::Said;

const SERVES: &str =
    "trap 'exit 0' TERM; echo from one > /tmp/page; httpd -p 8000 -h /tmp; while :; do sleep 1; done";
const BOOT: &str = "cat /proc/sys/kernel/random/boot_id";

#[test]
fn a_users_pod_is_one_microvm_and_as_with_crun() {
    let him = Somebody::new();
    let [crun, koya] = [("crun", "18290"), ("koya", "18291")].map(|(name, port)| talk(&him, name, port));
    assert_eq!(koya, crun);
    until("something is left of a pod", || him.has_nothing_left());
}

/// A pod's life with one of the runtimes; what its containers said.
fn talk(him: &Somebody, name: &str, port: &str) -> Vec<Said> {
    let runtime = &him.runtimes()[usize::from(name == "koya")];
    let done = |words: &[&str]| {
        let said = him.said(runtime, words);
        assert_eq!(said.code, Some(0), "podman {}: {said:?}", words.join(" "));
        said.out
    };
    let publish = format!("{port}:8000");
    done(&[
        "pod",
        "create",
        "--name",
        name,
        "--hostname",
        "house",
        "--publish",
        &publish,
        "--share-parent=false",
    ]);
    done(&[
        "run", "--detach", "--pod", name, "--name", "one", IMAGE, "sh", "-c", SERVES,
    ]);
    let page = format!("http://127.0.0.1:{port}/page");
    until("nobody answers", || {
        let said = Command::new("curl")
            .args(["--silent", "--max-time", "30", &page])
            .output();
        said.unwrap().stdout == b"from one\n"
    });
    let beside = |options: &[&str], script: &str| {
        let words = ["run", "--rm", "--pod", name];
        him.said(runtime, &[&words, options, &[IMAGE, "sh", "-c", script]].concat())
    };
    let data = format!("{}:/data", him.his("data").display());
    let said = vec![
        beside(
            &["--volume", &data],
            "wget -q -O - http://127.0.0.1:8000/page; hostname; id; cat /data/file; exit 3",
        ),
        beside(&["--user", "web"], "id; echo shared > /dev/shm/note"),
        him.said(runtime, &["exec", "one", "cat", "/dev/shm/note"]),
    ];
    assert_eq!(
        (said[0].code, said[2].out.as_str()),
        (Some(3), "shared\n"),
        "{said:?}"
    );
    if name == "koya" {
        assert_eq!(beside(&[], BOOT).out, done(&["exec", "one", "sh", "-c", BOOT]));
        assert_eq!(pids_of("koya-vmm").len(), 1);
    }
    done(&["stop", "one"]);
    assert_eq!(
        done(&["inspect", "--format", "{{.State.ExitCode}}", "one"]),
        "0\n"
    );
    done(&["pod", "rm", "--force", "--time", "0", name]);
    said
}
