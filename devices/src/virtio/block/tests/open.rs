//! Files that cannot be drives get one line that says why, at once.

use std::ffi::CString;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use vmm_sys_util::tempdir::TempDir;

use super::*;

fn refusal(path: &Path, read_only: bool) -> String {
    let start = Instant::now();
    let message = FileBackend::open(path, read_only).err().unwrap().to_string();
    assert!(start.elapsed() < Duration::from_secs(1));
    assert!(message.contains(path.to_str().unwrap()), "{message}");
    assert_eq!(message.lines().count(), 1);
    message
}

#[test]
fn what_is_no_disk_is_named() {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.as_path().join(name);
    assert!(refusal(&at("missing"), true).contains("does not exist"));
    assert!(refusal(dir.as_path(), true).contains("is a directory"));
    assert!(refusal(dir.as_path(), false).contains("is a directory"));
    assert!(refusal(Path::new("/dev/zero"), false).contains("a character device"));
    assert!(refusal(Path::new("/dev/full"), false).contains("a character device"));
    let fifo = at("fifo");
    let name = CString::new(fifo.as_os_str().as_bytes()).unwrap();
    // SAFETY: the name is a C string.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    assert!(refusal(&fifo, true).contains("a FIFO; a drive needs a regular file or a block device"));
    assert!(refusal(&fifo, false).contains("a FIFO"));
    let _listener = UnixListener::bind(at("socket")).unwrap();
    assert!(refusal(&at("socket"), false).contains("a socket"));
    File::create(at("file")).unwrap();
    assert!(refusal(&at("file/below"), true).contains("cannot open"));
    std::os::unix::fs::symlink("loop", at("loop")).unwrap();
    assert!(refusal(&at("loop"), true).contains("cannot open"));
}

#[test]
fn a_size_that_is_not_whole_sectors_is_refused_with_the_right_one() {
    let dir = TempDir::new().unwrap();
    let path = dir.as_path().join("disk");
    for (size, right) in [(1, 512), (511, 512), (513, 1024), (1_000_001, 1_000_448)] {
        File::create(&path).unwrap().set_len(size).unwrap();
        let message = refusal(&path, false);
        assert!(message.contains(&format!("holds {size} bytes")), "{message}");
        assert!(
            message.contains(&format!("grow it to {right} bytes")),
            "{message}"
        );
    }
}

#[test]
fn an_empty_file_is_a_disk_without_sectors() {
    for engine in ENGINES {
        let mut machine = Machine::new(Options {
            engine,
            sectors: 0,
            ..Default::default()
        });
        assert_eq!(machine.block.sectors(), 0);
        assert_eq!(machine.read(0, 512).status(), IOERR);
        assert_eq!(machine.request(FLUSH, 0, &[], 0).status(), OK);
    }
}

#[test]
fn a_file_without_permission_is_named_with_what_would_help() {
    let dir = TempDir::new().unwrap();
    let path = dir.as_path().join("disk");
    File::create(&path).unwrap().set_len(512).unwrap();
    // SAFETY: takes nothing.
    if unsafe { libc::geteuid() } != 0 {
        let mode = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        use std::os::unix::fs::PermissionsExt;
        mode(0o400);
        assert!(refusal(&path, false).contains("set `is_read_only` to true"));
        assert!(FileBackend::open(&path, true).is_ok());
        mode(0o000);
        assert!(refusal(&path, true).contains("no permission to read"));
        return;
    }
    // Root may open everything, except to write a program that is running or a kernel's read-only file.
    let message = refusal(Path::new("/sys/kernel/notes"), false);
    assert!(
        message.contains("no permission to write") || message.contains("cannot open"),
        "{message}"
    );
}

#[test]
fn a_drive_that_is_opened_read_only_cannot_be_written_by_the_host_either() {
    let file = disk_file(1);
    for engine in ENGINES {
        let backend = engine.open(file.as_path(), true);
        assert!(backend.read_only());
        let mut machine = Machine::new(Options {
            engine,
            ..Default::default()
        });
        // As if the device had forgotten to check.
        machine.block.replace_backend_unchecked(backend);
        assert_eq!(machine.write(0, &[1; 512]).status(), IOERR);
        let mut data = [0; 512];
        file.as_file().read_exact_at(&mut data, 0).unwrap();
        assert_eq!(data[..], pattern_at(0, 512));
    }
}
