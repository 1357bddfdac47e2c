//! `koya run` while somebody waits for it.

use std::io::Write;
use std::process::{Command, Stdio};
use std::thread;

use koya_tests::vm::from_env;

use super::{User, refusal, text, told};
use crate::support::sha256;

#[test]
fn a_container_has_a_kernel_a_name_and_an_exit_code_of_its_own() {
    let user = User::new();
    let script = "uname -r; hostname; id -u; echo $COLOUR; pwd; echo oops >&2; exit 7";
    let options = ["--hostname", "room", "-e", "COLOUR=green", "-w", "/tmp"];
    let (out, errors, code) = told(&user.run(&options, &["sh", "-c", script]));
    let lines: Vec<_> = out.lines().collect();
    assert_eq!((errors.as_str(), code), ("oops\n", Some(7)), "{out}");
    let ours = text(&Command::new("uname").arg("-r").output().unwrap().stdout);
    assert!(lines[0].starts_with("6.12.") && lines[0] != ours.trim(), "{out}");
    assert_eq!(lines[1..], ["room", "0", "green", "/tmp"]);
    assert_eq!(user.containers(), Vec::<String>::new());
    assert!(user.has_nothing_left(), "something is left behind");
}

#[test]
fn exit_codes_are_those_that_docker_users_know() {
    let user = User::new();
    for (words, code, said) in [
        (&["no-such-program"][..], 127, "no-such-program"),
        (&["/bin/text"], 126, "/bin/text"),
    ] {
        let line = refusal(&user.run(&["--network", "none"], words), code);
        assert!(line.contains(said), "{words:?}: {line}");
    }
    assert!(user.has_nothing_left(), "something is left behind");
}

#[test]
fn streams_go_through_whole() {
    let user = User::new();
    let data: Vec<u8> = (0..3_000_000_u32)
        .map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()[2])
        .collect();
    let image = user.image();
    let mut child = user
        .koya(&["run", "--rm", "-i", image.to_str().unwrap(), "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let given = data.clone();
    let feeder = thread::spawn(move || stdin.write_all(&given).unwrap());
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap();
    assert_eq!(
        (text(&output.stderr).as_str(), output.status.code()),
        ("", Some(0))
    );
    assert_eq!(sha256(&output.stdout), sha256(&data));
}

#[test]
fn a_terminal_is_one_inside_and_has_the_size_of_the_one_outside() {
    let user = User::new();
    let inside = "busybox tty; stty size; exit 4";
    let line = format!(
        "stty rows 33 columns 99; exec {} run --rm -it {} sh -c '{inside}'",
        from_env("KOYA_CLI").display(),
        user.image().display()
    );
    // With a terminal of its own, and the exit code of what it runs.
    let output = Command::new("script")
        .args(["--quiet", "--return", "--command", &line, "/dev/null"])
        .env("KOYA_HOME", user.home.path("home"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let (out, errors, code) = told(&output);
    assert_eq!(code, Some(4), "{out}{errors}");
    assert!(out.contains("/dev/pts/0\r\n33 99\r\n"), "{out:?}");
}

#[test]
fn a_reader_that_has_enough_ends_what_writes() {
    let user = User::new();
    let line = format!(
        "head -c 5000000 /dev/zero | {} run -i --name web {} yes | head -n 2",
        from_env("KOYA_CLI").display(),
        user.image().display()
    );
    let output = Command::new("sh")
        .args(["-c", &line])
        .env("KOYA_HOME", user.home.path("home"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let (out, errors, _) = told(&output);
    assert_eq!(out, "y\ny\n", "{errors}");
    super::until("it writes on", || user.field("web", ".State.Status") == "exited");
    user.says(&["rm", "web"]);
}
