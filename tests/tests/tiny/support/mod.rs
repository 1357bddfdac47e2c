//! What the tests of this program share.

pub mod elf;
pub mod http;
mod monitor;
mod netns;
pub mod process;
pub mod schema;
pub mod vhost_user;

use std::path::Path;

use koya_tests::vm;
use serde_json::{Value, json};

pub use monitor::Monitor;
pub use netns::Netns;

/// The boot source of a tiny guest.
pub fn boot(guest: &str, args: &str) -> Value {
    json!({ "kernel_image_path": vm::tiny(guest), "boot_args": args })
}

/// A machine with one vCPU and 128 MiB that boots a tiny guest; `more` adds sections of the config file, or replaces
/// them.
pub fn config(guest: &str, args: &str, more: Value) -> Value {
    let mut config = json!({ "boot-source": boot(guest, args) });
    let Value::Object(more) = more else {
        panic!("sections of a config file are an object: {more}");
    };
    config.as_object_mut().unwrap().extend(more);
    config
}

/// A drive; its id is "a" to "z".
pub fn drive(id: &str, path: &Path, is_root: bool) -> Value {
    json!({ "drive_id": id, "path_on_host": path, "is_root_device": is_root })
}

/// A network interface.
pub fn interface(id: &str, tap: &str) -> Value {
    json!({ "iface_id": id, "host_dev_name": tap })
}
