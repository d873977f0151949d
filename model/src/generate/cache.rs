//! Parallel streams of tokens of different lengths, with cached keys and values of all tokens read.
//!
//! Streams start at the left: padding behind a shorter prompt is overwritten before any token of it sees it.

use tch::{Kind, TchError, Tensor};

use crate::decoder::{Decoder, attention};

/// Keys and values of one layer, `[streams, heads, capacity, width / heads]` each.
struct LayerCache {
    keys: Tensor,
    values: Tensor,
}

/// Streams of a generation.
pub(super) struct Streams<'d> {
    decoder: &'d Decoder,
    layers: Vec<LayerCache>,
    /// Number of tokens read of each stream.
    lengths: Vec<i64>,
}

impl<'d> Streams<'d> {
    /// Reads the prompts, none of which is empty; each stream can grow by `room` tokens. Also returns the hidden vectors behind each
    /// prompt's last token, `[streams, width]`.
    pub(super) fn read(decoder: &'d Decoder, prompts: &[&[u32]], room: usize) -> Result<(Self, Tensor), TchError> {
        let lengths: Vec<i64> = prompts.iter().map(|prompt| prompt.len() as i64).collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let streams = prompts.len() as i64;
        let config = &decoder.config;
        let (heads, width) = (i64::from(config.heads), i64::from(config.width));
        let shape = [streams, heads, longest + room as i64, width / heads];
        let zeros = || Tensor::f_zeros(shape, (Kind::Float, decoder.device));
        let layers =
            (0..config.layers).map(|_| Ok(LayerCache { keys: zeros()?, values: zeros()? })).collect::<Result<Vec<_>, TchError>>()?;
        let padded = prompts.iter().flat_map(|prompt| (0..longest as usize).map(|at| prompt.get(at).map_or(0, |id| i64::from(*id))));
        let ids = Tensor::f_from_slice(&padded.collect::<Vec<_>>())?.f_reshape([streams, longest])?.f_to_device(decoder.device)?;
        let positions = Tensor::f_arange(longest, (Kind::Int64, decoder.device))?.f_unsqueeze(0)?;
        let hidden = decoder.hidden(&ids, &positions, &mut |layer, q, k, v| {
            layers[layer].keys.f_narrow(2, 0, longest)?.f_copy_(k)?;
            layers[layer].values.f_narrow(2, 0, longest)?.f_copy_(v)?;
            attention(q, k, v, None)
        })?;
        let last: Vec<i64> = lengths.iter().enumerate().map(|(stream, length)| stream as i64 * longest + length - 1).collect();
        let last = Tensor::f_from_slice(&last)?.f_to_device(decoder.device)?;
        let hidden = hidden.f_reshape([-1, width])?.f_index_select(0, &last)?;
        Ok((Self { decoder, layers, lengths }, hidden))
    }

    /// Reads one more token of each stream. Out: the hidden vectors behind it, `[streams, width]`.
    pub(super) fn advance(&mut self, ids: &[u32]) -> Result<Tensor, TchError> {
        let (device, streams) = (self.decoder.device, ids.len() as i64);
        let ids: Vec<i64> = ids.iter().map(|id| i64::from(*id)).collect();
        let ids = Tensor::f_from_slice(&ids)?.f_reshape([streams, 1])?.f_to_device(device)?;
        let positions = Tensor::f_from_slice(&self.lengths)?.f_reshape([streams, 1])?.f_to_device(device)?;
        let longest = self.lengths.iter().copied().max().unwrap_or(0) + 1;
        let mask = Tensor::f_arange(longest, (Kind::Int64, device))?.f_unsqueeze(0)?.f_le_tensor(&positions)?;
        let mask = mask.f_reshape([streams, 1, 1, longest])?;
        let place = positions.f_reshape([streams, 1, 1, 1])?;
        let layers = &mut self.layers;
        let hidden = self.decoder.hidden(&ids, &positions, &mut |layer, q, k, v| {
            let LayerCache { keys, values } = &mut layers[layer];
            let place = place.f_expand(k.size(), false)?;
            let _ = keys.f_scatter_(2, &place, k)?;
            let _ = values.f_scatter_(2, &place, v)?;
            attention(q, &keys.f_narrow(2, 0, longest)?, &values.f_narrow(2, 0, longest)?, Some(&mask))
        })?;
        self.lengths.iter_mut().for_each(|length| *length += 1);
        hidden.f_squeeze_dim(1)
    }
}
