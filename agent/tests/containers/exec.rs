//! Further processes in a container.

use koya_proto::client::ProcessId;
use koya_proto::error::ErrorKind;
use serde_json::json;

use crate::place::{LONG, Place, config, exec_request, process};

fn text(output: (u32, Vec<u8>)) -> (u32, String) {
    (output.0, String::from_utf8(output.1).unwrap())
}

#[test]
fn a_process_is_in_all_of_the_containers_namespaces() {
    let place = Place::new();
    place.sleeper("room");
    // In its PID namespace the container's first process is 1.
    let script = "cat /proc/1/cmdline | tr '\\0' ' '; hostname; for n in pid mnt ipc uts net cgroup; do \
                  [ \"$(readlink /proc/self/ns/$n)\" = \"$(readlink /proc/1/ns/$n)\" ] || echo differs: $n; done; \
                  cat /proc/self/cgroup";
    let (code, output) = text(place.exec("room", "x", &process(&["sh", "-c", script]), b""));
    assert_eq!((code, output.as_str()), (0, "sleep 1000 room\n0::/\n"));
}

#[test]
fn input_passes_and_its_end_does_too() {
    let place = Place::new();
    place.sleeper("room");
    let (code, output) = place.exec("room", "x", &process(&["sort"]), b"b\na\n");
    assert_eq!((code, output.as_slice()), (0, b"a\nb\n".as_slice()));
}

#[test]
fn a_process_is_who_it_is_told_to_be() {
    let place = Place::new();
    place.sleeper("room");
    let mut ada = process(&[
        "sh",
        "-c",
        "id; echo $HOME; pwd; grep -E '^(CapEff|CapBnd|NoNewPrivs)' /proc/self/status",
    ]);
    ada["user"] = json!({ "uid": 1000, "gid": 1000, "additionalGids": [7] });
    ada["cwd"] = json!("/tmp");
    ada["noNewPrivileges"] = json!(true);
    let (code, output) = text(place.exec("room", "x", &ada, b""));
    assert_eq!(code, 0);
    assert!(
        output.contains("uid=1000(ada) gid=1000") && output.contains("groups=7"),
        "{output}"
    );
    assert!(output.contains("\n/home/ada\n/tmp\n"), "{output}");
    assert!(output.contains("CapEff:\t0000000000000000"), "{output}");
    assert!(
        output.contains("CapBnd:\t00000000000404e1") && output.contains("NoNewPrivs:\t1"),
        "{output}"
    );
}

#[test]
fn exit_codes_and_signals_are_told() {
    let place = Place::new();
    place.sleeper("room");
    assert_eq!(
        place
            .exec("room", "seven", &process(&["sh", "-c", "exit 7"]), b"")
            .0,
        7
    );
    let sleeping = process(&["sleep", "1000"]);
    for signal in [9, 15, 34] {
        let id = ProcessId::exec("room", format!("s{signal}"));
        place
            .client
            .exec(exec_request("room", &id.exec, &sleeping, Default::default()))
            .unwrap();
        place.client.signal(&id, signal).unwrap();
        let exit = place.client.wait(&id, Some(LONG)).unwrap();
        assert_eq!((exit.code, exit.signal), (128 + signal, signal));
        // It may be asked again.
        assert_eq!(place.client.wait(&id, Some(LONG)).unwrap().code, 128 + signal);
    }
}

#[test]
fn programs_do_not_inherit_the_agents_signals() {
    let place = Place::new();
    place.sleeper("room");
    let show = ["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"];
    // Of signals 1 to 31; those above belong to the C library and to nobody.
    let standard = |output: &str| -> Vec<u64> {
        let numbers = output
            .split_whitespace()
            .filter_map(|word| u64::from_str_radix(word, 16).ok());
        numbers.map(|mask| mask & 0x7fff_ffff).collect()
    };
    assert_eq!(
        standard(&text(place.exec("room", "x", &process(&show), b"")).1),
        [0, 0]
    );
    assert_eq!(standard(&place.run("first", &config(&show)).1), [0, 0]);
    // Nor its descriptors.
    let list = process(&["ls", "-l", "/proc/self/fd"]);
    let (_, list) = text(place.exec("room", "y", &list, b""));
    let open: Vec<_> = list
        .lines()
        .filter_map(|line| line.split_once(" -> "))
        .map(|(_, what)| what)
        .collect();
    // The folder that is listed is closed when its links are read.
    assert_eq!(open.len(), 3, "{open:?}");
}

#[test]
fn missing_and_unexecutable_programs_are_told_apart() {
    let place = Place::new();
    place.sleeper("room");
    let refused = |program: &str| {
        let request = exec_request("room", "x", &process(&[program]), Default::default());
        place.client.exec(request).unwrap_err().kind()
    };
    assert_eq!(refused("nothing"), Some(ErrorKind::ERROR_KIND_EXECUTABLE_MISSING));
    assert_eq!(
        refused("/bin/nothing"),
        Some(ErrorKind::ERROR_KIND_EXECUTABLE_MISSING)
    );
    assert_eq!(refused("/etc/text"), Some(ErrorKind::ERROR_KIND_NOT_EXECUTABLE));
    assert!(place.client.state("room").unwrap().execs.is_empty());
    // The name is free again.
    assert_eq!(place.exec("room", "x", &process(&["true"]), b"").0, 0);
}

#[test]
fn names_are_unique_while_their_process_runs() {
    let place = Place::new();
    place.sleeper("room");
    let request = || exec_request("room", "x", &process(&["sleep", "1000"]), Default::default());
    place.client.exec(request()).unwrap();
    assert_eq!(
        place.client.exec(request()).unwrap_err().kind(),
        Some(ErrorKind::ERROR_KIND_EXISTS)
    );
    assert_eq!(place.client.state("room").unwrap().execs, ["x"]);
}

#[test]
fn many_at_once_all_answer() {
    let place = Place::new();
    place.sleeper("room");
    std::thread::scope(|scope| {
        let answers: Vec<_> = (0..200)
            .map(|number| {
                let place = &place;
                scope.spawn(move || {
                    let name = format!("x{number}");
                    text(place.exec("room", &name, &process(&["echo", &name]), b"")).1
                })
            })
            .collect();
        for (number, answer) in answers.into_iter().enumerate() {
            assert_eq!(answer.join().unwrap(), format!("x{number}\n"));
        }
    });
}
