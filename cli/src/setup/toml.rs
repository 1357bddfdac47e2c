//! Changes of a TOML text that leave everything else in it as it is, comments too.

use serde_json::{Map, Value};
use toml_edit::{Array, DocumentMut, Item, Table, TableLike, TomlError};

use super::error::SyntaxError;

/// What some editors write before a text in UTF-8.
const MARK: char = '\u{feff}';

/// The value of a setting.
///
/// # Errors
/// [`SyntaxError`]
pub fn get(text: &str, keys: &[String]) -> Result<Option<Value>, SyntaxError> {
    let document = parse(text)?;
    let mut item = document.as_item();
    for (depth, key) in (0_usize..).zip(keys) {
        let table = item.as_table_like();
        let table = table.ok_or_else(|| no_table(keys.get(..depth).unwrap_or_default()))?;
        match table.get(key) {
            Some(below) if !below.is_none() => item = below,
            _ => return Ok(None),
        }
    }
    Ok(Some(plain(item)))
}

/// The text with a setting.
///
/// # Errors
/// [`SyntaxError`]
pub fn set(text: &str, keys: &[String], value: &Value) -> Result<String, SyntaxError> {
    let mut document = parse(text)?;
    let Some((last, parents)) = keys.split_last() else {
        return Ok(text.to_owned());
    };
    let mut table: &mut dyn TableLike = document.as_table_mut();
    for (depth, key) in (1_usize..).zip(parents) {
        if !table.contains_key(key) {
            let mut new = Table::new();
            new.set_implicit(true);
            table.insert(key, Item::Table(new));
        }
        let below = table.get_mut(key).and_then(Item::as_table_like_mut);
        table = below.ok_or_else(|| no_table(keys.get(..depth).unwrap_or_default()))?;
    }
    let mut new = written(value);
    // What is said behind the old value stays there.
    if let Some(old) = table.get(last).and_then(Item::as_value) {
        *new.decor_mut() = old.decor().clone();
    }
    table.insert(last, Item::Value(new));
    with_ends_of(text, document.to_string())
}

/// The text without a setting.
///
/// # Errors
/// [`SyntaxError`]
pub fn remove(text: &str, keys: &[String]) -> Result<String, SyntaxError> {
    let mut document = parse(text)?;
    let Some((last, parents)) = keys.split_last() else {
        return Ok(text.to_owned());
    };
    let mut table: &mut dyn TableLike = document.as_table_mut();
    for (depth, key) in (1_usize..).zip(parents) {
        let Some(below) = table.get_mut(key) else {
            return Ok(text.to_owned());
        };
        let below = below.as_table_like_mut();
        table = below.ok_or_else(|| no_table(keys.get(..depth).unwrap_or_default()))?;
    }
    table.remove(last);
    with_ends_of(text, document.to_string())
}

fn parse(text: &str) -> Result<DocumentMut, SyntaxError> {
    text.parse().map_err(|error| malformed(text, &error))
}

/// The new text with the line ends of the old one, and its mark at the beginning: the parser keeps neither.
fn with_ends_of(old: &str, new: String) -> Result<String, SyntaxError> {
    let (ends, returns) = (old.matches('\n').count(), old.matches("\r\n").count());
    let new = match returns {
        0 => new,
        all if all == ends => new.replace('\n', "\r\n"),
        _ => {
            return Err(SyntaxError::at(
                "line ends",
                "some are CR LF, others LF: make them one kind",
            ));
        }
    };
    Ok(match old.strip_prefix(MARK) {
        Some(_) => format!("{MARK}{new}"),
        None => new,
    })
}

/// Where the text goes wrong, and how.
fn malformed(text: &str, error: &TomlError) -> SyntaxError {
    let offset = error.span().map_or(text.len(), |span| span.start);
    let before = text.get(..offset).unwrap_or(text);
    let (line, column) = (before.split('\n').count(), before.rsplit('\n').next());
    let column = column.map_or(1, |column| column.chars().count().saturating_add(1));
    SyntaxError::at(
        format!("line {line}, column {column}"),
        error.message().replace('\n', ", "),
    )
}

fn no_table(keys: &[String]) -> SyntaxError {
    SyntaxError::at(format!("{:?}", keys.join(".")), "this has to be a table")
}

/// A value as TOML has it. Settings have no numbers and no tables.
fn written(value: &Value) -> toml_edit::Value {
    match value {
        Value::Bool(value) => (*value).into(),
        Value::Array(values) => values.iter().map(written).collect::<Array>().into(),
        Value::Number(number) => number.as_i64().unwrap_or_default().into(),
        Value::String(text) => text.as_str().into(),
        other => other.to_string().into(),
    }
}

/// An item without its form.
fn plain(item: &Item) -> Value {
    if let Some(table) = item.as_table_like() {
        let members = table.iter().map(|(key, item)| (key.to_owned(), plain(item)));
        return Value::Object(members.collect::<Map<_, _>>());
    }
    match item {
        Item::Value(value) => plain_value(value),
        Item::ArrayOfTables(tables) => tables
            .iter()
            .map(|table| plain(&Item::Table(table.clone())))
            .collect(),
        _ => Value::Null,
    }
}

fn plain_value(value: &toml_edit::Value) -> Value {
    match value {
        toml_edit::Value::String(text) => text.value().as_str().into(),
        toml_edit::Value::Integer(number) => (*number.value()).into(),
        toml_edit::Value::Boolean(value) => (*value.value()).into(),
        toml_edit::Value::Array(values) => values.iter().map(plain_value).collect(),
        toml_edit::Value::InlineTable(table) => {
            let members = table.iter();
            let members = members.map(|(key, value)| (key.to_owned(), plain_value(value)));
            Value::Object(members.collect())
        }
        other => other.to_string().trim().into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn keys(text: &str) -> Vec<String> {
        text.split('/').map(str::to_owned).collect()
    }

    const DEBIAN: &str = "# ours\nversion = 2\n\n[plugins]\n  [plugins.\"io.containerd.grpc.v1.cri\"]\n    \
                          [plugins.\"io.containerd.grpc.v1.cri\".cni]\n      bin_dir = \"/usr/lib/cni\" # Debian's\n  \
                          # and this\n  [plugins.\"io.containerd.internal.v1.opt\"]\n    path = \"/var/lib/x\"\n# the end\n";

    #[test]
    fn a_table_is_added_and_removed_without_a_trace() {
        let key = keys("plugins/io.containerd.grpc.v1.cri/containerd/runtimes/koya/runtime_type");
        let text = set(DEBIAN, &key, &json!("io.containerd.koya.v2")).unwrap();
        let table = "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.koya]\nruntime_type = \"io.containerd.koya.v2\"\n";
        assert!(text.contains(table), "{text}");
        assert_eq!(get(&text, &key).unwrap(), Some(json!("io.containerd.koya.v2")));
        assert_eq!(remove(&text, &key[..3]).unwrap(), DEBIAN);
    }

    #[test]
    fn inline_tables_and_dotted_keys_are_tables() {
        for text in [
            "a = { b = { x = 1 } } # why\n",
            "a.b.x = 1 # why\n",
            "[a]\nb.x = 1 # why\n",
        ] {
            let changed = set(text, &keys("a/b/c"), &json!(["/bin/x"])).unwrap();
            assert_eq!(
                get(&changed, &keys("a/b")).unwrap(),
                Some(json!({ "x": 1, "c": ["/bin/x"] }))
            );
            assert!(changed.contains("# why"), "{changed}");
        }
        let changed = set("a = \"old\" # why\n", &keys("a"), &json!("new")).unwrap();
        assert_eq!(changed, "a = \"new\" # why\n");
    }

    #[test]
    fn line_ends_stay() {
        let text = "\u{feff}a = 1 # why\r\n[b]\r\nc = [1,\r\n2]\r\n";
        let changed = set(text, &keys("b/d"), &json!("x")).unwrap();
        assert_eq!(changed, format!("{text}d = \"x\"\r\n"));
        assert_eq!(remove(&changed, &keys("b/d")).unwrap(), text);
        let error = set("a = 1\r\nb = 2\n", &keys("c"), &json!("x")).unwrap_err();
        assert_eq!(error.place, "line ends");
    }

    #[test]
    fn a_malformed_text_is_told_with_its_place() {
        let error = |text: &str| set(text, &keys("a/b"), &json!(true)).unwrap_err();
        let told = error("x = 1\n  y = [1,\n");
        assert!(
            told.place.starts_with("line 2") || told.place.starts_with("line 3"),
            "{told:?}"
        );
        assert!(!told.reason.is_empty() && !told.reason.contains('\n'), "{told:?}");
        assert_eq!(error("é = 1\n").place, "line 1, column 1");
        assert_eq!(
            error("a = 1\n"),
            SyntaxError::at("\"a\"", "this has to be a table")
        );
        assert!(error("[a]\n[a]\n").place.starts_with("line 2"));
    }
}
