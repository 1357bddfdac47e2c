//! Files of containers: looked at, copied in, copied out.
//!
//! A helper does it, inside the container; the stream of the request is its
//! descriptor 0 or 1, so that nothing of it passes through the agent.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use koya_proto::stream::{TOKEN_WAIT, Token};
use koya_proto::v1::{self, Status};
use nix::fcntl::OFlag;
use nix::unistd::pipe2;

use crate::containers::{Container, Containers};
use crate::error::{Result, deadline as passed, invalid, limit, runtime, state};
use crate::helper::{Call, CopyJob, Found, Request};
use crate::streams::ChildEnds;
use crate::sys::Deadline;

/// Longest answer of a helper that looks at a path: two paths and some numbers.
/// A pipe holds it.
const FOUND: u64 = 32 << 10;
/// Longest path.
const PATH_MAX: usize = 4096;
/// Copies that go on at the same time, each with a process.
const COPIES: usize = 64;
/// How long a stream may take to come.
const STREAM_WAIT: Duration = TOKEN_WAIT.saturating_mul(2);

static COPYING: AtomicUsize = AtomicUsize::new(0);

/// One of a number of copies, as long as it lives.
struct Turn;

impl Turn {
    fn take() -> Result<Self> {
        let turn = Self;
        if COPYING.fetch_add(1, Ordering::Relaxed) >= COPIES {
            return Err(limit(format!(
                "{COPIES} copies are being made, which is the most"
            )));
        }
        Ok(turn)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        COPYING.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What is at a path of a container.
pub fn stat_path(
    containers: &Containers,
    request: &v1::StatPathRequest,
    deadline: Deadline,
) -> Result<v1::StatPathResponse> {
    check("path", &request.path)?;
    let container = running(containers, &request.id)?;
    let (reading, writing) = pipe2(OFlag::O_CLOEXEC).map_err(|errno| runtime("open a pipe")(errno.into()))?;
    let path = request.path.clone();
    let ends = ends(None, Some(writing))?;
    run(containers, &container, CopyJob::Stat { path }, ends, deadline)?;
    let mut text = Vec::new();
    File::from(reading)
        .take(FOUND)
        .read_to_end(&mut text)
        .map_err(runtime("hear a helper"))?;
    let found: Found =
        serde_json::from_slice(&text).map_err(|error| runtime("understand a helper")(error.into()))?;
    Ok(v1::StatPathResponse {
        exists: found.exists,
        mode: found.mode,
        size: found.size,
        modified_ns: found.modified_ns,
        link_target: found.link_target,
        ..Default::default()
    })
}

/// Unpacks a stream in a container.
pub fn copy_in(containers: &Containers, request: &v1::CopyInRequest, deadline: Deadline) -> Result<()> {
    check("folder", &request.folder)?;
    let container = running(containers, &request.id)?;
    let stream = stream(containers, &request.stream)?;
    let job = CopyJob::In {
        folder: request.folder.clone(),
        own: request.own,
    };
    run(containers, &container, job, ends(Some(stream), None)?, deadline)
}

/// Packs a file or folder of a container into a stream.
pub fn copy_out(containers: &Containers, request: &v1::CopyOutRequest, deadline: Deadline) -> Result<()> {
    check("path", &request.path)?;
    let container = running(containers, &request.id)?;
    let stream = stream(containers, &request.stream)?;
    let path = request.path.clone();
    run(
        containers,
        &container,
        CopyJob::Out { path },
        ends(None, Some(stream))?,
        deadline,
    )
}

fn check(field: &str, path: &str) -> Result<()> {
    if path.is_empty() || path.len() >= PATH_MAX || path.contains('\0') {
        return Err(invalid(format!(
            "{field} is not a path of 1 to {} bytes",
            PATH_MAX.saturating_sub(1)
        )));
    }
    Ok(())
}

/// A container whose files can be reached: through its first process.
fn running(containers: &Containers, id: &str) -> Result<Arc<Container>> {
    let container = containers.get(id)?;
    if container.state().status.enum_value() == Ok(Status::STATUS_STOPPED) {
        return Err(state(format!(
            "container '{id}' is stopped; files are copied while it is there"
        )));
    }
    Ok(container)
}

fn stream(containers: &Containers, field: &[u8]) -> Result<OwnedFd> {
    let token = Token::from_field(field).map_err(|error| invalid(format!("stream: {error}")))?;
    let token = token.ok_or_else(|| invalid("stream is empty; want a token"))?;
    let ticket = containers.ground().broker.expect(token)?;
    ticket
        .connection(STREAM_WAIT)
        .ok_or_else(|| passed("no stream came with the token of the request"))
}

fn ends(stdin: Option<OwnedFd>, stdout: Option<OwnedFd>) -> Result<ChildEnds> {
    let null = || -> Result<OwnedFd> {
        let file = File::options().read(true).write(true).open("/dev/null");
        Ok(file.map_err(runtime("open /dev/null"))?.into())
    };
    Ok(ChildEnds {
        stdin: stdin.map_or_else(null, Ok)?,
        stdout: stdout.map_or_else(null, Ok)?,
        stderr: null()?,
    })
}

fn run(
    containers: &Containers,
    container: &Container,
    job: CopyJob,
    ends: ChildEnds,
    deadline: Deadline,
) -> Result<()> {
    let _turn = Turn::take()?;
    let request = Request::Copy {
        init: container.init().pid(),
        job,
    };
    let call = Call {
        children: &containers.ground().children,
        request: &request,
        ends: Some(ends),
        deadline,
    };
    call.run().map(drop)
}
