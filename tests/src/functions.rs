//! Functions of a source file as far as they have a name: their length and their arguments. Tests do not count.

use anyhow::Result;
use syn::visit::{self, Visit};
use syn::{FnArg, ImplItemFn, Item, ItemFn, ItemImpl, Pat, Signature, TraitItemFn, Type};

use crate::rooms::{attributes_of, is_for_tests};

/// A function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// Product name.
    pub name: String,
    /// The line that it begins in, from 1.
    pub line: usize,
    /// Lines from there to its end.
    pub lines: usize,
    /// Arguments beside `self`.
    pub arguments: usize,
    /// Tuples among these. None where a trait gives the signature.
    pub tuples: usize,
}

/// Functions of a source file, in its order.
///
/// # Errors
/// Text that is no Rust.
pub fn functions(text: &str) -> Result<Vec<Function>> {
    let mut reading = Reading::default();
    reading.visit_file(&syn::parse_file(text)?);
    Ok(reading.functions)
}

#[derive(Default)]
struct Reading {
    functions: Vec<Function>,
    /// `true` if a trait gives the signatures of the functions that are read.
    is_of_trait: bool,
}

impl Reading {
    fn take(&mut self, signature: &Signature, end: usize) {
        let arguments = signature.inputs.iter().filter_map(|input| match input {
            FnArg::Typed(argument) => Some(argument),
            FnArg::Receiver(_) => None,
        });
        let tuples = if self.is_of_trait { 0 } else { arguments.clone().filter(|argument| is_tuple(&argument.pat, &argument.ty)).count() };
        let line = signature.fn_token.span.start().line;
        let name = signature.ident.to_string();
        self.functions.push(Function { name, line, lines: end - line + 1, arguments: arguments.count(), tuples });
    }
}

fn is_tuple(pattern: &Pat, kind: &Type) -> bool {
    match kind {
        Type::Tuple(tuple) => !tuple.elems.is_empty(),
        Type::Reference(reference) => is_tuple(pattern, &reference.elem),
        _ => matches!(pattern, Pat::Tuple(_)),
    }
}

impl<'ast> Visit<'ast> for Reading {
    fn visit_item(&mut self, item: &'ast Item) {
        if !is_for_tests(attributes_of(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_impl(&mut self, item: &'ast ItemImpl) {
        let outer = std::mem::replace(&mut self.is_of_trait, item.trait_.is_some());
        visit::visit_item_impl(self, item);
        self.is_of_trait = outer;
    }

    fn visit_item_fn(&mut self, item: &'ast ItemFn) {
        let outer = std::mem::replace(&mut self.is_of_trait, false);
        self.take(&item.sig, item.block.brace_token.span.close().end().line);
        visit::visit_item_fn(self, item);
        self.is_of_trait = outer;
    }

    fn visit_impl_item_fn(&mut self, item: &'ast ImplItemFn) {
        if !is_for_tests(&item.attrs) {
            self.take(&item.sig, item.block.brace_token.span.close().end().line);
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_trait_item_fn(&mut self, item: &'ast TraitItemFn) {
        let end = item.default.as_ref().map_or(item.sig.paren_token.span, |block| block.brace_token.span);
        self.take(&item.sig, end.close().end().line);
        visit::visit_trait_item_fn(self, item);
    }
}
