//! Devices that stand still, as data, and back.

use koya_devices::legacy::i8042::I8042State;
use koya_devices::legacy::ioapic::IoApicState;
use koya_devices::legacy::serial::SerialState;
use koya_devices::virtio::VirtioDevice;
use koya_devices::virtio::block::BlockState;
use koya_devices::virtio::mmio::MmioState;
use koya_devices::virtio::net::NetState;
use koya_devices::virtio::rng::RngState;
use koya_devices::virtio::vsock::VsockState;
use koya_devices::{Metered, RestoreError, Snapshot};
use serde::{Deserialize, Serialize};

use super::StartError;
use super::devices::{Devices, Shared, lock};
use super::windows::{Occupant, Windows};

/// The devices of a microVM.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedDevices {
    ioapic: IoApicState,
    serial: SerialState,
    i8042: I8042State,
    /// What is behind each virtio-mmio window, in order.
    windows: Vec<Option<SavedDevice>>,
}

/// A virtio device, by the name under which the API knows it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
enum SavedDevice {
    Drive {
        id: String,
        state: MmioState<BlockState>,
    },
    Network {
        id: String,
        state: MmioState<NetState>,
    },
    Entropy(MmioState<RngState>),
    Vsock(MmioState<VsockState>),
}

impl SavedDevice {
    fn occupant(&self) -> Occupant {
        match self {
            Self::Drive { id, .. } => Occupant::Drive(id.clone()),
            Self::Network { id, .. } => Occupant::Network(id.clone()),
            Self::Entropy(_) => Occupant::Entropy,
            Self::Vsock(_) => Occupant::Vsock,
        }
    }
}

impl SavedDevices {
    /// The windows that the devices come back to.
    pub(super) fn windows(&self) -> Windows {
        let saved = self.windows.iter();
        Windows::saved(saved.map(|device| device.as_ref().map(SavedDevice::occupant)))
    }

    /// Gives `devices` the states that they had. Those that were not there stay as new.
    pub(super) fn restore(&self, devices: &Devices) -> Result<(), StartError> {
        let failed = |name: &str| StartError::device::<RestoreError>(name.to_owned());
        lock(&devices.ioapic)
            .restore(&self.ioapic)
            .map_err(failed("the interrupt controller"))?;
        lock(&devices.serial)
            .restore(&self.serial)
            .map_err(failed("the serial console"))?;
        lock(&devices.i8042)
            .restore(&self.i8042)
            .map_err(failed("the keyboard controller"))?;
        for saved in self.windows.iter().flatten() {
            let restored = match saved {
                SavedDevice::Drive { id, state } => restore(devices.drive(id), state),
                SavedDevice::Network { id, state } => restore(devices.network(id), state),
                SavedDevice::Entropy(state) => restore(devices.entropy.as_ref(), state),
                SavedDevice::Vsock(state) => restore(devices.vsock.as_ref(), state),
            };
            restored.map_err(failed(&saved.occupant().to_string()))?;
        }
        Ok(())
    }
}

fn restore<D>(device: Option<&Shared<D>>, state: &MmioState<D::State>) -> Result<(), RestoreError>
where
    D: VirtioDevice + Metered + Snapshot,
{
    // That every one has come back was checked when the windows were given out.
    device.map_or(Ok(()), |device| lock(device).restore(state))
}

impl Devices {
    /// What they are now; nothing if there is one whose state is another program's. The vCPUs stand still.
    pub fn save(&self) -> Option<SavedDevices> {
        let windows = self.windows.occupants().map(|occupant| match occupant {
            None => Some(None),
            Some(occupant) => self.save_one(occupant).map(Some),
        });
        let windows = windows.collect::<Option<Vec<_>>>()?;
        Some(SavedDevices {
            windows,
            ioapic: lock(&self.ioapic).save(),
            serial: lock(&self.serial).save(),
            i8042: lock(&self.i8042).save(),
        })
    }

    fn save_one(&self, occupant: &Occupant) -> Option<SavedDevice> {
        Some(match occupant {
            Occupant::Drive(id) => SavedDevice::Drive {
                id: id.clone(),
                state: save(self.drive(id)?),
            },
            Occupant::Network(id) => SavedDevice::Network {
                id: id.clone(),
                state: save(self.network(id)?),
            },
            Occupant::SharedFolder(_) => return None,
            Occupant::Entropy => SavedDevice::Entropy(save(self.entropy.as_ref()?)),
            Occupant::Vsock => SavedDevice::Vsock(save(self.vsock.as_ref()?)),
        })
    }
}

fn save<D: VirtioDevice + Snapshot>(device: &Shared<D>) -> MmioState<D::State> {
    let mut device = lock(device);
    device.quiesce();
    device.save()
}
