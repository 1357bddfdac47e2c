//! System containers: Debian with systemd, as `koya run --system` runs it. A boot of it takes its time, so there is one, and
//! each test asserts its part of what was seen.

use std::fs;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use koya_tests::vm::from_env;

use super::{PATIENCE, User, exchange, text, told};

/// What was seen of a distribution from its start to its end.
struct Visit {
    state: String,
    failed: String,
    services: String,
    page: String,
    ids: String,
    user: String,
    namespaces: String,
    neighbours_namespaces: String,
    cards: String,
    shared: String,
    nested: String,
    nested_network: String,
    second: String,
    stopped: String,
    log: String,
    left: bool,
}

/// Prints which namespaces a room's first process is in.
const NAMESPACES: &str =
    "for name in cgroup ipc mnt net pid time user uts; do readlink /proc/1/ns/$name; done";

/// Namespaces that the guest's kernel begins with, those that have numbers of their own in every Linux
/// (include/linux/proc_ns.h): the agent's.
const AGENTS: [(&str, &str); 6] = [
    ("cgroup", "cgroup:[4026531835]"),
    ("ipc", "ipc:[4026531839]"),
    ("pid", "pid:[4026531836]"),
    ("time", "time:[4026531834]"),
    ("user", "user:[4026531837]"),
    ("uts", "uts:[4026531838]"),
];

static VISIT: OnceLock<Visit> = OnceLock::new();

fn visit() -> &'static Visit {
    VISIT.get_or_init(|| {
        let user = User::new();
        let root = user.home.path("root");
        let site = user.home.path("site");
        fs::create_dir_all(&site).unwrap();
        fs::write(site.join("index.html"), "the host's page\n").unwrap();
        let image = from_env("KOYA_SYSTEM");
        let volume = format!("{}:/var/www/html", site.display());
        user.says(&[
            "run",
            "-d",
            "--name",
            "web",
            "--system",
            "-p",
            "18080:80",
            "-v",
            &volume,
            "--memory",
            "400m",
            image.to_str().unwrap(),
        ]);
        eventually(
            &user,
            &["exec", "web", "test", "-S", "/run/dbus/system_bus_socket"],
        );
        let exec = |words: &[&str]| {
            let mut all = vec!["exec", "web"];
            all.extend(words);
            let (out, errors, _) = told(&user.done(&all));
            out + &errors
        };
        let shell = |script: &str| exec(&["sh", "-c", script]);
        let state = exec(&["systemctl", "is-system-running", "--wait"]);
        let failed = exec(&["systemctl", "--failed", "--no-legend", "--plain"]);
        let services = exec(&[
            "systemctl",
            "list-units",
            "--type=service",
            "--state=running",
            "--plain",
            "--no-legend",
        ]);
        let page = exchange("127.0.0.1:18080", "GET / HTTP/1.0\r\n\r\n");
        user.says(&["cp", root.to_str().unwrap(), "web:/root/busybox"]);
        let nested =
            shell("podman run --rm --network none --rootfs /root/busybox sh -c 'echo nested as $(id -u)'");
        let nested_network = shell(
            "tar -C /root/busybox -c . | podman import --quiet - inner:1 > /dev/null && \
             podman run --rm inner:1 ls /sys/class/net && ls /var/lib/containers/storage",
        );
        user.says(&[
            "run",
            "-d",
            "--name",
            "db",
            "--vm",
            "web",
            image.to_str().unwrap(),
            "sleep",
            "1000",
        ]);
        let second = user.says(&["exec", "db", "sh", "-c", "ps -e -o args; ping -c 1 -q web"]);
        let cards = shell("ls /sys/class/net | grep ^eth");
        let log_before = user.says(&["logs", "web"]);
        Visit {
            state,
            failed,
            services,
            page,
            ids: shell("cat /proc/self/uid_map; id -u"),
            user: exec(&["-u", "www-data", "id", "-un"]),
            namespaces: shell(NAMESPACES),
            neighbours_namespaces: user.says(&["exec", "db", "sh", "-c", NAMESPACES]),
            cards,
            shared: shell("stat -c %u /var/www/html/index.html; echo theirs > /var/www/html/new"),
            nested,
            nested_network,
            second,
            stopped: {
                user.says(&["stop", "--time", "120", "web"]);
                user.field("web", ".State.ExitCode")
            },
            log: user.says(&["logs", "web"]).replacen(&log_before, "", 1),
            left: {
                assert_eq!(fs::read_to_string(site.join("new")).unwrap(), "theirs\n");
                user.says(&["rm", "-f", "web", "db"]);
                !user.has_nothing_left()
            },
        }
    })
}

/// Runs `koya` until it succeeds.
pub fn eventually(user: &User, words: &[&str]) {
    let begun = Instant::now();
    loop {
        let output = user.done(words);
        if output.status.success() {
            return;
        }
        assert!(
            begun.elapsed() < PATIENCE,
            "koya {words:?}: {}",
            text(&output.stderr)
        );
        thread::sleep(Duration::from_millis(500));
    }
}

#[test]
fn systemd_is_running_and_no_unit_has_failed() {
    let visit = visit();
    assert_eq!((visit.state.as_str(), visit.failed.as_str()), ("running\n", ""));
    for service in [
        "nginx.service",
        "cron.service",
        "dbus.service",
        "systemd-journald.service",
    ] {
        assert!(visit.services.contains(service), "{service}: {}", visit.services);
    }
}

#[test]
fn its_services_answer_at_published_ports_with_the_hosts_files() {
    let page = &visit().page;
    assert!(
        page.starts_with("HTTP/1.1 200") && page.ends_with("the host's page\n"),
        "{page}"
    );
}

#[test]
fn root_in_it_is_nobody_outside() {
    let visit = visit();
    let ids: Vec<_> = visit.ids.split_whitespace().collect();
    assert_eq!((ids[0], ids[2], ids[3]), ("0", "65536", "0"), "{ids:?}");
    assert_ne!(ids[1], "0");
    assert_eq!(visit.user, "www-data\n");
    // Files of the host that it is given belong to whom they belong there.
    assert_eq!(visit.shared, "0\n");
}

#[test]
fn all_eight_namespaces_are_its_own() {
    let visit = visit();
    let rooms: Vec<_> = visit.namespaces.lines().collect();
    let neighbours: Vec<_> = visit.neighbours_namespaces.lines().collect();
    assert_eq!(
        (rooms.len(), neighbours.len()),
        (8, 8),
        "{rooms:?} {neighbours:?}"
    );
    for (room, neighbour) in rooms.iter().zip(&neighbours) {
        assert_ne!(room, neighbour, "shared with the neighbour");
    }
    for (name, agents) in AGENTS {
        assert!(!rooms.contains(&agents), "{name} is the agent's: {rooms:?}");
    }
    // An application container has none of these two, so it tells which ones the agent's are.
    for (name, agents) in AGENTS
        .into_iter()
        .filter(|(name, _)| matches!(*name, "time" | "user"))
    {
        assert!(neighbours.contains(&agents), "{name}: {neighbours:?}");
    }
    // The agent's network has the cards of all places in the microVM.
    assert_eq!(visit.cards, "eth0\n");
}

#[test]
fn podman_runs_a_container_in_it() {
    let visit = visit();
    assert_eq!(visit.nested, "nested as 0\n");
    assert!(
        visit.nested_network.contains("eth0") && visit.nested_network.contains("lo"),
        "{}",
        visit.nested_network
    );
    // Its usual storage, not the one that copies each layer.
    let storage: Vec<_> = visit.nested_network.lines().collect();
    assert!(
        storage.contains(&"overlay") && !storage.contains(&"vfs"),
        "{storage:?}"
    );
}

#[test]
fn a_second_room_sees_its_neighbour_in_the_network_only() {
    let second = &visit().second;
    assert!(
        second.contains("sleep 1000") && !second.contains("nginx"),
        "{second}"
    );
    assert!(second.contains("1 packets transmitted, 1 received"), "{second}");
}

#[test]
fn a_stop_is_a_clean_shutdown() {
    let visit = visit();
    assert_eq!(visit.stopped, "0");
    for said in ["Stopped target", "Reached target", "Halting system."] {
        assert!(visit.log.contains(said), "{said}: {}", visit.log);
    }
    assert!(!visit.left, "something is left behind");
}
