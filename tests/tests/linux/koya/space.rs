//! A file system that is full.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use super::images::Registry;
use super::{User, is_empty, refusal, told};
use crate::support::{fed, isolate, noise, succeed};

/// Bytes of a file that does not become smaller.
const LARGE: u64 = 12 << 20;

/// A file system of some MiB at a path, as long as this thread lives.
fn small_disk(path: &Path, mebibytes: u64) {
    fs::create_dir(path).unwrap();
    let size = format!("size={mebibytes}m");
    succeed(
        Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(path),
    );
}

/// Bytes that can still be written at a path.
fn free(path: &Path) -> u64 {
    let told = succeed(
        Command::new("stat")
            .args(["--file-system", "--format", "%a %S"])
            .arg(path),
    );
    let (blocks, size) = told.trim().split_once(' ').unwrap();
    blocks.parse::<u64>().unwrap() * size.parse::<u64>().unwrap()
}

/// Whether nobody would find anything of an image, whole or not.
fn has_no_image(home: &Path) -> bool {
    ["images", "disks", "tmp"]
        .iter()
        .all(|folder| is_empty(&home.join("images").join(folder)))
}

#[test]
fn an_image_that_does_not_fit_is_refused_and_leaves_the_space_free() {
    // What is mounted here goes with this thread.
    isolate();
    let user = User::new();
    let registry = Registry::new(&user);
    let small = user.image();
    fs::write(user.home.path("root/large"), noise(LARGE)).unwrap();
    let large = user.home.path("large.tar");
    succeed(
        Command::new("tar")
            .arg("-C")
            .arg(user.home.path("root"))
            .arg("-cf")
            .arg(&large)
            .arg("."),
    );
    registry.push(&user, "large:1");
    let name = format!("localhost:{}/large:1", registry.port);

    // Room for less than the image; for its layer, but not for its disk beside it.
    for mebibytes in [6, 20] {
        let disk = user.home.path(&format!("disk-{mebibytes}"));
        small_disk(&disk, mebibytes);
        let home = disk.join("home");
        let koya = |words: &[&str]| {
            let mut command = user.koya(words);
            command
                .env("KOYA_HOME", &home)
                .stdin(Stdio::null())
                .output()
                .unwrap()
        };
        assert_eq!(told(&koya(&["images", "--quiet"])).2, Some(0));
        let before = free(&disk);
        let large = large.to_str().unwrap();
        let fits = mebibytes > 12;
        for words in [
            &["load", large][..],
            &["run", "--rm", "--network", "none", large, "true"],
            &["pull", &name],
            &["run", "--rm", "--network", "none", &name],
        ] {
            if fits && words.contains(&large) {
                continue;
            }
            let line = refusal(&koya(words), 125);
            assert!(line.to_lowercase().contains("space"), "{words:?}: {line}");
            assert!(has_no_image(&home), "{words:?}: something is half there");
            let now = free(&disk);
            assert!(
                now + (64 << 10) >= before,
                "{words:?}: {now} of {before} bytes are free"
            );
        }
        // What fits still works.
        let loaded = koya(&["load", "--quiet", small.to_str().unwrap()]);
        assert_eq!(told(&loaded).2, Some(0), "{loaded:?}");
        assert!(!has_no_image(&home));
        // As docker's users pass an image on.
        let archive = fs::read(&small).unwrap();
        let mut command = Command::new(std::env::var_os("KOYA_CLI").unwrap());
        let said = fed(
            command.args(["load", "--quiet"]).env("KOYA_HOME", &home),
            &archive,
        );
        assert_eq!(said.out.as_bytes(), loaded.stdout, "{said:?}");
        let nothing = refusal(&koya(&["load"]), 125);
        assert!(nothing.contains("no archive"), "{nothing}");
    }
}
