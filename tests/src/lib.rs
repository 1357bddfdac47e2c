//! What whole-system tests and benchmarks share: launching programs of this project and its peers, and watching
//! them with a clock.
//!
//! Tests use the public doors only. They find what they test through the environment, which `tests/run` sets:
//!
//! | variable | what it names | whose tests need it |
//! |---|---|---|
//! | `KOYA_VMM` | the monitor | all |
//! | `KOYA_TINY` | folder of tiny guests | tiny |
//! | `KOYA_KERNEL` | our kernel; its bzImage is beside it | linux |
//! | `KOYA_INITRAMFS` | initial RAM disk for it | linux |
//! | `KOYA_DISK`, `KOYA_DISK_SYSTEMD` | Debian's root disks; copied, never written | linux |
//! | `KOYA_STOCK_CLOUD`, `KOYA_STOCK_612` | Debian's own kernels, cloud 6.1 and generic 6.12 | linux |
//! | `KOYA_STOCK_CLOUD_INITRAMFS`, `KOYA_STOCK_612_INITRAMFS` | initial RAM disks with their drivers | linux |
//!
//! The linux tests want root, a KVM host that runs stock kernels, and at least 5 GiB of memory in it.

pub mod bench;
#[cfg(test)]
mod conformance;
pub mod terminal;
pub mod vm;
