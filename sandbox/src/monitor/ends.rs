//! How containers end, written down.

use super::output::complain;
use crate::state::{Container, Exit, Records, Status, Vm, now};

/// The exit code of a command that failed.
pub(super) const FAILED: u8 = 125;

/// Writes down that the containers have ended that ran when the last monitor died.
pub(super) fn bury(records: &Records, vm: &Vm) {
    for mut container in records.list().unwrap_or_default() {
        if container.vm == vm.id && container.is_active() {
            container.exit = Some(Exit::killed("its monitor died"));
            write_end(records, &mut container);
        }
    }
}

/// Writes down that a container has ended.
pub(super) fn write_end(records: &Records, container: &mut Container) {
    container.status = Status::Stopped;
    container.pid = None;
    container.finished = now();
    if let Err(error) = records.save(container) {
        complain(&error.to_string());
    }
}

/// A container that never came to run.
pub(super) fn give_up(records: &Records, container: &Container, error: &dyn std::error::Error, code: u8) {
    if container.settings.auto_remove {
        let _ = records.forget(container);
        return;
    }
    let mut container = container.clone();
    container.exit = Some(Exit {
        code,
        oom_killed: false,
        error: one_line(error),
    });
    write_end(records, &mut container);
}

/// An error with its causes, in one line.
pub(super) fn one_line(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        line.push_str(": ");
        line.push_str(&cause.to_string());
        source = cause.source();
    }
    line
}
