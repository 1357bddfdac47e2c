//! What is done with a container from `podman create` to `podman rm`, one line after the other.

use std::fs;
use std::process::Stdio;
use std::thread;

use koya_tests::vm::Vm;

use super::{IMAGE, Podman, is_nothing_left, until};
use crate::support::{Said, fed, succeed};

/// Listens, and tells what it hears.
const LISTENER: &str =
    "trap 'echo heard' USR1; trap 'echo bye; exit 3' TERM; echo begun; while :; do sleep 1; done";

/// What the containers are made with.
const OPTIONS: &str = "--network none --hostname box --label colour=red --annotation org.example=kept --stop-signal TERM \
                       --stop-timeout 25 --volume /kept";

/// Before anything runs in them.
const BEFORE: [&str; 7] = [
    "ps --all --filter name={} --format {{.Names}}-{{.State}}-{{.Image}}",
    "exec {} true",
    "init {}",
    "inspect --format {{.State.Status}}-{{.Config.StopSignal}}-{{.Config.StopTimeout}} {}",
    "cp {}:/etc/passwd -",
    "start {}",
    "ps --filter label=colour=red --filter name={} --format {{.Names}}-{{.Image}}",
];

/// While they run.
const WHILE: [&str; 24] = [
    "wait --condition running {}",
    "exec --workdir /tmp --env-file HOME/vars {} sh -c pwd;echo,$A",
    "cp HOME/tree {}:/tmp/copied",
    "exec {} ls -lR /tmp/copied/deep",
    "cp HOME/tree {}:/no/such/folder/x",
    "rename {} other-{}",
    "inspect --format {{.Name}} other-{}",
    "rename other-{} {}",
    "port {}",
    "logs --tail 0 {}",
    "logs --since 1h {}",
    "logs --until 2001-01-01T00:00:00Z {}",
    "stats --no-stream --format {{.Name}} {}",
    "inspect --format {{.Config.Labels}}-{{range,.Mounts}}{{.Type}}-{{.Destination}}{{end}} {}",
    "pause {}",
    "pause {}",
    "exec {} true",
    "ps --filter status=paused --filter name={} --format {{.Names}}",
    "unpause {}",
    "unpause {}",
    "start {}",
    "kill --signal NOSUCH {}",
    "kill --signal 10 {}",
    "exec {} sh -c echo,kept,>,/kept/file;echo,kept,>,/root/file",
];

/// As they end, and begin again.
const AFTER: [&str; 17] = [
    "ps --all --filter exited=3 --filter name={} --format {{.Names}}-{{.Image}}",
    "kill {}",
    "pause {}",
    "stop {}",
    "wait {}",
    "restart --time 0 {}",
    "exec {} cat /kept/file /root/file",
    "kill --signal KILL {}",
    "wait {}",
    "inspect --format {{.State.Status}}-{{.State.ExitCode}}-{{.State.Running}} {}",
    "start {}",
    "stop --time 0 {}",
    "commit --quiet --change CMD=/bin/id --author somebody {} made-{}",
    "image inspect --format {{.Config.Cmd}}-{{.Author}} made-{}",
    "rm --volumes {}",
    "rmi made-{}",
    "volume ls --quiet",
];

#[test]
fn turn_after_turn_is_as_with_crun() {
    let user = Podman::new();
    fs::create_dir_all(user.home.path("tree/deep")).unwrap();
    fs::write(user.home.path("tree/deep/program"), "echo ran\n").unwrap();
    fs::write(user.home.path("vars"), "A=1\n").unwrap();
    let mut create = vec!["create", "--name", "{}"];
    create.extend(OPTIONS.split_whitespace());
    create.extend([IMAGE, "sh", "-c", LISTENER]);
    user.same_of(&create);
    let mut differences = Vec::new();
    lines(&user, &BEFORE, &mut differences);
    until("they do not begin", || logs_have(&user, "begun"));
    let followers = ["crun", "koya"].map(|name| Follower::of(&user, name));
    lines(&user, &WHILE, &mut differences);
    until("the signal does not arrive", || logs_have(&user, "heard"));
    for follower in &followers {
        follower.shows("heard\n");
    }
    streams(&user, &mut differences);
    whoever_is_attached_sees_the_end(&user, &mut differences);
    let followed = followers.map(Follower::ends);
    assert!(followed[1].0.ends_with("bye\n"), "{followed:?}");
    assert_eq!(followed[1], followed[0], "podman logs --follow");
    lines(&user, &AFTER, &mut differences);
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    until("something is left of the containers", is_nothing_left);
}

fn logs_have(user: &Podman, word: &str) -> bool {
    let logs = user.answers_of(&["logs", "{}"]);
    logs.iter().all(|said| said.out.contains(word))
}

/// Words are divided by spaces, and spaces in them are commas.
fn lines(user: &Podman, lines: &[&str], differences: &mut Vec<String>) {
    let home = user.home.path("");
    let home = home.to_str().unwrap().trim_end_matches('/');
    for line in lines {
        let words = line
            .split(' ')
            .map(|word| word.replace(',', " ").replace("HOME", home));
        let words: Vec<_> = words.collect();
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        note(line, user.answers_of(&words), differences);
    }
}

fn note(line: &str, [crun, koya]: [Said; 2], differences: &mut Vec<String>) {
    if crun != koya {
        differences.push(format!("podman {line}\n  crun: {crun:?}\n  koya: {koya:?}"));
    }
}

/// What goes in and out as a stream, or with the time of day.
fn streams(user: &Podman, differences: &mut Vec<String>) {
    let both = |words: &dyn Fn(&str) -> Vec<String>, typed: &[u8]| {
        ["crun", "koya"].map(|name| {
            let words = words(name);
            let words: Vec<_> = words.iter().map(String::as_str).collect();
            fed(
                &mut user.podman(&user.both()[usize::from(name == "koya")], &words),
                typed,
            )
        })
    };
    let words = |line: &'static str| {
        move |name: &str| {
            line.split(' ')
                .map(|word| word.replace("{}", name))
                .collect::<Vec<_>>()
        }
    };
    let mut tar = std::process::Command::new("tar");
    tar.arg("-C")
        .arg(user.home.path("tree"))
        .args(["-cf", "-", "deep"]);
    let tar = tar.output().unwrap().stdout;
    let copied = both(&words("cp - {}:/root"), &tar);
    assert_eq!(copied[0].code, Some(0), "{copied:?}");
    note("cp - {}:/root", copied, differences);
    note(
        "exec {} cat",
        user.answers_of(&["exec", "{}", "cat", "/root/deep/program"]),
        differences,
    );
    let typed = "typed\n".repeat(5000);
    let line = "exec --interactive {} sha256sum";
    note(line, both(&words(line), typed.as_bytes()), differences);
    let mut stamped = user.answers_of(&["logs", "--timestamps", "{}"]);
    for said in &mut stamped {
        let lines = said.out.lines().map(|line| line.split_once(' ').unwrap());
        let lines =
            lines.map(|(time, said)| format!("{} {said}\n", time.len() > 20 && time.starts_with("20")));
        said.out = lines.collect();
    }
    note("logs --timestamps {}", stamped, differences);
    // All of its files, as an archive.
    let listed = ["crun", "koya"].map(|name| {
        let tar = user.home.path(&format!("{name}.tar"));
        let words = ["export", "--output", tar.to_str().unwrap(), name];
        let said = user.said(&user.both()[usize::from(name == "koya")], &words);
        assert_eq!(said.code, Some(0), "{said:?}");
        let listed = succeed(std::process::Command::new("tar").arg("-tf").arg(&tar));
        let mut listed: Vec<_> = listed.lines().map(str::to_owned).collect();
        listed.sort();
        Said {
            out: listed.join("\n"),
            errors: String::new(),
            code: Some(0),
        }
    });
    note("export {}", listed, differences);
}

fn whoever_is_attached_sees_the_end(user: &Podman, differences: &mut Vec<String>) {
    let seen = ["crun", "koya"].map(|name| {
        let runtime = &user.both()[usize::from(name == "koya")];
        let attach = user
            .podman(runtime, &["attach", "--no-stdin", "--sig-proxy=false", name])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let seen = thread::spawn(move || Said::of(&attach.wait_with_output().unwrap()));
        thread::sleep(std::time::Duration::from_secs(3));
        let stopped = user.said(runtime, &["stop", name]);
        assert_eq!(stopped.code, Some(0), "{stopped:?}");
        seen.join().unwrap()
    });
    assert!(seen[1].out.starts_with("bye\n"), "{:?}", seen[1]);
    note("attach {}", seen, differences);
}

/// `podman logs --follow` of a container that has begun.
struct Follower(Vm);

impl Follower {
    fn of(user: &Podman, name: &str) -> Self {
        let runtime = &user.both()[usize::from(name == "koya")];
        let mut command = user.podman(runtime, &["logs", "--follow", name]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let follower = Self(Vm::spawn_as_it_is(command));
        follower.shows("begun\n");
        follower
    }

    /// Waits until a line has come.
    fn shows(&self, line: &str) {
        self.0.expect(line);
    }

    /// Ends by itself with the container; all that it has shown, and its exit code.
    fn ends(mut self) -> (String, Option<i32>) {
        let code = self.0.wait().code();
        (self.0.console.text(), code)
    }
}
