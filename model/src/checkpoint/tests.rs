//! Checkpoints: those that match resume; others are refused with the difference.

use cm3flow_schemas::traits::LanguageModel;

use super::*;
use crate::decoder::AttentionScope;
use crate::decoder::tests::{config, packs, vocabulary};
use crate::device::DeviceChoice;
use crate::language::TokenModel;
use crate::train::Trainer;

fn trainer(config: DecoderConfig, vocabulary: Vocabulary, seed: u64) -> Trainer {
    Trainer::try_new(config, TrainConfig::default(), vocabulary, seed, DeviceChoice::Cpu).expect("small")
}

fn files() -> CheckpointFiles {
    trainer(config(AttentionScope::Causal), vocabulary(), 1).checkpoint(ReaderState { position: 12 }).expect("small")
}

fn refused(trainer: &mut Trainer, files: &CheckpointFiles) -> String {
    trainer.restore(files).expect_err("does not fit").to_string()
}

#[test]
fn model_of_a_checkpoint_is_the_trained_one() {
    let files = files();
    assert_eq!(files.keys().collect::<Vec<_>>(), [MODEL_FILE, OPTIMIZER_FILE, STATE_FILE]);
    let mut read = TokenModel::from_checkpoint(&files, DeviceChoice::Cpu).expect("its own files");
    let mut written = trainer(config(AttentionScope::Causal), vocabulary(), 1);
    assert_eq!(read.losses(&packs(2, 0)).expect("fits"), written.losses(&packs(2, 0)).expect("fits"));
    assert_eq!(written.restore(&files).expect("its own files"), ReaderState { position: 12 });
}

#[test]
fn another_vocabulary_is_refused_by_name() {
    let mut other = vocabulary();
    other.break_ = other.size - 1;
    let mut trainer = trainer(config(AttentionScope::Causal), other, 1);
    let error = trainer.restore(&files()).expect_err("another break");
    let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    assert!(matches!(error, ModelError::Vocabulary { .. }) && cause.contains("break_"), "{cause}");
}

#[test]
fn other_sizes_and_seeds_are_refused_by_name() {
    let of = |config, seed| refused(&mut trainer(config, vocabulary(), seed), &files());
    let wider = DecoderConfig { width: 32, ..config(AttentionScope::Causal) };
    assert_eq!(of(wider, 1), "checkpoint differs in decoder.width: 32 here, 16 in the checkpoint");
    let scope = "checkpoint differs in decoder.attention: \"document\" here, \"causal\" in the checkpoint";
    assert_eq!(of(config(AttentionScope::Document), 1), scope);
    assert_eq!(of(config(AttentionScope::Causal), 2), "checkpoint differs in seed: 2 here, 1 in the checkpoint");
}

#[test]
fn missing_and_foreign_files_are_refused_by_name() {
    let mut ours = trainer(config(AttentionScope::Causal), vocabulary(), 1);
    let deeper = trainer(DecoderConfig { layers: 3, ..config(AttentionScope::Causal) }, vocabulary(), 1);
    let wider = trainer(DecoderConfig { width: 32, ..config(AttentionScope::Causal) }, vocabulary(), 1);
    let with = |name: &str, other: Option<&Trainer>| {
        let mut files = files();
        let bytes = other.and_then(|other| other.checkpoint(ReaderState::default()).expect("small").remove(name));
        files.remove(name);
        files.extend(bytes.map(|bytes| (name.to_owned(), bytes)));
        files
    };
    assert_eq!(refused(&mut ours, &with(OPTIMIZER_FILE, None)), "checkpoint lacks file optimizer.safetensors");
    let extra = "weights hold tensor layers.2.attention.out.weight, which the configuration has no place for (3 more such)";
    assert_eq!(refused(&mut ours, &with(MODEL_FILE, Some(&deeper))), extra);
    let shape = "tensor embed_positions.weight has shape [32, 32], expected [32, 16]";
    assert_eq!(refused(&mut ours, &with(MODEL_FILE, Some(&wider))), shape);
    assert!(TokenModel::from_checkpoint(&with(MODEL_FILE, Some(&deeper)), DeviceChoice::Cpu).is_err());
    let mut newer = files();
    newer.insert(STATE_FILE.to_owned(), br#"{"format_version":2}"#.to_vec());
    assert_eq!(refused(&mut ours, &newer), "checkpoint differs in format_version: 1 here, 2 in the checkpoint");
}
