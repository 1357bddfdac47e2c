//! Images made byte by byte, and disks read back.
#![allow(dead_code, clippy::arithmetic_side_effects, missing_docs)]

pub mod erofs;
pub mod folder;
pub mod http;
pub mod oci;
pub mod registry;
pub mod tar;

/// An error with all its causes in one line, as a command would show it.
pub fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
