//! Rooms of a crate, its top-level modules, and the arrows between them in the sources.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};
use syn::visit::{self, Visit};
use syn::{ItemMod, ItemUse, UseTree};

/// Arrows from room to room, each with a file that has it.
pub type Arrows = BTreeMap<(String, String), String>;

/// Returns the arrows of the crate with sources in `folder`. `lib.rs`, `main.rs` and tests are no rooms. A re-export in `lib.rs` counts as
/// the room that it comes from.
///
/// # Errors
/// Those of a file that cannot be read or is no Rust.
pub fn arrows(folder: &Path) -> Result<Arrows> {
    let mut files = Vec::new();
    collect(folder, &mut Vec::new(), &mut files)?;
    let rooms: BTreeSet<String> = files.iter().filter_map(|(module, ..)| module.first().cloned()).collect();
    let passed_on = passed_on(&std::fs::read_to_string(folder.join("lib.rs"))?)?;
    let mut arrows = Arrows::new();
    for (module, name, text) in &files {
        let Some(from) = module.first() else { continue };
        for to in uses(module, text).with_context(|| name.clone())? {
            let to = passed_on.get(&to).unwrap_or(&to);
            if to != from && rooms.contains(to) {
                arrows.entry((from.clone(), to.clone())).or_insert_with(|| name.clone());
            }
        }
    }
    Ok(arrows)
}

/// Returns the groups of rooms that reach each other, each group once.
#[must_use]
pub fn circles(arrows: &Arrows) -> Vec<BTreeSet<String>> {
    let reached = |from: &str| {
        let (mut reached, mut open) = (BTreeSet::new(), vec![from.to_owned()]);
        while let Some(room) = open.pop() {
            for (_, to) in arrows.keys().filter(|(from, _)| *from == room) {
                if reached.insert(to.clone()) {
                    open.push(to.clone());
                }
            }
        }
        reached
    };
    let rooms: BTreeSet<&String> = arrows.keys().map(|(from, _)| from).collect();
    let reach: BTreeMap<&String, BTreeSet<String>> = rooms.iter().map(|room| (*room, reached(room))).collect();
    let circle =
        |room: &String| reach[room].iter().filter(|other| reach.get(other).is_some_and(|back| back.contains(room))).cloned().collect();
    let circles: BTreeSet<BTreeSet<String>> =
        rooms.into_iter().map(circle).filter(|circle: &BTreeSet<String>| !circle.is_empty()).collect();
    circles.into_iter().collect()
}

/// Returns the arrows that do not lead to a lower floor, and rooms without a floor; `floors` has the rooms of each floor, the lowest first.
#[must_use]
pub fn upwards(arrows: &Arrows, floors: &[&[&str]]) -> Vec<String> {
    let floor = |room: &str| floors.iter().position(|rooms| rooms.contains(&room));
    let refused = arrows.iter().filter_map(|((from, to), file)| match (floor(from), floor(to)) {
        (Some(above), Some(below)) if below < above => None,
        (Some(_), Some(_)) => Some(format!("{file}: {from} uses {to}, which stands on no lower floor")),
        _ => Some(format!("{file}: {from} or {to} stands on no floor")),
    });
    refused.collect()
}

/// Returns the first names of the paths that a file of the module `module` uses from its crate.
///
/// # Errors
/// Those of text that is no Rust.
pub fn uses(module: &[String], text: &str) -> Result<BTreeSet<String>> {
    let mut paths = Paths { module: module.to_vec(), rooms: BTreeSet::new() };
    paths.visit_file(&syn::parse_file(text)?);
    Ok(paths.rooms)
}

/// Collects the files below `folder`, with their module paths.
fn collect(folder: &Path, above: &mut Vec<String>, files: &mut Vec<(Vec<String>, String, String)>) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            above.push(name);
            collect(&path, above, files)?;
            above.pop();
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let module: Vec<String> = match name.as_str() {
                "lib" | "main" if above.is_empty() => Vec::new(),
                "mod" => above.clone(),
                _ => above.iter().cloned().chain([name]).collect(),
            };
            files.push((module, path.display().to_string(), std::fs::read_to_string(&path)?));
        }
    }
    Ok(())
}

/// Returns the names that `lib.rs` re-exports, by the room that each comes from.
fn passed_on(lib: &str) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for item in syn::parse_file(lib)?.items {
        if let syn::Item::Use(ItemUse { tree: UseTree::Path(path), .. }) = item {
            let mut names = Vec::new();
            leaves(&path.tree, &mut names);
            found.extend(names.into_iter().map(|name| (name, path.ident.to_string())));
        }
    }
    Ok(found)
}

fn leaves(tree: &UseTree, names: &mut Vec<String>) {
    match tree {
        UseTree::Path(path) => leaves(&path.tree, names),
        UseTree::Name(name) => names.push(name.ident.to_string()),
        UseTree::Rename(name) => names.push(name.rename.to_string()),
        UseTree::Group(group) => group.items.iter().for_each(|tree| leaves(tree, names)),
        UseTree::Glob(_) => {}
    }
}

struct Paths {
    module: Vec<String>,
    rooms: BTreeSet<String>,
}

impl Paths {
    /// Records the path of these names, if it belongs to the crate.
    fn take(&mut self, names: &[String]) {
        let ups = names.iter().take_while(|name| *name == "super").count();
        let own = self.module.len().saturating_sub(ups);
        let first = match names.first().map(String::as_str) {
            Some("crate") => names.get(1),
            Some("super") if own > 0 => self.module.first(),
            Some("super") => names.get(ups),
            _ => None,
        };
        self.rooms.extend(first.cloned());
    }

    fn take_tree(&mut self, tree: &UseTree, names: &mut Vec<String>) {
        let name = match tree {
            UseTree::Group(group) => return group.items.iter().for_each(|tree| self.take_tree(tree, names)),
            UseTree::Path(path) => path.ident.to_string(),
            UseTree::Name(name) => name.ident.to_string(),
            UseTree::Rename(name) => name.ident.to_string(),
            UseTree::Glob(_) => "*".to_owned(),
        };
        names.push(name);
        match tree {
            UseTree::Path(path) => self.take_tree(&path.tree, names),
            _ => self.take(names),
        }
        names.pop();
    }
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        self.module.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.take_tree(&item.tree, &mut Vec::new());
    }

    /// The input of a macro is not parsed, so its paths are found by their first name.
    fn visit_macro(&mut self, called: &'ast syn::Macro) {
        let text = called.tokens.to_string();
        let behind = text.split("crate :: ").skip(1).filter_map(|rest| rest.split(|c: char| c != '_' && !c.is_alphanumeric()).next());
        self.rooms.extend(behind.map(str::to_owned));
        visit::visit_macro(self, called);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.take(&names);
        visit::visit_path(self, path);
    }
}
