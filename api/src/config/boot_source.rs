//! What the microVM boots.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{PathError, check_path};

/// The kernel, the initial RAM disk and the kernel's command line.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootSource {
    /// The kernel's file on the host: an ELF `vmlinux` or a `bzImage`.
    pub kernel_image_path: PathBuf,
    /// The file on the host with the initial RAM disk, if there is one.
    pub initrd_path: Option<PathBuf>,
    /// The kernel's command line; without it, the VMM's default.
    pub boot_args: Option<String>,
}

impl BootSource {
    /// Checks what needs no file system.
    ///
    /// # Errors
    /// [`PathError`]
    pub fn validate(&self) -> Result<(), PathError> {
        check_path("kernel_image_path", &self.kernel_image_path)?;
        self.initrd_path
            .as_deref()
            .map_or(Ok(()), |path| check_path("initrd_path", path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_required_and_the_rest_optional() {
        let boot: BootSource =
            serde_json::from_str(r#"{"kernel_image_path":"k","initrd_path":null}"#).unwrap();
        assert_eq!((boot.validate(), boot.boot_args), (Ok(()), None));
        assert!(serde_json::from_str::<BootSource>("{}").is_err());
    }

    #[test]
    fn an_empty_initrd_path_is_named() {
        let boot = BootSource {
            kernel_image_path: "k".into(),
            initrd_path: Some(PathBuf::new()),
            boot_args: None,
        };
        assert_eq!(boot.validate(), Err(PathError::Empty { field: "initrd_path" }));
    }
}
