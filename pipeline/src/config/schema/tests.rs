//! Tests of the schema: it allows what a configuration may hold, and nothing else.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::*;
use crate::error::PipelineError;

/// Returns the refusals of `schema` for `value`, each with its path. Knows every keyword that the schema uses, and stops at another one.
fn refusals(schema: &Value, value: &Value, path: &str) -> Vec<String> {
    const KNOWN: [&str; 20] = [
        "$schema",
        "title",
        "description",
        "default",
        "format",
        "type",
        "const",
        "enum",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "minItems",
        "maxItems",
        "items",
        "properties",
        "required",
        "additionalProperties",
        "anyOf",
        "oneOf",
    ];
    let keywords = schema.as_object().expect("every schema is an object");
    assert!(keywords.keys().all(|keyword| KNOWN.contains(&keyword.as_str())), "{path}: {schema}");
    let mut found = Vec::new();
    let mut require = |holds: bool, keyword: &str| {
        if !holds {
            found.push(format!("{path}: {keyword} is {}, got {value}", schema[keyword]));
        }
    };
    let is = |kind: &Value| match kind.as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        _ => panic!("{path}: {kind}"),
    };
    if let Some(kind) = keywords.get("type") {
        require(kind.as_array().map_or_else(|| is(kind), |kinds| kinds.iter().any(is)), "type");
    }
    require(keywords.get("const").is_none_or(|wanted| wanted == value), "const");
    require(keywords.get("enum").is_none_or(|wanted| wanted.as_array().is_some_and(|wanted| wanted.contains(value))), "enum");
    if let Some(number) = value.as_f64() {
        let limit = |keyword: &str| keywords.get(keyword).map(|limit| limit.as_f64().expect("a number"));
        require(limit("minimum").is_none_or(|limit| number >= limit), "minimum");
        require(limit("maximum").is_none_or(|limit| number <= limit), "maximum");
        require(limit("exclusiveMinimum").is_none_or(|limit| number > limit), "exclusiveMinimum");
        require(limit("exclusiveMaximum").is_none_or(|limit| number < limit), "exclusiveMaximum");
    }
    for (keyword, exactly_one) in [("anyOf", false), ("oneOf", true)] {
        let Some(alternatives) = keywords.get(keyword).map(|all| all.as_array().expect("a list")) else { continue };
        let fitting = alternatives.iter().filter(|schema| refusals(schema, value, path).is_empty()).count();
        require(if exactly_one { fitting == 1 } else { fitting > 0 }, keyword);
    }
    if let Some(items) = value.as_array() {
        let limit = |keyword: &str| keywords.get(keyword).map(|limit| limit.as_u64().expect("a length") as usize);
        require(limit("minItems").is_none_or(|least| items.len() >= least), "minItems");
        require(limit("maxItems").is_none_or(|most| items.len() <= most), "maxItems");
        for (place, item) in items.iter().enumerate().filter(|_| keywords.contains_key("items")) {
            found.extend(refusals(&schema["items"], item, &format!("{path}[{place}]")));
        }
    }
    for (name, field) in value.as_object().into_iter().flatten() {
        match (schema["properties"].get(name), &schema["additionalProperties"]) {
            (Some(schema), _) => found.extend(refusals(schema, field, &format!("{path}.{name}"))),
            (None, Value::Bool(false)) => found.push(format!("{path}.{name}: there is no such field")),
            (None, values) if values.is_object() => found.extend(refusals(values, field, &format!("{path}.{name}"))),
            (None, _) => {}
        }
    }
    if let Some(table) = value.as_object() {
        let required = keywords.get("required").and_then(Value::as_array).into_iter().flatten();
        found.extend(
            required.filter_map(Value::as_str).filter(|name| !table.contains_key(*name)).map(|name| format!("{path}.{name}: required")),
        );
    }
    found
}

/// Returns the refusals of the schema for the text of a configuration.
pub(crate) fn refused(text: &str) -> Vec<String> {
    let value: Value = toml::from_str(text).expect("TOML");
    refusals(&schema(), &value, "")
}

/// The schema of parts of a configuration, as pages show them.
fn of_parts() -> Value {
    let mut schema = schema();
    schema.as_object_mut().and_then(|schema| schema.remove("required")).expect("two sections are required");
    schema
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the repository")
}

/// Files of the repository whose names end with one of `ends`.
fn files(folder: &Path, ends: &[&str], found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of the repository") {
        let (path, kind) = entry.map(|entry| (entry.path(), entry.file_type())).expect("an entry");
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let is_dir = kind.expect("a type").is_dir();
        if is_dir && !name.starts_with('.') && !["target", "node_modules"].contains(&name.as_str()) {
            files(&path, ends, found);
        } else if !is_dir && ends.iter().any(|end| name.ends_with(end)) {
            found.push(path);
        }
    }
}

/// Blocks of TOML in a page.
fn blocks(page: &str) -> impl Iterator<Item = &str> {
    page.split("```toml\n").skip(1).map(|rest| rest.split_once("```").map_or(rest, |(block, _)| block))
}

#[test]
fn the_configurations_of_the_repository_are_allowed() {
    let mut found = Vec::new();
    files(root(), &[".toml"], &mut found);
    let is_configuration = |path: &PathBuf| {
        let text = fs::read_to_string(path).expect("a text");
        text.contains("[dataset]").then_some((path.clone(), text))
    };
    let configurations: Vec<(PathBuf, String)> = found.iter().filter_map(is_configuration).collect();
    assert!(configurations.iter().any(|(path, _)| path.ends_with("tests/corpus/photos.toml")), "{configurations:?}");
    for (path, text) in configurations {
        assert_eq!(refused(&text), [""; 0], "{}", path.display());
    }
}

#[test]
fn what_pages_show_is_allowed() {
    let (mut pages, mut shown) = (Vec::new(), 0);
    files(root(), &[".md"], &mut pages);
    let schema = of_parts();
    for page in pages {
        for block in blocks(&fs::read_to_string(&page).expect("a page")) {
            let value: Value = toml::from_str(block).unwrap_or_else(|error| panic!("{}: {error}\n{block}", page.display()));
            assert_eq!(refusals(&schema, &value, ""), [""; 0], "{}:\n{block}", page.display());
            shown += 1;
        }
    }
    assert!(shown > 5, "{shown} blocks");
}

#[test]
fn an_unknown_field_is_refused_everywhere() {
    fn check(schema: &Value, path: &str) -> usize {
        let mut tables = 0;
        if let Some(fields) = schema["properties"].as_object() {
            assert_eq!(schema["additionalProperties"], false, "{path}");
            tables += 1 + fields.iter().map(|(name, field)| check(field, &format!("{path}.{name}"))).sum::<usize>();
        }
        for part in ["items", "additionalProperties"] {
            tables += if schema[part].is_object() { check(&schema[part], path) } else { 0 };
        }
        let alternatives = ["anyOf", "oneOf"].into_iter().filter_map(|keyword| schema[keyword].as_array()).flatten();
        tables + alternatives.map(|alternative| check(alternative, path)).sum::<usize>()
    }
    assert!(check(&schema(), "") > 30);
    let text = "[dataset]\nname = \"d\"\n[[source]]\nname = \"s\"\nformat = \"folder\"\nurl = \"u\"\n";
    assert_eq!(refused(text), [""; 0]);
    assert_eq!(refused(&format!("{text}[window]\nunit = 3\n")), [".window.unit: there is no such field"]);
    assert_eq!(refused(&format!("{text}[window]\nunits = 0\n")), [".window.units: minimum is 1, got 0"]);
    assert_eq!(refused("[dataset]\nname = \"d\"\n"), [".source: required"]);
}

/// A number, or the length of a list, with limits that the configuration is checked for.
#[derive(Debug)]
struct Limited {
    /// Path as errors name it.
    path: String,
    /// Further fields that the section must hold, as TOML.
    kind: Option<String>,
    schema: Value,
}

fn limited(schema: &Value, path: &str, kind: Option<&str>, found: &mut Vec<Limited>) {
    let keywords = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minItems", "maxItems"];
    let is_of_the_type = |keyword: &str| match keyword {
        // serde refuses what the type cannot hold.
        "minimum" => schema["type"] == "integer" && schema[keyword] == 0,
        "maximum" => schema["format"] == "uint16" && schema[keyword] == 65_535,
        _ => schema["items"].is_object() && schema["minItems"] == schema["maxItems"],
    };
    let is_limited = keywords.into_iter().any(|keyword| schema.get(keyword).is_some() && !is_of_the_type(keyword));
    if is_limited && path != "source" {
        found.push(Limited { path: path.to_owned(), kind: kind.map(str::to_owned), schema: schema.clone() });
    }
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        limited(field, &path, kind, found);
    }
    if schema["additionalProperties"].is_object() {
        let name = match path {
            "annotate" => "depth",
            "instruct.tasks" => "pair",
            _ => "name",
        };
        limited(&schema["additionalProperties"], &format!("{path}.{name}"), kind, found);
    }
    if path == "source" {
        limited(&schema["items"], "source[0]", kind, found);
    }
    for alternative in ["anyOf", "oneOf"].into_iter().filter_map(|keyword| schema[keyword].as_array()).flatten() {
        limited(alternative, path, alternative["properties"]["kind"]["const"].as_str().or(kind), found);
    }
}

/// Sections that allow any value of the field at `path` that is in its own range: fields that are compared with it stay out of the way.
fn context(path: &str, kind: Option<&str>) -> &'static str {
    match (path, kind) {
        ("embed.max_ngram", _) => "[embed]\nmin_ngram = 1",
        ("embed.min_ngram", _) => "[embed]\nmax_ngram = 8",
        ("derive.canny_low", _) => "[derive]\ncanny_high = 1140.0",
        ("derive.canny_high", _) => "[derive]\ncanny_low = 1e-9",
        ("mask.holes", _) => "[mask]\ndrop = 0.0",
        ("mask.drop", _) => "[mask]\nholes = 0.0",
        ("pack.seq_len", _) => "[tokenize.image]\nkind = \"patches\"\nside_px = 32",
        ("fit.codebook.perceptual_weight", _) => "[fit.perceptual]\nfeatures = \"f\"\nlinear = \"l\"",
        ("annotate.depth.batch_size" | "annotate.depth.side_px" | "annotate.depth.output", _) => "[annotate.depth]\nmodule = \"m.pt\"",
        ("vocabulary.sentinels.count", _) => {
            "[tokenize.text]\nfile = \"t\"\n[vocabulary]\npreset = \"chameleon\"\nspan_end = 9\nsentinels = { first = 1, count = 2 }"
        }
        ("vocabulary.sizes.count", _) => {
            "[tokenize.image]\nkind = \"vq\"\naspect_buckets = true\n[mask]\nmean_spans = 0.0\n[tokenize.text]\nfile = \"t\"\n[vocabulary]\npreset = \"chameleon\"\nline_end = 9\nsizes = { first = 1, count = 2 }"
        }
        (path, Some("vq")) if path.starts_with("tokenize.image.network.") => {
            "[tokenize.image]\nkind = \"vq\"\nnetwork = { resolution = 64, channels = 32, channel_multipliers = [1], residual_blocks = 1, z_channels = 8, embedding_dim = 8, codebook_size = 16, norm_groups = 1 }"
        }
        (_, Some("vq")) => "[tokenize.image]\nkind = \"vq\"",
        ("tokenize.image.side_px", Some("patches")) => "[tokenize.image]\nkind = \"patches\"\npatch_px = 1",
        (_, Some("patches")) => "[tokenize.image]\nkind = \"patches\"",
        (_, Some("torchscript")) => {
            "[tokenize.image]\nkind = \"torchscript\"\nencoder = \"e\"\ndecoder = \"d\"\nside_px = 4096\ngrid = 8\ncodebook_size = 9"
        }
        ("tokenize.image.aspect_buckets.max_aspect" | "tokenize.image.aspect_buckets.grid_px", Some("given")) => {
            "[tokenize.image]\nkind = \"given\"\nside_px = 64\ngrid = 64\ncodebook_size = 9\naspect_buckets = {}"
        }
        (_, Some("given")) => "[tokenize.image]\nkind = \"given\"\nside_px = 4096\ngrid = 1\ncodebook_size = 9",
        _ => "",
    }
}

/// The configuration of `context` with the field at `path` set to `value`.
fn with(context: &str, path: &str, value: Value) -> String {
    let base = "[dataset]\nname = \"d\"\n[[source]]\nname = \"s\"\nformat = \"folder\"\nurl = \"u\"\n";
    let mut all: Value = toml::from_str(&format!("{base}{context}")).expect("TOML");
    let mut place = &mut all;
    for step in path.split('.') {
        place = match step {
            "source[0]" => &mut place["source"][0],
            step => &mut place[step],
        };
    }
    *place = value;
    toml::to_string(&all).expect("no null")
}

/// Values at the limits of a range, from within or from without.
fn at_the_limits(schema: &Value, is_inside: bool) -> Vec<Value> {
    let mut values = Vec::new();
    for (keyword, inwards) in [("minimum", 1), ("maximum", -1)] {
        let Some(limit) = schema.get(keyword) else { continue };
        values.extend(match limit.as_i64() {
            Some(limit) if schema["type"] == "integer" => {
                (is_inside || limit != 0).then(|| json!(if is_inside { limit } else { limit - inwards }))
            }
            _ => limit.as_f64().map(|limit| json!(if is_inside { limit } else { limit - inwards as f64 * 1e-6 * limit.abs().max(1.0) })),
        });
    }
    for (keyword, inwards) in [("exclusiveMinimum", 1.0), ("exclusiveMaximum", -1.0)] {
        let Some(limit) = schema.get(keyword).and_then(Value::as_f64) else { continue };
        values.push(json!(if is_inside { limit + inwards * 1e-6 } else { limit }));
    }
    if let Some(item) = schema.get("items") {
        let (first, others) = (at_the_limits(item, true), at_the_limits(item, is_inside));
        for (keyword, inwards) in [("minItems", 1), ("maxItems", -1)] {
            let Some(length) = schema[keyword].as_i64() else { continue };
            values.push(vec![first[0].clone(); (if is_inside { length } else { length - inwards }) as usize].into());
        }
        values.extend(others.into_iter().map(|item| json!([item])));
    }
    values
}

#[test]
fn limits_are_those_that_a_configuration_is_checked_for() {
    let (mut found, mut tried) = (Vec::new(), BTreeSet::new());
    limited(&tree(), "", None, &mut found);
    let schema = schema();
    for Limited { path, kind, schema: field } in &found {
        let kind = kind.as_deref();
        // The table has one check for all kinds; of these codes each stands for one pixel, which every step of a grid divides.
        if path.contains("aspect_buckets") && kind != Some("given") {
            continue;
        }
        tried.insert(path.as_str());
        let problems = |value: &Value| {
            let text = with(context(path, kind), path, value.clone());
            let allowed = refusals(&schema, &toml::from_str(&text).expect("TOML"), "");
            match Config::parse(&text, Path::new("d.toml")) {
                Ok(_) => (text, Vec::new(), allowed),
                Err(PipelineError::Config { problems, .. }) => {
                    let own = problems.into_iter().filter(|problem| problem.contains(path.as_str())).collect();
                    (text, own, allowed)
                }
                Err(error) => panic!("{path} = {value}: {error:?}"),
            }
        };
        for value in at_the_limits(field, true) {
            let (text, problems, refusals) = problems(&value);
            assert!(problems.is_empty(), "{path} = {value} is in the range of the schema\n{problems:#?}\n{text}");
            assert!(refusals.is_empty(), "{refusals:#?}\n{text}");
        }
        for value in at_the_limits(field, false) {
            let (text, problems, refusals) = problems(&value);
            assert!(!problems.is_empty(), "{path} = {value} is outside the range of the schema\n{text}");
            assert!(!refusals.is_empty(), "{text}");
        }
    }
    assert!(tried.len() > 60 && tried.contains("window.units") && tried.contains("source[0].unit_samples"), "{tried:?}");
}
