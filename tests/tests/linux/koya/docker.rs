//! Docker's own engine in a system container: a container in a container in a microVM.

use std::thread;
use std::time::{Duration, Instant};

use koya_tests::vm::from_env;

use super::system::eventually;
use super::{PATIENCE, User, exchange, told};

/// What the innermost container runs: a web server with one page.
const SERVER: &str = "mkdir /www && echo 'from the innermost' > /www/index.html && \
                      exec busybox httpd -f -p 8000 -h /www";

#[test]
fn dockers_engine_runs_a_container_with_a_network_in_it() {
    let user = User::new();
    let image = from_env("KOYA_SYSTEM_DOCKER");
    user.says(&[
        "run",
        "-d",
        "--name",
        "house",
        "--system",
        "-p",
        "18081:80",
        "--memory",
        "700m",
        image.to_str().unwrap(),
    ]);
    eventually(
        &user,
        &["exec", "house", "test", "-S", "/run/dbus/system_bus_socket"],
    );
    let exec = |words: &[&str]| {
        let mut all = vec!["exec", "house"];
        all.extend(words);
        let (out, errors, _) = told(&user.done(&all));
        out + &errors
    };
    let state = exec(&["systemctl", "is-system-running", "--wait"]);
    let failed = exec(&["systemctl", "--failed", "--no-legend", "--plain"]);
    assert_eq!((state.as_str(), failed.as_str()), ("running\n", ""));
    let root = user.home.path("root");
    user.says(&["cp", root.to_str().unwrap(), "house:/root/inner"]);
    let script = format!(
        "tar -C /root/inner -c . | docker import - inner:1 > /dev/null && \
         docker run -d -p 80:8000 inner:1 sh -c \"{SERVER}\" > /dev/null && ls /var/lib/docker"
    );
    let storage = exec(&["sh", "-c", &script]);
    // Its usual one, not the one that copies each layer.
    assert!(storage.lines().any(|folder| folder == "overlay2"), "{storage}");
    // From the host into the microVM, the room, and docker's bridge.
    let begun = Instant::now();
    loop {
        let page = exchange("127.0.0.1:18081", "GET / HTTP/1.0\r\n\r\n");
        if page.ends_with("from the innermost\n") {
            break;
        }
        assert!(
            begun.elapsed() < PATIENCE,
            "{page}: {}",
            exec(&["docker", "ps", "-a"])
        );
        thread::sleep(Duration::from_millis(500));
    }
    user.says(&["rm", "-f", "house"]);
    assert!(user.has_nothing_left(), "something is left behind");
}
