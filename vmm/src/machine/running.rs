//! The last phase: a guest that runs, or stands still.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use koya_api::config::{DriveUpdate, NetworkInterfaceUpdate, VmConfig};
use koya_devices::GuestRam;
use koya_devices::legacy::Serial;
use koya_devices::legacy::i8042::I8042Error;
use koya_devices::virtio::DeviceFault;
use koya_devices::virtio::block::{BlockBackend, BlockError};

use super::devices::{Devices, lock};
use crate::kvm::clock::ClockState;
use crate::kvm::state::{VcpuState, msr_indices};
use crate::kvm::{KvmHost, Vm};
use crate::metrics::Report;
use crate::snapshot::{self, SavedVm, SnapshotError, WorkingSet};
use crate::vcpu::{VcpuThreadError, Vcpus};

/// How long the end of a microVM waits for the reader of its console: enough for one that is slow, too short for one
/// that has stopped reading to hold anybody up.
const DRAIN: Duration = Duration::from_secs(1);

/// A device of the running guest cannot be changed.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// No such drive.
    #[error("Invalid device ID: there is no drive {0:?}")]
    UnknownDrive(String),
    /// No such interface.
    #[error("Invalid device ID: there is no network interface {0:?}")]
    UnknownNetwork(String),
    /// The disk refuses its new file.
    #[error("cannot change the drive")]
    Block(#[source] BlockError),
    /// A limit needs a timer.
    #[error("cannot set up the timer of a rate limit")]
    Timer(#[source] io::Error),
    /// The device broke on the way.
    #[error("cannot wake the device")]
    Device(#[source] DeviceFault),
}

/// A guest whose vCPUs have been started.
///
/// Field order is drop order: the vCPUs stop before the VM and its memory go.
pub struct Running {
    pub(super) vcpus: Vcpus,
    pub(super) devices: Devices,
    pub(super) paused: bool,
    /// Whether its threads may use io_uring.
    pub(super) rings: bool,
    /// Registered with the VM, which needs it mapped.
    pub(super) vm: Arc<Vm>,
    pub(super) memory: GuestRam,
}

impl Running {
    /// Whether the guest stands still.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Stops the guest's time. A paused guest stays paused.
    pub fn pause(&mut self) -> Result<(), VcpuThreadError> {
        self.vcpus.pause()?;
        self.paused = true;
        Ok(())
    }

    /// Lets the guest go on. A running guest goes on running.
    pub fn resume(&mut self) {
        self.vcpus.resume();
        self.paused = false;
    }

    /// Writes the paused guest into two files. `config` is what it was made of.
    pub fn save(&self, config: VmConfig, state: &Path, memory: &Path) -> Result<(), SnapshotError> {
        if !self.paused {
            return Err(SnapshotError::NotPaused);
        }
        let devices = self.devices.save().ok_or(SnapshotError::SharedFolders)?;
        let msrs = msr_indices(KvmHost::open()?.kvm())?;
        let vcpus = self.vcpus.descriptors().iter();
        let vcpus: Vec<_> = vcpus
            .map(|vcpu| self.vm.vcpu_again(vcpu))
            .collect::<Result<_, _>>()?;
        let states = vcpus.iter().map(|vcpu| VcpuState::save(vcpu, &msrs));
        let mut states = states.collect::<Result<Vec<_>, _>>()?;
        VcpuState::align_counters(&mut states);
        let saved = SavedVm {
            config,
            vcpus: states,
            clock: match vcpus.first() {
                Some(first) => ClockState::save(&self.vm, first)?,
                None => return Err(SnapshotError::NotPaused),
            },
            devices,
        };
        snapshot::memory::write(&self.memory, memory)?;
        saved.write(state).inspect_err(|_| {
            // Nor is one without the other.
            let _ = fs::remove_file(memory);
        })
    }

    /// Writes down which pages of its memory the guest has written so far.
    pub fn note_working_set(&self, path: &Path) -> Result<(), SnapshotError> {
        WorkingSet::of(&self.memory)?.write(path)
    }

    /// Ends the guest's time for good: it does nothing any more, while what it has left behind is cleared up.
    pub fn stop(&self) {
        self.vcpus.stop();
    }

    /// Presses Ctrl+Alt+Del on the guest's keyboard.
    pub fn send_ctrl_alt_del(&self) -> Result<(), I8042Error> {
        lock(&self.devices.i8042).trigger_ctrl_alt_del()
    }

    /// Changes the file or the limits of a drive.
    pub fn update_drive(
        &self,
        update: &DriveUpdate,
        backend: Option<Box<dyn BlockBackend>>,
    ) -> Result<(), UpdateError> {
        self.devices.update_drive(update, backend)
    }

    /// Changes the limits of a network interface.
    pub fn update_network(&self, update: &NetworkInterfaceUpdate) -> Result<(), UpdateError> {
        self.devices.update_network(update)
    }

    /// Writes what the guest's console still has for a slow reader, at most for [`DRAIN`].
    pub fn drain_console(&self) {
        let end = Instant::now().checked_add(DRAIN);
        let left = || end.and_then(|end| end.checked_duration_since(Instant::now()));
        while let Some(left) = left() {
            let mut serial = lock(&self.devices.serial);
            let Some(fd) = serial.sink_fd().filter(|_| serial.output_pending()) else {
                return;
            };
            serial.flush();
            drop(serial);
            let mut asked = libc::pollfd {
                fd,
                events: libc::POLLOUT,
                revents: 0,
            };
            let patience = libc::c_int::try_from(left.as_millis()).unwrap_or(libc::c_int::MAX);
            // SAFETY: one initialised pollfd, as said; the descriptor belongs to the serial port, which is alive.
            unsafe { libc::poll(&raw mut asked, 1, patience) };
        }
    }

    /// The serial console.
    pub fn serial(&self) -> &Arc<Mutex<Serial>> {
        &self.devices.serial
    }

    /// Removes what devices have put into the host's file system.
    pub fn remove_names(&self) {
        self.devices.remove_names();
    }

    /// Takes the counters of every device.
    pub fn report(&self, report: &mut Report) {
        self.devices.report(report);
    }
}
