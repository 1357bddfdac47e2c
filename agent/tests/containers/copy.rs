//! Files into containers and out of them.

use std::io::{Read, Write};
use std::net::Shutdown;

use koya_archive::{Entry, Kind, Reader, Writer};
use koya_proto::client::ClientError;
use koya_proto::error::ErrorKind;
use koya_proto::stream::Token;
use koya_proto::v1::{CopyInRequest, CopyOutRequest};
use serde_json::json;

use crate::place::{Place, mapped, process, shell};

fn entry(kind: Kind, path: &str, mode: u16) -> Entry {
    Entry {
        path: path.into(),
        link: Vec::new(),
        kind,
        mode,
        uid: 1000,
        gid: 1000,
        mtime: (1_000_000_000, 0),
        size: 0,
        xattrs: Vec::new(),
    }
}

fn file(path: &str, mode: u16, size: usize) -> Entry {
    Entry {
        size: size as u64,
        ..entry(Kind::File, path, mode)
    }
}

fn archive(entries: &[(Entry, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes);
    for (entry, data) in entries {
        writer.entry(entry).unwrap();
        writer.data().write_all(data).unwrap();
    }
    writer.finish().unwrap();
    bytes
}

impl Place {
    fn copy_in(&self, id: &str, folder: &str, own: bool, bytes: &[u8]) -> Result<(), ClientError> {
        let token = Token::random().unwrap();
        let mut stream = self.stream(token);
        let request = CopyInRequest {
            id: id.to_owned(),
            folder: folder.to_owned(),
            stream: token.to_field(),
            own,
            ..Default::default()
        };
        std::thread::scope(|scope| {
            scope.spawn(move || {
                // A request that fails takes no stream.
                let _ = stream.write_all(bytes);
                let _ = stream.shutdown(Shutdown::Write);
            });
            self.client.copy_in(&request)
        })
    }

    fn copy_out(&self, id: &str, path: &str) -> Result<Vec<u8>, ClientError> {
        let token = Token::random().unwrap();
        let mut stream = self.stream(token);
        let request = CopyOutRequest {
            id: id.to_owned(),
            path: path.to_owned(),
            stream: token.to_field(),
            ..Default::default()
        };
        std::thread::scope(|scope| {
            let reader = scope.spawn(move || {
                let mut bytes = Vec::new();
                stream.read_to_end(&mut bytes).map(|_| bytes).unwrap_or_default()
            });
            let answered = self.client.copy_out(&request);
            answered.map(|()| reader.join().unwrap())
        })
    }

    fn says(&self, id: &str, script: &str) -> String {
        let (code, output) = self.exec(id, "asked", &process(&["sh", "-c", script]), b"");
        let output = String::from_utf8(output).unwrap();
        assert_eq!(code, 0, "{script}: {output}");
        output
    }
}

fn entries(bytes: &[u8]) -> Vec<(Entry, Vec<u8>)> {
    let mut reader = Reader::new(bytes);
    let mut found = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        let mut data = Vec::new();
        reader.data().read_to_end(&mut data).unwrap();
        found.push((entry, data));
    }
    found
}

/// A container with a file system of its own at /tmp.
fn room(script: &str) -> serde_json::Value {
    let mut config = shell(script);
    let mounts = config["mounts"].as_array_mut().unwrap();
    mounts
        .push(json!({ "destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777"] }));
    config
}

fn start(place: &Place, id: &str, config: &serde_json::Value) {
    place.client.create(place.request(id, config)).unwrap();
    place.client.start(id).unwrap();
}

#[test]
fn files_go_in_and_come_out_as_they_were() {
    let place = Place::new();
    start(&place, "room", &room("sleep 1000"));
    let large: Vec<u8> = (0..5_000_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let link = Entry {
        link: b"tool".to_vec(),
        ..entry(Kind::Symlink, "kit/link", 0o777)
    };
    let hard = Entry {
        link: b"kit/tool".to_vec(),
        ..entry(Kind::HardLink, "kit/same", 0o777)
    };
    let bytes = archive(&[
        (entry(Kind::Folder, "kit", 0o751), b""),
        (file("kit/tool", 0o4755, 4), b"tool"),
        (link, b""),
        (hard, b""),
        (file("kit/large", 0o600, large.len()), &large),
    ]);
    place.copy_in("room", "/tmp", false, &bytes).unwrap();
    assert_eq!(
        place.says(
            "room",
            "cd /tmp; stat -c '%a %u %Y %h' kit kit/tool kit/large; readlink kit/link"
        ),
        "751 1000 1000000000 2\n4755 1000 1000000000 2\n600 1000 1000000000 1\ntool\n"
    );
    let found = entries(&place.copy_out("room", "/tmp/kit").unwrap());
    let names: Vec<_> = found
        .iter()
        .map(|(entry, _)| String::from_utf8_lossy(&entry.path).into_owned())
        .collect();
    assert_eq!(names, ["kit", "kit/large", "kit/link", "kit/same", "kit/tool"]);
    assert!(found[1].1 == large, "5 MB come back the same");
    assert_eq!((found[3].0.kind, found[4].0.kind), (Kind::File, Kind::HardLink));
    assert_eq!(
        (found[3].0.mode, found[3].0.uid, found[3].0.mtime),
        (0o4755, 1000, (1_000_000_000, 0))
    );
    let contents = entries(&place.copy_out("room", "/tmp/kit/.").unwrap());
    assert_eq!(contents[1].0.path, b"./large");
    place
        .copy_in(
            "room",
            "/tmp/kit",
            true,
            &archive(&[(file("mine", 0o644, 0), b"")]),
        )
        .unwrap();
    assert_eq!(place.says("room", "stat -c %u /tmp/kit/mine"), "0\n");
}

#[test]
fn what_is_at_a_path_is_told() {
    let place = Place::new();
    start(
        &place,
        "room",
        &room("ln -s ../tmp/nowhere /tmp/loose; ln -s /etc/text /tmp/link; sleep 1000"),
    );
    while !place.client.stat_path("room", "/tmp/link").unwrap().exists {}
    let stat = |path: &str| place.client.stat_path("room", path).unwrap();
    let text = stat("/etc/text");
    assert_eq!(
        (text.exists, text.mode & 0o170_000, text.size),
        (true, 0o100_000, 14)
    );
    assert_eq!(stat("etc/text"), text, "paths begin at the root");
    assert_eq!(stat("/tmp").mode & 0o177_777, 0o041_777);
    assert!(!stat("/nothing").exists && !stat("/etc/text/below").exists);
    assert_eq!(stat("/tmp/link").link_target, "/etc/text");
    assert_eq!(stat("/tmp/link").mode & 0o170_000, 0o120_000);
    assert!(stat("/tmp/loose").link_target.ends_with("tmp/nowhere"));
}

#[test]
fn no_link_of_a_container_leads_to_the_host() {
    let place = Place::new();
    let outside = place.folder().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("secret"), "secret").unwrap();
    let shown = outside.to_str().unwrap();
    let script =
        format!("ln -s {shown} /tmp/door; ln -s /../../..{shown} /tmp/up; touch /tmp/ready; sleep 1000");
    start(&place, "room", &room(&script));
    while !place.client.stat_path("room", "/tmp/ready").unwrap().exists {}
    for door in ["/tmp/door", "/tmp/up"] {
        assert!(
            !place
                .client
                .stat_path("room", &format!("{door}/secret"))
                .unwrap()
                .exists
        );
        let error = place.copy_out("room", &format!("{door}/secret")).unwrap_err();
        assert_eq!(error.kind(), Some(ErrorKind::ERROR_KIND_INVALID), "{error}");
        let error = place
            .copy_in("room", door, true, &archive(&[(file("evil", 0o644, 0), b"")]))
            .unwrap_err();
        assert!(
            error.to_string().contains("cannot be opened as a folder"),
            "{error}"
        );
    }
    let through = archive(&[(file("door/evil", 0o644, 0), b"")]);
    place.copy_in("room", "/tmp", true, &through).unwrap_err();
    let above = archive(&[(file("../evil", 0o644, 0), b"")]);
    let error = place.copy_in("room", "/tmp", true, &above).unwrap_err();
    assert!(error.to_string().contains("does not lead upwards"), "{error}");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
}

#[test]
fn a_paused_container_is_copied_from_and_a_stopped_one_is_not() {
    let place = Place::new();
    start(&place, "room", &room("echo here > /tmp/x; sleep 1000"));
    while place.client.stat_path("room", "/tmp/x").unwrap().size == 0 {}
    place.client.pause("room").unwrap();
    assert_eq!(
        entries(&place.copy_out("room", "/tmp/x").unwrap())[0].1,
        b"here\n"
    );
    place.client.resume("room").unwrap();
    place.client.signal(&"room".into(), 9).unwrap();
    place
        .client
        .wait(&"room".into(), Some(crate::place::LONG))
        .unwrap();
    let kind = |error: ClientError| error.kind();
    assert_eq!(
        place.copy_out("room", "/tmp/x").map_err(kind).unwrap_err(),
        Some(ErrorKind::ERROR_KIND_STATE)
    );
    let unknown = place.client.stat_path("nobody", "/").map_err(kind);
    assert_eq!(unknown.unwrap_err(), Some(ErrorKind::ERROR_KIND_NOT_FOUND));
    let empty = place.client.stat_path("room", "").map_err(kind);
    assert_eq!(empty.unwrap_err(), Some(ErrorKind::ERROR_KIND_INVALID));
}

#[test]
fn broken_streams_and_files_in_the_way_are_told() {
    let place = Place::new();
    start(&place, "room", &room("sleep 1000"));
    let bytes = archive(&[(file("x", 0o644, 5000), &[1; 5000])]);
    let fault = |bytes: &[u8], folder: &str| {
        place
            .copy_in("room", folder, true, bytes)
            .unwrap_err()
            .to_string()
    };
    assert!(fault(&bytes[..3000], "/tmp").contains("ends in the middle"));
    assert!(fault(&[b'x'; 1024], "/tmp").contains("no tar archive"));
    assert!(fault(&bytes, "/nowhere").contains("\"/nowhere\" in the container cannot be opened as a folder"));
    place
        .copy_in(
            "room",
            "/tmp",
            true,
            &archive(&[(entry(Kind::Folder, "y", 0o755), b"")]),
        )
        .unwrap();
    assert!(fault(&archive(&[(file("y", 0o644, 0), b"")]), "/tmp").contains("y: is a folder"));
    // The agent is none the worse for it.
    place.copy_in("room", "/tmp", true, &bytes).unwrap();
}

#[test]
fn in_a_mapped_container_owners_are_its_own() {
    let place = Place::mapped();
    let config = mapped(room("sleep 1000"));
    start(&place, "room", &config);
    place
        .copy_in("room", "/tmp", true, &archive(&[(file("own", 0o644, 0), b"")]))
        .unwrap();
    place
        .copy_in("room", "/tmp", false, &archive(&[(file("kept", 0o644, 0), b"")]))
        .unwrap();
    assert_eq!(place.says("room", "stat -c %u /tmp/own /tmp/kept"), "0\n1000\n");
    let found = entries(&place.copy_out("room", "/tmp/kept").unwrap());
    assert_eq!(found[0].0.uid, 1000);
}
