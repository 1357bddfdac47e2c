//! The devices of a running guest, by the ids under which the API knows them.

use std::sync::{Arc, Mutex, PoisonError};

use koya_api::config::{DriveUpdate, NetworkInterfaceUpdate};
use koya_devices::Metered;
use koya_devices::legacy::{I8042, IoApic, Serial};
use koya_devices::virtio::block::{Block, BlockBackend};
use koya_devices::virtio::fs::Fs;
use koya_devices::virtio::mmio::MmioTransport;
use koya_devices::virtio::net::{LimitUpdate, Net, Tap};
use koya_devices::virtio::rng::Rng;
use koya_devices::virtio::vsock::Vsock;

use super::limits::limiter_update;
use super::plug::Spares;
use super::running::UpdateError;
use super::windows::Windows;
use crate::metrics::Report;

/// A virtio device shared between its vCPU-side window and the event loop.
pub(super) type Shared<D> = Arc<Mutex<MmioTransport<D>>>;

/// Everything that a guest can talk to, for those who control it.
pub(super) struct Devices {
    pub drives: Vec<(String, Shared<Block>)>,
    pub networks: Vec<(String, Shared<Net<Tap>>)>,
    pub shared_folders: Vec<(String, Shared<Fs>)>,
    pub entropy: Option<Shared<Rng>>,
    pub vsock: Option<Shared<Vsock>>,
    /// Where the virtio devices are.
    pub windows: Windows,
    /// Those that had none when the guest started.
    pub spares: Spares,
    pub ioapic: Arc<Mutex<IoApic>>,
    pub serial: Arc<Mutex<Serial>>,
    pub i8042: Arc<Mutex<I8042>>,
}

/// The device behind a lock; one that panicked elsewhere is still plain data.
pub(super) fn lock<T: ?Sized>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn find<'a, D>(devices: &'a [(String, Shared<D>)], id: &str) -> Option<&'a Shared<D>> {
    devices
        .iter()
        .find(|(known, _)| known == id)
        .map(|(_, device)| device)
}

impl Devices {
    pub(super) fn drive(&self, id: &str) -> Option<&Shared<Block>> {
        find(&self.drives, id)
    }

    pub(super) fn network(&self, id: &str) -> Option<&Shared<Net<Tap>>> {
        find(&self.networks, id)
    }

    /// Changes the file or the limits of a drive.
    pub fn update_drive(
        &self,
        update: &DriveUpdate,
        backend: Option<Box<dyn BlockBackend>>,
    ) -> Result<(), UpdateError> {
        let id = &update.drive_id;
        let drive = self
            .drive(id)
            .ok_or_else(|| UpdateError::UnknownDrive(id.clone()))?;
        let mut transport = lock(drive);
        if let Some(backend) = backend {
            transport
                .device_mut()
                .replace_backend(backend)
                .map_err(UpdateError::Block)?;
            transport.config_changed();
        }
        if update.rate_limiter.is_some() {
            let (bytes, ops) = limiter_update(update.rate_limiter);
            transport
                .device_mut()
                .update_rate_limiter(bytes, ops)
                .map_err(UpdateError::Timer)?;
        }
        transport.watch_changed();
        Ok(())
    }

    /// Changes the limits of a network interface.
    pub fn update_network(&self, update: &NetworkInterfaceUpdate) -> Result<(), UpdateError> {
        let id = &update.iface_id;
        let network = self
            .network(id)
            .ok_or_else(|| UpdateError::UnknownNetwork(id.clone()))?;
        let mut transport = lock(network);
        let limits = |wanted| {
            let (bytes, ops) = limiter_update(wanted);
            LimitUpdate { bytes, ops }
        };
        let (rx, tx) = (limits(update.rx_rate_limiter), limits(update.tx_rate_limiter));
        transport
            .device_mut()
            .update_limits(rx, tx)
            .map_err(UpdateError::Timer)?;
        transport.watch_changed();
        transport.device().kick().map_err(UpdateError::Device)
    }

    /// Removes what devices have put into the host's file system.
    pub fn remove_names(&self) {
        if let Some(vsock) = &self.vsock {
            lock(vsock).device_mut().remove_name();
        }
    }

    /// Takes the counters of every device.
    pub fn report(&self, report: &mut Report) {
        for (id, drive) in &self.drives {
            report.add_device("block", id, &lock(drive).device_mut().take_metrics());
            report.add_device("mmio", id, &lock(drive).take_metrics());
        }
        for (id, network) in &self.networks {
            report.add_device("net", id, &lock(network).device_mut().take_metrics());
            report.add_device("mmio", id, &lock(network).take_metrics());
        }
        for (id, folder) in &self.shared_folders {
            report.add_device("mmio", id, &lock(folder).take_metrics());
        }
        if let Some(entropy) = &self.entropy {
            report.add("entropy", &lock(entropy).device_mut().take_metrics());
            report.add_device("mmio", "entropy", &lock(entropy).take_metrics());
        }
        if let Some(vsock) = &self.vsock {
            report.add("vsock", &lock(vsock).device_mut().take_metrics());
            report.add_device("mmio", "vsock", &lock(vsock).take_metrics());
        }
        report.add("uart", &lock(&self.serial).take_metrics());
        report.add("i8042", &lock(&self.i8042).take_metrics());
    }
}
