//! The guest's first file system: a cpio archive (newc, as in Linux's Documentation/driver-api/early-userspace/
//! buffer-format.rst) whose one file is the agent.

/// The last entry of every archive.
const TRAILER: &str = "TRAILER!!!";
/// Regular file that everybody may execute.
const PROGRAM: u32 = 0o100_755;
/// Names and contents begin at multiples of this.
const ALIGNMENT: usize = 4;

/// An archive with `agent` as `/init`.
pub(crate) fn archive(agent: &[u8]) -> Vec<u8> {
    let mut archive = Vec::with_capacity(agent.len().saturating_add(512));
    entry(&mut archive, "init", PROGRAM, 1, agent);
    entry(&mut archive, TRAILER, 0, 2, &[]);
    archive
}

fn entry(archive: &mut Vec<u8>, name: &str, mode: u32, inode: u32, content: &[u8]) {
    let size = u32::try_from(content.len()).unwrap_or(u32::MAX);
    let name_size = u32::try_from(name.len().saturating_add(1)).unwrap_or(u32::MAX);
    // inode, mode, owner, group, links, time, size, four device numbers, length of the name, checksum
    let fields = [inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
    archive.extend(b"070701");
    for field in fields {
        archive.extend(format!("{field:08x}").bytes());
    }
    archive.extend(name.bytes());
    archive.push(0);
    align(archive);
    archive.extend(content);
    align(archive);
}

fn align(archive: &mut Vec<u8>) {
    archive.resize(archive.len().next_multiple_of(ALIGNMENT), 0);
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn cpio_reads_it() {
        let mut child = Command::new("cpio")
            .args(["--list", "--verbose", "--quiet"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&archive(b"12345")).unwrap();
        let listed = child.wait_with_output().unwrap();
        let listed = String::from_utf8(listed.stdout).unwrap();
        assert!(
            listed.starts_with("-rwxr-xr-x") && listed.contains(" 5 ") && listed.ends_with(" init\n"),
            "{listed}"
        );
    }
}
