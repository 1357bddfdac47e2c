//! Virtio devices and their windows: those that are there when the guest starts, and those that come while it runs.

use std::sync::{Arc, Mutex};

use koya_api::config::{CacheType, Drive, IoEngine, NetworkInterface};
use koya_boot::VirtioMmio;
use koya_devices::GuestRam;
use koya_devices::virtio::VirtioDevice;
use koya_devices::virtio::adaptor::Adaptor;
use koya_devices::virtio::block::{Block, BlockBackend, BlockConfig, CacheMode};
use koya_devices::virtio::mmio::registers::QUEUE_NOTIFY;
use koya_devices::virtio::mmio::{MmioTransport, MmioWindow, SpareWindow};
use koya_devices::virtio::net::{MacAddress, Net, NetConfig, Tap};

use super::devices::{Devices, Shared, lock};
use super::limits::limiter;
use super::windows::Occupant;
use super::{Running, StartError};
use crate::event_loop::Subscriber;
use crate::kvm::Vm;
use crate::kvm::doorbell::IoeventfdDoorbells;
use crate::kvm::interrupt::IrqfdLine;
use crate::resources::{OpenDrive, OpenNetwork};

/// The device of a drive.
pub(super) fn block(config: &Drive, backend: Box<dyn BlockBackend>) -> Result<Block, StartError> {
    let name = format!("drive {:?}", config.drive_id);
    let block = BlockConfig {
        id: config.drive_id.clone(),
        cache: match config.cache_type {
            CacheType::Unsafe => CacheMode::Unsafe,
            CacheType::Writeback => CacheMode::Writeback,
        },
        rate_limiter: limiter(config.rate_limiter).map_err(StartError::device(&name))?,
    };
    Block::new(block, backend).map_err(StartError::device(name))
}

/// The device of a network interface.
pub(super) fn net(config: &NetworkInterface, tap: Tap) -> Result<Net<Tap>, StartError> {
    let name = format!("network interface {:?}", config.iface_id);
    let net = NetConfig {
        id: config.iface_id.clone(),
        mac: config.guest_mac.map(|mac| MacAddress::from(mac.bytes())),
        mtu: config.mtu,
        rx_limiter: limiter(config.rx_rate_limiter).map_err(StartError::device(&name))?,
        tx_limiter: limiter(config.tx_rate_limiter).map_err(StartError::device(&name))?,
    };
    Net::new(net, tap).map_err(StartError::device(name))
}

/// What devices are made with.
pub(super) struct Workshop<'a> {
    pub vm: &'a Arc<Vm>,
    pub memory: &'a GuestRam,
}

impl Workshop<'_> {
    /// Gives `device` the interrupt and the doorbells of a window. Its faults are reported under `name`.
    pub fn connect<D: VirtioDevice + 'static>(
        &self,
        device: D,
        name: String,
        window: VirtioMmio,
    ) -> Result<Shared<D>, StartError> {
        let line = Arc::new(IrqfdLine::new(self.vm, window.gsi)?);
        let notify = window.address.saturating_add(QUEUE_NOTIFY);
        let doorbells = Box::new(IoeventfdDoorbells::new(self.vm.clone(), notify));
        let mut transport =
            MmioTransport::new(device, self.memory.clone(), line, doorbells).map_err(StartError::Event)?;
        transport.on_fault(Box::new(move |fault| {
            log::warn!("{name}: {}", koya_api::one_line(fault))
        }));
        Ok(Arc::new(Mutex::new(transport)))
    }
}

/// A device cannot join a guest that runs.
#[derive(Debug, thiserror::Error)]
pub enum PlugError {
    /// It is there.
    #[error("{0} is there already; PATCH changes it")]
    Known(String),
    /// A guest finds its root drive when it boots.
    #[error("a guest that runs has its root drive already: `is_root_device` must be false")]
    Root,
    /// The filters of system calls are the start's.
    #[error("an `Async` drive can join only a microVM that was started with one: `io_engine` must be `Sync`")]
    Rings,
    /// Every window has a device.
    #[error(
        "there is no window left for it: a microVM has as many as `spare_devices` of its `machine-config` said, and keeps \
         what has joined it"
    )]
    Full,
    /// The device.
    #[error(transparent)]
    Device(#[from] StartError),
}

impl Running {
    /// Whether it was made for devices that come later.
    pub fn takes_devices(&self) -> bool {
        !self.devices.spares.is_empty()
    }

    /// How many still may.
    pub fn spare_devices(&self) -> u8 {
        u8::try_from(self.devices.windows.spare()).unwrap_or(u8::MAX)
    }

    /// Whether a drive with these settings may join.
    pub fn check_drive(&self, drive: &Drive) -> Result<(), PlugError> {
        if self.devices.drive(&drive.drive_id).is_some() {
            return Err(PlugError::Known(
                Occupant::Drive(drive.drive_id.clone()).to_string(),
            ));
        }
        if drive.is_root_device {
            return Err(PlugError::Root);
        }
        if drive.io_engine == Some(IoEngine::Async) && !self.rings {
            return Err(PlugError::Rings);
        }
        self.check_room()
    }

    /// Puts a drive into a window that has been empty so far. The guest has to look again.
    pub fn add_drive(&mut self, drive: OpenDrive) -> Result<Subscriber, PlugError> {
        let OpenDrive { config, backend } = drive;
        let device = block(&config, backend)?;
        let id = config.drive_id;
        let (device, subscriber) = self.plug(Occupant::Drive(id.clone()), device)?;
        self.devices.drives.push((id, device));
        Ok(subscriber)
    }

    /// Whether a network interface with these settings may join.
    pub fn check_network(&self, interface: &NetworkInterface) -> Result<(), PlugError> {
        let id = &interface.iface_id;
        if self.devices.network(id).is_some() {
            return Err(PlugError::Known(Occupant::Network(id.clone()).to_string()));
        }
        self.check_room()
    }

    /// Puts a network interface into a window that has been empty so far. The guest has to look again.
    pub fn add_network(&mut self, network: OpenNetwork) -> Result<Subscriber, PlugError> {
        let OpenNetwork { config, tap } = network;
        let device = net(&config, tap)?;
        let id = config.iface_id;
        let (device, subscriber) = self.plug(Occupant::Network(id.clone()), device)?;
        self.devices.networks.push((id, device));
        Ok(subscriber)
    }

    fn check_room(&self) -> Result<(), PlugError> {
        match self.devices.windows.spare() {
            0 => Err(PlugError::Full),
            _ => Ok(()),
        }
    }

    fn plug<D: VirtioDevice + 'static>(
        &mut self,
        occupant: Occupant,
        device: D,
    ) -> Result<(Shared<D>, Subscriber), PlugError> {
        let window = self
            .devices
            .windows
            .take(occupant.clone())
            .ok_or(PlugError::Full)?;
        let workshop = Workshop {
            vm: &self.vm,
            memory: &self.memory,
        };
        let connected = workshop.connect(device, occupant.to_string(), window);
        let device = connected.inspect_err(|_| self.devices.windows.leave(&occupant))?;
        self.devices.fill(window, MmioWindow::new(device.clone()));
        Ok((device.clone(), Box::new(Adaptor::new(device))))
    }
}

impl Devices {
    /// Puts a device's registers into a window of the bus that was spare at the start.
    fn fill<D: VirtioDevice + 'static>(&self, window: VirtioMmio, registers: MmioWindow<D>) {
        let spare = self.spares.iter().find(|(address, _)| *address == window.address);
        if let Some((_, spare)) = spare {
            lock(spare).plug(registers);
        }
    }
}

/// Windows without a device, by their addresses.
pub(super) type Spares = Vec<(u64, Arc<Mutex<SpareWindow>>)>;
