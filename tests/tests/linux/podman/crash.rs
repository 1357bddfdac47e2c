//! Whatever of a container is killed while it works: podman sees its end, nothing is left, and the next one starts.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::{IMAGE, Podman, is_nothing_left, pids_of, until};
use crate::prepared::{Prepared, WRITER, soon};
use crate::support::{PATIENCE, kill};

/// What happens.
#[derive(Debug, Clone, Copy)]
enum Blow {
    /// The first, or the last, process of this name gets SIGKILL.
    First(&'static str),
    Last(&'static str),
    /// The guest's kernel panics.
    Agent,
    /// The guest stands still, and somebody sends SIGKILL to the container.
    Hang,
}

#[test]
fn whatever_is_killed_under_load_the_engine_sees_the_container_dead() {
    let user = Podman::new();
    let network = Prepared::new("koya-crash");
    let data = user.home.path("data");
    fs::create_dir(&data).unwrap();
    // Each shows that the next start works after the one before it.
    for blow in [
        Blow::Hang,
        Blow::Last("virtiofsd"),
        Blow::First("koya-monitor"),
        Blow::First("koya-container"),
        Blow::Agent,
        Blow::First("koya-vmm"),
    ] {
        let id = begin(&user, &network, &data);
        let mut waiter = user.podman(&user.both()[1], &["wait", "--interval", "50ms", "web"]);
        let mut waiter = waiter.stdout(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(Duration::from_secs(1));
        let start = Instant::now();
        strike(blow, &user, &data);
        while waiter.try_wait().unwrap().is_none() {
            assert!(
                start.elapsed() < PATIENCE,
                "{blow:?}: podman does not see the end"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        let took = start.elapsed();
        let code = waiter.wait_with_output().unwrap().stdout;
        println!("{blow:?}: podman knows after {} ms", took.as_millis());
        assert_eq!(code, b"137\n", "{blow:?}");
        assert!(took < patience(blow), "{blow:?}: {took:?}");
        let state = user.koya(&[
            "inspect",
            "--format",
            "{{.State.Status}} {{.State.ExitCode}}",
            "web",
        ]);
        assert_eq!(state, "exited 137\n", "{blow:?}");
        user.koya(&["rm", "web"]);
        until(&format!("{blow:?}: something is left"), is_nothing_left);
        assert_eq!(network.left(), Vec::<String>::new(), "{blow:?}");
        assert_eq!(mentions(&id), Vec::<String>::new(), "{blow:?}");
    }
}

/// How long podman may take to see the end. Of a guest that hangs, koya-runtime waits for an answer, before it believes that
/// there will be none.
fn patience(blow: Blow) -> Duration {
    match blow {
        Blow::Hang => soon() * 2,
        _ => soon(),
    }
}

/// A container that works; its id.
fn begin(user: &Podman, network: &Prepared, data: &Path) -> String {
    for name in ["file", "die"] {
        let _ = fs::remove_file(data.join(name));
    }
    let (namespace, volume) = (
        format!("ns:{}", network.path().display()),
        format!("{}:/data", data.display()),
    );
    let words = [
        "run",
        "--detach",
        "--privileged",
        "--name",
        "web",
        "--network",
        &namespace,
        "--volume",
        &volume,
        IMAGE,
        "sh",
        "-c",
        WRITER,
    ];
    let id = user.koya(&words);
    until("nothing is written", || data.join("file").exists());
    id.trim().to_owned()
}

fn strike(blow: Blow, user: &Podman, data: &Path) {
    let of = |name: &str, last: bool| {
        let mut pids = pids_of(name);
        pids.sort_unstable();
        let pid = if last { pids.last() } else { pids.first() };
        *pid.unwrap_or_else(|| panic!("no {name} runs"))
    };
    match blow {
        Blow::First(name) => kill(of(name, false), libc::SIGKILL),
        Blow::Last(name) => kill(of(name, true), libc::SIGKILL),
        Blow::Agent => fs::write(data.join("die"), "").unwrap(),
        Blow::Hang => {
            kill(of("koya-vmm", false), libc::SIGSTOP);
            user.koya(&["kill", "--signal", "KILL", "web"]);
        }
    }
}

/// Mounts and cgroups that are named after a container.
fn mentions(id: &str) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mounts = mounts.lines().map(str::to_owned);
    let cgroups = crate::support::run("find /sys/fs/cgroup -type d");
    let cgroups = cgroups.lines().map(str::to_owned).collect::<Vec<_>>();
    mounts.chain(cgroups).filter(|line| line.contains(id)).collect()
}
