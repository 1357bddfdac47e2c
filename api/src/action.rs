//! The one list of things that can be asked of a VMM, spoken by HTTP, the config file and tests alike.

use serde::{Deserialize, Serialize};

use crate::config::{
    BootSource, Drive, DriveUpdate, Entropy, Logger, MachineConfig, MachineConfigUpdate, Metrics,
    NetworkInterface, NetworkInterfaceUpdate, Serial, SharedFolder, SnapshotCreate, SnapshotLoad, VmConfig,
    Vsock, WorkingSetNote,
};
use crate::error::ActionError;
use crate::instance::{InstanceInfo, VersionInfo};

/// Something asked of the VMM.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Who answers, and does the microVM run?
    GetInstance,
    /// Which version answers?
    GetVersion,
    /// Read the number of vCPUs, the memory and the like.
    GetMachineConfig,
    /// Replace the machine configuration.
    PutMachineConfig(MachineConfig),
    /// Change parts of the machine configuration.
    PatchMachineConfig(MachineConfigUpdate),
    /// Say what to boot.
    PutBootSource(BootSource),
    /// Add a drive, also to a running microVM with spare devices, or replace the one with this id.
    PutDrive(Drive),
    /// Change a drive of the running microVM.
    PatchDrive(DriveUpdate),
    /// Add a network interface, also to a running microVM with spare devices, or replace the one with this id.
    PutNetworkInterface(NetworkInterface),
    /// Change a network interface of the running microVM.
    PatchNetworkInterface(NetworkInterfaceUpdate),
    /// Add a shared folder, or replace the one with this id.
    PutSharedFolder(SharedFolder),
    /// Boot.
    StartInstance,
    /// Press Ctrl+Alt+Del on the guest's keyboard.
    SendCtrlAltDel,
    /// Write the metrics now.
    FlushMetrics,
    /// Pause or resume the vCPUs.
    PatchVm(VmStateChange),
    /// Read the whole configuration.
    GetVmConfig,
    /// Set up the log.
    PutLogger(Logger),
    /// Set up the metrics.
    PutMetrics(Metrics),
    /// Add an entropy device.
    PutEntropy(Entropy),
    /// Add a socket device.
    PutVsock(Vsock),
    /// Say where the serial console's output goes.
    PutSerial(Serial),
    /// Write the paused microVM into two files.
    CreateSnapshot(SnapshotCreate),
    /// Write down which memory the guest has written, for others that go on where it did.
    NoteWorkingSet(WorkingSetNote),
    /// Go on where a snapshot was made, instead of booting.
    LoadSnapshot(Box<SnapshotLoad>),
}

/// The body of `PATCH /vm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmStateChange {
    /// The state wanted.
    pub state: WantedState,
}

/// The state `PATCH /vm` can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum WantedState {
    /// Stop the vCPUs, keeping everything.
    Paused,
    /// Let the vCPUs go on.
    Resumed,
}

/// When an action makes sense.
enum When {
    Always,
    BeforeStart,
    AfterStart,
}

impl Action {
    fn when(&self) -> When {
        match self {
            Self::GetInstance | Self::GetVersion | Self::GetMachineConfig | Self::GetVmConfig => When::Always,
            // After the start only a microVM with spare devices takes them, which its monitor knows.
            Self::PutDrive(_) | Self::PutNetworkInterface(_) => When::Always,
            Self::PutMachineConfig(_)
            | Self::PatchMachineConfig(_)
            | Self::PutBootSource(_)
            | Self::PutSharedFolder(_)
            | Self::StartInstance
            | Self::PutLogger(_)
            | Self::PutMetrics(_)
            | Self::PutEntropy(_)
            | Self::PutVsock(_)
            | Self::PutSerial(_)
            | Self::LoadSnapshot(_) => When::BeforeStart,
            Self::PatchDrive(_)
            | Self::PatchNetworkInterface(_)
            | Self::SendCtrlAltDel
            | Self::FlushMetrics
            | Self::CreateSnapshot(_)
            | Self::NoteWorkingSet(_)
            | Self::PatchVm(_) => When::AfterStart,
        }
    }

    /// Checks the action against the microVM's phase; a paused microVM counts as started.
    ///
    /// # Errors
    /// [`ActionError::NotSupportedBeforeStart`] or [`ActionError::NotSupportedAfterStart`].
    pub fn check_phase(&self, started: bool) -> Result<(), ActionError> {
        match (self.when(), started) {
            (When::BeforeStart, true) => Err(ActionError::NotSupportedAfterStart),
            (When::AfterStart, false) => Err(ActionError::NotSupportedBeforeStart),
            _ => Ok(()),
        }
    }
}

/// What a successful action answers.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Done; there is nothing to say (204).
    Empty,
    /// The answer to [`Action::GetInstance`].
    Instance(InstanceInfo),
    /// The answer to [`Action::GetVersion`].
    Version(VersionInfo),
    /// The answer to [`Action::GetMachineConfig`].
    MachineConfig(MachineConfig),
    /// The answer to [`Action::GetVmConfig`].
    VmConfig(Box<VmConfig>),
}

/// Whoever can do what the actions ask: the VMM, or a stand-in of a test.
pub trait ActionHandler {
    /// Does it, and answers. The server calls this on its event loop, one action after the other.
    ///
    /// # Errors
    /// [`ActionError`], which the client gets as a `fault_message` with status 400.
    fn handle(&mut self, action: Action) -> Result<Outcome, ActionError>;
}

impl<F: FnMut(Action) -> Result<Outcome, ActionError>> ActionHandler for F {
    fn handle(&mut self, action: Action) -> Result<Outcome, ActionError> {
        self(action)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_firecrackers() {
        let resume = Action::PatchVm(VmStateChange {
            state: WantedState::Resumed,
        });
        for (action, before, after) in [
            (Action::GetVersion, true, true),
            (Action::GetVmConfig, true, true),
            (Action::StartInstance, true, false),
            (Action::PutEntropy(Entropy::default()), true, false),
            (
                Action::PatchMachineConfig(MachineConfigUpdate::default()),
                true,
                false,
            ),
            (Action::FlushMetrics, false, true),
            (Action::SendCtrlAltDel, false, true),
            (resume, false, true),
        ] {
            assert_eq!(action.check_phase(false).is_ok(), before, "{action:?}");
            assert_eq!(action.check_phase(true).is_ok(), after, "{action:?}");
        }
        assert_eq!(
            Action::StartInstance.check_phase(true).unwrap_err().to_string(),
            "The requested operation is not supported after starting the microVM."
        );
        assert_eq!(
            Action::FlushMetrics.check_phase(false).unwrap_err().to_string(),
            "The requested operation is not supported before starting the microVM."
        );
    }
}
