//! `docs/oci-conformance.md` names files and tests: all are there, and no line is without a test.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Files of Rust below the folders of this source tree, as paths from its root.
fn sources() -> Vec<String> {
    let mut found = Vec::new();
    let mut folders: Vec<_> = ["agent", "runtime", "sandbox", "tests"].map(PathBuf::from).into();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let path = folder.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|kind| kind == "rs") {
                found.push(path.to_str().unwrap().to_owned());
            }
        }
    }
    found
}

/// The one file whose path ends so.
fn file<'a>(sources: &'a [String], name: &str) -> &'a str {
    let end = format!("/{name}");
    let is_it = |path: &&String| path.ends_with(&end) || *path == name;
    let found: Vec<_> = sources.iter().filter(is_it).collect();
    assert_eq!(
        found.len(),
        1,
        "{name} is one file of the tree, and not {found:?}"
    );
    found[0]
}

/// Whether a file has a test of this name.
fn has_test(path: &str, name: &str) -> bool {
    let text = fs::read_to_string(root().join(path)).unwrap();
    let head = format!("fn {name}()");
    let lines: Vec<_> = text.lines().map(str::trim).collect();
    lines
        .windows(2)
        .any(|two| two[0] == "#[test]" && two[1].starts_with(&head))
}

#[test]
fn every_line_names_tests_that_are_there() {
    let page = fs::read_to_string(root().join("docs/oci-conformance.md")).unwrap();
    let sources = sources();
    let rows = page.lines().filter(|line| line.starts_with("| "));
    let rows: Vec<_> = rows.filter(|line| !line.starts_with("| clause")).collect();
    assert!(rows.len() > 50, "{} lines", rows.len());
    for row in rows {
        let words = row.split('`').skip(1).step_by(2);
        let words: Vec<_> = words.filter(|word| word.contains(".rs")).collect();
        let tests = words.iter().filter_map(|word| word.split_once("::"));
        let tests: Vec<_> = tests.collect();
        assert!(!tests.is_empty(), "no test shows it: {row}");
        for (name, test) in tests {
            let path = file(&sources, name);
            assert!(has_test(path, test), "{path} has no test {test}");
        }
        let kept = words.iter().filter(|word| !word.contains("::"));
        for name in kept {
            file(&sources, name);
        }
    }
}
