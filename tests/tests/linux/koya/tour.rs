//! The tour of the README, command by command as it stands there.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use koya_tests::vm::from_env;

use super::{User, told};

#[test]
fn every_command_of_the_readme_works_as_written() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = fs::read_to_string(readme).unwrap();
    let (_, tour) = readme.split_once("```sh\n").expect("the README has no tour");
    let (tour, _) = tour.split_once("```").unwrap();
    assert!(tour.lines().count() > 30, "{tour}");

    let user = User::new();
    let koya = from_env("KOYA_CLI");
    let path = format!(
        "{}:{}",
        koya.parent().unwrap().display(),
        std::env::var("PATH").unwrap()
    );
    // A port of another test may be published on this host; here nobody else is.
    let output = Command::new("unshare")
        .args(["--net", "--", "bash", "-euxo", "pipefail", "-c"])
        .arg(format!("ip link set lo up\n{tour}"))
        .current_dir(user.home.path("."))
        .env("PATH", path)
        .env("KOYA_HOME", user.home.path("home"))
        .env("debian", from_env("KOYA_SYSTEM"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let (out, errors, code) = told(&output);
    assert_eq!(code, Some(0), "{out}\n{errors}");
    for seen in [
        "Containers can run here",
        "Debian GNU/Linux 12",
        "STREAMS GO THROUGH WHOLE",
        "www-data\n/tmp\ngreen\n",
        "268435456",
        "0 loaded units listed",
        "1 received",
        "debian_version",
        "10.77.0.",
    ] {
        assert!(out.contains(seen), "{seen:?} is missing: {out}\n{errors}");
    }
    assert_eq!(out.matches("hello from the host\n").count(), 2, "{out}");
    assert!(user.has_nothing_left(), "something is left behind");
}
