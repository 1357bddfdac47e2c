//! Small kernels, files and memory for tests.

#![allow(clippy::arithmetic_side_effects)]

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use vm_memory::GuestMemoryMmap;

use crate::Image;

/// Guest memory of a machine with so many bytes. Nothing of it is used before it is touched.
pub(crate) fn memory_with(bytes: u64) -> GuestMemoryMmap<()> {
    GuestMemoryMmap::from_ranges(&crate::memory_ranges(bytes)).unwrap()
}

/// A file that lives as long as the test.
pub(crate) struct TestFile {
    pub file: File,
    path: PathBuf,
}

impl TestFile {
    pub fn new(contents: &[u8]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "koya-boot-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        let mut file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .unwrap();
        std::fs::remove_file(&path).unwrap();
        file.write_all(contents).unwrap();
        Self { file, path }
    }

    pub fn image(&self) -> Image<'_> {
        Image {
            file: &self.file,
            path: &self.path,
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// One ELF note, padded to four bytes.
pub(crate) fn note(name: &[u8], kind: u32, desc: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&(name.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&(desc.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&kind.to_le_bytes());
    for part in [name, desc] {
        bytes.extend_from_slice(part);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

pub(crate) const PT_LOAD: u32 = 1;
pub(crate) const PT_INTERP: u32 = 3;
pub(crate) const PT_NOTE: u32 = 4;

/// A program header and the bytes it points to.
#[derive(Clone)]
pub(crate) struct Segment {
    pub kind: u32,
    pub address: u64,
    pub bytes: Vec<u8>,
    pub memory: u64,
}

impl Segment {
    pub fn load(address: u64, bytes: &[u8]) -> Self {
        let (bytes, memory) = (bytes.to_vec(), bytes.len() as u64);
        Self {
            kind: PT_LOAD,
            address,
            bytes,
            memory,
        }
    }

    pub fn of_kind(kind: u32, bytes: &[u8]) -> Self {
        Self {
            kind,
            ..Self::load(0, bytes)
        }
    }
}

/// Builds ELF files, good and bad.
#[derive(Clone)]
pub(crate) struct Elf {
    pub class: u8,
    pub order: u8,
    pub kind: u16,
    pub machine: u16,
    pub entry: u64,
    pub segments: Vec<Segment>,
}

impl Elf {
    /// A kernel that would boot: one segment at `address`, entered at its start.
    pub fn at(address: u64, code: &[u8]) -> Self {
        Self {
            class: 2,
            order: 1,
            kind: 2,
            machine: 62,
            entry: address,
            segments: vec![Segment::load(address, code)],
        }
    }

    pub fn with(mut self, segment: Segment) -> Self {
        self.segments.push(segment);
        self
    }

    pub fn with_pvh(self, entry: u32) -> Self {
        let notes = note(b"Xen\0", 18, &entry.to_le_bytes());
        self.with(Segment::of_kind(PT_NOTE, &notes))
    }

    pub fn build(&self) -> Vec<u8> {
        let mut bytes = vec![0x7f, b'E', b'L', b'F', self.class, self.order, 1];
        bytes.resize(16, 0);
        bytes.extend_from_slice(&self.kind.to_le_bytes());
        bytes.extend_from_slice(&self.machine.to_le_bytes());
        bytes.extend_from_slice(&1_u32.to_le_bytes());
        bytes.extend_from_slice(&self.entry.to_le_bytes());
        bytes.extend_from_slice(&64_u64.to_le_bytes());
        bytes.extend_from_slice(&[0; 12]);
        for field in [64, 56, self.segments.len() as u16, 0, 0, 0] {
            bytes.extend_from_slice(&field.to_le_bytes());
        }
        let mut offset = 64 + 56 * self.segments.len() as u64;
        for segment in &self.segments {
            bytes.extend_from_slice(&segment.kind.to_le_bytes());
            bytes.extend_from_slice(&7_u32.to_le_bytes());
            let length = segment.bytes.len() as u64;
            for field in [
                offset,
                segment.address,
                segment.address,
                length,
                segment.memory,
                4,
            ] {
                bytes.extend_from_slice(&field.to_le_bytes());
            }
            offset += length;
        }
        for segment in &self.segments {
            bytes.extend_from_slice(&segment.bytes);
        }
        bytes
    }
}

/// Builds bzImages, good and bad. The fields are those of the setup header.
#[derive(Clone)]
pub(crate) struct BzImage {
    pub version: u16,
    pub loadflags: u8,
    pub xloadflags: u16,
    pub setup_sectors: u8,
    pub alignment: u32,
    pub relocatable: bool,
    pub preferred: u64,
    pub init_size: u32,
    pub initrd_max: u32,
    pub cmdline_size: u32,
    pub body: Vec<u8>,
}

impl BzImage {
    pub fn new(body: &[u8]) -> Self {
        Self {
            version: 0x020f,
            loadflags: 1,
            xloadflags: 1,
            setup_sectors: 1,
            alignment: 2 << 20,
            relocatable: true,
            preferred: 16 << 20,
            init_size: 8 << 20,
            initrd_max: 0x7fff_ffff,
            cmdline_size: 2047,
            body: body.to_vec(),
        }
    }

    pub fn build(&self) -> Vec<u8> {
        let mut bytes = vec![
            0;
            (usize::from(self.setup_sectors.max(if self.setup_sectors == 0 {
                4
            } else {
                1
            })) + 1)
                * 512
        ];
        let mut put =
            |offset: usize, value: &[u8]| bytes[offset..offset + value.len()].copy_from_slice(value);
        put(0x1f1, &[self.setup_sectors]);
        put(0x1f4, &(self.body.len().div_ceil(16) as u32).to_le_bytes());
        put(0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]);
        put(0x202, b"HdrS");
        put(0x206, &self.version.to_le_bytes());
        put(0x211, &[self.loadflags]);
        put(0x214, &0x10_0000_u32.to_le_bytes());
        put(0x22c, &self.initrd_max.to_le_bytes());
        put(0x230, &self.alignment.to_le_bytes());
        put(0x234, &[u8::from(self.relocatable)]);
        put(0x236, &self.xloadflags.to_le_bytes());
        put(0x238, &self.cmdline_size.to_le_bytes());
        put(0x248, &0x40_u32.to_le_bytes());
        put(
            0x24c,
            &(self.body.len() as u32).saturating_sub(0x40).to_le_bytes(),
        );
        put(0x258, &self.preferred.to_le_bytes());
        put(0x260, &self.init_size.to_le_bytes());
        bytes.extend_from_slice(&self.body);
        bytes
    }
}
