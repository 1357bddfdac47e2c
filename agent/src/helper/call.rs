//! The agent's side of a helper: run it, wait for it, take what it says.

use std::io::{IoSliceMut, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use koya_proto::error::{AgentError, ErrorKind};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

use super::{Reply, Request, map};
use crate::children::Children;
use crate::error::{Result, deadline as passed, runtime};
use crate::options::HELPER;
use crate::streams::ChildEnds;
use crate::sys::{Deadline, give_control};

/// Longest reply: an error with the paths that it names.
const MAX_REPLY: usize = 16 << 10;

/// A helper's job.
pub struct Call<'a> {
    /// Where the helper becomes a child.
    pub children: &'a Children,
    /// What it is to do.
    pub request: &'a Request,
    /// Descriptors of the process that it makes.
    pub ends: Option<ChildEnds>,
    /// By when; it is killed then.
    pub deadline: Deadline,
}

/// What a helper did.
#[derive(Debug)]
pub struct Done {
    /// The process that it made.
    pub pid: u32,
    /// The master of the terminal that it made for it, or whatever else was asked for.
    pub descriptor: Option<OwnedFd>,
}

impl Call<'_> {
    /// Runs the helper to its end.
    pub fn run(self) -> Result<Done> {
        let failed = || runtime("talk to a helper");
        let (ours, theirs) = UnixStream::pair().map_err(failed())?;
        let mut command = Command::new("/proc/self/exe");
        command.arg(HELPER).env_clear();
        if let Request::Create { bundle, .. } = self.request
            && map::is_in(bundle)
        {
            command.env("PATH", bundle);
        }
        match self.ends {
            Some(ends) => command.stdin(ends.stdin).stdout(ends.stdout).stderr(ends.stderr),
            None => command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null()),
        };
        give_control(&mut command, theirs.into()).map_err(failed())?;
        let child = self
            .children
            .spawn(&mut command)
            .map_err(runtime("run a helper"))?;
        // Closes the agent's copies of what the helper was given.
        drop(command);
        let request = serde_json::to_vec(self.request).map_err(|error| failed()(error.into()))?;
        let sent = (&ours)
            .write_all(&request)
            .and_then(|()| ours.shutdown(Shutdown::Write));
        if child.wait(self.deadline).is_none() {
            let _ = child.signal(libc::SIGKILL);
            child.wait(Deadline::NONE);
            return Err(passed(
                "the deadline passed before the container runtime was done",
            ));
        }
        // A helper that did not listen has something else to say.
        let reply = receive(&ours);
        sent.map_err(failed())?;
        reply
    }
}

/// Takes the reply of a helper that has exited. Whatever it has to say is in
/// the socket; not even its end is waited for, because the process that it made
/// may still have the other end open.
fn receive(control: &UnixStream) -> Result<Done> {
    let mut text = Vec::new();
    let mut descriptor = None;
    let mut buffer = vec![0; MAX_REPLY];
    let mut space = nix::cmsg_space!([RawFd; 1]);
    while text.len() < MAX_REPLY {
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        let Ok(message) = recvmsg::<()>(control.as_raw_fd(), &mut slices, Some(&mut space), flags) else {
            break;
        };
        for control in message.cmsgs().into_iter().flatten() {
            if let ControlMessageOwned::ScmRights(descriptors) = control {
                // SAFETY: recvmsg has just made these descriptors for us.
                descriptor = descriptors.first().map(|&fd| unsafe { OwnedFd::from_raw_fd(fd) });
            }
        }
        if message.bytes == 0 {
            break;
        }
        let bytes = message.bytes;
        text.extend_from_slice(buffer.get(..bytes).unwrap_or_default());
    }
    match serde_json::from_slice(&text) {
        Ok(Reply::Done { pid }) => Ok(Done { pid, descriptor }),
        Ok(Reply::Failed(failure)) => Err(AgentError::new(failure.kind.into(), failure.message)),
        Err(_) => Err(AgentError::new(
            ErrorKind::ERROR_KIND_RUNTIME,
            "the container runtime ended without a word",
        )),
    }
}
