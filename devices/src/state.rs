//! Saving a device and bringing it back.
//!
//! Every stateful device has a plain, versioned `State`: data without references, that serde can write in any
//! format. A state read back comes from a file, so it is as hostile as any other input: `restore` checks it.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A device whose state can be saved and brought back.
///
/// Both are called while the guest's vCPUs and the event loop stand still.
pub trait Snapshot {
    /// What is saved: plain data, beginning with a `version`.
    type State: Serialize + DeserializeOwned;

    /// The device's state now.
    fn save(&self) -> Self::State;

    /// Takes over `state`, on a device fresh from its constructor. After an error the device must not be used.
    fn restore(&mut self, state: &Self::State) -> Result<(), RestoreError>;
}

/// A saved state cannot be taken over.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The state was written by a build whose format this one does not read.
    #[error("the saved {device} has format version {found}, this build reads version {supported}")]
    Version {
        /// Which device.
        device: &'static str,
        /// The version in the state.
        found: u32,
        /// The version that would be right.
        supported: u32,
    },
    /// A field holds something the device can never have saved.
    #[error("the saved {device} has an impossible `{field}`: it must be {expected}")]
    Field {
        /// Which device.
        device: &'static str,
        /// Which field of its state.
        field: &'static str,
        /// What would be right.
        expected: &'static str,
    },
    /// The host refused something that the restored device needs.
    #[error("cannot set up the saved {device} again")]
    Host {
        /// Which device.
        device: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// The restored device could not be started with the queues and features its driver had chosen.
    #[error("cannot start the saved device again")]
    Activate(#[source] crate::virtio::ActivateError),
}

impl RestoreError {
    /// Refuses a state whose version is not `supported`.
    pub fn check_version(device: &'static str, found: u32, supported: u32) -> Result<(), Self> {
        if found == supported {
            Ok(())
        } else {
            Err(Self::Version {
                device,
                found,
                supported,
            })
        }
    }

    /// Refuses a state whose `field` is not `valid`, naming what it must be.
    pub fn check(
        valid: bool,
        device: &'static str,
        field: &'static str,
        expected: &'static str,
    ) -> Result<(), Self> {
        if valid {
            Ok(())
        } else {
            Err(Self::Field {
                device,
                field,
                expected,
            })
        }
    }
}

/// A device that counts what happens to it.
///
/// The counters are plain integers that the device updates where things happen; whoever runs the microVM
/// collects them. Names of counters are those that clients of Firecracker's metrics know, where it has them.
pub trait Metered {
    /// A plain struct of counters.
    type Metrics: Serialize + Default;

    /// The counters since they were last taken.
    fn metrics(&mut self) -> &mut Self::Metrics;

    /// The counters since the last call; they start from zero again.
    fn take_metrics(&mut self) -> Self::Metrics {
        std::mem::take(self.metrics())
    }
}
