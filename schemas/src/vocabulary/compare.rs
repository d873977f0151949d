//! Comparison of vocabularies: names the first difference.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::Vocabulary;
use crate::error::VocabularyError;

impl Vocabulary {
    /// Checks that `other` equals this vocabulary. The name does not matter.
    ///
    /// # Errors
    /// [`VocabularyError::Different`] with the first field that differs, or the first code with another place.
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

/// Formats a field for an error. Fields with the default value are absent; tables are long.
fn shown(value: Option<&Value>) -> String {
    match value {
        None => "none".to_owned(),
        Some(Value::String(table)) => format!("a table of {}", table.split_ascii_whitespace().count()),
        Some(value) => value.to_string(),
    }
}
