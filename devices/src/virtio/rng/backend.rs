//! Where random bytes come from.

use std::io;

/// Fills buffers with random bytes.
pub trait RandomSource: Send {
    /// Fills `buffer` entirely, without waiting.
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<()>;
}

/// The host kernel's generator, getrandom(2).
#[derive(Debug, Default, Clone, Copy)]
pub struct HostRandom;

impl RandomSource for HostRandom {
    fn fill(&mut self, mut buffer: &mut [u8]) -> io::Result<()> {
        while !buffer.is_empty() {
            // SAFETY: the pointer and the length are those of a writable buffer.
            let filled =
                unsafe { libc::getrandom(buffer.as_mut_ptr().cast(), buffer.len(), libc::GRND_NONBLOCK) };
            match usize::try_from(filled) {
                Ok(filled) => buffer = buffer.get_mut(filled..).unwrap_or_default(),
                Err(_) => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        }
        Ok(())
    }
}
