//! Vocabulary of Chameleon, derived from the token names in its text tokenizer.

use std::collections::{BTreeMap, HashMap};

use super::{Brackets, IdRange, Vocabulary};
use crate::error::VocabularyError;

/// A token of a `tokenizer.json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedToken {
    /// Name in the file.
    pub name: String,
    /// Id in the text tokenizer.
    pub id: u32,
    /// `true` if the file lists the token as added; such tokens are no text.
    pub is_added: bool,
}

/// Prefix of the names of image tokens. The digits of the code follow as letters, A for 0, and then `Z`.
const IMAGE_PREFIX: &str = "IMGIMG";
const IMAGE_SUFFIX: &str = "Z";

impl Vocabulary {
    /// Derives the vocabulary from the names in a `tokenizer.json` of Chameleon's kind. Its ids stay as they are. There are no sentinels
    /// and no span end among them.
    ///
    /// # Errors
    /// [`VocabularyError::Name`] if a control token or an image code has no name, or two; the errors of [`Self::check`].
    ///
    /// # Source
    /// The text tokenizer published with Chameleon, <https://arxiv.org/abs/2405.09818>.
    pub fn chameleon(tokens: &[NamedToken]) -> Result<Self, VocabularyError> {
        let by_name: HashMap<&str, u32> = tokens.iter().map(|token| (token.name.as_str(), token.id)).collect();
        let named = |name: &str| by_name.get(name).copied().ok_or_else(|| refused(name, "the tokenizer has no token of that name"));
        let (image, image_order) = image_ids(tokens)?;
        let is_text = |token: &&NamedToken| !token.is_added && code_of(&token.name).is_none() && !is_control(&token.name);
        let text_ids = || tokens.iter().filter(is_text).map(|token| token.id);
        let first = text_ids().min().ok_or_else(|| refused("(text)", "the tokenizer has no token that is text"))?;
        let text = IdRange { start: first, len: text_ids().max().unwrap_or(first) - first + 1 };
        let vocabulary = Self {
            name: "chameleon".into(),
            size: tokens.iter().map(|token| token.id).max().unwrap_or(0).saturating_add(1),
            begin: named("<s>")?,
            pad: named("<pad>")?,
            boundary: named("</s>")?,
            unknown: named("<unk>")?,
            break_: named("<reserved08706>")?,
            image_brackets: Some(Brackets { open: named("<racm3:break>")?, close: named("<eoss>")? }),
            span_end: None,
            sentinels: IdRange::default(),
            text,
            text_first: first,
            image,
            image_order,
            shapes: None,
            modalities: BTreeMap::new(),
        };
        vocabulary.check()?;
        Ok(vocabulary)
    }
}

fn refused(name: &str, problem: impl Into<String>) -> VocabularyError {
    VocabularyError::Name { name: name.to_owned(), problem: problem.into() }
}

/// Checks whether `name` is a control token, by Chameleon's own rule.
fn is_control(name: &str) -> bool {
    name.len() > 2 && name.starts_with('<') && name.ends_with('>')
}

/// Returns the code that `name` spells; `None` for other names.
fn code_of(name: &str) -> Option<u32> {
    let letters = name.strip_prefix(IMAGE_PREFIX)?.strip_suffix(IMAGE_SUFFIX)?;
    let digit = |letter: u8| letter.checked_sub(b'A').filter(|digit| *digit < 10).map(u32::from);
    let code = letters.bytes().try_fold(0_u32, |code, letter| code.checked_mul(10)?.checked_add(digit(letter)?))?;
    // Each code has one spelling: no leading zeros.
    (!letters.is_empty() && (letters.len() == 1 || !letters.starts_with('A'))).then_some(code)
}

/// Returns the range of the image ids, and the order of the codes in it if it is not their own.
fn image_ids(tokens: &[NamedToken]) -> Result<(IdRange, Vec<u32>), VocabularyError> {
    let mut codes: Vec<(u32, &NamedToken)> = tokens.iter().filter_map(|token| Some((code_of(&token.name)?, token))).collect();
    codes.sort_unstable_by_key(|(code, token)| (*code, token.id));
    let mut ids = Vec::with_capacity(codes.len());
    for (expected, &(code, token)) in (0..).zip(&codes) {
        if code < expected {
            return Err(refused(&token.name, "the tokenizer has two ids for it"));
        }
        if code > expected {
            return Err(refused(&token.name, format!("the tokenizer has no name for code {expected}, but for {code}")));
        }
        ids.push(token.id);
    }
    let start = ids.iter().copied().min().ok_or_else(|| refused("IMGIMGAZ", "the tokenizer has no token of that name"))?;
    let last = ids.iter().copied().max().unwrap_or(start);
    if last - start + 1 != ids.len() as u32 {
        let problem = format!("ids of images must follow each other, {} codes lie between {start} and {last}", ids.len());
        return Err(refused("IMGIMGAZ", problem));
    }
    let order: Vec<u32> = ids.iter().map(|id| id - start).collect();
    let is_own = order.iter().zip(0..).all(|(place, code)| *place == code);
    Ok((IdRange { start, len: ids.len() as u32 }, if is_own { Vec::new() } else { order }))
}
