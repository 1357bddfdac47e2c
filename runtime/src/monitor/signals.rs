//! Signals for the container: they arrive at the stand-in, which passes them on to its monitor.

use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};

use signal_hook::iterator::Signals;

use super::Monitor;
use crate::error::RuntimeError;
use crate::{signal, threads};

/// Who gets a signal; nobody until the container is created.
#[derive(Clone, Default)]
pub(super) struct Taken(Arc<Mutex<Option<Sender<i32>>>>);

/// Takes this process's signals from now on. Until there is a container, those that end a process end this one, and with
/// it all that it made. `stop` is the one by which systemd asks the container to end.
pub(super) fn take(stop: Option<i32>) -> Result<Taken, RuntimeError> {
    let taken = Taken::default();
    let shared = taken.clone();
    let mut signals = Signals::new(signal::passed_on()).map_err(RuntimeError::system("take signals"))?;
    let work = move || {
        for number in signals.forever() {
            let number = if Some(number) == stop {
                libc::SIGTERM
            } else {
                number
            };
            let receiver = shared.0.lock().unwrap_or_else(PoisonError::into_inner);
            match &*receiver {
                Some(receiver) => _ = receiver.send(number),
                None if matches!(
                    number,
                    libc::SIGTERM | libc::SIGINT | libc::SIGQUIT | libc::SIGHUP
                ) =>
                {
                    std::process::exit(number.saturating_add(128));
                }
                None => {}
            }
        }
    };
    threads::spawn("signals", work).map_err(threads::refused)?;
    Ok(taken)
}

impl Taken {
    /// From now on they are the container's. They are told on a thread of their own, because a guest that hangs takes long.
    ///
    /// # Errors
    /// [`RuntimeError::System`]
    pub(super) fn pass_on(&self, monitor: &Arc<Monitor>) -> Result<(), RuntimeError> {
        let (sender, receiver) = mpsc::channel::<i32>();
        let monitor = Arc::clone(monitor);
        let work = move || {
            for number in receiver {
                if number == libc::SIGWINCH && monitor.own.terminal().is_some() {
                    monitor.resize();
                } else if monitor.has_started() || number == libc::SIGTERM {
                    // One that has ended meanwhile needs none.
                    let _ = monitor.signal(number.cast_unsigned(), false);
                }
            }
        };
        threads::spawn("passing on", work).map_err(threads::refused)?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        Ok(())
    }
}
