//! Turns packs back into documents without masks: text and image codes that people can read.

use cm3flow_schemas::document::{ImageCodes, Modality, Role, Segment, image_of, unmasked};
use cm3flow_schemas::pack::{Pack, PlacedDocument};
use cm3flow_schemas::vocabulary::Vocabulary;
use cm3flow_stages::tokenize::TextTokenizer;

use crate::error::Result;

/// A part of a document.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// Part's role in its document.
    pub role: Role,
    /// Its text or image.
    pub content: Content,
}

/// Text or an image.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// Decoded text.
    Text(String),
    /// Codes of an image.
    Image(ImageCodes),
}

/// Returns the tokens and segments of a document of `pack`; segments start from the document's first token.
#[must_use]
pub fn tokens_of(pack: &Pack, document: &PlacedDocument) -> (Vec<u32>, Vec<Segment>) {
    let range = document.start as usize..(document.start + document.len) as usize;
    let inside = pack.segments.iter().filter(|segment| range.contains(&(segment.start as usize)));
    let segments = inside.map(|segment| Segment { start: segment.start - document.start, ..*segment }).collect();
    (pack.tokens[range].to_vec(), segments)
}

/// A segment as people read it.
#[derive(Debug, Clone, PartialEq)]
pub struct SpelledSegment {
    /// The segment, counted from the document's first token.
    pub segment: Segment,
    /// Decoded text, control tokens by name, or the number of image codes in brackets: rows and columns if the segment holds a whole
    /// image with its shape.
    pub text: String,
}

/// Spells a document segment by segment: text decoded, control tokens by name, images as `[n codes]`, or as `[rows x columns codes]`
/// if the segment holds a whole image with its shape.
///
/// # Errors
/// If an id does not fit its segment's modality, or the text tokenizer cannot decode it.
pub fn spelled(tokens: &[u32], segments: &[Segment], vocabulary: &Vocabulary, text: &TextTokenizer) -> Result<Vec<SpelledSegment>> {
    let spell = |segment: &Segment| {
        let ids = &tokens[segment.range()];
        let text = match segment.modality {
            Modality::Image => match image_of(vocabulary, ids).ok().and_then(|image| image.grid) {
                Some(grid) => format!("[{} x {} codes]", grid.rows, grid.columns),
                None => format!("[{} codes]", ids.iter().filter(|id| vocabulary.image.contains(**id)).count()),
            },
            Modality::Text => text_of(ids, vocabulary, text)?,
            Modality::Control => ids.iter().map(|&id| vocabulary.control_name(id).unwrap_or_else(|| id.to_string())).collect(),
        };
        Ok(SpelledSegment { segment: *segment, text })
    };
    segments.iter().map(spell).collect()
}

fn text_of(ids: &[u32], vocabulary: &Vocabulary, text: &TextTokenizer) -> Result<String> {
    Ok(text.decode(&vocabulary.text_tokens(ids)?)?)
}

/// Returns the parts of a document in order, without masks. A text with holes is one part, and its role that of the holes.
///
/// # Errors
/// If an id does not fit its segment's modality, or the text tokenizer cannot decode it.
pub fn parts(tokens: &[u32], segments: &[Segment], vocabulary: &Vocabulary, text: &TextTokenizer) -> Result<Vec<Part>> {
    let (tokens, segments) = unmasked(tokens, segments, vocabulary);
    let runs = segments.split(|segment| segment.modality == Modality::Control).filter(|run| !run.is_empty());
    let part = |run: &[Segment]| {
        let ids = &tokens[run[0].range().start..run[run.len() - 1].range().end];
        let content = match run[0].modality {
            Modality::Image => Content::Image(image_of(vocabulary, ids)?),
            _ => Content::Text(text_of(ids, vocabulary, text)?),
        };
        let role = run.iter().map(|segment| segment.role).find(|role| *role == Role::Target).unwrap_or(run[0].role);
        Ok(Part { role, content })
    };
    runs.map(part).collect()
}
