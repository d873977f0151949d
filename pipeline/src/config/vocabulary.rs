//! `[vocabulary]`: the meaning of each token id.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use cm3flow_schemas::Grid;
use cm3flow_schemas::limits::{problem, within};
use cm3flow_schemas::vocabulary::{IdRange, ImageShapes, NamedToken, Vocabulary, VocabularySizes};
use cm3flow_stages::mask::MaskConfig;
use cm3flow_stages::tokenize::TextTokenizer;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::TextConfig;
use crate::error::{Mismatch, Result};

/// Sentinels of a fitted vocabulary that does not ask for more or fewer.
const FITTED_SENTINELS: u32 = 64;
const SIZE: RangeInclusive<u32> = 1..=1 << 22;
const RUN: RangeInclusive<u32> = 2..=512;

/// `[vocabulary]`: the meaning of each token id.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct VocabularyConfig {
    /// Layout of the ids.
    pub preset: VocabularyPreset,
    /// Number of ids. A larger number than the preset needs leaves room for further modalities.
    #[schemars(transform = within(SIZE), extend("x-default" = "the number that the preset needs"))]
    pub size: Option<u32>,
    /// Sentinels, which stand for masked spans. Of the preset `fitted` their number, 2 to 512; of `chameleon` the reserved tokens that serve as
    /// sentinels, 2 to 512 whose ids follow each other. Other presets have their own.
    #[schemars(extend("x-default" = "64 of `fitted`, none of `chameleon`, which then masks nothing"))]
    pub sentinels: Option<SentinelsConfig>,
    /// Reserved token of the preset `chameleon` that ends an infilled span; given together with `sentinels`.
    pub span_end: Option<TokenRef>,
    /// Reserved tokens of the preset `chameleon` that say numbers of rows and columns, named as `sentinels` are; with
    /// `tokenize.image.aspect_buckets` alone.
    pub sizes: Option<SentinelsConfig>,
    /// Reserved token of the preset `chameleon` that ends a row of codes; given together with `sizes`.
    pub line_end: Option<TokenRef>,
    /// Codes of further modalities, by the modality's name.
    pub modalities: BTreeMap<String, RangeConfig>,
    /// `[vocabulary.custom]`: every id and range of the preset `custom`, as a manifest's `vocabulary` holds them.
    pub custom: Option<Vocabulary>,
}

/// `vocabulary.preset`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum VocabularyPreset {
    /// As small as the tokenizers allow.
    #[default]
    Fitted,
    /// The paper's 65,536 ids.
    Cm3leon,
    /// The ids of Chameleon's own `tokenizer.json`, which `tokenize.text.file` names.
    Chameleon,
    /// Those of `[vocabulary.custom]`.
    Custom,
}

/// `vocabulary.sentinels`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum SentinelsConfig {
    /// The number of tokens, which the preset lays out.
    Count(u32),
    /// The tokens, whose ids follow each other.
    Tokens(Vec<TokenRef>),
    /// A first token and those behind it.
    From(SentinelRun),
}

/// A run of tokens.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SentinelRun {
    /// The first token.
    pub first: TokenRef,
    /// Number of tokens.
    #[schemars(transform = within(RUN))]
    pub count: u32,
}

/// A token of the text tokenizer, by id or by name.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum TokenRef {
    /// The token's id.
    Id(u32),
    /// The token's name.
    Name(String),
}

/// Ids of a further modality.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum RangeConfig {
    /// The number of codes, which are placed behind everything else.
    Len(u32),
    /// The ids of the codes.
    At(IdRange),
}

impl VocabularyConfig {
    /// Problems of the fields; `sides` is the number of different sides of images that are no squares alone.
    pub(super) fn problems(&self, text: &TextConfig, mask: &MaskConfig, sides: Option<usize>) -> Vec<String> {
        let mut problems = self.shape_problems(sides);
        problems.extend(self.size.and_then(|size| problem("vocabulary.size", size, &SIZE)));
        let mut check = |holds: bool, problem: &str| {
            if !holds {
                problems.push(format!("vocabulary.{problem}"));
            }
        };
        let is_chameleon = self.preset == VocabularyPreset::Chameleon;
        let is_custom = self.preset == VocabularyPreset::Custom;
        check(self.custom.is_some() == is_custom, "custom and vocabulary.preset = \"custom\" must be given together");
        check(self.span_end.is_none() || is_chameleon, "span_end is for vocabulary.preset = \"chameleon\"");
        if let Some(problem) = self.sentinels.as_ref().and_then(|sentinels| self.problem_of(sentinels)) {
            check(false, problem);
        }
        if let Some(SentinelsConfig::From(SentinelRun { count, .. })) = &self.sizes {
            check(RUN.contains(count), "sizes.count must be in 2..=512");
        }
        if is_chameleon {
            check(text.file.is_some(), "preset \"chameleon\" needs Chameleon's tokenizer.json in tokenize.text.file");
            check(self.sentinels.is_some() == self.span_end.is_some(), "sentinels and vocabulary.span_end must be given together");
        }
        if let Some(Err(error)) = self.custom.as_ref().map(Vocabulary::check) {
            check(false, &format!("custom: {error}"));
        }
        let can_mask = match self.preset {
            VocabularyPreset::Fitted | VocabularyPreset::Cm3leon => true,
            VocabularyPreset::Chameleon => self.sentinels.is_some(),
            VocabularyPreset::Custom => self.custom.as_ref().is_none_or(Vocabulary::can_mask),
        };
        if mask.mean_spans > 0.0 && mask.max_spans > 0 && !can_mask {
            problems.push(format!(
                "mask.mean_spans must be 0 for a vocabulary without sentinels and span end, got {}; or let reserved tokens serve: \
                 vocabulary.sentinels = {{ first = \"<reserved…>\", count = … }} and vocabulary.span_end",
                mask.mean_spans
            ));
        }
        problems
    }

    /// Problems of the tokens that say shapes.
    fn shape_problems(&self, sides: Option<usize>) -> Vec<String> {
        let mut problems = Vec::new();
        let mut check = |holds: bool, problem: &str| {
            if !holds {
                problems.push(format!("vocabulary.{problem}"));
            }
        };
        let names_some = self.sizes.is_some() || self.line_end.is_some();
        match (self.preset, sides) {
            (VocabularyPreset::Chameleon, Some(sides)) if self.sizes.is_none() || self.line_end.is_none() => check(
                false,
                &format!(
                    "preset \"chameleon\" has no tokens for the shapes that tokenize.image.aspect_buckets asks for; let reserved ones serve: \
                     vocabulary.sizes = {{ first = \"<reserved…>\", count = {sides} }} and vocabulary.line_end"
                ),
            ),
            (VocabularyPreset::Chameleon, None) => {
                check(!names_some, "sizes and vocabulary.line_end are for tokenize.image.aspect_buckets, which is off");
            }
            (VocabularyPreset::Chameleon, Some(_)) => {}
            (VocabularyPreset::Custom, _) => {
                let has_shapes = self.custom.as_ref().is_some_and(|custom| custom.shapes.is_some());
                check(has_shapes == sides.is_some(), "custom.shapes and tokenize.image.aspect_buckets must be given together");
                check(!names_some, "sizes and vocabulary.line_end stand in vocabulary.custom.shapes with vocabulary.preset = \"custom\"");
            }
            _ => check(!names_some, "sizes and vocabulary.line_end are for vocabulary.preset = \"chameleon\""),
        }
        problems
    }

    /// Why the preset cannot have `sentinels`.
    fn problem_of(&self, sentinels: &SentinelsConfig) -> Option<&'static str> {
        use VocabularyPreset::{Chameleon, Cm3leon, Custom, Fitted};
        match (self.preset, sentinels) {
            (Fitted, SentinelsConfig::Count(count)) if RUN.contains(count) => None,
            (Cm3leon, SentinelsConfig::Count(512)) => None,
            (Fitted, _) => Some("sentinels must be a number in 2..=512 with vocabulary.preset = \"fitted\""),
            (Cm3leon, _) => Some("sentinels are 512 with vocabulary.preset = \"cm3leon\"; leave the field out"),
            (Custom, _) => Some("sentinels stand in vocabulary.custom with vocabulary.preset = \"custom\""),
            (Chameleon, SentinelsConfig::Count(_)) => Some(
                "sentinels must name reserved tokens with vocabulary.preset = \"chameleon\": a list, or { first = \"<reserved…>\", count = … }",
            ),
            (Chameleon, SentinelsConfig::From(run)) => (!RUN.contains(&run.count)).then_some("sentinels.count must be in 2..=512"),
            (Chameleon, SentinelsConfig::Tokens(tokens)) => {
                (!RUN.contains(&(tokens.len() as u32))).then_some("sentinels must be 2 to 512 tokens")
            }
        }
    }

    /// Control tokens that stand around each image beside the breaks between parts.
    pub(super) fn tokens_around_an_image(&self) -> usize {
        let has_brackets =
            self.preset == VocabularyPreset::Chameleon || self.custom.as_ref().is_some_and(|custom| custom.image_brackets.is_some());
        if has_brackets { 2 } else { 0 }
    }

    /// The text tokenizer in the `tokenizer.json` `text`, and the vocabulary over it and `codes` codes of images, which may have `grids` beside
    /// the square.
    ///
    /// # Errors
    /// [`crate::PipelineError::Mismatch`] if the tokenizers do not fit into the vocabulary, the vocabulary is not in the tokenizer, or ranges
    /// overlap; [`crate::PipelineError::Stage`] if the file is no tokenizer.
    pub fn build(&self, text: &[u8], codes: u32, grids: &[Grid]) -> Result<(TextTokenizer, Vocabulary)> {
        let tokenizer = TextTokenizer::from_json(text)?;
        let mut vocabulary = match (self.preset, &self.custom) {
            (VocabularyPreset::Custom, Some(custom)) => custom.clone(),
            (VocabularyPreset::Chameleon, _) => self.chameleon(text)?,
            (VocabularyPreset::Cm3leon, _) => Vocabulary::cm3leon(),
            _ => {
                let sentinels = if let Some(SentinelsConfig::Count(count)) = self.sentinels { count } else { FITTED_SENTINELS };
                Vocabulary::try_new("fitted", &VocabularySizes { text: tokenizer.size(), image: codes, sentinels, total: None })?
            }
        };
        self.place_shapes(&mut vocabulary, text, grids)?;
        self.place_modalities(&mut vocabulary);
        vocabulary.check().map_err(|source| Mismatch::Contradiction { source })?;
        // Where ids are taken over, those outside the range are control tokens.
        let takes_over = vocabulary.text_first > 0;
        let texts = if takes_over { 0 } else { tokenizer.size() };
        for (tokenizer, ids, room) in [("text tokenizer", texts, vocabulary.text.len), ("image tokenizer", codes, vocabulary.image.len)] {
            if ids > room {
                return Err(Mismatch::NoRoom { tokenizer, ids, vocabulary: vocabulary.name, room }.into());
            }
        }
        let within = vocabulary.text_first..vocabulary.text_first.saturating_add(vocabulary.text.len);
        Ok((if takes_over { TextTokenizer::within(text, within)? } else { tokenizer }, vocabulary))
    }

    /// Gives the shapes of images their tokens: those that are named, or ids behind everything else.
    fn place_shapes(&self, vocabulary: &mut Vocabulary, text: &[u8], grids: &[Grid]) -> Result<()> {
        if let Some(shapes) = &vocabulary.shapes {
            return if shapes.grids == grids { Ok(()) } else { Err(Mismatch::OtherShapes.into()) };
        }
        if grids.is_empty() {
            return Ok(());
        }
        let (start, len) = (vocabulary.used(), ImageShapes::sides(grids).len() as u32);
        let (sizes, line_end) = match (&self.sizes, &self.line_end) {
            (Some(sizes), Some(line_end)) => {
                let tokens = TextTokenizer::named_tokens(text)?;
                (range_of("sizes", sizes, &tokens)?, id_of(line_end, &tokens)?)
            }
            _ => (IdRange { start, len }, start + len),
        };
        vocabulary.shapes = Some(ImageShapes { sizes, line_end, grids: grids.to_vec() });
        Ok(())
    }

    fn place_modalities(&self, vocabulary: &mut Vocabulary) {
        for (name, range) in &self.modalities {
            let range = match range {
                RangeConfig::Len(len) => IdRange { start: vocabulary.used(), len: *len },
                RangeConfig::At(range) => *range,
            };
            vocabulary.modalities.insert(name.clone(), range);
        }
        if let Some(size) = self.size {
            vocabulary.size = size;
        } else if self.preset == VocabularyPreset::Fitted {
            vocabulary.size = vocabulary.used().saturating_add(63) / 64 * 64;
        }
    }

    /// The vocabulary that the names in `text` spell, with the tokens that serve as sentinels.
    fn chameleon(&self, text: &[u8]) -> Result<Vocabulary> {
        let tokens = TextTokenizer::named_tokens(text)?;
        let mut vocabulary = Vocabulary::chameleon(&tokens).map_err(|source| Mismatch::NotChameleon { source })?;
        if let (Some(sentinels), Some(span_end)) = (&self.sentinels, &self.span_end) {
            vocabulary.sentinels = range_of("sentinels", sentinels, &tokens)?;
            vocabulary.span_end = Some(id_of(span_end, &tokens)?);
        }
        Ok(vocabulary)
    }
}

/// Ids of the tokens that `vocabulary.<field>` names.
fn range_of(field: &str, named: &SentinelsConfig, tokens: &[NamedToken]) -> Result<IdRange> {
    let ids = match named {
        SentinelsConfig::Count(_) => Vec::new(),
        SentinelsConfig::From(run) => return Ok(IdRange { start: id_of(&run.first, tokens)?, len: run.count }),
        SentinelsConfig::Tokens(list) => list.iter().map(|token| id_of(token, tokens)).collect::<Result<Vec<u32>>>()?,
    };
    match ids.windows(2).find(|pair| pair[1] != pair[0].saturating_add(1)) {
        Some(pair) => Err(Mismatch::Scattered { field: field.to_owned(), id: pair[1], before: pair[0] }.into()),
        None => Ok(IdRange { start: ids.first().copied().unwrap_or(0), len: ids.len() as u32 }),
    }
}

fn id_of(token: &TokenRef, tokens: &[NamedToken]) -> Result<u32> {
    let found = match token {
        TokenRef::Id(id) => Some(*id),
        TokenRef::Name(name) => tokens.iter().find(|token| token.name == *name).map(|token| token.id),
    };
    Ok(found.ok_or_else(|| Mismatch::NoToken { token: format!("{token:?}") })?)
}

#[cfg(test)]
mod tests;
