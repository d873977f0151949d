//! Evaluation on held-out packs: losses, images generated from captions, captions generated for images.
//!
//! An evaluation sees the windows that the reader has reached, however far ahead the run is, so it is reproducible. It lies in
//! `checkpoints/<dataset>/<key>/evaluations/<settings>/<step>/`: `evaluation.json` and the pictures that it names.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use cm3flow_model::decoder::AttentionScope;
use cm3flow_schemas::canonical::digest_of;
use cm3flow_schemas::document::{ImageCodes, Modality, Role, image_of, image_prompt, text_prompt, unconditional_image_prompt};
use cm3flow_schemas::pack::{Pack, PackBatch, ShardEntry};
use cm3flow_schemas::sample::Split;
use cm3flow_schemas::traits::{Continuation, LanguageModel, ModalityLosses, Prompt, Sampling};
use cm3flow_schemas::vocabulary::ImageShapes;
use cm3flow_stages::StageError;
use cm3flow_stages::eval::perplexity;
use cm3flow_stages::read::{BlockReader, read_packs};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use crate::artefact::decode::{Content, Part, parts, tokens_of};
use crate::artefact::picture::png;
use crate::artefact::{Artefacts, picture};
use crate::config::{Config, EvalConfig};
use crate::error::{PipelineError, Result};
use crate::events::progress::Progress;
use crate::store::Store;
use crate::train::Training;
use crate::train::follow::Feed;

/// Held-out packs that are searched for pairs to generate from.
const PACKS_FOR_PAIRS: usize = 64;

/// Result of an evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    /// Number of optimizer steps before it.
    pub step: u64,
    /// Number of held-out packs that losses were computed on.
    pub packs: u64,
    /// Losses on these packs; all zero without packs.
    pub losses: ModalityLosses,
    /// Images generated from held-out captions.
    pub images: Vec<GeneratedImage>,
    /// Captions generated for held-out images.
    pub captions: Vec<GeneratedCaption>,
}

/// An image generated from a caption.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GeneratedImage {
    /// Caption from which it was generated.
    pub caption: String,
    /// File name of the generated image, beside the evaluation.
    pub generated: String,
    /// File name of the held-out image of this caption, decoded from its codes.
    pub reference: String,
}

/// A caption generated for an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GeneratedCaption {
    /// File name of the held-out image, decoded from its codes.
    pub image: String,
    /// Caption of the held-out image.
    pub reference: String,
    /// Caption that the model generated.
    pub generated: String,
}

/// A held-out image with its caption.
struct Pair {
    caption: String,
    /// The caption as ids of the text tokenizer.
    caption_tokens: Vec<u32>,
    image: ImageCodes,
}

/// Evaluates the models of one training.
pub(crate) struct Evaluator {
    config: Arc<Config>,
    artefacts: Arc<Artefacts>,
    store: Store,
    feed: Feed,
    blocks: BlockReader,
    batch_packs: usize,
    folder: String,
    runtime: Handle,
    progress: Progress,
}

/// Returns the folder of a training's evaluations under the settings `eval`.
pub(crate) fn evaluations_folder(training_folder: &str, eval: &EvalConfig) -> String {
    format!("{training_folder}/evaluations/{}", digest_of("evaluation", eval).short())
}

impl Evaluator {
    /// Makes the evaluator of `training`, whose checkpoints lie in `training_folder`; packs have `schema`.
    pub(crate) fn new(training: &Training, schema: SchemaRef, training_folder: String, runtime: Handle) -> Self {
        Self {
            config: Arc::clone(&training.job.config),
            artefacts: Arc::clone(&training.artefacts),
            store: training.job.store.clone(),
            feed: training.feed.clone(),
            blocks: BlockReader::new(training.job.store.objects(), schema),
            batch_packs: training.train.batch_packs as usize,
            folder: evaluations_folder(&training_folder, &training.job.config.eval),
            runtime,
            progress: training.job.progress.clone(),
        }
    }

    /// Evaluates `model` after `step` steps and stores the result.
    pub(crate) fn evaluate(&mut self, step: u64, model: &mut dyn LanguageModel) -> Result<()> {
        let position = step * self.batch_packs as u64;
        let shards: Vec<ShardEntry> =
            self.feed.reached(position, Split::Train).into_iter().flatten().filter(|shard| shard.split == Split::HeldOut).collect();
        let wanted = PACKS_FOR_PAIRS.max(self.config.eval.packs as usize);
        let runtime = self.runtime.clone();
        let packs = runtime.block_on(read_packs(&mut self.blocks, &shards, wanted))?;
        if packs.is_empty() {
            self.progress.say(&format!("step {step}: no held-out packs to evaluate on yet"));
        }
        let losses = self.losses(&packs[..packs.len().min(self.config.eval.packs as usize)], model)?;
        let pairs = self.pairs(&packs)?;
        let folder = format!("{}/{step}", self.folder);
        let evaluation = Evaluation {
            step,
            packs: packs.len().min(self.config.eval.packs as usize) as u64,
            losses,
            images: self.generate_images(&folder, &pairs[..pairs.len().min(self.config.eval.images as usize)], model)?,
            captions: self.generate_captions(&folder, &pairs[..pairs.len().min(self.config.eval.captions as usize)], model)?,
        };
        self.runtime.block_on(self.store.create_record(&format!("{folder}/evaluation.json"), &evaluation))?;
        self.say(&evaluation);
        Ok(())
    }

    fn say(&self, evaluation: &Evaluation) {
        let of = |modality| evaluation.losses.mean(modality).map_or_else(|| "none".to_owned(), |loss| format!("{:.1}", perplexity(loss)));
        let (text, image) = (of(Modality::Text), of(Modality::Image));
        let (step, packs) = (evaluation.step, evaluation.packs);
        let sight = match self.config.model.attention {
            AttentionScope::Document => "",
            AttentionScope::Causal => "; documents of a pack see each other, which flatters it",
        };
        self.progress.say(&format!("step {step}: held-out perplexity over {packs} packs: text {text}, image {image}{sight}"));
    }

    fn losses(&self, packs: &[Pack], model: &mut dyn LanguageModel) -> Result<ModalityLosses> {
        let mut losses = ModalityLosses::default();
        for packs in packs.chunks(self.batch_packs) {
            let batch = PackBatch {
                seq_len: self.config.pack.seq_len as usize,
                tokens: packs.iter().flat_map(|pack| pack.tokens.iter().copied()).collect(),
                segments: packs.iter().map(|pack| pack.segments.clone()).collect(),
                document_starts: packs.iter().map(|pack| pack.documents.iter().map(|document| document.start).collect()).collect(),
            };
            losses.add(&model.losses(&batch).map_err(PipelineError::Training)?);
        }
        Ok(losses)
    }

    /// Returns the number of tokens of an image; of the longest where images have several shapes.
    fn tokens_per_image(&self) -> usize {
        let squares = self.artefacts.image_spec.codes_per_image();
        self.artefacts.vocabulary.shapes.as_ref().map_or(squares, |shapes| ImageShapes::most_tokens(&shapes.grids))
    }

    /// Finds held-out pairs, each image once, whose captions leave room for any image.
    fn pairs(&self, packs: &[Pack]) -> Result<Vec<Pair>> {
        let mut pairs: Vec<Pair> = Vec::new();
        let (vocabulary, text) = (&self.artefacts.vocabulary, &self.artefacts.text);
        for pack in packs {
            for document in pack.documents.iter().filter(|document| document.task == "pair") {
                let (tokens, segments) = tokens_of(pack, document);
                let targets: Vec<Part> =
                    parts(&tokens, &segments, vocabulary, text)?.into_iter().filter(|part| part.role == Role::Target).collect();
                let [Part { content: Content::Text(caption), .. }, Part { content: Content::Image(image), .. }] = targets.as_slice() else {
                    continue;
                };
                if !pairs.iter().any(|pair| pair.image == *image) {
                    let caption_tokens = text.encode(caption).map_err(StageError::from)?;
                    if caption_tokens.len() + 2 + self.tokens_per_image() > self.config.pack.seq_len as usize {
                        continue;
                    }
                    pairs.push(Pair { caption: caption.clone(), caption_tokens, image: image.clone() });
                }
            }
        }
        Ok(pairs)
    }

    fn generate_images(&self, folder: &str, pairs: &[Pair], model: &mut dyn LanguageModel) -> Result<Vec<GeneratedImage>> {
        if pairs.is_empty() {
            return Ok(Vec::new());
        }
        let vocabulary = &self.artefacts.vocabulary;
        let unconditional = unconditional_image_prompt(vocabulary);
        let prompt = |pair: &Pair| -> Result<Prompt> {
            Ok(Prompt { tokens: image_prompt(vocabulary, &pair.caption_tokens)?, unconditional: unconditional.clone() })
        };
        let eval = &self.config.eval;
        let sampling =
            Sampling { temperature: eval.temperature, top_p: eval.top_p, guidance: eval.guidance, seed: self.config.dataset.seed };
        let tokens = self.tokens_per_image();
        let prompts: Vec<Prompt> = pairs.iter().map(prompt).collect::<Result<_>>()?;
        let generated = model.generate(&prompts, Continuation::Image { tokens }, &sampling).map_err(PipelineError::Training)?;
        let mut images = Vec::with_capacity(pairs.len());
        for (index, (pair, ids)) in pairs.iter().zip(generated).enumerate() {
            let generated = self.put_image(folder, &format!("generated-{index}.png"), image_of(vocabulary, &ids)?)?;
            let reference = self.put_image(folder, &format!("held-out-{index}.png"), pair.image.clone())?;
            images.push(GeneratedImage { caption: pair.caption.clone(), generated, reference });
        }
        Ok(images)
    }

    fn generate_captions(&self, folder: &str, pairs: &[Pair], model: &mut dyn LanguageModel) -> Result<Vec<GeneratedCaption>> {
        if pairs.is_empty() {
            return Ok(Vec::new());
        }
        let vocabulary = &self.artefacts.vocabulary;
        let prompt = |pair: &Pair| -> Result<Prompt> {
            let tokens = text_prompt(vocabulary, &pair.image)?;
            Ok(Prompt { unconditional: tokens.clone(), tokens })
        };
        let sampling = Sampling { temperature: 0.0, top_p: 1.0, guidance: 1.0, seed: self.config.dataset.seed };
        let prompts: Vec<Prompt> = pairs.iter().map(prompt).collect::<Result<_>>()?;
        let longest = prompts.iter().map(|prompt| prompt.tokens.len()).max().unwrap_or(0);
        let room = (self.config.pack.seq_len as usize).saturating_sub(longest);
        let continuation = Continuation::Text { max_tokens: room.min(self.config.eval.max_caption_tokens as usize) };
        let generated = model.generate(&prompts, continuation, &sampling).map_err(PipelineError::Training)?;
        let mut captions = Vec::with_capacity(pairs.len());
        for (index, (pair, ids)) in pairs.iter().zip(generated).enumerate() {
            let generated = self.artefacts.text.decode(&vocabulary.text_tokens(&ids)?)?;
            let image = self.put_image(folder, &format!("held-out-{index}.png"), pair.image.clone())?;
            captions.push(GeneratedCaption { image, reference: pair.caption.clone(), generated });
        }
        Ok(captions)
    }

    /// Decodes codes to a picture, to a grey one without a decoder, and stores it. Returns its file name.
    fn put_image(&self, folder: &str, name: &str, image: ImageCodes) -> Result<String> {
        let decoded = self.runtime.block_on(picture::decode(&self.artefacts, vec![image]))?;
        let picture = decoded.first().ok_or(PipelineError::Lost { what: "decoding a picture" })?;
        let bytes = png(&picture.pixels, picture.width, picture.height)?;
        self.runtime.block_on(self.store.create(&format!("{folder}/{name}"), bytes))?;
        Ok(name.to_owned())
    }
}
