//! Removal of everything that is no text from a `tokenizer.json`, before it is loaded.
//!
//! Added tokens are often in the model's vocabulary too. Byte pairs rarely reach them there, but whole-word lookups, Unigram and WordPiece
//! do. So they lose their names in the model. From a vocabulary that is a map, a token is removed with the merges that produce or use it.
//! In one that is a list, whose indices are the ids, it becomes empty. No model looks up an empty token.

use std::collections::HashSet;
use std::ops::Range;

use cm3flow_schemas::vocabulary::NamedToken;
use serde_json::{Map, Value, json};

use super::{Fidelity, WordEnd};

/// A `tokenizer.json` with text only.
pub(super) struct Prepared {
    pub json: Value,
    /// One more than the model's largest id.
    pub size: u32,
    /// Id that the model gives to text without a token.
    pub unknown: Option<u32>,
    pub word_end: Option<WordEnd>,
    pub fidelity: Fidelity,
}

/// Name of the token for text without a token: the model finds it when it needs it, and no text spells it.
const UNKNOWN: &str = "";

/// Removes added tokens, the unknown token and ids outside of `within` from the tokenizer `json`.
pub(super) fn prepare(mut json: Value, within: &Range<u32>) -> Result<Prepared, String> {
    let tokens = named_tokens(&json)?;
    let model_ids = model_tokens(&json)?.into_iter().map(|(_, id)| id);
    let size = model_ids.max().unwrap_or(0).checked_add(1).ok_or("an id is too large")?;
    let (fidelity, word_end) = (fidelity(&json), word_end(&json));
    let added_ids: HashSet<u32> = tokens.iter().filter(|token| token.is_added).map(|token| token.id).collect();
    let is_left_out = |id: u32| added_ids.contains(&id) || !within.contains(&id);
    let top = json.as_object_mut().ok_or("it is no object")?;
    top.insert("added_tokens".into(), json!([]));
    for left_out in ["post_processor", "truncation", "padding"] {
        top.insert(left_out.into(), Value::Null);
    }
    // Cleanup changes words: "do not" becomes "don't".
    components_mut(top.get_mut("decoder"), &mut |component| {
        if component.contains_key("cleanup") {
            component.insert("cleanup".into(), json!(false));
        }
    });
    let model = top.get_mut("model").and_then(Value::as_object_mut).ok_or("it has no model")?;
    let unknown = match model.get("vocab") {
        Some(Value::Array(_)) => blank_list(model, is_left_out),
        _ => leave_out_of_map(model, is_left_out),
    };
    let unknown = unknown.and_then(|id| u32::try_from(id).ok());
    Ok(Prepared { json, size, unknown, word_end, fidelity })
}

/// Returns all tokens of the tokenizer `json`, by ascending id.
pub(super) fn named_tokens(json: &Value) -> Result<Vec<NamedToken>, String> {
    let added = json.get("added_tokens").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mut tokens = Vec::new();
    for token in added {
        let (name, id) = (token.get("content").and_then(Value::as_str), token.get("id").and_then(Value::as_u64));
        let (Some(name), Some(id)) = (name, id.and_then(|id| u32::try_from(id).ok())) else {
            return Err(format!("an added token lacks content or id: {token}"));
        };
        tokens.push(NamedToken { name: name.to_owned(), id, is_added: true });
    }
    let names: HashSet<&str> = tokens.iter().map(|token| token.name.as_str()).collect();
    let ids: HashSet<u32> = tokens.iter().map(|token| token.id).collect();
    let in_model = model_tokens(json)?;
    // A file may give an added token another id than the model does; then neither is text.
    let of_model = in_model.into_iter().filter(|(name, id)| !(names.contains(name) && ids.contains(id)));
    let of_model: Vec<NamedToken> =
        of_model.map(|(name, id)| NamedToken { is_added: names.contains(name) || ids.contains(&id), name: name.to_owned(), id }).collect();
    tokens.extend(of_model);
    tokens.sort_unstable_by(|a, b| (a.id, &a.name).cmp(&(b.id, &b.name)));
    Ok(tokens)
}

/// Returns names and ids of the model's vocabulary.
fn model_tokens(json: &Value) -> Result<Vec<(&str, u32)>, String> {
    match json.get("model").and_then(|model| model.get("vocab")) {
        Some(Value::Object(vocabulary)) => {
            let id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
            vocabulary.iter().map(|(name, value)| Ok((name.as_str(), id(value).ok_or(format!("{name:?} has no id"))?))).collect()
        }
        Some(Value::Array(vocabulary)) => {
            let name = |entry: &'_ Value| entry.get(0).and_then(Value::as_str).is_some();
            if let Some(entry) = vocabulary.iter().find(|entry| !name(entry)) {
                return Err(format!("{entry} in the vocabulary has no name"));
            }
            Ok(vocabulary.iter().filter_map(|entry| entry.get(0)?.as_str()).zip(0..).collect())
        }
        _ => Err("its model has no vocabulary".into()),
    }
}

/// Removes tokens from the list of a Unigram model, whose indices are ids. The unknown token keeps its place, which byte fallback needs.
/// Returns its id.
fn blank_list(model: &mut Map<String, Value>, is_left_out: impl Fn(u32) -> bool) -> Option<u64> {
    let unknown = model.get("unk_id").and_then(Value::as_u64);
    let vocabulary = model.get_mut("vocab").and_then(Value::as_array_mut)?;
    for (entry, id) in vocabulary.iter_mut().zip(0_u32..) {
        if (is_left_out(id) || unknown == Some(id.into()))
            && let Some(name) = entry.get_mut(0)
        {
            *name = json!(UNKNOWN);
        }
    }
    unknown
}

/// Removes tokens from the map of a BPE, WordPiece or WordLevel model. Returns the id of the unknown token.
fn leave_out_of_map(model: &mut Map<String, Value>, is_left_out: impl Fn(u32) -> bool) -> Option<u64> {
    let unknown = model.insert("unk_token".into(), json!(UNKNOWN));
    let unknown = unknown.as_ref().and_then(Value::as_str);
    let mut left_out: HashSet<String> = HashSet::new();
    let mut unknown_id = None;
    if let Some(vocabulary) = model.get_mut("vocab").and_then(Value::as_object_mut) {
        unknown_id = unknown.and_then(|name| vocabulary.get(name)).and_then(Value::as_u64);
        let names = vocabulary.iter().filter(|(name, id)| {
            let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
            id.is_none_or(&is_left_out) || Some(name.as_str()) == unknown || *name == UNKNOWN
        });
        left_out.extend(names.map(|(name, _)| name.clone()));
        vocabulary.retain(|name, _| !left_out.contains(name));
        // Without this entry and without byte fallback, the model fails at a character that has no token.
        vocabulary.extend(unknown_id.map(|id| (UNKNOWN.to_owned(), json!(id))));
    }
    if model.contains_key("dropout") {
        model.insert("dropout".into(), Value::Null);
    }
    let prefix = model.get("continuing_subword_prefix").and_then(Value::as_str).map_or(0, str::len);
    if let Some(merges) = model.get_mut("merges").and_then(Value::as_array_mut) {
        merges.retain(|merge| {
            let Some((first, second)) = parts_of(merge) else { return true };
            let whole = format!("{first}{}", second.get(prefix..).unwrap_or_default());
            ![first, second, &whole].into_iter().any(|part| left_out.contains(part))
        });
    }
    unknown_id
}

/// Returns both sides of a merge, which files write as a list or as text with a space.
fn parts_of(merge: &Value) -> Option<(&str, &str)> {
    match merge {
        Value::String(text) => text.split_once(' '),
        _ => Some((merge.get(0)?.as_str()?, merge.get(1)?.as_str()?)),
    }
}

/// Returns the fidelity that follows from normalizer, pre-tokenizer and decoder.
fn fidelity(json: &Value) -> Fidelity {
    let text = |part: &Value, field: &str| part.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let keeps_behavior = |part: &Value| text(part, "behavior") != "Removed";
    let normalizers = components(json.get("normalizer"));
    let normalizes = normalizers.iter().all(|part| match kind(part) {
        "NFC" | "Prepend" | "ByteLevel" => true,
        "Replace" => part.pointer("/pattern/String").and_then(Value::as_str) == Some(" ") && text(part, "content") == "▁",
        _ => false,
    });
    let splits = components(json.get("pre_tokenizer")).iter().all(|part| match kind(part) {
        "ByteLevel" => part.get("add_prefix_space") == Some(&json!(false)),
        "Metaspace" => text(part, "prepend_scheme") == "never",
        "Split" | "Punctuation" => keeps_behavior(part),
        "Digits" | "UnicodeScripts" => true,
        _ => false,
    });
    let decoders = components(json.get("decoder"));
    let has = |parts: &[&Value], wanted: &str| parts.iter().any(|part| kind(part) == wanted);
    // A prepended prefix must be removed again.
    let reads_back = !decoders.is_empty() && (!has(&normalizers, "Prepend") || has(&decoders, "Strip"));
    let model = json.get("model");
    let is_whole = model.is_some_and(|model| model.get("merges").is_some() || model.get("vocab").is_some_and(Value::is_array));
    match normalizes && splits && reads_back && is_whole && suffix(json).is_none() {
        true if has(&normalizers, "NFC") => Fidelity::Composed,
        true => Fidelity::Exact,
        false => Fidelity::Normalized,
    }
}

/// Returns the suffix that the model appends to the last token of a word.
fn suffix(json: &Value) -> Option<&str> {
    json.pointer("/model/end_of_word_suffix")?.as_str().filter(|suffix| !suffix.is_empty())
}

/// Returns the mark at word ends, unless the file's own decoder turns it into a space.
fn word_end(json: &Value) -> Option<WordEnd> {
    let mark = suffix(json)?;
    let decoders = components(json.get("decoder"));
    let is_replaced = |part: &&Value| match kind(part) {
        "BPEDecoder" => part.get("suffix").and_then(Value::as_str) == Some(mark),
        "Replace" => part.pointer("/pattern/String").and_then(Value::as_str) == Some(mark),
        _ => false,
    };
    let has_bytes = decoders.iter().any(|part| kind(part) == "ByteLevel");
    let space = if has_bytes { "\u{120}" } else { " " };
    (!decoders.iter().any(is_replaced)).then(|| WordEnd { mark: mark.to_owned(), space })
}

fn kind(component: &Value) -> &str {
    component.get("type").and_then(Value::as_str).unwrap_or_default()
}

/// Names of the fields with sequences of components.
const SEQUENCES: [&str; 3] = ["normalizers", "pretokenizers", "decoders"];

/// Returns the components of a normalizer, pre-tokenizer or decoder, with sequences flattened.
fn components(component: Option<&Value>) -> Vec<&Value> {
    let Some(component) = component.filter(|component| !component.is_null()) else { return Vec::new() };
    match SEQUENCES.iter().find_map(|name| component.get(name)?.as_array()) {
        Some(parts) => parts.iter().flat_map(|part| components(Some(part))).collect(),
        None => vec![component],
    }
}

/// Calls `change` for every component of a decoder, with sequences flattened.
fn components_mut(component: Option<&mut Value>, change: &mut impl FnMut(&mut Map<String, Value>)) {
    let Some(component) = component.and_then(Value::as_object_mut) else { return };
    match SEQUENCES.iter().find(|name| component.contains_key(**name)) {
        Some(name) => {
            let parts = component.get_mut(*name).and_then(Value::as_array_mut);
            parts.into_iter().flatten().for_each(|part| components_mut(Some(part), change));
        }
        None => change(component),
    }
}
