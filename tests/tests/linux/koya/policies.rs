//! What a monitor does by itself: containers that are started again, and health checks.

use std::thread;
use std::time::Duration;

use super::{User, until};
use crate::support::kill;

/// Ends the first time, and runs from the second on.
const SECOND: &str = "echo up; if [ ! -e /was ]; then touch /was; exit 0; fi; exec sleep 1000";

#[test]
fn a_container_that_ends_is_started_again_as_its_policy_says() {
    let user = User::new();
    user.detach(
        "flaky",
        &["--restart", "on-failure:2"],
        &["sh", "-c", "echo tried; exit 7"],
    );
    until("it is not given up", || {
        user.field("flaky", ".State.Status") == "exited"
    });
    assert_eq!(user.field("flaky", ".RestartCount"), "2");
    assert_eq!(user.field("flaky", ".State.ExitCode"), "7");
    assert_eq!(user.says(&["logs", "flaky"]), "tried\n".repeat(3));
    user.says(&["rm", "flaky"]);

    user.detach("web", &["--restart", "always"], &["sh", "-c", SECOND]);
    let ups = |count| {
        until("it does not start again", || {
            user.says(&["logs", "web"]) == "up\n".repeat(count)
                && user.field("web", ".State.Status") == "running"
        });
    };
    ups(2);
    let always = ["ps", "--filter", "restart=always", "--format", "{{.Names}}"];
    assert_eq!(user.says(&always), "web\n");
    // A microVM that dies is no end either.
    let vmm = user.field("web", ".Vm.Pid").parse::<u32>().unwrap();
    kill(vmm, libc::SIGKILL);
    ups(3);
    assert_eq!(user.says(&["exec", "web", "ls", "/was"]), "/was\n");
    assert_eq!(user.field("web", ".RestartCount"), "2");
    // What somebody stops stays so, and begins anew.
    user.says(&["stop", "--time", "0", "web"]);
    thread::sleep(Duration::from_secs(2));
    assert_eq!(user.field("web", ".State.Status"), "exited");
    user.says(&["start", "web"]);
    ups(4);
    assert_eq!(user.field("web", ".RestartCount"), "0");
    user.says(&["kill", "web"]);
    until("it starts again although it was killed", || {
        user.field("web", ".State.Status") == "exited"
    });
    user.says(&["rm", "web"]);

    // One that waits for its next try is stopped and removed as any other.
    user.detach("loop", &["--restart", "always"], &["sh", "-c", "exit 1"]);
    let waits = || user.says(&["ps"]).contains("Restarting (1) ");
    until("it does not wait", waits);
    assert!(user.refused(&["rm", "loop"], 1).contains("is running"));
    user.says(&["stop", "loop"]);
    assert_eq!(user.field("loop", ".State.Status"), "exited");
    user.says(&["start", "loop"]);
    until("it does not wait", waits);
    user.says(&["rm", "--force", "loop"]);

    // Two that wait for a microVM that has died: each by itself, and others may use the microVM meanwhile.
    let always = ["--restart", "always"];
    let slow = "sleep 3; exit 1";
    user.detach("one", &always, &["sh", "-c", slow]);
    user.detach(
        "two",
        &["--restart", "always", "--vm", "one"],
        &["sh", "-c", slow],
    );
    let vmm = user.field("one", ".Vm.Pid").parse::<u32>().unwrap();
    kill(vmm, libc::SIGKILL);
    user.says(&["stop", "two"]);
    assert_eq!(user.field("two", ".State.Status"), "exited");
    user.says(&["rm", "two"]);
    until("it does not start again", || {
        user.field("one", ".State.Status") == "running"
    });
    user.says(&["rm", "--force", "one"]);
    let image = user.image();
    let line = user.refused(
        &["run", "--rm", "--restart", "always", image.to_str().unwrap()],
        125,
    );
    assert!(line.contains("--rm and --restart exclude each other"), "{line}");
    until("something is left behind", || user.has_nothing_left());
}

#[test]
fn a_health_check_finds_out_whether_a_container_is_well() {
    let user = User::new();
    let options = [
        "--health-cmd",
        "echo looked as $(id -u); cat /well || sleep 60",
        "--health-interval",
        "1s",
        "--health-timeout",
        "5s",
        "--health-retries",
        "2",
        "--user",
        "7",
        "--tmpfs",
        "/well.d",
    ];
    user.detach("web", &options, &["sleep", "1000"]);
    let health = || user.field("web", ".State.Health.Status");
    assert!(user.says(&["ps"]).contains("(health: starting)"));
    // It takes too long, twice.
    until("it is not found unwell", || health() == "unhealthy");
    let log = user.says(&["inspect", "--format", "{{json .State.Health.Log}}", "web"]);
    assert!(log.contains("longer than 5000 ms"), "{log}");
    user.says(&[
        "exec",
        "--user",
        "0",
        "web",
        "sh",
        "-c",
        "echo fine > /well; chmod 644 /well",
    ]);
    until("it does not recover", || health() == "healthy");
    assert!(user.says(&["ps"]).contains(" (healthy)"));
    let names = ["ps", "--filter", "health=healthy", "--format", "{{.Names}}"];
    assert_eq!(user.says(&names), "web\n");
    let log = user.says(&["inspect", "--format", "{{json .State.Health.Log}}", "web"]);
    assert!(log.contains("looked as 7\\nfine"), "{log}");
    assert_eq!(user.field("web", ".State.Health.FailingStreak"), "0");
    user.says(&["rm", "--force", "web"]);
    until("something is left behind", || user.has_nothing_left());
}
