//! What whole-system tests and benchmarks share: launching programs of this project and its peers, and watching
//! them with a clock.
//!
//! Tests use the public doors only. They find what they test through the environment, which `tests/run` sets:
//! `KOYA_VMM` (the monitor), `KOYA_TINY` (folder of tiny guests), and on a KVM host that runs real guests
//! `KOYA_KERNEL`, `KOYA_DISK`, `KOYA_DISK_SYSTEMD` and `KOYA_INITRAMFS`.

pub mod bench;
pub mod vm;
