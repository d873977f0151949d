//! Says where two vocabularies differ.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::Vocabulary;
use crate::error::VocabularyError;

impl Vocabulary {
    /// Checks that `other` is this vocabulary; the name does not matter.
    ///
    /// # Errors
    /// [`VocabularyError::Different`] with the first field that is not, or the first code whose place is not.
    pub fn check_same(&self, other: &Self) -> Result<(), VocabularyError> {
        let (ours, theirs) = (fields(self), fields(other));
        let names: BTreeSet<&String> = ours.keys().chain(theirs.keys()).filter(|name| *name != "name").collect();
        let Some(name) = names.into_iter().find(|name| ours.get(*name) != theirs.get(*name)) else { return Ok(()) };
        let orders = (&self.image_order, &other.image_order);
        if let Some(code) = (name == "image_order").then(|| orders.0.iter().zip(orders.1).position(|(a, b)| a != b)).flatten() {
            let [ours, theirs] = [orders.0, orders.1].map(|order| order[code].to_string());
            return Err(VocabularyError::Different { field: format!("image_order[{code}]"), ours, theirs });
        }
        Err(VocabularyError::Different { field: name.clone(), ours: shown(ours.get(name)), theirs: shown(theirs.get(name)) })
    }
}

fn fields(vocabulary: &Vocabulary) -> Map<String, Value> {
    match serde_json::to_value(vocabulary) {
        Ok(Value::Object(fields)) => fields,
        _ => unreachable!("a vocabulary serializes to an object"),
    }
}

/// A field as an error shows it: fields with their default are not written, tables are long.
fn shown(value: Option<&Value>) -> String {
    match value {
        None => "none".to_owned(),
        Some(Value::String(table)) => format!("a table of {}", table.split_ascii_whitespace().count()),
        Some(value) => value.to_string(),
    }
}
