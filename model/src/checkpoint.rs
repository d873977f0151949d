//! Content of a checkpoint: `model.safetensors`, `optimizer.safetensors` and `state.json`. A [`cm3flow_schemas::traits::CheckpointStore`]
//! keeps the files.
//!
//! Weights and moments are stored as f32, as they are in memory, so a resumed training continues bit by bit.

use cm3flow_schemas::traits::{CheckpointFiles, ReaderState};
use cm3flow_schemas::vocabulary::Vocabulary;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::decoder::DecoderConfig;
use crate::error::ModelError;
use crate::hyperparameters::TrainConfig;
use crate::optimizer::AdamW;
use crate::weights::{NamedTensors, from_safetensors, to_safetensors};

/// Name of the file with the weights.
pub const MODEL_FILE: &str = "model.safetensors";
/// Name of the file with the optimizer's moments.
pub const OPTIMIZER_FILE: &str = "optimizer.safetensors";
/// Name of the file with everything else.
pub const STATE_FILE: &str = "state.json";
/// Format that this release writes; it reads no other.
pub(crate) const FORMAT_VERSION: u32 = 1;

/// State of a training, except its tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointState {
    /// Format of the checkpoint: 1.
    pub format_version: u32,
    /// Number of finished steps.
    pub step: u64,
    /// Seed of the initial weights.
    pub seed: u64,
    /// Sizes of the network.
    pub decoder: DecoderConfig,
    /// Vocabulary of the network.
    pub vocabulary: Vocabulary,
    /// Settings of the training; a resumed one may have others.
    pub train: TrainConfig,
    /// Position of the source of packs behind the last step.
    pub reader: ReaderState,
}

impl CheckpointState {
    /// Checks that a training with these settings can resume from this state.
    ///
    /// # Errors
    /// [`ModelError::Vocabulary`] or [`ModelError::CheckpointDiffers`] with the first field that differs.
    pub(crate) fn check_fits(&self, decoder: &DecoderConfig, vocabulary: &Vocabulary, seed: u64) -> Result<(), ModelError> {
        vocabulary.check_same(&self.vocabulary)?;
        let differs = |field: String, ours: &Value, theirs: &Value| ModelError::CheckpointDiffers {
            field,
            ours: ours.to_string(),
            theirs: theirs.to_string(),
        };
        let (ours, theirs) = (fields(decoder)?, fields(&self.decoder)?);
        for (name, ours) in &ours {
            let theirs = theirs.get(name).unwrap_or(&Value::Null);
            if ours != theirs {
                return Err(differs(format!("decoder.{name}"), ours, theirs));
            }
        }
        if self.seed == seed { Ok(()) } else { Err(differs("seed".to_owned(), &seed.into(), &self.seed.into())) }
    }
}

fn fields(config: &DecoderConfig) -> Result<serde_json::Map<String, Value>, ModelError> {
    match serde_json::to_value(config) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => unreachable!("a struct serializes to an object"),
        Err(source) => Err(ModelError::CheckpointState { source }),
    }
}

/// Reads the state of a checkpoint: its step, sizes and vocabulary.
///
/// # Errors
/// [`ModelError::CheckpointFile`] if it is missing, [`ModelError::CheckpointState`] if it is damaged, [`ModelError::CheckpointDiffers`] if
/// it has another format.
pub fn state(files: &CheckpointFiles) -> Result<CheckpointState, ModelError> {
    let value: Value = serde_json::from_slice(file(files, STATE_FILE)?).map_err(|source| ModelError::CheckpointState { source })?;
    match value.get("format_version") {
        Some(version) if *version == FORMAT_VERSION => {
            serde_json::from_value(value).map_err(|source| ModelError::CheckpointState { source })
        }
        version => Err(ModelError::CheckpointDiffers {
            field: "format_version".to_owned(),
            ours: FORMAT_VERSION.to_string(),
            theirs: version.map_or_else(|| "none".to_owned(), ToString::to_string),
        }),
    }
}

/// Returns the weights of a checkpoint, on the CPU.
pub(crate) fn weights(files: &CheckpointFiles) -> Result<NamedTensors, ModelError> {
    from_safetensors(file(files, MODEL_FILE)?)
}

/// Returns the moments of a checkpoint, on the CPU.
pub(crate) fn moments(files: &CheckpointFiles) -> Result<NamedTensors, ModelError> {
    from_safetensors(file(files, OPTIMIZER_FILE)?)
}

/// Returns the files of a checkpoint. Equal trainings give equal bytes.
pub(crate) fn write(parameters: &NamedTensors, optimizer: &AdamW, state: &CheckpointState) -> Result<CheckpointFiles, ModelError> {
    let state = serde_json::to_vec_pretty(state).map_err(|source| ModelError::CheckpointState { source })?;
    let model = to_safetensors(parameters)?;
    let optimizer = to_safetensors(&optimizer.moments())?;
    Ok([(MODEL_FILE, model), (OPTIMIZER_FILE, optimizer), (STATE_FILE, state)].map(|(name, bytes)| (name.to_owned(), bytes)).into())
}

/// Returns the bytes of a file of a checkpoint.
///
/// # Errors
/// [`ModelError::CheckpointFile`] if it is missing.
pub(crate) fn file<'a>(files: &'a CheckpointFiles, name: &'static str) -> Result<&'a [u8], ModelError> {
    files.get(name).map(Vec::as_slice).ok_or(ModelError::CheckpointFile { name })
}

#[cfg(test)]
mod tests;
