//! The type of guest memory that every device works on.

use vm_memory::GuestMemoryMmap;
use vm_memory::bitmap::AtomicBitmap;

/// Guest memory as the devices see it: mapped regions, each with a bitmap of dirty pages when the
/// microVM tracks them (for diff snapshots) and none otherwise.
///
/// Cloning is cheap: it copies references to the regions.
pub type GuestRam = GuestMemoryMmap<Option<AtomicBitmap>>;
