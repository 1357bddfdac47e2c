//! What cannot be done is said in one line, with the exit code that docker's users know, and leaves nothing.

use super::{User, refusal};

#[test]
fn what_is_wrong_is_found_before_anything_boots() {
    let user = User::new();
    let image = user.image();
    let image = image.to_str().unwrap();
    let missing = user.home.path("missing");
    let missing = missing.to_str().unwrap();
    let text = user.home.file("text.tar", "no archive\n");
    let volume = format!("{missing}:/x");
    for (words, said) in [
        (
            &["run", "--pull", "never", "no-such-image", "true"][..],
            "no image \"no-such-image:latest\" here",
        ),
        (
            &["run", missing, "true"],
            "cannot be opened as an image: No such file or directory",
        ),
        (&["run", text.to_str().unwrap(), "true"], "text.tar"),
        (&["run", "UPPER:tag", "true"], "\"UPPER:tag\" is no image name"),
        (
            &["run", "--no-such-option", image],
            "unexpected argument '--no-such-option' found",
        ),
        (&["no-such-command"], "unrecognized subcommand 'no-such-command'"),
        (&["run", "--name", "a/b", image, "true"], "\"a/b\" is no name"),
        (
            &["run", "--memory", "1m", image, "true"],
            "\"1m\" is too little memory for a container",
        ),
        (
            &["run", "--vm-memory", "16m", image, "true"],
            "\"16m\" cannot be a microVM's memory",
        ),
        (
            &["run", "--storage", "1m", image, "true"],
            "\"1m\" is too small for a file system",
        ),
        (
            &["run", "--cpus", "0", image, "true"],
            "\"0\" is no number of processors",
        ),
        (&["run", "-v", &volume, image, "true"], "no such file or folder"),
        (&["run", "-v", "x", image, "true"], "\"x\""),
        (&["run", "-p", "99999:80", image, "true"], "99999"),
        (
            &["run", "--rm", "--network", "no-such-network", image, "true"],
            "no-such-network",
        ),
        (
            &["run", "--vm", "no-such-room", image, "true"],
            "no such container: no-such-room",
        ),
        (&["run", image], "no command specified"),
        (
            &["exec", "no-such-room", "true"],
            "no such container: no-such-room",
        ),
        (&["logs", "no-such-room"], "no such container: no-such-room"),
        (
            &["ps", "--filter", "colour=red"],
            "the filter \"colour=red\" is unknown",
        ),
    ] {
        let line = user.refused(words, 125);
        assert!(line.contains(said), "{words:?}: {line}");
    }
    for verb in ["stop", "rm", "kill", "pause", "start", "wait"] {
        let line = user.refused(&[verb, "no-such-room"], 1);
        assert!(line.contains("no such container: no-such-room"), "{line}");
    }
    assert!(user.has_nothing_left(), "something is left behind");
}

#[test]
fn what_only_the_guest_finds_out_is_said_as_well() {
    let user = User::new();
    for (options, said) in [
        (&["--user", "nobody-at-all"][..], "no user 'nobody-at-all'"),
        (&["--user", "4294967295"], "no user '4294967295'"),
        (&["--workdir", "/bin/text"], "chdir"),
    ] {
        let options: Vec<_> = ["--network", "none"].iter().chain(options).copied().collect();
        let line = refusal(&user.run(&options, &["true"]), 125);
        assert!(line.contains(said), "{options:?}: {line}");
    }
    assert!(user.has_nothing_left(), "something is left behind");
}

#[test]
fn a_program_is_missing_or_not_executable_in_a_running_container_too() {
    let user = User::new();
    user.detach("web", &["--network", "none"], &["sleep", "1000"]);
    for (words, code, said) in [
        (&["exec", "web", "no-such-program"][..], 127, "no-such-program"),
        (&["exec", "web", "/no/such/program"], 127, "/no/such/program"),
        (&["exec", "web", "/bin/text"], 126, "/bin/text"),
        (&["exec", "web", "/etc"], 126, "/etc"),
        (&["exec", "--user", "ada", "web", "true"], 125, "no user 'ada'"),
    ] {
        let line = user.refused(words, code);
        assert!(line.contains(said), "{words:?}: {line}");
    }
    user.says(&["rm", "-f", "web"]);
    assert!(user.has_nothing_left(), "something is left behind");
}
