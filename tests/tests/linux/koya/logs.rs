//! What containers write, and how much of it is kept.

use std::fs;
use std::path::PathBuf;

use super::{User, ended, text, told, until};

/// Lines that a container writes as fast as it can.
const LINES: u32 = 100_000;
/// Small files, so that they are changed many times: each is full after some 20,000 lines.
const SMALL: [&str; 4] = ["--log-opt", "max-size=1m", "--log-opt", "max-file=3"];

/// The lines from `first` on, as `seq` writes them.
fn numbers(first: u32) -> String {
    (first..=LINES).map(|number| format!("{number}\n")).collect()
}

/// Checks that a container's log has kept the last of its lines in three files of at most a MiB.
fn assert_kept(user: &User, name: &str) {
    let log = PathBuf::from(user.says(&["inspect", "--format", "{{.LogPath}}", name]).trim());
    let size = |ending: &str| {
        let path = format!("{}{ending}", log.display());
        fs::metadata(path).ok().map(|file| file.len())
    };
    for ending in ["", ".1", ".2"] {
        let size = size(ending);
        assert!(
            size.is_some_and(|size| (1..=1 << 20).contains(&size)),
            "log{ending}: {size:?}"
        );
    }
    assert_eq!(size(".3"), None);
    let kept = user.says(&["logs", name]);
    let first = kept.lines().next().unwrap().parse().unwrap();
    assert!(
        (2..LINES - 40_000).contains(&first),
        "the log begins with {first}"
    );
    assert!(kept == numbers(first), "lines are missing, or come twice");
    assert_eq!(user.says(&["logs", "--tail", "2", name]), numbers(LINES - 1));
}

#[test]
fn a_flood_reaches_who_reads_it_and_keeps_the_log_within_its_bounds() {
    let user = User::new();
    let (image, last) = (user.image(), LINES.to_string());
    let mut words = vec!["run", "--name", "web", "--network", "none"];
    words.extend(SMALL);
    words.extend([image.to_str().unwrap(), "seq", "1", &last]);
    let output = user.done(&words);
    assert_eq!(
        (text(&output.stderr).as_str(), output.status.code()),
        ("", Some(0))
    );
    assert!(
        text(&output.stdout) == numbers(1),
        "{} bytes came of {}",
        output.stdout.len(),
        numbers(1).len()
    );
    assert_kept(&user, "web");
    user.says(&["rm", "web"]);
    assert!(user.has_nothing_left(), "something is left behind");
}

#[test]
fn a_flood_that_nobody_reads_comes_to_its_end() {
    let user = User::new();
    let mut options = vec!["--network", "none"];
    options.extend(SMALL);
    user.detach("web", &options, &["seq", "1", &LINES.to_string()]);
    assert_eq!(user.says(&["wait", "web"]), "0\n");
    assert_kept(&user, "web");
    user.says(&["rm", "web"]);
    // Nor is anything kept of what is not to be.
    user.detach(
        "mute",
        &["--network", "none", "--log-driver", "none"],
        &["seq", "1", "1000"],
    );
    assert_eq!(user.says(&["wait", "mute"]), "0\n");
    let line = user.refused(&["logs", "mute"], 125);
    assert!(line.contains("--log-driver none"), "{line}");
    user.says(&["rm", "mute"]);
    assert!(user.has_nothing_left(), "something is left behind");
}

#[test]
fn a_log_tells_when_and_where_each_line_was_written_and_is_followed_to_the_end() {
    let user = User::new();
    let script = "echo begun >&2; trap 'echo ends; exit 0' TERM; touch /up; while true; do sleep 0.1; done";
    user.detach("web", &["--network", "none"], &["sh", "-c", script]);
    until("no log", || told(&user.done(&["logs", "web"])).1 == "begun\n");
    let following = user.begin(&["logs", "--follow", "--timestamps", "web"]);
    until("it is not up", || {
        told(&user.done(&["exec", "web", "ls", "/up"])).2 == Some(0)
    });
    user.says(&["stop", "web"]);
    let (out, errors, code) = told(&ended(following));
    assert_eq!(code, Some(0), "{out}{errors}");
    let begun = stamped(&errors, "begun");
    let ends = stamped(&out, "ends");
    assert!(begun < ends, "{out}{errors}");
    // From one moment on, and up to it.
    assert_eq!(
        told(&user.done(&["logs", "--since", &ends, "web"])),
        ("ends\n".into(), String::new(), Some(0))
    );
    assert_eq!(
        told(&user.done(&["logs", "--until", &ends, "web"])),
        (String::new(), "begun\n".into(), Some(0))
    );
    user.says(&["rm", "web"]);
    assert!(user.has_nothing_left(), "something is left behind");
}

/// The time of the only line, whose text is given.
fn stamped(lines: &str, expected: &str) -> String {
    let (time, said) = lines
        .split_once(' ')
        .unwrap_or_else(|| panic!("no time: {lines:?}"));
    assert_eq!(said, format!("{expected}\n"));
    assert!(time.starts_with("20") && time.ends_with('Z'), "{time}");
    time.to_owned()
}
