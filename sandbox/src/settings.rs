//! What the operator of a host has decided for all microVMs that engines ask for: `/etc/koya/config.toml`.

use std::env;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::de::{Error, Unexpected};
use serde::{Deserialize, Deserializer};

/// Where it is, unless `KOYA_CONFIG` says otherwise.
const FILE: &str = "/etc/koya/config.toml";
/// Largest file that is read: a thousand times as long as one that says everything.
const MAX_FILE: u64 = 256 << 10;
/// As many processors as a microVM may have.
pub const MAX_VCPUS: u64 = 32;
/// A kernel with its agent and little else, in MiB.
pub const LEAST_MEMORY: u64 = 128;
/// Memory beyond any host, in MiB: 16 TiB.
pub const MOST_MEMORY: u64 = 16 << 20;

/// The operator's file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// It cannot be read.
    #[error("cannot read {path:?}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is larger than anybody writes.
    #[error("{0:?} has more than {MAX_FILE} bytes, which is more than is read")]
    TooLarge(PathBuf),
    /// It is no TOML, or says something that is not known.
    #[error("{path:?}, line {line}: {message}")]
    Content {
        /// Which file.
        path: PathBuf,
        /// Where, from 1.
        line: usize,
        /// What is wrong, and what would be right.
        message: String,
    },
    /// The variable leads nowhere.
    #[error("KOYA_CONFIG is {0:?}, which is no file")]
    NoFile(PathBuf),
    /// There is no such kernel.
    #[error("{path:?}: kernel is {kernel:?}; want the absolute path of a file")]
    NoKernel {
        /// Which file says so.
        path: PathBuf,
        /// What it says.
        kernel: PathBuf,
    },
}

/// How large a microVM is if nobody says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct SizeTable {
    #[serde(default, deserialize_with = "vcpus")]
    vcpus: Option<u64>,
    #[serde(default, deserialize_with = "memory")]
    memory_mib: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    kernel: Option<PathBuf>,
    annotations: Option<Vec<Annotation>>,
    #[serde(default)]
    follow_host_mounts: bool,
    templates: Option<bool>,
    container: Option<SizeTable>,
    pod: Option<SizeTable>,
}

/// An annotation of a bundle by which something is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Annotation {
    /// Processors of the microVM.
    #[serde(rename = "dev.koya.vcpus")]
    Vcpus,
    /// Its memory in MiB.
    #[serde(rename = "dev.koya.memory-mib")]
    Memory,
    /// Whether the container runs the init of a distribution.
    #[serde(rename = "dev.koya.system")]
    System,
}

impl Annotation {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Vcpus, Self::Memory, Self::System];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vcpus => "dev.koya.vcpus",
            Self::Memory => "dev.koya.memory-mib",
            Self::System => "dev.koya.system",
        }
    }
}

/// How large a microVM is if nobody says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usual {
    /// Processors: 1 to 32.
    pub vcpus: u64,
    /// Memory in MiB. What a guest does not touch costs the host nothing.
    pub memory_mib: u64,
}

/// What the operator has decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The guest's kernel, if it is not to be that of the installation.
    pub kernel: Option<PathBuf>,
    /// Annotations that count; whatever has another one is refused.
    pub annotations: Vec<Annotation>,
    /// Whether what the host mounts later below a volume with `rslave` is seen in the guest. A guest that has looked at it
    /// keeps the host from unmounting it.
    pub follow_host_mounts: bool,
    /// Whether microVMs go on from templates, which have booted once for all of a kind.
    pub templates: bool,
    /// A microVM of one container.
    pub container: Usual,
    /// One of a pod: without limits its containers may be many, and large.
    pub pod: Usual,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            kernel: None,
            annotations: Annotation::ALL.to_vec(),
            follow_host_mounts: false,
            templates: true,
            container: Usual {
                vcpus: 1,
                memory_mib: 512,
            },
            pod: Usual {
                vcpus: 1,
                memory_mib: 2048,
            },
        }
    }
}

impl Settings {
    /// Reads the operator's file; without one, all is as it is by default.
    ///
    /// # Errors
    /// [`SettingsError`]
    pub fn read() -> Result<Self, SettingsError> {
        match env::var_os("KOYA_CONFIG").filter(|path| !path.is_empty()) {
            None => Ok(Self::of(Path::new(FILE))?.unwrap_or_default()),
            Some(path) => Self::of(Path::new(&path))?.ok_or_else(|| SettingsError::NoFile(path.into())),
        }
    }

    /// Those of a file, if it is there.
    fn of(path: &Path) -> Result<Option<Self>, SettingsError> {
        let failed = |source| SettingsError::Read {
            path: path.to_owned(),
            source,
        };
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(failed)?,
        };
        let mut text = String::new();
        let read = file.take(MAX_FILE.saturating_add(1)).read_to_string(&mut text);
        if u64::try_from(read.map_err(failed)?).is_ok_and(|bytes| bytes > MAX_FILE) {
            return Err(SettingsError::TooLarge(path.to_owned()));
        }
        let content: Content = toml::from_str(&text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            let before = text.as_bytes().iter().take(start);
            SettingsError::Content {
                path: path.to_owned(),
                line: before.filter(|byte| **byte == b'\n').count().saturating_add(1),
                message: error.message().trim_end().replace('\n', ", "),
            }
        })?;
        let usable = |kernel: &PathBuf| kernel.is_absolute() && kernel.is_file();
        if let Some(kernel) = content.kernel.clone().filter(|kernel| !usable(kernel)) {
            let path = path.to_owned();
            return Err(SettingsError::NoKernel { path, kernel });
        }
        Ok(Some(Self::from(content)))
    }

    /// Whether an annotation counts.
    pub fn allows(&self, annotation: Annotation) -> bool {
        self.annotations.contains(&annotation)
    }
}

impl From<Content> for Settings {
    fn from(content: Content) -> Self {
        let usual = Self::default();
        let size = |table: Option<SizeTable>, usual: Usual| Usual {
            vcpus: table.and_then(|table| table.vcpus).unwrap_or(usual.vcpus),
            memory_mib: table
                .and_then(|table| table.memory_mib)
                .unwrap_or(usual.memory_mib),
        };
        Self {
            kernel: content.kernel,
            annotations: content.annotations.unwrap_or(usual.annotations),
            follow_host_mounts: content.follow_host_mounts,
            templates: content.templates.unwrap_or(usual.templates),
            container: size(content.container, usual.container),
            pod: size(content.pod, usual.pod),
        }
    }
}

fn vcpus<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    within(from, 1, MAX_VCPUS, "a number of processors from 1 to 32")
}

fn memory<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    within(from, LEAST_MEMORY, MOST_MEMORY, "a number of MiB, at least 128")
}

fn within<'de, D: Deserializer<'de>>(
    from: D,
    least: u64,
    most: u64,
    wanted: &'static str,
) -> Result<Option<u64>, D::Error> {
    let number = i64::deserialize(from)?;
    match u64::try_from(number) {
        Ok(fitting) if (least..=most).contains(&fitting) => Ok(Some(fitting)),
        _ => Err(D::Error::invalid_value(Unexpected::Signed(number), &wanted)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn read(name: &str, text: &str) -> Result<Settings, String> {
        let path = env::temp_dir().join(format!("koya-config-{name}-{}.toml", std::process::id()));
        fs::write(&path, text).unwrap();
        let read = Settings::of(&path);
        fs::remove_file(&path).unwrap();
        read.map(Option::unwrap).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_not_said_is_as_it_is_by_default() {
        assert_eq!(Settings::of(Path::new("/no/such/file")).unwrap(), None);
        assert_eq!(read("empty", "").unwrap(), Settings::default());
        let some = "annotations = [\"dev.koya.vcpus\"]\n[pod]\nmemory_mib = 4096\n";
        let settings = read("some", some).unwrap();
        assert_eq!((settings.pod.vcpus, settings.pod.memory_mib), (1, 4096));
        assert_eq!(settings.container, Settings::default().container);
        assert!(settings.allows(Annotation::Vcpus) && !settings.allows(Annotation::Memory));
        assert!(
            read("follow", "follow_host_mounts = true")
                .unwrap()
                .follow_host_mounts
        );
        assert!(settings.templates && !read("cold", "templates = false").unwrap().templates);
        assert!(read("none", "annotations = []").unwrap().annotations.is_empty());
    }

    #[test]
    fn what_is_wrong_is_named_with_file_and_key() {
        for (number, (text, wanted)) in [
            ("\n[pod]\ncolour = 1\n", "line 3: unknown field `colour`"),
            (
                "templates = 1\n",
                "line 1: invalid type: integer `1`, expected a boolean",
            ),
            ("memory = 1\n", "line 1: unknown field `memory`"),
            (
                "\nannotations = [\"io.other\"]\n",
                "line 2: unknown variant `io.other`",
            ),
            (
                "[container]\nvcpus = 33\n",
                "line 2: invalid value: integer `33`, expected a number of processors",
            ),
            ("[container]\nvcpus = -1\n", "integer `-1`"),
            ("[container]\nmemory_mib = 64\n", "a number of MiB, at least 128"),
            ("[container]\nmemory_mib = \"2G\"\n", "invalid type"),
            ("kernel = \"/no/such/kernel\"\n", "kernel is \"/no/such/kernel\""),
            ("[pod\n", "line 1"),
        ]
        .into_iter()
        .enumerate()
        {
            let error = read(&format!("wrong-{number}"), text).unwrap_err();
            assert!(error.contains(wanted), "{text}: {error}");
            assert!(error.contains("koya-config-wrong"), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
