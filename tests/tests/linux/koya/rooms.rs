//! Several containers in one microVM.

use super::{User, told};

#[test]
fn two_rooms_share_a_house_and_nothing_else() {
    let user = User::new();
    let image = user.image();
    let image = image.to_str().unwrap();
    user.detach("web", &[], &["sleep", "1000"]);
    user.detach("db", &["--vm", "web"], &["sleep", "2000"]);
    let vm = |name: &str| user.field(name, ".Vm.Id");
    assert_eq!(vm("web"), vm("db"));
    assert_eq!(user.field("web", ".Vm.Pid"), user.field("db", ".Vm.Pid"));
    // Processes, files and names are each one's own.
    let seen = user.says(&["exec", "db", "sh", "-c", "ps; hostname; touch /mine"]);
    assert!(
        seen.contains("sleep 2000") && !seen.contains("sleep 1000"),
        "{seen}"
    );
    let (_, _, code) = told(&user.done(&["exec", "web", "ls", "/mine"]));
    assert_eq!(code, Some(1));

    // One goes and comes back, the other stays.
    let seen =
        |name: &str| ["Status", "StartedAt", "Pid"].map(|what| user.field(name, &format!(".State.{what}")));
    let (web, db) = (seen("web"), seen("db"));
    user.says(&["stop", "--time", "0", "db"]);
    assert_eq!(user.field("db", ".State.Status"), "exited");
    user.says(&["start", "db"]);
    assert_eq!(user.says(&["exec", "db", "ls", "/mine"]), "/mine\n");
    assert_eq!(seen("web"), web);
    assert_ne!(seen("db")[1], db[1]);
    user.says(&["rm", "-f", "web"]);
    assert_eq!(user.field("db", ".State.Status"), "running");
    let line = user.refused(&["run", "--vm", "web", image, "true"], 125);
    assert!(line.contains("no such container: web"), "{line}");
    let (out, errors, code) = told(&user.done(&["run", "--rm", "--vm", "db", image, "sh", "-c", "exit 4"]));
    assert_eq!((out.as_str(), errors.as_str(), code), ("", "", Some(4)));
    user.says(&["rm", "-f", "db"]);
    assert!(user.has_nothing_left(), "something is left behind");
}

/// The microVM began with one disk for images and one network card: the others join it with those who need them.
#[test]
fn a_room_brings_as_many_networks_as_it_has() {
    let user = User::new();
    for (name, subnet) in [("inner", "10.77.0.0/24"), ("outer", "10.78.0.0/24")] {
        user.says(&["network", "create", "--subnet", subnet, name]);
    }
    user.detach("web", &["--network", "inner"], &["sleep", "1000"]);
    let both = ["--vm", "web", "--network", "inner", "--network", "outer"];
    let addresses = |name: &str| {
        let said = user.says(&[
            "exec",
            name,
            "sh",
            "-c",
            "busybox ip -o -4 addr show | grep -v 127.0.0.1",
        ]);
        said.lines()
            .map(|line| line.split_whitespace().nth(3).unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    for _ in 0..2 {
        user.detach("db", &both, &["sleep", "1000"]);
        let seen = addresses("db");
        assert!(
            seen.len() == 2 && seen[0].starts_with("10.77.0.") && seen[1].starts_with("10.78.0."),
            "{seen:?}"
        );
        user.says(&["exec", "db", "busybox", "ping", "-c", "1", "-W", "5", "web"]);
        user.says(&["rm", "-f", "db"]);
    }
    assert_eq!(addresses("web").len(), 1);
    // All places, one after the other.
    for name in ["one", "two", "three"] {
        user.detach(name, &["--vm", "web", "--network", "outer"], &["sleep", "1000"]);
        assert_eq!(addresses(name).len(), 1);
    }
    user.says(&["rm", "-f", "one", "two", "three", "web"]);
    user.says(&["network", "rm", "inner", "outer"]);
    assert!(user.has_nothing_left(), "something is left behind");
}

#[test]
fn a_full_house_says_so() {
    let user = User::new();
    let image = user.image();
    let image = image.to_str().unwrap();
    user.detach("web", &["--rooms", "1"], &["sleep", "1000"]);
    let line = user.refused(&["run", "--rm", "--vm", "web", image, "true"], 125);
    assert!(line.contains("--rooms"), "{line}");
    assert_eq!(user.field("web", ".State.Status"), "running");
    user.says(&["rm", "-f", "web"]);
    assert!(user.has_nothing_left(), "something is left behind");
}
