//! Shared folders with Linux's own driver and virtiofsd: files both ways, whole and unchanged, and what the host forbids.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use koya_tests::vm::{PATIENCE, Scratch, from_env};
use serde_json::{Value, json};

use crate::guest::Guest;
use crate::support::{MIB, noise, sha256_of};

/// A virtiofsd that serves a folder until it is dropped.
struct Daemon {
    child: Child,
    socket: PathBuf,
}

impl Daemon {
    fn start(scratch: &Scratch, name: &str, folder: &Path, more: &[&str]) -> Self {
        let socket = scratch.path(&format!("{name}.sock"));
        let mut command = Command::new(from_env("KOYA_VIRTIOFSD"));
        command
            .args([
                "--sandbox",
                "namespace",
                "--cache",
                "auto",
                "--inode-file-handles=never",
                "--log-level",
                "warn",
            ])
            .arg("--shared-dir")
            .arg(folder)
            .arg("--socket-path")
            .arg(&socket)
            .args(more)
            .stdin(Stdio::null());
        let mut child = command.spawn().unwrap();
        let start = Instant::now();
        while !socket.exists() {
            assert!(
                start.elapsed() < PATIENCE,
                "virtiofsd does not listen: {:?}",
                child.try_wait()
            );
            thread::sleep(Duration::from_millis(10));
        }
        Self { child, socket }
    }

    /// The section of the config file.
    fn folder(&self, tag: &str) -> Value {
        json!({ "folder_id": tag, "tag": tag, "socket": self.socket })
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn folder(scratch: &Scratch, name: &str) -> PathBuf {
    let path = scratch.path(name);
    fs::create_dir(&path).unwrap();
    path
}

#[test]
fn files_are_the_same_on_both_sides_and_what_is_read_only_stays_as_it_is() {
    const BIG: u64 = 64 * MIB;
    let scratch = Scratch::new();
    let (shared, precious) = (folder(&scratch, "shared"), folder(&scratch, "precious"));
    fs::write(shared.join("big"), noise(BIG)).unwrap();
    let small = folder(&scratch, "shared/small");
    for index in 0..200 {
        fs::write(small.join(index.to_string()), format!("{index}\n")).unwrap();
    }
    fs::write(precious.join("file"), "untouched").unwrap();
    symlink("/etc/hostname", shared.join("link")).unwrap();
    let writable = Daemon::start(&scratch, "shared", &shared, &[]);
    let read_only = Daemon::start(&scratch, "precious", &precious, &["--readonly"]);

    let script = r#"
mkdir -p /tmp/a /tmp/b
mount -t virtiofs shared /tmp/a && mount -t virtiofs precious /tmp/b && say mounted yes
say sum $(sha256sum < /tmp/a/big | cut -c1-64)
say small $(cat /tmp/a/small/* | sort -n | sha256sum | cut -c1-64)
say files $(ls /tmp/a/small | wc -l)
cp /tmp/a/big /tmp/a/copy
mkdir /tmp/a/made
for i in $(seq 200); do echo $i > /tmp/a/made/$i; done
chmod 640 /tmp/a/made/7; chown 1000:1001 /tmp/a/made/7; touch -d @1000000000 /tmp/a/made/7
ln /tmp/a/made/8 /tmp/a/made/twin; mv /tmp/a/made/9 /tmp/a/made/renamed; rm /tmp/a/made/10
say link $(readlink /tmp/a/link)
say refused $(touch /tmp/b/new 2>&1; rm -f /tmp/b/file 2>&1; echo x 2>&1 > /tmp/b/file)
say kept $(cat /tmp/b/file)
umount /tmp/a && mount -t virtiofs shared /tmp/a && say again $(cat /tmp/a/made/200)
say wrong $(mount -t virtiofs nonsense /tmp/b 2>&1)
umount /tmp/a /tmp/b
"#;
    let report = Guest::debian()
        .section(
            "shared-folders",
            json!([writable.folder("shared"), read_only.folder("precious")]),
        )
        .script(script)
        .start()
        .finish();
    assert_eq!(report.value("mounted"), "yes");
    let sum = sha256_of(&shared.join("big"));
    assert_eq!(report.value("sum"), sum);
    assert_eq!(sha256_of(&shared.join("copy")), sum);
    assert_eq!(report.number("files"), 200);
    let lines: String = (0..200).map(|index| format!("{index}\n")).collect();
    assert_eq!(report.value("small"), crate::support::sha256(lines.as_bytes()));
    assert_eq!(
        report.value("link"),
        "/etc/hostname",
        "a link is the guest's to follow"
    );
    assert_eq!(report.number("again"), 200);

    let made = |name: &str| fs::metadata(shared.join("made").join(name)).unwrap();
    assert_eq!(fs::read_dir(shared.join("made")).unwrap().count(), 200);
    let seven = made("7");
    assert_eq!(seven.permissions().mode() & 0o777, 0o640);
    assert_eq!(
        (seven.uid(), seven.gid(), seven.mtime()),
        (1000, 1001, 1_000_000_000)
    );
    assert_eq!((made("8").ino(), made("8").nlink()), (made("twin").ino(), 2));
    assert_eq!(fs::read_to_string(shared.join("made/renamed")).unwrap(), "9\n");

    assert!(
        report.value("refused").contains("Read-only file system"),
        "{}",
        report.value("refused")
    );
    assert_eq!(report.value("kept"), "untouched");
    assert_eq!(fs::read_to_string(precious.join("file")).unwrap(), "untouched");
    assert_eq!(fs::read_dir(&precious).unwrap().count(), 1);
    assert!(
        report.value("wrong").contains("nonsense"),
        "{}",
        report.value("wrong")
    );
}

#[test]
fn the_death_of_virtiofsd_leaves_monitor_and_guest_alive() {
    let scratch = Scratch::new();
    let shared = folder(&scratch, "shared");
    let mut daemon = Daemon::start(&scratch, "shared", &shared, &[]);
    let script = r#"
mkdir -p /tmp/a; mount -t virtiofs shared /tmp/a; echo before > /tmp/a/before
step mounted
(ls /tmp/a/nothing &) >/dev/null 2>&1
say sum $(dd if=/dev/vda bs=1M count=4 2>/dev/null | wc -c)
step alive
busybox reboot -f -n
"#;
    let mut running = Guest::debian()
        .section("shared-folders", json!([daemon.folder("shared")]))
        .with_api()
        .script(script)
        .start();
    running.at_step("mounted", |_| daemon.kill());
    running.await_step("alive");
    assert_eq!(running.state(), "Running");
    let before = running.event_loop_time();
    thread::sleep(Duration::from_secs(1));
    let spent = running.event_loop_time() - before;
    assert!(
        spent < Duration::from_millis(300),
        "the event loop spins: {spent:?}"
    );
    let words = running.vm.transcript();
    assert!(
        words.contains("shared folder \"shared\"") && words.contains("has closed its socket"),
        "{words}"
    );
    assert_eq!(running.report().number("sum"), 4 * MIB);
    assert_eq!(fs::read_to_string(shared.join("before")).unwrap(), "before\n");
    running.go_on();
    let status = running.vm.wait_within(PATIENCE);
    assert_eq!(status.code(), Some(0), "{}", running.vm.transcript());
}

#[test]
fn a_guest_whose_folder_nobody_serves_does_not_start() {
    let scratch = Scratch::new();
    let _listener = UnixListener::bind(scratch.path("silent.sock")).unwrap();
    for (socket, text) in [
        ("missing.sock", "cannot connect to the socket"),
        ("silent.sock", "did not answer within 10 s"),
    ] {
        let folder = json!({ "folder_id": "a", "tag": "a", "socket": scratch.path(socket) });
        let mut running = Guest::debian().section("shared-folders", json!([folder])).start();
        let status = running.vm.wait_within(PATIENCE);
        let words = running.vm.transcript();
        assert!(!status.success() && words.contains(text), "{status}: {words}");
        assert!(words.contains("shared folder \"a\""), "{words}");
    }
}
