//! Signals by name, and those that are passed on to the container.

use std::fs;
use std::io;

use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
use signal_hook::iterator::Signals;

use crate::terminal;

/// A signal's number from its number or name.
///
/// # Errors
/// What would be right, if it is none.
pub fn parse(text: &str) -> Result<u32, String> {
    koya_sandbox::signals::parse(text).map_err(|error| error.to_string())
}

/// How many times somebody has to ask until nobody waits for the container any more.
const PATIENCE: u32 = 3;

/// What a signal does.
enum Target {
    /// Something is being made that a signal must not tear apart: the first one waits here until it is done.
    Making(Option<i32>),
    /// There is no process yet: what was made so far is removed, and `koya` ends.
    Leave(Box<dyn Fn() + Send>),
    /// It is the process's.
    Process(Sender<i32>),
}

/// Takes this program's signals, from the start to the end of a container.
#[derive(Clone)]
pub struct Relay(Arc<Mutex<Target>>);

impl Relay {
    /// Takes them from now on, but those that whoever started this program has it ignore. Until there is a process, they
    /// end the program as they would without.
    ///
    /// # Errors
    /// When the host does not give them.
    pub fn start() -> io::Result<Self> {
        let ignored = ignored();
        let wanted = [SIGTERM, SIGHUP, SIGUSR1, SIGUSR2, SIGINT, SIGQUIT, SIGWINCH];
        let mut signals = Signals::new(wanted.into_iter().filter(|signal| !ignored.contains(signal)))?;
        let relay = Self(Arc::new(Mutex::new(Target::Making(None))));
        let shared = relay.clone();
        thread::spawn(move || {
            let mut asked = 0_u32;
            for signal in signals.forever() {
                if matches!(signal, SIGTERM | SIGINT | SIGQUIT) {
                    asked = asked.saturating_add(1);
                }
                shared.on(signal, asked);
            }
        });
        Ok(relay)
    }

    fn on(&self, signal: i32, asked: u32) {
        match &mut *self.target() {
            Target::Leave(_) | Target::Making(_) if signal == SIGWINCH => {}
            Target::Leave(remove) => leave(remove, signal),
            _ if asked >= PATIENCE => end(signal),
            Target::Making(first) => *first = first.or(Some(signal)),
            // Nobody listens any more when the container has ended.
            Target::Process(process) => _ = process.send(signal),
        }
    }

    /// From now on, `remove` is called if the program is ended before there is a process.
    pub fn made(&self, remove: impl Fn() + Send + 'static) {
        let mut target = self.target();
        if let Target::Making(Some(signal)) = *target {
            leave(&remove, signal);
        }
        *target = Target::Leave(Box::new(remove));
    }

    /// Waits while a signal removes what was made, and ends the program. To be called before anything is said about an
    /// end that may be due to that.
    pub fn yield_to_end(&self) {
        drop(self.target());
    }

    /// From now on, signals are the process's. It is told on a thread of its own, because a guest that hangs takes long.
    pub fn pass_on(&self, mut tell: impl FnMut(i32) + Send + 'static) {
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || receiver.iter().for_each(&mut tell));
        let mut target = self.target();
        if let Target::Making(Some(signal)) = *target {
            let _ = sender.send(signal);
        }
        *target = Target::Process(sender);
    }

    fn target(&self) -> MutexGuard<'_, Target> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes what was made for nothing, and ends this program.
fn leave(remove: &dyn Fn(), signal: i32) {
    remove();
    end(signal);
}

/// Ends this program as a shell tells of a signal. The VMM ends with it.
fn end(signal: i32) {
    terminal::restore();
    std::process::exit(signal.saturating_add(128));
}

/// The signals that whoever started this program has it ignore, as `nohup` does.
fn ignored() -> Vec<i32> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = line
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    let is_set = |bit: &u32| mask.checked_shr(*bit).is_some_and(|bits| bits & 1 == 1);
    (0..64)
        .filter(is_set)
        .map(|bit| bit.saturating_add(1).cast_signed())
        .collect()
}
