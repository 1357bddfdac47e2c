//! Terminals of the host: one end goes over the console socket to whoever asked for the container, the other stays here
//! and is joined to the terminal that the process has in the guest.

use std::fs::File;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use koya_sandbox::sockets;
use rustix::fs::{Mode, OFlags};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, Winsize, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};

use crate::error::RuntimeError;

/// What is sent with the descriptor: a name, as runc does, which receivers show to people at most.
const NAME: &[u8] = b"/dev/ptmx";

/// Opens a terminal of this size, in rows and columns, and sends its master to the console socket; the slave. Keys go
/// through as they are: it is the guest's terminal that edits lines and knows of signals.
///
/// # Errors
/// [`RuntimeError::System`], [`RuntimeError::ConsoleSocket`]
pub fn open(socket: &Path, size: Option<(u16, u16)>) -> Result<File, RuntimeError> {
    let failed = |errno: rustix::io::Errno| RuntimeError::System("open a terminal", errno.into());
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).map_err(failed)?;
    grantpt(&master).map_err(failed)?;
    unlockpt(&master).map_err(failed)?;
    let name = ptsname(&master, Vec::new()).map_err(failed)?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let slave = rustix::fs::open(name.as_c_str(), flags, Mode::empty()).map_err(failed)?;
    let mut settings = tcgetattr(&slave).map_err(failed)?;
    settings.make_raw();
    tcsetattr(&slave, OptionalActions::Now, &settings).map_err(failed)?;
    if let Some((rows, columns)) = size {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&slave, size).map_err(failed)?;
    }
    send(socket, &master).map_err(|source| RuntimeError::ConsoleSocket {
        path: socket.to_owned(),
        source,
    })?;
    Ok(File::from(slave))
}

fn send(socket: &Path, master: &impl AsFd) -> io::Result<()> {
    let stream = sockets::connect(socket)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut rights = SendAncillaryBuffer::new(&mut space);
    let descriptors = [master.as_fd()];
    if !rights.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sendmsg(&stream, &[IoSlice::new(NAME)], &mut rights, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Begins a session whose terminal it is, so that a change of its size is heard of, and gives up the standard streams. The
/// process must lead no session yet.
///
/// # Errors
/// [`RuntimeError::System`], [`RuntimeError::File`]
pub fn take(slave: &File) -> Result<(), RuntimeError> {
    rustix::process::setsid().map_err(RuntimeError::system("begin a session"))?;
    // SAFETY: TIOCSCTTY takes a number, no pointer.
    if unsafe { libc::ioctl(slave.as_raw_fd(), libc::TIOCSCTTY, 0) } < 0 {
        return Err(RuntimeError::System(
            "take the terminal",
            io::Error::last_os_error(),
        ));
    }
    // docker waits for the ends of those that it gave the command, and takes the terminal's output only then.
    silence()
}

/// Gives up this process's standard streams, whose ends others wait for.
///
/// # Errors
/// [`RuntimeError::File`], [`RuntimeError::System`]
pub fn silence() -> Result<(), RuntimeError> {
    let null = File::options().read(true).write(true).open("/dev/null");
    let null = null.map_err(RuntimeError::file("open", "/dev/null".as_ref()))?;
    rustix::stdio::dup2_stdin(&null)
        .and_then(|()| rustix::stdio::dup2_stdout(&null))
        .and_then(|()| rustix::stdio::dup2_stderr(&null))
        .map_err(RuntimeError::system("close the standard streams"))
}

/// Rows and columns; 0 if unknown.
pub fn size(slave: &File) -> (u16, u16) {
    tcgetwinsize(slave).map_or((0, 0), |size| (size.ws_row, size.ws_col))
}
