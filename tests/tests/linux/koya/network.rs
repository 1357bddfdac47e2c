//! Networks of containers, from the command line.

use super::{User, exchange, refusal, told, until};

/// A server that says one word to everybody who connects.
fn serve(user: &User, name: &str, options: &[&str], word: &str) {
    let script = format!("busybox nc -ll -p 80 -e busybox echo {word}");
    let mut all = vec!["--vm-memory", "128m"];
    if options.contains(&"--vm") {
        all.clear();
    }
    all.extend(options);
    user.detach(name, &all, &["sh", "-c", &script]);
}

#[test]
fn containers_are_reached_by_port_and_by_name_and_leave_nothing() {
    let user = User::new();
    assert_eq!(
        user.says(&["network", "create", "--subnet", "10.77.0.0/24", "inner"]),
        "inner\n"
    );
    serve(
        &user,
        "web",
        &["-p", "18081:80", "--network", "inner"],
        "web-answers",
    );
    until("the port is not published", || {
        exchange("127.0.0.1:18081", "") == "web-answers\n"
    });
    let listed = user.says(&["ps", "--format", "{{.Ports}}"]);
    assert_eq!(listed, "0.0.0.0:18081->80/tcp\n");
    assert_eq!(user.says(&["port", "web"]), "80/tcp -> 0.0.0.0:18081\n");
    assert_eq!(user.says(&["port", "web", "80"]), "0.0.0.0:18081\n");
    let line = user.refused(&["port", "web", "80/udp"], 125);
    assert!(
        line.contains("no port of the host leads to port 80/udp of container web"),
        "{line}"
    );
    let address = user.field("web", ".NetworkSettings.IPAddress");
    assert!(address.starts_with("10.77.0."), "{address}");

    // Somebody else in the network, in a microVM of his own.
    let asked = [
        "sh",
        "-c",
        "busybox nc web 80 < /dev/null; busybox ip -4 addr show eth0",
    ];
    let (out, errors, _) = told(&user.run(&["--network", "inner", "--vm-memory", "128m"], &asked));
    assert!(
        out.starts_with("web-answers\n") && out.contains("10.77.0."),
        "{out}{errors}"
    );
    // The port is taken, and the network in use.
    let line = refusal(&user.run(&["-p", "18081:80"], &["true"]), 125);
    assert!(line.contains("18081"), "{line}");
    let line = user.refused(&["network", "rm", "inner"], 1);
    assert!(line.contains("inner"), "{line}");
    user.says(&["rm", "-f", "web"]);
    user.says(&["network", "rm", "inner"]);
    assert!(user.has_nothing_left(), "something is left behind");
    let (out, ..) = told(&user.run(&["--network", "none"], &["ls", "/sys/class/net"]));
    assert_eq!(out, "lo\n");
}

#[test]
fn two_rooms_of_one_house_have_the_same_port() {
    let user = User::new();
    serve(&user, "one", &["-p", "18082:80"], "first");
    serve(&user, "two", &["--vm", "one", "-p", "18083:80"], "second");
    until("the first does not answer", || {
        exchange("127.0.0.1:18082", "") == "first\n"
    });
    until("the second does not answer", || {
        exchange("127.0.0.1:18083", "") == "second\n"
    });
    let said = user.says(&["exec", "one", "sh", "-c", "busybox nc two 80 < /dev/null"]);
    assert_eq!(said, "second\n");
    user.says(&["rm", "-f", "one", "two"]);
    assert!(user.has_nothing_left(), "something is left behind");
}
