//! Volumes as docker's users write them.

use std::path::{Component, Path, PathBuf};

use super::Volume;

/// Longest name of a named volume: what a folder's name may have.
const MAX_NAME: usize = 255;

/// A volume that says nothing one could do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VolumeSyntaxError {
    /// Not two or three parts.
    #[error("volume {0:?}: it must be SOURCE:TARGET or SOURCE:TARGET:ro")]
    Parts(String),
    /// The target is no absolute path below `/`.
    #[error("volume {text:?}: the target {target:?} must be an absolute path other than /, without \"..\"")]
    Target {
        /// The whole.
        text: String,
        /// The target.
        target: String,
    },
    /// The source is neither a path nor a name.
    #[error(
        "volume {text:?}: the source {name:?} must be a path that begins with / or ., or the name of a volume: a letter or \
         digit, then letters, digits, '_', '.' and '-'"
    )]
    Name {
        /// The whole.
        text: String,
        /// The source.
        name: String,
    },
    /// An option that is unknown.
    #[error("volume {text:?}: unknown option {option:?}; there are ro and rw")]
    Option {
        /// The whole.
        text: String,
        /// The option.
        option: String,
    },
    /// A field of `--mount` that is unknown.
    #[error("mount {text:?}: unknown field {field:?}; there are type, source, target and readonly")]
    Field {
        /// The whole.
        text: String,
        /// The field.
        field: String,
    },
    /// A field with a value that it cannot have.
    #[error("mount {text:?}: {field} is {value:?}, it must be {expected}")]
    Value {
        /// The whole.
        text: String,
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
    /// A field that is needed.
    #[error("mount {text:?}: {field} is missing")]
    Missing {
        /// The whole.
        text: String,
        /// The field.
        field: &'static str,
    },
}

impl Volume {
    /// Reads `SOURCE:TARGET[:OPTIONS]` as `docker run -v` has it. A source with a `/` or a `.` in front is a path, relative
    /// to `current`; any other is the name of a volume, which is kept below `home`.
    ///
    /// # Errors
    /// [`VolumeSyntaxError`]
    pub fn parse(text: &str, current: &Path, home: &Path) -> Result<Self, VolumeSyntaxError> {
        let mut parts = text.split(':');
        let (source, target, options, rest) = (parts.next(), parts.next(), parts.next(), parts.next());
        let (Some(source), Some(target), None) = (source, target, rest) else {
            return Err(VolumeSyntaxError::Parts(text.to_owned()));
        };
        let mut read_only = false;
        for option in options.into_iter().flat_map(|options| options.split(',')) {
            read_only = match option {
                "ro" => true,
                "rw" => false,
                other => {
                    return Err(VolumeSyntaxError::Option {
                        text: text.to_owned(),
                        option: other.to_owned(),
                    });
                }
            };
        }
        if source.is_empty() {
            return Err(VolumeSyntaxError::Parts(text.to_owned()));
        }
        let is_path = source.starts_with('/') || source.starts_with('.');
        let (source, named) = match is_path {
            true => (current.join(source), false),
            false => (named(text, source, home)?, true),
        };
        Ok(Self {
            source,
            target: check_target(text, target)?,
            read_only,
            named,
            follows: false,
            top_only: false,
        })
    }

    /// Reads `type=bind,source=…,target=…[,readonly]` as `docker run --mount` has it; `type=volume` takes a name.
    ///
    /// # Errors
    /// [`VolumeSyntaxError`]
    pub fn parse_mount(text: &str, current: &Path, home: &Path) -> Result<Self, VolumeSyntaxError> {
        let (mut kind, mut source, mut target, mut read_only) = ("volume", None, None, false);
        for part in text.split(',') {
            let (field, value) = match part.split_once('=') {
                Some((field, value)) => (field, Some(value)),
                None => (part, None),
            };
            match (field, value) {
                ("type", Some(value)) => kind = value,
                ("source" | "src", Some(value)) => source = Some(value),
                ("target" | "destination" | "dst", Some(value)) => target = Some(value),
                ("readonly" | "ro", value) => read_only = truth(text, value)?,
                _ => {
                    return Err(VolumeSyntaxError::Field {
                        text: text.to_owned(),
                        field: field.to_owned(),
                    });
                }
            }
        }
        let missing = |field| VolumeSyntaxError::Missing {
            text: text.to_owned(),
            field,
        };
        let source = source
            .filter(|source| !source.is_empty())
            .ok_or(missing("source"))?;
        let target = check_target(text, target.ok_or(missing("target"))?)?;
        let (source, named) = match kind {
            "bind" => (current.join(source), false),
            "volume" => (named(text, source, home)?, true),
            other => {
                return Err(VolumeSyntaxError::Value {
                    text: text.to_owned(),
                    field: "type",
                    value: other.to_owned(),
                    expected: "bind or volume",
                });
            }
        };
        Ok(Self {
            source,
            target,
            read_only,
            named,
            follows: false,
            top_only: false,
        })
    }
}

fn truth(text: &str, value: Option<&str>) -> Result<bool, VolumeSyntaxError> {
    match value {
        None | Some("true" | "1") => Ok(true),
        Some("false" | "0") => Ok(false),
        Some(other) => Err(VolumeSyntaxError::Value {
            text: text.to_owned(),
            field: "readonly",
            value: other.to_owned(),
            expected: "true or false",
        }),
    }
}

/// Where the volume `name` is kept.
fn named(text: &str, name: &str, home: &Path) -> Result<PathBuf, VolumeSyntaxError> {
    let first = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    let rest = name
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
    if first && rest && name.len() <= MAX_NAME {
        return Ok(home.join("volumes").join(name).join("_data"));
    }
    Err(VolumeSyntaxError::Name {
        text: text.to_owned(),
        name: name.to_owned(),
    })
}

/// The target without what does not matter in it.
fn check_target(text: &str, target: &str) -> Result<String, VolumeSyntaxError> {
    let mut clean = String::new();
    let mut good = target.starts_with('/') && !target.contains('\0');
    for component in Path::new(target).components() {
        match component {
            Component::Normal(name) => {
                clean.push('/');
                clean.push_str(&name.to_string_lossy());
            }
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => good = false,
        }
    }
    if good && !clean.is_empty() {
        return Ok(clean);
    }
    Err(VolumeSyntaxError::Target {
        text: text.to_owned(),
        target: target.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn short(text: &str) -> Result<Volume, VolumeSyntaxError> {
        Volume::parse(text, Path::new("/here"), Path::new("/home"))
    }

    fn long(text: &str) -> Result<Volume, VolumeSyntaxError> {
        Volume::parse_mount(text, Path::new("/here"), Path::new("/home"))
    }

    fn volume(source: &str, target: &str, read_only: bool) -> Volume {
        Volume {
            source: source.into(),
            target: target.into(),
            read_only,
            named: false,
            follows: false,
            top_only: false,
        }
    }

    #[test]
    fn the_short_form_is_dockers() {
        assert_eq!(short("/a:/b").unwrap(), volume("/a", "/b", false));
        assert_eq!(short("./a:/b/:ro").unwrap(), volume("/here/./a", "/b", true));
        assert_eq!(short("..:/b/./c:rw").unwrap(), volume("/here/..", "/b/c", false));
        let data = short("data:/var/lib/x:ro").unwrap();
        assert!(data.named && data.read_only);
        assert_eq!(data.source, Path::new("/home/volumes/data/_data"));
    }

    #[test]
    fn the_long_form_is_dockers() {
        for text in [
            "type=bind,source=/a,target=/b,readonly",
            "readonly=true,dst=/b,src=/a,type=bind",
            "type=bind,src=/a,destination=/b,ro=1",
        ] {
            assert_eq!(long(text).unwrap(), volume("/a", "/b", true), "{text}");
        }
        let data = long("source=data,target=/b").unwrap();
        assert!(data.named && !data.read_only);
    }

    #[test]
    fn what_cannot_be_is_refused_with_what_would_be_right() {
        for (text, expected) in [
            ("/b", "SOURCE:TARGET"),
            (":/b", "SOURCE:TARGET"),
            ("/a:/b:ro:x", "SOURCE:TARGET"),
            ("/a:b", "absolute path"),
            ("/a:/", "absolute path"),
            ("/a:/b/../c", "absolute path"),
            ("/a:", "absolute path"),
            ("/a:/b:x", "\"x\"; there are ro and rw"),
            ("a/b:/c", "begins with / or ."),
            ("-a:/c", "begins with / or ."),
        ] {
            let error = short(text).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains(text), "{error}");
        }
        assert!(short(&format!("{}:/b", "a".repeat(256))).is_err());
        for (text, expected) in [
            ("type=bind,target=/b", "source is missing"),
            ("type=bind,source=/a", "target is missing"),
            ("type=tmpfs,source=/a,target=/b", "bind or volume"),
            ("type=bind,source=/a,target=/b,size=3", "\"size\""),
            ("type=bind,source=/a,target=/b,ro=maybe", "true or false"),
            ("source=/a,target=/b", "the name of a volume"),
            ("", "unknown field \"\""),
        ] {
            let error = long(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
