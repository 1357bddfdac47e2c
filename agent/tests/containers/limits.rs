//! Limits reach the kernel, can be changed, and protect the neighbours.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::place::{LONG, Place, process, shell};

#[test]
fn limits_are_in_the_cgroups_files() {
    let place = Place::new();
    let mut config = shell("sleep 1000");
    config["linux"]["resources"] = json!({
        "cpu": { "quota": 150_000, "period": 100_000, "shares": 2048, "cpus": "0" },
        "memory": { "limit": 64 << 20, "swap": 96 << 20, "reservation": 32 << 20 },
        "pids": { "limit": 20 },
    });
    place.client.create(place.request("room", &config)).unwrap();
    place.client.start("room").unwrap();
    let file = |name: &str| {
        fs::read_to_string(place.cgroup("room").join(name))
            .unwrap()
            .trim()
            .to_owned()
    };
    assert_eq!(file("cpu.max"), "150000 100000");
    assert_ne!(file("cpu.weight"), "100");
    assert_eq!(file("cpuset.cpus"), "0");
    assert_eq!(file("memory.max"), (64 << 20).to_string());
    assert_eq!(file("memory.swap.max"), (32 << 20).to_string());
    assert_eq!(file("memory.low"), (32 << 20).to_string());
    assert_eq!(file("pids.max"), "20");

    let changed = json!({ "cpu": { "quota": 50_000, "period": 100_000 }, "pids": { "limit": 7 } });
    place
        .client
        .update("room", changed.to_string().into_bytes())
        .unwrap();
    assert_eq!(
        (file("cpu.max").as_str(), file("pids.max").as_str()),
        ("50000 100000", "7")
    );
    // What was not named stays as it was.
    assert_eq!(file("memory.max"), (64 << 20).to_string());
    let error = place
        .client
        .update("room", b"{\"memory\":{\"limit\":\"x\"}}".to_vec())
        .unwrap_err();
    assert!(error.to_string().contains("resources"), "{error}");
    place.client.delete("room", true).unwrap();
}

/// The agent itself takes more, for a thousand processes have ten each; nobody else gets to see that.
#[test]
fn processes_may_open_as_many_files_as_the_agent_could_at_first() {
    let place = Place::new();
    let limits = |pid: &str| {
        let text = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("Max open files"));
        let mut numbers = line
            .unwrap()
            .split_whitespace()
            .map(|number| number.parse::<u64>().unwrap());
        [(); 2].map(|()| numbers.next().unwrap())
    };
    let script = "ulimit -Sn; ulimit -Hn";
    let expected = limits("self").map(|number| format!("{number}\n")).concat();
    assert_eq!(place.run("once", &shell(script)), (0, expected.clone()));
    place.sleeper("room");
    let (code, out) = place.exec("room", "x", &process(&["sh", "-c", script]), b"");
    assert_eq!((code, String::from_utf8(out).unwrap()), (0, expected));
    let pid = place.agent_pid().to_string();
    assert!(limits(&pid)[0] >= 65536, "{:?}", limits(&pid));
}

#[test]
fn a_room_out_of_bounds_leaves_its_neighbour_and_the_agent_alone() {
    let place = Place::new();
    place.sleeper("neighbour");
    // Forks without end, takes memory without end, and computes without end.
    let rooms = [
        ("forks", "f() { f | f & }; while :; do f; sleep 0.1; done"),
        ("memory", "while :; do tail /dev/zero; done"),
        ("loop", "while :; do :; done"),
    ];
    for (id, script) in rooms {
        let mut config = shell(script);
        config["linux"]["resources"] = json!({
            "cpu": { "quota": 20_000, "period": 100_000 },
            "memory": { "limit": 32 << 20, "swap": 32 << 20 },
            "pids": { "limit": 50 },
        });
        place.client.create(place.request(id, &config)).unwrap();
        place.client.start(id).unwrap();
    }
    std::thread::sleep(Duration::from_secs(3));
    for round in 0..3 {
        let began = Instant::now();
        place.client.health().unwrap();
        let (code, _) = place.exec("neighbour", &format!("x{round}"), &process(&["true"]), b"");
        assert_eq!(code, 0);
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    }
    let stats = |id: &str| place.client.stats(id).unwrap();
    // On a busy host it takes its time until a room has had more than it may.
    let await_that = |what: &str, is_so: &dyn Fn() -> bool| {
        let deadline = Instant::now() + LONG;
        while !is_so() {
            assert!(Instant::now() < deadline, "{what}");
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    await_that("nothing was killed", &|| stats("memory").oom_kills > 0);
    await_that("nothing was slowed", &|| stats("loop").cpu_throttled_us > 0);
    assert!(stats("forks").pids_current <= 50);
    // The shell outlives the process that was killed, and its end tells of it all the same.
    place.client.signal(&"memory".into(), 9).unwrap();
    assert!(place.client.wait(&"memory".into(), Some(LONG)).unwrap().oom);
    for (id, _) in rooms {
        place.client.delete(id, true).unwrap();
        place.assert_gone(id);
    }
}

#[test]
fn devices_are_the_ones_that_are_allowed() {
    let place = Place::new();
    // Memory (1:1) can be made a node of, but not opened; null can.
    let mut config = shell(
        "cd /tmp; rm -f mem zero; mknod mem c 1 1 && mknod zero c 1 5 && head -c 3 zero | wc -c; \
         head -c 1 mem; rm mem zero; echo x > /dev/null && echo null",
    );
    config["process"]["capabilities"] = {
        let all = ["CAP_MKNOD", "CAP_DAC_OVERRIDE", "CAP_SYS_RAWIO"];
        json!({ "bounding": all, "effective": all, "permitted": all })
    };
    let character =
        |minor: u32| json!({ "allow": true, "type": "c", "major": 1, "minor": minor, "access": "rwm" });
    config["linux"]["resources"]["devices"] = json!([
        { "allow": false, "access": "rwm" },
        { "allow": true, "type": "c", "access": "m" },
        character(3), character(5),
    ]);
    let (_, output) = place.run("room", &config);
    assert_eq!(output, "3\nnull\n");
    // Without the rules the kernel would let it.
    config["linux"]["resources"]["devices"] = json!([{ "allow": true, "access": "rwm" }]);
    let (_, output) = place.run("open", &config);
    assert_ne!(output, "3\nnull\n");
}
