//! Tar archives that hold parts of images: where each member lies.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::ArchiveError;
use super::blobs::Blob;
use crate::Limits;
use crate::layer::{Budget, LayerStream, is_compressed};
use crate::tar::{Kind, TarReader};

/// Members an archive of images may have: each image has its layers, three members each in old archives.
const MEMBERS_MAX: usize = 1 << 16;
/// Deepest member of an archive: `blobs/sha256/…`.
const DEPTH_MAX: usize = 3;

/// Members of an archive by name.
#[derive(Debug)]
pub(super) struct Members {
    file: Arc<File>,
    members: HashMap<String, Member>,
}

#[derive(Debug)]
enum Member {
    File {
        at: u64,
        size: u64,
    },
    /// Old archives name equal layers by symbolic links.
    Link(String),
}

impl Members {
    /// Steps through an uncompressed tar. `None` if its names cannot be those of an archive of images.
    pub fn scan(file: Arc<File>) -> Result<Option<Self>, ArchiveError> {
        let mut input = BufReader::new(file.try_clone()?);
        input.rewind()?;
        let mut tar = TarReader::new(input);
        let mut members = HashMap::new();
        while let Some(entry) = tar.next()? {
            let (at, size) = (tar.position(), tar.left());
            tar.seek_over()?;
            let Some(name) = member_name(&entry.path) else {
                continue;
            };
            let member = match entry.kind {
                Kind::File if entry.ranges.is_none() => Member::File { at, size },
                Kind::Symlink => match link_target(&name, &entry.link) {
                    Some(target) => Member::Link(target),
                    None => continue,
                },
                _ => continue,
            };
            members.insert(name, member);
            if members.len() > MEMBERS_MAX {
                return Ok(None);
            }
        }
        Ok(Some(Self { file, members }))
    }

    pub fn find(&self, name: &str) -> Option<Blob> {
        let mut member = self.members.get(name)?;
        if let Member::Link(target) = member {
            member = self.members.get(target)?;
        }
        let Member::File { at, size } = *member else {
            return None;
        };
        Some(Blob {
            file: Arc::clone(&self.file),
            at,
            size,
        })
    }
}

/// The plain form of a name; `None` if no part of an image is named like that.
fn member_name(path: &[u8]) -> Option<String> {
    let name = std::str::from_utf8(path).ok()?;
    let parts: Vec<_> = name
        .split('/')
        .filter(|part| !matches!(*part, "" | "."))
        .collect();
    (parts.len() <= DEPTH_MAX && !parts.contains(&"..")).then(|| parts.join("/"))
}

/// What a relative link in `name`'s folder means.
fn link_target(name: &str, link: &[u8]) -> Option<String> {
    let mut parts: Vec<_> = name.split('/').collect();
    parts.pop();
    for part in std::str::from_utf8(link).ok()?.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// Whether a file begins like a compressed one.
pub(super) fn file_is_compressed(file: &File) -> io::Result<bool> {
    let mut head = [0; 4];
    let count = file.read_at(&mut head, 0)?;
    Ok(is_compressed(head.get(..count).unwrap_or_default()))
}

/// Decompresses a file into `scratch`.
pub(super) fn decompress(file: &File, scratch: &File, limits: &Limits) -> Result<(), ArchiveError> {
    let mut budget = Budget::new(limits);
    let mut input = file.try_clone()?;
    input.rewind()?;
    let mut stream = LayerStream::new(input, false, &mut budget, |_| {})?;
    let mut output = BufWriter::with_capacity(1 << 20, scratch);
    let mut buffer = vec![0; 128 << 10];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => output.write_all(buffer.get(..count).unwrap_or_default())?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                return Err(stream
                    .take_fault()
                    .map_or(ArchiveError::Read(error), ArchiveError::Decompress));
            }
        }
    }
    output.flush()?;
    Ok(())
}
