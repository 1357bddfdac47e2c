//! The keyboard behind the controller: answers commands, and can type one chord.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::state::RestoreError;

/// Bytes that a keyboard keeps until they are fetched, as in IBM's.
const BUFFER: usize = 16;

const ACK: u8 = 0xfa;
const NAME: &str = "keyboard";

/// Press Ctrl, Alt and Del, then let go of them in reverse order. Scan code set 2, a keyboard's own.
const CTRL_ALT_DEL: [u8; 11] = [0x14, 0x11, 0xe0, 0x71, 0xe0, 0xf0, 0x71, 0xf0, 0x11, 0xf0, 0x14];
/// The same in scan code set 1, into which a controller can translate.
const CTRL_ALT_DEL_TRANSLATED: [u8; 8] = [0x1d, 0x38, 0xe0, 0x53, 0xe0, 0xd3, 0xb8, 0x9d];

#[derive(Debug, Default)]
pub(super) struct Keyboard {
    buffer: VecDeque<u8>,
    /// A command whose parameter is still to come.
    command: Option<u8>,
}

/// A saved keyboard.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyboardState {
    /// Bytes not yet fetched, at most 16.
    pub buffer: Vec<u8>,
    /// A command whose parameter is still to come.
    pub command: Option<u8>,
}

impl Keyboard {
    pub(super) fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    pub(super) fn pop(&mut self) -> u8 {
        self.buffer.pop_front().unwrap_or(0)
    }

    /// Buffers all of `bytes` or, when they do not fit, none.
    pub(super) fn push(&mut self, bytes: &[u8]) -> bool {
        let fits = self.buffer.len().saturating_add(bytes.len()) <= BUFFER;
        if fits {
            self.buffer.extend(bytes);
        }
        fits
    }

    pub(super) fn type_ctrl_alt_del(&mut self, translated: bool) -> bool {
        self.push(if translated {
            &CTRL_ALT_DEL_TRANSLATED
        } else {
            &CTRL_ALT_DEL
        })
    }

    /// Takes a byte that the guest sends to the keyboard.
    ///
    /// An answer that does not fit is lost; a guest that reads answers never sees that.
    pub(super) fn command(&mut self, value: u8) {
        if let Some(command) = self.command.take() {
            // "Select scan code set" with 0 asks which one it is.
            let asks = command == 0xf0 && value == 0;
            self.push(if asks { &[ACK, 2] } else { &[ACK] });
            return;
        }
        let answer: &[u8] = match value {
            // Lamps, scan code set, repeat rate: a parameter follows.
            0xed | 0xf0 | 0xf3 => {
                self.command = Some(value);
                &[ACK]
            }
            // Echo.
            0xee => &[0xee],
            // Identify: an MF2 keyboard.
            0xf2 => &[ACK, 0xab, 0x83],
            // Reset, and the result of the self test.
            0xff => {
                self.buffer.clear();
                &[ACK, 0xaa]
            }
            _ => &[ACK],
        };
        self.push(answer);
    }

    pub(super) fn save(&self) -> KeyboardState {
        KeyboardState {
            buffer: self.buffer.iter().copied().collect(),
            command: self.command,
        }
    }

    pub(super) fn restore(state: &KeyboardState) -> Result<Self, RestoreError> {
        RestoreError::check(
            state.buffer.len() <= BUFFER,
            NAME,
            "buffer",
            "at most 16 bytes long",
        )?;
        Ok(Self {
            buffer: state.buffer.iter().copied().collect(),
            command: state.command,
        })
    }
}
