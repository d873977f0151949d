//! The reference of the configuration: `guide/configuration.md`, made from the schema.

use std::collections::BTreeSet;
use std::fmt::Write;

use serde_json::Value;

use super::{Config, facts, schema};

const HEAD: &str = "\
<!-- Made by `cm3flow config --reference`. -->
# Configuration

A configuration is one TOML file, which most commands take: `cm3flow run FILE`. Only `[dataset]` and one `[[source]]` are required. A relative path
starts from the file's folder. The file is checked as a whole before anything runs, and every bad field is named by its path, as in
`window.units must be in 1..=65536, got 0`; `cm3flow plan FILE` checks it and shows what a run would do.

Each field below stands with its path, type, range and default. [Units, windows, versions](../README.md#units-windows-versions) explains the words.

## In an editor

Taplo, and editors that build on it (VS Code with Even Better TOML among them), complete fields, describe them and mark bad values by a schema. Write it
beside the configuration:

```sh
cm3flow config --schema > cm3flow.schema.json
```

Name it in the first line of the configuration:

```toml
#:schema ./cm3flow.schema.json
```

## Sections

";

/// The reference of every field, as Markdown.
#[must_use]
pub fn reference() -> String {
    let root = schema::tree();
    let mut page = Page::default();
    for name in in_order("", &root) {
        page.section(&Place::of(&name, &root["properties"][&name]), 2);
    }
    format!("{HEAD}{}{}", page.contents, page.text)
}

/// A table of the file.
struct Place<'a> {
    /// Path of the table, which the paths of its fields begin with.
    path: String,
    /// Header of the table in a file.
    header: String,
    /// Schema of the table.
    schema: &'a Value,
}

impl<'a> Place<'a> {
    /// The table that is, or holds, the value of the field at `path`.
    fn of(path: &str, schema: &'a Value) -> Self {
        if schema["type"] == "array" {
            return Self { path: path.to_owned(), header: format!("[[{path}]]"), schema: &schema["items"] };
        }
        let values = &schema["additionalProperties"];
        if values["properties"].is_object() {
            let path = format!("{path}.{}", key_of(schema));
            return Self { header: format!("[{path}]"), path, schema: values };
        }
        Self { path: path.to_owned(), header: format!("[{path}]"), schema }
    }
}

/// The word for the keys of a table whose keys are the user's.
fn key_of(schema: &Value) -> &str {
    schema["x-key"].as_str().unwrap_or("NAME")
}

/// Checks whether the field at `path` is a table with a header of its own.
fn has_header(path: &str, schema: &Value) -> bool {
    let fields = schema["properties"].as_object().map_or(0, serde_json::Map::len);
    let is_table = fields > 0 || schema["additionalProperties"].is_object() || !kinds(schema).is_empty();
    is_table && (path.matches('.').count() < 2 || fields > 4)
}

/// Variants of a table that differ by the constant of one field, with that field's name.
fn kinds(schema: &Value) -> Vec<(&str, &Value)> {
    let variants = schema["oneOf"].as_array().into_iter().flatten();
    variants.filter_map(|variant| Some((tag_of(variant)?, variant))).collect()
}

/// The field of a table that holds a constant.
fn tag_of(variant: &Value) -> Option<&str> {
    let fields = variant["properties"].as_object()?;
    fields.iter().find(|(_, field)| field.get("const").is_some()).map(|(name, _)| name.as_str())
}

/// Names of a table's fields in the order of the type's definition, of a table that begins with the lines `above`.
fn in_order(above: &str, table: &Value) -> Vec<String> {
    // A schema sorts its fields by name. Serde lists them as they are defined where it refuses one.
    let refused = toml::from_str::<Config>(&format!("{above}\n\"?\" = 0\n")).map(drop).map_err(|error| error.message().to_owned());
    let message = refused.err().unwrap_or_default();
    let listed = message.split_once("expected").map(|(_, listed)| listed.split('`').skip(1).step_by(2)).into_iter().flatten();
    let Some(fields) = table["properties"].as_object() else { return Vec::new() };
    let mut names: Vec<String> = listed.filter(|name| fields.contains_key(*name)).map(str::to_owned).collect();
    let others: Vec<String> = fields.keys().filter(|name| !names.contains(name)).cloned().collect();
    names.extend(others);
    names
}

#[derive(Default)]
struct Page {
    contents: String,
    text: String,
    /// Paths of the fields that stand in the page.
    written: BTreeSet<String>,
}

impl Page {
    fn section(&mut self, place: &Place<'_>, level: usize) {
        let Place { path, header, schema } = place;
        let description = schema["description"].as_str().unwrap_or_default();
        if level == 2 {
            let first = description.split_inclusive(". ").next().unwrap_or_default().trim();
            let _ = writeln!(self.contents, "- [`{header}`]({}): {first}", anchor(header));
        }
        let _ = write!(self.text, "\n{} `{header}`\n\n{description}\n", "#".repeat(level));
        let variants = kinds(schema);
        let Some((tag, _)) = variants.first() else {
            return self.fields(path, header, schema, level);
        };
        let tag_path = format!("{path}.{tag}");
        let _ = write!(self.text, "\n- **`{tag_path}`** · required\n\n");
        for (tag, variant) in &variants {
            let value = facts::code(&variant["properties"][tag]["const"]);
            let _ = writeln!(self.text, "  - {value}: {}", variant["description"].as_str().unwrap_or_default());
        }
        self.written.insert(tag_path);
        for (tag, variant) in variants {
            let line = format!("{tag} = {}", variant["properties"][tag]["const"]);
            let _ = write!(self.text, "\n{} `{header}` with `{line}`\n", "#".repeat(level + 1));
            self.fields(path, &format!("{header}\n{line}"), variant, level + 1);
        }
    }

    /// The fields of a table, and then the tables among them. The table begins with the lines `above`.
    fn fields(&mut self, path: &str, above: &str, table: &Value, level: usize) {
        let mut tables = Vec::new();
        for name in in_order(above, table) {
            let (field_path, field) = (format!("{path}.{name}"), &table["properties"][&name]);
            if field.get("const").is_some() {
                continue;
            }
            if has_header(&field_path, field) {
                tables.push((field_path, field));
                continue;
            }
            self.text.push('\n');
            self.field(&field_path, &facts::of(&name, field, schema::is_required(table, &name)), field, 0);
        }
        let values = &table["additionalProperties"];
        if values.is_object() {
            self.text.push('\n');
            self.field(&format!("{path}.{}", key_of(table)), &facts::of_value(values), values, 0);
        }
        for (path, table) in tables {
            self.section(&Place::of(&path, table), level + 1);
        }
    }

    /// A field as an item of a list, `depth` lists deep.
    fn field(&mut self, path: &str, facts: &str, field: &Value, depth: usize) {
        let indent = "  ".repeat(depth);
        let _ = writeln!(self.text, "{indent}- **`{path}`** · {facts}");
        if let Some(description) = field["description"].as_str() {
            let _ = write!(self.text, "\n{indent}  {description}\n");
        }
        if self.written.insert(path.to_owned()) {
            self.values(path, field, depth + 1);
        }
    }

    /// Values that a field may have, where there is more to say about them than their type.
    fn values(&mut self, path: &str, field: &Value, depth: usize) {
        let values = facts::alternatives(field);
        if values.len() > 1 && values.iter().any(|value| value["description"].is_string()) {
            self.text.push('\n');
            for value in &values {
                let said = value["description"].as_str().map(|said| format!(": {said}")).unwrap_or_default();
                let _ = writeln!(self.text, "{}- {}{said}", "  ".repeat(depth), facts::of_value(value));
            }
        }
        for value in values {
            self.inner_fields(path, value, depth);
        }
    }

    /// Fields of a table that has no header of its own: of the value, of the items of a list, or by name.
    fn inner_fields(&mut self, path: &str, value: &Value, depth: usize) {
        if value["items"].is_object() {
            return self.values(path, &value["items"], depth);
        }
        let table = if value["additionalProperties"].is_object() { &value["additionalProperties"] } else { value };
        let path = if std::ptr::eq(table, value) { path.to_owned() } else { format!("{path}.{}", key_of(value)) };
        let names = in_order(&format!("[{path}]"), table);
        if !names.is_empty() {
            self.text.push('\n');
        }
        for name in names {
            let field = &table["properties"][&name];
            self.field(&format!("{path}.{name}"), &facts::of(&name, field, schema::is_required(table, &name)), field, depth);
        }
    }
}

/// The anchor that GitHub gives to a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase().replace(' ', "-");
    format!("#{}", kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_')).collect::<String>())
}

#[cfg(test)]
mod tests;
