//! Cross entropy over the vocabulary, with its gradient in closed form, piece by piece.
//!
//! The logits of all tokens would be by far the largest tensor (4096 x 65,536 for one pack), and automatic differentiation would keep them.
//! Here a piece's logits are freed before the next piece's are computed.

use tch::{Device, Kind, TchError, Tensor};

use crate::decoder::packs::Target;

/// Number of logits in memory at once on a CPU: they fit in its cache.
const LOGITS_ON_CPU: i64 = 1 << 20;
/// Number of logits in memory at once on a GPU: 512 MiB.
const LOGITS_ON_GPU: i64 = 1 << 27;

/// Losses of the targets in nats, and the gradient of their weighted sum.
pub(super) struct HeadLoss {
    /// Loss of each target, in their order.
    pub(super) losses: Vec<f32>,
    /// Gradient with respect to the hidden vectors, in their shape `[rows, tokens, width]`.
    pub(super) hidden_gradient: Option<Tensor>,
}

/// Predicts `targets` from `hidden`, `[rows, tokens, width]`. With `gradient = Some((scale, out))` it computes the gradient of `scale`
/// times the weighted sum of losses, and adds its part for the embedding to `out`.
///
/// # Source
/// The gradient of cross entropy with respect to the logits is softmax minus one-hot: Bishop 2006, Pattern Recognition and Machine
/// Learning, eq. 4.109.
pub(super) fn head_loss(
    hidden: &Tensor,
    embedding: &Tensor,
    targets: &[Target],
    mut gradient: Option<(f64, &mut Tensor)>,
) -> Result<HeadLoss, TchError> {
    let _no_grad = tch::no_grad_guard();
    let (device, ids) = (hidden.device(), embedding.size2()?.0);
    let flat = hidden.f_detach()?.f_reshape([-1, embedding.size2()?.1])?;
    let mut flat_gradient = if gradient.is_some() { Some(flat.f_zeros_like()?) } else { None };
    let at_once = (if device == Device::Cpu { LOGITS_ON_CPU } else { LOGITS_ON_GPU } / ids).max(1) as usize;
    let mut losses = Vec::with_capacity(targets.len());
    for piece in targets.chunks(at_once) {
        let from: Vec<i64> = piece.iter().map(|target| target.from as i64).collect();
        let id: Vec<i64> = piece.iter().map(|target| i64::from(target.id)).collect();
        let from = Tensor::f_from_slice(&from)?.f_to_device(device)?;
        let id = Tensor::f_from_slice(&id)?.f_reshape([-1, 1])?.f_to_device(device)?;
        let rows = flat.f_index_select(0, &from)?;
        let mut log_shares = rows.f_linear(embedding, None::<&Tensor>)?.f_log_softmax(-1, Kind::Float)?;
        let piece_losses = log_shares.f_gather(1, &id, false)?.f_neg()?.f_reshape([-1])?;
        losses.extend(Vec::<f32>::try_from(piece_losses.f_to_device(Device::Cpu)?)?);
        let (Some((scale, embedding_gradient)), Some(flat_gradient)) = (&mut gradient, &mut flat_gradient) else { continue };
        let weights: Vec<f32> = piece.iter().map(|target| (f64::from(target.weight) * *scale) as f32).collect();
        let weights = Tensor::f_from_slice(&weights)?.f_reshape([-1, 1])?.f_to_device(device)?;
        let mut by_logits = log_shares.f_exp_()?;
        let _ = by_logits.f_scatter_add_(1, &id, &id.f_full_like(-1.0)?.f_to_kind(Kind::Float)?)?;
        let _ = by_logits.f_mul_(&weights)?;
        let _ = flat_gradient.f_index_copy_(0, &from, &by_logits.f_matmul(embedding)?)?;
        let _ = embedding_gradient.f_addmm_(&by_logits.f_transpose(0, 1)?, &rows)?;
    }
    let hidden_gradient = flat_gradient.map(|gradient| gradient.f_view_as(hidden)).transpose()?;
    Ok(HeadLoss { losses, hidden_gradient })
}

#[cfg(test)]
mod tests {
    use super::*;
    use cm3flow_schemas::document::Modality;
    use cm3flow_schemas::random::Draws;
    use tch::Reduction;

    fn drawn(shape: &[i64], name: &str) -> Tensor {
        let mut draws = Draws::new(1, "test", name.as_bytes());
        let values: Vec<f32> = (0..shape.iter().product::<i64>()).map(|_| draws.unit() as f32 - 0.5).collect();
        Tensor::from_slice(&values).reshape(shape)
    }

    #[test]
    fn losses_and_gradients_equal_those_of_automatic_differentiation() {
        let (hidden, embedding) =
            (drawn(&[2, 4, 6], "hidden").set_requires_grad(true), drawn(&[9, 6], "embedding").set_requires_grad(true));
        let target = |from, id, weight| Target { from, id, weight, modality: Modality::Text };
        let targets = [target(0, 3, 1.0), target(2, 8, 0.5), target(7, 0, 2.0)];
        let mut embedding_gradient = embedding.detach().zeros_like();
        let loss = head_loss(&hidden, &embedding, &targets, Some((0.25, &mut embedding_gradient))).expect("small");
        let chosen = hidden.reshape([-1, 6]).index_select(0, &Tensor::from_slice(&[0_i64, 2, 7]));
        let ids = Tensor::from_slice(&[3_i64, 8, 0]);
        let losses = chosen.matmul(&embedding.tr()).cross_entropy_loss(&ids, None::<&Tensor>, Reduction::None, -100, 0.0);
        let total = (&losses * Tensor::from_slice(&[1.0_f32, 0.5, 2.0])).sum(Kind::Float) * 0.25;
        let expected = Tensor::run_backward(&[total], &[&hidden, &embedding], false, false);
        assert!(Tensor::from_slice(&loss.losses).allclose(&losses.detach(), 1e-5, 1e-6, false));
        assert!(loss.hidden_gradient.expect("asked for").allclose(&expected[0], 1e-5, 1e-6, false));
        assert!(embedding_gradient.allclose(&expected[1], 1e-5, 1e-6, false));
    }
}
