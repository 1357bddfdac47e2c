//! Changes of a JSON text that leave everything else in it as it is: order, spaces, line breaks.

use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::error::SyntaxError;

/// What is put below another by default.
const UNIT: &str = "  ";

/// An object's members, in order, each with its value as it is written.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Members<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Reader)
    }
}

/// An object in a text.
struct Object<'a> {
    text: &'a str,
    /// From its bracket to its bracket.
    range: Range<usize>,
    /// Names, and where their values are.
    members: Vec<(String, Range<usize>)>,
}

impl<'a> Object<'a> {
    /// The object at a place of a text; `name` is what it is called in errors.
    fn at(text: &'a str, range: Range<usize>, name: &[String]) -> Result<Self, SyntaxError> {
        let slice = text.get(range.clone()).unwrap_or_default();
        let members = serde_json::from_str::<Members<'_>>(slice).map_err(|error| {
            if name.is_empty() && !error.is_data() {
                malformed(&error)
            } else {
                SyntaxError::at(named(name), "this has to be an object")
            }
        })?;
        let start = text.as_ptr().addr();
        let members = members.0.into_iter().map(|(key, value)| {
            let begin = value.get().as_ptr().addr().saturating_sub(start);
            (key, begin..begin.saturating_add(value.get().len()))
        });
        let members = members.collect();
        Ok(Self { text, range, members })
    }

    /// The whole of a text.
    fn whole(text: &'a str) -> Result<Self, SyntaxError> {
        let begin = text.len().saturating_sub(text.trim_start().len());
        Self::at(text, begin..text.trim_end().len(), &[])
    }

    /// Which member has this name: engines take the last of several, people perhaps another.
    fn find(&self, key: &str, name: &[String]) -> Result<Option<usize>, SyntaxError> {
        let mut found = (0_usize..)
            .zip(&self.members)
            .filter(|(_, (name, _))| name == key)
            .map(|(index, _)| index);
        let first = found.next();
        match found.next() {
            Some(_) => Err(SyntaxError::at(named(name), format!("{key:?} is there twice"))),
            None => Ok(first),
        }
    }

    fn value(&self, index: usize) -> Option<Range<usize>> {
        self.members.get(index).map(|(_, range)| range.clone())
    }

    /// The white space between the bracket and the first member.
    fn gap(&self) -> &'a str {
        let inside = self.range.start.saturating_add(1)..self.range.end;
        let inside = self.text.get(inside).unwrap_or_default();
        let length = inside.len().saturating_sub(inside.trim_start().len());
        inside.get(..length).unwrap_or_default()
    }
}

/// The value of a setting.
///
/// # Errors
/// [`SyntaxError`]
pub fn get(text: &str, keys: &[String]) -> Result<Option<Value>, SyntaxError> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    let mut object = Object::whole(text)?;
    for (depth, key) in (0_usize..).zip(keys) {
        let name = keys.get(..depth).unwrap_or_default();
        let Some(range) = object.find(key, name)?.and_then(|index| object.value(index)) else {
            return Ok(None);
        };
        let below = keys.get(..depth.saturating_add(1)).unwrap_or_default();
        if below.len() == keys.len() {
            let raw = text.get(range).unwrap_or_default();
            return serde_json::from_str(raw)
                .map(Some)
                .map_err(|error| malformed(&error));
        }
        object = Object::at(text, range, below)?;
    }
    serde_json::from_str(text)
        .map(Some)
        .map_err(|error| malformed(&error))
}

/// The text with a setting.
///
/// # Errors
/// [`SyntaxError`]
pub fn set(text: &str, keys: &[String], value: &Value) -> Result<String, SyntaxError> {
    let text = if text.trim().is_empty() { "{}\n" } else { text };
    let unit = unit(Object::whole(text)?.gap());
    let mut object = Object::whole(text)?;
    for (depth, key) in (0_usize..).zip(keys) {
        let name = keys.get(..depth).unwrap_or_default();
        let below = keys.get(depth.saturating_add(1)..).unwrap_or_default();
        let Some(range) = object.find(key, name)?.and_then(|index| object.value(index)) else {
            return Ok(insert(&object, key, below, value, unit));
        };
        if below.is_empty() {
            return Ok(splice(text, range, &value.to_string()));
        }
        object = Object::at(
            text,
            range,
            keys.get(..depth.saturating_add(1)).unwrap_or_default(),
        )?;
    }
    Ok(text.to_owned())
}

/// The text without a setting.
///
/// # Errors
/// [`SyntaxError`]
pub fn remove(text: &str, keys: &[String]) -> Result<String, SyntaxError> {
    let mut object = Object::whole(text)?;
    for (depth, key) in (0_usize..).zip(keys) {
        let name = keys.get(..depth).unwrap_or_default();
        let Some(index) = object.find(key, name)? else {
            break;
        };
        let Some(range) = object.value(index) else { break };
        let below = keys.get(..depth.saturating_add(1)).unwrap_or_default();
        if below.len() == keys.len() {
            return Ok(splice(text, extent(&object, index, range), ""));
        }
        object = Object::at(text, range, below)?;
    }
    Ok(text.to_owned())
}

/// A member with one of its commas.
fn extent(object: &Object<'_>, index: usize, value: Range<usize>) -> Range<usize> {
    if let Some(before) = index.checked_sub(1).and_then(|before| object.value(before)) {
        return before.end..value.end;
    }
    let start = object.range.start.saturating_add(1);
    let rest = object.text.get(value.end..object.range.end).unwrap_or_default();
    match rest.find(',') {
        Some(comma) if object.members.len() > 1 => start..value.end.saturating_add(comma).saturating_add(1),
        // Nothing else is in it, so the white space goes, too.
        _ => start..object.range.end.saturating_sub(1),
    }
}

/// The text with one more member at the end of an object, set out as its others are.
fn insert(object: &Object<'_>, key: &str, below: &[String], value: &Value, unit: &str) -> String {
    let (text, gap) = (object.text, object.gap());
    if let Some((_, last)) = object.members.last() {
        let member = if gap.contains('\n') {
            let indent = gap.rsplit('\n').next().unwrap_or_default();
            format!(",{gap}{}", member(key, below, value, Some((indent, unit))))
        } else {
            format!(", {}", member(key, below, value, None))
        };
        return splice(text, last.end..last.end, &member);
    }
    let line = text.get(..object.range.start).unwrap_or_default();
    let line = line.rsplit('\n').next().unwrap_or_default();
    let outer = line.get(..line.len().saturating_sub(line.trim_start().len()));
    let outer = outer.unwrap_or_default();
    let indent = format!("{outer}{unit}");
    let member = member(key, below, value, Some((&indent, unit)));
    splice(
        text,
        object.range.clone(),
        &format!("{{\n{indent}{member}\n{outer}}}"),
    )
}

/// A member with the objects around its value; on lines of their own, if `lines` says with which indentation.
fn member(key: &str, below: &[String], value: &Value, lines: Option<(&str, &str)>) -> String {
    let key = Value::from(key);
    let Some((next, below)) = below.split_first() else {
        return format!("{key}: {value}");
    };
    match lines {
        None => format!("{key}: {{ {} }}", member(next, below, value, None)),
        Some((indent, unit)) => {
            let inner = format!("{indent}{unit}");
            let member = member(next, below, value, Some((&inner, unit)));
            format!("{key}: {{\n{inner}{member}\n{indent}}}")
        }
    }
}

/// What members of the whole are indented by.
fn unit(gap: &str) -> &str {
    match gap.rsplit_once('\n') {
        Some((_, indent)) if !indent.is_empty() => indent,
        _ => UNIT,
    }
}

fn splice(text: &str, range: Range<usize>, new: &str) -> String {
    let mut text = text.to_owned();
    text.replace_range(range, new);
    text
}

fn named(keys: &[String]) -> String {
    match keys {
        [] => "the whole".to_owned(),
        keys => format!("{:?}", keys.join(".")),
    }
}

/// Where the text breaks off or goes wrong, in the parser's words without its own account of the place.
fn malformed(error: &serde_json::Error) -> SyntaxError {
    let place = format!("line {}, column {}", error.line(), error.column());
    let told = error.to_string();
    let reason = told.split(" at line ").next().unwrap_or_default();
    SyntaxError::at(place, reason)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn keys(text: &str) -> Vec<String> {
        text.split('.').map(str::to_owned).collect()
    }

    fn with(text: &str, key: &str) -> String {
        set(text, &keys(key), &json!("/bin/x")).unwrap()
    }

    #[test]
    fn a_member_is_set_out_as_the_others_are() {
        for (before, after) in [
            ("", "{\n  \"a\": {\n    \"b\": \"/bin/x\"\n  }\n}\n"),
            ("{}", "{\n  \"a\": {\n    \"b\": \"/bin/x\"\n  }\n}"),
            ("{\"z\": 1}", "{\"z\": 1, \"a\": { \"b\": \"/bin/x\" }}"),
            (
                "{\n\t\"z\": [1,\n2],\n\t\"y\":{}\n}\n",
                "{\n\t\"z\": [1,\n2],\n\t\"y\":{},\n\t\"a\": {\n\t\t\"b\": \"/bin/x\"\n\t}\n}\n",
            ),
            (
                "{\n    \"a\": {}, \"z\": 1\n}\n",
                "{\n    \"a\": {\n        \"b\": \"/bin/x\"\n    }, \"z\": 1\n}\n",
            ),
            (
                "{\"a\" : {\"b\" :  \"old\" , \"c\": 1}}",
                "{\"a\" : {\"b\" :  \"/bin/x\" , \"c\": 1}}",
            ),
        ] {
            let text = with(before, "a.b");
            assert_eq!(text, after, "{before}");
            assert_eq!(get(&text, &keys("a.b")).unwrap(), Some(json!("/bin/x")));
            assert_eq!(with(&text, "a.b"), text);
        }
    }

    #[test]
    fn what_is_removed_leaves_the_rest() {
        for (before, after) in [
            ("{\"z\": 1, \"a\": 2}", "{\"z\": 1}"),
            ("{ \"a\": 2, \"z\": 1 }", "{ \"z\": 1 }"),
            (
                "{\n  \"y\": 0,\n  \"a\": [1, 2],\n  \"z\": 1\n}\n",
                "{\n  \"y\": 0,\n  \"z\": 1\n}\n",
            ),
            ("{\n  \"a\": 1\n}\n", "{}\n"),
            ("{\"z\": 1}", "{\"z\": 1}"),
        ] {
            assert_eq!(remove(before, &keys("a")).unwrap(), after, "{before}");
        }
        let before = "{\n  \"z\": \"é, {\",\n  \"y\": {\"k\": 1}\n}\n";
        assert_eq!(remove(&with(before, "y.a.b"), &keys("y.a")).unwrap(), before);
        assert_eq!(remove(&with(before, "a.b"), &keys("a")).unwrap(), before);
    }

    #[test]
    fn a_malformed_text_is_told_with_its_place() {
        let error = |text: &str| set(text, &keys("a.b"), &json!(1)).unwrap_err();
        let told = error("{\n  \"z\": 1,\n}\n");
        assert_eq!(
            (told.place.as_str(), told.reason.as_str()),
            ("line 3, column 1", "trailing comma")
        );
        assert_eq!(
            error("[]"),
            SyntaxError::at("the whole", "this has to be an object")
        );
        assert_eq!(
            error("{\"a\": 1}"),
            SyntaxError::at("\"a\"", "this has to be an object")
        );
        assert_eq!(
            error("{\"a\": {}, \"a\": {}}"),
            SyntaxError::at("the whole", "\"a\" is there twice")
        );
        assert!(error("{\"z\": 1} x").place.starts_with("line 1"));
        assert!(get("{\"a\": 1", &keys("a")).is_err());
        assert!(remove("{", &keys("a")).is_err());
    }
}
