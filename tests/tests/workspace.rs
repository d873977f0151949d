//! Rules of the repository as a whole: imports between crates, licences of dependencies, size, and the form of source files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cm3flow_tests::functions::functions;
use cm3flow_tests::rooms::{self, Arrows, Sources};
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

/// Modules whose children and own file do not reach each other either. Elsewhere children use what their parent's file holds, and it uses them.
const WITH_PARENT: &[&str] = &["store"];

/// External crates that only some of ours may import.
const CONFINED: &[(&str, &[&str])] = &[
    ("tch", &["cm3flow-model"]),
    ("torch-sys", &["cm3flow-model"]),
    ("tokio", &["cm3flow-stages", "cm3flow-model", "cm3flow", "cm3flow-tests"]),
    ("object_store", &["cm3flow-stages", "cm3flow-model", "cm3flow", "cm3flow-tests"]),
];

const MAX_REPOSITORY_BYTES: u64 = 10_000_000;
const MAX_LINES_BEFORE_TESTS: usize = 500;
const MAX_LINES_OF_A_FUNCTION: usize = 60;
const MAX_ARGUMENTS: usize = 5;

/// Crates by their folders, each with the tuples among the arguments of its functions: no more may be added.
const CRATES: &[(&str, usize)] = &[("schemas", 0), ("stages", 0), ("model", 0), ("pipeline", 0), ("tests", 0), ("deploy/python", 0)];

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
    let arrows = sources("pipeline").arrows(&[]);
    let refused = rooms::upwards(&arrows, FLOORS);
    assert!(refused.is_empty(), "\n{}\n", refused.join("\n"));
    assert!(arrows.len() > 40, "{} arrows", arrows.len());
}

#[test]
fn a_room_that_uses_a_higher_floor_is_refused() {
    for planted in [
        "use crate::plan::Plan;",
        "use crate::{error::Result, plan::{self, Plan}};",
        "use crate::Plan;",
        "use crate as all; fn f() -> all::Plan { all::plan::make() }",
        "fn f() -> Result<(), ()> { crate::plan::make() }",
        "mod inner { use super::super::super::plan; }",
        "type Found = Vec<crate::plan::Plan>;",
        "fn f() { println!(\"{}\", crate::plan::NAME) }",
        "#[cfg_attr(debug_assertions, derive(crate::plan::Plan))] struct Found;",
        "#[cfg(not(test))] use crate::plan::Plan;",
    ] {
        let arrows = of(&[("lib.rs", "pub use plan::Plan;"), ("plan.rs", ""), ("store.rs", ""), ("store/open.rs", planted)]).arrows(&[]);
        assert_eq!(arrows, Arrows::from([arrow("store", "plan", "store/open.rs")]), "{planted}");
    }
    for unplanted in [
        "//! See [`crate::plan`].",
        "#[cfg(test)] use crate::plan::Plan;",
        "#[cfg(test)] mod tests { use crate::plan::Plan; }",
        "impl X { #[cfg(all(test, unix))] fn f() { crate::plan::make() } }",
        "pub(in crate::plan) struct X; fn f() { plan::make() }",
    ] {
        let arrows = of(&[
            ("plan.rs", ""),
            ("store.rs", "#[cfg(test)] mod tests;"),
            ("store/tests.rs", "use crate::plan;"),
            ("store/open.rs", unplanted),
        ]);
        assert_eq!(arrows.arrows(&[]), Arrows::new(), "{unplanted}");
    }
    let upwards = Arrows::from([
        arrow("store", "plan", "store.rs"),
        arrow("plan", "view", "plan.rs"),
        arrow("plan", "store", "plan.rs"),
        arrow("attic", "store", "attic.rs"),
    ]);
    assert_eq!(
        rooms::upwards(&upwards, FLOORS),
        [
            "attic.rs: attic or store stands on no floor",
            "plan.rs: plan uses view, which stands on no lower floor",
            "store.rs: store uses plan, which stands on no lower floor",
        ]
    );
}

#[test]
fn no_two_modules_reach_each_other() {
    for (folder, _) in CRATES {
        let sources = sources(folder);
        assert!(!sources.arrows(&[]).is_empty(), "{folder}: no arrows are found");
        let circles = circles_of(&sources);
        assert!(circles.is_empty(), "{folder}:\n{}\n", circles.join("\n"));
    }
}

#[test]
fn modules_that_reach_each_other_are_refused() {
    let sound = [
        ("lib.rs", "pub use a::A; pub use b::B;"),
        ("a.rs", "mod x; mod y; pub use x::X; pub use y::Y; pub struct A(X, Y);"),
        ("a/x.rs", "use super::A; use super::Y; pub struct X(Y, A);"),
        ("a/y.rs", "pub struct Y; #[cfg(test)] mod tests { use super::super::X; }"),
        ("b.rs", "use crate::a::X; pub struct B(X);"),
        ("store.rs", "mod open; mod objects; pub use open::open; pub use objects::Store;"),
        ("store/objects.rs", "pub struct Store;"),
        ("store/open.rs", "use super::Store; pub fn open() -> Store { Store }"),
    ];
    assert_eq!(circles_of(&of(&sound)), [""; 0]);
    for (file, planted, refused) in [
        ("a/x.rs", "fn f(_: crate::B) {}", "the crate: a -> b (a/x.rs), b -> a (b.rs)"),
        ("a/y.rs", "use super::x;", "a: x -> y (a/x.rs), y -> x (a/y.rs)"),
        ("a/y.rs", "use super::X;", "a: x -> y (a/x.rs), y -> x (a/y.rs)"),
        ("store/objects.rs", "use super::open;", "store: objects -> open (store/objects.rs), open -> objects (store/open.rs)"),
        ("store/open.rs", "use crate::store::Limit;", "store: open -> store (store/open.rs), store -> open (store.rs)"),
    ] {
        let files: Vec<_> = sound
            .iter()
            .map(|(name, text)| (*name, if *name == file { format!("{text} {planted}") } else { (*text).to_owned() }))
            .collect();
        let files: Vec<_> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
        assert_eq!(circles_of(&of(&files)), [refused], "{file}: {planted}");
    }
    let circle = Arrows::from([arrow("a", "b", "a.rs"), arrow("b", "c", "b.rs"), arrow("c", "a", "c.rs"), arrow("c", "d", "c.rs")]);
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
fn functions_are_short_and_have_few_arguments() {
    for (folder, tuples) in CRATES {
        let (mut faults, mut with_tuples) = (Vec::new(), Vec::new());
        for (file, text) in sources(folder).texts() {
            for function in functions(text).unwrap_or_else(|error| panic!("{file} is no Rust: {error}")) {
                let place = format!("{folder}/src/{file}:{}: {}", function.line, function.name);
                if function.lines > MAX_LINES_OF_A_FUNCTION {
                    faults.push(format!("{place} has {} lines, allowed are {MAX_LINES_OF_A_FUNCTION}", function.lines));
                }
                if function.arguments > MAX_ARGUMENTS {
                    faults.push(format!("{place} has {} arguments, allowed are {MAX_ARGUMENTS}", function.arguments));
                }
                with_tuples.extend(std::iter::repeat_n(place, function.tuples));
            }
        }
        assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
        let found = with_tuples.len();
        assert!(
            found <= *tuples,
            "{found} arguments are tuples, allowed are {tuples}; make structs with names:\n{}\n",
            with_tuples.join("\n")
        );
    }
}

#[test]
fn lengths_and_arguments_of_functions_are_found() {
    let found = |text: &str| {
        let functions = functions(text).expect("Rust");
        functions.into_iter().map(|function| (function.name, function.lines, function.arguments, function.tuples)).collect::<Vec<_>>()
    };
    let one = |text: &str| found(text).pop().expect("a function");
    assert_eq!(one("/// Says it.\npub fn f(\n    a: u8,\n) -> u8 {\n    a\n}\n"), ("f".to_owned(), 5, 1, 0));
    for (arguments, tuples) in [
        ("(a, b): (u8, u8)", 1),
        ("pair: (u8, u8)", 1),
        ("pair: &(u8, u8)", 1),
        ("(a, b): Pair", 1),
        ("a: u8, (b, c): &mut Pair", 1),
        ("done: ()", 0),
        ("pairs: &[(u8, u8)]", 0),
        ("pairs: impl Iterator<Item = (u8, u8)>", 0),
    ] {
        assert_eq!(one(&format!("fn f({arguments}) {{}}")).3, tuples, "{arguments}");
        assert_eq!(one(&format!("trait T {{ fn f(&self, {arguments}); }}")).3, tuples, "{arguments}");
        assert_eq!(one(&format!("impl X {{ fn f(&self, {arguments}) {{}} }}")).3, tuples, "{arguments}");
        assert_eq!(one(&format!("impl T for X {{ fn f(&self, {arguments}) {{}} }}")).3, 0, "{arguments}");
    }
    assert_eq!(found("fn f(a: u8) { fn g((a, b): (u8, u8)) {} }").iter().map(|function| function.3).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(found("#[cfg(test)] mod tests { fn f(pair: (u8, u8)) {} }"), []);
    assert_eq!(found("fn f() { let _ = |(a, b): (u8, u8)| a + b; }")[0].3, 0);
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

/// The sources of the crate in `folder`.
fn sources(folder: &str) -> Sources {
    Sources::read(&root().join(folder).join("src")).unwrap_or_else(|error| panic!("{folder}: {error:#}"))
}

fn of(files: &[(&str, &str)]) -> Sources {
    Sources::of(files.iter().copied()).expect("Rust")
}

fn arrow(from: &str, to: &str, file: &str) -> ((String, String), String) {
    ((from.to_owned(), to.to_owned()), file.to_owned())
}

/// Modules of a crate that reach each other: those at the top, and the children of each module. Where they lie in [`WITH_PARENT`], their parent too.
fn circles_of(sources: &Sources) -> Vec<String> {
    let circles_in = |parent: &[String]| {
        let name = if parent.is_empty() { "the crate".to_owned() } else { parent.join("::") };
        let arrows = if WITH_PARENT.contains(&name.as_str()) { sources.arrows(parent) } else { sources.arrows_between_children(parent) };
        let circles = rooms::circles(&arrows).into_iter();
        circles.map(|circle| format!("{name}: {}", rooms::drawn(&arrows, &circle))).collect::<Vec<_>>()
    };
    sources.parents().into_iter().flat_map(circles_in).collect()
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
