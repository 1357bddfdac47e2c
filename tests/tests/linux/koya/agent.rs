//! Agents that die, hang or talk nonsense: a microVM that cannot be used is given up in time, and told about.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::{User, await_line, ended, refusal, told, until};
use crate::support::{noise, succeed};
use koya_tests::vm::from_env;

/// A program of some instructions: an ELF64 executable with one segment.
fn program(code: &[u8]) -> Vec<u8> {
    const ADDRESS: u64 = 0x40_0000;
    let end = 120 + code.len() as u64;
    let mut bytes = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    for value in [ADDRESS + 120, 64, 0] {
        bytes.extend(u64::to_le_bytes(value));
    }
    bytes.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 64, 0, 0, 0, 0, 0]);
    // One PT_LOAD, readable and executable.
    bytes.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    for value in [0, ADDRESS, ADDRESS, end, end, 0x1000] {
        bytes.extend(u64::to_le_bytes(value));
    }
    bytes.extend(code);
    bytes
}

/// `koya run` with this agent.
fn with_agent(user: &User, name: &str, code: &[u8]) -> Command {
    let agent = user.home.file(name, program(code));
    fs::set_permissions(&agent, fs::Permissions::from_mode(0o755)).unwrap();
    let image = user.image();
    let mut command = user.koya(&[
        "run",
        "--rm",
        "--network",
        "none",
        image.to_str().unwrap(),
        "true",
    ]);
    command
        .env("KOYA_AGENT", agent)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

#[test]
fn an_agent_that_dies_ends_the_microvm() {
    let user = User::new();
    // exit(7): the kernel panics without its first process.
    let exits = b"\xbf\x07\0\0\0\xb8\x3c\0\0\0\x0f\x05";
    let begun = Instant::now();
    let line = refusal(&with_agent(&user, "exits", exits).output().unwrap(), 125);
    assert!(line.contains("the guest gave up while it booted"), "{line}");
    assert!(begun.elapsed() < Duration::from_secs(50), "{:?}", begun.elapsed());
    assert!(user.has_nothing_left(), "something is left behind");
}

#[test]
fn an_agent_that_hangs_is_given_up_after_its_time() {
    let (user, other) = (User::new(), User::new());
    // pause(), again and again.
    let hangs = b"\xb8\x22\0\0\0\x0f\x05\xeb\xf7";
    let begun = Instant::now();
    let hung = with_agent(&user, "hangs", hangs).spawn().unwrap();

    // Meanwhile, one that hangs later.
    other.detach("web", &["--network", "none"], &["sleep", "1000"]);
    succeed(Command::new("kill").args(["-STOP", &other.field("web", ".Vm.Pid")]));
    let line = refusal(&ended(other.begin(&["exec", "web", "true"])), 125);
    assert!(line.contains("cannot reach the microVM of web"), "{line}");
    other.says(&["rm", "-f", "web"]);
    assert!(other.has_nothing_left(), "something is left behind");

    let line = refusal(&ended(hung), 125);
    assert!(line.contains("the agent did not answer within 60 s"), "{line}");
    assert!(
        begun.elapsed() >= Duration::from_secs(60),
        "{:?}",
        begun.elapsed()
    );
    assert!(user.has_nothing_left(), "something is left behind");
}

/// The folder of a microVM whose VMM is a process that does nothing.
fn idle_vmm(user: &User) -> (PathBuf, PathBuf) {
    let place = user.home.path("place");
    let script = format!(
        "#!/bin/sh\npwd > {0}.new\nmv {0}.new {0}\nexec sleep 1000\n",
        place.display()
    );
    let vmm = user.home.file("vmm", script);
    fs::set_permissions(&vmm, fs::Permissions::from_mode(0o755)).unwrap();
    (vmm, place)
}

/// Answers whoever connects to the guest's agent as a guest's vsock device does, then sends `nonsense`.
fn babble(place: &Path, nonsense: Vec<u8>) {
    until("no VMM", || place.exists());
    let folder = fs::read_to_string(place).unwrap();
    let listener = UnixListener::bind(Path::new(folder.trim()).join("v.sock")).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let nonsense = nonsense.clone();
            thread::spawn(move || answer(stream.unwrap(), &nonsense));
        }
    });
}

fn answer(mut stream: UnixStream, nonsense: &[u8]) {
    let mut byte = [0];
    while byte != *b"\n" && stream.read_exact(&mut byte).is_ok() {}
    let sent = stream
        .write_all(b"OK 1073741824\n")
        .and_then(|()| stream.write_all(nonsense));
    // Whoever has heard enough leaves first.
    let mut rest = Vec::new();
    let _ = sent.and_then(|()| stream.read_to_end(&mut rest));
}

/// What `koya run` says when whoever answers in the agent's place sends this.
fn line_about(nonsense: Vec<u8>) -> String {
    let user = User::new();
    let (vmm, place) = idle_vmm(&user);
    let image = user.image();
    let mut command = user.koya(&[
        "run",
        "--rm",
        "--network",
        "none",
        image.to_str().unwrap(),
        "true",
    ]);
    let running = command
        .env("KOYA_VMM", vmm)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    babble(&place, nonsense);
    let line = refusal(&ended(running), 125);
    assert!(user.has_nothing_left(), "something is left behind");
    line
}

#[test]
fn an_agent_that_talks_nonsense_is_told_about() {
    let response_of_another_kind = b"\0\0\0\x04\0\0\0\x01\x02\0\xff\xff\xff\xff".to_vec();
    let endless = b"\xff\xff\xff\xff\0\0\0\x01\x02\0".to_vec();
    let all = [noise(1 << 20), response_of_another_kind, endless, Vec::new()];
    // Each at its own pace: silence is waited for as long as a call may take.
    let lines = all.map(|nonsense| thread::spawn(|| line_about(nonsense)));
    for line in lines.map(|line| line.join().unwrap()) {
        assert!(line.contains("the agent"), "{line}");
    }
}

#[test]
fn a_microvm_that_is_killed_ends_its_container() {
    let user = User::new();
    let image = user.image();
    let words = [
        "run",
        "--name",
        "web",
        "--network",
        "none",
        image.to_str().unwrap(),
        "sleep",
        "1000",
    ];
    let running = user.begin(&words);
    await_line(&user, "web");
    succeed(Command::new("kill").args(["-KILL", &user.field("web", ".Vm.Pid")]));
    let (out, errors, code) = told(&ended(running));
    assert_eq!(code, Some(137), "{out}{errors}");
    assert!(
        errors.contains("the microVM") && errors.lines().count() == 1,
        "{errors}"
    );
    assert_eq!(user.field("web", ".State.Status"), "exited");
    assert_eq!(user.field("web", ".State.ExitCode"), "137");
    let error = user.field("web", ".State.Error");
    assert!(error.contains("the microVM ended"), "{error}");
    user.says(&["rm", "web"]);
    assert!(user.has_nothing_left(), "something is left behind");
}

/// A guest's kernel that panics on a host that breaks it now and then.
#[test]
fn a_guest_that_gives_up_while_it_boots_is_booted_once_more() {
    let user = User::new();
    let image = user.image();
    let (data, vmm) = (user.home.path("data"), from_env("KOYA_VMM"));
    fs::create_dir(&data).unwrap();
    let gives_up = |first_only: bool| {
        let count = user.home.path("boots");
        let goes_on = match first_only {
            true => format!(
                "[ $(wc -l < {}) = 1 ] || exec {} \"$@\"\n",
                count.display(),
                vmm.display()
            ),
            false => String::new(),
        };
        let script = format!(
            "#!/bin/sh\necho x >> {}\n{goes_on}echo 'Kernel panic'\n",
            count.display()
        );
        let program = user.home.file("vmm", script);
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let _ = fs::remove_file(&count);
        let volume = format!("{}:/data", data.display());
        let said = user
            .koya(&[
                "run",
                "--rm",
                "-v",
                &volume,
                image.to_str().unwrap(),
                "sh",
                "-c",
                "echo in; echo kept > /data/file",
            ])
            .env("KOYA_VMM", program)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        (told(&said), fs::read_to_string(count).unwrap().lines().count())
    };
    let ((out, errors, code), boots) = gives_up(true);
    assert_eq!((out.as_str(), code, boots), ("in\n", Some(0), 2), "{errors}");
    assert_eq!(fs::read_to_string(data.join("file")).unwrap(), "kept\n");
    let ((out, errors, code), boots) = gives_up(false);
    assert_eq!((out.as_str(), code, boots), ("", Some(125), 2), "{errors}");
    assert!(
        errors.contains("gave up while it booted") && errors.contains("Kernel panic"),
        "{errors}"
    );
    assert!(user.has_nothing_left(), "something is left behind");
}
