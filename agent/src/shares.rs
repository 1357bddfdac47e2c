//! Folders of the host that containers use: each is a virtio-fs device, mounted
//! once, by its tag.
//!
//! Whoever serves such a folder may be dead or asleep, and then whoever looks
//! at it waits for ever, beyond the reach of any signal. So a thread of its own
//! does the first look, and those who asked wait for it until their deadline.
//! One thread is the most that a tag can cost.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use koya_proto::SHARES;
use koya_proto::error::AgentError;
use koya_proto::v1::Share;
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::error::{Result, deadline as passed, invalid, limit, runtime, storage};
use crate::sys::{Deadline, lock};

/// Longest tag in bytes (virtio 1.2 §5.11.4).
const LONGEST_TAG: usize = 36;
/// Shares of one request: more than a microVM has devices.
const MAX_SHARES: usize = 32;

/// What is mounted in this guest, for as long as it runs.
static MOUNTED: Mutex<BTreeMap<String, State>> = Mutex::new(BTreeMap::new());

enum State {
    /// Somebody is at it.
    Trying(Arc<Attempt>),
    /// It is there.
    Mounted,
}

/// One attempt to mount a share, and how it went.
#[derive(Default)]
struct Attempt {
    outcome: Mutex<Option<Result<()>>>,
    ended: Condvar,
}

/// Mounts these shares, unless they are already.
///
/// # Errors
/// `INVALID` for what is no tag, `STORAGE` when no device has it, `DEADLINE` when nobody serves it.
pub fn mount_all(shares: &[Share], deadline: Deadline) -> Result<()> {
    if shares.len() > MAX_SHARES {
        return Err(limit(format!(
            "{} shares; want at most {MAX_SHARES}",
            shares.len()
        )));
    }
    shares
        .iter()
        .try_for_each(|share| mount_one(&share.tag, deadline))
}

fn mount_one(tag: &str, deadline: Deadline) -> Result<()> {
    check(tag)?;
    let attempt = {
        let mut mounted = lock(&MOUNTED);
        match mounted.get(tag) {
            Some(State::Mounted) => return Ok(()),
            Some(State::Trying(attempt)) => attempt.clone(),
            None => {
                let attempt = begin(tag)?;
                mounted.insert(tag.to_owned(), State::Trying(attempt.clone()));
                attempt
            }
        }
    };
    attempt.wait(deadline).unwrap_or_else(|| {
        Err(passed(format!(
            "nobody has answered for share '{tag}' yet; is the program alive that serves it on the host?"
        )))
    })
}

/// A tag is a folder's name here.
fn check(tag: &str) -> Result<()> {
    let is_name = tag
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'));
    if is_name && (1..=LONGEST_TAG).contains(&tag.len()) && tag != "." && tag != ".." {
        return Ok(());
    }
    Err(invalid(format!(
        "'{tag}' is no share's tag; want 1 to {LONGEST_TAG} of A-Z a-z 0-9 _ . -"
    )))
}

/// Starts a thread that mounts, and remembers what came of it.
fn begin(tag: &str) -> Result<Arc<Attempt>> {
    let attempt = Arc::<Attempt>::default();
    let (reported, name) = (attempt.clone(), tag.to_owned());
    let work = move || {
        let result = attach(&name, &Path::new(SHARES).join(&name));
        let mut mounted = lock(&MOUNTED);
        match result {
            Ok(()) => mounted.insert(name, State::Mounted),
            Err(_) => mounted.remove(&name),
        };
        drop(mounted);
        reported.end(result);
    };
    thread::Builder::new()
        .name("share".to_owned())
        .spawn(work)
        .map_err(runtime("start a thread to mount a share"))?;
    Ok(attempt)
}

/// Mounts a share, and looks at it.
fn attach(tag: &str, at: &Path) -> Result<()> {
    let failed = |error: &dyn std::fmt::Display| storage(format!("mount share '{tag}'"), error);
    fs::create_dir_all(at).map_err(|error| failed(&error))?;
    mount(Some(tag), at, Some("virtiofs"), MsFlags::MS_NODEV, None::<&str>).map_err(|errno| match errno {
        Errno::EINVAL => failed(&"no device of the guest has this tag"),
        other => failed(&other.desc()),
    })?;
    // Only now is the program spoken to.
    fs::metadata(at).map(drop).map_err(|error| {
        let _ = umount2(at, MntFlags::MNT_DETACH);
        failed(&error)
    })
}

impl Attempt {
    fn end(&self, outcome: Result<()>) {
        *lock(&self.outcome) = Some(outcome);
        self.ended.notify_all();
    }

    /// How it went; `None` if that is not known by then.
    fn wait(&self, deadline: Deadline) -> Option<Result<()>> {
        let mut outcome = lock(&self.outcome);
        while outcome.is_none() && !deadline.passed() {
            outcome = match deadline.left() {
                None => self.ended.wait(outcome).unwrap_or_else(PoisonError::into_inner),
                Some(left) => {
                    let waited = self.ended.wait_timeout(outcome, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        outcome.as_ref().map(|outcome| match outcome {
            Ok(()) => Ok(()),
            Err(error) => Err(AgentError::clone(error)),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn share(tag: &str) -> Share {
        Share {
            tag: tag.to_owned(),
            ..Default::default()
        }
    }

    #[test]
    fn what_is_no_tag_is_refused() {
        for tag in ["", ".", "..", "a/b", "a b", &"x".repeat(37)] {
            let error = mount_all(&[share(tag)], Deadline::NONE).unwrap_err();
            assert!(error.to_string().contains("1 to 36"), "{error}");
        }
        check("volumes-1.x_y").unwrap();
        let many = vec![share("a"); 33];
        assert!(
            mount_all(&many, Deadline::NONE)
                .unwrap_err()
                .to_string()
                .contains("at most 32")
        );
    }

    #[test]
    fn a_share_that_nobody_serves_costs_no_more_than_the_deadline() {
        let attempt = Arc::<Attempt>::default();
        lock(&MOUNTED).insert("asleep".to_owned(), State::Trying(attempt.clone()));
        for _ in 0..2 {
            let start = Instant::now();
            let error = mount_one("asleep", Deadline::after(Duration::from_millis(50))).unwrap_err();
            assert!(
                error
                    .to_string()
                    .contains("nobody has answered for share 'asleep'"),
                "{error}"
            );
            assert!(start.elapsed() < Duration::from_secs(10));
        }
        // It wakes up after all.
        let waiting = thread::spawn(|| mount_one("asleep", Deadline::NONE));
        thread::sleep(Duration::from_millis(20));
        attempt.end(Ok(()));
        waiting.join().unwrap().unwrap();
    }
}
