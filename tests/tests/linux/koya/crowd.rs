//! Many at once.

use std::fs::File;
use std::process::{Child, Stdio};

use super::{User, ended, told};

/// How many processes enter at once. On the only processor of an emulated host each takes a quarter of a second, most of it
/// for `koya` itself.
const CROWD: usize = 200;

#[test]
fn many_processes_enter_a_container_and_none_is_lost_or_mixed_up() {
    let user = User::new();
    user.detach("web", &["--network", "none"], &["sleep", "10000"]);
    let enter = |number: usize| -> Child {
        let script = format!(
            "read word; echo out $word; echo err {number} >&2; exit {}",
            number % 100
        );
        let mut command = user.koya(&["exec", "-i", "web", "sh", "-c", &script]);
        let input = user.home.file(&format!("word-{number}"), format!("{number}\n"));
        command
            .stdin(File::open(input).unwrap())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let running: Vec<_> = (0..CROWD).map(enter).collect();
    for (number, child) in running.into_iter().enumerate() {
        let (out, errors, code) = told(&ended(child));
        let expected = (
            format!("out {number}\n"),
            format!("err {number}\n"),
            Some((number % 100) as i32),
        );
        assert_eq!((out, errors, code), expected);
    }
    // None of them stayed.
    let left = user.says(&["exec", "web", "ps"]);
    assert_eq!(left.matches("sh -c").count(), 0, "{left}");
    user.says(&["rm", "-f", "web"]);
    assert!(user.has_nothing_left(), "something is left behind");
}
