//! Files that a container is given when it is created: written into its bundle, mounted at their paths.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Component, Path};

use koya_proto::v1::File;
use serde_json::{Value, json};

use crate::error::{Result, invalid, storage};

/// Files of one container.
const MAX_FILES: usize = 64;
/// Longest file, in bytes.
const MAX_CONTENT: usize = 64 << 10;
/// Longest path: `PATH_MAX` of Linux without the closing zero.
const MAX_PATH: usize = 4095;

/// Writes them into a container's folder, for its root; answers the mounts that its config.json needs.
pub fn place(files: &[File], bundle: &Path, root: (u32, u32)) -> Result<Vec<Value>> {
    if files.len() > MAX_FILES {
        return Err(invalid(format!(
            "files has {} entries; at most {MAX_FILES} are taken",
            files.len()
        )));
    }
    for file in files {
        check(file)?;
    }
    files
        .iter()
        .enumerate()
        .map(|(number, file)| {
            let source = bundle.join(format!("file-{number}"));
            write(file, &source, root)
                .map_err(|error| storage(format!("write the file for {}", file.path), error))?;
            Ok(json!({
                "destination": file.path,
                "type": "bind",
                "source": source,
                "options": ["bind", "nosuid", "nodev"],
            }))
        })
        .collect()
}

fn check(file: &File) -> Result<()> {
    let path = Path::new(&file.path);
    let inside = path
        .components()
        .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !path.is_absolute()
        || !inside
        || path.file_name().is_none()
        || file.path.len() > MAX_PATH
        || file.path.contains('\0')
    {
        let shown: String = file.path.chars().take(64).collect();
        return Err(invalid(format!(
            "files.path is {shown:?}; want the absolute path of a file, without \"..\""
        )));
    }
    if file.content.len() > MAX_CONTENT {
        return Err(invalid(format!(
            "files.content of {} has {} bytes; at most {MAX_CONTENT} are taken",
            file.path,
            file.content.len()
        )));
    }
    if file.mode > 0o777 {
        return Err(invalid(format!(
            "files.mode of {} is {:o}; want permission bits, up to 777",
            file.path, file.mode
        )));
    }
    Ok(())
}

fn write(file: &File, to: &Path, (user, group): (u32, u32)) -> std::io::Result<()> {
    let mut written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(to)?;
    written.write_all(&file.content)?;
    if (user, group) != (0, 0) {
        fchown(&written, Some(user), Some(group))?;
    }
    // Whatever the umask says.
    written.set_permissions(fs::Permissions::from_mode(file.mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> File {
        File {
            path: path.into(),
            content: b"127.0.0.1 localhost\n".to_vec(),
            mode: 0o644,
            ..Default::default()
        }
    }

    #[test]
    fn files_are_written_as_they_are_wished() {
        let folder = std::env::temp_dir().join(format!("koya-agent-files-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let mounts = place(&[file("/etc/hosts"), file("/etc/hostname")], &folder, (0, 0)).unwrap();
        assert_eq!(mounts[1]["destination"], "/etc/hostname");
        let source = mounts[0]["source"].as_str().unwrap();
        assert_eq!(fs::read(source).unwrap(), b"127.0.0.1 localhost\n");
        assert_eq!(fs::metadata(source).unwrap().permissions().mode() & 0o7777, 0o644);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_is_wrong_is_named_and_nothing_is_written() {
        let nowhere = Path::new("/no/such/folder");
        let refused = |files: &[File]| place(files, nowhere, (0, 0)).unwrap_err().message;
        for path in [
            "",
            "etc/hosts",
            "/",
            "/etc/../hosts",
            "/..",
            "/a\0b",
            &"/a".repeat(2048),
        ] {
            assert!(refused(&[file(path)]).contains("files.path"), "{path:?}");
        }
        let long = File {
            content: vec![0; MAX_CONTENT + 1],
            ..file("/etc/hosts")
        };
        assert!(refused(&[long]).contains("65536"));
        let mode = File {
            mode: 0o4755,
            ..file("/etc/hosts")
        };
        assert!(refused(&[mode]).contains("4755"));
        assert!(refused(&vec![file("/etc/hosts"); 65]).contains("64"));
    }
}
