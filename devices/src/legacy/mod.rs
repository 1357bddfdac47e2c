//! Devices of the PC that Linux expects beside virtio.
