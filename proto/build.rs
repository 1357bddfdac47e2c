//! Turns `proto/*.proto` into Rust: messages, and the service for who serves
//! it, by code generators written in Rust, so that no `protoc` has to be
//! installed.

use std::path::Path;
use std::{env, fs, io};

const SOURCES: [&str; 2] = ["proto/agent.proto", "proto/envelope.proto"];

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
        "pub mod agent;\n#[cfg(feature = \"server\")]\npub mod agent_ttrpc;\npub mod envelope;\n",
    )
}
