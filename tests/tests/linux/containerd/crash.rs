//! Whatever of a task is killed while it works: containerd tells its end, nothing is left, and the next one starts.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::life::{is, listen, task};
use super::{Containerd, IMAGE, KOYA, PATIENCE, kill, pids_of, until};
use crate::prepared::{Prepared, WRITER, soon};

pub(super) fn whatever_is_killed_the_task_is_dead(engine: &Containerd) {
    let network = Prepared::new("koya-tasks");
    let data = engine.folder("data");
    let mut events = listen(engine);
    let told = || fs::read_to_string(engine.home.path("events")).unwrap();
    for victim in ["shim", "virtiofsd", "koya-monitor", "agent", "koya-vmm"] {
        let before = told().len();
        begin(engine, &network, &data);
        // So that the end is heard as well.
        until("no start is told", || told()[before..].contains("/tasks/start"));
        let before = told().len();
        let start = Instant::now();
        match victim {
            "shim" => kill(engine.shims()[0], libc::SIGKILL),
            "agent" => fs::write(data.join("die"), "").unwrap(),
            name => kill(pids_of(name)[0], libc::SIGKILL),
        }
        let exit = || {
            let told = told();
            let line = told[before..].lines().find(|line| line.contains("/tasks/exit"));
            line.map(str::to_owned)
        };
        while exit().is_none() {
            let took = start.elapsed();
            assert!(took < PATIENCE, "{victim}: no end is told of {:?}", task(engine));
            thread::sleep(Duration::from_millis(10));
        }
        let took = start.elapsed();
        println!("{victim}: containerd tells the end after {} ms", took.as_millis());
        assert!(took < soon(), "{victim}: {took:?}");
        let exit = exit().unwrap();
        assert!(exit.contains("\"exit_status\":137"), "{victim}: {exit}");
        // Without its shim, a task is known no more.
        match victim {
            "shim" => until("containerd still knows it", || task(engine).is_none()),
            _ => {
                is(engine, "STOPPED");
                engine.said(&["tasks", "delete", "web"]);
            }
        }
        engine.done(&["containers", "rm", "web"]);
        engine.is_clean(&format!("{victim}: something is left"));
        assert_eq!(network.left(), Vec::<String>::new(), "{victim}");
        let cgroup = Path::new("/sys/fs/cgroup").join(&engine.namespace).join("web");
        assert!(!cgroup.exists(), "{victim}: {cgroup:?}");
    }
    let _ = events.kill();
    let _ = events.wait();
}

fn begin(engine: &Containerd, network: &Prepared, data: &Path) {
    for name in ["file", "die"] {
        let _ = fs::remove_file(data.join(name));
    }
    let log = format!("file://{}", engine.home.path("said").display());
    let namespace = format!("network:{}", network.path().display());
    let mount = format!("type=bind,src={},dst=/data,options=rbind:rw", data.display());
    let options = [
        "--detach",
        "--privileged",
        "--log-uri",
        &log,
        "--with-ns",
        &namespace,
        "--mount",
        &mount,
        "--runtime",
        KOYA,
    ];
    engine.done(&[&["run"], &options[..], &[IMAGE, "web", "sh", "-c", WRITER]].concat());
    until("nothing is written", || data.join("file").exists());
}
