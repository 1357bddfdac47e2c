//! A virtual machine of the host's KVM.

use std::io;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::path::Path;

use koya_boot::layout;
use koya_devices::GuestRam;
use kvm_bindings::{
    KVM_API_VERSION, KVM_CAP_IMMEDIATE_EXIT, KVM_CAP_IOEVENTFD, KVM_CAP_IRQFD, KVM_CAP_SPLIT_IRQCHIP,
    KVM_MEM_LOG_DIRTY_PAGES, kvm_clock_data, kvm_enable_cap, kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};

/// The device file of KVM.
const KVM_DEVICE: &str = "/dev/kvm";

/// What KVM refused, or what this host's KVM lacks.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// No KVM on this host.
    #[error(
        "{KVM_DEVICE} does not exist: this host offers no KVM. Load kvm_amd or kvm_intel, or enable (nested) virtualisation"
    )]
    Missing,
    /// The device may not be opened.
    #[error(
        "no permission to open {KVM_DEVICE}: run as root or as a member of the group that owns it (usually kvm)"
    )]
    Permission,
    /// Opening failed otherwise.
    #[error("cannot open {KVM_DEVICE}")]
    Open(#[source] io::Error),
    /// Not the one stable API version.
    #[error("{KVM_DEVICE} says that its API version is {0}: a microVM needs KVM's version {KVM_API_VERSION}")]
    ApiVersion(i32),
    /// A needed extension is missing.
    #[error("this host's KVM lacks {0}, which a microVM needs")]
    Capability(&'static str),
    /// An ioctl failed.
    #[error("KVM cannot {act}")]
    Ioctl {
        /// What was being done.
        act: &'static str,
        /// Why not.
        source: kvm_ioctls::Error,
    },
    /// A structure of a snapshot that is another one here.
    #[error("the saved `{name}` of a vCPU has a length of {length}, which is not what this host's has")]
    Saved {
        /// Which.
        name: &'static str,
        /// Its length.
        length: usize,
    },
    /// A register of a snapshot that this host's processors do not have, or not with this value.
    #[error(
        "this host does not take the saved value of the model-specific register {index:#x}: was the snapshot made on another kind of processor?"
    )]
    Register {
        /// Which.
        index: u32,
    },
}

impl KvmError {
    /// Names the act of an ioctl, for `map_err`.
    pub(crate) fn ioctl(act: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Self {
        move |source| Self::Ioctl { act, source }
    }
}

/// An open `/dev/kvm`.
pub struct KvmHost {
    kvm: Kvm,
}

impl KvmHost {
    /// Opens KVM and checks that it can host a microVM.
    pub fn open() -> Result<Self, KvmError> {
        let kvm = Kvm::new().map_err(|error| match error.errno() {
            libc::ENOENT | libc::ENODEV | libc::ENXIO => KvmError::Missing,
            libc::EACCES | libc::EPERM => KvmError::Permission,
            errno => KvmError::Open(io::Error::from_raw_os_error(errno)),
        })?;
        let version = kvm.get_api_version();
        if u32::try_from(version) != Ok(KVM_API_VERSION) {
            return Err(KvmError::ApiVersion(version));
        }
        Ok(Self { kvm })
    }

    /// Whether this KVM interprets the guest's kernel mode instead of running it on the processor (page-table
    /// virtual machines). Such a host runs tiny guests, but stops at instructions its interpreter lacks.
    pub fn interprets_kernel_mode() -> bool {
        Path::new("/sys/module/kvm_pvm").exists()
    }

    /// The underlying handle.
    pub fn kvm(&self) -> &Kvm {
        &self.kvm
    }

    /// Creates a virtual machine around `memory`.
    pub fn create_vm(&self, memory: &GuestRam) -> Result<Vm, KvmError> {
        let fd = self.create_vm_fd()?;
        let vm = Vm { fd };
        vm.map_memory(memory)?;
        vm.split_irqchip()?;
        Ok(vm)
    }

    /// A signal may interrupt the creation of a VM; it is then simply tried again.
    fn create_vm_fd(&self) -> Result<VmFd, KvmError> {
        loop {
            match self.kvm.create_vm() {
                Err(error) if error.errno() == libc::EINTR => {}
                result => return result.map_err(KvmError::ioctl("create a virtual machine")),
            }
        }
    }
}

/// A virtual machine: memory, local APICs, vCPUs.
pub struct Vm {
    fd: VmFd,
}

impl Vm {
    /// The VM's file descriptor.
    pub fn fd(&self) -> &VmFd {
        &self.fd
    }

    /// Registers guest memory. Must come before [`split_irqchip`](Self::split_irqchip): afterwards each slot
    /// costs a grace period of 7 ms instead of 0.05 ms.
    fn map_memory(&self, memory: &GuestRam) -> Result<(), KvmError> {
        for (slot, region) in (0_u32..).zip(memory.iter()) {
            let host = region
                .get_host_address(vm_memory::MemoryRegionAddress(0))
                .map_err(|_| KvmError::Ioctl {
                    act: "find the host address of guest memory",
                    source: kvm_ioctls::Error::new(libc::EFAULT),
                })?;
            let tracked = region.bitmap().is_some();
            let region = kvm_userspace_memory_region {
                slot,
                flags: if tracked { KVM_MEM_LOG_DIRTY_PAGES } else { 0 },
                guest_phys_addr: region.start_addr().raw_value(),
                memory_size: region.len(),
                userspace_addr: host as u64,
            };
            // SAFETY: the region is mapped for as long as `memory` lives, and the caller keeps a clone of it beside
            // the VM for the VM's whole life.
            unsafe { self.fd.set_user_memory_region(region) }
                .map_err(KvmError::ioctl("register guest memory"))?;
        }
        Ok(())
    }

    /// Local APICs in the kernel, IOAPIC in user space, no PIC and no PIT.
    fn split_irqchip(&self) -> Result<(), KvmError> {
        for (cap, name) in [
            (
                KVM_CAP_SPLIT_IRQCHIP,
                "a split interrupt controller (KVM_CAP_SPLIT_IRQCHIP)",
            ),
            (KVM_CAP_IRQFD, "interrupts by event descriptor (KVM_CAP_IRQFD)"),
            (
                KVM_CAP_IOEVENTFD,
                "doorbells by event descriptor (KVM_CAP_IOEVENTFD)",
            ),
            (KVM_CAP_IMMEDIATE_EXIT, "immediate exit (KVM_CAP_IMMEDIATE_EXIT)"),
        ] {
            if self.fd.check_extension_raw(u64::from(cap)) <= 0 {
                return Err(KvmError::Capability(name));
            }
        }
        // Intel processors without unrestricted guest mode need three pages for a task segment below 4 GiB.
        self.fd
            .set_tss_address(usize::try_from(layout::KVM_TSS).unwrap_or(usize::MAX))
            .map_err(KvmError::ioctl("set the address of the task segment"))?;
        let mut cap = kvm_enable_cap {
            cap: KVM_CAP_SPLIT_IRQCHIP,
            ..Default::default()
        };
        let [pins, ..] = &mut cap.args;
        *pins = koya_devices::legacy::ioapic::PINS as u64;
        self.fd
            .enable_cap(&cap)
            .map_err(KvmError::ioctl("split the interrupt controller"))
    }

    /// The guest's clock (kvmclock) in nanoseconds. Goes on while the guest stands still.
    pub fn clock(&self) -> Result<u64, KvmError> {
        let clock = self.fd.get_clock();
        Ok(clock.map_err(KvmError::ioctl("read the guest's clock"))?.clock)
    }

    /// Has the guest's clock go on from `nanoseconds`.
    pub fn set_clock(&self, nanoseconds: u64) -> Result<(), KvmError> {
        let clock = kvm_clock_data {
            clock: nanoseconds,
            ..Default::default()
        };
        self.fd
            .set_clock(&clock)
            .map_err(KvmError::ioctl("set the guest's clock"))
    }

    /// A vCPU that exists, by its descriptor.
    pub fn vcpu_again(&self, descriptor: &OwnedFd) -> Result<VcpuFd, KvmError> {
        let act = "read the state of a vCPU";
        let failed = |errno: Option<i32>| kvm_ioctls::Error::new(errno.unwrap_or(libc::EIO));
        let own = descriptor
            .try_clone()
            .map_err(|error| KvmError::ioctl(act)(failed(error.raw_os_error())))?;
        // SAFETY: the descriptor is a vCPU's of this VM, and nobody else owns the duplicate.
        let vcpu = unsafe { self.fd.create_vcpu_from_rawfd(own.into_raw_fd()) };
        vcpu.map_err(KvmError::ioctl(act))
    }

    /// Creates vCPU `index`, whose APIC id is the same number.
    pub fn create_vcpu(&self, index: u8) -> Result<VcpuFd, KvmError> {
        self.fd
            .create_vcpu(u64::from(index))
            .map_err(KvmError::ioctl("create a vCPU"))
    }
}
