//! virtio-blk: disks that survive, disks that change, disks that fail.

mod drives;
mod partition;
mod reboot;
