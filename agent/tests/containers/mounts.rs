//! Mounts of the OCI runtime specification: their order, their options, and how they propagate.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::place::{Place, process, shell};

/// A line of /proc/PID/mountinfo (proc(5)).
#[derive(Debug)]
struct Line {
    options: Vec<String>,
    /// How it propagates.
    tags: Vec<String>,
    kind: String,
    whole: Vec<String>,
}

/// Mounts by their places; of several at one place, the last.
fn lines(text: &str) -> BTreeMap<String, Line> {
    let words = |text: &str| text.split(',').map(str::to_owned).collect();
    let line = |text: &str| {
        let (own, whole) = text.split_once(" - ").unwrap();
        let own: Vec<_> = own.split(' ').collect();
        let whole: Vec<_> = whole.split(' ').collect();
        let line = Line {
            options: words(own[5]),
            tags: own[6..].iter().map(|tag| (*tag).to_owned()).collect(),
            kind: whole[0].to_owned(),
            whole: words(whole[2]),
        };
        (own[4].to_owned(), line)
    };
    text.lines().map(line).collect()
}

fn with_mounts(script: &str, more: &[Value]) -> Value {
    let mut config = shell(script);
    let mounts = config["mounts"].as_array_mut().unwrap();
    mounts.extend(more.iter().cloned());
    config
}

fn seen(place: &Place, config: &Value) -> BTreeMap<String, Line> {
    let (code, text) = place.run("room", config);
    assert_eq!(code, 0, "{text}");
    lines(&text)
}

const SHOW: &str = "cat /proc/self/mountinfo";

/// A folder of the host with a file in it, in a file system of its own whose mounts others follow; gone with the test.
struct Shared(PathBuf);

impl Shared {
    fn new(place: &Place) -> Self {
        let folder = place.folder().join("shared");
        fs::create_dir(&folder).unwrap();
        mount(&["-t", "tmpfs", "tmpfs"], &folder);
        mount(&["--make-shared"], &folder);
        fs::write(folder.join("file"), "there\n").unwrap();
        fs::create_dir(folder.join("late")).unwrap();
        Self(folder)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-R").arg(&self.0).status();
    }
}

fn mount(words: &[&str], at: &Path) {
    assert!(
        Command::new("mount")
            .args(words)
            .arg(at)
            .status()
            .unwrap()
            .success()
    );
}

#[test]
fn mounts_are_made_in_their_order_and_with_their_options() {
    let place = Place::new();
    let shared = Shared::new(&place);
    let config = with_mounts(
        &format!("cat /a/inner/file >&2; touch /a/inner/x && exit 9; {SHOW}"),
        &[
            json!({ "destination": "/a", "type": "tmpfs", "source": "tmpfs", "options": [
                "nosuid", "nodev", "noexec", "noatime", "nodiratime", "sync", "dirsync", "lazytime", "silent", "iversion",
                "size=1m", "mode=711",
            ] }),
            // On what is mounted before it, which hides the root's folder.
            json!({ "destination": "/a/inner", "type": "bind", "source": shared.0, "options": ["bind", "ro", "sync", "nosuid"] }),
            json!({ "destination": "/b", "type": "tmpfs", "source": "tmpfs", "options": [
                "ro", "rw", "nosuid", "suid", "nodev", "dev", "noexec", "exec", "noatime", "atime", "nodiratime", "diratime",
                "sync", "async", "nolazytime", "loud", "noiversion", "defaults", "norelatime", "relatime",
            ] }),
            json!({ "destination": "/c", "type": "tmpfs", "source": "tmpfs", "options": ["strictatime", "nosymfollow"] }),
        ],
    );
    let seen = seen(&place, &config);
    let has = |list: &[String], option: &str| list.iter().any(|word| word == option);
    let a = &seen["/a"];
    for option in ["rw", "nosuid", "nodev", "noexec", "noatime", "nodiratime"] {
        assert!(has(&a.options, option), "{option}: {a:?}");
    }
    for option in ["sync", "dirsync", "lazytime", "size=1024k", "mode=711"] {
        assert!(has(&a.whole, option), "{option}: {a:?}");
    }
    let inner = &seen["/a/inner"];
    assert!(
        has(&inner.options, "ro") && has(&inner.options, "nosuid"),
        "{inner:?}"
    );
    assert!(!has(&inner.whole, "sync"), "{inner:?}");
    let b = &seen["/b"];
    assert_eq!(b.options, ["rw", "relatime"], "{b:?}");
    assert!(!has(&b.whole, "lazytime"), "{b:?}");
    let c = &seen["/c"];
    // strictatime is what is shown as nothing.
    assert_eq!(c.options, ["rw", "nosymfollow"], "{c:?}");
    drop(shared);
    place.assert_gone("room");
}

#[test]
fn mounts_propagate_as_they_are_told_to() {
    let place = Place::new();
    let shared = Shared::new(&place);
    let bind = |at: &str, option: &str| json!({ "destination": at, "type": "bind", "source": shared.0, "options": ["rbind", option] });
    let config = with_mounts(
        "touch /s/ready; while ! test -e /s/go; do sleep 0.05; done; cat /s/late/file; cat /p/late/file 2>/dev/null; \
         cat /proc/self/mountinfo",
        &[
            bind("/s", "rslave"),
            bind("/p", "rprivate"),
            bind("/o", "private"),
            bind("/h", "shared"),
            bind("/r", "rshared"),
            bind("/u", "unbindable"),
            bind("/v", "runbindable"),
        ],
    );
    let (code, text) = std::thread::scope(|scope| {
        let running = scope.spawn(|| place.run("room", &config));
        let mut waited = 0;
        while !shared.0.join("ready").exists() {
            assert!(waited < 3000 && !running.is_finished(), "it does not begin");
            waited += 1;
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        // What the host mounts now, a slave sees, and what is private does not.
        mount(&["-t", "tmpfs", "tmpfs"], &shared.0.join("late"));
        fs::write(shared.0.join("late/file"), "mounted later\n").unwrap();
        fs::write(shared.0.join("go"), "").unwrap();
        running.join().unwrap()
    });
    let (first, rest) = text.split_once('\n').unwrap();
    assert_eq!((code, first), (0, "mounted later"), "{text}");
    let seen = lines(rest);
    assert!(
        seen.contains_key("/s/late") && !seen.contains_key("/p/late"),
        "{text}"
    );
    let has = |at: &str, tag: &str| seen[at].tags.iter().any(|word| word.starts_with(tag));
    assert!(has("/s", "master:") && !has("/s", "shared:"), "{:?}", seen["/s"]);
    for private in ["/p", "/o"] {
        assert!(seen[private].tags.is_empty(), "{:?}", seen[private]);
    }
    for shared in ["/h", "/r"] {
        assert!(has(shared, "shared:"), "{:?}", seen[shared]);
    }
    for unbindable in ["/u", "/v"] {
        assert_eq!(seen[unbindable].tags, ["unbindable"]);
    }
}

#[test]
fn the_root_propagates_as_it_is_told_to() {
    let place = Place::new();
    let tags = |kind: &str| {
        let mut config = shell(SHOW);
        config["linux"]["rootfsPropagation"] = kind.into();
        seen(&place, &config).remove("/").unwrap().tags
    };
    assert!(tags("shared")[0].starts_with("shared:"));
    assert_eq!(tags("unbindable"), ["unbindable"]);
    assert!(tags("private").is_empty());
    assert!(tags("slave").iter().all(|tag| tag.starts_with("master:")));
    let mut config = shell(SHOW);
    config["linux"]["rootfsPropagation"] = "moon".into();
    let error = place.client.create(place.request("room", &config)).unwrap_err();
    assert!(error.to_string().contains("moon"), "{error}");
    place.assert_gone("room");
}

#[test]
fn what_is_mounted_is_changed_by_a_remount() {
    let place = Place::new();
    let config = with_mounts(
        &format!("touch /t/x 2>/dev/null && exit 9; {SHOW}"),
        &[
            json!({ "destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": ["size=1m", "noexec"] }),
            json!({ "destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": ["remount", "ro", "nosuid", "size=2m"] }),
        ],
    );
    let seen = seen(&place, &config);
    let t = &seen["/t"];
    assert_eq!(t.options, ["ro", "nosuid", "relatime"]);
    assert!(
        t.kind == "tmpfs" && t.whole.iter().any(|option| option == "size=2048k"),
        "{t:?}"
    );
    let lost = with_mounts(
        "true",
        &[json!({ "destination": "/tmp", "options": ["remount", "ro"] })],
    );
    let error = place.client.create(place.request("room", &lost)).unwrap_err();
    assert!(error.to_string().contains("change the mount at /tmp"), "{error}");
    place.assert_gone("room");
}

#[test]
fn paths_are_hidden_and_made_read_only() {
    let place = Place::new();
    let mut config = shell("sleep 1000");
    config["linux"]["maskedPaths"] = json!(["/etc/passwd", "/proc/bus", "/no/such/path"]);
    config["linux"]["readonlyPaths"] = json!(["/etc/group", "/tmp", "/no/such/path"]);
    place.client.create(place.request("room", &config)).unwrap();
    place.client.start("room").unwrap();
    let script = "wc -c < /etc/passwd; ls /proc/bus | wc -l; wc -l < /etc/group; (echo x >> /etc/group) 2>/dev/null || echo no; \
                  touch /tmp/x 2>/dev/null || echo no; touch /etc/y && rm /etc/y && echo yes";
    let (code, text) = place.exec("room", "x", &process(&["sh", "-c", script]), b"");
    assert_eq!(
        (code, String::from_utf8(text).unwrap().as_str()),
        (0, "0\n0\n4\nno\nno\nyes\n")
    );
    place.client.delete("room", true).unwrap();

    let mut config = shell("touch /x 2>/dev/null && exit 9; touch /dev/x && echo there");
    config["root"]["readonly"] = true.into();
    assert_eq!(place.run("room", &config), (0, "there\n".to_owned()));
    place.assert_gone("room");
}
