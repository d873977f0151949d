//! Plans of masks, one for each document: the hole that its task asks for, the text that guidance leaves out, a box of an image, a whole part, or
//! random spans.

use std::ops::Range;

use cm3flow_schemas::DocumentId;
use cm3flow_schemas::document::{Modality, Role, Segment};
use cm3flow_schemas::random::Draws;
use cm3flow_schemas::vocabulary::Vocabulary;

use super::MaskConfig;

/// Masks of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Plan {
    /// These ranges of tokens, sorted and disjoint, one span each; none leaves the document as it is.
    Ranges(Vec<Range<usize>>),
    /// So many random spans, as far as they find room.
    Random(u16),
}

impl Plan {
    /// Returns the largest number of spans.
    pub(super) fn spans(&self) -> u16 {
        match self {
            Self::Ranges(ranges) => ranges.len() as u16,
            Self::Random(count) => *count,
        }
    }
}

/// A text or an image of a document: all its tokens between two control tokens.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part<'s> {
    segments: &'s [Segment],
}

impl Part<'_> {
    pub(super) fn range(&self) -> Range<usize> {
        self.segments[0].range().start..self.segments[self.segments.len() - 1].range().end
    }

    fn is(&self, modality: Modality) -> bool {
        self.segments[0].modality == modality
    }

    fn has_role(&self, role: Role) -> bool {
        self.segments.iter().any(|segment| segment.role == role)
    }
}

/// Splits a document before masking at its control tokens.
pub(super) fn parts(segments: &[Segment]) -> Vec<Part<'_>> {
    let runs = segments.split(|segment| segment.modality == Modality::Control);
    runs.filter(|run| !run.is_empty()).map(|segments| Part { segments }).collect()
}

/// The objective: settings, seed, and the vocabulary with its sentinels.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Objective<'c> {
    pub(crate) config: &'c MaskConfig,
    pub(crate) vocabulary: &'c Vocabulary,
    pub(crate) seed: u64,
}

impl Objective<'_> {
    /// Returns the largest number of spans of any document: one sentinel stays free.
    fn limit(&self) -> u16 {
        if self.config.mean_spans == 0.0 || !self.vocabulary.can_mask() {
            return 0;
        }
        u32::from(self.config.max_spans).min(self.vocabulary.sentinels.len.saturating_sub(1)) as u16
    }

    fn draws(&self, purpose: &str, document: DocumentId) -> Draws {
        Draws::new(self.seed, purpose, &document.0)
    }

    fn poisson(&self, document: DocumentId) -> u16 {
        self.draws("span count", document).poisson(self.config.mean_spans).min(u32::from(self.limit())) as u16
    }

    /// Returns the number of spans that the masks of a document need at most, whatever stands in it.
    pub(crate) fn most_spans(&self, document: DocumentId) -> u16 {
        if self.config.boxes > 0.0 { self.limit() } else { self.poisson(document).max(1).min(self.limit()) }
    }

    /// Returns the number of spans of a document that is not masked yet. It does not depend on the lengths of texts, or on retrieved pairs.
    pub(crate) fn span_count(&self, document: DocumentId, tokens: &[u32], segments: &[Segment]) -> u16 {
        self.plan(document, tokens, segments).spans()
    }

    /// Decides what is masked: by one draw, the text that guidance leaves out, what the task asks for, or the rest of the recipe.
    pub(super) fn plan(&self, document: DocumentId, tokens: &[u32], segments: &[Segment]) -> Plan {
        if self.limit() == 0 {
            return Plan::Ranges(Vec::new());
        }
        let parts = parts(segments);
        let mut draws = self.draws("mask form", document);
        let drawn = draws.unit();
        let special = if drawn < self.config.drop {
            guidance_text(&parts).map(|text| vec![text])
        } else if drawn < self.config.drop + self.config.holes {
            hole(&parts, &mut draws)
        } else {
            None
        };
        special.map_or_else(|| self.rest(document, tokens, &parts), Plan::Ranges)
    }

    fn rest(&self, document: DocumentId, tokens: &[u32], parts: &[Part<'_>]) -> Plan {
        let own: Vec<Part<'_>> = parts.iter().copied().filter(|part| !part.has_role(Role::Retrieved)).collect();
        let mut draws = self.draws("box", document);
        if self.config.boxes > 0.0
            && draws.unit() < self.config.boxes
            && let Some(rows) = self.box_rows(tokens, &own, &mut draws)
        {
            return Plan::Ranges(rows);
        }
        let mut draws = self.draws("full segment", document);
        if self.config.full_segment > 0.0 && draws.unit() < self.config.full_segment && !own.is_empty() {
            return Plan::Ranges(vec![own[draws.index(own.len())].range()]);
        }
        Plan::Random(self.poisson(document))
    }

    /// Draws a box of an image: the codes of each of its rows.
    fn box_rows(&self, tokens: &[u32], parts: &[Part<'_>], draws: &mut Draws) -> Option<Vec<Range<usize>>> {
        let images: Vec<Range<usize>> = parts.iter().filter(|part| part.is(Modality::Image)).map(Part::range).collect();
        let image = images.get(draws.index(images.len().max(1)))?.clone();
        let rows = self.rows_of(&tokens[image.clone()])?;
        let columns = rows[0].len();
        let tall = cut(rows.len(), usize::from(self.limit()), draws);
        let wide = cut(columns, columns, draws);
        let codes = |row: &Range<usize>| image.start + row.start + wide.start..image.start + row.start + wide.end;
        Some(rows[tall].iter().map(codes).collect())
    }

    /// Returns the places of the codes of each row in the ids of an image; `None` for ids that are no rectangle.
    fn rows_of(&self, ids: &[u32]) -> Option<Vec<Range<usize>>> {
        let is_code = |place: usize| self.vocabulary.image.contains(ids[place]);
        let rows: Vec<Range<usize>> = if self.vocabulary.shapes.is_some() {
            let first = (0..ids.len()).find(|place| is_code(*place))?;
            let columns = (first..ids.len()).take_while(|place| is_code(*place)).count();
            // A row end follows each row.
            (first..ids.len()).step_by(columns + 1).map(|start| start..start + columns).collect()
        } else {
            let side = ids.len().isqrt();
            (0..side).filter(|_| side * side == ids.len()).map(|row| row * side..(row + 1) * side).collect()
        };
        (!rows.is_empty()).then_some(rows)
    }
}

/// Returns the range of the text before the image that a document asks for at its end: what the unconditional stream of guidance leaves out.
/// `None` for other documents.
fn guidance_text(parts: &[Part<'_>]) -> Option<Range<usize>> {
    let [.., text, image] = parts else { return None };
    let is_it = asks_for(image) && text.is(Modality::Text) && !text.has_role(Role::Retrieved);
    is_it.then(|| text.range())
}

fn asks_for(image: &Part<'_>) -> bool {
    image.is(Modality::Image) && image.has_role(Role::Target)
}

/// Draws the text hole that a document has as its one span. A document that asks for an image at its end has none in half of the cases, or
/// where it has no text hole: its prompt is what stands before the image. `None` for a document that asks for neither.
fn hole(parts: &[Part<'_>], draws: &mut Draws) -> Option<Vec<Range<usize>>> {
    let is_hole = |segment: &&Segment| segment.modality == Modality::Text && segment.role == Role::Target;
    let holes: Vec<Range<usize>> = parts.iter().flat_map(|part| part.segments).filter(is_hole).map(Segment::range).collect();
    match (parts.last().is_some_and(asks_for), holes.len()) {
        (false, 0) => None,
        (true, 0) => Some(Vec::new()),
        (true, _) if draws.index(2) == 0 => Some(Vec::new()),
        (_, count) => Some(vec![holes[draws.index(count)].clone()]),
    }
}

/// Draws a run of 1 to `most` places of `0..len` between two uniform cut points.
fn cut(len: usize, most: usize, draws: &mut Draws) -> Range<usize> {
    let (one, other) = (draws.index(len), draws.index(len));
    let (start, end) = (one.min(other), one.max(other) + 1);
    start..end.min(start + most)
}
