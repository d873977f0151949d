//! Continuation of prompts by an image or by text; ids of any other kind cannot be sampled. In an image with a shape, only ids that may
//! follow can be sampled.

use std::ops::Range;

use cm3flow_schemas::document::{NextInImage, next_in_image};
use cm3flow_schemas::random::Draws;
use cm3flow_schemas::traits::{Continuation, Prompt, Sampling};
use cm3flow_schemas::vocabulary::{IdRange, ImageShapes, Vocabulary};
use tch::{Device, TchError, Tensor};

use crate::decoder::{Decoder, check_ids};
use crate::error::ModelError;
use crate::generate::cache::Streams;
use crate::generate::sampler;

/// Number of prompts that are continued together, which bounds the memory of keys and values.
const PROMPTS_AT_ONCE: usize = 16;

/// Ids that may be sampled.
pub(super) struct Allowed {
    /// All allowed ids; those that end the continuation come last.
    ids: Vec<u32>,
    /// Ids that end the continuation.
    stops: Vec<u32>,
    /// Shapes of the image; their size tokens and row end come last in `ids`.
    shapes: Option<ImageShapes>,
}

impl Allowed {
    /// Returns the allowed ids. Text ends at a span end, and also at a break, an image or a boundary: behind those no text of the span
    /// follows.
    pub(super) fn of(continuation: Continuation, vocabulary: &Vocabulary) -> Self {
        let all = |range: IdRange| (range.start..range.end()).collect::<Vec<_>>();
        match continuation {
            Continuation::Image { .. } => {
                let mut ids = all(vocabulary.image);
                ids.extend(vocabulary.shapes.iter().flat_map(|shapes| all(shapes.sizes).into_iter().chain([shapes.line_end])));
                Self { ids, stops: Vec::new(), shapes: vocabulary.shapes.clone() }
            }
            Continuation::Text { .. } => {
                let mut stops: Vec<u32> = vocabulary.span_end.into_iter().collect();
                stops.extend([vocabulary.break_, vocabulary.boundary]);
                stops.extend(vocabulary.image_brackets.map(|brackets| brackets.open));
                Self { ids: [all(vocabulary.text), stops.clone()].concat(), stops, shapes: None }
            }
        }
    }

    /// Checks whether `continued` is a whole image with a shape.
    fn is_whole(&self, continued: &[u32]) -> bool {
        self.shapes.as_ref().is_some_and(|shapes| next_in_image(shapes, continued) == NextInImage::Nothing)
    }

    /// Returns the places in `ids` of those that may follow `continued`.
    fn next(&self, continued: &[u32]) -> Places {
        let Some(shapes) = &self.shapes else {
            // The first token does not end the continuation, since a masked span is never empty.
            return Places::Range(0..self.ids.len() - if continued.is_empty() { self.stops.len() } else { 0 });
        };
        let codes = self.ids.len() - shapes.sizes.len as usize - 1;
        match next_in_image(shapes, continued) {
            NextInImage::Size(sizes) => Places::Some(sizes.into_iter().map(|id| codes + (id - shapes.sizes.start) as usize).collect()),
            NextInImage::LineEnd => Places::Some(vec![self.ids.len() - 1]),
            // Tokens drawn behind a whole image are dropped.
            NextInImage::Code | NextInImage::Nothing => Places::Range(0..codes),
        }
    }
}

/// Places of allowed ids in their list.
enum Places {
    Range(Range<usize>),
    Some(Vec<usize>),
}

/// Continues each prompt, as [`cm3flow_schemas::traits::LanguageModel::generate`] specifies.
///
/// # Errors
/// [`ModelError::Config`] for invalid sampling; [`ModelError::PromptEmpty`], [`ModelError::PromptTooLong`] or
/// [`ModelError::TokenOutOfRange`] for an invalid prompt; [`ModelError::Torch`] if the device fails.
pub(crate) fn generate(
    decoder: &Decoder,
    vocabulary: &Vocabulary,
    prompts: &[Prompt],
    continuation: Continuation,
    sampling: &Sampling,
) -> Result<Vec<Vec<u32>>, ModelError> {
    sampler::check(sampling)?;
    let count = match continuation {
        Continuation::Image { tokens } => tokens,
        Continuation::Text { max_tokens } => max_tokens,
    };
    for (index, prompt) in prompts.iter().enumerate() {
        check(decoder, prompt, index, count)?;
    }
    if count == 0 {
        return Ok(vec![Vec::new(); prompts.len()]);
    }
    let allowed = Allowed::of(continuation, vocabulary);
    let _no_grad = tch::no_grad_guard();
    let mut continued = Vec::with_capacity(prompts.len());
    for (number, some) in prompts.chunks(PROMPTS_AT_ONCE).enumerate() {
        let run = PromptBatch { decoder, prompts: some, first: number * PROMPTS_AT_ONCE, allowed: &allowed, sampling, count };
        continued.extend(run.finish().map_err(ModelError::torch("generate"))?);
    }
    Ok(continued)
}

fn check(decoder: &Decoder, prompt: &Prompt, index: usize, count: usize) -> Result<(), ModelError> {
    let (tokens, seq_len) = (prompt.tokens.len().max(prompt.unconditional.len()), decoder.config.seq_len as usize);
    if prompt.tokens.is_empty() || prompt.unconditional.is_empty() {
        return Err(ModelError::PromptEmpty { prompt: index });
    }
    if tokens.saturating_add(count) > seq_len {
        return Err(ModelError::PromptTooLong { prompt: index, tokens, continuation: count, seq_len });
    }
    check_ids(&prompt.tokens, index, decoder.config.vocabulary_size)?;
    check_ids(&prompt.unconditional, index, decoder.config.vocabulary_size)
}

/// Prompts that are continued together.
struct PromptBatch<'a> {
    decoder: &'a Decoder,
    prompts: &'a [Prompt],
    /// Index of the first prompt in the call.
    first: usize,
    allowed: &'a Allowed,
    sampling: &'a Sampling,
    /// Largest number of tokens in a continuation, 1 or more.
    count: usize,
}

impl PromptBatch<'_> {
    fn finish(&self) -> Result<Vec<Vec<u32>>, TchError> {
        let guided = self.sampling.guidance != 1.0;
        let mut streams: Vec<&[u32]> = self.prompts.iter().map(|prompt| prompt.tokens.as_slice()).collect();
        if guided {
            streams.extend(self.prompts.iter().map(|prompt| prompt.unconditional.as_slice()));
        }
        let (mut streams, mut hidden) = Streams::read(self.decoder, &streams, self.count)?;
        let ids: Vec<i64> = self.allowed.ids.iter().map(|id| i64::from(*id)).collect();
        let output = self.decoder.embedding.f_index_select(0, &Tensor::f_from_slice(&ids)?.f_to_device(hidden.device())?)?;
        let key = |prompt: usize| ((self.first + prompt) as u64).to_le_bytes();
        let mut draws: Vec<Draws> =
            (0..self.prompts.len()).map(|prompt| Draws::new(self.sampling.seed, "generate", &key(prompt))).collect();
        let mut continued: Vec<Vec<u32>> = vec![Vec::new(); self.prompts.len()];
        let mut ended = vec![false; self.prompts.len()];
        for step in 1..=self.count {
            let logits = hidden.f_linear(&output, None::<&Tensor>)?;
            let logits = if guided { self.guided(&logits)? } else { logits };
            let next = self.choose(&logits, &mut draws, &continued)?;
            for (prompt, id) in next.iter().enumerate() {
                ended[prompt] |= self.allowed.stops.contains(id);
                if !ended[prompt] {
                    continued[prompt].push(*id);
                    ended[prompt] = self.allowed.is_whole(&continued[prompt]);
                }
            }
            if step == self.count || ended.iter().all(|ended| *ended) {
                break;
            }
            hidden = streams.advance(&if guided { next.repeat(2) } else { next })?;
        }
        Ok(continued)
    }

    fn guided(&self, logits: &Tensor) -> Result<Tensor, TchError> {
        let prompts = self.prompts.len() as i64;
        guided(&logits.f_narrow(0, 0, prompts)?, &logits.f_narrow(0, prompts, prompts)?, self.sampling.guidance)
    }

    /// Draws one id for each prompt among those that may follow its continuation; any id for a finished one.
    fn choose(&self, logits: &Tensor, draws: &mut [Draws], continued: &[Vec<u32>]) -> Result<Vec<u32>, TchError> {
        let logits = Vec::<f32>::try_from(logits.f_to_device(Device::Cpu)?.f_reshape([-1])?)?;
        let rows = logits.chunks(self.allowed.ids.len()).zip(draws).zip(continued);
        let choose = |((row, draws), continued): ((&[f32], &mut Draws), &Vec<u32>)| {
            self.allowed.ids[match self.allowed.next(continued) {
                Places::Range(range) => range.start + sampler::choose(&row[range], self.sampling, draws),
                Places::Some(places) => {
                    let logits: Vec<f32> = places.iter().map(|place| row[*place]).collect();
                    places[sampler::choose(&logits, self.sampling, draws)]
                }
            }]
        };
        Ok(rows.map(choose).collect())
    }
}

/// Applies guidance of strength `a`: `u + a (c - u)` of conditional logits `c` and unconditional logits `u`.
///
/// # Source
/// CM3Leon paper, eq. 2, <https://arxiv.org/abs/2309.02591>.
pub(super) fn guided(conditional: &Tensor, unconditional: &Tensor, strength: f64) -> Result<Tensor, TchError> {
    conditional.f_sub(unconditional)?.f_mul_scalar(strength)?.f_add(unconditional)
}
