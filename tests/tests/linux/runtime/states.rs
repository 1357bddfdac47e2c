//! What the lifecycle does not allow, call by call.

use super::Bench;
use crate::support::until;

#[test]
fn each_call_is_refused_in_the_states_that_it_is_not_for() {
    let bench = Bench::new();
    bench.spec("while :; do sleep 1; done");
    let taken = "container with id 'web' already exists";
    let refused = |words: &[&str], wanted: &str, kind: &str| {
        assert_eq!(
            bench.refusal(words),
            (wanted.to_owned(), kind.to_owned()),
            "{words:?}"
        );
    };
    let in_state = |status: &str, calls: &[(&[&str], &str)]| {
        for (words, wanted) in calls {
            refused(
                words,
                &format!("container 'web' is {status}; only a {wanted}"),
                "state",
            );
        }
    };
    let pause = "running one can be paused";
    let resume = "paused one can be resumed";
    let exec = "running one can be exec'd into";
    let start = "created one can be started";
    let delete = "stopped one can be deleted";

    bench.done(&["create", "web"]);
    in_state("created", &[(&["resume", "web"], resume)]);
    refused(&["create", "web"], taken, "exists");
    bench.done(&["start", "web"]);
    in_state("running", &[(&["resume", "web"], resume)]);
    refused(&["run", "web"], taken, "exists");
    bench.done(&["pause", "web"]);
    in_state(
        "paused",
        &[
            (&["pause", "web"], pause),
            (&["exec", "web", "true"], exec),
            (&["start", "web"], start),
            (&["delete", "web"], delete),
        ],
    );
    // Also one whose processes stand still.
    bench.done(&["kill", "web", "KILL"]);
    until("it does not stop", || bench.state()["status"] == "stopped");
    in_state(
        "stopped",
        &[
            (&["start", "web"], start),
            (&["exec", "web", "true"], exec),
            (&["pause", "web"], pause),
            (&["resume", "web"], resume),
            (
                &["kill", "--all", "web"],
                "created or running one can be sent a signal",
            ),
            (
                &["update", "--pids-limit", "9", "web"],
                "created or running one can be updated",
            ),
            (
                &["ps", "web"],
                "created or running one can be asked for its processes",
            ),
            (
                &["events", "web"],
                "created or running one can be asked what it uses",
            ),
            (
                &["events", "--stats", "web"],
                "created or running one can be asked what it uses",
            ),
        ],
    );
    refused(&["create", "web"], taken, "exists");
    bench.done(&["delete", "web"]);
    for words in [
        &["start", "web"][..],
        &["state", "web"],
        &["kill", "web"],
        &["delete", "web"],
        &["exec", "web", "true"],
        &["pause", "web"],
        &["resume", "web"],
        &["update", "--pids-limit", "9", "web"],
        &["ps", "web"],
        &["events", "web"],
    ] {
        refused(words, "container 'web' does not exist", "not-found");
    }
    bench.done(&["delete", "--force", "web"]);
    bench.is_clean("something is left of a container that was deleted");
}
