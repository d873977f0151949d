//! Takes fields of an object one by one, and keeps account of what could not be read.

use cm3flow_schemas::sample::DroppedPart;
use serde_json::{Map, Value};

use super::json::Fields;
use super::values::{entries, is, joined, kind, quoted, single, text};

/// What a field is expected to be: its name in JSON, and words for its values.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) field: &'static str,
    pub(super) expected: &'static str,
}

/// Fields about the sample that no document needs: one that cannot be read is counted and is no problem.
pub(super) const MENTIONS: [&str; 3] = ["license", "credit", "source"];

/// The fields of an object that have yet to be read.
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

    /// Why parts could not be read, if some could not.
    pub(super) fn problem(&self) -> Option<String> {
        (!self.problems.is_empty()).then(|| self.problems.join("; "))
    }

    /// A list; what is no list is a list of one. An entry that `read` refuses is left out alone.
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

    /// As [`Self::list`], but all of it is left out if one entry is refused.
    pub(super) fn whole_list<T>(&mut self, shape: Shape, read: impl Fn(&Value) -> Result<Option<T>, String>) -> Vec<T> {
        let lost = self.problems.len();
        let found = self.list(shape, read);
        if self.problems.len() == lost { found } else { Vec::new() }
    }

    /// A list of texts.
    pub(super) fn texts(&mut self, field: &'static str) -> Vec<String> {
        self.list(Shape { field, expected: "a text or a list of texts" }, |value| text(value).map_err(is))
    }

    /// A text; several are joined.
    pub(super) fn text(&mut self, field: &'static str, joint: &str) -> Option<String> {
        let value = self.fields.take(field)?;
        joined(&value, joint).unwrap_or_else(|what| {
            self.misfits(Shape { field, expected: "a text" }, vec![what]);
            None
        })
    }

    /// The [`MENTIONS`], in their order.
    pub(super) fn mentions(&mut self) -> [Option<String>; 3] {
        MENTIONS.map(|field| {
            let value = self.fields.take(field)?;
            joined(&value, ", ").unwrap_or_else(|_| {
                self.count(field, 1);
                None
            })
        })
    }

    /// An object whose names mean something. `read` makes several things of a name with its value, each of which is left out alone.
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

    /// Counts what could not be read of a field, and says so of the first.
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
