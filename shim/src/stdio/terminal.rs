//! Terminals: the runtime makes them, and sends their masters over a socket.

use std::fs::{self, File};
use std::io::{IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use koya_sandbox::patient::write_all;
use koya_sandbox::sockets;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::error::TaskError;

/// Bytes moved at once.
const PIECE: usize = 16 << 10;

/// A socket to which a terminal is sent. Its file goes with it.
#[derive(Debug)]
pub struct Console {
    path: PathBuf,
    listener: UnixListener,
}

impl Console {
    /// Listens at `path`.
    ///
    /// # Errors
    /// [`TaskError::File`]
    pub fn listen(path: &Path) -> Result<Self, TaskError> {
        let listener = sockets::listen(path).map_err(TaskError::file("listen at", path))?;
        // Whoever sends has done so, or never will, when it is asked for.
        let waits = listener.set_nonblocking(true);
        waits.map_err(TaskError::system("set up a socket"))?;
        Ok(Self {
            path: path.to_owned(),
            listener,
        })
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The terminal that was sent.
    ///
    /// # Errors
    /// [`TaskError::System`] when there is none.
    pub(super) fn take(&self) -> Result<File, TaskError> {
        let failed = TaskError::system("receive the terminal from koya-runtime");
        self.receive().map_err(failed)
    }

    fn receive(&self) -> std::io::Result<File> {
        let (stream, _) = self.listener.accept()?;
        stream.set_nonblocking(true)?;
        let mut name = [0; 256];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut name)];
        recvmsg(&stream, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        let sent = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut sent) => sent.next(),
            _ => None,
        });
        sent.map(File::from).ok_or(std::io::ErrorKind::InvalidData.into())
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// A terminal whose output is being copied.
#[derive(Debug)]
pub struct Terminal {
    master: File,
    /// Its end says that all has been copied.
    copied: Receiver<()>,
}

impl Terminal {
    /// Copies to `sink`, or to nowhere.
    pub(super) fn copy(master: File, sink: Option<File>) -> Result<Self, TaskError> {
        let source = master.try_clone().map_err(TaskError::system("copy a terminal"))?;
        let (copying, copied) = channel();
        let work = move || {
            copy(&source, sink.as_ref());
            drop(copying);
        };
        thread::Builder::new()
            .name("terminal".to_owned())
            .spawn(work)
            .map_err(TaskError::system("start a thread"))?;
        Ok(Self { master, copied })
    }

    /// Gives it a size in characters.
    ///
    /// # Errors
    /// [`TaskError::System`]
    pub fn resize(&self, columns: u32, rows: u32) -> Result<(), TaskError> {
        let cut = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
        let size = Winsize {
            ws_row: cut(rows),
            ws_col: cut(columns),
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&self.master, size).map_err(TaskError::system("resize a terminal"))
    }

    /// Waits until all of its output has been copied, after its process has ended, or `patience` is over.
    pub fn await_end(&self, patience: Duration) {
        let _ = self.copied.recv_timeout(patience);
    }
}

/// Ends when nobody has the other side open any more, which is an error to whoever reads.
fn copy(mut source: &File, sink: Option<&File>) {
    let mut buffer = vec![0; PIECE];
    let mut sink = sink;
    loop {
        match source.read(&mut buffer) {
            Ok(0) => return,
            Ok(len) => {
                let bytes = buffer.get(..len).unwrap_or_default();
                // Whoever read is gone; the process goes on.
                sink = sink.filter(|sink| write_all(*sink, bytes).is_ok());
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}
