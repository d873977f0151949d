//! Rooms of a crate, its top-level modules, and the arrows between them in the sources.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};
use syn::visit::{self, Visit};
use syn::{Attribute, ImplItemFn, Item, ItemMod, ItemUse, Meta, UseTree, VisRestricted};

/// Arrows from room to room, each with a file that has it.
pub type Arrows = BTreeMap<(String, String), String>;

/// Names from the root of a crate on.
type Names = Vec<String>;

/// The sources of a crate.
pub struct Sources {
    /// By module.
    files: BTreeMap<Names, Source>,
}

/// A file of a crate.
struct Source {
    name: String,
    text: String,
    /// Paths that it names.
    paths: BTreeSet<Names>,
    /// Meanings of the imported names, as far as they come from its crate.
    imports: BTreeMap<String, Option<Names>>,
}

struct Parsed<'a> {
    path: &'a str,
    text: &'a str,
    file: syn::File,
}

impl Sources {
    /// The sources of the crate that lies in `folder`.
    ///
    /// # Errors
    /// A file that cannot be read or is no Rust.
    pub fn read(folder: &Path) -> Result<Self> {
        let mut files = Vec::new();
        collect(folder, folder, &mut files)?;
        Self::of(files.iter().map(|(path, text)| (path.as_str(), text.as_str())))
    }

    /// The sources `files` of a crate, by their paths from its folder on.
    ///
    /// # Errors
    /// A file that is no Rust.
    pub fn of<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self> {
        let parse = |(path, text): (&'a str, &'a str)| {
            let file = syn::parse_file(text).with_context(|| path.to_owned())?;
            Ok((module_of(path), Parsed { path, text, file }))
        };
        let mut parsed: BTreeMap<Names, Parsed<'_>> = files.into_iter().map(parse).collect::<Result<_>>()?;
        let tests: Vec<Names> = parsed.iter().flat_map(|(module, parsed)| modules_of_tests(module, &parsed.file)).collect();
        parsed.retain(|module, _| !tests.iter().any(|tests| module.starts_with(tests)));
        let modules: BTreeSet<Names> = parsed.keys().cloned().collect();
        let read = |(module, Parsed { path, text, file }): (Names, Parsed<'_>)| {
            let mut reading = Reading { modules: &modules, module: module.clone(), paths: BTreeSet::new(), imports: BTreeMap::new() };
            file.items.iter().for_each(|item| reading.import(item));
            reading.visit_file(&file);
            (module, Source { name: path.to_owned(), text: text.to_owned(), paths: reading.paths, imports: reading.imports })
        };
        Ok(Self { files: parsed.into_iter().map(read).collect() })
    }

    /// Files by name, with their texts. Those that are there for tests alone are left out.
    pub fn texts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files.values().map(|file| (file.name.as_str(), file.text.as_str()))
    }

    /// Modules that have children in files of their own; the crate's root has no name.
    pub fn parents(&self) -> BTreeSet<&[String]> {
        self.files.keys().flat_map(|module| (0..module.len()).map(|length| &module[..length])).collect()
    }

    /// The arrows between the children of the module `inside`, and between them and what its own file holds, which is a room by the module's name.
    /// A name that this file passes on counts as the child that it comes from. The crate's root holds nothing of its own.
    #[must_use]
    pub fn arrows(&self, inside: &[String]) -> Arrows {
        let room = |path: &[String]| path.get(inside.len()).or(inside.last()).cloned();
        let children: BTreeSet<&String> =
            self.files.keys().filter(|module| module.starts_with(inside)).filter_map(|module| module.get(inside.len())).collect();
        let imports = self.files.get(inside).map(|file| &file.imports);
        let target = |path: &Names| match path.strip_prefix(inside)?.first() {
            Some(name) if children.contains(name) => Some(name.clone()),
            Some(name) => match imports.and_then(|imports| imports.get(name)) {
                Some(import) => import.as_ref()?.strip_prefix(inside)?.first().filter(|name| children.contains(name)).cloned(),
                None => inside.last().cloned(),
            },
            None => inside.last().cloned(),
        };
        let mut arrows = Arrows::new();
        for (module, file) in self.files.iter().filter(|(module, _)| module.starts_with(inside)) {
            let Some(from) = room(module) else { continue };
            for to in file.paths.iter().filter_map(target).filter(|to| *to != from) {
                arrows.entry((from.clone(), to)).or_insert_with(|| file.name.clone());
            }
        }
        arrows
    }

    /// The arrows between the children of the module `inside` alone.
    #[must_use]
    pub fn arrows_between_children(&self, inside: &[String]) -> Arrows {
        let mut arrows = self.arrows(inside);
        arrows.retain(|(from, to), _| inside.last().is_none_or(|parent| from != parent && to != parent));
        arrows
    }
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

/// The arrows between rooms of a circle, for people.
#[must_use]
pub fn drawn(arrows: &Arrows, circle: &BTreeSet<String>) -> String {
    let inside = arrows.iter().filter(|((from, to), _)| circle.contains(from) && circle.contains(to));
    inside.map(|((from, to), file)| format!("{from} -> {to} ({file})")).collect::<Vec<_>>().join(", ")
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

/// Files below `folder` but those of programs, by their paths from `root` on.
fn collect(root: &Path, folder: &Path, files: &mut Vec<(String, String)>) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() && !path.ends_with("bin") {
            collect(root, &path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("main.rs") {
            files.push((path.strip_prefix(root)?.display().to_string(), std::fs::read_to_string(&path)?));
        }
    }
    Ok(())
}

/// The module that a file is, by its path.
fn module_of(path: &str) -> Names {
    let parts = path.trim_end_matches(".rs").split('/').map(str::to_owned);
    parts.filter(|part| part != "lib" && part != "mod").collect()
}

/// Modules in files of their own that `file` declares for tests.
fn modules_of_tests(module: &[String], file: &syn::File) -> Vec<Names> {
    let declared = |item: &Item| match item {
        Item::Mod(declared) if is_for_tests(&declared.attrs) => Some([module, &[declared.ident.to_string()]].concat()),
        _ => None,
    };
    file.items.iter().filter_map(declared).collect()
}

/// Checks whether an item is there for tests alone.
pub(crate) fn is_for_tests(attributes: &[Attribute]) -> bool {
    let condition = |attribute: &Attribute| match &attribute.meta {
        Meta::List(list) if list.path.is_ident("cfg") => Some(list.tokens.to_string()),
        _ => None,
    };
    attributes.iter().filter_map(condition).any(|condition| condition == "test" || condition.starts_with("all (test"))
}

/// Attributes of an item that may be there for tests alone.
pub(crate) fn attributes_of(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// Names that an import brings in, each with the path that it stands for.
fn leaves(tree: &UseTree, above: &mut Names, found: &mut Vec<(String, Names)>) {
    let (name, own) = match tree {
        UseTree::Group(group) => return group.items.iter().for_each(|tree| leaves(tree, above, found)),
        UseTree::Path(path) => {
            above.push(path.ident.to_string());
            leaves(&path.tree, above, found);
            above.pop();
            return;
        }
        UseTree::Name(name) => (name.ident.to_string(), name.ident.to_string()),
        UseTree::Rename(name) => (name.rename.to_string(), name.ident.to_string()),
        UseTree::Glob(_) => ("*".to_owned(), "*".to_owned()),
    };
    if own == "self" {
        let name = if name == "self" { above.last().cloned().unwrap_or_default() } else { name };
        found.push((name, above.clone()));
    } else {
        found.push((name, above.iter().cloned().chain([own]).collect()));
    }
}

/// The reading of one file.
struct Reading<'a> {
    /// All modules of the crate that are files.
    modules: &'a BTreeSet<Names>,
    /// Where the reading stands: the file's module, and modules within the file.
    module: Names,
    paths: BTreeSet<Names>,
    imports: BTreeMap<String, Option<Names>>,
}

impl Reading<'_> {
    /// Notes the names that `item` imports into the file.
    fn import(&mut self, item: &Item) {
        let Item::Use(ItemUse { tree, attrs, .. }) = item else { return };
        if is_for_tests(attrs) {
            return;
        }
        let mut found = Vec::new();
        leaves(tree, &mut Vec::new(), &mut found);
        for (name, path) in found {
            let path = self.rooted(&path);
            self.imports.insert(name, path);
        }
    }

    /// A path of the file from the root of its crate on; `None` for one that leads elsewhere.
    fn rooted(&self, names: &[String]) -> Option<Names> {
        let (first, rest) = names.split_first()?;
        let child = || self.module.iter().chain([first]).cloned().collect::<Names>();
        Some(match first.as_str() {
            "crate" => rest.to_vec(),
            "self" => [&self.module, rest].concat(),
            "super" => {
                let ups = names.iter().take_while(|name| *name == "super").count();
                [&self.module[..self.module.len().checked_sub(ups)?], &names[ups..]].concat()
            }
            _ if self.modules.contains(&child()) => [&child(), rest].concat(),
            _ => return None,
        })
    }

    fn take(&mut self, names: &[String]) {
        let imported = names.first().filter(|_| names.len() > 1).and_then(|first| self.imports.get(first)?.clone());
        let path = self.rooted(names).or_else(|| imported.map(|path| [&path, &names[1..]].concat()));
        self.paths.extend(path);
    }

    /// Takes the paths in what a macro or an attribute is given, which is no syntax yet.
    fn take_tokens(&mut self, tokens: &str) {
        let tokens = tokens.replace(" :: ", "::");
        for path in tokens.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).filter(|path| path.contains("::")) {
            self.take(&path.split("::").map(str::to_owned).collect::<Names>());
        }
    }
}

impl<'ast> Visit<'ast> for Reading<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        if !is_for_tests(attributes_of(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast ImplItemFn) {
        if !is_for_tests(&item.attrs) {
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        self.module.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        let mut found = Vec::new();
        leaves(&item.tree, &mut Vec::new(), &mut found);
        found.iter().for_each(|(_, path)| self.take(path));
    }

    /// Who may use an item is no use of the module that is named.
    fn visit_vis_restricted(&mut self, _: &'ast VisRestricted) {}

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        if let Meta::List(list) = &attribute.meta {
            self.take_tokens(&list.tokens.to_string());
        }
    }

    /// The input of a macro is not parsed, so its paths are found by their first name.
    fn visit_macro(&mut self, called: &'ast syn::Macro) {
        self.take_tokens(&called.tokens.to_string());
        visit::visit_macro(self, called);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.take(&path.segments.iter().map(|segment| segment.ident.to_string()).collect::<Names>());
        visit::visit_path(self, path);
    }
}
