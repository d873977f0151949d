//! Values of JSON, read as what is meant: numbers and truth values are texts where texts are meant, a list of one is its entry, `null` is
//! missing.

use serde_json::{Map, Value};

/// Longest part of a name that a message quotes.
const MAX_NAME_CHARS: usize = 40;
/// Most names that a message lists.
const MAX_NAMES: usize = 6;

/// The kind of a value, in words.
pub(super) const fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(true) => "true",
        Value::Bool(false) => "false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Entries of a list that are not null, with their places from 1 on; what is no list is a list of one.
pub(super) fn entries(value: &Value) -> impl Iterator<Item = (usize, &Value)> {
    let entries = match value {
        Value::Array(entries) => entries.as_slice(),
        _ => std::slice::from_ref(value),
    };
    (1..).zip(entries).filter(|(_, entry)| !entry.is_null())
}

/// The value that is meant where one is: a list of one is its entry, an empty list is missing. `None` for a list of several.
pub(super) fn single(value: &Value) -> Option<&Value> {
    match value {
        Value::Array(entries) => {
            let mut there = entries.iter().filter(|entry| !entry.is_null());
            match (there.next(), there.next()) {
                (None, _) => Some(&Value::Null),
                (Some(entry), None) => single(entry),
                (Some(_), Some(_)) => None,
            }
        }
        value => Some(value),
    }
}

/// A text, if it is not missing.
///
/// # Errors
/// The kind of a value that is no text.
pub(super) fn text(value: &Value) -> Result<Option<String>, &'static str> {
    match single(value).ok_or("a list")? {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.clone())),
        scalar @ (Value::Bool(_) | Value::Number(_)) => Ok(Some(scalar.to_string())),
        other => Err(kind(other)),
    }
}

/// As [`text`], where several texts are meant as one: they are joined.
///
/// # Errors
/// What there is instead, for people.
pub(super) fn joined(value: &Value, joint: &str) -> Result<Option<String>, String> {
    let mut texts = Vec::new();
    for (place, entry) in entries(value) {
        texts.extend(text(entry).map_err(|kind| match value.is_array() {
            true => format!("a list whose entry {place} is {kind}"),
            false => kind.to_owned(),
        })?);
    }
    Ok((!texts.is_empty()).then(|| texts.join(joint)))
}

/// Name of a file, if it is not missing: a text that is not empty. A number is no name.
///
/// # Errors
/// The kind of a value that is no name.
pub(super) fn name(value: &Value) -> Result<Option<String>, &'static str> {
    match single(value).ok_or("a list")? {
        Value::Null => Ok(None),
        Value::String(name) if name.trim().is_empty() => Err("an empty text"),
        Value::String(name) => Ok(Some(name.clone())),
        other => Err(kind(other)),
    }
}

/// A finite number, if it is not missing; it may be written as a text.
///
/// # Errors
/// The kind of a value that is no number.
pub(super) fn number(value: &Value) -> Result<Option<f64>, &'static str> {
    let number = match single(value).ok_or("a list")? {
        Value::Null => None,
        Value::Number(number) => number.as_f64(),
        Value::String(text) => Some(text.trim().parse::<f64>().map_err(|_| "a text")?),
        other => return Err(kind(other)),
    };
    Ok(number.filter(|number| number.is_finite()))
}

/// A kind as the rest of a sentence.
pub(super) fn is(kind: &str) -> String {
    format!("is {kind}")
}

/// An object.
///
/// # Errors
/// What the value is instead, as the rest of a sentence.
pub(super) fn object(value: &Value) -> Result<&Map<String, Value>, String> {
    value.as_object().ok_or_else(|| is(kind(value)))
}

/// What `read` makes of the field `field` of an object; `None` if it is missing.
///
/// # Errors
/// What the object has instead, as the rest of a sentence.
pub(super) fn optional<T>(
    object: &Map<String, Value>,
    field: &str,
    read: fn(&Value) -> Result<Option<T>, &'static str>,
) -> Result<Option<T>, String> {
    let Some(value) = object.get(field) else { return Ok(None) };
    read(value).map_err(|kind| format!("has {kind} as {field:?}"))
}

/// As [`optional`], for a field that must be there.
///
/// # Errors
/// As [`optional`].
pub(super) fn required<T>(
    object: &Map<String, Value>,
    field: &str,
    read: fn(&Value) -> Result<Option<T>, &'static str>,
) -> Result<T, String> {
    optional(object, field, read)?.ok_or_else(|| match object.keys().any(|name| name != field) {
        true => format!("has no {field:?} but {}", listed(object.keys().map(String::as_str).filter(|name| *name != field))),
        false => format!("has no {field:?}"),
    })
}

/// Names in quotes; the first few of many.
pub(super) fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    let mut listed: Vec<String> = names.iter().take(MAX_NAMES).map(|name| quoted(name)).collect();
    if let Some(more) = names.len().checked_sub(MAX_NAMES).filter(|more| *more > 0) {
        listed.push(format!("{more} more"));
    }
    listed.join(", ")
}

/// A name in quotes, the beginning of a long one.
pub(super) fn quoted(name: &str) -> String {
    match name.char_indices().nth(MAX_NAME_CHARS) {
        Some((end, _)) => format!("{:?}…", &name[..end]),
        None => format!("{name:?}"),
    }
}
