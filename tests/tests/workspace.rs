//! Rules of the repository as a whole: imports between crates, licences of dependencies, size, and the form of source files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cm3flow_tests::rooms::{self, Arrows};
use cm3flow_tests::tools::{skip, tool};
use serde_json::Value;

/// Imports allowed inside the workspace, for every kind of dependency.
const ARROWS: &[(&str, &[&str])] = &[
    ("cm3flow-schemas", &[]),
    ("cm3flow-stages", &["cm3flow-schemas"]),
    ("cm3flow-model", &["cm3flow-schemas"]),
    ("cm3flow", &["cm3flow-schemas", "cm3flow-stages", "cm3flow-model"]),
    ("cm3flow-tests", &["cm3flow-schemas", "cm3flow-stages", "cm3flow-model", "cm3flow"]),
];

/// Rooms of `pipeline/src`, from the lowest floor on: each uses rooms of lower floors only.
const FLOORS: &[&[&str]] = &[
    &["error", "terminal"],
    &["store"],
    &["events"],
    &["catalog", "metrics"],
    &["config"],
    &["source"],
    &["artefact"],
    &["segment", "train"],
    &["plan", "view"],
    &["execute"],
    &["run", "versions"],
    &["command"],
];

/// External crates that only some of ours may import.
const CONFINED: &[(&str, &[&str])] = &[
    ("tch", &["cm3flow-model"]),
    ("torch-sys", &["cm3flow-model"]),
    ("tokio", &["cm3flow-stages", "cm3flow-model", "cm3flow", "cm3flow-tests"]),
    ("object_store", &["cm3flow-stages", "cm3flow-model", "cm3flow", "cm3flow-tests"]),
];

const MAX_REPOSITORY_BYTES: u64 = 10_000_000;
const MAX_LINES_BEFORE_TESTS: usize = 500;

#[test]
fn only_the_designed_arrows_are_imported() {
    let refused = refused_arrows(&imports());
    assert!(refused.is_empty(), "\n{}\n", refused.join("\n"));
}

#[test]
fn arrows_against_the_design_are_refused() {
    let import = |from: &str, to: &str| BTreeMap::from([(from.to_owned(), vec![to.to_owned()])]);
    for (from, to) in [
        ("cm3flow-stages", "cm3flow-model"),
        ("cm3flow-model", "cm3flow-stages"),
        ("cm3flow-schemas", "cm3flow-stages"),
        ("cm3flow-stages", "cm3flow-tests"),
        ("cm3flow", "cm3flow-tests"),
        ("cm3flow", "tch"),
        ("cm3flow-tests", "torch-sys"),
        ("cm3flow-schemas", "tokio"),
        ("cm3flow-schemas", "object_store"),
        ("cm3flow-newcomer", "serde"),
    ] {
        assert_eq!(refused_arrows(&import(from, to)).len(), 1, "{from} -> {to}");
    }
    assert_eq!(refused_arrows(&import("cm3flow", "cm3flow-model")), [""; 0]);
    assert_eq!(refused_arrows(&import("cm3flow-model", "tch")), [""; 0]);
}

#[test]
fn rooms_use_lower_floors_only() {
    let arrows = rooms::arrows(&root().join("pipeline/src")).expect("the sources");
    let refused = rooms::upwards(&arrows, FLOORS);
    assert!(refused.is_empty(), "\n{}\n", refused.join("\n"));
    assert!(arrows.len() > 40 && rooms::circles(&arrows).is_empty(), "{} arrows", arrows.len());
}

#[test]
fn a_room_that_uses_a_higher_floor_is_refused() {
    let store = ["store".to_owned(), "open".to_owned()];
    for planted in [
        "use crate::plan::Plan;",
        "use crate::{error::Result, plan::{self, Plan}};",
        "fn f() -> Result<(), ()> { crate::plan::make() }",
        "mod tests { use super::super::super::plan; }",
        "type Found = Vec<crate::plan::Plan>;",
        "fn f() { println!(\"{}\", crate::plan::NAME) }",
    ] {
        assert!(rooms::uses(&store, planted).expect("Rust").contains("plan"), "{planted}");
    }
    let arrow = |from: &str, to: &str| ((from.to_owned(), to.to_owned()), format!("{from}.rs"));
    let upwards = Arrows::from([arrow("store", "plan"), arrow("plan", "view"), arrow("plan", "store"), arrow("attic", "store")]);
    assert_eq!(
        rooms::upwards(&upwards, FLOORS),
        [
            "attic.rs: attic or store stands on no floor",
            "plan.rs: plan uses view, which stands on no lower floor",
            "store.rs: store uses plan, which stands on no lower floor",
        ]
    );
    let circle = Arrows::from([arrow("a", "b"), arrow("b", "c"), arrow("c", "a"), arrow("c", "d")]);
    assert_eq!(rooms::circles(&circle), [["a", "b", "c"].map(str::to_owned).into()]);
}

#[test]
fn licences_and_sources_are_allowed() {
    let Some(deny) = tool("licences_and_sources_are_allowed", &["cargo-deny"]) else { return };
    let checked = Command::new(deny)
        .args(["--locked", "check", "bans", "licenses", "sources"])
        .current_dir(root())
        .output()
        .expect("cargo-deny starts");
    assert!(checked.status.success(), "\n{}", String::from_utf8_lossy(&checked.stderr));
}

#[test]
fn repository_stays_small() {
    let Some(files) = project_files("repository_stays_small") else { return };
    let mut sizes: Vec<_> = files.iter().map(|file| (size_of(file), file)).collect();
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    let total: u64 = sizes.iter().map(|(bytes, _)| bytes).sum();
    let largest: Vec<_> = sizes.iter().take(5).map(|(bytes, file)| format!("{bytes:>10} {}", file.display())).collect();
    assert!(
        total < MAX_REPOSITORY_BYTES,
        "{total} bytes in all, allowed are {MAX_REPOSITORY_BYTES}; the largest:\n{}\n",
        largest.join("\n")
    );
}

#[test]
fn source_files_say_what_they_are_and_stay_readable() {
    let Some(files) = project_files("source_files_say_what_they_are_and_stay_readable") else { return };
    let sources: Vec<_> = files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "rs")).collect();
    assert!(sources.len() > 20, "found no sources but {sources:?}");
    let faults: Vec<_> = sources.iter().flat_map(|file| faults_of(file, &read(file))).collect();
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn faults_of_a_source_file_are_found() {
    let lines = |n: usize| "let x = 1;\n".repeat(n);
    let faults = |file: &str, text: &str| faults_of(Path::new(file), text).len();

    assert_eq!(faults("stages/src/a.rs", "//! Says it.\n"), 0);
    assert_eq!(faults("stages/src/a.rs", "use std::fs;\n"), 1);
    assert_eq!(faults("stages/src/a.rs", &format!("//! Long.\n{}", lines(499))), 0);
    assert_eq!(faults("stages/src/a.rs", &format!("//! Too long.\n{}", lines(500))), 1);
    let tested = |before, after| format!("//! Has tests.\n{}#[cfg(test)]\nmod tests {{\n{}}}\n", lines(before), lines(after));
    assert_eq!(faults("stages/src/a.rs", &tested(400, 400)), 0);
    assert_eq!(faults("stages/src/a.rs", &tested(500, 0)), 1);
    assert_eq!(faults("stages/src/a/tests.rs", &format!("//! Only tests.\n{}", lines(900))), 0);
    assert_eq!(faults("stages/src/a.rs", &format!("//! A helper of tests.\n#[cfg(test)]\nuse std::fs;\n{}", lines(500))), 1);
}

#[test]
fn every_file_of_tests_is_part_of_the_program() {
    let folder = root().join("tests/tests");
    let program = fs::read_to_string(folder.join("main.rs")).expect("the program of the tests");
    for entry in fs::read_dir(folder).expect("the folder of the tests") {
        let path = entry.expect("the folder of the tests").path();
        let name = path.file_stem().and_then(|name| name.to_str()).expect("names are UTF-8");
        assert!(name == "main" || program.lines().any(|line| line == format!("mod {name};")), "main.rs does not name {name}");
    }
}

/// Returns the imports of each package of the workspace, of every kind.
fn imports() -> BTreeMap<String, Vec<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(root())
        .output()
        .expect("cargo starts");
    assert!(output.status.success(), "\n{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    let text = |value: &Value| value.as_str().expect("names are strings").to_owned();
    let packages = metadata["packages"].as_array().expect("a list of packages");
    packages
        .iter()
        .map(|package| {
            let dependencies = package["dependencies"].as_array().expect("a list of dependencies");
            (text(&package["name"]), dependencies.iter().map(|dependency| text(&dependency["name"])).collect())
        })
        .collect()
}

fn refused_arrows(imports: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    let row = |table: &'static [(&str, &[&'static str])], name: &str| table.iter().find(|(key, _)| *key == name).map(|(_, row)| *row);
    let mut refused = Vec::new();
    for (from, to) in imports {
        let Some(allowed) = row(ARROWS, from) else {
            refused.push(format!("{from} has no row in ARROWS: say there what it may import"));
            continue;
        };
        for name in to {
            if row(ARROWS, name).is_some() && !allowed.contains(&name.as_str()) {
                refused.push(format!("{from} must not import {name}"));
            }
            if let Some(importers) = row(CONFINED, name)
                && !importers.contains(&from.as_str())
            {
                refused.push(format!("{from} must not import {name}: that is for {}", importers.join(", ")));
            }
        }
    }
    refused
}

/// Returns the violations of form in one source file: it must open with `//!`, and be short up to its tests.
fn faults_of(file: &Path, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if !text.starts_with("//!") {
        faults.push(format!("{} does not open with //! and what it is for", file.display()));
    }
    let holds_only_tests = file.ends_with("tests.rs") || !file.components().any(|part| part.as_os_str() == "src");
    let lines: Vec<&str> = text.lines().collect();
    let tests = lines.windows(2).position(|pair| pair[0].trim() == "#[cfg(test)]" && pair[1].trim_start().starts_with("mod tests"));
    let before_tests = tests.unwrap_or(lines.len());
    if !holds_only_tests && before_tests > MAX_LINES_BEFORE_TESTS {
        faults.push(format!("{} has {before_tests} lines before its tests, allowed are {MAX_LINES_BEFORE_TESTS}", file.display()));
    }
    faults
}

/// Returns the files that are tracked or would be, relative to the root; `None` where there is no Git or no clone.
fn project_files(test: &str) -> Option<Vec<PathBuf>> {
    let git = tool(test, &["git"])?;
    let listed = Command::new(git).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(root()).output();
    let listed = listed.expect("git starts");
    if !listed.status.success() {
        skip(test, &format!("this is no Git clone: {}", String::from_utf8_lossy(&listed.stderr).trim()));
        return None;
    }
    let names = String::from_utf8(listed.stdout).expect("file names are UTF-8");
    Some(names.split_terminator('\0').map(PathBuf::from).filter(|file| root().join(file).is_file()).collect())
}

fn size_of(file: &Path) -> u64 {
    fs::metadata(root().join(file)).unwrap_or_else(|error| panic!("cannot look at {}: {error}", file.display())).len()
}

fn read(file: &Path) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("cannot read {}: {error}", file.display()))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the repository")
}
