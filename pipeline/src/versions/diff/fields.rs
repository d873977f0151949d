//! Differences of nested settings, by the path of each field.

use std::collections::BTreeMap;

use cm3flow_schemas::version::VersionManifest;
use serde::Serialize;
use serde_json::{Value, json};

/// Characters of a value that are shown, at most.
const MAX_SHOWN: usize = 80;

/// A field with different values in two versions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldChange {
    /// Path of the field, parts joined by `.`.
    pub field: String,
    /// Value in the first version; `None` without it. Long values are cut.
    pub before: Option<String>,
    /// Value in the second version; `None` without it. Long values are cut.
    pub after: Option<String>,
}

/// Lists the different fields of configuration, seed, artefacts, preparation and numerics class.
pub(super) fn settings(before: &VersionManifest, after: &VersionManifest) -> Vec<FieldChange> {
    let settings = |manifest: &VersionManifest| {
        json!({
            "config": manifest.config,
            "seed": manifest.seed,
            "seq_len": manifest.seq_len,
            "artefacts": manifest.artefacts,
            "preparation": manifest.preparation,
            "numerics": manifest.numerics,
        })
    };
    compare(&settings(before), &settings(after))
}

/// Lists the different fields of the vocabularies.
pub(super) fn vocabulary(before: &VersionManifest, after: &VersionManifest) -> Vec<FieldChange> {
    compare(&json!(before.vocabulary), &json!(after.vocabulary))
}

/// Lists all fields of two values that differ, sorted by path.
pub(crate) fn compare(before: &Value, after: &Value) -> Vec<FieldChange> {
    let (mut all, mut new) = (BTreeMap::new(), BTreeMap::new());
    flatten("", before, &mut all);
    flatten("", after, &mut new);
    let mut changes = Vec::new();
    for (field, before) in &all {
        if new.get(field) != Some(before) {
            changes.push(FieldChange {
                field: field.clone(),
                before: Some(shown(before)),
                after: new.get(field).map(|value| shown(value)),
            });
        }
    }
    for (field, after) in new.iter().filter(|(field, _)| !all.contains_key(*field)) {
        changes.push(FieldChange { field: field.clone(), before: None, after: Some(shown(after)) });
    }
    changes.sort_by(|a, b| a.field.cmp(&b.field));
    changes
}

/// Takes objects and lists of objects apart. Other lists are single values, since their places have no names.
fn flatten<'a>(path: &str, value: &'a Value, out: &mut BTreeMap<String, &'a Value>) {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match value {
        Value::Null => {}
        Value::Object(fields) => fields.iter().for_each(|(name, value)| flatten(&below(name), value, out)),
        Value::Array(items) if items.iter().any(Value::is_object) => {
            items.iter().enumerate().for_each(|(index, item)| flatten(&below(&index.to_string()), item, out));
        }
        _ => {
            out.insert(path.to_owned(), value);
        }
    }
}

fn shown(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        value => value.to_string(),
    };
    if text.chars().count() <= MAX_SHOWN { text } else { text.chars().take(MAX_SHOWN).chain(['…']).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_named_by_their_paths() {
        let before = json!({"pack": {"seq_len": 512, "old": true}, "tasks": [{"name": "pair"}], "shapes": [1, 2]});
        let after = json!({"pack": {"seq_len": 700, "old": null}, "tasks": [{"name": "pair"}, {"name": "box"}], "shapes": [1, 3]});
        let changes = compare(&before, &after);
        let shown: Vec<String> = changes.iter().map(|change| format!("{} {:?} {:?}", change.field, change.before, change.after)).collect();
        assert_eq!(
            shown,
            [
                r#"pack.old Some("true") None"#,
                r#"pack.seq_len Some("512") Some("700")"#,
                r#"shapes Some("[1,2]") Some("[1,3]")"#,
                r#"tasks.1.name None Some("box")"#,
            ]
        );
        assert!(compare(&before, &before).is_empty());
    }

    #[test]
    fn long_values_are_cut() {
        let changes = compare(&json!({"order": "0 ".repeat(1000)}), &json!({}));
        assert_eq!(changes[0].before.as_ref().map(|value| value.chars().count()), Some(MAX_SHOWN + 1));
    }
}
