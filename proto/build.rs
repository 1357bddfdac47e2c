//! Turns `proto/agent.proto` into Rust: messages, client and service, by code
//! generators written in Rust, so that no `protoc` has to be installed.

use std::path::Path;
use std::{env, fs, io};

const SOURCE: &str = "proto/agent.proto";

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed={SOURCE}");
    ttrpc_codegen::Codegen::new()
        .input(SOURCE)
        .include("proto")
        .rust_protobuf()
        .run()?;
    let folder = env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?;
    // The generated files begin with inner attributes, so that they can be
    // modules but not be included; this file can be included and declares them.
    fs::write(
        Path::new(&folder).join("modules.rs"),
        "pub mod agent;\npub mod agent_ttrpc;\n",
    )
}
