//! A scope of systemd's: a cgroup that systemd makes for processes that others have started, and that nobody but systemd
//! moves, changes or removes. What is below it is its processes' own.

use serde::{Deserialize, Serialize};

use super::bus::{BusError, Line, manager};
use super::message::Values;

/// What systemd says when a unit is not there.
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";

/// What systemd sends to all processes of a scope that it is to stop. Those that make the microVM do not notice this one
/// unless they want to, and no engine sends it: the container is ended by its monitor, with its files in order.
pub const STOP: i32 = libc::SIGURG;

/// A scope's name, and the slice that it is in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    slice: String,
    unit: String,
}

/// What a unit is told about itself.
enum Property<'a> {
    Text(&'a str),
    Truth(bool),
    Number(i32),
    Process(u32),
}

impl Scope {
    /// The one that `SLICE:PREFIX:NAME` stands for.
    pub fn named(name: &str, default_slice: &str) -> Option<Self> {
        let mut parts = name.split(':');
        let (slice, prefix, name) = (parts.next()?, parts.next()?, parts.next()?);
        let slice = if slice.is_empty() { default_slice } else { slice };
        let unit = match prefix {
            "" => format!("{name}.scope"),
            prefix => format!("{prefix}-{name}.scope"),
        };
        let is_name = |text: &str| !text.is_empty() && !text.contains('/');
        let fits = parts.next().is_none() && slice.ends_with(".slice") && is_name(slice) && is_name(name);
        (fits && is_name(&unit)).then(|| Self {
            slice: slice.to_owned(),
            unit,
        })
    }

    /// Has systemd make it with this process in it.
    ///
    /// # Errors
    /// [`BusError`]; there may be one of that name, which is somebody else's then.
    pub fn begin(&self, line: Line) -> Result<(), BusError> {
        line.ask(
            manager("StartTransientUnit", "ssa(sv)a(sa(sv))"),
            &self.wanted(std::process::id()),
        )
    }

    /// Has systemd end it. One that is gone is as wished: systemd removes it with its last process.
    ///
    /// # Errors
    /// [`BusError`]
    pub fn end(&self, line: Line) -> Result<(), BusError> {
        let mut arguments = Values::default();
        arguments.text(&self.unit).text("replace");
        match line.ask(manager("StopUnit", "ss"), &arguments) {
            Err(BusError::Refused { name, .. }) if name == NO_SUCH_UNIT => Ok(()),
            result => result,
        }
    }

    /// What systemd is asked to make. Limits are the guest's: it is told of none.
    fn wanted(&self, pid: u32) -> Values {
        use Property::{Number, Process, Text, Truth};
        let properties = [
            ("Description", Text("Koya container")),
            ("Slice", Text(&self.slice)),
            ("PIDs", Process(pid)),
            ("Delegate", Truth(true)),
            // By what engines count.
            ("CPUAccounting", Truth(true)),
            ("MemoryAccounting", Truth(true)),
            ("TasksAccounting", Truth(true)),
            ("IOAccounting", Truth(true)),
            // It ends when its engine says so, also where the host is shut down.
            ("DefaultDependencies", Truth(false)),
            ("KillSignal", Number(STOP)),
            // Nobody has to clear away one that failed.
            ("CollectMode", Text("inactive-or-failed")),
        ];
        let mut arguments = Values::default();
        arguments
            .text(&self.unit)
            .text("fail")
            .structures(&properties, |values, (name, value)| {
                values.text(name);
                match value {
                    Text(text) => values.any_text(text),
                    Truth(truth) => values.any_truth(*truth),
                    Number(number) => values.any_number(*number),
                    Process(pid) => values.any_numbers(*pid),
                }
            })
            .structures::<()>(&[], |_, ()| {});
        arguments
    }
}

impl std::fmt::Display for Scope {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.unit)
    }
}
