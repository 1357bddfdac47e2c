//! Taking turns at entering a microVM.
//!
//! Whoever enters one opens several connections, for which the device, the agent and this program have seconds of patience
//! each. Hundreds at once, on few processors, would all be too slow. So only some do it at a time; the others sleep, and
//! neither hold up those nor spend their own patience.
//!
//! A turn is the lock of a file in the microVM's folder: whoever is killed gives it back.

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, SystemTime};

/// How many enter at a time: enough for a host with many processors, which enters within milliseconds, and few enough for
/// one processor that is emulated.
const TURNS: u32 = 8;

/// The right to enter, until it is dropped.
pub struct Turn {
    _locked: Option<File>,
}

impl Turn {
    /// Waits for a turn, as long as others get theirs: once nobody has got one for `patience`, those hang who have them, and
    /// everybody finds out for himself. In a folder that is gone, or that cannot be written, there are no turns to wait for.
    pub fn wait(folder: &Path, patience: Duration) -> Self {
        let open = |number: u32| {
            let path = folder.join(format!("turn-{number}"));
            let mut options = OpenOptions::new();
            options.read(true).append(true).create(true).open(path).ok()
        };
        // From another one on for each process, so that the files are shared evenly.
        let first = std::process::id() % TURNS;
        let numbers = (first..TURNS).chain(0..first);
        let free = numbers.filter_map(open).find(|file| file.try_lock().is_ok());
        let locked = free.or_else(|| queue(open(first)?, patience));
        if let Some(file) = &locked {
            // Tells those who wait that it goes on.
            let _ = file.set_modified(SystemTime::now());
        }
        Self { _locked: locked }
    }
}

/// Sleeps until the file is ours, or nobody has had it for `patience`.
fn queue(file: File, patience: Duration) -> Option<File> {
    let ours = file.try_clone().ok()?;
    let (sender, receiver) = mpsc::channel();
    let waiting = thread::Builder::new().spawn(move || {
        let locked = file.lock().is_ok();
        // Where nobody waits any more it is closed, and so given back.
        let _ = sender.send(locked.then_some(file));
    });
    waiting.ok()?;
    let had = || ours.metadata().and_then(|found| found.modified()).ok();
    let mut last = had();
    loop {
        match receiver.recv_timeout(patience) {
            Ok(locked) => return locked,
            Err(mpsc::RecvTimeoutError::Timeout) if had() != last => last = had(),
            Err(_) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::arithmetic_side_effects)]

    use std::fs;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Instant;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn folder(name: &str) -> std::path::PathBuf {
        let folder = std::env::temp_dir().join(format!("koya-turn-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn only_some_have_a_turn_at_a_time_and_all_get_one() {
        let folder = folder("all");
        let (now, most) = (AtomicU32::new(0), AtomicU32::new(0));
        thread::scope(|scope| {
            for _ in 0..50 {
                scope.spawn(|| {
                    let _turn = Turn::wait(&folder, LONG);
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    thread::sleep(Duration::from_millis(5));
                    now.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        let most = most.into_inner();
        assert!((2..=TURNS).contains(&most), "{most} at a time");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn nobody_waits_for_ever() {
        let folder = folder("hung");
        let hung: Vec<_> = (0..TURNS).map(|_| Turn::wait(&folder, LONG)).collect();
        let begun = Instant::now();
        let patience = Duration::from_millis(100);
        assert!(Turn::wait(&folder, patience)._locked.is_none());
        assert!((patience..LONG).contains(&begun.elapsed()));
        // As if another one had got it meanwhile: then it goes on.
        let begun = Instant::now();
        let file = File::open(folder.join(format!("turn-{}", std::process::id() % TURNS))).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(patience / 2);
                file.set_modified(SystemTime::now()).unwrap();
            });
            assert!(Turn::wait(&folder, patience)._locked.is_none());
        });
        assert!(begun.elapsed() >= patience * 2);
        drop(hung);
        fs::remove_dir_all(&folder).unwrap();
        assert!(Turn::wait(&folder, LONG)._locked.is_none());
    }
}
