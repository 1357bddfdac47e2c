//! `ctr run`: containers from their beginning to their end.

use std::fs;

use crate::support::fed;

use super::{Containerd, IMAGE, KOYA, RUNC};

pub(super) fn a_container_says_and_ends_what_it_does_with_runc(engine: &Containerd) {
    let typed: Vec<u8> = (0..1_000_000_u32).map(|number| (number % 251) as u8).collect();
    let script = "id; pwd; echo $A$B; hostname | grep -c .; grep -E 'Cap|NoNew|Seccomp:' /proc/self/status; touch /x /tmp/x; \
                  sha256sum; seq 20000; seq 1000 >&2; exit 7";
    let said = [RUNC, KOYA].map(|runtime| {
        let line = format!(
            "run --rm --runtime {runtime} --env B=2 --cwd /tmp --read-only --memory-limit 134217728 {IMAGE} compared sh -c"
        );
        let mut words: Vec<_> = line.split_whitespace().collect();
        words.push(script);
        fed(&mut engine.ctr(&words), &typed)
    });
    let [runc, koya] = said;
    assert_eq!(koya.code, Some(7), "{koya:?}");
    assert_eq!(koya, runc);
    engine.is_clean("something is left of a container that was run");
}

pub(super) fn a_terminal_has_the_size_of_the_users(engine: &Containerd) {
    // The size is told a moment after the start; of none, stty complains.
    let script = "i=0; until test \"$(stty size 2>/dev/null)\" = \"33 77\" -o $i = 100; do i=$((i+1)); sleep 0.1; done; \
                  stty size; test -t 1 && echo yes; cat /proc/version; exit 3";
    let [runc, koya] = [RUNC, KOYA].map(|runtime| {
        engine.on_a_terminal(&[
            "run",
            "--rm",
            "--tty",
            "--runtime",
            runtime,
            IMAGE,
            "terminal",
            "sh",
            "-c",
            script,
        ])
    });
    assert_eq!(koya.code, Some(3), "{koya:?}");
    assert!(
        koya.out.contains("33 77\r") && koya.out.contains("yes\r"),
        "{koya:?}"
    );
    // It is another kernel than the host's that says so; all else is the same.
    let own = |said: &str| {
        said.lines()
            .filter(|line| !line.starts_with("Linux version"))
            .collect::<String>()
    };
    assert_eq!(own(&koya.out), own(&runc.out));
    let host = fs::read_to_string("/proc/version").unwrap();
    assert!(
        runc.out.contains(host.trim()) && !koya.out.contains(host.trim()),
        "{koya:?}"
    );
}

pub(super) fn what_cannot_be_run_is_told(engine: &Containerd) {
    for (options, program, wanted) in [
        (&["--net-host"][..], "true", "the host's network"),
        (&[], "nosuch", "nosuch"),
    ] {
        let mut words = vec!["run", "--rm", "--runtime", KOYA];
        words.extend(options);
        words.extend([IMAGE, "refused", program]);
        let said = engine.said(&words);
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.errors.contains(wanted), "{said:?}");
        engine.is_clean("something is left of what was refused");
    }
}

pub(super) fn roots_of_other_snapshotters_are_roots(engine: &Containerd) {
    let script = "echo kept > /tmp/file; cat /tmp/file";
    for snapshotter in ["native", "devmapper"] {
        let options = ["run", "--rm", "--snapshotter", snapshotter, "--runtime", KOYA];
        let said = engine.done(&[&options[..], &[IMAGE, snapshotter, "sh", "-c", script]].concat());
        assert_eq!(said, "kept\n", "{snapshotter}");
    }
}
