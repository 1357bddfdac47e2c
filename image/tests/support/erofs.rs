//! A small reader of EROFS images: only what the disks use, and strict about it.

use std::collections::BTreeMap;
use std::path::Path;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub number: u64,
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub mtime: (i64, u32),
    pub links: u32,
    pub size: u64,
    pub device: u32,
    pub xattrs: Vec<(u8, Vec<u8>, Vec<u8>)>,
    /// Contents of a file or target of a link; of files beyond 64 MiB only the beginning.
    pub data: Vec<u8>,
}

pub struct Disk {
    bytes: Vec<u8>,
    meta: usize,
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

impl Disk {
    pub fn open(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let superblock = &bytes[1024..1152];
        assert_eq!(u32_at(superblock, 0), 0xe0f5_e1e2, "magic");
        assert_eq!(superblock[12], 12, "4 KiB blocks");
        assert_eq!(
            bytes.len(),
            u32_at(superblock, 36) as usize * 4096,
            "as many blocks as promised"
        );
        assert_eq!(u32_at(superblock, 80), 0, "no feature that old kernels lack");
        let meta = u32_at(superblock, 40) as usize * 4096;
        Self { bytes, meta }
    }

    /// Every file by its path, the root as `/`.
    pub fn tree(&self) -> BTreeMap<String, Node> {
        let mut found = BTreeMap::new();
        let root = u64::from(u16_at(&self.bytes, 1024 + 14));
        let mut pending = vec![(String::from("/"), root, root)];
        while let Some((path, number, parent)) = pending.pop() {
            let node = self.node(number);
            if node.mode & 0o170_000 == 0o040_000 {
                for (name, inner, kind) in self.entries(&node) {
                    match name.as_str() {
                        "." => assert_eq!(inner, number, "{path}/."),
                        ".." => assert_eq!(inner, parent, "{path}/.."),
                        _ => {
                            let inner_path = format!("{}/{name}", path.trim_end_matches('/'));
                            assert_eq!(kind, kind_of(self.node(inner).mode), "kind of {inner_path}");
                            pending.push((inner_path, inner, number));
                        }
                    }
                }
            }
            found.insert(path, node);
        }
        self.check_links(&found);
        found
    }

    fn check_links(&self, found: &BTreeMap<String, Node>) {
        for (path, node) in found
            .iter()
            .filter(|(_, node)| node.mode & 0o170_000 != 0o040_000)
        {
            let names = found.values().filter(|other| other.number == node.number).count();
            assert_eq!(names, node.links as usize, "links of {path}");
        }
    }

    fn entries(&self, node: &Node) -> Vec<(String, u64, u8)> {
        let mut found: Vec<(String, u64, u8)> = Vec::new();
        for block in node.data.chunks(4096) {
            let count = usize::from(u16_at(block, 8)) / 12;
            for index in 0..count {
                let at = index * 12;
                let start = usize::from(u16_at(block, at + 8));
                let end = if index + 1 < count {
                    usize::from(u16_at(block, at + 20))
                } else {
                    block.len()
                };
                let name = block[start..end].split(|byte| *byte == 0).next().unwrap();
                let name = String::from_utf8_lossy(name).into_owned();
                assert!(!name.is_empty(), "a name is not empty");
                if let Some((before, ..)) = found.last() {
                    assert!(before.as_bytes() < name.as_bytes(), "names are in order");
                }
                found.push((name, u64_at(block, at), block[at + 10]));
            }
        }
        found
    }

    fn node(&self, number: u64) -> Node {
        let at = self.meta + number as usize * 32;
        let inode = &self.bytes[at..];
        assert!(at % 4096 <= 4032, "an inode lies within a block");
        let format = u16_at(inode, 0);
        assert!(format == 1 || format == 5, "extended, plain or inline");
        let (count, size) = (usize::from(u16_at(inode, 2)), u64_at(inode, 8));
        let xattr_size = if count == 0 { 0 } else { 12 + (count - 1) * 4 };
        let mode = u16_at(inode, 4);
        let block = u32_at(inode, 16);
        let has_data = matches!(mode & 0o170_000, 0o100_000 | 0o040_000 | 0o120_000);
        let mut data = Vec::new();
        if has_data {
            let whole = if format == 5 { size / 4096 * 4096 } else { size };
            let from = block as usize * 4096;
            data.extend(&self.bytes[from..from + whole.min(64 << 20) as usize]);
            if format == 5 {
                let from = 64 + xattr_size;
                let tail = (size % 4096) as usize;
                assert!(
                    (at + from) % 4096 + tail <= 4096,
                    "data beside an inode lies within a block"
                );
                data.extend(&inode[from..from + tail]);
            }
        }
        Node {
            number,
            mode,
            uid: u32_at(inode, 24),
            gid: u32_at(inode, 28),
            mtime: (u64_at(inode, 32).cast_signed(), u32_at(inode, 40)),
            links: u32_at(inode, 44),
            size,
            device: if has_data { 0 } else { block },
            xattrs: xattrs(&inode[64..64 + xattr_size]),
            data,
        }
    }
}

fn kind_of(mode: u16) -> u8 {
    match mode & 0o170_000 {
        0o100_000 => 1,
        0o040_000 => 2,
        0o020_000 => 3,
        0o060_000 => 4,
        0o010_000 => 5,
        _ => 7,
    }
}

fn xattrs(bytes: &[u8]) -> Vec<(u8, Vec<u8>, Vec<u8>)> {
    let mut found = Vec::new();
    let mut rest = bytes.get(12..).unwrap_or_default();
    while rest.len() >= 4 {
        let (name, value) = (usize::from(rest[0]), usize::from(u16_at(rest, 2)));
        found.push((
            rest[1],
            rest[4..4 + name].to_vec(),
            rest[4 + name..4 + name + value].to_vec(),
        ));
        rest = rest
            .get((4 + name + value).next_multiple_of(4)..)
            .unwrap_or_default();
    }
    found
}
