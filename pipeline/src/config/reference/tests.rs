//! Tests of the reference: it is up to date, complete and in plain words.

use std::path::Path;

use super::*;

/// Paths of all fields, and texts that say what they are.
fn fields(schema: &Value, path: &str, found: &mut Vec<(String, String)>) {
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        if field.get("const").is_none() {
            found.push((path.clone(), field["description"].as_str().unwrap_or_default().to_owned()));
        }
        fields(field, &path, found);
    }
    if schema["additionalProperties"].is_object() {
        fields(&schema["additionalProperties"], &format!("{path}.{}", key_of(schema)), found);
    }
    if schema["items"].is_object() {
        fields(&schema["items"], path, found);
    }
    for alternative in ["anyOf", "oneOf"].into_iter().filter_map(|keyword| schema[keyword].as_array()).flatten() {
        fields(alternative, path, found);
    }
}

fn all_fields() -> Vec<(String, String)> {
    let mut found = Vec::new();
    fields(&schema::tree(), "", &mut found);
    found
}

#[test]
fn the_page_is_what_the_command_prints() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("guide/configuration.md");
    let (page, now) = (std::fs::read_to_string(&file).unwrap_or_default(), reference());
    if std::env::var_os("CM3FLOW_UPDATE").is_some() {
        std::fs::write(&file, now).expect("part of the repository");
    } else {
        let line = page.lines().zip(now.lines()).position(|(old, new)| old != new);
        assert!(
            page == now,
            "from line {line:?} on, the configuration is another one: run this test with CM3FLOW_UPDATE=1 to write the page anew"
        );
    }
}

#[test]
fn every_field_stands_in_the_page_under_its_path() {
    let (page, found) = (reference(), all_fields());
    assert!(found.len() > 120, "{} fields", found.len());
    for (path, _) in found {
        let header = path.strip_suffix(".NAME").unwrap_or(&path);
        let is_there = [format!("**`{path}`**"), format!(" `[{header}]`"), format!(" `[[{header}]]`"), format!(" `[{header}.")];
        assert!(is_there.iter().any(|text| page.contains(text)), "{path}");
    }
    for text in ["`window.units`** · whole number, 1 to 65,536 · default: `16`", "## `[annotate.ROLE]`", "## `[[source]]`"] {
        assert!(page.contains(text), "{text}");
    }
}

#[test]
fn every_field_says_in_plain_words_what_it_does() {
    for (path, description) in all_fields() {
        let first = description.split([' ', ',']).next().unwrap_or_default();
        assert!(!["", "What", "That", "Whether", "Which", "How"].contains(&first), "{path}: {description:?}");
        assert!(description.ends_with('.') && !description.contains("[`") && !description.contains("::"), "{path}: {description:?}");
        // The facts say it, and cannot go out of date.
        assert!(!description.contains("Default") && !description.contains("..="), "{path}: {description:?}");
    }
}

#[test]
fn fields_stand_in_the_order_of_their_definition() {
    let page = reference();
    let place = |path: &str| page.find(&format!("**`{path}`**")).unwrap_or_else(|| panic!("{path} is not there"));
    for order in [
        ["dataset.name", "dataset.seed", "dataset.store"],
        ["source.name", "source.format", "source.url"],
        ["annotate.ROLE.module", "annotate.ROLE.side_px", "annotate.ROLE.input"],
        ["tokenize.image.kind", "tokenize.image.preset", "tokenize.image.weights"],
        ["instruct.templates.NAME.each", "instruct.templates.NAME.form", "instruct.templates.NAME.order"],
    ] {
        assert!(order.map(place).is_sorted(), "{order:?}");
    }
    let sections: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("## `")).collect();
    assert_eq!(sections[..4], ["[dataset]`", "[store]`", "[runtime]`", "[[source]]`"]);
}
