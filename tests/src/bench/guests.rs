//! The tiny guests, built from `resources/tiny`.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::BenchError;

/// Builds the tiny guests into `folder` (only what is out of date) and returns it.
///
/// # Errors
/// When there is no C compiler, or the folder cannot be written.
pub fn build(folder: &Path) -> Result<PathBuf, BenchError> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../resources/tiny/build");
    let output = Command::new(&script)
        .arg(folder)
        .output()
        .map_err(BenchError::path("run", &script))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        let last_words = errors.lines().last().unwrap_or_default().to_owned();
        let code = output.status.code().unwrap_or(-1);
        return Err(BenchError::EarlyExit {
            awaited: "the tiny guests".into(),
            code,
            last_words,
        });
    }
    Ok(folder.to_path_buf())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn every_guest_is_a_small_pvh_kernel() {
        let folder = std::env::temp_dir().join(format!("koya-tiny-{}", std::process::id()));
        build(&folder).unwrap();
        let guests: Vec<String> = fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != ".lock")
            .collect();
        for name in ["doorbell", "halt", "hello", "poweroff", "ports", "reset", "touch"] {
            assert!(
                guests.iter().any(|guest| guest == name),
                "no {name}, which is measured with"
            );
        }
        for name in &guests {
            let image = fs::read(folder.join(name)).unwrap();
            assert!(image.len() < 8192, "{name} has {} bytes", image.len());
            assert!(image.starts_with(b"\x7fELF\x02\x01"), "{name} is no ELF64 file");
            // Name and description size, type 18, name: the note that gives the 32-bit entry point.
            let note = [4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0, b'X', b'e', b'n', 0];
            assert!(
                image.windows(16).any(|window| window == note),
                "{name} has no PVH note"
            );
        }
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_an_error() {
        let error = build(Path::new("/proc/no-such-folder")).unwrap_err();
        assert!(matches!(error, BenchError::EarlyExit { .. }), "{error}");
    }
}
