//! Checkpoints in the layout of Hugging Face's transformers: the decoder is its `OPTForCausalLM` without biases and learned norms.
//!
//! # Source
//! `OPTForCausalLM` of transformers: names of tensors, and two rows of positions that no token uses.

use std::collections::BTreeMap;

use cm3flow_schemas::traits::CheckpointFiles;
use cm3flow_schemas::vocabulary::Vocabulary;
use serde_json::{Value, json};
use tch::{Device, Kind, TchError, Tensor};

use crate::checkpoint;
use crate::decoder::{AttentionScope, Decoder, DecoderConfig};
use crate::error::{ModelError, Problems};
use crate::weights::{NamedTensors, StoredType, WeightsFile, left_in, to_safetensors_of};

/// Rows of OPT's table of positions before that of the first token.
const UNUSED_POSITIONS: i64 = 2;
/// Largest size of a file of weights, in bytes of its tensors; one tensor may be larger.
const MAX_FILE_BYTES: u64 = 5_000_000_000;

/// Name of the table of positions.
const POSITIONS: &str = "embed_positions.weight";

/// Parts of names of tensors: here, and in OPT.
const RENAMED: [(&str, &str); 3] = [("attention.out.", "self_attn.out_proj."), ("ffn.in.", "fc1."), ("ffn.out.", "fc2.")];

/// Settings of OPT that the decoder always has.
const FIXED: [(&str, &str); 6] = [
    ("model_type", "\"opt\""),
    ("activation_function", "\"relu\""),
    ("do_layer_norm_before", "true"),
    ("enable_bias", "false"),
    ("layer_norm_elementwise_affine", "false"),
    ("tie_word_embeddings", "true"),
];

/// Files by name.
pub type Files = BTreeMap<String, Vec<u8>>;

/// Writes the model of a checkpoint as a folder that `OPTForCausalLM.from_pretrained` reads: `config.json`, `generation_config.json`, and
/// `model.safetensors`, or files of 5 GB with `model.safetensors.index.json`.
///
/// # Errors
/// As [`crate::language::TokenModel::from_checkpoint`].
pub fn write(files: &CheckpointFiles, stored: StoredType) -> Result<Files, ModelError> {
    let state = checkpoint::state(files)?;
    let decoder = Decoder::loaded(&state.decoder, checkpoint::weights(files)?, Device::Cpu)?;
    let tensors = opt_tensors(&decoder).map_err(ModelError::torch("rearrange weights"))?;
    let mut out = Files::new();
    out.insert("config.json".into(), pretty(&opt_config(&state.decoder, &state.vocabulary, stored)));
    out.insert("generation_config.json".into(), pretty(&generation_config(&state.vocabulary)));
    put_weights(&mut out, tensors, stored)?;
    Ok(out)
}

/// Reads the `config.json` of an `OPTForCausalLM`, and its weights from one or more files: safetensors or PyTorch checkpoints, of which no code is run.
/// Positions count from the document's first token, as there.
///
/// # Errors
/// [`ModelError::Config`] with every setting that the decoder cannot have; [`ModelError::TensorMissing`], [`ModelError::TensorExtra`] or
/// [`ModelError::TensorShape`]; those of files of weights.
pub(crate) fn read(config: &Value, weights: &[&[u8]]) -> Result<(DecoderConfig, NamedTensors), ModelError> {
    let decoder = decoder_of(config)?;
    let mut theirs = NamedTensors::new();
    for bytes in weights {
        let mut file = WeightsFile::open(bytes)?;
        for name in file.names() {
            if let Some(tensor) = file.tensor(&name)? {
                theirs.insert(name.strip_prefix("model.").unwrap_or(&name).to_owned(), tensor);
            }
        }
    }
    // The output matrix is the embedding; some files hold it twice.
    theirs.remove("lm_head.weight");
    let tensors = own_tensors(&decoder, theirs)?;
    Ok((decoder, tensors))
}

fn decoder_of(config: &Value) -> Result<DecoderConfig, ModelError> {
    let mut problems = Problems::default();
    for (field, expected) in FIXED {
        let expected: Value = serde_json::from_str(expected).expect("plain JSON");
        let found = config.get(field).unwrap_or(&Value::Null);
        problems.require(*found == expected, || format!("{field} must be {expected}, got {found}"));
    }
    let mut number = |field: &str| {
        let found = config.get(field).and_then(Value::as_u64).and_then(|number| u32::try_from(number).ok());
        problems.require(found.is_some(), || format!("{field} must be a whole number"));
        found.unwrap_or(1)
    };
    let (width, ffn, embedding) = (number("hidden_size"), number("ffn_dim"), number("word_embed_proj_dim"));
    let decoder = DecoderConfig {
        layers: number("num_hidden_layers"),
        width,
        heads: number("num_attention_heads"),
        ffn_multiplier: ffn / width.max(1),
        vocabulary_size: number("vocab_size"),
        seq_len: number("max_position_embeddings"),
        attention: AttentionScope::Document,
    };
    problems.require(embedding == width, || format!("word_embed_proj_dim must be hidden_size {width}, got {embedding}"));
    problems.require(ffn.is_multiple_of(width.max(1)), || format!("ffn_dim must be a multiple of hidden_size {width}, got {ffn}"));
    decoder.problems().into_iter().for_each(|problem| problems.require(false, || problem));
    problems.finish("config.json")?;
    Ok(decoder)
}

/// Renames the tensors of an OPT, and stacks those that the decoder has together.
fn own_tensors(config: &DecoderConfig, mut theirs: NamedTensors) -> Result<NamedTensors, ModelError> {
    let torch = |error: TchError| ModelError::torch("rearrange weights")(error);
    let width = i64::from(config.width);
    let mut take = |name: String, shape: [i64; 2]| match theirs.remove(&name) {
        Some(tensor) if tensor.size() == shape => Ok(tensor),
        Some(tensor) => Err(ModelError::TensorShape { name: format!("model.{name}"), expected: shape.into(), found: tensor.size() }),
        None => Err(ModelError::TensorMissing { name: format!("model.{name}"), shape: shape.into(), left: left_in(&theirs) }),
    };
    let mut own = NamedTensors::new();
    let positions = i64::from(config.seq_len);
    let table = take("decoder.embed_positions.weight".into(), [positions + UNUSED_POSITIONS, width])?;
    own.insert(POSITIONS.into(), table.f_narrow(0, UNUSED_POSITIONS, positions).map_err(torch)?);
    own.insert("embed_tokens.weight".into(), take("decoder.embed_tokens.weight".into(), [i64::from(config.vocabulary_size), width])?);
    let ffn = width * i64::from(config.ffn_multiplier);
    for layer in 0..config.layers {
        let theirs = |name: &str| format!("decoder.layers.{layer}.{name}.weight");
        let parts = ["q_proj", "k_proj", "v_proj"].map(|name| take(theirs(&format!("self_attn.{name}")), [width, width]));
        let parts = parts.into_iter().collect::<Result<Vec<_>, _>>()?;
        own.insert(format!("layers.{layer}.attention.qkv.weight"), Tensor::f_cat(&parts, 0).map_err(torch)?);
        for ((ours, name), shape) in RENAMED.into_iter().zip([[width, width], [ffn, width], [width, ffn]]) {
            own.insert(format!("layers.{layer}.{ours}weight"), take(format!("decoder.layers.{layer}.{name}weight"), shape)?);
        }
    }
    match theirs.keys().next() {
        Some(name) => Err(ModelError::TensorExtra { name: format!("model.{name}"), others: theirs.len() - 1 }),
        None => Ok(own),
    }
}

fn pretty(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

fn opt_config(decoder: &DecoderConfig, vocabulary: &Vocabulary, stored: StoredType) -> Value {
    json!({
        "architectures": ["OPTForCausalLM"],
        "model_type": "opt",
        "vocab_size": decoder.vocabulary_size,
        "hidden_size": decoder.width,
        "word_embed_proj_dim": decoder.width,
        "ffn_dim": decoder.width * decoder.ffn_multiplier,
        "num_hidden_layers": decoder.layers,
        "num_attention_heads": decoder.heads,
        "max_position_embeddings": decoder.seq_len,
        "activation_function": "relu",
        "do_layer_norm_before": true,
        "enable_bias": false,
        "layer_norm_elementwise_affine": false,
        "tie_word_embeddings": true,
        // OPT's own default is 0.1.
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "layerdrop": 0.0,
        "init_std": crate::decoder::DEVIATION,
        "bos_token_id": vocabulary.boundary,
        "eos_token_id": vocabulary.boundary,
        "pad_token_id": vocabulary.pad,
        "dtype": stored.name(),
    })
}

/// A text ends with its span, or with the document.
fn generation_config(vocabulary: &Vocabulary) -> Value {
    let ends: Vec<u32> = vocabulary.span_end.into_iter().chain([vocabulary.boundary]).collect();
    json!({"bos_token_id": vocabulary.boundary, "eos_token_id": ends, "pad_token_id": vocabulary.pad})
}

/// Renames the tensors of a decoder, and splits those that OPT has apart.
fn opt_tensors(decoder: &Decoder) -> Result<NamedTensors, TchError> {
    let mut out = NamedTensors::new();
    for (name, tensor) in &decoder.parameters {
        let theirs = |name: &str| format!("model.decoder.{name}");
        if let Some(layer) = name.strip_suffix("attention.qkv.weight") {
            for (part, name) in tensor.f_chunk(3, 0)?.into_iter().zip(["q_proj", "k_proj", "v_proj"]) {
                out.insert(theirs(&format!("{layer}self_attn.{name}.weight")), part);
            }
        } else if name == POSITIONS {
            let unused = Tensor::f_zeros([UNUSED_POSITIONS, i64::from(decoder.config.width)], (Kind::Float, tensor.device()))?;
            out.insert(theirs(name), Tensor::f_cat(&[&unused, tensor], 0)?);
        } else {
            let renamed = RENAMED.iter().fold(name.clone(), |name, (ours, theirs)| name.replace(ours, theirs));
            out.insert(theirs(&renamed), tensor.shallow_clone());
        }
    }
    Ok(out)
}

fn put_weights(out: &mut Files, tensors: NamedTensors, stored: StoredType) -> Result<(), ModelError> {
    let mut shards: Vec<NamedTensors> = vec![NamedTensors::new()];
    let (mut in_shard, mut total) = (0, 0);
    for (name, tensor) in tensors {
        let bytes = tensor.numel() as u64 * stored.bytes();
        if in_shard > 0 && in_shard + bytes > MAX_FILE_BYTES {
            shards.push(NamedTensors::new());
            in_shard = 0;
        }
        in_shard += bytes;
        total += bytes;
        shards.last_mut().expect("never empty").insert(name, tensor);
    }
    let count = shards.len();
    let mut places = BTreeMap::new();
    for (number, tensors) in (1..).zip(shards) {
        let file = if count == 1 { "model.safetensors".to_owned() } else { format!("model-{number:05}-of-{count:05}.safetensors") };
        places.extend(tensors.keys().map(|name| (name.clone(), file.clone())));
        out.insert(file, to_safetensors_of(&tensors, stored)?);
    }
    if count > 1 {
        let index = json!({"metadata": {"total_size": total}, "weight_map": places});
        out.insert("model.safetensors.index.json".into(), pretty(&index));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
