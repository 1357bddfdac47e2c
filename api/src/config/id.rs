//! Identifiers: of drives, network interfaces and of the microVM itself.

/// Longest identifier, in characters: Firecracker's limit for the microVM's own.
pub const MAX_ID_CHARS: usize = 64;

/// An identifier that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// There is none.
    #[error("The ID cannot be empty.")]
    Empty,
    /// It has a character outside the allowed ones.
    #[error(
        "{kind} can only contain alphanumeric characters and {allowed}. {id:?} has {character:?} at position \
         {position}."
    )]
    Character {
        /// Identifiers of what.
        kind: &'static str,
        /// The identifier.
        id: String,
        /// What is allowed beside letters and digits.
        allowed: &'static str,
        /// The first wrong character.
        character: char,
        /// Its place, counted in characters from 0.
        position: usize,
    },
    /// It is too long.
    #[error("{kind} have 1 to {MAX_ID_CHARS} characters. {start:?}… has {length}.")]
    Length {
        /// Identifiers of what.
        kind: &'static str,
        /// The first characters of the identifier.
        start: String,
        /// Its length in characters.
        length: usize,
    },
}

/// Checks an identifier in a path of the API: letters, digits and `_`, at most [`MAX_ID_CHARS`].
///
/// # Errors
/// [`IdError`]
pub fn check_id(id: &str) -> Result<(), IdError> {
    check(RESOURCE, id, "underscores", |c| c == '_')
}

/// Checks an identifier in a config file. Firecracker does not check these at all, so files in use have hyphens, dots
/// and colons; they are harmless, only the API cannot address them later.
///
/// # Errors
/// [`IdError`]
pub fn check_file_id(id: &str) -> Result<(), IdError> {
    check(RESOURCE, id, "underscores, hyphens, dots and colons", |c| {
        matches!(c, '_' | '-' | '.' | ':')
    })
}

/// Checks the microVM's own identifier: letters, digits and `-`, at most [`MAX_ID_CHARS`].
///
/// # Errors
/// [`IdError`]
pub fn check_instance_id(id: &str) -> Result<(), IdError> {
    check("Instance IDs", id, "hyphens", |c| c == '-')
}

/// Clients match the text that begins with this.
const RESOURCE: &str = "API Resource IDs";

fn check(kind: &'static str, id: &str, allowed: &'static str, also: fn(char) -> bool) -> Result<(), IdError> {
    if id.is_empty() {
        return Err(IdError::Empty);
    }
    let length = id.chars().count();
    if length > MAX_ID_CHARS {
        return Err(IdError::Length {
            kind,
            start: id.chars().take(16).collect(),
            length,
        });
    }
    match id
        .chars()
        .enumerate()
        .find(|&(_, c)| !c.is_ascii_alphanumeric() && !also(c))
    {
        Some((position, character)) => Err(IdError::Character {
            kind,
            id: id.into(),
            allowed,
            character,
            position,
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_ids_pass() {
        for id in ["dummy", "dummy_1", "1", &"x".repeat(64)] {
            assert_eq!(check_id(id), Ok(()));
        }
        assert_eq!(check_file_id("root-fs.0"), Ok(()));
        assert_eq!(check_instance_id("anonymous-instance"), Ok(()));
    }

    #[test]
    fn bad_ids_say_what_is_right() {
        assert_eq!(check_id("").unwrap_err().to_string(), "The ID cannot be empty.");
        let text = check_id("a/b").unwrap_err().to_string();
        assert!(
            text.starts_with("API Resource IDs can only contain alphanumeric characters and underscores.")
        );
        assert!(text.contains("\"a/b\" has '/' at position 1"), "{text}");
        let text = check_id(&"x".repeat(300)).unwrap_err().to_string();
        assert!(
            text.contains("1 to 64") && text.contains("300") && text.len() < 120,
            "{text}"
        );
        assert!(check_file_id("a/b").is_err());
        let text = check_instance_id("under_score").unwrap_err().to_string();
        assert!(
            text.starts_with("Instance IDs can only contain alphanumeric characters and hyphens."),
            "{text}"
        );
    }
}
