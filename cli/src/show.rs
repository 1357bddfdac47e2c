//! How lists are shown: as a table, as JSON, or as a template says.

use serde_json::Value;

use crate::error::CliError;
use crate::table::Table;
use crate::template::Template;

/// How a list is shown.
pub enum Form {
    /// Columns with titles.
    Table,
    /// One object on each line.
    Json,
    /// One line for each, perhaps with titles above.
    Template(Template, bool),
}

impl Form {
    /// Reads `--format`.
    ///
    /// # Errors
    /// [`CliError::Template`]
    pub fn parse(text: &str) -> Result<Self, CliError> {
        match text {
            "table" => Ok(Self::Table),
            "json" | "{{json .}}" => Ok(Self::Json),
            other => match other.strip_prefix("table ") {
                Some(template) => Ok(Self::Template(Template::parse(template)?, true)),
                None => Ok(Self::Template(Template::parse(other)?, false)),
            },
        }
    }
}

/// Prints a list. Each thing is an object; `columns` names the fields that a table shows, and their titles.
///
/// # Errors
/// [`CliError`]
pub fn list<const COLUMNS: usize>(
    form: &Form,
    columns: [(&str, &str); COLUMNS],
    things: &[Value],
) -> Result<(), CliError> {
    match form {
        Form::Table => {
            let mut table = Table::new(columns.map(|(title, _)| title));
            for thing in things {
                table.add(columns.map(|(_, field)| match thing.get(field) {
                    Some(Value::String(text)) => text.clone(),
                    Some(other) => other.to_string(),
                    None => String::new(),
                }));
            }
            crate::print(&table.to_string())?;
        }
        Form::Json => {
            for thing in things {
                crate::print(&thing.to_string())?;
            }
        }
        Form::Template(template, titles) => {
            if *titles {
                crate::print(&template.titles())?;
            }
            for thing in things {
                crate::print(&template.fill(thing)?)?;
            }
        }
    }
    Ok(())
}
