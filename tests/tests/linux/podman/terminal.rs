//! Containers and processes at a terminal: `-it`.

use super::{IMAGE, Podman, is_nothing_left, until};
use crate::terminals::{Client, LISTENER, conversation};

#[test]
fn at_a_terminal_a_container_is_as_with_crun() {
    let user = Podman::new();
    let shown = ["crun", "koya"].map(|name| {
        let runtime = &user.both()[usize::from(name == "koya")];
        let words = [
            "run",
            "-it",
            "--name",
            name,
            "--network",
            "none",
            IMAGE,
            "sh",
            "-c",
            LISTENER,
        ];
        let client = Client {
            command: &|words| user.podman(runtime, words),
            leaves: 0,
            stays: 0,
        };
        let shown = conversation(&client, name, &words);
        shown
            .into_iter()
            .map(|text| text.replace(name, "{}"))
            .collect::<Vec<_>>()
    });
    let [crun, koya] = shown;
    assert_eq!(koya, crun);
    let ended = [
        "inspect",
        "--format",
        "{{.State.Status}} {{.State.ExitCode}}",
        "{}",
    ];
    assert_eq!(user.same_of(&ended).out, "exited 5\n");
    user.same_of(&["rm", "{}"]);
    until("something is left of the containers", is_nothing_left);
}
