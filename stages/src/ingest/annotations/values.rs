//! Lenient reading of JSON values: numbers and booleans count as texts where texts are expected, a list of one is its entry, and `null` is
//! missing.

use serde_json::{Map, Value};

/// Longest quoted part of a name in a message, in characters.
const MAX_NAME_CHARS: usize = 40;
/// Largest number of names that a message lists.
const MAX_NAMES: usize = 6;

/// Returns the kind of a value, in words.
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

/// Iterates over the entries of a list that are not null, with their places from 1 on. A single value is a list of one.
pub(super) fn entries(value: &Value) -> impl Iterator<Item = (usize, &Value)> {
    let entries = match value {
        Value::Array(entries) => entries.as_slice(),
        _ => std::slice::from_ref(value),
    };
    (1..).zip(entries).filter(|(_, entry)| !entry.is_null())
}

/// Returns the single value: a list of one is its entry, an empty list is missing. `None` for a list of several.
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

/// Reads a text; `None` if it is missing.
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

/// Reads as [`text`], and joins several texts to one.
///
/// # Errors
/// The mismatch, for people.
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

/// Reads the name of a file, a text that is not empty; `None` if it is missing. A number is no name.
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

/// Reads a finite number, which may be written as text; `None` if it is missing.
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

/// Returns a kind as the rest of a sentence.
pub(super) fn is(kind: &str) -> String {
    format!("is {kind}")
}

/// Returns the value as an object.
///
/// # Errors
/// The kind of another value, as the rest of a sentence.
pub(super) fn object(value: &Value) -> Result<&Map<String, Value>, String> {
    value.as_object().ok_or_else(|| is(kind(value)))
}

/// Applies `read` to the field `field` of an object; `None` if it is missing.
///
/// # Errors
/// The mismatch, as the rest of a sentence.
pub(super) fn optional<T>(
    object: &Map<String, Value>,
    field: &str,
    read: fn(&Value) -> Result<Option<T>, &'static str>,
) -> Result<Option<T>, String> {
    let Some(value) = object.get(field) else { return Ok(None) };
    read(value).map_err(|kind| format!("has {kind} as {field:?}"))
}

/// Reads as [`optional`] a field that must exist.
///
/// # Errors
/// Those of [`optional`], and a missing field.
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

/// Lists names in quotes; of many, the first few.
pub(super) fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    let mut listed: Vec<String> = names.iter().take(MAX_NAMES).map(|name| quoted(name)).collect();
    if let Some(more) = names.len().checked_sub(MAX_NAMES).filter(|more| *more > 0) {
        listed.push(format!("{more} more"));
    }
    listed.join(", ")
}

/// Quotes a name; of a long one, the beginning.
pub(super) fn quoted(name: &str) -> String {
    match name.char_indices().nth(MAX_NAME_CHARS) {
        Some((end, _)) => format!("{:?}…", &name[..end]),
        None => format!("{name:?}"),
    }
}
