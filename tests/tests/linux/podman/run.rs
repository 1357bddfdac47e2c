//! `podman run`: a container from its beginning to its end.

use crate::support::fed;

use super::{IMAGE, Podman, is_nothing_left, until};

#[test]
fn a_container_says_and_ends_what_it_does_with_crun() {
    let user = Podman::new();
    let run = |options: &[&str], words: &[&str]| {
        let mut all = vec!["run", "--rm", "--network", "none"];
        all.extend(options);
        all.push(IMAGE);
        all.extend(words);
        user.same(&all)
    };
    let said = run(&[], &["sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!(
        (said.out.as_str(), said.errors.as_str(), said.code),
        ("out\n", "err\n", Some(7))
    );
    let said = run(
        &[
            "--user",
            "web",
            "--workdir",
            "/tmp",
            "--env",
            "A=b",
            "--hostname",
            "box",
            "--cap-drop",
            "all",
        ],
        &[
            "sh",
            "-c",
            "id; pwd; echo $A; hostname; grep Cap /proc/self/status; touch /x; exit 137",
        ],
    );
    assert_eq!(said.code, Some(137), "{said:?}");
    // A terminal's output has its line ends.
    let said = run(
        &["--tty"],
        &["sh", "-c", "test -t 0 && test -t 1 && echo yes; exit 3"],
    );
    assert_eq!((said.out.as_str(), said.code), ("yes\r\n", Some(3)));
    let said = run(
        &[
            "--read-only",
            "--tmpfs",
            "/scratch",
            "--ulimit",
            "nofile=99:100",
            "--shm-size",
            "4m",
        ],
        &[
            "sh",
            "-c",
            "touch /x; touch /scratch/x && ulimit -n; stat -f -c %b /dev/shm",
        ],
    );
    assert_eq!(said.code, Some(0), "{said:?}");
    until("something is left of the containers", is_nothing_left);
}

#[test]
fn what_is_typed_arrives_whole() {
    let user = Podman::new();
    let typed: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect();
    let sums = user.both().map(|runtime| {
        let words = [
            "run",
            "--rm",
            "-i",
            "--network",
            "none",
            IMAGE,
            "sh",
            "-c",
            "sha256sum; seq 100000 >&2",
        ];
        fed(&mut user.podman(&runtime, &words), &typed)
    });
    let [crun, koya] = sums;
    assert_eq!(koya.errors.lines().count(), 100_000);
    assert_eq!(koya, crun);
}

#[test]
fn what_cannot_be_run_is_told_as_engines_expect_it() {
    let user = Podman::new();
    let koya = &user.both()[1];
    let run = |options: &[&str], program: &str| {
        let mut all = vec!["run", "--rm"];
        all.extend(options);
        all.extend([IMAGE, program]);
        user.said(koya, &all)
    };
    for (options, program, code, words) in [
        (&["--network", "none"][..], "nosuch", 127, "'nosuch'"),
        (&["--network", "none"], "text", 126, "'/bin/text'"),
        (&["--network", "host"], "true", 126, "--network host"),
        (&["--network", "none", "--pid", "host"], "true", 126, "--pid host"),
        (
            &["--network", "none", "--device", "/dev/kvm"],
            "true",
            126,
            "\"/dev/kvm\"",
        ),
        (
            &["--network", "none", "-v", "/dev/null:/x"],
            "true",
            126,
            "only files and folders",
        ),
    ] {
        let said = run(options, program);
        assert_eq!(said.code, Some(code), "{options:?} {program}: {said:?}");
        assert!(said.errors.contains(words), "{options:?} {program}: {said:?}");
    }
    assert_eq!(user.koya(&["ps", "--all", "--quiet"]), "");
    until("something is left of what was refused", is_nothing_left);
}
