//! Tests of the whole decoder, and a small vocabulary, packs and model for other tests.

use cm3flow_schemas::document::{DocumentBuilder, Role};
use cm3flow_schemas::pack::PackBatch;
use cm3flow_schemas::random::Draws;
use cm3flow_schemas::traits::LanguageModel;
use cm3flow_schemas::vocabulary::{Vocabulary, VocabularySizes};
use tch::{Device, Kind, Reduction, Tensor};

use super::*;
use crate::device::DeviceChoice;
use crate::error::ModelError;
use crate::language::TokenModel;
use crate::optimizer::{AdamW, AdamWSettings};

pub(crate) const SEQ_LEN: usize = 32;

pub(crate) fn vocabulary() -> Vocabulary {
    Vocabulary::try_new("test", &VocabularySizes { text: 20, image: 16, sentinels: 2, total: None }).expect("small")
}

pub(crate) fn config(attention: AttentionScope) -> DecoderConfig {
    DecoderConfig { layers: 2, width: 16, heads: 2, attention, ..DecoderPreset::Tiny.config(64, SEQ_LEN as u32) }
}

/// Makes packs of three pairs that share their boundaries, with padding behind them; they depend only on `first` and the row.
pub(crate) fn packs(rows: usize, first: u64) -> PackBatch {
    let vocabulary = vocabulary();
    let mut batch = PackBatch { seq_len: SEQ_LEN, tokens: Vec::new(), segments: Vec::new(), document_starts: Vec::new() };
    for row in 0..rows as u64 {
        let mut draws = Draws::new(1, "packs", &(first + row).to_le_bytes());
        let mut values = |count: usize, bound| (0..count).map(|_| draws.below(bound) as u32).collect::<Vec<_>>();
        let (mut tokens, mut segments, mut starts) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..3 {
            let mut builder = DocumentBuilder::new(&vocabulary);
            builder.text(Role::Target, &values(3, 20)).expect("in range");
            builder.image(Role::Target, &values(4, 16)).expect("in range");
            let (document, parts) = builder.finish();
            let shared = usize::from(!starts.is_empty());
            let start = (tokens.len() - shared) as u32;
            starts.push(start);
            tokens.extend(&document[shared..]);
            segments.extend(parts[shared..].iter().map(|part| cm3flow_schemas::document::Segment { start: part.start + start, ..*part }));
        }
        tokens.resize(SEQ_LEN, vocabulary.pad);
        batch.tokens.extend(tokens);
        batch.segments.push(segments);
        batch.document_starts.push(starts);
    }
    batch
}

/// Makes a model with all matrices far from zero, so that every part of it matters.
pub(crate) fn shaken(attention: AttentionScope) -> TokenModel {
    shaken_over(attention, vocabulary())
}

/// Makes the same model over another vocabulary of 64 ids.
pub(crate) fn shaken_over(attention: AttentionScope, vocabulary: Vocabulary) -> TokenModel {
    let model = TokenModel::drawn(&config(attention), vocabulary, 1, DeviceChoice::Cpu).expect("small");
    for (name, tensor) in &model.decoder.parameters {
        let mut draws = Draws::new(1, "shaken", name.as_bytes());
        let values: Vec<f32> = (0..tensor.numel()).map(|_| draws.unit() as f32 - 0.5).collect();
        tensor.shallow_clone().copy_(&Tensor::from_slice(&values).reshape(tensor.size()));
    }
    model
}

fn logits(model: &TokenModel, batch: &PackBatch) -> Tensor {
    let parsed = ParsedPacks::try_new(batch, &model.decoder.config).expect("fits");
    loss::logits(&model.decoder, &parsed, Device::Cpu).expect("small")
}

#[test]
fn changing_a_token_alters_no_logits_before_it() {
    for attention in [AttentionScope::Causal, AttentionScope::Document] {
        let (model, batch) = (shaken(attention), packs(2, 0));
        let before = logits(&model, &batch);
        for token in [1, 14, 27] {
            let mut changed = batch.clone();
            changed.tokens[token] ^= 1;
            let after = logits(&model, &changed);
            let same = |start: i64, len: i64| before.select(0, 0).narrow(0, start, len).equal(&after.select(0, 0).narrow(0, start, len));
            assert!(same(0, token as i64), "{attention:?} {token}");
            assert!(!same(token as i64, 1), "{attention:?} {token}");
            assert!(before.select(0, 1).equal(&after.select(0, 1)), "rows are apart");
        }
    }
}

#[test]
fn earlier_document_affects_a_later_one_only_with_causal_attention() {
    for (attention, apart) in [(AttentionScope::Causal, false), (AttentionScope::Document, true)] {
        let (model, batch) = (shaken(attention), packs(1, 0));
        let mut changed = batch.clone();
        changed.tokens[2] ^= 1;
        let (before, after) = (logits(&model, &batch), logits(&model, &changed));
        let second = i64::from(batch.document_starts[0][1]);
        let rest = |logits: &Tensor| logits.select(0, 0).narrow(0, second, SEQ_LEN as i64 - second);
        assert_eq!(rest(&before).equal(&rest(&after)), apart, "{attention:?}");
    }
}

#[test]
fn with_document_attention_a_document_is_predicted_alike_wherever_it_stands() {
    let model = shaken(AttentionScope::Document);
    let mut batch = packs(1, 0);
    // The first document also takes the place of the second.
    let (first, second) = (batch.document_starts[0][0] as usize, batch.document_starts[0][1] as usize);
    let document = batch.tokens[first..second].to_vec();
    batch.tokens[second..second + document.len()].copy_from_slice(&document);
    let logits = logits(&model, &batch).select(0, 0);
    let of = |start: usize| logits.narrow(0, start as i64, document.len() as i64);
    assert!(of(first).allclose(&of(second), 1e-5, 1e-5, false));
}

#[test]
fn gradients_equal_those_of_automatic_differentiation_however_packs_are_taken() {
    let model = shaken(AttentionScope::Causal);
    let batch = packs(3, 0);
    let parsed = ParsedPacks::try_new(&batch, &model.decoder.config).expect("fits");
    let settings = AdamWSettings { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.0, clip_norm: 1.0 };
    let optimizer = AdamW::try_new(settings, &model.decoder.parameters, |_, _| true).expect("small");
    // All weights are 1, and every covered token but a pack's first is a target, so the mean over these is the loss.
    let targets = parsed.tensors(0..3, AttentionScope::Causal, Device::Cpu).expect("small").targets;
    let from = Tensor::from_slice(&targets.iter().map(|target| target.from as i64).collect::<Vec<_>>());
    let ids = Tensor::from_slice(&targets.iter().map(|target| i64::from(target.id)).collect::<Vec<_>>());
    let chosen = logits(&model, &batch).reshape([-1, 64]).index_select(0, &from);
    let loss = chosen.cross_entropy_loss(&ids, None::<&Tensor>, Reduction::Mean, -100, 0.0);
    let expected = optimizer.gradients(&loss).expect("small");
    for at_once in [1, 2, 3] {
        let (losses, mean, gradients) = loss_gradients(&model.decoder, &optimizer, &parsed, at_once).expect("small");
        assert!((mean - loss.double_value(&[])).abs() < 1e-5);
        assert!((losses.mean_of_all().expect("has targets") - mean).abs() < 1e-9);
        assert!(gradients.iter().zip(&expected).all(|(one, other)| one.allclose(other, 1e-3, 1e-6, false)));
    }
}

#[test]
fn losses_count_tokens_by_modality_and_do_not_depend_on_neighbours() {
    let mut model = shaken(AttentionScope::Document);
    let mut losses = |batch| model.losses(&batch).expect("fits");
    let mut together = losses(packs(1, 5));
    assert_eq!((together.text_tokens, together.image_tokens, together.control_tokens), (9, 12, 6));
    together.add(&losses(packs(1, 6)));
    assert_eq!(losses(packs(2, 5)), together);
}

#[test]
fn fresh_model_predicts_nothing_but_its_input() {
    let model = TokenModel::drawn(&config(AttentionScope::Causal), vocabulary(), 1, DeviceChoice::Cpu).expect("small");
    let logits = logits(&model, &packs(1, 0));
    assert!(logits.abs().max().double_value(&[]) < 0.2);
    let count: usize = model.decoder.parameters.values().map(Tensor::numel).sum();
    assert_eq!(count as u64, model.config().parameters());
    for name in ["layers.0.attention.out.weight", "layers.1.ffn.out.weight"] {
        assert_eq!(model.decoder.parameters[name].abs().sum(Kind::Float).double_value(&[]), 0.0, "{name}");
    }
}

#[test]
fn a_size_other_than_the_vocabularys_is_refused() {
    let config = DecoderConfig { vocabulary_size: 65, ..config(AttentionScope::Causal) };
    let error = TokenModel::drawn(&config, vocabulary(), 1, DeviceChoice::Cpu).expect_err("64 ids");
    assert!(matches!(&error, ModelError::Config { .. }));
    assert_eq!(error.to_string(), "decoder configuration is invalid: vocabulary_size must be the vocabulary's, 64, got 65");
}
