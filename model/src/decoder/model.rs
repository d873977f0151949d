//! Decoder with its vocabulary, for evaluation and generation.

use cm3flow_schemas::DynError;
use cm3flow_schemas::document::Modality;
use cm3flow_schemas::pack::PackBatch;
use cm3flow_schemas::traits::{CheckpointFiles, Continuation, LanguageModel, ModalityLosses, Prompt, Sampling};
use cm3flow_schemas::vocabulary::Vocabulary;
use tch::{Kind, TchError, Tensor};

use crate::checkpoint;
use crate::decoder::config::DecoderConfig;
use crate::decoder::head::head_loss;
use crate::decoder::layer::attention;
use crate::decoder::network::{Decoder, EMBEDDING};
use crate::decoder::packs::{PackTensors, ParsedPacks, Target};
use crate::device::{self, DeviceChoice};
use crate::error::ModelError;
use crate::generate;
use crate::train::adamw::AdamW;

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

    pub(crate) fn losses_of(&self, packs: &ParsedPacks) -> Result<ModalityLosses, TchError> {
        let _no_grad = tch::no_grad_guard();
        let mut sums = ModalityLosses::default();
        for row in 0..packs.rows() {
            let tensors = packs.tensors(row..row + 1, self.decoder.config.attention, self.decoder.device)?;
            let hidden = hidden_of(&self.decoder, &tensors)?;
            let loss = head_loss(&hidden, &self.decoder.embedding, &tensors.targets, None)?;
            sums.add(&by_modality(&tensors.targets, &loss.losses));
        }
        Ok(sums)
    }
}

impl LanguageModel for TokenModel {
    fn losses(&mut self, batch: &PackBatch) -> Result<ModalityLosses, DynError> {
        let packs = ParsedPacks::try_new(batch, &self.decoder.config)?.with_shapes(self.vocabulary.shapes.as_ref());
        Ok(self.losses_of(&packs).map_err(ModelError::torch("compute losses"))?)
    }

    fn generate(&mut self, prompts: &[Prompt], continuation: Continuation, sampling: &Sampling) -> Result<Vec<Vec<u32>>, DynError> {
        Ok(generate::generate(self, prompts, continuation, sampling)?)
    }
}

/// Computes the losses of the packs, and the gradient of their weighted mean for every parameter, in the order of `optimizer`.
/// `packs_at_once` packs are computed together.
pub(crate) fn loss_gradients(
    decoder: &Decoder,
    optimizer: &AdamW,
    packs: &ParsedPacks,
    packs_at_once: usize,
) -> Result<(ModalityLosses, f64, Vec<Tensor>), TchError> {
    let embedding = optimizer.index_of(EMBEDDING).expect("every parameter is optimized");
    let (mut sums, mut weighted, mut total) = (ModalityLosses::default(), 0.0, Vec::new());
    let weight = packs.weight();
    let scale = if weight > 0.0 { 1.0 / weight } else { 0.0 };
    for first in (0..packs.rows()).step_by(packs_at_once.max(1)) {
        let rows = first..packs.rows().min(first + packs_at_once.max(1));
        let tensors = packs.tensors(rows, decoder.config.attention, decoder.device)?;
        let hidden = hidden_of(decoder, &tensors)?;
        let mut by_head = decoder.embedding.f_detach()?.f_zeros_like()?;
        let head = head_loss(&hidden, &decoder.embedding, &tensors.targets, Some((scale, &mut by_head)))?;
        let by_hidden = head.hidden_gradient.expect("the gradient was asked for");
        // `head_loss` works outside of autograd, and returns the gradient of the loss by `hidden` as a constant. By the chain rule, the
        // derivative of the sum of `hidden * by_hidden` by a parameter of the layers is then that of the loss, so backward through this
        // product carries the head's gradient into the layers. The embedding is used twice: as the input, which the product covers, and as
        // the output matrix, for which `by_head` is added.
        let product = hidden.f_mul(&by_hidden)?.f_sum(Kind::Float)?;
        let mut gradients = optimizer.gradients(&product)?;
        let _ = gradients[embedding].f_add_(&by_head)?;
        sums.add(&by_modality(&tensors.targets, &head.losses));
        let of = |(target, loss): (&Target, &f32)| f64::from(target.weight) * f64::from(*loss);
        weighted += tensors.targets.iter().zip(&head.losses).map(of).sum::<f64>();
        if total.is_empty() {
            total = gradients;
        } else {
            for (sum, gradient) in total.iter_mut().zip(&gradients) {
                let _ = sum.f_add_(gradient)?;
            }
        }
    }
    Ok((sums, weighted * scale, total))
}

/// Returns the hidden vectors, `[rows, seq_len, width]`.
pub(super) fn hidden_of(decoder: &Decoder, tensors: &PackTensors) -> Result<Tensor, TchError> {
    decoder.hidden(&tensors.ids, &tensors.positions, &mut |_, q, k, v| attention(q, k, v, tensors.mask.as_ref()))
}

fn by_modality(targets: &[Target], losses: &[f32]) -> ModalityLosses {
    let mut sums = ModalityLosses::default();
    for (target, loss) in targets.iter().zip(losses) {
        let (sum, tokens) = match target.modality {
            Modality::Text => (&mut sums.text_sum, &mut sums.text_tokens),
            Modality::Image => (&mut sums.image_sum, &mut sums.image_tokens),
            Modality::Control => (&mut sums.control_sum, &mut sums.control_tokens),
        };
        *sum += f64::from(*loss);
        *tokens += 1;
    }
    sums
}

/// Checks configuration and vocabulary, by themselves and against each other.
pub(crate) fn check(config: &DecoderConfig, vocabulary: &Vocabulary) -> Result<(), ModelError> {
    vocabulary.check()?;
    let mut problems = config.problems();
    if config.vocabulary_size != vocabulary.size {
        problems.push(format!("vocabulary_size must be the vocabulary's, {}, got {}", vocabulary.size, config.vocabulary_size));
    }
    if problems.is_empty() { Ok(()) } else { Err(ModelError::Config { what: "decoder configuration", problems }) }
}
