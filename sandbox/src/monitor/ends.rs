//! How containers end, written down.

use super::output::complain;
use crate::state::{Container, Exit, Records, Status, Vm, now};

/// The exit code of a command that failed.
pub(super) const FAILED: u8 = 125;

/// Writes down that the containers have ended that ran when the last monitor died.
pub(super) fn bury(records: &Records, vm: &Vm) {
    for mut container in records.list().unwrap_or_default() {
        // Somebody else waits for those that are to be started again.
        let waits = container.status == Status::Restarting && records.is_waited_for(&vm.id);
        if container.vm == vm.id && container.is_active() && !waits {
            container.exit = Some(Exit::killed("its monitor died"));
            write_end(records, &mut container);
        }
    }
}

/// Writes down that a container has ended.
pub(super) fn write_end(records: &Records, container: &mut Container) {
    write_end_as(records, container, Status::Stopped);
}

/// The same, with what it is then.
pub(super) fn write_end_as(records: &Records, container: &mut Container, status: Status) {
    container.status = status;
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

/// Longest line about an error, in bytes. A guest has a say in it, and it goes into states, answers and terminals.
const MAX_LINE: usize = 2000;
/// Where one was cut.
const ELLIPSIS: &str = "…";

/// An error with its causes, in one line of at most [`MAX_LINE`] bytes.
pub(crate) fn one_line(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source
        && line.len() <= MAX_LINE
    {
        line.push_str(": ");
        line.push_str(&cause.to_string());
        source = cause.source();
    }
    if line.len() > MAX_LINE {
        line.truncate(line.floor_char_boundary(MAX_LINE.saturating_sub(ELLIPSIS.len())));
        line.push_str(ELLIPSIS);
    }
    line
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("it failed")]
    struct Failure(#[source] io::Error);

    #[test]
    fn causes_follow_and_what_is_endless_is_cut() {
        let short = Failure(io::Error::other("no disk"));
        assert_eq!(one_line(&short), "it failed: no disk");
        // Two bytes each, from an odd place on.
        let long = one_line(&Failure(io::Error::other("é".repeat(100_000))));
        assert!(
            long.len() <= MAX_LINE && long.len() > MAX_LINE - 8,
            "{}",
            long.len()
        );
        assert!(long.starts_with("it failed: éé") && long.ends_with("é…"));
    }
}
