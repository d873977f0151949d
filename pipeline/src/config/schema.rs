//! The JSON Schema of a configuration, derived from the types that read it.
//!
//! It is of draft 7, the newest that Taplo reads, and holds neither references nor `null`, which TOML lacks: whoever walks it finds all facts of a
//! field in one place.

use std::mem;

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use super::{Config, facts};

/// Keywords that hold schemas of parts of a value.
const PARTS: [&str; 4] = ["items", "additionalProperties", "anyOf", "oneOf"];

/// The JSON Schema of a configuration, for editors. Each description of a field ends with the field's facts: type, range and default.
#[must_use]
pub fn schema() -> Value {
    let mut schema = tree();
    add_facts(&mut schema);
    schema
}

/// The schema with notes for people: `x-default`, a default in words; `x-presets`, defaults of presets; `x-key`, a word for the keys of a table.
pub(super) fn tree() -> Value {
    let mut schema = SchemaSettings::draft07().into_generator().into_root_schema_for::<Config>().to_value();
    let definitions = match schema.as_object_mut().and_then(|schema| schema.remove("definitions")) {
        Some(Value::Object(definitions)) => definitions,
        _ => Map::new(),
    };
    tidy(&mut schema, &definitions);
    schema["title"] = "Configuration of cm3flow".into();
    schema
}

/// Checks whether a field must be given.
pub(super) fn is_required(table: &Value, field: &str) -> bool {
    table["required"].as_array().is_some_and(|required| required.iter().any(|name| name == field))
}

/// Writes out references, drops `null`, and makes texts of comments.
fn tidy(schema: &mut Value, definitions: &Map<String, Value>) {
    match schema {
        Value::Array(schemas) => schemas.iter_mut().for_each(|schema| tidy(schema, definitions)),
        Value::Object(schema) => {
            tidy_text(schema);
            while let Some(more) = referred(schema, definitions).or_else(|| only_alternative(schema)) {
                for (keyword, value) in more {
                    schema.entry(keyword).or_insert(value);
                }
                tidy_text(schema);
            }
            tidy_default(schema);
            // Left out of keys, which a reader of configurations does not see.
            schema.remove("writeOnly");
            for part in PARTS {
                schema.get_mut(part).into_iter().for_each(|part| tidy(part, definitions));
            }
            if let Some(Value::Object(fields)) = schema.get_mut("properties") {
                fields.values_mut().for_each(|field| tidy(field, definitions));
            }
        }
        _ => {}
    }
}

/// Takes the reference out of a schema. Returns the definition that it refers to.
fn referred(schema: &mut Map<String, Value>, definitions: &Map<String, Value>) -> Option<Map<String, Value>> {
    let reference = schema.remove("$ref").or_else(|| match schema.remove("allOf")? {
        Value::Array(mut all) => all.pop()?.as_object_mut()?.remove("$ref"),
        _ => None,
    })?;
    definitions.get(reference.as_str()?.rsplit('/').next()?)?.as_object().cloned()
}

/// Takes `null` out of what a schema allows. Returns the alternative that is left, if there is only one.
fn only_alternative(schema: &mut Map<String, Value>) -> Option<Map<String, Value>> {
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|kind| kind != "null");
        if let [only] = &types[..] {
            let only = only.clone();
            schema.insert("type".into(), only);
        }
    }
    let Some(Value::Array(alternatives)) = schema.get_mut("anyOf") else { return None };
    alternatives.retain(|alternative| alternative["type"] != "null");
    if alternatives.len() > 1 {
        return None;
    }
    let only = alternatives.pop();
    schema.remove("anyOf");
    match only {
        Some(Value::Object(only)) => Some(only),
        _ => None,
    }
}

fn tidy_text(schema: &mut Map<String, Value>) {
    let text = schema.get("description").and_then(Value::as_str).map(text);
    match text {
        Some(text) if text.is_empty() => drop(schema.remove("description")),
        Some(text) => drop(schema.insert("description".into(), text.into())),
        None => {}
    }
}

/// The text of a comment for users: without sections of rustdoc, links into the code, ends of lines, and the header of the table, which stands above.
fn text(comment: &str) -> String {
    let paragraphs = comment.split("\n\n").take_while(|paragraph| !paragraph.starts_with('#'));
    let paragraphs: Vec<String> = paragraphs.map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    let text = paragraphs.join("\n\n").replace("[`", "`").replace("`]", "`");
    let Some((_, rest)) = text.strip_prefix("`[").and_then(|text| text.split_once("]`")) else { return text };
    let rest = rest.trim_start_matches([':', '.']).trim_start();
    let first = rest.chars().next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    first + rest.get(rest.chars().next().map_or(0, char::len_utf8)..).unwrap_or_default()
}

/// Drops defaults that are no values of TOML, or of which only words are true everywhere; whole tables are given field by field.
fn tidy_default(schema: &mut Map<String, Value>) {
    if schema.contains_key("x-default") || matches!(schema.get("default"), Some(Value::Null | Value::Object(_))) {
        schema.remove("default");
    }
    if schema.get("format").is_some_and(|format| format == "float")
        && let Some(default) = schema.get_mut("default")
        && let Some(value) = default.as_f64()
    {
        // As the source has it: 0.9 is not 0.8999999761581421.
        *default = (value as f32).to_string().parse::<f64>().map_or(Value::Null, Value::from);
    }
}

fn add_facts(schema: &mut Value) {
    match schema {
        Value::Array(schemas) => schemas.iter_mut().for_each(add_facts),
        Value::Object(_) => {
            let table = schema.clone();
            if let Some(Value::Object(fields)) = schema.get_mut("properties") {
                for (name, field) in fields {
                    let description = field["description"].as_str().unwrap_or_default();
                    let facts = facts::of(name, field, is_required(&table, name));
                    let described = if field.get("const").is_some() { None } else { Some(format!("{description}\n\n{facts}")) };
                    add_facts(field);
                    if let Some(described) = described {
                        field["description"] = described.trim_start().into();
                    }
                }
            }
            for part in PARTS {
                schema.get_mut(part).into_iter().for_each(add_facts);
            }
            if let Value::Object(schema) = schema {
                *schema = mem::take(schema).into_iter().filter(|(keyword, _)| !keyword.starts_with("x-")).collect();
            }
        }
        _ => {}
    }
}

#[cfg(test)]
pub(super) mod tests;
