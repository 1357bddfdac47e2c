//! The part of Go's templates that people write behind `--format`: `{{.Field.Inner}}` and `{{json .Field}}`.

use serde_json::Value;

/// A text with places for values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Value { path: Vec<String>, json: bool },
}

/// A template cannot be filled in.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TemplateError {
    /// Braces without their others.
    #[error("the template {0:?} has a {{{{ without }}}}")]
    Open(String),
    /// Something else than a field.
    #[error(
        "the template does not understand {0:?}: write {{{{.Field}}}}, {{{{.Field.Inner}}}} or {{{{json .Field}}}}"
    )]
    Action(String),
    /// A field that is not there.
    #[error("the template names {name:?}, which is not there; there are: {known}")]
    Field {
        /// As it was written.
        name: String,
        /// What could have been.
        known: String,
    },
}

impl Template {
    /// Reads a template; `\t` and `\n` are what they are in other languages.
    ///
    /// # Errors
    /// [`TemplateError`]
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let text = text.replace("\\t", "\t").replace("\\n", "\n");
        let mut pieces = Vec::new();
        let mut rest = text.as_str();
        while let Some((before, action)) = rest.split_once("{{") {
            let (action, after) = action
                .split_once("}}")
                .ok_or_else(|| TemplateError::Open(text.clone()))?;
            if !before.is_empty() {
                pieces.push(Piece::Text(before.to_owned()));
            }
            pieces.push(Self::action(action)?);
            rest = after;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        Ok(Self(pieces))
    }

    fn action(action: &str) -> Result<Piece, TemplateError> {
        let wrong = || TemplateError::Action(action.to_owned());
        let words: Vec<_> = action.split_whitespace().collect();
        let (json, path) = match words.as_slice() {
            [path] => (false, *path),
            ["json", path] => (true, *path),
            _ => return Err(wrong()),
        };
        let path = path.strip_prefix('.').ok_or_else(wrong)?;
        let path: Vec<_> = path
            .split('.')
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect();
        Ok(Piece::Value { path, json })
    }

    /// The text, with the fields of `value`.
    ///
    /// # Errors
    /// [`TemplateError::Field`]
    pub fn fill(&self, value: &Value) -> Result<String, TemplateError> {
        let mut text = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(piece) => text.push_str(piece),
                Piece::Value { path, json } => {
                    let found = look_up(value, path)?;
                    match found {
                        Value::String(found) if !json => text.push_str(found),
                        Value::Null if !json => text.push_str("<no value>"),
                        found => text.push_str(&found.to_string()),
                    }
                }
            }
        }
        Ok(text)
    }

    /// The names of the fields, as titles of columns.
    pub fn titles(&self) -> String {
        let pieces = self.0.iter().map(|piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Value { path, .. } => path.last().map(|name| name.to_uppercase()).unwrap_or_default(),
        });
        pieces.collect()
    }
}

fn look_up<'a>(mut value: &'a Value, path: &[String]) -> Result<&'a Value, TemplateError> {
    for name in path {
        let known = || match value {
            Value::Object(fields) => fields.keys().cloned().collect::<Vec<_>>().join(", "),
            _ => "no fields".to_owned(),
        };
        value = value.get(name).ok_or_else(|| TemplateError::Field {
            name: format!(".{}", path.join(".")),
            known: known(),
        })?;
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_are_filled_in() {
        let value = json!({ "State": { "Status": "running", "Pid": 7 }, "Names": "web", "None": null });
        let fill = |text: &str| Template::parse(text).unwrap().fill(&value).unwrap();
        assert_eq!(fill("{{.Names}}\\t{{.State.Status}}!"), "web\trunning!");
        assert_eq!(fill("{{ json .State }}"), r#"{"Pid":7,"Status":"running"}"#);
        assert_eq!(
            fill("{{.State.Pid}} {{json .Names}} {{.None}}"),
            "7 \"web\" <no value>"
        );
        assert_eq!(fill("plain"), "plain");
        assert_eq!(
            Template::parse("{{.ID}}\\t{{.Names}}").unwrap().titles(),
            "ID\tNAMES"
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert!(matches!(Template::parse("{{.A"), Err(TemplateError::Open(_))));
        assert!(matches!(
            Template::parse("{{if .A}}"),
            Err(TemplateError::Action(_))
        ));
        let error = Template::parse("{{.A.B}}")
            .unwrap()
            .fill(&json!({ "A": { "C": 1 } }));
        assert_eq!(
            error.unwrap_err().to_string(),
            "the template names \".A.B\", which is not there; there are: C"
        );
    }
}
