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
