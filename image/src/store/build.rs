//! Layers become a disk.

use std::io::{self, Read};

use sha2::{Digest as _, Sha256};

use crate::erofs::DataWriter;
use crate::layer::{Budget, LayerStream, Sums};
use crate::progress::{Event, Progress};
use crate::source::Blob;
use crate::source::folder::{Walk, refused};
use crate::tar::{Entry, Kind, TarReader};
use crate::tree::{Body, Contents, Layer, Metadata, NewNode, Tree};
use crate::{Digest, DiskError, ImageError, LayerError, Limits, TarError, TreeError};

/// Bytes between two reports of progress.
const REPORT: u64 = 1 << 20;
const BUFFER: usize = 128 << 10;

/// A layer and what it should be.
pub(super) struct Input {
    pub name: String,
    pub blob: Blob,
    pub digest: Option<Digest>,
    pub diff_id: Option<Digest>,
    pub whiteouts: bool,
}

/// A tree and the image that holds its contents, on their way.
pub(super) struct Build<'a> {
    pub tree: Tree,
    pub data: DataWriter,
    pub progress: &'a mut dyn Progress,
    budget: Budget,
    buffer: Vec<u8>,
    done: u64,
}

/// What stopped a layer, before it is known which one it was.
enum Fault {
    Tar(TarError),
    Tree(TreeError),
    Disk(DiskError),
    Layer(LayerError),
}

impl<'a> Build<'a> {
    pub fn new(data: DataWriter, limits: &Limits, progress: &'a mut dyn Progress) -> Self {
        let (tree, budget) = (Tree::new(limits), Budget::new(limits));
        Self {
            tree,
            data,
            progress,
            budget,
            buffer: vec![0; BUFFER],
            done: 0,
        }
    }

    /// Applies all layers in order and says what each was.
    pub fn layers(&mut self, inputs: &[Input]) -> Result<Vec<Sums>, ImageError> {
        let total = inputs.iter().map(|input| input.blob.size).sum();
        self.progress.event(Event::Started {
            layers: inputs.len(),
            total: Some(total),
        });
        let mut sums = Vec::new();
        for (index, input) in inputs.iter().enumerate() {
            let size = Some(input.blob.size);
            self.progress.event(Event::Layer {
                index,
                name: &input.name,
                size,
            });
            let applied = self.layer(index, input);
            sums.push(applied.map_err(|fault| {
                let (number, of, name) = (index.saturating_add(1), inputs.len(), input.name.clone());
                match damaged(input, fault) {
                    Fault::Tar(source) => ImageError::Tar {
                        number,
                        of,
                        name,
                        source,
                    },
                    Fault::Tree(source) => ImageError::Tree {
                        number,
                        of,
                        name,
                        source,
                    },
                    Fault::Layer(source) => ImageError::Layer {
                        number,
                        of,
                        name,
                        source,
                    },
                    Fault::Disk(source) => ImageError::Disk(source),
                }
            })?);
        }
        self.progress.event(Event::Read { done: self.done });
        Ok(sums)
    }

    fn layer(&mut self, number: usize, input: &Input) -> Result<Sums, Fault> {
        let Self {
            tree,
            data,
            progress,
            budget,
            buffer,
            done,
        } = self;
        let told = |count: u64| {
            let before = *done / REPORT;
            *done = done.saturating_add(count);
            if *done / REPORT != before {
                progress.event(Event::Read { done: *done });
            }
        };
        let stream = LayerStream::new(input.blob.clone(), input.digest.is_some(), budget, told);
        let mut stream = stream.map_err(|error| Fault::Tar(error.into()))?;
        let layer = Layer {
            tree,
            number,
            whiteouts: input.whiteouts,
        };
        if let Err(fault) = apply(&mut stream, layer, data, buffer) {
            return Err(stream.take_fault().map_or(fault, Fault::Layer));
        }
        let sums = stream.finish();
        let sums = sums.map_err(|(error, fault)| fault.map_or(Fault::Tar(error.into()), Fault::Layer))?;
        verify(input, &sums).map_err(Fault::Layer)?;
        Ok(sums)
    }

    /// Takes a folder of the host, and gives the digest that stands for all that is in it.
    pub fn folder(&mut self, mut walk: Walk) -> Result<(Digest, u64), ImageError> {
        self.progress.event(Event::Started {
            layers: 1,
            total: None,
        });
        let mut hash = Sha256::new();
        let mut size = 0_u64;
        let root = walk.host_path(b"");
        while let Some(item) = walk.next()? {
            item.describe(&mut hash);
            let entry = &item.entry;
            let mut layer = Layer {
                tree: &mut self.tree,
                number: 0,
                whiteouts: false,
            };
            if entry.kind != Kind::File {
                layer.special(entry).map_err(refused(&root))?;
                continue;
            }
            let fault = |source| ImageError::Folder {
                path: walk.host_path(&entry.path),
                source,
            };
            let mut input = Hashed {
                input: item.contents().map_err(fault)?,
                hash: &mut hash,
            };
            let written = contents(&mut input, entry, &mut self.data, &mut self.buffer);
            let contents = written.map_err(|error| match error {
                Fault::Disk(source) => ImageError::Disk(source),
                Fault::Tar(TarError::Read(source)) => fault(source),
                _ => fault(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "it became shorter while it was read",
                )),
            })?;
            let node = NewNode {
                path: &entry.path,
                metadata: Metadata::of(entry),
                body: Body::File(contents),
            };
            layer.put(node).map_err(refused(&root))?;
            size = size.saturating_add(entry.size);
            if size / REPORT != self.done / REPORT {
                self.progress.event(Event::Read { done: size });
            }
            self.done = size;
        }
        Ok((Digest::finish(hash), size))
    }
}

/// Bytes that are hashed on their way.
struct Hashed<'a, R> {
    input: R,
    hash: &'a mut Sha256,
}

impl<R: Read> Read for Hashed<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.hash.update(buffer.get(..count).unwrap_or_default());
        Ok(count)
    }
}

/// Applies one layer's entries.
fn apply(
    stream: impl Read,
    mut layer: Layer<'_>,
    data: &mut DataWriter,
    buffer: &mut [u8],
) -> Result<(), Fault> {
    let mut tar = TarReader::new(stream);
    while let Some(entry) = tar.next().map_err(Fault::Tar)? {
        if layer.mark(&entry.path).map_err(Fault::Tree)? {
            continue;
        }
        if entry.kind != Kind::File {
            layer.special(&entry).map_err(Fault::Tree)?;
            continue;
        }
        let contents = contents(&mut tar.data(), &entry, data, buffer)?;
        let node = NewNode {
            path: &entry.path,
            metadata: Metadata::of(&entry),
            body: Body::File(contents),
        };
        layer.put(node).map_err(Fault::Tree)?;
    }
    Ok(())
}

/// Writes the contents of a regular file, holes as holes.
fn contents(
    input: &mut impl Read,
    entry: &Entry,
    data: &mut DataWriter,
    buffer: &mut [u8],
) -> Result<Contents, Fault> {
    let metadata = Metadata::of(entry);
    let mut file = data.file(entry.size, &metadata.xattrs).map_err(Fault::Disk)?;
    let all = [(0, entry.size)];
    let mut at = 0_u64;
    for &(offset, length) in entry.ranges.as_deref().unwrap_or(&all) {
        file.hole(offset.saturating_sub(at)).map_err(Fault::Disk)?;
        let mut left = length;
        while left > 0 {
            let room = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let space = buffer.get_mut(..room).unwrap_or_default();
            let count = match input.read(space) {
                Ok(0) => return Err(Fault::Tar(TarError::Truncated)),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Fault::Tar(error.into())),
            };
            file.put(space.get(..count).unwrap_or_default())
                .map_err(Fault::Disk)?;
            left = left.saturating_sub(count as u64);
        }
        at = offset.saturating_add(length);
    }
    file.hole(entry.size.saturating_sub(at)).map_err(Fault::Disk)?;
    file.finish().map_err(Fault::Disk)
}

fn verify(input: &Input, sums: &Sums) -> Result<(), LayerError> {
    if sums.packed != input.blob.size {
        return Err(LayerError::Size {
            expected: input.blob.size,
            actual: sums.packed,
        });
    }
    match (input.digest, sums.digest) {
        (Some(expected), Some(actual)) if expected != actual => {
            return Err(LayerError::Digest { expected, actual });
        }
        _ => {}
    }
    match input.diff_id {
        Some(expected) if expected != sums.diff_id => Err(LayerError::DiffId {
            expected,
            actual: sums.diff_id,
        }),
        _ => Ok(()),
    }
}

/// A layer that cannot be read is mostly a damaged one: then that is the message.
fn damaged(input: &Input, fault: Fault) -> Fault {
    let (Fault::Tar(_) | Fault::Tree(_), Some(expected)) = (&fault, input.digest) else {
        return fault;
    };
    let mut hash = Sha256::new();
    let mut bytes = Hashed {
        input: input.blob.clone(),
        hash: &mut hash,
    };
    if io::copy(&mut bytes, &mut io::sink()).is_err() {
        return fault;
    }
    let actual = Digest::finish(hash);
    if actual == expected {
        fault
    } else {
        Fault::Layer(LayerError::Digest { expected, actual })
    }
}
