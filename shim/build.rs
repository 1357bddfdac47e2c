//! Turns `proto/*.proto` into Rust, by code generators written in Rust, so that
//! no `protoc` has to be installed.

use std::path::Path;
use std::{env, fs, io};

const SOURCES: [&str; 4] = [
    "proto/task.proto",
    "proto/forward.proto",
    "proto/events.proto",
    "proto/metrics.proto",
];

fn main() -> io::Result<()> {
    for source in SOURCES {
        println!("cargo::rerun-if-changed={source}");
    }
    ttrpc_codegen::Codegen::new()
        .inputs(SOURCES)
        .include("proto")
        .rust_protobuf()
        .run()?;
    let folder = env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?;
    // The generated files begin with inner attributes, so that they can be
    // modules but not be included; this file can be included and declares them.
    fs::write(
        Path::new(&folder).join("modules.rs"),
        "pub mod events;\npub mod forward;\npub mod forward_ttrpc;\npub mod metrics;\npub mod task;\npub mod task_ttrpc;\n",
    )
}
