//! What two microVMs have in common that can be forked from the same template.

use std::fmt::Write;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::parts::Parts;

/// Changes with what a template is, so that nobody goes on from one of before.
const FORMAT: u32 = 1;
/// Characters of the host's boot id with which names begin.
const BOOT: usize = 8;
/// Bytes of the hash that are in a name.
const HASH: usize = 16;

/// Names what can go on as the same microVM: the beginning of `boot`, the host's boot id, and a hash of everything that the
/// state of a guest after its boot depends on. Files are known by their place, size, time and inode.
///
/// # Errors
/// A file cannot be looked at.
pub fn of(parts: &Parts, vcpus: u8, memory_mib: u64, boot_args: &str, boot: &str) -> io::Result<String> {
    let mut text = format!("{FORMAT}\n{boot}\n{vcpus}\n{memory_mib}\n{boot_args}\n");
    for file in [&parts.vmm, &parts.kernel, &parts.agent] {
        let known = fs::metadata(file)?;
        let (size, time, nanoseconds) = (known.len(), known.mtime(), known.mtime_nsec());
        let (device, inode) = (known.dev(), known.ino());
        // A String takes everything.
        let _ = writeln!(text, "{file:?} {size} {time}.{nanoseconds:09} {device} {inode}");
    }
    let mut name = prefix(boot);
    for byte in Sha256::digest(text.as_bytes()).iter().take(HASH) {
        let _ = write!(name, "{byte:02x}");
    }
    Ok(name)
}

/// How the names of this boot of the host begin.
pub fn prefix(boot: &str) -> String {
    let mut prefix: String = boot.chars().filter(char::is_ascii_hexdigit).take(BOOT).collect();
    prefix.push('-');
    prefix
}

/// The host's boot id.
///
/// # Errors
/// The kernel does not tell it.
pub fn boot_id() -> io::Result<String> {
    let id = fs::read_to_string(Path::new("/proc/sys/kernel/random/boot_id"))?;
    Ok(id.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_thing_that_a_guest_depends_on_makes_another_name() {
        let folder = std::env::temp_dir().join(format!("koya-key-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let parts = Parts {
            vmm: file("vmm", "v"),
            kernel: file("kernel", "k"),
            agent: file("agent", "a"),
        };
        let boot = boot_id().unwrap();
        let name = |parts: &Parts, vcpus, memory, args: &str, boot: &str| {
            of(parts, vcpus, memory, args, boot).unwrap()
        };
        let first = name(&parts, 1, 512, "quiet", &boot);
        assert_eq!(first, name(&parts, 1, 512, "quiet", &boot));
        assert!(
            first.starts_with(&prefix(&boot)) && first.len() == 9 + 32,
            "{first}"
        );
        let mut names = BTreeSet::from([
            first.clone(),
            name(&parts, 2, 512, "quiet", &boot),
            name(&parts, 1, 128, "quiet", &boot),
            name(&parts, 1, 512, "quiet loglevel=7", &boot),
            name(&parts, 1, 512, "quiet", "0f0e0d0c-0000-4000-8000-000000000000"),
        ]);
        // Another file in the place of each, longer, and a copy of each elsewhere.
        for part in ["vmm", "kernel", "agent"] {
            let mut other = parts.clone();
            let path = match part {
                "vmm" => &mut other.vmm,
                "kernel" => &mut other.kernel,
                _ => &mut other.agent,
            };
            *path = file(&format!("{part}-copy"), &part[..1]);
            names.insert(name(&other, 1, 512, "quiet", &boot));
            file(part, "longer");
            assert!(names.insert(name(&parts, 1, 512, "quiet", &boot)), "{part}");
        }
        assert_eq!(names.len(), 11);
        fs::remove_file(&parts.agent).unwrap();
        assert!(of(&parts, 1, 512, "quiet", &boot).is_err());
        fs::remove_dir_all(folder).unwrap();
    }
}
