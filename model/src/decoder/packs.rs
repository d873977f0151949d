//! Packs in the decoder's form: checked ids, positions, what each token sees, and the tokens to predict with their weights.
//!
//! A token is predicted if its weight is above 0 and a segment covers the token before it too. So the first token of a pack is not
//! predicted, and neither is the first one behind padding.

use std::ops::Range;

use cm3flow_schemas::document::Modality;
use cm3flow_schemas::pack::PackBatch;
use cm3flow_schemas::vocabulary::ImageShapes;
use tch::{Device, TchError, Tensor};

use crate::decoder::attention::Sight;
use crate::decoder::config::{AttentionScope, DecoderConfig};
use crate::error::ModelError;

/// A token to predict.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Target {
    /// Index in the pack of the token that predicts it.
    pub(super) from: usize,
    pub(super) id: u32,
    pub(super) weight: f32,
    pub(super) modality: Modality,
}

/// A checked pack.
#[derive(Debug)]
struct ParsedPack {
    ids: Vec<i64>,
    /// Tokens of each document, in order, up to the padding.
    documents: Vec<Range<usize>>,
    positions: Vec<i64>,
    targets: Vec<Target>,
}

/// Checked packs of a batch.
#[derive(Debug)]
pub(crate) struct ParsedPacks(Vec<ParsedPack>);

/// Some packs as tensors on the device.
#[derive(Debug)]
pub(super) struct PackTensors {
    /// Token ids, `[rows, seq_len]` i64.
    pub(super) ids: Tensor,
    /// Positions, `[rows, seq_len]` i64.
    pub(super) positions: Tensor,
    /// Earlier tokens that each token sees.
    pub(super) sight: Sight,
    /// Targets in the order of packs and tokens, with `from` counted over all packs.
    pub(super) targets: Vec<Target>,
}

impl ParsedPacks {
    /// Checks a batch.
    ///
    /// # Errors
    /// [`ModelError::PackShape`], [`ModelError::TokenOutOfRange`] or [`ModelError::Segment`] for the first mismatch.
    pub(crate) fn try_new(batch: &PackBatch, config: &DecoderConfig) -> Result<Self, ModelError> {
        let (rows, seq_len, expected) = (batch.rows(), batch.seq_len, config.seq_len as usize);
        if seq_len != expected || batch.tokens.len() != rows * seq_len || batch.document_starts.len() != rows {
            return Err(ModelError::PackShape { rows, seq_len, tokens: batch.tokens.len(), expected });
        }
        (0..rows).map(|row| parse(batch, row, config)).collect::<Result<_, _>>().map(Self)
    }

    /// Counts the size and row-end tokens of images as control tokens, so that image losses are those of codes.
    #[must_use]
    pub(crate) fn with_shapes(mut self, shapes: Option<&ImageShapes>) -> Self {
        let targets = self.0.iter_mut().flat_map(|pack| &mut pack.targets);
        targets
            .filter(|target| shapes.is_some_and(|shapes| shapes.contains(target.id)))
            .for_each(|target| target.modality = Modality::Control);
        self
    }

    /// Returns the number of packs.
    pub(crate) const fn rows(&self) -> usize {
        self.0.len()
    }

    /// Returns the sum of the weights of all targets.
    pub(crate) fn weight(&self) -> f64 {
        self.0.iter().flat_map(|pack| &pack.targets).map(|target| f64::from(target.weight)).sum()
    }

    /// Copies the packs `rows` to the device.
    pub(super) fn tensors(&self, rows: Range<usize>, scope: AttentionScope, device: Device) -> Result<PackTensors, TchError> {
        let packs = &self.0[rows];
        let together = |values: fn(&ParsedPack) -> &Vec<i64>| {
            let all: Vec<i64> = packs.iter().flat_map(values).copied().collect();
            Tensor::f_from_slice(&all)?.f_reshape([packs.len() as i64, -1])?.f_to_device(device)
        };
        let seq_len = packs.first().map_or(0, |pack| pack.ids.len());
        let sight = match scope {
            AttentionScope::Causal => Sight::Pack,
            AttentionScope::Document => Sight::within(packs.iter().map(|pack| pack.documents.clone()).collect(), seq_len, device)?,
        };
        let targets = packs.iter().enumerate().flat_map(|(row, pack)| {
            let first = row * pack.ids.len();
            pack.targets.iter().map(move |target| Target { from: first + target.from, ..*target })
        });
        Ok(PackTensors {
            ids: together(|pack| &pack.ids)?,
            positions: together(|pack| &pack.positions)?,
            sight,
            targets: targets.collect(),
        })
    }
}

fn parse(batch: &PackBatch, row: usize, config: &DecoderConfig) -> Result<ParsedPack, ModelError> {
    let seq_len = batch.seq_len;
    let tokens = &batch.tokens[row * seq_len..(row + 1) * seq_len];
    check_ids(tokens, row, config.vocabulary_size)?;
    let mut covered: Vec<Option<(Modality, f32)>> = vec![None; seq_len];
    for (index, segment) in batch.segments[row].iter().enumerate() {
        let (start, end) = (segment.start as usize, segment.start as usize + segment.len as usize);
        if end > seq_len || !(segment.loss_weight >= 0.0 && segment.loss_weight.is_finite()) {
            return Err(ModelError::Segment { row, segment: index, start, end, seq_len, loss_weight: segment.loss_weight });
        }
        covered[start..end].fill(Some((segment.modality, segment.loss_weight)));
    }
    let targets = (1..seq_len).filter_map(|position| match (covered[position - 1], covered[position]) {
        (Some(_), Some((modality, weight))) if weight > 0.0 => Some(Target { from: position - 1, id: tokens[position], weight, modality }),
        _ => None,
    });
    let mut starts = batch.document_starts[row].clone();
    starts.sort_unstable();
    let used = covered.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
    // A pack without tokens has one of padding as its document, so that there is something to see.
    let documents = documents(&starts, used.max(1));
    let positions = positions(&documents, seq_len, config.attention);
    Ok(ParsedPack { ids: tokens.iter().map(|id| i64::from(*id)).collect(), documents, positions, targets: targets.collect() })
}

/// Refuses ids outside the vocabulary; `row` is for the error.
pub(crate) fn check_ids(tokens: &[u32], row: usize, vocabulary_size: u32) -> Result<(), ModelError> {
    match tokens.iter().position(|id| *id >= vocabulary_size) {
        Some(position) => Err(ModelError::TokenOutOfRange { row, position, token: tokens[position], vocabulary_size }),
        None => Ok(()),
    }
}

/// Returns the tokens of each document that begins at one of `starts`, which are sorted, of a pack with `used` tokens. A boundary that two
/// documents share opens the second; for the first it is only a target. Tokens before the first start are a document too.
fn documents(starts: &[u32], used: usize) -> Vec<Range<usize>> {
    let mut edges = vec![0];
    edges.extend(starts.iter().map(|start| *start as usize).filter(|start| *start < used));
    edges.push(used);
    edges.dedup();
    edges.windows(2).map(|pair| pair[0]..pair[1]).collect()
}

/// Returns the position of each token; those of padding do not matter.
fn positions(documents: &[Range<usize>], seq_len: usize, scope: AttentionScope) -> Vec<i64> {
    let mut positions: Vec<i64> = (0..seq_len as i64).collect();
    if scope == AttentionScope::Document {
        for document in documents {
            positions[document.clone()].iter_mut().zip(0..).for_each(|(position, place)| *position = place);
        }
    }
    positions
}

#[cfg(test)]
mod tests {
    use cm3flow_schemas::document::{Role, Segment};

    use super::*;
    use crate::decoder::config::DecoderPreset;

    fn segment(start: u32, len: u32, modality: Modality, loss_weight: f32) -> Segment {
        Segment { start, len, modality, role: Role::Target, loss_weight }
    }

    fn batch() -> PackBatch {
        PackBatch {
            seq_len: 8,
            tokens: vec![2, 5, 6, 2, 7, 2, 1, 1],
            segments: vec![vec![
                segment(0, 1, Modality::Control, 1.0),
                segment(1, 1, Modality::Text, 1.0),
                segment(2, 1, Modality::Text, 0.0),
                segment(3, 1, Modality::Control, 1.0),
                segment(4, 1, Modality::Image, 0.5),
                segment(5, 1, Modality::Control, 1.0),
            ]],
            document_starts: vec![vec![0, 3]],
        }
    }

    #[test]
    fn targets_are_weighted_tokens_with_a_covered_one_before() {
        let packs = ParsedPacks::try_new(&batch(), &DecoderPreset::Tiny.config(16, 8)).expect("fits");
        let targets: Vec<_> = packs.0[0].targets.iter().map(|t| (t.from, t.id, t.weight, t.modality.name())).collect();
        assert_eq!(targets, [(0, 5, 1.0, "text"), (2, 2, 1.0, "control"), (3, 7, 0.5, "image"), (4, 2, 1.0, "control")]);
        assert_eq!(packs.weight(), 3.5);
    }

    #[test]
    fn tokens_that_say_shapes_are_control_tokens() {
        let targets = |packs: ParsedPacks| packs.0[0].targets.iter().map(|target| target.modality.name()).collect::<Vec<_>>();
        let packs = || ParsedPacks::try_new(&batch(), &DecoderPreset::Tiny.config(16, 8)).expect("fits");
        let shapes = ImageShapes { sizes: cm3flow_schemas::vocabulary::IdRange { start: 7, len: 1 }, line_end: 8, grids: Vec::new() };
        assert_eq!(targets(packs().with_shapes(Some(&shapes))), ["text", "control", "control", "control"]);
        assert_eq!(targets(packs().with_shapes(None)), targets(packs()));
    }

    #[test]
    fn shared_boundary_opens_the_second_document() {
        let found = documents(&[0, 3], 6);
        assert_eq!(found, [0..3, 3..6]);
        assert_eq!(positions(&found, 8, AttentionScope::Document), [0, 1, 2, 0, 1, 2, 6, 7]);
        assert_eq!(positions(&found, 4, AttentionScope::Causal), [0, 1, 2, 3]);
        assert_eq!((documents(&[2, 9], 6), documents(&[], 4)[0].clone()), (vec![0..2, 2..6], 0..4));
    }

    #[test]
    fn packs_that_do_not_fit_are_named() {
        let config = DecoderPreset::Tiny.config(16, 8);
        let refused = |change: &dyn Fn(&mut PackBatch)| {
            let mut batch = batch();
            change(&mut batch);
            ParsedPacks::try_new(&batch, &config).expect_err("does not fit").to_string()
        };
        assert_eq!(refused(&|batch| batch.tokens[4] = 16), "token 16 at 4 of row 0 is out of range 0..16");
        assert_eq!(refused(&|batch| batch.seq_len = 4), "batch of 1 packs of 4 tokens has 8 tokens; the model takes packs of 8");
        let stray = "segment 5 of row 0 covers tokens 5..9 of 8 with loss weight 1";
        assert_eq!(refused(&|batch| batch.segments[0][5].len = 4), stray);
        assert!(refused(&|batch| batch.segments[0][0].loss_weight = f32::NAN).contains("NaN"));
    }
}
