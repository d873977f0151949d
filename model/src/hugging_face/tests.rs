//! Hugging Face's layout: there and back, and the results of transformers on the same weights, which `tests/parity/opt.py` writes.

use std::path::PathBuf;

use cm3flow_schemas::document::{Modality, Role, Segment};
use cm3flow_schemas::pack::PackBatch;
use cm3flow_schemas::traits::{Continuation, LanguageModel, Prompt, ReaderState, Sampling};
use cm3flow_schemas::vocabulary::VocabularySizes;
use tch::Device;

use super::*;
use crate::decoder::tests::{config as small, vocabulary};
use crate::decoder::{ParsedPacks, logits, loss_gradients};
use crate::device::DeviceChoice;
use crate::language::TokenModel;
use crate::optimizer::{AdamW, AdamWSettings};
use crate::train::{TrainConfig, Trainer};
use crate::weights::from_safetensors;

fn golden(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/parity/golden/opt").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}

/// The model of the golden files, and what transformers computes with it.
fn reference() -> (TokenModel, NamedTensors) {
    let sizes = VocabularySizes { text: 20, image: 16, sentinels: 2, total: None };
    let vocabulary = Vocabulary::try_new("test", &sizes).expect("small");
    let config = serde_json::from_slice(&golden("config.json")).expect("JSON");
    let weights = golden("model.safetensors");
    let model = TokenModel::from_hugging_face(&config, &[&weights], vocabulary, DeviceChoice::Cpu).expect("an OPT");
    (model, from_safetensors(&golden("expected.safetensors")).expect("f32"))
}

fn ids(tensor: &Tensor) -> Vec<u32> {
    Vec::<f32>::try_from(tensor.reshape([-1])).expect("numbers").into_iter().map(|id| id as u32).collect()
}

/// Packs of one document each, in which every token but the first is predicted.
fn packs(expected: &NamedTensors) -> PackBatch {
    let (rows, seq_len) = expected["ids"].size2().expect("rows of tokens");
    let segment = Segment { start: 0, len: seq_len as u32, modality: Modality::Text, role: Role::Target, loss_weight: 1.0 };
    PackBatch {
        seq_len: seq_len as usize,
        tokens: ids(&expected["ids"]),
        segments: vec![vec![segment]; rows as usize],
        document_starts: vec![vec![0]; rows as usize],
    }
}

fn close(found: &Tensor, expected: &Tensor, what: &str) {
    let largest = (found - expected).abs().max().double_value(&[]);
    assert!(found.allclose(expected, 1e-4, 1e-4, false), "{what} differ by {largest}");
}

#[test]
fn logits_are_those_of_transformers() {
    let (model, expected) = reference();
    let parsed = ParsedPacks::try_new(&packs(&expected), model.config()).expect("fits");
    let found = logits(&model.decoder, &parsed, Device::Cpu).expect("small");
    let last = expected["logits"].size3().expect("rows, tokens, ids").1;
    close(&found.narrow(1, found.size()[1] - last, last), &expected["logits"], "logits");
}

#[test]
fn gradients_and_weights_after_steps_are_those_of_transformers() {
    let (model, expected) = reference();
    let parsed = ParsedPacks::try_new(&packs(&expected), model.config()).expect("fits");
    let settings = AdamWSettings { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1, clip_norm: 1.0 };
    let mut optimizer = AdamW::try_new(settings, &model.decoder.parameters, |_, _| true).expect("small");
    for step in 0..20 {
        let (_, loss, mut gradients) = loss_gradients(&model.decoder, &optimizer, &parsed, 1).expect("small");
        if step == 0 {
            assert!((loss - expected["loss"].double_value(&[])).abs() < 1e-4, "{loss}");
            let names = model.decoder.parameters.keys().cloned();
            let own: NamedTensors = names.zip(gradients.iter().map(Tensor::shallow_clone)).collect();
            compare(model.config(), own, &expected, "gradient");
        }
        let norm = AdamW::norm(&gradients).expect("small");
        optimizer.step(&mut gradients, norm, 1e-3).expect("small");
    }
    let own = model.decoder.parameters.iter().map(|(name, tensor)| (name.clone(), tensor.detach())).collect();
    compare(model.config(), own, &expected, "trained");
}

/// Compares tensors of a decoder with those of transformers, whose names begin with `prefix`.
fn compare(config: &DecoderConfig, own: NamedTensors, expected: &NamedTensors, prefix: &str) {
    let decoder = Decoder::loaded(config, own, Device::Cpu).expect("all of its tensors");
    for (name, found) in opt_tensors(&decoder).expect("small") {
        let expected = &expected[&format!("{prefix}.{name}")];
        // Two rows of positions belong to no token.
        let first = if name.contains("embed_positions") { UNUSED_POSITIONS } else { 0 };
        let rows = found.size()[0] - first;
        close(&found.narrow(0, first, rows), &expected.narrow(0, first, rows), &format!("{prefix} of {name}"));
    }
}

#[test]
fn greedy_tokens_are_those_of_transformers() {
    let (mut model, expected) = reference();
    let prompt = ids(&expected["prompt"]);
    let prompt = Prompt { unconditional: prompt.clone(), tokens: prompt };
    let sampling = Sampling { temperature: 0.0, top_p: 1.0, guidance: 1.0, seed: 1 };
    let continued = model.generate(&[prompt], Continuation::Image { tokens: 256 }, &sampling).expect("fits");
    assert_eq!(continued[0], ids(&expected["continued"]));
}

fn checkpoint_files() -> CheckpointFiles {
    let config = TrainConfig { steps: 1, warm_up_steps: Some(0), ..TrainConfig::default() };
    let trainer = Trainer::try_new(small(AttentionScope::Document), config, vocabulary(), 1, DeviceChoice::Cpu).expect("small");
    trainer.checkpoint(ReaderState { position: 0 }).expect("small")
}

#[test]
fn a_checkpoint_comes_back_from_the_layout_bit_by_bit() {
    let files = checkpoint_files();
    let written = write(&files, StoredType::Float32).expect("small");
    assert_eq!(written.keys().collect::<Vec<_>>(), ["config.json", "generation_config.json", "model.safetensors"]);
    let config = serde_json::from_slice(&written["config.json"]).expect("JSON");
    let (decoder, tensors) = read(&config, &[&written["model.safetensors"]]).expect("its own files");
    assert_eq!(decoder, small(AttentionScope::Document));
    let own = checkpoint::weights(&files).expect("its own files");
    assert!(tensors.keys().eq(own.keys()) && tensors.iter().all(|(name, tensor)| tensor.equal(&own[name])));
    let half = write(&files, StoredType::Bfloat16).expect("small");
    assert!(half["model.safetensors"].len() < written["model.safetensors"].len());
    let (_, tensors) = read(&config, &[&half["model.safetensors"]]).expect("bf16");
    assert!(tensors.iter().all(|(name, tensor)| tensor.allclose(&own[name], 1e-2, 1e-6, false)));
}

#[test]
fn another_opt_is_refused_by_name() {
    let written = write(&checkpoint_files(), StoredType::Float32).expect("small");
    let config: Value = serde_json::from_slice(&written["config.json"]).expect("JSON");
    let weights = &written["model.safetensors"];
    let mut other = config.clone();
    other["enable_bias"] = json!(true);
    other["ffn_dim"] = json!(65);
    let error = read(&other, &[weights]).expect_err("biases").to_string();
    assert_eq!(error, "config.json is invalid: enable_bias must be false, got true; ffn_dim must be a multiple of hidden_size 16, got 65");
    let mut deeper = config.clone();
    deeper["num_hidden_layers"] = json!(3);
    let error = read(&deeper, &[weights]).expect_err("a layer is missing").to_string();
    assert!(error.contains("model.decoder.layers.2.self_attn.q_proj.weight"), "{error}");
    let mut fewer = config;
    fewer["num_hidden_layers"] = json!(1);
    let error = read(&fewer, &[weights]).expect_err("a layer is left").to_string();
    assert!(error.contains("model.decoder.layers.1.fc1.weight"), "{error}");
}
