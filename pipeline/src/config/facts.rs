//! Facts of a field in words, from its schema: type, range, default.

use serde_json::Value;

/// Type, range and default of the field `name`, as `whole number, 1 to 1,024 · default: 8`.
pub(super) fn of(name: &str, schema: &Value, is_required: bool) -> String {
    let kind = [kind(schema), range(name, schema)].into_iter().flatten().collect::<Vec<_>>().join(", ");
    [kind, default(name, schema, is_required)].into_iter().filter(|fact| !fact.is_empty()).collect::<Vec<_>>().join(" · ")
}

/// Type and range of a value that has no name.
pub(super) fn of_value(schema: &Value) -> String {
    [kind(schema), range("", schema)].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// Values to choose from, each with its own schema: those of a list of constants, and of alternatives within alternatives.
pub(super) fn alternatives(schema: &Value) -> Vec<&Value> {
    let nested = schema["anyOf"].as_array().or_else(|| schema["oneOf"].as_array());
    match nested {
        Some(nested) => nested.iter().flat_map(alternatives).collect(),
        None => vec![schema],
    }
}

/// The value as TOML writes it, in ticks.
pub(super) fn code(value: &Value) -> String {
    format!("`{}`", toml(value))
}

fn toml(value: &Value) -> String {
    match value {
        Value::Number(number) if number.is_f64() => format!("{:?}", number.as_f64().unwrap_or_default()),
        Value::Number(number) => grouped(&number.to_string(), '_'),
        Value::Array(values) => format!("[{}]", values.iter().map(toml).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

/// Digits in groups of three from five on.
fn grouped(digits: &str, separator: char) -> String {
    if digits.len() < 5 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return digits.to_owned();
    }
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(separator);
        }
        out.push(digit);
    }
    out
}

/// The type of a value; none where constants say it.
fn kind(schema: &Value) -> Option<String> {
    let values = alternatives(schema);
    if values.len() > 1 {
        let mut kinds: Vec<String> = Vec::new();
        for value in values {
            let kind = if value.get("const").is_some() { code(&value["const"]) } else { kind(value)? };
            if !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
        return Some(listed(&kinds, "or"));
    }
    let schema = values.first()?;
    if let Some(value) = schema.get("const") {
        return Some(code(value));
    }
    if let Some(values) = schema["enum"].as_array() {
        return Some(listed(&values.iter().map(code).collect::<Vec<_>>(), "or"));
    }
    if let Some(types) = schema["type"].as_array() {
        let words: Vec<String> = types.iter().filter_map(|kind| Some(word(kind.as_str()?)?.to_owned())).collect();
        return Some(listed(&words, "or"));
    }
    if schema["format"] == "path" {
        return Some("path".to_owned());
    }
    if schema["type"] == "array" {
        return Some(list(schema));
    }
    word(schema["type"].as_str()?).map(str::to_owned)
}

fn word(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "integer" => "whole number",
        "number" => "number",
        "string" => "text",
        "boolean" => "`true` or `false`",
        "object" => "table",
        _ => return None,
    })
}

fn list(schema: &Value) -> String {
    let items = &schema["items"];
    let (least, most) = (schema["minItems"].as_u64(), schema["maxItems"].as_u64());
    let count = match (least, most) {
        (Some(least), Some(most)) if least == most => format!("{least} "),
        (Some(least), Some(most)) => format!("{least} to {most} "),
        (Some(least), None) => format!("{least} or more "),
        _ => String::new(),
    };
    let of = kind(items).unwrap_or_else(|| "value".to_owned());
    let of = match of.split_once(" of ") {
        Some((outer, inner)) => format!("{outer}s of {inner}"),
        None if of.contains(" or ") => of,
        None => format!("{of}s"),
    };
    let range = range("", items).map(|range| format!(", each {range}")).unwrap_or_default();
    format!("list of {count}{of}{range}")
}

/// `a, b or c`.
fn listed(words: &[String], last: &str) -> String {
    match words {
        [] => String::new(),
        [only] => only.clone(),
        [all @ .., end] => format!("{} {last} {end}", all.join(", ")),
    }
}

fn range(name: &str, schema: &Value) -> Option<String> {
    let is_bytes = name.ends_with("_bytes") || name == "memory_budget";
    let limit = |keyword: &str| {
        let value = schema.get(keyword)?;
        Some(if is_bytes { bytes(value) } else { None }.unwrap_or_else(|| number(value)))
    };
    if let (Some(low), Some(high)) = (limit("minimum"), limit("maximum")) {
        return Some(format!("{low} to {high}"));
    }
    let low = limit("minimum").map(|low| format!("{low} or more")).or_else(|| Some(format!("above {}", limit("exclusiveMinimum")?)));
    let high = limit("maximum").map(|high| format!("at most {high}")).or_else(|| Some(format!("below {}", limit("exclusiveMaximum")?)));
    let both: Vec<String> = low.into_iter().chain(high).collect();
    (!both.is_empty()).then(|| both.join(" and "))
}

fn number(value: &Value) -> String {
    let whole = value.as_f64().filter(|value| value.fract() == 0.0);
    match whole {
        Some(whole) => {
            let digits = format!("{whole:.0}");
            grouped(&digits, ',')
        }
        None => value.to_string(),
    }
}

/// A size that is a multiple of 1 KiB.
fn bytes(value: &Value) -> Option<String> {
    let value = value.as_u64().filter(|value| *value >= 1024)?;
    let (unit, name) =
        [(1_u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")].into_iter().find(|(unit, _)| value.is_multiple_of(*unit))?;
    Some(format!("{} {name}", value / unit))
}

fn default(name: &str, schema: &Value, is_required: bool) -> String {
    if is_required {
        return "required".to_owned();
    }
    if let Some(words) = schema["x-default"].as_str() {
        return format!("default: {words}");
    }
    let Some(value) = schema.get("default") else { return "optional".to_owned() };
    let size = if name.ends_with("_bytes") || name == "memory_budget" { bytes(value) } else { None };
    let mut default = format!("default: {}", code(value));
    default.extend(size.map(|size| format!(" ({size})")));
    for (preset, value) in schema["x-presets"].as_object().into_iter().flatten() {
        default += &format!(", with the preset `{preset}` {}", code(value));
    }
    default
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn types_ranges_and_defaults_are_put_into_words() {
        let facts = |name: &str, schema: Value| of(name, &schema, false);
        for (name, schema, wanted) in [
            (
                "units",
                json!({ "type": "integer", "minimum": 1, "maximum": 65536, "default": 16 }),
                "whole number, 1 to 65,536 · default: `16`",
            ),
            (
                "rate",
                json!({ "type": "number", "exclusiveMinimum": 0.0, "maximum": 0.1, "default": 3e-3 }),
                "number, above 0 and at most 0.1 · default: `0.003`",
            ),
            (
                "share",
                json!({ "type": "number", "minimum": 0.0, "exclusiveMaximum": 1.0, "default": 1.0 }),
                "number, 0 or more and below 1 · default: `1.0`",
            ),
            (
                "max_bytes",
                json!({ "type": "integer", "minimum": 65536, "default": 2_097_152 }),
                "whole number, 64 KiB or more · default: `2_097_152` (2 MiB)",
            ),
            ("workers", json!({ "type": "integer", "x-default": "the number of cores" }), "whole number · default: the number of cores"),
            ("weights", json!({ "type": "string", "format": "path" }), "path · optional"),
            (
                "mean",
                json!({ "type": "array", "items": { "type": "number" }, "minItems": 3, "maxItems": 3 }),
                "list of 3 numbers · optional",
            ),
            (
                "wordings",
                json!({ "type": "array", "items": { "type": "array", "items": { "type": "object" } } }),
                "list of lists of tables · optional",
            ),
            (
                "device",
                json!({ "oneOf": [{ "const": "auto" }, { "const": "cpu" }], "default": "auto" }),
                "`\"auto\"` or `\"cpu\"` · default: `\"auto\"`",
            ),
            ("input", json!({ "anyOf": [{ "oneOf": [{ "const": "unit" }] }, { "type": "object" }] }), "`\"unit\"` or table · optional"),
            (
                "steps",
                json!({ "type": "integer", "default": 1000, "x-presets": { "large": 100_000 } }),
                "whole number · default: `1000`, with the preset `large` `100_000`",
            ),
        ] {
            assert_eq!(facts(name, schema), wanted, "{name}");
        }
        assert_eq!(of("name", &json!({ "type": "string" }), true), "text · required");
    }
}
