//! The disk that takes what a container writes: a sparse file with an empty ext4.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{FlockOperation, SeekFrom, flock, ioctl_ficlone, seek};
use rustix::io::Errno;

/// The smallest that holds an ext4 with a journal, in bytes.
pub const MIN_SIZE: u64 = 16 << 20;
/// Names of disks that others are copied from begin so.
const TEMPLATE: &str = "scratch-";
/// How many of them there are at most, of different sizes. A disk of a further size is made from scratch.
const MAX_TEMPLATES: usize = 4;
/// The most that is copied. More means that the file system knows nothing of holes.
const MAX_DATA: u64 = 64 << 20;
/// Bytes copied at once.
const PIECE: usize = 1 << 20;

/// A scratch disk cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ScratchError {
    /// Asked for less than a file system needs.
    #[error("a scratch disk has at least {} MiB, not {} bytes", MIN_SIZE >> 20, .0)]
    TooSmall(u64),
    /// The file cannot be made.
    #[error("cannot make the scratch disk {path:?}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The program is not there.
    #[error("cannot run mkfs.ext4: is the package e2fsprogs installed?")]
    Program(#[source] io::Error),
    /// The program failed.
    #[error("mkfs.ext4 failed: {0}")]
    Format(String),
}

/// Puts an empty disk at `path`, `bytes` long: a copy of one that was made before and is kept in `shared`, which takes a
/// fraction of the time of making one.
///
/// # Errors
/// [`ScratchError`]; nothing is left then.
pub fn provide(shared: &Path, path: &Path, bytes: u64) -> Result<(), ScratchError> {
    check(bytes)?;
    if let Ok(template) = template(shared, bytes)
        && let Ok(true) = copy(&template, path)
    {
        return Ok(());
    }
    // Whatever is wrong there is told here, if it concerns this disk.
    create(path, bytes)
}

/// Makes the disk at `path`, `bytes` long.
///
/// # Errors
/// [`ScratchError`]; nothing is left then.
pub fn create(path: &Path, bytes: u64) -> Result<(), ScratchError> {
    check(bytes)?;
    let failed = failed(path);
    // One that is there already is somebody else's, and stays.
    let file = File::create_new(path).map_err(&failed)?;
    let made = file.set_len(bytes).map_err(&failed).and_then(|()| format(path));
    if made.is_err() {
        let _ = fs::remove_file(path);
    }
    made
}

fn check(bytes: u64) -> Result<(), ScratchError> {
    match bytes < MIN_SIZE {
        true => Err(ScratchError::TooSmall(bytes)),
        false => Ok(()),
    }
}

fn failed(path: &Path) -> impl Fn(io::Error) -> ScratchError {
    let path = path.to_owned();
    move |source| ScratchError::File {
        path: path.clone(),
        source,
    }
}

fn format(path: &Path) -> Result<(), ScratchError> {
    // A sparse file reads as zeros, so that the inode tables are ready as they are, and the guest's kernel need not write
    // them. Nor is there anything in the journal, or to discard.
    let options = "lazy_itable_init=0,lazy_journal_init=1,nodiscard";
    let output = Command::new("mkfs.ext4")
        .args(["-q", "-F", "-m", "0", "-E", options])
        .arg(path)
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .stdin(Stdio::null())
        .output()
        .map_err(ScratchError::Program)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(ScratchError::Format(said.trim().replace('\n', "; ")))
}

/// The disk of this size that others are copied from, made unless it is there. All have its UUID: a guest has one of them,
/// and finds it by its serial.
fn template(shared: &Path, bytes: u64) -> Result<PathBuf, ScratchError> {
    let path = shared.join(format!("{TEMPLATE}{bytes}.ext4"));
    if path.exists() {
        return Ok(path);
    }
    let made = DirBuilder::new().recursive(true).mode(0o700).create(shared);
    made.map_err(failed(shared))?;
    // Two that need the first one at the same time make it once. The lock goes with the file's last descriptor.
    let lock = File::open(shared).map_err(failed(shared))?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|errno| failed(shared)(errno.into()))?;
    if path.exists() {
        return Ok(path);
    }
    if count(shared).map_err(failed(shared))? >= MAX_TEMPLATES {
        return Err(failed(&path)(io::ErrorKind::QuotaExceeded.into()));
    }
    let unfinished = shared.join("scratch.new");
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&unfinished)(error)),
        _ => {}
    }
    create(&unfinished, bytes)?;
    // Whole even after a power cut.
    File::open(&unfinished)
        .and_then(|file| file.sync_all())
        .and_then(|()| fs::rename(&unfinished, &path))
        .map_err(failed(&path))?;
    Ok(path)
}

fn count(shared: &Path) -> io::Result<usize> {
    let names = fs::read_dir(shared)?.flatten().map(|entry| entry.file_name());
    Ok(names
        .filter(|name| name.to_string_lossy().starts_with(TEMPLATE))
        .count())
}

/// Copies what is in a sparse file; `false` if that is too much. Nothing is left then, nor after an error.
fn copy(from: &Path, to: &Path) -> io::Result<bool> {
    let from = File::open(from)?;
    let copy = File::create_new(to)?;
    let copied = ioctl_ficlone(&copy, &from).map_or_else(|_| copy_data(&from, &copy), |()| Ok(true));
    if !matches!(copied, Ok(true)) {
        let _ = fs::remove_file(to);
    }
    copied
}

fn copy_data(from: &File, to: &File) -> io::Result<bool> {
    let length = from.metadata()?.len();
    to.set_len(length)?;
    let mut piece = vec![0; PIECE];
    let (mut at, mut total) = (0, 0_u64);
    loop {
        let begin = match seek(from, SeekFrom::Data(at)) {
            Ok(begin) => begin,
            // Nothing but a hole until the end.
            Err(Errno::NXIO) => return Ok(true),
            Err(errno) => return Err(errno.into()),
        };
        at = seek(from, SeekFrom::Hole(begin))?;
        total = total.saturating_add(at.saturating_sub(begin));
        if total > MAX_DATA {
            return Ok(false);
        }
        let mut next = begin;
        while next < at {
            let wanted = usize::try_from(at.saturating_sub(next))
                .unwrap_or(PIECE)
                .min(PIECE);
            let piece = piece.get_mut(..wanted).unwrap_or_default();
            from.read_exact_at(piece, next)?;
            to.write_all_at(piece, next)?;
            next = next.saturating_add(u64::try_from(wanted).unwrap_or(u64::MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn it_is_an_ext4_and_sparse() {
        let path = std::env::temp_dir().join(format!("koya-scratch-{}", std::process::id()));
        let _ = fs::remove_file(&path);
        create(&path, 1 << 30).unwrap();
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!(metadata.len(), 1 << 30);
        assert!(metadata.blocks() * 512 < 64 << 20, "{} blocks", metadata.blocks());
        let mut magic = [0; 2];
        File::open(&path)
            .unwrap()
            .read_exact_at(&mut magic, 1080)
            .unwrap();
        assert_eq!(magic, [0x53, 0xef], "the superblock's magic number");
        let again = create(&path, 1 << 30).unwrap_err();
        assert!(matches!(again, ScratchError::File { .. }), "{again}");
        assert!(path.exists(), "what was there before is gone");
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_copy_is_the_disk_that_was_made_once_and_as_sparse() {
        let shared = std::env::temp_dir().join(format!("koya-scratch-shared-{}", std::process::id()));
        let (one, other) = (shared.join("one"), shared.join("other"));
        provide(&shared, &one, 1 << 30).unwrap();
        let template = shared.join("scratch-1073741824.ext4");
        let made = fs::metadata(&template).unwrap();
        fs::write(&one, "a disk that is written").unwrap();
        provide(&shared, &other, 1 << 30).unwrap();
        assert_eq!(
            fs::metadata(&template).unwrap().modified().unwrap(),
            made.modified().unwrap()
        );
        let copy = fs::metadata(&other).unwrap();
        assert_eq!(copy.len(), 1 << 30);
        assert!(copy.blocks() * 512 < 64 << 20, "{} blocks", copy.blocks());
        let checked = Command::new("/usr/sbin/e2fsck")
            .args(["-fn"])
            .arg(&other)
            .output()
            .unwrap();
        assert!(
            checked.status.success(),
            "{}",
            String::from_utf8_lossy(&checked.stdout)
        );
        // Not over somebody's data.
        assert!(provide(&shared, &other, 1 << 30).is_err());
        // No more sizes than a few are kept.
        for size in 17..23 {
            let path = shared.join("more");
            provide(&shared, &path, size << 20).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().len(), size << 20);
            fs::remove_file(path).unwrap();
        }
        assert_eq!(count(&shared).unwrap(), MAX_TEMPLATES);
        assert!(!shared.join("scratch.new").exists());
        fs::remove_dir_all(shared).unwrap();
    }

    #[test]
    fn too_small_a_disk_is_refused() {
        let error = create(Path::new("/nowhere/disk"), 1 << 20).unwrap_err();
        assert!(error.to_string().contains("at least 16 MiB"), "{error}");
    }
}
