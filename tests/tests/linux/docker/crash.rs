//! Whatever of a container is killed while it works: docker sees its end, nothing is left, and the next one starts.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use super::{Docker, IMAGE, cgroup, pids_of, until};
use crate::prepared::{WRITER, soon};
use crate::support::{PATIENCE, kill};

/// What is killed. By "agent", the guest's kernel panics.
const VICTIMS: [&str; 5] = ["koya-vmm", "virtiofsd", "koya-monitor", "koya-container", "agent"];

pub(super) fn whatever_is_killed_under_load_the_engine_sees_the_container_dead(engine: &Docker) {
    let data = engine.home.path("work");
    fs::create_dir(&data).unwrap();
    for victim in VICTIMS {
        let id = begin(engine, &data);
        let mut waiter = engine.docker(&["wait", "web"]);
        let mut waiter = waiter.stdout(Stdio::piped()).spawn().unwrap();
        let start = Instant::now();
        match victim {
            "agent" => fs::write(data.join("die"), "").unwrap(),
            name => kill(*pids_of(name).iter().min().unwrap(), libc::SIGKILL),
        }
        while waiter.try_wait().unwrap().is_none() {
            assert!(
                start.elapsed() < PATIENCE,
                "{victim}: docker does not see the end"
            );
            thread::sleep(Duration::from_millis(10));
        }
        let took = start.elapsed();
        println!("{victim}: docker knows after {} ms", took.as_millis());
        assert_eq!(waiter.wait_with_output().unwrap().stdout, b"137\n", "{victim}");
        assert!(took < soon(), "{victim}: {took:?}");
        engine.done(&["rm", "web"]);
        until(&format!("{victim}: something is left"), || {
            engine.is_nothing_left()
        });
        assert_eq!(mentions(engine, &id), Vec::<String>::new(), "{victim}");
    }
}

/// A container that works; its id.
fn begin(engine: &Docker, data: &Path) -> String {
    for name in ["file", "die"] {
        let _ = fs::remove_file(data.join(name));
    }
    let volume = format!("{}:/data", data.display());
    let line = format!("run --detach --privileged --runtime koya --name web --volume {volume} {IMAGE} sh -c");
    let mut words: Vec<_> = line.split_whitespace().collect();
    words.push(WRITER);
    let id = engine.done(&words);
    until("nothing is written", || data.join("file").exists());
    id.trim().to_owned()
}

/// Mounts and cgroups that are named after a container, and interfaces that the engine made for it.
fn mentions(engine: &Docker, id: &str) -> Vec<String> {
    let mounts = fs::read_to_string(format!("/proc/{}/mounts", engine.engine.id())).unwrap();
    let mounts = mounts.lines().filter(|line| line.contains(id)).map(str::to_owned);
    let cgroups = fs::read_dir(Path::new("/sys/fs/cgroup").join(cgroup())).unwrap();
    let cgroups = cgroups.map(|entry| entry.unwrap().path().display().to_string());
    let output = engine.inside("ip").args(["-oneline", "link"]).output().unwrap();
    let links = String::from_utf8(output.stdout).unwrap();
    let links = links
        .lines()
        .filter(|line| line.contains("veth") || line.contains("tap"));
    mounts
        .chain(cgroups.filter(|path| path.contains(id)))
        .chain(links.map(str::to_owned))
        .collect()
}
