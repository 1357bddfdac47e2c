//! `spec`: a `config.json` to begin with.

use std::fs::File;
use std::io::Write;

use koya_sandbox::container::{ContainerSpec, ProcessSpec};

use crate::args::SpecArgs;
use crate::error::RuntimeError;

/// `spec`
///
/// # Errors
/// [`RuntimeError::File`]; a file that is there is left as it is.
pub fn spec(args: &SpecArgs) -> Result<(), RuntimeError> {
    let spec = ContainerSpec {
        process: ProcessSpec {
            args: vec!["sh".to_owned()],
            terminal: true,
            ..Default::default()
        },
        hostname: "koya".to_owned(),
        ..Default::default()
    };
    let path = args.bundle.join("config.json");
    let text = format!("{:#}\n", spec.to_json());
    File::create_new(&path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(RuntimeError::file("write", &path))
}
