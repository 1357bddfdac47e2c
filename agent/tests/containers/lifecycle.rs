//! Create, start, wait, pause, delete.

use std::time::{Duration, Instant};

use koya_proto::error::ErrorKind;
use koya_proto::v1::Status;

use crate::place::{LONG, Place, config, shell};

#[test]
fn exit_codes_and_output_arrive() {
    let place = Place::new();
    assert_eq!(place.run("zero", &config(&["true"])), (0, String::new()));
    assert_eq!(
        place.run("seven", &shell("echo $COLOUR; hostname; exit 7")),
        (7, "red\nroom\n".to_owned())
    );
    for id in ["zero", "seven"] {
        place.assert_gone(id);
    }
}

#[test]
fn states_follow_the_specification() {
    let place = Place::new();
    let client = &place.client;
    let status = || client.state("room").unwrap().status.unwrap();
    let pid = client
        .create(place.request("room", &config(&["sleep", "1000"])))
        .unwrap();
    assert_eq!(status(), Status::STATUS_CREATED);
    assert_eq!(client.state("room").unwrap().pid, pid);
    client.start("room").unwrap();
    assert_eq!(status(), Status::STATUS_RUNNING);
    assert_eq!(client.list().unwrap().len(), 1);
    client.signal(&"room".into(), 9).unwrap();
    assert_eq!(client.wait(&"room".into(), Some(LONG)).unwrap().code, 137);
    let state = client.state("room").unwrap();
    assert_eq!(
        (state.status.unwrap(), state.pid, state.exit.signal),
        (Status::STATUS_STOPPED, 0, 9)
    );
    client.delete("room", false).unwrap();
    place.assert_gone("room");
    assert!(client.list().unwrap().is_empty());
    // The id is free again.
    assert_eq!(place.run("room", &config(&["true"])).0, 0);
}

#[test]
fn a_signal_that_ends_a_container_is_told() {
    let place = Place::new();
    // PID 1 of a namespace gets only signals that it handles.
    let config = shell("trap 'exit 9' TERM; trap 'echo hup' HUP; while :; do sleep 0.05; done");
    place.client.create(place.request("room", &config)).unwrap();
    place.client.start("room").unwrap();
    std::thread::sleep(Duration::from_millis(500));
    place.client.signal(&"room".into(), 1).unwrap();
    place.client.signal(&"room".into(), 15).unwrap();
    assert_eq!(place.client.wait(&"room".into(), Some(LONG)).unwrap().code, 9);
    let error = place.client.signal(&"room".into(), 15).unwrap_err();
    assert_eq!(error.kind(), Some(ErrorKind::ERROR_KIND_STATE));
}

#[test]
fn a_paused_container_stands_still() {
    let place = Place::new();
    place
        .client
        .create(place.request("room", &shell("while :; do :; done")))
        .unwrap();
    place.client.start("room").unwrap();
    let used = || place.client.stats("room").unwrap().cpu_usage_us;
    place.client.pause("room").unwrap();
    assert_eq!(
        place.client.state("room").unwrap().status.unwrap(),
        Status::STATUS_PAUSED
    );
    let before = used();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(used(), before);
    assert_eq!(
        place.client.pause("room").unwrap_err().kind(),
        Some(ErrorKind::ERROR_KIND_STATE)
    );
    place.client.resume("room").unwrap();
    let deadline = Instant::now() + LONG;
    while used() == before {
        assert!(Instant::now() < deadline, "it does not run again");
        std::thread::sleep(Duration::from_millis(20));
    }
    // Paused or not, force removes it.
    place.client.pause("room").unwrap();
    place.client.delete("room", true).unwrap();
    place.assert_gone("room");
}

#[test]
fn limits_and_counters_are_the_cgroups() {
    let place = Place::new();
    place.sleeper("room");
    let stats = place.client.stats("room").unwrap();
    assert_eq!((stats.pids_limit, stats.memory_limit_bytes), (64, 67_108_864));
    assert_eq!(stats.pids_current, 1);
    assert!(stats.memory_current_bytes > 0);
}

#[test]
fn a_memory_hog_is_killed_and_that_is_told() {
    let place = Place::new();
    let mut hog = config(&["tail", "/dev/zero"]);
    hog["linux"]["resources"]["memory"]["swap"] = serde_json::json!(67_108_864);
    place.client.create(place.request("hog", &hog)).unwrap();
    place.client.start("hog").unwrap();
    let exit = place.client.wait(&"hog".into(), Some(LONG)).unwrap();
    assert_eq!((exit.code, exit.oom), (137, true));
    assert!(place.client.health().is_ok());
}

#[test]
fn a_fork_bomb_hits_its_limit_alone() {
    let place = Place::new();
    place
        .client
        .create(place.request("bomb", &shell("bomb() { bomb | bomb & }; bomb; sleep 1000")))
        .unwrap();
    place.sleeper("neighbour");
    place.client.start("bomb").unwrap();
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(
        place
            .exec("neighbour", "x", &crate::place::process(&["echo", "well"]), b"")
            .1,
        b"well\n"
    );
    place.client.delete("bomb", true).unwrap();
    place.assert_gone("bomb");
}

#[test]
fn an_ended_agent_leaves_nothing() {
    let mut place = Place::new();
    place.sleeper("one");
    place.sleeper("two");
    assert!(place.cgroup("one").exists());
    place.end();
    for id in ["one", "two"] {
        place.assert_gone(id);
    }
    assert!(!place.cgroup("").exists());
}

#[test]
fn many_containers_come_and_go_at_once() {
    let place = Place::new();
    std::thread::scope(|scope| {
        for room in 0..4 {
            let place = &place;
            scope.spawn(move || {
                for round in 0..8 {
                    let id = format!("room-{room}-{round}");
                    assert_eq!(place.run(&id, &shell(&format!("exit {room}"))).0, room);
                    place.assert_no_folder(&id);
                }
            });
        }
    });
    assert!(place.client.list().unwrap().is_empty());
}
