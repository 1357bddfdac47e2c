//! What layers say is what the disk holds: each trick of a layer, read back from the finished disk.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing
)]
#![allow(clippy::panic, clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;

use koya_image::{Limits, Quiet, Source, Store};
use support::erofs::{Disk, Node};
use support::folder::Folder;
use support::oci::Layout;
use support::tar::{self, Entry, archive, directory, file, hard_link, special, symlink};
use support::told;

/// The disk of an image with such layers.
fn tree(layers: &[&[Entry]]) -> BTreeMap<String, Node> {
    match try_tree(layers, Limits::default()) {
        Ok(tree) => tree,
        Err(message) => panic!("{message}"),
    }
}

fn refusal(layers: &[&[Entry]]) -> String {
    try_tree(layers, Limits::default()).expect_err("the image is refused")
}

fn try_tree(layers: &[&[Entry]], limits: Limits) -> Result<BTreeMap<String, Node>, String> {
    let layers: Vec<_> = layers.iter().map(|entries| archive(entries)).collect();
    load(&layers, limits)
}

fn load(layers: &[Vec<u8>], limits: Limits) -> Result<BTreeMap<String, Node>, String> {
    let (layout, folder) = (Layout::of(layers), Folder::new());
    let store = Store::with_limits(folder.path(), limits).unwrap();
    let image = store.load(&Source::Path(layout.path()), &mut Quiet);
    let image = image.map_err(|error| {
        let left: Vec<_> = std::fs::read_dir(folder.path().join("tmp")).unwrap().collect();
        assert!(left.is_empty(), "a refused image leaves nothing behind");
        assert!(store.list().unwrap().is_empty());
        told(&error)
    })?;
    Ok(Disk::open(&store.disk(&image).unwrap()).tree())
}

fn paths(tree: &BTreeMap<String, Node>) -> Vec<&str> {
    tree.keys()
        .map(String::as_str)
        .filter(|path| *path != "/")
        .collect()
}

fn text(tree: &BTreeMap<String, Node>, path: &str) -> String {
    String::from_utf8(tree[path].data.clone()).unwrap()
}

#[test]
fn owners_modes_times_and_devices_are_kept() {
    let tree = tree(&[&[
        directory("./").mode(0o1755),
        file("suid", b"x").mode(0o4755).owner(1000, 3_000_000_000),
        file("time", b"").pax("mtime", b"-5.25").pax("uid", b"4000000000"),
        special(b'3', "null", (1, 3)),
        special(b'4', "disk", (259, 70_000)),
        special(b'6', "fifo", (0, 0)),
        symlink("link", "../../etc/passwd"),
    ]]);
    assert_eq!(tree["/"].mode, 0o041_755);
    let suid = &tree["/suid"];
    assert_eq!((suid.mode, suid.uid, suid.gid), (0o104_755, 1000, 3_000_000_000));
    assert_eq!(suid.mtime, (1_700_000_000, 0));
    assert_eq!(
        (tree["/time"].mtime, tree["/time"].uid),
        ((-6, 750_000_000), 4_000_000_000)
    );
    assert_eq!(
        (tree["/null"].mode & 0o170_000, tree["/null"].device),
        (0o020_000, 0x103)
    );
    let minor = 70_000;
    assert_eq!(
        tree["/disk"].device,
        (minor & 0xff) | (259 << 8) | ((minor & !0xff) << 12)
    );
    assert_eq!(tree["/fifo"].mode & 0o170_000, 0o010_000);
    assert_eq!(text(&tree, "/link"), "../../etc/passwd");
}

#[test]
fn contents_of_every_size_come_back() {
    let sizes = [
        0,
        1,
        4031,
        4032,
        4033,
        4095,
        4096,
        4097,
        8191,
        300_000,
        262_144,
        1 << 20,
    ];
    let bytes = |size: usize| {
        (0..size)
            .map(|i| (i * 31 + i / 4096) as u8 | 1)
            .collect::<Vec<_>>()
    };
    let entries: Vec<_> = sizes
        .iter()
        .map(|size| file(&format!("f{size}"), &bytes(*size)))
        .collect();
    let tree = tree(&[&entries]);
    for size in sizes {
        assert!(tree[&format!("/f{size}")].data == bytes(size), "{size} bytes");
    }
}

#[test]
fn large_directories_and_long_names_come_back() {
    let names: Vec<_> = (0..1500)
        .map(|i| format!("d/{}-{i}", "n".repeat(i % 249)))
        .collect();
    let odd = ["d/!first", "d/-", "d/...", "d/ä", "d/~"].map(String::from);
    let entries: Vec<_> = names
        .iter()
        .chain(&odd)
        .map(|name| file(name, name.as_bytes()))
        .collect();
    let tree = tree(&[&entries]);
    assert_eq!(tree.len(), 1507);
    for name in names.iter().chain(&odd) {
        assert_eq!(&text(&tree, &format!("/{name}")), name);
    }
}

#[test]
fn attributes_are_kept_save_those_that_steer_the_overlay() {
    let capability = b"\x01\0\0\x02\x0a\x0a\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let large = vec![7; 5000];
    let tree = tree(&[&[
        file("ping", &[1; 100]).xattr("security.capability", capability),
        file("acl", b"x")
            .xattr("system.posix_acl_access", &[2, 0, 0, 0])
            .xattr(
                "user.b", b"=
=",
            ),
        file("large", &[2; 3000]).xattr("user.large", &large),
        directory("evil")
            .xattr("trusted.overlay.redirect", b"/etc")
            .xattr("user.overlay.opaque", b"y")
            .xattr("security.selinux", b"x")
            .xattr("bogus.name", b"x"),
    ]]);
    assert_eq!(
        tree["/ping"].xattrs,
        [(6, b"capability".to_vec(), capability.to_vec())]
    );
    assert_eq!(tree["/ping"].data, [1; 100]);
    let acl = [
        (1, b"b".to_vec(), b"=\n=".to_vec()),
        (2, vec![], vec![2, 0, 0, 0]),
    ];
    assert_eq!(tree["/acl"].xattrs, acl);
    assert_eq!(tree["/large"].xattrs, [(1, b"large".to_vec(), large)]);
    assert_eq!(tree["/large"].data, [2; 3000]);
    assert_eq!(tree["/evil"].xattrs, []);
}

#[test]
fn whiteouts_hide_lower_layers_only() {
    let tree = tree(&[
        &[
            file("a/old", b"1"),
            file("a/kept", b"1"),
            file("b/x", b"1"),
            file("gone/deep/x", b"1"),
        ],
        &[
            file("a/.wh.old", b""),
            file("b/new", b"2"),
            file("b/.wh..wh..opq", b""),
            file(".wh.gone", b""),
            file("same", b"2"),
            file(".wh.same", b""),
            file(".wh..wh.plnk", b""),
            file(".wh.never-there", b""),
            file("nowhere/.wh.x", b""),
        ],
    ]);
    assert_eq!(paths(&tree), ["/a", "/a/kept", "/b", "/b/new", "/same"]);
}

#[test]
fn a_directory_can_be_deleted_and_made_again_in_one_layer() {
    for order in [[0, 1, 2], [1, 0, 2], [2, 1, 0]] {
        let upper = [file(".wh.d", b""), directory("d").mode(0o700), file("d/new", b"")];
        let upper = order.map(|index: usize| upper[index].clone());
        let tree = tree(&[
            &[directory("d"), file("d/old", b""), file("d/e/old", b"")],
            &upper,
        ]);
        assert_eq!(paths(&tree), ["/d", "/d/new"], "{order:?}");
        assert_eq!(tree["/d"].mode, 0o040_700);
    }
}

#[test]
fn whiteouts_that_name_nothing_are_refused() {
    for name in [".wh.", ".wh..", ".wh...", "d/.wh..."] {
        assert!(
            refusal(&[&[file(name, b"")]]).contains("whiteout that names no file"),
            "{name}"
        );
    }
}

#[test]
fn upper_layers_replace_and_keep_what_they_should() {
    let tree = tree(&[
        &[
            directory("d").mode(0o700),
            file("d/x", b"1"),
            file("f", b"1"),
            file("e/x", b"1"),
            symlink("l", "d"),
            file("h1", b"old"),
            hard_link("h2", "h1"),
        ],
        &[directory("d").mode(0o711)],
        &[
            directory("f"),
            file("f/inner", b"2"),
            file("e", b"2"),
            directory("l"),
            file("h1", b"new"),
        ],
    ]);
    assert_eq!(
        paths(&tree),
        ["/d", "/d/x", "/e", "/f", "/f/inner", "/h1", "/h2", "/l"]
    );
    assert_eq!(tree["/d"].mode, 0o040_711);
    assert_eq!(tree["/l"].mode & 0o170_000, 0o040_000);
    assert_eq!(
        (text(&tree, "/h1"), text(&tree, "/h2")),
        ("new".into(), "old".into())
    );
    assert_eq!((tree["/h1"].links, tree["/h2"].links), (1, 1));
}

#[test]
fn hard_links_share_an_inode_across_layers() {
    let tree = tree(&[
        &[
            file("a", b"data"),
            hard_link("b", "./a"),
            symlink("s", "a"),
            hard_link("t", "/s"),
        ],
        &[hard_link("c", "a"), hard_link("a", "a")],
    ]);
    assert_eq!(tree["/a"].links, 3);
    assert_eq!(tree["/a"].number, tree["/c"].number);
    assert_eq!(tree["/s"].number, tree["/t"].number);
    assert_eq!(text(&tree, "/t"), "a");
}

#[test]
fn bad_hard_links_are_refused() {
    assert!(
        refusal(&[&[hard_link("x", "y")]]).contains("\"x\" is a hard link to \"y\", which does not exist")
    );
    assert!(refusal(&[&[hard_link("x", "../y")]]).contains("\"../y\" has .. in its name"));
    assert!(refusal(&[&[directory("d"), hard_link("x", "d")]]).contains("hard link to the directory \"d\""));
    assert!(refusal(&[&[hard_link("x", "/")]]).contains("does not exist"));
}

#[test]
fn names_that_lead_outside_are_refused_or_stay_inside() {
    for name in ["../x", "a/../../x", "a/..", "/../x", "./.."] {
        let message = refusal(&[&[file(name, b"")]]);
        assert!(message.contains("has .. in its name"), "{name}: {message}");
        assert!(message.starts_with("layer 1 of 1 (sha256:"), "{message}");
    }
    let tree = tree(&[&[file("/etc/passwd", b"1"), file("//x", b""), file("./a/./b", b"")]]);
    assert_eq!(paths(&tree), ["/a", "/a/b", "/etc", "/etc/passwd", "/x"]);
}

#[test]
fn symbolic_links_on_the_way_are_followed_within_the_image() {
    let outside = Folder::new();
    let target = outside.path().to_str().unwrap();
    let tree = tree(&[
        &[
            directory("usr/lib"),
            symlink("lib", "usr/lib"),
            symlink("up", "../../.."),
            symlink("out", target),
        ],
        &[
            file("lib/x", b"1"),
            file("up/y", b"1"),
            file("out/z", b"1"),
            file("final", b""),
            symlink("s", "final"),
        ],
        &[file("s", b"replaced, not followed")],
    ]);
    assert_eq!(text(&tree, "/usr/lib/x"), "1");
    assert_eq!(text(&tree, "/y"), "1");
    assert_eq!(text(&tree, &format!("{target}/z")), "1");
    assert_eq!(
        (text(&tree, "/s"), text(&tree, "/final")),
        ("replaced, not followed".into(), "".into())
    );
    assert_eq!(
        std::fs::read_dir(outside.path()).unwrap().count(),
        0,
        "nothing reached the host"
    );
}

#[test]
fn loops_and_files_on_the_way_are_refused() {
    let message = refusal(&[&[symlink("a", "b"), symlink("b", "a"), file("a/x", b"")]]);
    assert!(
        message.contains("\"a/x\" leads through too many symbolic links"),
        "{message}"
    );
    let message = refusal(&[&[file("f", b""), file("f/x", b"")]]);
    assert!(
        message.contains("\"f/x\" lies below \"f\", which is no directory"),
        "{message}"
    );
    assert!(refusal(&[&[symlink("./", "x")]]).contains("would replace the root directory"));
    assert!(refusal(&[&[symlink("x", "")]]).contains("without a target"));
    let long = "n".repeat(256);
    assert!(refusal(&[&[file(&long, b"")]]).contains("a part of more than 255 bytes"));
    assert!(refusal(&[&[special(b'3', "x", (4096, 0))]]).contains("is device 4096:0"));
    assert!(
        refusal(&[&[Entry {
            flag: b'Z',
            ..file("x", b"")
        }]])
        .contains("unknown entry type 'Z'")
    );
}

#[test]
fn sparse_files_of_every_format_keep_their_holes() {
    let mut data = b"BEGIN".to_vec();
    data.resize(4096, b'x');
    data.extend(b"END");
    let (size, end) = (50_000_000_u64, 49_999_997_u64);
    let numbers = [0, 4096, end, 3];
    let map01 = numbers.map(|n| n.to_string()).join(",");
    let mut map10 = [2, 0, 4096, end, 3]
        .map(|n| format!("{n}\n"))
        .concat()
        .into_bytes();
    map10.resize(512, 0);
    let real = size.to_string();
    let pax01 = file("x", &data)
        .pax("GNU.sparse.map", map01.as_bytes())
        .pax("GNU.sparse.size", real.as_bytes())
        .pax("GNU.sparse.name", b"v01");
    let pax10 = file("x", &[map10, data.clone()].concat())
        .pax("GNU.sparse.major", b"1")
        .pax("GNU.sparse.minor", b"0")
        .pax("GNU.sparse.realsize", real.as_bytes())
        .pax("GNU.sparse.name", b"v10");
    let mut old = archive(&[Entry {
        flag: b'S',
        ..file("old", &data)
    }]);
    let mut header: [u8; 512] = old[..512].try_into().unwrap();
    let slots = [(386, 0), (398, 4096), (410, end), (422, 3), (483, size)];
    header[345..].fill(0);
    for (at, number) in slots {
        header[at..at + 12].copy_from_slice(format!("{number:011o}\0").as_bytes());
    }
    tar::seal(&mut header);
    old[..512].copy_from_slice(&header);
    old.truncate(old.len() - 1024);
    let bytes = [old, archive(&[pax01, pax10])].concat();
    let tree = load(&[bytes], Limits::default()).unwrap();
    let mut expected = vec![0; size as usize];
    expected[..4096].copy_from_slice(&data[..4096]);
    expected[end as usize..].copy_from_slice(b"END");
    for name in ["/old", "/v01", "/v10"] {
        assert_eq!(tree[name].size, size, "{name}");
        assert!(tree[name].data == expected, "{name}");
    }
}

#[test]
fn false_sparse_maps_are_refused() {
    let sparse = |map: &[u8], size: &[u8]| {
        refusal(&[&[file("x", b"abc")
            .pax("GNU.sparse.map", map)
            .pax("GNU.sparse.size", size)]])
    };
    for (map, size) in [
        (b"0,4".as_slice(), b"100".as_slice()),
        (b"0,3", b"2"),
        (b"5,2,1,1", b"100"),
        (b"18446744073709551615,3", b"100"),
    ] {
        let message = sparse(map, size);
        assert!(
            message.contains("map of the sparse file \"x\" is malformed"),
            "{message}"
        );
    }
}

#[test]
fn long_names_of_both_kinds_come_back() {
    let long = format!("{}/{}", "d".repeat(200), "f".repeat(200));
    let mut gnu = archive(&[Entry {
        flag: b'L',
        ..file("././@LongLink", format!("{long}\0").as_bytes())
    }]);
    gnu.truncate(gnu.len() - 1024);
    let gnu = [gnu, archive(&[file("cut", b"gnu")])].concat();
    assert_eq!(
        text(&load(&[gnu], Limits::default()).unwrap(), &format!("/{long}")),
        "gnu"
    );
    let target = "t/".repeat(1500);
    let tree = tree(&[&[file(&long, b"pax"), symlink("l", &target)]]);
    assert_eq!(text(&tree, &format!("/{long}")), "pax");
    assert_eq!(text(&tree, "/l"), target);
    let message = refusal(&[&[file(&"x/".repeat(2500), b"")]]);
    assert!(message.contains("a name of more than 4095"), "{message}");
}

#[test]
fn cut_and_garbled_layers_are_refused() {
    let whole = archive(&[file("x", &[7; 5000])]);
    let fault = |bytes: &[u8]| load(&[bytes.to_vec()], Limits::default()).expect_err("the layer is refused");
    assert!(fault(&whole[..3000]).contains("it ends in the middle of an entry"));
    assert!(fault(&whole[..300]).contains("it ends in the middle of an entry"));
    let mut garbled = whole.clone();
    garbled[5] ^= 1;
    assert!(fault(&garbled).contains("the header at byte 0 is not a tar header"));
    let lying = archive(&[Entry {
        size: Some(u64::MAX >> 1),
        ..file("x", b"")
    }]);
    assert!(
        fault(&lying).contains("appear to hold more than"),
        "{}",
        fault(&lying)
    );
    let lying = archive(&[Entry {
        size: Some(1 << 30),
        flag: b'x',
        ..file("x", b"")
    }]);
    assert!(fault(&lying).contains("an extended header of more than 4194304"));
}

#[test]
fn no_garbled_archive_brings_the_loader_down() {
    let whole = archive(&[
        directory("d"),
        file("d/f", &[1; 5000]).xattr("user.a", b"b"),
        file("s", b"abc")
            .pax("GNU.sparse.map", b"10,3")
            .pax("GNU.sparse.size", b"9000"),
        hard_link("l", "d/f"),
        file(".wh.d", b""),
    ]);
    let (mut state, mut refused) = (1_u64, 0);
    for round in 0..200 {
        let mut bytes = whole.clone();
        for _ in 0..=round % 4 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let at = (state >> 33) as usize % bytes.len();
            bytes[at] = (state >> 20) as u8;
            // With its checksum put right, a header gets further.
            let block = at / 512 * 512;
            if let Some(header) = bytes
                .get_mut(block..block + 512)
                .and_then(|b| b.first_chunk_mut())
            {
                tar::seal(header);
            }
        }
        let limits = Limits {
            apparent_bytes: 1 << 30,
            ..Limits::default()
        };
        refused += usize::from(load(&[bytes], limits).is_err());
    }
    assert!(
        (25..200).contains(&refused),
        "{refused} of 200 are refused, the rest load"
    );
}

#[test]
fn caps_stop_what_grows() {
    let capped = |entries: &[Entry], change: &dyn Fn(&mut Limits)| {
        let mut limits = Limits::default();
        change(&mut limits);
        try_tree(&[entries], limits).expect_err("a cap stops it")
    };
    let three = [file("a", b""), file("b", b""), file("c", b"")];
    assert!(capped(&three, &|l| l.inodes = 3).contains("more than 3 files, directories and links"));
    let links: Vec<_> = (0..100).map(|i| hard_link(&format!("l{i}"), "a")).collect();
    let links = [vec![file("a", b"")], links].concat();
    assert!(capped(&links, &|l| l.metadata_bytes = 1000).contains("more than 1000 bytes of names"));
    let data = [file("a", &[1; 5000])];
    assert!(capped(&data, &|l| l.unpacked_bytes = 5000).contains("hold more than 5000 bytes"));
    assert!(capped(&data, &|l| l.apparent_bytes = 4999).contains("appear to hold more than 4999"));
    let hole = file("h", b"")
        .pax("GNU.sparse.map", b"0,0")
        .pax("GNU.sparse.size", b"9000000000000000");
    assert!(capped(&[hole], &|_| {}).contains("appear to hold more than"));
}

#[test]
fn the_same_layers_give_the_same_disk() {
    let layers = [
        archive(&[file("a", &[1; 9000]), file("b", &[2; 100]), directory("d")]),
        archive(&[file(".wh.a", b""), file("b", &[3; 20_000])]),
    ];
    let made = || {
        let (layout, folder) = (Layout::of(&layers), Folder::new());
        let store = Store::open(folder.path()).unwrap();
        let image = store.load(&Source::Path(layout.path()), &mut Quiet).unwrap();
        let disk = store.disk(&image).unwrap();
        (disk.file_name().unwrap().to_owned(), std::fs::read(disk).unwrap())
    };
    let (first, second) = (made(), made());
    assert!(first == second);
    assert!(
        !first.1.windows(64).any(|window| window == [1; 64]),
        "deleted contents are not in the disk"
    );
}

#[test]
fn an_image_without_layers_is_an_empty_disk() {
    assert_eq!(tree(&[]).len(), 1);
}
