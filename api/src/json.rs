//! JSON in, with errors a person can act on: what is wrong, in which field, at which line and column.
//!
//! `serde_json` names a field only when it is unknown, missing or given twice. For the rest the path is found by
//! walking the text up to the place of the error; that walk runs only when something is wrong.

use std::fmt::{self, Display, Formatter};

use serde::de::DeserializeOwned;

/// Longest message passed on, in characters. A message can quote the input, which may be as long as a request.
const MAX_MESSAGE: usize = 1024;
/// Longest key shown in a path, in characters.
const MAX_KEY: usize = 64;

/// A JSON text that does not say what it should.
///
/// Its text starts with the parser's message and place (`missing field … at line … column …`), which clients match,
/// and then names the field where that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonError {
    message: String,
    field: String,
}

impl JsonError {
    /// The path of the field in question, such as `drives[1].is_root_device`; empty for the document itself.
    pub fn field(&self) -> &str {
        &self.field
    }

    /// The parser's message with line and column, without the path.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl Display for JsonError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if self.field.is_empty() {
            Ok(())
        } else {
            write!(f, ", in the field `{}`", self.field)
        }
    }
}

impl std::error::Error for JsonError {}

/// Reads a value from JSON text.
///
/// # Errors
/// [`JsonError`] when the bytes are not UTF-8, not JSON, or do not fit `T`.
pub fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, JsonError> {
    let text = std::str::from_utf8(bytes).map_err(|err| JsonError {
        message: format!("not UTF-8: the byte at offset {} is wrong", err.valid_up_to()),
        field: String::new(),
    })?;
    serde_json::from_str(text).map_err(|err| describe(text, &err))
}

/// Turns the parser's error into ours. Not generic, so that it exists once in the program.
fn describe(text: &str, err: &serde_json::Error) -> JsonError {
    let field = if err.is_data() {
        path_at(text, err.line(), err.column())
    } else {
        String::new()
    };
    JsonError {
        message: printable(&err.to_string(), MAX_MESSAGE),
        field,
    }
}

/// One line of at most `max` characters: control characters are escaped.
pub(crate) fn printable(text: &str, max: usize) -> String {
    let mut line = String::with_capacity(text.len().min(max));
    for (count, character) in text.chars().enumerate() {
        if count >= max {
            line.push('…');
            break;
        }
        if character.is_control() {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    line
}

/// What encloses the place the walk has reached.
enum Frame {
    Object(Option<String>),
    Array(usize),
}

/// The path of the field that ends, or is about to start, at `line` and `column` (as `serde_json` counts them).
fn path_at(text: &str, line: usize, column: usize) -> String {
    let before: usize = text
        .split_inclusive('\n')
        .take(line.saturating_sub(1))
        .map(str::len)
        .sum();
    let end = before.saturating_add(column).min(text.len());
    let mut frames: Vec<Frame> = Vec::new();
    let mut expects_key = false;
    let mut bytes = text.bytes().enumerate().take(end);
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => {
                let mut escaped = false;
                let close = bytes.find(|&(_, b)| {
                    let ends = b == b'"' && !escaped;
                    escaped = b == b'\\' && !escaped;
                    ends
                });
                let stop = close.map_or(end, |(stop, _)| stop);
                if expects_key && let Some(Frame::Object(key)) = frames.last_mut() {
                    let name = text.get(at.saturating_add(1)..stop).unwrap_or_default();
                    *key = Some(printable(name, MAX_KEY));
                    expects_key = false;
                }
            }
            b'{' => {
                frames.push(Frame::Object(None));
                expects_key = true;
            }
            b'[' => {
                frames.push(Frame::Array(0));
                expects_key = false;
            }
            b'}' | b']' => {
                frames.pop();
                expects_key = false;
            }
            b',' => match frames.last_mut() {
                Some(Frame::Object(key)) => {
                    *key = None;
                    expects_key = true;
                }
                Some(Frame::Array(index)) => *index = index.saturating_add(1),
                None => {}
            },
            _ => {}
        }
    }
    render(&frames)
}

fn render(frames: &[Frame]) -> String {
    let mut path = String::new();
    for frame in frames {
        match frame {
            Frame::Object(Some(key)) => {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(key);
            }
            Frame::Object(None) => {}
            Frame::Array(index) => path.push_str(&format!("[{index}]")),
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Drive, MachineConfig, VmConfig};

    fn error<T: DeserializeOwned + fmt::Debug>(text: &str) -> JsonError {
        from_slice::<T>(text.as_bytes()).unwrap_err()
    }

    #[test]
    fn a_wrong_type_names_the_field_and_the_place() {
        let err = error::<VmConfig>("{\n \"boot-source\": {\"kernel_image_path\": 7}\n}");
        assert_eq!(err.field(), "boot-source.kernel_image_path");
        assert!(err.message().ends_with("at line 2 column 39"), "{err}");
    }

    #[test]
    fn a_wrong_element_names_its_index() {
        let text = r#"{"drives":[{"drive_id":"a,[{\"","is_root_device":false},{"drive_id":"b","is_root_device":"x"}]}"#;
        assert_eq!(error::<VmConfig>(text).field(), "drives[1].is_root_device");
        assert_eq!(error::<VmConfig>(r#"{"drives":[[], 3]}"#).field(), "drives[0]");
    }

    #[test]
    fn containers_in_place_of_scalars_name_the_field() {
        let text = r#"{"vcpu_count":1,"mem_size_mib":1,"smt":{"a":1}}"#;
        assert_eq!(error::<MachineConfig>(text).field(), "smt");
        let text = r#"{"vcpu_count":1,"mem_size_mib":1,"smt":[true]}"#;
        assert_eq!(error::<MachineConfig>(text).field(), "smt");
    }

    #[test]
    fn a_missing_field_keeps_the_parsers_words() {
        // Clients match this text, place included.
        let err = error::<MachineConfig>(r#"{"mem_size_mib": 128}"#);
        assert_eq!(err.to_string(), "missing field `vcpu_count` at line 1 column 21");
        let err = error::<MachineConfig>(r#"{"vcpu_count": 2}"#);
        assert_eq!(
            err.to_string(),
            "missing field `mem_size_mib` at line 1 column 17"
        );
    }

    #[test]
    fn unknown_and_duplicate_fields_are_named() {
        let err = error::<Drive>(r#"{"drive_id":"a","is_root_device":true,"colour":1}"#);
        assert!(err.message().starts_with("unknown field `colour`"), "{err}");
        let err = error::<Drive>(r#"{"drive_id":"a","drive_id":"b","is_root_device":true}"#);
        assert!(err.message().starts_with("duplicate field `drive_id`"), "{err}");
    }

    #[test]
    fn the_error_is_one_bounded_line() {
        let err = error::<Drive>(&format!(r#"{{"a\n{}":1}}"#, "x".repeat(100_000)));
        assert_eq!(err.to_string().lines().count(), 1);
        assert!(err.to_string().chars().count() < 1200);
    }

    #[test]
    fn bytes_that_are_not_utf8_give_the_offset() {
        let err = from_slice::<Drive>(b"{\"drive_id\": \"\xff\"}").unwrap_err();
        assert_eq!(err.to_string(), "not UTF-8: the byte at offset 14 is wrong");
    }

    #[test]
    fn no_cut_of_a_document_panics() {
        let text = r#"{"drives":[{"drive_id":"ä\"","is_root_device":"no"}],"x":[1,[2,{"y":"\\"}]]}"#;
        for line in 0..3 {
            for column in 0..text.len() + 2 {
                path_at(text, line, column);
            }
        }
        for cut in 0..text.len() {
            let _ = from_slice::<VmConfig>(&text.as_bytes()[..cut]).unwrap_err();
        }
    }
}
