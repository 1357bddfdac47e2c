//! What loading an image tells whoever waits for it.

use std::time::Duration;

use crate::Digest;

/// One thing that happened while an image is loaded. More kinds may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Another process or thread loads the same image; its result will be used.
    Waiting,
    /// The image is in the store already: nothing else will be reported.
    Present,
    /// Layers are about to be downloaded.
    Downloading {
        /// How many there are.
        layers: usize,
        /// Bytes of them all, those that are here already included.
        total: u64,
    },
    /// Bytes that are here, over all layers. Reported every tenth of a second.
    Downloaded {
        /// Never decreases, and ends at `total` of [`Event::Downloading`].
        done: u64,
    },
    /// A request to the registry failed and will be repeated.
    Retry {
        /// Time until then.
        pause: Duration,
        /// What happened.
        reason: &'a str,
    },
    /// The layers are about to be read.
    Started {
        /// How many there are.
        layers: usize,
        /// Bytes to read in all, as they are stored (compressed), when that is known.
        total: Option<u64>,
    },
    /// A layer begins.
    Layer {
        /// Counted from 0, lowest layer first.
        index: usize,
        /// Its digest, or what names it in its archive.
        name: &'a str,
        /// Its size in bytes as stored (compressed), when that is known.
        size: Option<u64>,
    },
    /// Bytes read so far, as they are stored, over all layers. Reported about every MiB.
    Read {
        /// Never decreases, and ends at `total` of [`Event::Started`].
        done: u64,
    },
    /// All layers are read and verified; the disk image is being completed and made durable.
    Finishing,
    /// The image is in the store.
    Done {
        /// Its identity.
        id: &'a Digest,
    },
}

/// Receives [`Event`]s, in the thread that loads.
pub trait Progress {
    /// Something happened. Should return quickly: loading waits for it.
    fn event(&mut self, event: Event<'_>);
}

/// Ignores every event.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quiet;

impl Progress for Quiet {
    fn event(&mut self, _event: Event<'_>) {}
}

impl<F: FnMut(Event<'_>)> Progress for F {
    fn event(&mut self, event: Event<'_>) {
        self(event);
    }
}
