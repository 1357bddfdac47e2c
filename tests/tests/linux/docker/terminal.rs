//! Containers and processes at a terminal: `-it`.

use super::{BOTH, Docker, IMAGE, until};
use crate::terminals::{Client, LISTENER, conversation};

pub(super) fn at_a_terminal_a_container_is_as_with_runc(engine: &Docker) {
    let [runc, koya] = BOTH.map(|name| {
        let line = format!("run -it --name {name} --runtime {name} --network none {IMAGE} sh -c");
        let mut words: Vec<_> = line.split_whitespace().collect();
        words.push(LISTENER);
        let client = Client {
            command: &|words| engine.docker(words),
            leaves: 1,
            stays: 5,
        };
        conversation(&client, name, &words)
    });
    assert_eq!(koya, runc);
    engine.same(&["rm", "{}"]);
    until("something is left of the containers", || engine.is_nothing_left());
}
