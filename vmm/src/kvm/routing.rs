//! Interrupt routes: which MSI an edge on a line becomes.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use koya_devices::legacy::ioapic::{MsiMessage, MsiRouter, PINS};
use kvm_bindings::{KVM_IRQ_ROUTING_MSI, KvmIrqRouting, kvm_irq_routing_entry, kvm_irq_routing_msi};

use super::vm::Vm;

/// The VM's routing table: one possible MSI for each pin of the IOAPIC.
///
/// KVM takes the table as a whole, and each change waits for a grace period; the IOAPIC therefore calls only when
/// the effective message of a pin changes.
pub struct RoutingTable {
    vm: Arc<Vm>,
    routes: Mutex<[Option<MsiMessage>; PINS]>,
}

impl RoutingTable {
    /// An empty table: no interrupt reaches the guest.
    pub fn new(vm: Arc<Vm>) -> Self {
        Self {
            vm,
            routes: Mutex::new([None; PINS]),
        }
    }
}

impl MsiRouter for RoutingTable {
    fn route(&self, pin: u32, message: Option<MsiMessage>) -> io::Result<()> {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(route) = usize::try_from(pin).ok().and_then(|pin| routes.get_mut(pin)) else {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        };
        *route = message;
        let entries: Vec<_> = (0_u32..)
            .zip(routes.iter())
            .filter_map(|(gsi, message)| message.map(|message| routing_entry(gsi, message)))
            .collect();
        let table =
            KvmIrqRouting::from_entries(&entries).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
        Ok(self.vm.fd().set_gsi_routing(&table)?)
    }
}

fn routing_entry(gsi: u32, message: MsiMessage) -> kvm_irq_routing_entry {
    let [low, high] = [message.address & u64::from(u32::MAX), message.address >> 32];
    let mut entry = kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_MSI,
        ..Default::default()
    };
    entry.u.msi = kvm_irq_routing_msi {
        address_lo: u32::try_from(low).unwrap_or(0),
        address_hi: u32::try_from(high).unwrap_or(0),
        data: message.data,
        ..Default::default()
    };
    entry
}
