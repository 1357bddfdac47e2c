//! What is around a task: the operator's file, the cgroup of the host, a program that takes the output, and who is told of a
//! want of memory.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::life::{is, listen};
use super::{Containerd, IMAGE, KOYA, pids_of, until};

/// Speaks, and takes all memory there is as soon as it may.
const EATER: &str = "echo output; echo errors >&2; grep MemTotal /proc/meminfo; until test -e /data/go; do sleep 0.2; done; \
                     x=0123456789abcdef; while :; do x=$x$x; done";
/// A logger: its arguments are `to FOLDER`.
const LOGGER: &str = "#!/bin/sh\nexec 5>&-\necho \"$CONTAINER_NAMESPACE $CONTAINER_ID\" > \"$2/who\"\n\
                      cat <&3 > \"$2/out\" &\ncat <&4 > \"$2/errors\"\nwait\necho done > \"$2/done\"\n";

pub(super) fn what_the_operator_does_not_allow_is_refused(engine: &Containerd) {
    let refused = |settings: &str, wanted: &str| {
        engine.home.file("koya.toml", settings);
        let options = [
            "run",
            "--rm",
            "--annotation",
            "dev.koya.vcpus=2",
            "--runtime",
            KOYA,
        ];
        let said = engine.said(&[&options[..], &[IMAGE, "refused", "true"]].concat());
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.errors.contains(wanted), "{said:?}");
        engine.is_clean("something is left of what was refused");
    };
    refused(
        "[container]\n\ncolour = 1\n",
        "koya.toml\", line 3: unknown field `colour`",
    );
    refused("pods = 1\n", "koya.toml\", line 1: unknown field `pods`");
    refused("annotations = [\"dev.koya.memory-mib\"]\n", "dev.koya.vcpus");
}

pub(super) fn a_logger_takes_the_output_and_a_want_of_memory_is_told(engine: &Containerd) {
    engine.home.file("koya.toml", "[container]\nmemory_mib = 300\n");
    let (data, logs) = (engine.folder("data"), engine.folder("logs"));
    let logger = engine.home.file("logger", LOGGER);
    fs::set_permissions(&logger, fs::Permissions::from_mode(0o755)).unwrap();
    let log = format!("binary://{}?to={}", logger.display(), logs.display());
    let mount = format!("type=bind,src={},dst=/data,options=rbind:rw", data.display());
    let options = [
        "--detach",
        "--log-uri",
        &log,
        "--memory-limit",
        "50331648",
        "--mount",
        &mount,
        "--runtime",
        KOYA,
    ];
    let events = listen(engine);
    engine.done(&[&["run"], &options[..], &[IMAGE, "web", "sh", "-c", EATER]].concat());
    let taken = |name: &str| fs::read_to_string(logs.join(name)).unwrap_or_default();
    until("the logger gets nothing", || taken("out").contains("MemTotal"));
    let out = taken("out");
    let memory: u64 = out.split_whitespace().nth(2).unwrap().parse().unwrap();
    assert!(
        out.starts_with("output\n") && (240 << 10..300 << 10).contains(&memory),
        "{out}"
    );
    assert_eq!(taken("errors"), "errors\n");
    assert_eq!(taken("who"), format!("{} web\n", engine.namespace));
    is_counted(engine);
    fs::write(data.join("go"), "").unwrap();
    is(engine, "STOPPED");
    let told = || fs::read_to_string(engine.home.path("events")).unwrap();
    until("no end is told", || told().contains("/tasks/exit"));
    let (oom, exit) = (told().find("/tasks/oom"), told().find("/tasks/exit"));
    assert!(oom.is_some() && oom < exit, "{}", told());
    let said = engine.said(&["tasks", "delete", "web"]);
    assert!(said.errors.contains("exit code 137"), "{said:?}");
    assert_eq!(taken("done"), "done\n");
    engine.done(&["containers", "rm", "web"]);
    let cgroup = cgroup(engine);
    assert!(!cgroup.exists(), "{cgroup:?}");
    let mut events = events;
    let _ = events.kill();
    let _ = events.wait();
}

fn cgroup(engine: &Containerd) -> std::path::PathBuf {
    format!("/sys/fs/cgroup/{}/web", engine.namespace).into()
}

/// All that a task costs the host is in its cgroup.
fn is_counted(engine: &Containerd) {
    let inside = fs::read_to_string(cgroup(engine).join("cgroup.procs")).unwrap();
    let inside: Vec<u32> = inside.lines().map(|pid| pid.parse().unwrap()).collect();
    for pid in ["koya-vmm", "virtiofsd", "koya-monitor", "koya-container"]
        .into_iter()
        .flat_map(pids_of)
        .chain(engine.shims())
    {
        assert!(inside.contains(&pid), "{pid} is not in {inside:?}");
    }
}
