//! From reset to DRIVER_OK and back (virtio 1.2 §2.1, §3.1 and §4.2.3).

use std::sync::Arc;

use super::registers::{Registers, status};
use super::{F_EVENT_IDX, F_VERSION_1, MmioTransport, TransportError};
use crate::virtio::device::{Activation, DeviceFault, VirtioDevice};
use crate::virtio::queue::{ActiveQueue, QueuePosition};

/// The steps of initialisation: each needs the ones before it.
const STEPS: [u32; 4] = [
    status::ACKNOWLEDGE,
    status::DRIVER,
    status::FEATURES_OK,
    status::DRIVER_OK,
];

impl<D: VirtioDevice> MmioTransport<D> {
    /// Takes a write to the Status register; returns whether it made sense.
    ///
    /// A driver may take several steps with one write, but skip none, and take none back except by a reset.
    pub(super) fn write_status(&mut self, value: u32) -> bool {
        if value == 0 {
            self.reset();
            return true;
        }
        // DEVICE_NEEDS_RESET is the device's: the driver writes back what it read.
        let value = value & !status::NEEDS_RESET;
        let current = self.registers.status & !status::NEEDS_RESET;
        let added = value & !current;
        if current & !value != 0 || added & !(status::ALL_STEPS | status::FAILED) != 0 {
            return false;
        }
        if added & status::FAILED != 0 {
            self.stop();
            self.registers.status |= status::FAILED;
            return true;
        }
        let stuck = self.registers.status & (status::FAILED | status::NEEDS_RESET) != 0;
        if stuck && added != 0 {
            return false;
        }
        self.take_steps(added)
    }

    fn take_steps(&mut self, added: u32) -> bool {
        let mut required = 0;
        for step in STEPS {
            if added & step != 0 {
                let refused = step == status::FEATURES_OK && !self.features_acceptable();
                if !self.registers.status_is(required, 0) || refused {
                    return false;
                }
                self.registers.status |= step;
                if step == status::DRIVER_OK {
                    self.driver_ok();
                }
            }
            required |= step;
        }
        true
    }

    /// Only what was offered, and nothing but a modern driver (virtio 1.2 §2.2 and §6.1).
    fn features_acceptable(&self) -> bool {
        let chosen = self.registers.driver_features;
        chosen & !self.features() == 0 && chosen & F_VERSION_1 != 0
    }

    fn driver_ok(&mut self) {
        let fresh = vec![QueuePosition::default(); self.registers.queues.len()];
        if let Err(error) = self.start(&fresh) {
            self.metrics.activate_fails = self.metrics.activate_fails.saturating_add(1);
            self.needs_reset();
            self.report(&error);
        } else if std::mem::take(&mut self.config_news) {
            // A driver may have read the configuration before it said DRIVER_OK.
            self.interrupt_config();
        }
    }

    /// Gives the device its queues, standing at `positions`, and connects the doorbells.
    pub(super) fn start(&mut self, positions: &[QueuePosition]) -> Result<(), TransportError> {
        let activation = self.activation(positions)?;
        self.device
            .activate(activation)
            .map_err(TransportError::Activate)?;
        self.active = true;
        self.attach();
        if !self.device.backend_events().is_empty() {
            self.watch_changed();
        }
        Ok(())
    }

    fn activation(&self, positions: &[QueuePosition]) -> Result<Activation, TransportError> {
        let features = self.registers.driver_features;
        let event_index = features & F_EVENT_IDX != 0;
        let sizes = self.device.queue_max_sizes();
        let parts = self
            .registers
            .queues
            .iter()
            .zip(sizes)
            .zip(positions)
            .zip(&self.events)
            .enumerate();
        let queues = parts
            .map(|(index, (((registers, max_size), position), event))| {
                let queue = registers
                    .build(*max_size, *position, event_index, &self.memory)
                    .ok_or(TransportError::QueueInvalid(index))?;
                let interrupt = self.interrupt.clone();
                ActiveQueue::new(queue, self.memory.clone(), interrupt, Arc::clone(event))
                    .map_err(|_| TransportError::QueueInvalid(index))
            })
            .collect::<Result<_, _>>()?;
        Ok(Activation {
            memory: self.memory.clone(),
            queues,
            features,
        })
    }

    fn attach(&mut self) {
        let enabled = self.registers.queues.iter().zip(&self.events).zip(0_u16..);
        let mut errors = Vec::new();
        for ((_, event), queue) in enabled.filter(|((registers, _), _)| registers.ready) {
            match self.doorbells.attach(queue, event) {
                Ok(()) => self.attached.push(queue),
                Err(source) => errors.push(TransportError::Doorbell { queue, source }),
            }
        }
        for error in &errors {
            self.report(error);
        }
    }

    fn detach(&mut self) {
        for queue in std::mem::take(&mut self.attached) {
            if let Some(event) = self.events.get(usize::from(queue))
                && let Err(source) = self.doorbells.detach(queue, event)
            {
                self.report(&TransportError::Doorbell { queue, source });
            }
        }
    }

    /// Takes the queues away from the device. The registers stay.
    fn stop(&mut self) {
        if !self.active {
            return;
        }
        self.active = false;
        let watched = !self.device.backend_events().is_empty();
        self.device.reset();
        self.detach();
        if watched {
            self.watch_changed();
        }
    }

    pub(super) fn reset(&mut self) {
        self.stop();
        let generation = self.registers.config_generation;
        self.registers = Registers::new(self.device.queue_max_sizes());
        // A driver that reads the configuration across a reset must not be fooled (virtio 1.2 §2.5.1).
        self.registers.config_generation = generation;
        self.interrupt.reset();
        self.config_news = false;
    }

    /// Finishes what the device has in flight, before [`save`](crate::Snapshot::save).
    pub fn quiesce(&mut self) {
        if self.active
            && let Err(fault) = self.device.quiesce()
        {
            self.fail(fault);
        }
    }

    /// The device cannot go on.
    pub(super) fn fail(&mut self, fault: DeviceFault) {
        self.metrics.event_fails = self.metrics.event_fails.saturating_add(1);
        self.needs_reset();
        self.report(&TransportError::Device(fault));
    }

    fn needs_reset(&mut self) {
        self.stop();
        self.registers.status |= status::NEEDS_RESET;
        self.interrupt_config();
    }

    pub(super) fn interrupt_config(&mut self) {
        if let Err(source) = self.interrupt.config_changed() {
            self.report(&TransportError::Interrupt(source));
        }
    }
}
