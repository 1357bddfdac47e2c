//! Files that a container is given.

use koya_proto::v1::File;

use crate::place::{LONG, Place, output, shell};
use std::io::Read;

fn file(path: &str, content: &str, mode: u32) -> File {
    File {
        path: path.into(),
        content: content.as_bytes().to_vec(),
        mode,
        ..Default::default()
    }
}

#[test]
fn a_container_finds_its_files_and_may_change_them() {
    let place = Place::new();
    let script =
        "cat /etc/hosts; stat -c %a /etc/hosts /etc/secret; echo more >> /etc/hosts; tail -n 1 /etc/hosts";
    let mut request = place.request("web", &shell(script));
    request.files = vec![
        file("/etc/hosts", "10.0.0.2 web\n", 0o644),
        file("/etc/secret", "", 0o400),
    ];
    let (stdio, out) = output();
    request.stdio = Some(stdio).into();
    place.client.create(request).unwrap();
    let mut stream = place.stream(out);
    place.client.start("web").unwrap();
    let exit = place.client.wait(&"web".into(), Some(LONG)).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!((exit.code, text.as_str()), (0, "10.0.0.2 web\n644\n400\nmore\n"));
    place.client.delete("web", false).unwrap();
    place.assert_gone("web");
}

#[test]
fn files_outside_the_container_are_refused() {
    let place = Place::new();
    let mut request = place.request("web", &shell("true"));
    request.files = vec![file("/etc/../../hosts", "", 0o644)];
    let error = place.client.create(request).unwrap_err().to_string();
    assert!(error.contains("files.path"), "{error}");
    place.assert_gone("web");
}
