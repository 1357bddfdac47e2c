//! The first phase: memory, a VM around it, and the guest's interrupt controller.

use std::sync::{Arc, Mutex};

use koya_devices::legacy::IoApic;
use koya_devices::{GuestRam, InterruptLine};

use super::StartError;
use crate::ending::EndLine;
use crate::kvm::interrupt::IrqfdLine;
use crate::kvm::routing::RoutingTable;
use crate::kvm::{KvmHost, Vm};
use crate::memory::{self, MemoryPlan};
use crate::resources::Resources;
use crate::snapshot::SavedMemory;
use crate::vcpu::Gate;

/// A machine without devices.
pub struct Frame {
    pub(super) memory: GuestRam,
    pub(super) vm: Arc<Vm>,
    pub(super) host: KvmHost,
    pub(super) ioapic: Arc<Mutex<IoApic>>,
    pub(super) gate: Arc<Gate>,
    pub(super) end: Arc<EndLine>,
}

impl Frame {
    /// Maps memory, with the contents of `saved` if there are any, and creates the VM.
    pub fn new(
        resources: &Resources,
        saved: Option<SavedMemory>,
        gate: Arc<Gate>,
        end: Arc<EndLine>,
    ) -> Result<Self, StartError> {
        let machine = &resources.machine;
        let host = KvmHost::open()?;
        let plan = MemoryPlan {
            mib: machine.mem_size_mib,
            huge_pages: machine.huge_pages,
            track_dirty_pages: machine.track_dirty_pages,
            // Those who serve a shared folder work on the guest's memory themselves.
            shared: !resources.shared_folders.is_empty(),
        };
        let memory = match saved {
            Some(saved) => {
                let memory = memory::map_saved(plan, saved.file)?;
                if let Some(set) = saved.working_set {
                    set.populate(&memory);
                }
                memory
            }
            None => memory::map(plan)?,
        };
        let vm = Arc::new(host.create_vm(&memory)?);
        let ioapic = Arc::new(Mutex::new(IoApic::new(Box::new(RoutingTable::new(vm.clone())))));
        Ok(Self {
            memory,
            vm,
            host,
            ioapic,
            gate,
            end,
        })
    }

    /// A new interrupt line to pin `gsi`.
    pub(super) fn line(&self, gsi: u32) -> Result<Arc<dyn InterruptLine>, StartError> {
        Ok(Arc::new(IrqfdLine::new(&self.vm, gsi)?))
    }
}
