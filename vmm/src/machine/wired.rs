//! The middle phases: devices on their buses, then the kernel in memory and the vCPUs ready.

use std::sync::{Arc, Mutex};

use koya_api::config::IoEngine;
use koya_boot::{BootSource, Cmdline, CpuStart, Image, Machine, Root, SerialPort, VirtioMmio, layout};
use koya_devices::Bus;
use koya_devices::virtio::VirtioDevice;
use koya_devices::virtio::adaptor::Adaptor;
use koya_devices::virtio::fs::Fs;
use koya_devices::virtio::mmio::{MmioWindow, SpareWindow};
use koya_devices::virtio::rng::Rng;
use kvm_ioctls::VcpuFd;

use super::devices::{Devices, Shared};
use super::legacy::{self, Legacy};
use super::limits::limiter;
use super::plug::{self, Workshop};
use super::saved::SavedDevices;
use super::windows::{Occupant, Windows};
use super::{Frame, Running, StartError};
use crate::boot_timer::BootTimer;
use crate::event_loop::Subscriber;
use crate::kvm::cpuid::{GuestCpuid, Topology};
use crate::kvm::start;
use crate::resources::{OpenBoot, OpenDrive, OpenNetwork, Resources};
use crate::seccomp::{Confinement, Filter};
use crate::snapshot::SavedVm;
use crate::time::LocalTime;
use crate::vcpu::{Buses, Vcpus};

/// A machine with devices, and without a kernel.
pub struct Wired {
    frame: Frame,
    ports: Bus,
    mmio: Bus,
    devices: Devices,
    subscribers: Vec<Subscriber>,
    topology: Topology,
    /// Whether a drive works by io_uring.
    rings: bool,
    boot: Option<OpenBoot>,
    cmdline: Cmdline,
}

/// A machine that only needs to be let go.
pub struct Bootable {
    frame: Frame,
    buses: Buses,
    devices: Devices,
    subscribers: Vec<Subscriber>,
    vcpus: Vec<VcpuFd>,
    rings: bool,
}

impl Frame {
    /// Puts every device of `resources` on its bus, those of `saved` where they were.
    pub fn wire(
        self,
        resources: Resources,
        saved: Option<&SavedDevices>,
        boot_timer: Option<BootTimer>,
    ) -> Result<Wired, StartError> {
        let boot = resources.boot;
        let cmdline = boot.as_ref().map(|boot| boot.cmdline.clone()).unwrap_or_default();
        let machine = &resources.machine;
        let Legacy { ports, serial, i8042 } = legacy::create(&self, resources.serial_output)?;
        let mut wired = Wired {
            ports,
            mmio: Bus::default(),
            devices: Devices {
                windows: saved.map_or_else(Windows::new, SavedDevices::windows),
                spares: Vec::new(),
                ioapic: self.ioapic.clone(),
                drives: Vec::new(),
                networks: Vec::new(),
                shared_folders: Vec::new(),
                entropy: None,
                vsock: None,
                serial,
                i8042,
            },
            subscribers: Vec::new(),
            topology: Topology::new(machine.vcpu_count, machine.smt),
            rings: resources
                .drives
                .iter()
                .any(|drive| drive.config.io_engine == Some(IoEngine::Async)),
            boot,
            cmdline,
            frame: self,
        };
        wired
            .mmio
            .insert(layout::IOAPIC, layout::IOAPIC_LENGTH, wired.frame.ioapic.clone())?;
        if let Some(timer) = boot_timer {
            wired
                .mmio
                .insert(layout::BOOT_TIMER, BootTimer::LENGTH, Arc::new(Mutex::new(timer)))?;
        }
        for drive in resources.drives {
            wired.add_drive(drive)?;
        }
        for network in resources.networks {
            wired.add_network(network)?;
        }
        for folder in resources.shared_folders {
            let id = folder.config.folder_id;
            let fs = Fs::new(&folder.config.tag, folder.program);
            let device = wired.add_virtio(Occupant::SharedFolder(id.clone()), fs)?;
            wired.devices.shared_folders.push((id, device));
        }
        if let Some(entropy) = resources.entropy {
            let limiter = limiter(entropy.rate_limiter).map_err(StartError::device("the entropy device"))?;
            wired.devices.entropy = Some(wired.add_virtio(Occupant::Entropy, Rng::new(limiter))?);
        }
        if let Some(vsock) = resources.vsock {
            wired.devices.vsock = Some(wired.add_virtio(Occupant::Vsock, vsock.device)?);
        }
        if let Some(missing) = wired.devices.windows.missing() {
            let missing = missing.to_string();
            return Err(StartError::device(missing)(
                "the snapshot has it, the configuration has not",
            ));
        }
        if saved.is_none() {
            let spare = usize::from(resources.machine.spare_devices);
            wired.devices.windows.add_spare(spare);
        }
        wired.leave_spare_windows_empty()?;
        Ok(wired)
    }
}

impl Wired {
    fn add_drive(&mut self, drive: OpenDrive) -> Result<(), StartError> {
        let OpenDrive { config, backend } = drive;
        if config.is_root_device {
            let root = config.partuuid.as_deref().map_or(Root::FirstDisk, Root::PartUuid);
            self.cmdline
                .add_root(root, config.is_read_only.unwrap_or(false))?;
        }
        let block = plug::block(&config, backend)?;
        let id = config.drive_id;
        let device = self.add_virtio(Occupant::Drive(id.clone()), block)?;
        self.devices.drives.push((id, device));
        Ok(())
    }

    fn add_network(&mut self, network: OpenNetwork) -> Result<(), StartError> {
        let OpenNetwork { config, tap } = network;
        let net = plug::net(&config, tap)?;
        let id = config.iface_id;
        let device = self.add_virtio(Occupant::Network(id.clone()), net)?;
        self.devices.networks.push((id, device));
        Ok(())
    }

    /// Gives `device` its window and interrupt.
    fn add_virtio<D: VirtioDevice + 'static>(
        &mut self,
        occupant: Occupant,
        device: D,
    ) -> Result<Shared<D>, StartError> {
        let reported = occupant.to_string();
        let Some(window) = self.devices.windows.take(occupant) else {
            return Err(StartError::device(reported)("there is no interrupt left for it"));
        };
        let workshop = Workshop {
            vm: &self.frame.vm,
            memory: &self.frame.memory,
        };
        let transport = workshop.connect(device, reported, window)?;
        let registers = Arc::new(Mutex::new(MmioWindow::new(transport.clone())));
        self.mmio.insert(window.address, window.length, registers)?;
        self.subscribers.push(Box::new(Adaptor::new(transport.clone())));
        Ok(transport)
    }

    /// Gives windows without a device registers that say so. From now on there are no more windows.
    fn leave_spare_windows_empty(&mut self) -> Result<(), StartError> {
        self.devices.windows.close();
        for (window, taken) in self.windows()? {
            if !taken {
                let spare = Arc::new(Mutex::new(SpareWindow::default()));
                self.mmio.insert(window.address, window.length, spare.clone())?;
                self.devices.spares.push((window.address, spare));
            }
        }
        Ok(())
    }

    fn windows(&self) -> Result<Vec<(VirtioMmio, bool)>, StartError> {
        self.devices.windows.all().ok_or(StartError::SpareDevices)
    }

    /// Puts devices and vCPUs into the state of a snapshot. The guest's clock goes on where it was, unless it is to
    /// `catch_up` with the host's.
    pub fn restore(self, saved: &SavedVm, catch_up: bool) -> Result<Bootable, StartError> {
        let vm = &self.frame.vm;
        let mut vcpus = Vec::with_capacity(saved.vcpus.len());
        for (index, state) in (0..self.topology.vcpus).zip(&saved.vcpus) {
            let vcpu = vm.create_vcpu(index)?;
            state.restore(&vcpu)?;
            vcpus.push(vcpu);
        }
        if let Some(first) = vcpus.first() {
            saved.clock.restore(vm, first, catch_up)?;
        }
        saved.devices.restore(&self.devices)?;
        Ok(self.bootable(vcpus))
    }

    /// Loads the kernel and sets the vCPUs up.
    pub fn load(mut self) -> Result<Bootable, StartError> {
        let boot = self.boot.take().ok_or(StartError::NoKernel)?;
        let windows = self.windows()?;
        let devices: Vec<_> = windows
            .iter()
            .filter(|(_, taken)| *taken)
            .map(|(window, _)| *window)
            .collect();
        let windows: Vec<_> = windows.into_iter().map(|(window, _)| window).collect();
        // There is no PCI bus; a kernel that looks for one complains.
        self.cmdline.add("pci=off")?;
        self.cmdline.add_virtio_mmio(&devices)?;
        let machine = Machine {
            vcpus: self.topology.vcpus,
            virtio_mmio: &windows,
            serial: Some(SerialPort::COM1),
            i8042: true,
            ioapic_id: self.topology.vcpus,
        };
        let image = |file, path| Image { file, path };
        let initrd = boot.initrd.as_ref().zip(boot.config.initrd_path.as_deref());
        let source = BootSource {
            kernel: image(&boot.kernel, boot.config.kernel_image_path.as_path()),
            initrd: initrd.map(|(file, path)| image(file, path)),
            cmdline: &self.cmdline,
        };
        let start = koya_boot::load(&self.frame.memory, &machine, &source)?;
        let vcpus = self.create_vcpus(&start)?;
        Ok(self.bootable(vcpus))
    }

    fn bootable(self, vcpus: Vec<VcpuFd>) -> Bootable {
        let buses = Buses {
            ports: self.ports,
            mmio: self.mmio,
            ioapic: self.frame.ioapic.clone(),
        };
        Bootable {
            frame: self.frame,
            buses,
            devices: self.devices,
            subscribers: self.subscribers,
            vcpus,
            rings: self.rings,
        }
    }

    fn create_vcpus(&mut self, start: &CpuStart) -> Result<Vec<VcpuFd>, StartError> {
        let mut cpuid = GuestCpuid::new(self.frame.host.kvm(), self.topology)?;
        let mut vcpus = Vec::with_capacity(usize::from(self.topology.vcpus));
        for index in 0..self.topology.vcpus {
            let vcpu = self.frame.vm.create_vcpu(index)?;
            cpuid.apply(&vcpu, index)?;
            start::prepare(&vcpu)?;
            if index == 0 {
                start::enter_kernel(&vcpu, start)?;
            }
            vcpus.push(vcpu);
        }
        Ok(vcpus)
    }
}

impl Bootable {
    /// Lets the guest go, or stand still where it is if it is to be `paused`. The subscribers are the devices, for the
    /// event loop. From then on this thread, too, is `confined` to the system calls that it needs.
    pub fn start(self, paused: bool, confined: bool) -> Result<(Running, Vec<Subscriber>), StartError> {
        let Frame {
            memory,
            vm,
            gate,
            end,
            ..
        } = self.frame;
        let confinement = confined.then_some(Confinement {
            rings: self.rings,
            plugs: !self.devices.spares.is_empty(),
        });
        if confined {
            // Has the time zone read, which the log will ask for when no file may be opened any more.
            let _ = LocalTime::now();
        }
        match paused {
            true => gate.close(),
            // An attempt that failed may have left it closed.
            false => gate.open(),
        }
        let vcpus = Vcpus::start(self.vcpus, gate, end, Arc::new(self.buses), &memory, confinement)?;
        if let Some(confinement) = confinement {
            Filter::Monitor
                .install(confinement)
                .map_err(StartError::Seccomp)?;
        }
        let running = Running {
            vcpus,
            devices: self.devices,
            paused,
            rings: self.rings || !confined,
            vm,
            memory,
        };
        Ok((running, self.subscribers))
    }
}
