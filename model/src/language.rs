//! A decoder with its vocabulary: it evaluates packs and continues prompts.

use cm3flow_schemas::DynError;
use cm3flow_schemas::pack::PackBatch;
use cm3flow_schemas::traits::{CheckpointFiles, Continuation, LanguageModel, ModalityLosses, Prompt, Sampling};
use cm3flow_schemas::vocabulary::Vocabulary;
use serde_json::Value;

use crate::checkpoint;
use crate::decoder::{Decoder, DecoderConfig, ParsedPacks, losses};
use crate::device::{self, DeviceChoice};
use crate::error::ModelError;
use crate::generate::generate;
use crate::hugging_face;

/// A decoder that implements [`LanguageModel`].
///
/// Losses are in nats, over predicted tokens, and unweighted. Tokens of weight 0 and the first token of a pack are not predicted. Packs are
/// computed one by one, so their losses do not depend on their neighbours.
#[derive(Debug)]
pub struct TokenModel {
    pub(crate) decoder: Decoder,
    pub(crate) vocabulary: Vocabulary,
}

impl TokenModel {
    /// Creates a model with weights drawn from `seed`; its predictions are nearly uniform.
    ///
    /// # Errors
    /// [`ModelError::Config`] for bad settings, or a size other than the vocabulary's; [`ModelError::Vocabulary`] for a vocabulary that
    /// contradicts itself; [`ModelError::CudaUnavailable`]; [`ModelError::Torch`] if memory is short.
    pub fn drawn(config: &DecoderConfig, vocabulary: Vocabulary, seed: u64, choice: DeviceChoice) -> Result<Self, ModelError> {
        check(config, &vocabulary)?;
        let decoder = Decoder::drawn(config, seed, device::open(choice)?)?;
        Ok(Self { decoder, vocabulary })
    }

    /// Loads the model of a checkpoint, as [`crate::train::Trainer`] writes it. The optimizer's file may be missing.
    ///
    /// # Errors
    /// [`ModelError::CheckpointFile`] or [`ModelError::CheckpointState`] for missing or damaged files; [`ModelError::Safetensors`] and the
    /// errors about tensors for weights of another network; otherwise those of [`Self::drawn`].
    pub fn from_checkpoint(files: &CheckpointFiles, choice: DeviceChoice) -> Result<Self, ModelError> {
        let state = checkpoint::state(files)?;
        check(&state.decoder, &state.vocabulary)?;
        let decoder = Decoder::loaded(&state.decoder, checkpoint::weights(files)?, device::open(choice)?)?;
        Ok(Self { decoder, vocabulary: state.vocabulary })
    }

    /// Loads an `OPTForCausalLM` of transformers without biases and learned norms: its `config.json`, and its weights from one or more files.
    ///
    /// # Errors
    /// [`ModelError::Config`] with every setting that the decoder cannot have; the errors about tensors, and about files of weights; otherwise those
    /// of [`Self::drawn`].
    pub fn from_hugging_face(config: &Value, weights: &[&[u8]], vocabulary: Vocabulary, choice: DeviceChoice) -> Result<Self, ModelError> {
        let (config, tensors) = hugging_face::read(config, weights)?;
        check(&config, &vocabulary)?;
        Ok(Self { decoder: Decoder::loaded(&config, tensors, device::open(choice)?)?, vocabulary })
    }

    /// Returns the sizes.
    #[must_use]
    pub const fn config(&self) -> &DecoderConfig {
        &self.decoder.config
    }

    /// Returns the vocabulary.
    #[must_use]
    pub const fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }
}

impl LanguageModel for TokenModel {
    fn losses(&mut self, batch: &PackBatch) -> Result<ModalityLosses, DynError> {
        let packs = ParsedPacks::try_new(batch, &self.decoder.config)?.with_shapes(self.vocabulary.shapes.as_ref());
        Ok(losses(&self.decoder, &packs).map_err(ModelError::torch("compute losses"))?)
    }

    fn generate(&mut self, prompts: &[Prompt], continuation: Continuation, sampling: &Sampling) -> Result<Vec<Vec<u32>>, DynError> {
        Ok(generate(&self.decoder, &self.vocabulary, prompts, continuation, sampling)?)
    }
}

/// Checks configuration and vocabulary, by themselves and against each other.
fn check(config: &DecoderConfig, vocabulary: &Vocabulary) -> Result<(), ModelError> {
    vocabulary.check()?;
    let mut problems = config.problems();
    if config.vocabulary_size != vocabulary.size {
        problems.push(format!("vocabulary_size must be the vocabulary's, {}, got {}", vocabulary.size, config.vocabulary_size));
    }
    if problems.is_empty() { Ok(()) } else { Err(ModelError::Config { what: "decoder configuration", problems }) }
}
