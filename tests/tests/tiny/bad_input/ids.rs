//! Identifiers with `/` or 300 characters.

use koya_tests::vm::Scratch;
use serde_json::json;

use super::{refused, refused_arguments};
use crate::support::{config, drive, interface};

#[test]
fn ids_with_a_slash() {
    let scratch = Scratch::new();
    let disk = scratch.disk("disk", 4096);
    let names = ["\"a/b\"", "'/' at position 1", "can only contain"];
    refused(
        &config("hello", "", json!({ "drives": [drive("a/b", &disk, false)] })),
        &names,
    );
    refused(
        &config(
            "hello",
            "",
            json!({ "network-interfaces": [interface("a/b", "tap0")] }),
        ),
        &names,
    );
    refused_arguments(
        &["--id", "a/b"],
        &["--id", "\"a/b\"", "alphanumeric characters and hyphens"],
    );
    refused_arguments(
        &["--id", "../x"],
        &["--id", "\"../x\"", "alphanumeric characters and hyphens"],
    );
}

#[test]
fn ids_of_300_characters() {
    let scratch = Scratch::new();
    let disk = scratch.disk("disk", 4096);
    let id = "a".repeat(300);
    let names = ["aaaa", "has 300", "1 to 64 characters"];
    refused(
        &config("hello", "", json!({ "drives": [drive(&id, &disk, false)] })),
        &names,
    );
    refused(
        &config(
            "hello",
            "",
            json!({ "network-interfaces": [interface(&id, "tap0")] }),
        ),
        &names,
    );
    refused_arguments(&["--id", &id], &["--id", "aaaa", "1 to 64"]);
}

#[test]
fn ids_that_are_empty() {
    let scratch = Scratch::new();
    let disk = scratch.disk("disk", 4096);
    refused(
        &config("hello", "", json!({ "drives": [drive("", &disk, false)] })),
        &["The ID cannot be empty"],
    );
    refused_arguments(&["--id", ""], &["--id", "cannot be empty"]);
}

#[test]
fn an_id_that_is_given_twice() {
    let scratch = Scratch::new();
    let disk = scratch.disk("disk", 4096);
    let drives = [drive("vda", &disk, false), drive("vda", &disk, false)];
    // Over the API the second replaces the first.
    super::refused_in_file(
        config("hello", "", json!({ "drives": drives })).to_string(),
        &["vm.json", "drives[1]", "\"vda\"", "one of its own"],
    );
}
