//! Standard streams whose other end goes away, or never was: nobody waits for them, and the program gets to know it as with
//! runc.

use std::fs;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::Bench;
use crate::support::{PATIENCE, Said, fed};

fn ended(mut child: Child, what: &str) -> Option<i32> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        if start.elapsed() > PATIENCE {
            let _ = child.kill();
            panic!("{what}");
        }
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_stream_whose_other_end_is_gone_keeps_nobody_waiting() {
    let bench = Bench::new();
    let runc = || {
        let mut command = Command::new("runc");
        command.arg("--root").arg(bench.path("runc")).args(["run", "web"]);
        command.current_dir(bench.path("bundle"));
        command
    };
    let write = |script: &str| {
        let mut spec = bench.spec(script);
        spec["ociVersion"] = "1.0.2".into();
        // So that runc's container can write down how a program of it ended.
        spec["root"]["readonly"] = false.into();
        bench.write(&spec);
    };

    // Who reads has had enough: the program that writes ends as it does with runc, and so does the one after it.
    write("yes; echo $? > /code; exit 3");
    let codes = [bench.runtime(&["run", "web"]), runc()].map(|mut command| {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let mut begin = [0; 4];
        stdout.read_exact(&mut begin).unwrap();
        assert_eq!(&begin, b"y\ny\n");
        drop(stdout);
        let code = ended(child, "it writes for ever");
        let told = fs::read_to_string(bench.root().join("code")).unwrap();
        fs::remove_file(bench.root().join("code")).unwrap();
        (code, told)
    });
    assert_eq!(codes[0].0, Some(3));
    assert_eq!(codes[0], codes[1]);

    // What is typed arrives, and its end; what comes after the program's own end keeps nobody.
    write("cat; echo end; exit 4");
    let typed = "typed\n".repeat(50_000);
    let said =
        [bench.runtime(&["run", "web"]), runc()].map(|mut command| fed(&mut command, typed.as_bytes()));
    let wanted = Said {
        out: format!("{typed}end\n"),
        errors: String::new(),
        code: Some(4),
    };
    assert!(
        said[0] == wanted && said[1] == wanted,
        "{:?} {:?}",
        said[0].code,
        said[0].errors
    );
    write("head -c 5; exit 5");
    for (command, more) in [
        (bench.runtime(&["run", "web"]), true),
        (bench.runtime(&["run", "web"]), false),
    ] {
        let mut command = command;
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(b"typed").unwrap();
        let typing = thread::spawn(move || {
            // Far more than pipes hold, to nobody; or nothing, with an end that never comes.
            while more && stdin.write_all(&[0; 4096]).is_ok() {}
            stdin
        });
        assert_eq!(ended(child, "it waits for what is typed"), Some(5), "{more}");
        drop(typing.join().unwrap());
    }

    // None at all.
    let run = bench.runtime(&["run", "web"]);
    write("cat; echo lost; echo lost >&2; exit 6");
    let mut command = Command::new("sh");
    command
        .args(["-c", "exec \"$@\" <&- >&- 2>&-", "sh"])
        .arg(run.get_program())
        .args(run.get_args());
    for (name, value) in run.get_envs() {
        command.env(name, value.unwrap());
    }
    command.current_dir(bench.path("bundle"));
    assert_eq!(ended(command.spawn().unwrap(), "it misses its streams"), Some(6));
    bench.is_clean("something is left of a container without streams");
}
