//! The store: names, removal, several processes at once, and processes that are killed.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing
)]
#![allow(clippy::panic, clippy::unwrap_used)]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use koya_image::{Event, Quiet, Reference, Source, Store};
use serde_json::json;
use support::erofs::Disk;
use support::folder::Folder;
use support::oci::Layout;
use support::tar::{archive, file};
use support::told;

/// When set, the test is a child that loads the source into this store.
const STORE: &str = "KOYA_IMAGE_TEST_STORE";
const SOURCE: &str = "KOYA_IMAGE_TEST_SOURCE";

fn count(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

fn named(layout: &mut Layout, name: &str, data: &[u8]) {
    let mut descriptor = layout.image(&[archive(&[file("x", data)])], json!({}));
    descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": name});
    layout.add(descriptor);
}

#[test]
fn images_are_named_found_listed_and_removed() {
    let (mut layout, folder) = (Layout::new(), Folder::new());
    named(&mut layout, "example.org/a:1", b"a");
    named(&mut layout, "example.org/b:1", b"b");
    let store = Store::open(folder.path()).unwrap();
    let images = store.load_all(&Source::Path(layout.path()), &mut Quiet).unwrap();
    let (a, b) = (&images[0], &images[1]);
    let short: Reference = "mine".parse().unwrap();
    store.tag("example.org/a:1", &short).unwrap();
    assert_eq!(store.find("mine:latest").unwrap().id(), a.id());
    assert_eq!(store.find(&a.id().short()).unwrap().id(), a.id());
    assert_eq!(store.find(&a.id().to_string()).unwrap().names().len(), 2);
    assert_eq!(
        store
            .find(&format!("example.org/a@{}", a.digests()[0]))
            .unwrap()
            .id(),
        a.id()
    );
    assert!(store.find(&format!("example.org/a@{}", b.digests()[0])).is_err());
    assert!(told(&store.find("").unwrap_err()).contains("an image name is empty"));
    assert_eq!(store.list().unwrap().len(), 2);
    let removed = store.remove("mine").unwrap();
    assert_eq!((removed.untagged, removed.deleted), (vec![short], None));
    let disk = store.disk(a).unwrap();
    let removed = store.remove("example.org/a:1").unwrap();
    assert_eq!(removed.deleted.as_ref(), Some(a.id()));
    assert!(!disk.exists() && store.find(&a.id().short()).is_err());
    assert!(told(&store.disk(a).unwrap_err()).contains("disk of the image is missing; load the image again"));
    assert_eq!(store.list().unwrap().len(), 1);
    assert!(store.disk(b).is_ok(), "the other image stays whole");
    assert_eq!(
        count(&folder.path().join("blobs/sha256")),
        2,
        "manifest and config of the other image"
    );
    store.load_all(&Source::Path(layout.path()), &mut Quiet).unwrap();
    assert_eq!(
        store.find("example.org/a:1").unwrap().id(),
        a.id(),
        "what was removed can be loaded again"
    );
}

#[test]
fn disks_are_read_only_and_out_of_reach_of_others() {
    use std::os::unix::fs::PermissionsExt;
    let (layout, folder) = (Layout::of(&[archive(&[file("x", b"1")])]), Folder::new());
    let store = Store::open(folder.path().join("made/store")).unwrap();
    let image = store.load(&Source::Path(layout.path()), &mut Quiet).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&store.disk(&image).unwrap()), 0o444);
    assert_eq!(mode(store.path()), 0o700);
}

#[test]
fn nameless_images_are_pruned() {
    let (folder, sources) = (Folder::new(), Folder::new());
    let store = Store::open(folder.path()).unwrap();
    let tar = sources.file("r.tar", &archive(&[file("x", b"1")]));
    let image = store.load(&Source::Path(tar), &mut Quiet).unwrap();
    let mut layout = Layout::new();
    named(&mut layout, "example.org/a:1", b"a");
    store.load(&Source::Path(layout.path()), &mut Quiet).unwrap();
    assert_eq!(store.prune().unwrap(), [*image.id()]);
    assert_eq!(store.list().unwrap().len(), 1);
    assert_eq!(count(&folder.path().join("disks")), 1);
}

#[test]
fn a_second_load_reads_nothing_unless_the_file_changed() {
    let (folder, sources) = (Folder::new(), Folder::new());
    let store = Store::open(folder.path()).unwrap();
    let source = Source::Path(sources.file("r.tar", &archive(&[file("x", b"1")])));
    let events = |source: &Source| {
        let mut seen = Vec::new();
        let image = store
            .load(source, &mut |event: Event<'_>| seen.push(format!("{event:?}")))
            .unwrap();
        (*image.id(), seen)
    };
    let (first, seen) = events(&source);
    assert!(
        seen[0].starts_with("Started") && seen.last().unwrap().starts_with("Done"),
        "{seen:?}"
    );
    assert_eq!(events(&source), (first, vec!["Present".to_owned()]));
    sources.file("r.tar", &archive(&[file("x", b"2")]));
    let (second, seen) = events(&source);
    assert!(second != first && seen[0].starts_with("Started"), "{seen:?}");
    let disk = store.disk(&store.find(&second.to_string()).unwrap()).unwrap();
    std::fs::remove_file(disk).unwrap();
    assert!(
        events(&source).1[0].starts_with("Started"),
        "a lost disk is made again"
    );
}

#[test]
fn progress_ends_at_the_total() {
    let (layout, folder) = (
        Layout::of(&[archive(&[file("x", &vec![5; 5 << 20])])]),
        Folder::new(),
    );
    let store = Store::open(folder.path()).unwrap();
    let (mut total, mut read) = (0, vec![]);
    let mut watch = |event: Event<'_>| match event {
        Event::Started {
            total: Some(bytes), ..
        } => total = bytes,
        Event::Read { done } => read.push(done),
        _ => {}
    };
    store.load(&Source::Path(layout.path()), &mut watch).unwrap();
    assert!(read.is_sorted() && read.len() > 4, "{read:?}");
    assert_eq!(*read.last().unwrap(), total);
}

#[test]
fn loads_at_the_same_time_do_the_work_once() {
    let (layout, folder) = (
        Layout::of(&[archive(&[file("x", &vec![5; 8 << 20])])]),
        Folder::new(),
    );
    let copy = Folder::new();
    let copied = Command::new("cp")
        .args(["-a", "."])
        .arg(copy.path())
        .current_dir(layout.path())
        .status();
    assert!(copied.unwrap().success());
    let store = Store::open(folder.path()).unwrap();
    let sources = [
        layout.path(),
        copy.path().to_owned(),
        layout.path(),
        layout.path(),
    ];
    let started = std::sync::atomic::AtomicU32::new(0);
    std::thread::scope(|scope| {
        for path in sources {
            scope.spawn(|| {
                let mut watch = |event: Event<'_>| {
                    if matches!(event, Event::Started { .. }) {
                        started.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    }
                };
                let image = store.load(&Source::Path(path), &mut watch).unwrap();
                Disk::open(&store.disk(&image).unwrap()).tree();
            });
        }
    });
    assert_eq!(started.into_inner(), 1);
    assert_eq!(store.list().unwrap().len(), 1);
    assert_eq!(count(&folder.path().join("locks")), 0);
}

#[test]
fn a_killed_load_leaves_nothing_that_anybody_finds() {
    if let (Ok(store), Ok(source)) = (std::env::var(STORE), std::env::var(SOURCE)) {
        // This is the child.
        Store::open(store)
            .unwrap()
            .load(&Source::Path(source.into()), &mut Quiet)
            .unwrap();
        return;
    }
    let (folder, sources) = (Folder::new(), Folder::new());
    let tar = sources.file("r.tar", &archive(&[file("x", &[1; 100])]));
    let store = Store::open(folder.path()).unwrap();
    // Large enough to be killed in the middle.
    let slow: PathBuf = sources.file("slow.tar", &archive(&[file("y", &vec![7; 200 << 20])]));
    let temp = folder.path().join("tmp");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_killed_load_leaves_nothing_that_anybody_finds"])
        .env(STORE, folder.path())
        .env(SOURCE, &slow)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    let grown = |entry: std::fs::DirEntry| entry.metadata().is_ok_and(|found| found.len() > 0);
    while !std::fs::read_dir(&temp).unwrap().flatten().any(grown) {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "the child has begun to write"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(told(&store.collect().unwrap_err()).contains("images are being loaded right now"));
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(count(&temp), 1, "it was killed in the middle");
    assert!(store.list().unwrap().is_empty());
    assert_eq!(count(&folder.path().join("disks")), 0);
    store.load(&Source::Path(tar), &mut Quiet).unwrap();
    assert_eq!(count(&temp), 0, "the next load removes the rubbish");
    let image = store.load(&Source::Path(slow), &mut Quiet).unwrap();
    assert_eq!(
        Disk::open(&store.disk(&image).unwrap()).tree()["/y"].size,
        200 << 20
    );
}

#[test]
fn rubbish_is_collected_and_damage_is_told() {
    let (layout, folder) = (Layout::of(&[archive(&[file("x", b"1")])]), Folder::new());
    let store = Store::open(folder.path()).unwrap();
    let image = store.load(&Source::Path(layout.path()), &mut Quiet).unwrap();
    folder.file(&format!("disks/{}.erofs", "0".repeat(64)), &[0; 1000]);
    folder.file(&format!("blobs/sha256/{}", "0".repeat(64)), &[0; 24]);
    let collected = store.collect().unwrap();
    assert_eq!((collected.files, collected.bytes), (2, 1024));
    assert!(store.disk(&image).is_ok());
    folder.file(&format!("blobs/sha256/{}", image.id().hex()), b"{}");
    assert!(told(&store.list().unwrap_err()).contains("remove the image and load it again"));
    folder.file("index.json", b"nonsense");
    assert!(told(&store.find("x").unwrap_err()).contains("is damaged"));
}
