//! Reader that takes the fields of an object one by one, and records those that it could not read.

use cm3flow_schemas::sample::DroppedPart;
use serde_json::{Map, Value};

use super::json::Fields;
use super::values::{entries, is, joined, kind, quoted, single, text};

/// Expected form of a field: its name in JSON, and a description of its values.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) field: &'static str,
    pub(super) expected: &'static str,
}

/// Names of fields about the sample that no document needs. An unreadable one is counted, but is no problem.
pub(super) const MENTIONS: [&str; 3] = ["license", "credit", "source"];

/// Fields of an object that are still to be read.
pub(super) struct Reader {
    fields: Fields,
    /// Parts that could not be read, by `annotations.FIELD`, and others.
    pub(super) dropped: Vec<DroppedPart>,
    problems: Vec<String>,
}

impl Reader {
    pub(super) fn new(fields: Fields) -> Self {
        let mut reader = Self { fields, dropped: Vec::new(), problems: Vec::new() };
        for field in std::mem::take(&mut reader.fields.repeated) {
            reader.count(field, 1);
            if !MENTIONS.contains(&field) {
                reader.problems.push(format!("field {field}: it stands more than once, the last one counts"));
            }
        }
        reader
    }

    /// Returns the problems of unreadable parts, if there are any.
    pub(super) fn problem(&self) -> Option<String> {
        (!self.problems.is_empty()).then(|| self.problems.join("; "))
    }

    /// Reads a list; a single value is a list of one. An entry that `read` refuses is left out.
    pub(super) fn list<T>(&mut self, shape: Shape, read: impl Fn(&Value) -> Result<Option<T>, String>) -> Vec<T> {
        let Some(value) = self.fields.take(shape.field) else { return Vec::new() };
        let (mut found, mut misfits) = (Vec::new(), Vec::new());
        for (place, entry) in entries(&value) {
            match read(entry) {
                Ok(entry) => found.extend(entry),
                Err(what) if value.is_array() => misfits.push(format!("a list whose entry {place} {what}")),
                Err(what) => misfits.push(what.strip_prefix("is ").map_or_else(|| format!("an object that {what}"), str::to_owned)),
            }
        }
        self.misfits(shape, misfits);
        found
    }

    /// Reads as [`Self::list`], but leaves out the whole list if one entry is refused.
    pub(super) fn whole_list<T>(&mut self, shape: Shape, read: impl Fn(&Value) -> Result<Option<T>, String>) -> Vec<T> {
        let lost = self.problems.len();
        let found = self.list(shape, read);
        if self.problems.len() == lost { found } else { Vec::new() }
    }

    /// Reads a list of texts.
    pub(super) fn texts(&mut self, field: &'static str) -> Vec<String> {
        self.list(Shape { field, expected: "a text or a list of texts" }, |value| text(value).map_err(is))
    }

    /// Reads a text; several are joined.
    pub(super) fn text(&mut self, field: &'static str, joint: &str) -> Option<String> {
        let value = self.fields.take(field)?;
        joined(&value, joint).unwrap_or_else(|what| {
            self.misfits(Shape { field, expected: "a text" }, vec![what]);
            None
        })
    }

    /// Reads the [`MENTIONS`], in their order.
    pub(super) fn mentions(&mut self) -> [Option<String>; 3] {
        MENTIONS.map(|field| {
            let value = self.fields.take(field)?;
            joined(&value, ", ").unwrap_or_else(|_| {
                self.count(field, 1);
                None
            })
        })
    }

    /// Reads an object whose names have a meaning. `read` turns a name with its value into several items; a refused one is left out.
    pub(super) fn map<T>(&mut self, shape: Shape, read: impl Fn(&str, &Value) -> Vec<Result<T, String>>) -> Vec<T> {
        let Some(value) = self.fields.take(shape.field) else { return Vec::new() };
        let empty = Map::new();
        let named = match single(&value) {
            Some(Value::Null) => &empty,
            Some(Value::Object(named)) => named,
            other => {
                self.misfits(shape, vec![other.map_or("a list", kind).to_owned()]);
                return Vec::new();
            }
        };
        let (mut found, mut misfits) = (Vec::new(), Vec::new());
        for (name, value) in named.iter().filter(|(_, value)| !value.is_null()) {
            for entry in read(name, value) {
                match entry {
                    Ok(entry) => found.push(entry),
                    Err(what) => misfits.push(format!("an object whose {} {what}", quoted(name))),
                }
            }
        }
        self.misfits(shape, misfits);
        found
    }

    /// Counts the unreadable parts of a field, and describes the first.
    fn misfits(&mut self, Shape { field, expected }: Shape, misfits: Vec<String>) {
        self.count(field, misfits.len() as u64);
        let Some(first) = misfits.first() else { return };
        let more = match misfits.len() - 1 {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        self.problems.push(format!("field {field}: expected {expected}, got {first}{more}"));
    }

    fn count(&mut self, field: &str, parts: u64) {
        DroppedPart::add(&mut self.dropped, &format!("annotations.{field}"), parts);
    }
}
