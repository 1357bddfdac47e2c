//! Scopes, with somebody in the place of systemd.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::thread;

use super::Cgroup;
use super::bus::{BusError, Line};
use super::scope::Scope;

/// The path of the job in what the other side says.
const JOB: &str = "/org/freedesktop/systemd1/job/7";
const OK: &[u8] = b"DATA\r\nOK 00112233445566778899aabbccddeeff\r\n";

/// A message: its kind, fields of its header, and its body.
fn message(kind: u8, fields: &[(u8, &str, Field)], body: &[u8]) -> Vec<u8> {
    let mut head = Vec::new();
    for (code, signature, value) in fields {
        head.resize(head.len().next_multiple_of(8), 0);
        head.extend([*code, u8::try_from(signature.len()).unwrap()]);
        head.extend(signature.bytes().chain([0]));
        match value {
            Field::Number(number) => head.extend(number.to_le_bytes()),
            Field::Text(text) => text_into(&mut head, text),
            Field::Signature(text) => {
                head.push(u8::try_from(text.len()).unwrap());
                head.extend(text.bytes().chain([0]));
            }
        }
    }
    let mut whole = vec![b'l', kind, 0, 1];
    for number in [body.len(), 5, head.len()] {
        whole.extend(u32::try_from(number).unwrap().to_le_bytes());
    }
    head.resize(head.len().next_multiple_of(8), 0);
    whole.extend(head);
    whole.extend(body);
    whole
}

enum Field {
    Number(u32),
    Text(&'static str),
    Signature(&'static str),
}

fn text_into(bytes: &mut Vec<u8>, text: &str) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend(u32::try_from(text.len()).unwrap().to_le_bytes());
    bytes.extend(text.bytes().chain([0]));
}

fn body(texts: &[&str]) -> Vec<u8> {
    let mut body = Vec::new();
    texts.iter().for_each(|text| text_into(&mut body, text));
    body
}

/// The answer to the call of this number.
fn answer(to: u32) -> Vec<u8> {
    let fields = [(5, "u", Field::Number(to)), (8, "g", Field::Signature("o"))];
    message(2, &fields, &body(&[JOB]))
}

fn refusal(to: u32, name: &'static str) -> Vec<u8> {
    let fields = [
        (4, "s", Field::Text(name)),
        (5, "u", Field::Number(to)),
        (8, "g", Field::Signature("s")),
    ];
    message(3, &fields, &body(&["so it is"]))
}

/// A job has ended.
fn removed(job: &str, result: &str) -> Vec<u8> {
    let mut arguments = 7_u32.to_le_bytes().to_vec();
    [job, "libpod-1.scope", result]
        .iter()
        .for_each(|text| text_into(&mut arguments, text));
    let fields = [
        (1, "o", Field::Text("/org/freedesktop/systemd1")),
        (3, "s", Field::Text("JobRemoved")),
        (8, "g", Field::Signature("uoss")),
    ];
    message(4, &fields, &arguments)
}

/// Has somebody say these words to who asks for a scope, and the other way round; what both heard.
fn asked(is_bus: bool, end: bool, words: &[Vec<u8>]) -> (Result<(), BusError>, Vec<u8>) {
    let folder = std::env::temp_dir().join(format!(
        "koya-bus-{}-{:?}",
        std::process::id(),
        thread::current().id()
    ));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("private");
    let listener = UnixListener::bind(&path).unwrap();
    let words = words.concat();
    let systemd = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(&words).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).unwrap();
        heard
    });
    let scope = Scope::named("machine.slice:libpod:1", "system.slice").unwrap();
    let line = Line::to(path, is_bus).unwrap();
    let result = match end {
        true => scope.end(line),
        false => scope.begin(line),
    };
    let heard = systemd.join().unwrap();
    std::fs::remove_dir_all(folder).unwrap();
    (result, heard)
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn a_scope_is_there_when_its_job_is_done() {
    // In either order, and with others' in between.
    for words in [
        vec![answer(1), removed("/other", "failed"), removed(JOB, "done")],
        vec![removed(JOB, "done"), removed("/other", "failed"), answer(1)],
    ] {
        let (result, heard) = asked(false, false, &[vec![OK.to_vec()], words].concat());
        assert!(result.is_ok(), "{result:?}");
        assert!(heard.starts_with(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\nl\x01\0\x01"));
        for text in [
            "StartTransientUnit",
            "libpod-1.scope",
            "machine.slice",
            "Delegate",
        ] {
            assert!(holds(&heard, text), "{text}");
        }
        assert!(!holds(&heard, "Hello"));
    }
    let words = [
        OK.to_vec(),
        answer(1),
        answer(2),
        answer(3),
        answer(4),
        removed(JOB, "done"),
    ];
    let (result, heard) = asked(true, false, &words);
    assert!(result.is_ok(), "{result:?}");
    assert!(holds(&heard, "Hello") && holds(&heard, "AddMatch") && holds(&heard, "Subscribe"));
}

#[test]
fn what_systemd_does_not_do_is_told() {
    let exists = "org.freedesktop.systemd1.UnitExists";
    let (result, _) = asked(false, false, &[OK.to_vec(), refusal(1, exists)]);
    assert_eq!(
        result.unwrap_err().to_string(),
        format!("systemd refuses: so it is ({exists})")
    );
    let (result, _) = asked(false, false, &[OK.to_vec(), answer(1), removed(JOB, "timeout")]);
    assert_eq!(
        result.unwrap_err().to_string(),
        "systemd has not done it: timeout"
    );
    // A bus that refuses what comes before refuses all.
    let (result, _) = asked(
        true,
        false,
        &[
            OK.to_vec(),
            refusal(2, "org.freedesktop.DBus.Error.LimitsExceeded"),
        ],
    );
    assert!(matches!(result, Err(BusError::Refused { .. })), "{result:?}");
    for words in [
        vec![],
        vec![b"REJECTED EXTERNAL\r\n".to_vec()],
        vec![OK.to_vec()],
        vec![OK.to_vec(), answer(1)[..20].to_vec()],
        vec![OK.to_vec(), b"B234567890123456".to_vec()],
        vec![
            OK.to_vec(),
            b"l\x02\0\x01\xff\xff\xff\xff\0\0\0\0\xff\xff\xff\xff".to_vec(),
        ],
        vec![OK.to_vec(), message(2, &[(5, "x", Field::Number(1))], b"")],
    ] {
        let (result, _) = asked(false, false, &words);
        assert!(
            matches!(result, Err(BusError::Ask { .. })),
            "{words:?}: {result:?}"
        );
    }
    let nobody = Line::to(PathBuf::from("/nowhere/private"), false).err().unwrap();
    assert!(matches!(nobody, BusError::Reach { .. }));
}

#[test]
fn a_scope_that_is_gone_needs_no_end() {
    let gone = "org.freedesktop.systemd1.NoSuchUnit";
    let (result, heard) = asked(false, true, &[OK.to_vec(), refusal(1, gone)]);
    assert!(result.is_ok() && holds(&heard, "StopUnit") && holds(&heard, "libpod-1.scope"));
    let (result, _) = asked(false, true, &[OK.to_vec(), answer(1), removed(JOB, "done")]);
    assert!(result.is_ok(), "{result:?}");
    let (result, _) = asked(
        false,
        true,
        &[OK.to_vec(), refusal(1, "org.freedesktop.DBus.Error.AccessDenied")],
    );
    assert!(result.is_err());
}

#[test]
fn names_become_scopes_in_slices() {
    for (name, wanted) in [
        (
            "machine.slice:libpod:1",
            Some(("machine.slice", "libpod-1.scope")),
        ),
        ("user-1000.slice::x", Some(("user-1000.slice", "x.scope"))),
        (":cri:pod", Some(("system.slice", "cri-pod.scope"))),
        ("no slice", None),
        ("machine:libpod:1", None),
        ("machine.slice:libpod:", None),
        ("machine.slice:libpod:1:2", None),
        ("../x.slice:libpod:1", None),
        ("machine.slice:libpod:../1", None),
        ("machine.slice:a/b:1", None),
    ] {
        let found = Scope::named(name, "system.slice").map(|scope| serde_json::to_value(scope).unwrap());
        let wanted = wanted.map(|(slice, unit)| serde_json::json!({ "slice": slice, "unit": unit }));
        assert_eq!(found, wanted, "{name}");
    }
}

#[test]
fn either_kind_is_read_as_it_was_written() {
    for name in ["/libpod_parent/libpod-1", "machine.slice:libpod:1"] {
        let cgroup = Cgroup::named(name, !name.starts_with('/')).unwrap();
        let text = serde_json::to_string(&cgroup).unwrap();
        assert_eq!(serde_json::from_str::<Cgroup>(&text).unwrap(), cgroup, "{text}");
    }
    // As it was before there were scopes.
    let old: Cgroup = serde_json::from_str("\"/sys/fs/cgroup/a\"").unwrap();
    assert_eq!(old, Cgroup::Folder("/sys/fs/cgroup/a".into()));
}
