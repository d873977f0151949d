//! Losses of packs, and the gradient that a decoder is trained by.

use cm3flow_schemas::document::Modality;
use cm3flow_schemas::traits::ModalityLosses;
use tch::{Kind, TchError, Tensor};

use crate::decoder::head::head_loss;
use crate::decoder::network::{Decoder, EMBEDDING};
use crate::decoder::packs::{PackTensors, ParsedPacks, Target};
use crate::optimizer::AdamW;

/// Losses of the packs, one by one.
pub(crate) fn losses(decoder: &Decoder, packs: &ParsedPacks) -> Result<ModalityLosses, TchError> {
    let _no_grad = tch::no_grad_guard();
    let mut sums = ModalityLosses::default();
    for row in 0..packs.rows() {
        let tensors = packs.tensors(row..row + 1, decoder.config.attention, decoder.device)?;
        let hidden = hidden_of(decoder, &tensors)?;
        let loss = head_loss(&hidden, &decoder.embedding, &tensors.targets, None)?;
        sums.add(&by_modality(&tensors.targets, &loss.losses));
    }
    Ok(sums)
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

/// Returns the logits of every token of the packs, `[rows, seq_len, ids]`.
#[cfg(test)]
pub(crate) fn logits(decoder: &Decoder, packs: &ParsedPacks, device: tch::Device) -> Result<Tensor, TchError> {
    let tensors = packs.tensors(0..packs.rows(), decoder.config.attention, device)?;
    hidden_of(decoder, &tensors)?.f_linear(&decoder.embedding, None::<&Tensor>)
}

/// Returns the hidden vectors, `[rows, seq_len, width]`.
pub(super) fn hidden_of(decoder: &Decoder, tensors: &PackTensors) -> Result<Tensor, TchError> {
    decoder.hidden(&tensors.ids, &tensors.positions, &mut |_, q, k, v| tensors.sight.attend(q, k, v))
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
