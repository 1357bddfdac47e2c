//! Round trips, other programs' archives, and hostile ones.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing
)]
#![allow(clippy::panic, clippy::unwrap_used)]

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use koya_archive::{
    ArchiveError, Entry, Kind, Owner, Reader, Unpack, Unpacked, Writer, last_part, open_folder, pack,
};

static COUNTER: AtomicU32 = AtomicU32::new(0);

struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("koya-archive-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.at(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    fn pack(&self, name: &str, top: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        let folder = open_folder(&self.0).unwrap();
        pack(
            folder.as_fd(),
            OsStr::new(name),
            OsStr::new(top),
            false,
            &mut bytes,
        )
        .unwrap();
        bytes
    }

    fn unpack_as(&self, bytes: &[u8], options: &Unpack) -> Result<Unpacked, ArchiveError> {
        let folder = open_folder(&self.0).unwrap();
        options.run(folder.as_fd(), bytes)
    }

    fn unpack(&self, bytes: &[u8]) -> Result<Unpacked, ArchiveError> {
        self.unpack_as(bytes, &host())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn host() -> Unpack {
    Unpack {
        top: None,
        owner: Owner::Caller,
        confined: false,
    }
}

fn entry(kind: Kind, path: &str) -> Entry {
    Entry {
        path: path.into(),
        link: Vec::new(),
        kind,
        mode: if kind == Kind::Folder { 0o755 } else { 0o644 },
        uid: 0,
        gid: 0,
        mtime: (1_700_000_000, 0),
        size: 0,
        xattrs: Vec::new(),
    }
}

fn link(kind: Kind, path: &str, target: &str) -> Entry {
    Entry {
        link: target.into(),
        ..entry(kind, path)
    }
}

fn archive(entries: &[(Entry, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes);
    for (entry, data) in entries {
        let size = data.len() as u64;
        writer
            .entry(&Entry {
                size,
                ..entry.clone()
            })
            .unwrap();
        writer.data().write_all(data).unwrap();
    }
    writer.finish().unwrap();
    bytes
}

fn sample() -> Folder {
    let folder = Folder::new();
    folder.file("tree/a", b"first");
    folder.file("tree/inner/program", &vec![7; 300_000]);
    folder.file("tree/locked/x", b"");
    let long = "n".repeat(200);
    folder.file(&format!("tree/{long}/{long}"), b"long");
    fs::hard_link(folder.at("tree/a"), folder.at("tree/inner/same")).unwrap();
    symlink("../outside", folder.at("tree/link")).unwrap();
    fs::set_permissions(folder.at("tree/inner/program"), Permissions::from_mode(0o4751)).unwrap();
    let time = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    let stamp = |name: &str| {
        fs::File::open(folder.at(name))
            .unwrap()
            .set_modified(time)
            .unwrap()
    };
    stamp("tree/a");
    fs::set_permissions(folder.at("tree/locked"), Permissions::from_mode(0o555)).unwrap();
    stamp("tree/locked");
    folder
}

fn check(root: &Path, mode_of_program: u32) {
    let found = |name: &str| fs::symlink_metadata(root.join(name)).unwrap();
    assert_eq!(fs::read(root.join("a")).unwrap(), b"first");
    assert_eq!(fs::read(root.join("inner/program")).unwrap(), vec![7; 300_000]);
    assert_eq!(found("inner/program").mode() & 0o7777, mode_of_program);
    assert_eq!(
        found("a").ino(),
        found("inner/same").ino(),
        "one file with two names"
    );
    assert_eq!(fs::read_link(root.join("link")).unwrap(), Path::new("../outside"));
    assert_eq!(found("locked").mode() & 0o7777, 0o555);
    for name in ["a", "locked"] {
        assert_eq!(
            (found(name).mtime(), found(name).mtime_nsec()),
            (1_000_000_000, 123_456_789),
            "{name}"
        );
    }
    let long = "n".repeat(200);
    assert_eq!(fs::read(root.join(&long).join(&long)).unwrap(), b"long");
}

#[test]
fn what_is_packed_is_unpacked_the_same() {
    let (from, to) = (sample(), Folder::new());
    let done = to.unpack(&from.pack("tree", "tree")).unwrap();
    assert_eq!(
        done,
        Unpacked {
            entries: 10,
            skipped: 0
        }
    );
    check(&to.at("tree"), 0o751);
    // Once more over what is there, with another name and nothing lost.
    let faithful = Unpack {
        owner: Owner::AsPacked,
        top: Some("tree".into()),
        ..host()
    };
    to.unpack_as(&from.pack("tree", "other"), &faithful).unwrap();
    check(&to.at("tree"), 0o4751);
    // The contents alone.
    let contents = Folder::new();
    contents.unpack(&from.pack("tree", ".")).unwrap();
    check(&contents.0, 0o751);
}

#[test]
fn gnu_tar_reads_what_is_written_and_the_other_way_round() {
    let (from, theirs, ours) = (sample(), Folder::new(), Folder::new());
    let packed = from.file("packed.tar", &from.pack("tree", "tree"));
    let tar = |arguments: &[&str], file: &Path, folder: &Path| {
        let done = Command::new("tar")
            .args(arguments)
            .arg(file)
            .arg("-C")
            .arg(folder)
            .arg("tree")
            .output();
        let done = done.unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    tar(&["-xpf"], &packed, &theirs.0);
    check(&theirs.at("tree"), 0o4751);
    for format in ["--format=gnu", "--format=pax"] {
        let file = from.at("theirs.tar");
        tar(&[format, "-cf"], &file, &from.0);
        ours.unpack(&fs::read(&file).unwrap()).unwrap();
        if format == "--format=pax" {
            check(&ours.at("tree"), 0o751);
        }
        let long = "n".repeat(200);
        assert_eq!(
            fs::read(ours.at("tree").join(&long).join(&long)).unwrap(),
            b"long"
        );
    }
}

#[test]
fn attributes_and_odd_times_survive() {
    let entries = [
        Entry {
            mtime: (-2, 500_000_000),
            ..entry(Kind::File, "old")
        },
        Entry {
            mtime: (0o777_7777_7777 + 1, 1),
            ..entry(Kind::File, "late")
        },
        Entry {
            uid: 3_000_000_000,
            gid: 4_000_000,
            xattrs: vec![(b"user.k".to_vec(), b"v=\n\0".to_vec())],
            ..entry(Kind::File, "rich")
        },
    ];
    let all: Vec<_> = entries.iter().map(|entry| (entry.clone(), &b"x"[..])).collect();
    let bytes = archive(&all);
    let mut reader = Reader::new(&bytes[..]);
    for expected in &entries {
        let found = reader.next_entry().unwrap().unwrap();
        assert_eq!(
            found,
            Entry {
                size: 1,
                ..expected.clone()
            }
        );
    }
    assert_eq!(reader.next_entry().unwrap(), None);
}

#[test]
fn no_name_leads_out_of_the_folder() {
    let (outside, folder) = (Folder::new(), Folder::new());
    outside.file("victim", b"whole");
    let target = outside.0.to_str().unwrap();
    let victim = outside.at("victim");
    let attempts: Vec<Vec<(Entry, &[u8])>> = vec![
        vec![(entry(Kind::File, "../evil"), b"x")],
        vec![(entry(Kind::File, "a/../../evil"), b"x")],
        vec![
            (link(Kind::Symlink, "door", target), b""),
            (entry(Kind::File, "door/victim"), b"x"),
        ],
        vec![
            (link(Kind::Symlink, "door", target), b""),
            (entry(Kind::Folder, "door/new"), b""),
        ],
        vec![
            (link(Kind::Symlink, "door", target), b""),
            (entry(Kind::Folder, "door"), b""),
        ],
        vec![
            (link(Kind::Symlink, "door", target), b""),
            (link(Kind::HardLink, "mine", "door/victim"), b""),
            (entry(Kind::File, "mine"), b"x"),
        ],
        vec![(
            link(
                Kind::HardLink,
                "mine",
                &format!("../{}/victim", outside.0.file_name().unwrap().to_str().unwrap()),
            ),
            b"",
        )],
        vec![
            (entry(Kind::Folder, "swapped"), b""),
            (entry(Kind::File, "swapped/a"), b"x"),
            (link(Kind::Symlink, "swapped", target), b""),
            (entry(Kind::File, "swapped/victim"), b"x"),
        ],
    ];
    for attempt in &attempts {
        let bytes = archive(attempt);
        assert!(folder.unpack(&bytes).is_err(), "{:?}", attempt[0].0.path);
        assert_eq!(fs::read(&victim).unwrap(), b"whole");
        assert_eq!(
            fs::read_dir(&outside.0).unwrap().count(),
            1,
            "{:?}",
            attempt.last().unwrap().0
        );
        let _ = fs::remove_file(folder.at("door"));
    }
    let parent = folder.0.parent().unwrap();
    assert!(!parent.join("evil").exists());
}

#[test]
fn a_link_is_replaced_and_not_written_through() {
    let (outside, folder) = (Folder::new(), Folder::new());
    let victim = outside.file("victim", b"whole");
    symlink(&victim, folder.at("name")).unwrap();
    folder
        .unpack(&archive(&[(entry(Kind::File, "/name"), b"new")]))
        .unwrap();
    assert_eq!(fs::read(&victim).unwrap(), b"whole");
    assert_eq!(fs::read(folder.at("name")).unwrap(), b"new");
    assert!(!fs::symlink_metadata(folder.at("name")).unwrap().is_symlink());
}

#[test]
fn files_and_folders_do_not_replace_each_other() {
    let folder = Folder::new();
    folder.file("file", b"1");
    folder.file("folder/inner", b"2");
    let over = |entry: Entry| folder.unpack(&archive(&[(entry, b"")])).unwrap_err();
    assert!(matches!(
        over(entry(Kind::Folder, "file")),
        ArchiveError::NoFolder { .. }
    ));
    assert!(matches!(
        over(entry(Kind::File, "folder")),
        ArchiveError::Folder { .. }
    ));
    assert!(matches!(
        over(link(Kind::Symlink, "folder", "x")),
        ArchiveError::Folder { .. }
    ));
    assert_eq!(fs::read(folder.at("folder/inner")).unwrap(), b"2");
}

#[test]
fn devices_are_left_out_and_set_id_bits_only_kept_with_owners() {
    let folder = Folder::new();
    let program = Entry {
        mode: 0o6755,
        ..entry(Kind::File, "program")
    };
    let bytes = archive(&[
        (entry(Kind::Block, "sda"), b""),
        (entry(Kind::Character, "mem"), b""),
        (program, b"#!"),
    ]);
    assert_eq!(
        folder.unpack(&bytes).unwrap(),
        Unpacked {
            entries: 1,
            skipped: 2
        }
    );
    let mode = || fs::metadata(folder.at("program")).unwrap().mode() & 0o7777;
    assert_eq!(mode(), 0o755);
    assert!(!folder.at("sda").exists() && !folder.at("mem").exists());
    let confined = Unpack {
        confined: true,
        ..host()
    };
    folder.unpack_as(&bytes, &confined).unwrap();
    assert_eq!(mode(), 0o6755);
}

#[test]
fn pipes_are_not_waited_for_and_sockets_are_left_out() {
    let (from, to) = (Folder::new(), Folder::new());
    assert!(
        Command::new("mkfifo")
            .arg(from.at("pipe"))
            .status()
            .unwrap()
            .success()
    );
    let _socket = std::os::unix::net::UnixListener::bind(from.at("socket")).unwrap();
    to.unpack(&from.pack(".", "all")).unwrap();
    let kind = fs::symlink_metadata(to.at("all/pipe")).unwrap().mode() & 0o170_000;
    assert_eq!(kind, 0o010_000);
    assert!(!to.at("all/socket").exists());
}

#[test]
fn links_are_followed_only_at_the_top_and_when_asked() {
    let (from, to) = (Folder::new(), Folder::new());
    from.file("real", b"data");
    symlink("real", from.at("link")).unwrap();
    let mut bytes = Vec::new();
    let folder = open_folder(&from.0).unwrap();
    pack(
        folder.as_fd(),
        OsStr::new("link"),
        OsStr::new("copy"),
        true,
        &mut bytes,
    )
    .unwrap();
    to.unpack(&bytes).unwrap();
    assert!(fs::symlink_metadata(to.at("copy")).unwrap().is_file());
    to.unpack(&from.pack("link", "kept")).unwrap();
    assert!(fs::symlink_metadata(to.at("kept")).unwrap().is_symlink());
    let missing = pack(
        folder.as_fd(),
        OsStr::new("nothing"),
        OsStr::new("x"),
        false,
        &mut bytes,
    )
    .unwrap_err();
    assert!(
        missing.to_string().contains("x: looking at it failed"),
        "{missing}"
    );
}

#[test]
fn a_cut_stream_is_noticed() {
    let folder = Folder::new();
    let bytes = archive(&[(entry(Kind::File, "a"), &[1; 5000])]);
    for length in [100, 512, 600, 5000] {
        let outcome = folder.unpack(&bytes[..length]);
        assert!(
            matches!(outcome, Err(ArchiveError::Truncated)),
            "{length}: {outcome:?}"
        );
    }
    assert_eq!(folder.unpack(b"").unwrap(), Unpacked::default());
    let sparse = Entry {
        xattrs: vec![],
        ..entry(Kind::File, "s")
    };
    let mut bytes = archive(&[(sparse, b"")]);
    bytes[0] ^= 1;
    assert!(matches!(
        folder.unpack(&bytes),
        Err(ArchiveError::Malformed { .. })
    ));
}

#[test]
fn flipped_bits_never_do_worse_than_an_error() {
    let (from, outside) = (sample(), Folder::new());
    let bytes = from.pack("tree", "tree");
    let head = bytes.len().min(20_000);
    let mut seed = 7_u64;
    let mut next = move || {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(seed >> 33).unwrap()
    };
    for _ in 0..400 {
        let mut bytes = bytes.clone();
        for _ in 0..4 {
            let at = next() % head;
            bytes[at] = [0, b'0', b'7', b'/', b'.', 0xff, b'x', b'5'][next() % 8];
            seal(&mut bytes, at / 512 * 512);
        }
        let folder = outside.at("in");
        fs::create_dir_all(&folder).unwrap();
        let opened = open_folder(&folder).unwrap();
        // Right or wrong, it stays in its folder.
        let _ = host().run(opened.as_fd(), &bytes[..]);
        assert_eq!(fs::read_dir(&outside.0).unwrap().count(), 1);
        let _ = Command::new("chmod").args(["-R", "u+rwx"]).arg(&folder).status();
        fs::remove_dir_all(&folder).unwrap();
    }
}

/// Makes the checksum of a header right again.
fn seal(bytes: &mut [u8], at: usize) {
    if bytes.get(at + 257..at + 262) != Some(b"ustar") {
        return;
    }
    bytes[at + 148..at + 156].fill(b' ');
    let sum: u32 = bytes[at..at + 512].iter().map(|byte| u32::from(*byte)).sum();
    bytes[at + 148..at + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

#[test]
fn last_parts_are_names_or_dots() {
    for (path, name) in [
        ("/a/b", "b"),
        ("b", "b"),
        ("/a/b/", "b"),
        ("/a/b/.", "."),
        ("/", "."),
        ("..", "."),
        ("", "."),
    ] {
        assert_eq!(last_part(path.as_bytes()), *name, "{path}");
    }
}
