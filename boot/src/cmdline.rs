//! The kernel command line: what the user wrote, and what the machine adds to it.
//!
//! Linux hands everything behind a lone `--` to init, so additions go in front of it. Of a parameter that
//! comes twice Linux takes the last, so an added `root=` wins over the user's.
//!
//! **Why a virtio-mmio device is named here as well as in ACPI.** A kernel without ACPI, or one told
//! `acpi=off`, has no other way to find it. Kernels that cannot read the parameter
//! (`CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES` unset, as in Debian's) skip it silently. A kernel that reads both finds
//! the ACPI device first and refuses the second one with `-EBUSY`, which costs it two log lines and nothing
//! else. Nothing in a kernel image tells cheaply which of the three it is, so the parameter is always right to add.

use std::fmt::Write;

use crate::{VirtioMmio, layout};

/// Longest root partition id: a GPT's has 36 characters, an MBR's 11.
const PARTUUID_LENGTH: usize = 64;

/// A checked command line of printable ASCII, short enough for the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cmdline {
    kernel: String,
    init: String,
}

/// Which disk holds the root file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root<'a> {
    /// The first disk of the machine, `/dev/vda`.
    FirstDisk,
    /// A partition of the first disk, by its partition id.
    PartUuid(&'a str),
}

/// A command line that a kernel could not take.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CmdlineError {
    /// A byte that is not printable ASCII.
    #[error(
        "byte {byte:#04x} at position {position} of the command line: printable ASCII is allowed, from space to ~"
    )]
    Character {
        /// Offset of the byte, from 0.
        position: usize,
        /// The byte.
        byte: u8,
    },
    /// More than the kernel keeps.
    #[error("the command line is {length} bytes long with its NUL; the kernel takes {limit}")]
    TooLong {
        /// Length with everything added so far and the closing NUL.
        length: usize,
        /// What the kernel takes, the NUL included.
        limit: usize,
    },
    /// A partition id that would be more than one parameter, or none.
    #[error("a partition id is 1 to 64 letters, digits and dashes")]
    PartUuid,
}

impl Cmdline {
    /// Takes the user's boot arguments, with arguments for init behind `--`.
    ///
    /// # Errors
    ///
    /// Anything but printable ASCII, and 2048 bytes or more.
    pub fn new(boot_args: &str) -> Result<Self, CmdlineError> {
        check_characters(boot_args)?;
        let (kernel, init) = split_init(boot_args);
        let (mut line, init) = (Self::default(), init.trim().to_owned());
        line.init = init;
        line.add(kernel.trim())?;
        Ok(line)
    }

    /// Adds one or more parameters, in front of init's arguments.
    ///
    /// # Errors
    ///
    /// Anything but printable ASCII, and a line that becomes too long; the line is then unchanged.
    pub fn add(&mut self, parameters: &str) -> Result<(), CmdlineError> {
        check_characters(parameters)?;
        let separator = if self.kernel.is_empty() || parameters.is_empty() {
            ""
        } else {
            " "
        };
        let added = separator.len().saturating_add(parameters.len());
        let length = self.length_with_nul().saturating_add(added);
        if length > layout::CMDLINE_SIZE {
            let limit = layout::CMDLINE_SIZE;
            return Err(CmdlineError::TooLong { length, limit });
        }
        self.kernel.push_str(separator);
        self.kernel.push_str(parameters);
        Ok(())
    }

    /// Names the root file system: `root=/dev/vda` or `root=PARTUUID=…`, and `ro` or `rw`.
    ///
    /// # Errors
    ///
    /// A partition id that is not one, and a line that becomes too long.
    pub fn add_root(&mut self, root: Root<'_>, read_only: bool) -> Result<(), CmdlineError> {
        let mode = if read_only { "ro" } else { "rw" };
        match root {
            Root::FirstDisk => self.add(&format!("root=/dev/vda {mode}")),
            Root::PartUuid(id) => {
                let valid = id
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
                if id.is_empty() || id.len() > PARTUUID_LENGTH || !valid {
                    return Err(CmdlineError::PartUuid);
                }
                self.add(&format!("root=PARTUUID={id} {mode}"))
            }
        }
    }

    /// Names the virtio-mmio devices for kernels that do not learn of them through ACPI.
    ///
    /// # Errors
    ///
    /// A line that becomes too long; about 36 bytes go for each device.
    pub fn add_virtio_mmio(&mut self, devices: &[VirtioMmio]) -> Result<(), CmdlineError> {
        let mut parameters = String::new();
        for device in devices {
            let separator = if parameters.is_empty() { "" } else { " " };
            let (length, address, gsi) = (device.length, device.address, device.gsi);
            // Writing to a String cannot fail.
            let _ = match length % 1024 {
                0 => write!(
                    parameters,
                    "{separator}virtio_mmio.device={}K@{address:#x}:{gsi}",
                    length / 1024
                ),
                _ => write!(
                    parameters,
                    "{separator}virtio_mmio.device={length}@{address:#x}:{gsi}"
                ),
            };
        }
        self.add(&parameters)
    }

    /// Length in bytes, the closing NUL included.
    pub(crate) fn length_with_nul(&self) -> usize {
        let init = if self.init.is_empty() {
            0
        } else {
            self.init.len().saturating_add(INIT_SEPARATOR.len())
        };
        self.kernel.len().saturating_add(init).saturating_add(1)
    }

    /// The line as the kernel reads it, NUL-terminated.
    pub(crate) fn to_bytes_with_nul(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.length_with_nul());
        bytes.extend_from_slice(self.kernel.as_bytes());
        if !self.init.is_empty() {
            bytes.extend_from_slice(INIT_SEPARATOR.as_bytes());
            bytes.extend_from_slice(self.init.as_bytes());
        }
        bytes.push(0);
        bytes
    }
}

impl Default for Cmdline {
    /// The empty command line.
    fn default() -> Self {
        let (kernel, init) = (String::new(), String::new());
        Self { kernel, init }
    }
}

impl std::fmt::Display for Cmdline {
    /// The line as the guest shows it in `/proc/cmdline`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.kernel)?;
        if self.init.is_empty() {
            return Ok(());
        }
        f.write_str(INIT_SEPARATOR)?;
        f.write_str(&self.init)
    }
}

const INIT_SEPARATOR: &str = " -- ";

fn check_characters(text: &str) -> Result<(), CmdlineError> {
    match text.bytes().position(|byte| !matches!(byte, b' '..=b'~')) {
        Some(position) => {
            let byte = text.as_bytes().get(position).copied().unwrap_or_default();
            Err(CmdlineError::Character { position, byte })
        }
        None => Ok(()),
    }
}

/// Splits at the first word `--` outside double quotes, as the kernel does.
fn split_init(text: &str) -> (&str, &str) {
    let (mut quoted, mut word_start) = (false, 0);
    for (index, byte) in text.bytes().chain([b' ']).enumerate() {
        match byte {
            b'"' => quoted = !quoted,
            b' ' if !quoted => {
                if text.get(word_start..index) == Some("--") {
                    let kernel = text.get(..word_start).unwrap_or_default();
                    return (kernel, text.get(index..).unwrap_or_default());
                }
                word_start = index.saturating_add(1);
            }
            _ => {}
        }
    }
    (text, "")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::arithmetic_side_effects)]
    use super::*;

    #[test]
    fn additions_go_in_front_of_inits_arguments() {
        for (args, expected) in [
            ("console=ttyS0", "console=ttyS0 root=/dev/vda ro"),
            (
                "  quiet  --  single -- x ",
                "quiet root=/dev/vda ro -- single -- x",
            ),
            ("-- emergency", "root=/dev/vda ro -- emergency"),
            ("quiet --", "quiet root=/dev/vda ro"),
            (r#"a="x -- y" b"#, r#"a="x -- y" b root=/dev/vda ro"#),
            ("a--b --c", "a--b --c root=/dev/vda ro"),
            ("", "root=/dev/vda ro"),
        ] {
            let mut line = Cmdline::new(args).unwrap();
            line.add_root(Root::FirstDisk, true).unwrap();
            assert_eq!(line.to_string(), expected);
            let bytes = line.to_bytes_with_nul();
            assert_eq!(bytes, [expected.as_bytes(), b"\0"].concat());
            assert_eq!(bytes.len(), line.length_with_nul());
        }
    }

    #[test]
    fn the_limit_counts_the_nul_and_inits_arguments() {
        assert!(Cmdline::new(&"x".repeat(2047)).is_ok());
        let too_long = |length| CmdlineError::TooLong { length, limit: 2048 };
        assert_eq!(Cmdline::new(&"x".repeat(2048)), Err(too_long(2049)));
        assert_eq!(
            Cmdline::new(&format!("a -- {}", "x".repeat(2043))),
            Err(too_long(2049))
        );

        let mut line = Cmdline::new(&"x".repeat(2030)).unwrap();
        line.add_root(Root::FirstDisk, false).unwrap();
        assert_eq!(line.length_with_nul(), 2048);
        assert_eq!(line.add("y"), Err(too_long(2050)));
        assert_eq!(line.length_with_nul(), 2048, "a refused addition changes nothing");
    }

    #[test]
    fn only_printable_ascii_passes() {
        for (args, position, byte) in [
            ("a\0b", 1, 0),
            ("ab\n", 2, b'\n'),
            ("\u{e9}", 0, 0xc3),
            ("a\tb", 1, 9),
        ] {
            assert_eq!(
                Cmdline::new(args),
                Err(CmdlineError::Character { position, byte })
            );
            let mut line = Cmdline::default();
            assert!(line.add(args).is_err());
        }
    }

    #[test]
    fn a_partition_id_is_one_parameter() {
        let mut line = Cmdline::default();
        for id in ["", "a b", "0eaa91a0-01 init=/bin/sh", &"a".repeat(65)] {
            assert_eq!(
                line.add_root(Root::PartUuid(id), false),
                Err(CmdlineError::PartUuid)
            );
        }
        line.add_root(Root::PartUuid("0eaa91a0-01"), false).unwrap();
        assert_eq!(line.to_string(), "root=PARTUUID=0eaa91a0-01 rw");
    }

    #[test]
    fn devices_are_named_as_linux_parses_them() {
        let device = |index: usize, length| {
            let (address, gsi) = layout::virtio_mmio_slot(index).unwrap();
            VirtioMmio { address, length, gsi }
        };
        let mut line = Cmdline::new("quiet").unwrap();
        line.add_virtio_mmio(&[]).unwrap();
        assert_eq!(line.to_string(), "quiet");
        line.add_virtio_mmio(&[device(0, 4096), device(1, 512)]).unwrap();
        let expected = "quiet virtio_mmio.device=4K@0xc0001000:5 virtio_mmio.device=512@0xc0002000:6";
        assert_eq!(line.to_string(), expected);
    }
}
