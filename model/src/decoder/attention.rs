//! Attention of packs and prompts: which earlier tokens a token sees.

use std::ops::Range;

use tch::{Device, Kind, TchError, Tensor};

/// Earlier tokens that a token of a pack sees.
#[derive(Debug)]
pub(super) enum Sight {
    /// All of its pack.
    Pack,
    /// Those of its own document: the tokens of each document, row by row, for attention on slices.
    Documents(Vec<Vec<Range<usize>>>),
    /// Those that the mask says, `[rows, 1, tokens, tokens]`.
    Mask(Tensor),
}

impl Sight {
    /// Returns the sight of tokens within documents, given the tokens of each document, row by row, of packs of `seq_len` tokens. On a CPU a slice
    /// for each document computes nothing in vain; a GPU would wait for many small kernels, so there it is a mask.
    pub(super) fn within(documents: Vec<Vec<Range<usize>>>, seq_len: usize, device: Device) -> Result<Self, TchError> {
        if device == Device::Cpu { Ok(Self::Documents(documents)) } else { Ok(Self::Mask(mask_of(&documents, seq_len, device)?)) }
    }

    /// Mixes values by queries and keys, each `[rows, heads, tokens, width of a head]`. What no document covers gets zeros, or anything.
    pub(super) fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor, TchError> {
        match self {
            Self::Pack => attention(q, k, v, None),
            Self::Mask(mask) => attention(q, k, v, Some(mask)),
            Self::Documents(rows) => {
                let row = |(row, documents): (usize, &Vec<Range<usize>>)| {
                    let [q, k, v] = [q, k, v].map(|values| values.f_narrow(0, row as i64, 1));
                    within_documents(&q?, &k?, &v?, documents)
                };
                Tensor::f_cat(&rows.iter().enumerate().map(row).collect::<Result<Vec<_>, _>>()?, 0)
            }
        }
    }
}

/// Attention of one row, document by document.
fn within_documents(q: &Tensor, k: &Tensor, v: &Tensor, documents: &[Range<usize>]) -> Result<Tensor, TchError> {
    let (rows, heads, tokens, width) = q.size4()?;
    let mut mixed = Vec::with_capacity(documents.len() + 1);
    let mut covered = 0;
    for document in documents {
        let slice = |values: &Tensor| values.f_narrow(2, document.start as i64, document.len() as i64);
        mixed.push(attention(&slice(q)?, &slice(k)?, &slice(v)?, None)?);
        covered = document.end as i64;
    }
    if covered < tokens {
        mixed.push(Tensor::f_zeros([rows, heads, tokens - covered, width], (q.kind(), q.device()))?);
    }
    Tensor::f_cat(&mixed, 2)
}

/// Builds the mask of documents, `[rows, 1, seq_len, seq_len]`: true for earlier tokens of the same document. A token that no document covers
/// sees itself.
fn mask_of(documents: &[Vec<Range<usize>>], seq_len: usize, device: Device) -> Result<Tensor, TchError> {
    let mut numbers = vec![-1_i64; documents.len() * seq_len];
    for (row, documents) in documents.iter().enumerate() {
        for (number, document) in documents.iter().enumerate() {
            numbers[row * seq_len..][document.clone()].fill(number as i64);
        }
    }
    let tokens = seq_len as i64;
    let numbers = Tensor::f_from_slice(&numbers)?.f_reshape([-1, tokens])?.f_to_device(device)?;
    let same = numbers.f_unsqueeze(2)?.f_eq_tensor(&numbers.f_unsqueeze(1)?)?;
    let earlier = Tensor::f_ones([tokens, tokens], (Kind::Bool, device))?.f_tril(0)?;
    same.f_logical_and(&earlier)?.f_unsqueeze(1)
}

/// Computes softmax attention, scaled by the root of the head's width. `mask` is true where a query sees a key; `None` means all keys up to
/// the query's own place.
pub(crate) fn attention(q: &Tensor, k: &Tensor, v: &Tensor, mask: Option<&Tensor>) -> Result<Tensor, TchError> {
    Tensor::f_scaled_dot_product_attention(q, k, v, mask, 0.0, mask.is_none(), None, false)
}

#[cfg(test)]
mod tests {
    use cm3flow_schemas::random::Draws;

    use super::*;

    const SEQ_LEN: usize = 40;

    fn drawn(name: &str, rows: i64) -> Tensor {
        let mut draws = Draws::new(1, "attention", name.as_bytes());
        let shape = [rows, 2, SEQ_LEN as i64, 8];
        let values: Vec<f32> = (0..shape.iter().product::<i64>()).map(|_| draws.unit() as f32 - 0.5).collect();
        Tensor::from_slice(&values).reshape(shape).set_requires_grad(true)
    }

    /// Cuts `0..len` into `count` documents.
    fn documents(count: usize, len: usize) -> Vec<Range<usize>> {
        (0..count).map(|number| number * len / count..(number + 1) * len / count).collect()
    }

    #[test]
    fn slices_equal_the_mask_in_values_and_gradients() {
        for rows in [
            vec![documents(1, SEQ_LEN)],
            vec![documents(2, SEQ_LEN), documents(17, SEQ_LEN)],
            vec![documents(1, 33), documents(2, 31), documents(17, 39)],
            vec![Vec::new(), documents(3, 3)],
        ] {
            let inputs = ["q", "k", "v"].map(|name| drawn(name, rows.len() as i64));
            let [q, k, v] = &inputs;
            let covered: Vec<f32> = rows
                .iter()
                .flat_map(|documents| (0..SEQ_LEN).map(|token| if documents.iter().any(|d| d.contains(&token)) { 1.0 } else { 0.0 }))
                .collect();
            let covered = Tensor::from_slice(&covered).reshape([rows.len() as i64, 1, SEQ_LEN as i64, 1]);
            let mask = mask_of(&rows, SEQ_LEN, Device::Cpu).expect("small");
            let found = [Sight::Documents(rows), Sight::Mask(mask)].map(|sight| {
                let mixed = sight.attend(q, k, v).expect("small") * &covered;
                let loss = (&mixed * &mixed).sum(Kind::Float);
                let mut all = Tensor::run_backward(&[loss], &inputs.each_ref()[..], false, false);
                all.push(mixed);
                all
            });
            for (one, other) in found[0].iter().zip(&found[1]) {
                assert!(one.allclose(other, 1e-5, 1e-5, false), "{}", (one - other).abs().max());
            }
        }
    }
}
