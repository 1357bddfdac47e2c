//! One entry of the redirection table (82093AA §3.2.4), and the message it makes of an interrupt.

use crate::virtio::mmio::registers::{half, set_half};

const VECTOR_MASK: u64 = 0xff;
const DELIVERY_MODE_SHIFT: u32 = 8;
const LOGICAL_DESTINATION: u64 = 1 << 11;
const DELIVERY_STATUS: u64 = 1 << 12;
const REMOTE_IRR: u64 = 1 << 14;
const LEVEL_TRIGGERED: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;
const DESTINATION_SHIFT: u32 = 56;
/// Bits that the guest cannot write.
const READ_ONLY: u64 = DELIVERY_STATUS | REMOTE_IRR;
/// Bits that do not exist: 17 to 55.
const RESERVED: u64 = 0x00ff_ffff_fffe_0000;

/// Where messages to local APICs go (Intel SDM volume 3, "Message Address Register Format").
const MESSAGE_BASE: u64 = 0xfee0_0000;
const MESSAGE_DESTINATION_SHIFT: u32 = 12;
const MESSAGE_LOGICAL: u64 = 1 << 2;
/// In the data of a level-triggered message: the line was asserted.
const MESSAGE_ASSERT: u32 = 1 << 14;
const MESSAGE_LEVEL: u32 = 1 << 15;

/// Delivery modes that a message can have: fixed, lowest priority, SMI, NMI, INIT. The others are reserved, or
/// (ExtINT) mean the PIC, which does not exist.
const DELIVERABLE: [u64; 5] = [0, 1, 2, 4, 5];
/// Fixed and lowest priority interrupts need a vector from 16 on.
const FIRST_VECTOR: u64 = 16;

/// A message-signalled interrupt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MsiMessage {
    /// Where it is written: destination and how to read it.
    pub address: u64,
    /// What is written: vector, delivery mode, trigger mode.
    pub data: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RedirectionEntry(u64);

impl Default for RedirectionEntry {
    fn default() -> Self {
        Self(MASKED)
    }
}

impl RedirectionEntry {
    pub(super) fn restore(bits: u64) -> Self {
        Self(bits & !RESERVED & !DELIVERY_STATUS)
    }

    pub(super) fn bits(self) -> u64 {
        self.0
    }

    pub(super) fn half(self, high: bool) -> u32 {
        half(self.0, high.into())
    }

    pub(super) fn set_half(&mut self, high: bool, value: u32) {
        let read_only = self.0 & READ_ONLY;
        set_half(&mut self.0, high, value);
        self.0 = (self.0 & !READ_ONLY & !RESERVED) | read_only;
        // Remote IRR means nothing for an edge. Linux switches to edge and back to clear it.
        if self.0 & LEVEL_TRIGGERED == 0 {
            self.0 &= !REMOTE_IRR;
        }
    }

    pub(super) fn set_remote_irr(&mut self) {
        if self.0 & LEVEL_TRIGGERED != 0 && self.0 & MASKED == 0 {
            self.0 |= REMOTE_IRR;
        }
    }

    /// Returns whether the entry is the level-triggered one that used `vector`.
    pub(super) fn end_of_interrupt(&mut self, vector: u8) -> bool {
        let matches = self.0 & LEVEL_TRIGGERED != 0 && self.0 & VECTOR_MASK == u64::from(vector);
        if matches {
            self.0 &= !REMOTE_IRR;
        }
        matches
    }

    /// What an interrupt on this pin becomes, if anything.
    pub(super) fn message(&self) -> Option<MsiMessage> {
        let vector = self.0 & VECTOR_MASK;
        let mode = (self.0 >> DELIVERY_MODE_SHIFT) & 7;
        let needs_vector = mode <= 1;
        if self.0 & MASKED != 0 || !DELIVERABLE.contains(&mode) || (needs_vector && vector < FIRST_VECTOR) {
            return None;
        }
        let logical = if self.0 & LOGICAL_DESTINATION != 0 {
            MESSAGE_LOGICAL
        } else {
            0
        };
        let level = if self.0 & LEVEL_TRIGGERED != 0 {
            MESSAGE_LEVEL | MESSAGE_ASSERT
        } else {
            0
        };
        let destination = self.0 >> DESTINATION_SHIFT;
        Some(MsiMessage {
            address: MESSAGE_BASE | (destination << MESSAGE_DESTINATION_SHIFT) | logical,
            data: u32::try_from(vector | (mode << DELIVERY_MODE_SHIFT)).unwrap_or(0) | level,
        })
    }
}
