//! Bundles: a checkpoint with tokenizers, vocabulary and templates, in a folder that transformers reads too.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use cm3flow_model::{StoredType, checkpoint, hugging_face};
use cm3flow_schemas::Digest;
use cm3flow_schemas::bundle::{BUNDLE_FILE, BUNDLE_FORMAT_VERSION, Bundle, BundleFile, BundledImageTokenizer};
use cm3flow_schemas::vocabulary::Vocabulary;
use cm3flow_stages::tokenize::TextTokenizer;
use serde_json::{Value, json};

use crate::artefact::{self, ArtefactFiles, CODEBOOK, DECODER, TOKENIZER};
use crate::catalog::checkpoints::StoredCheckpoint;
use crate::config::{Config, ImageTokenizerConfig, Job};
use crate::error::{Mismatch, PipelineError, Result};
use crate::store::{Created, Store, record_bytes};

/// Folder of the image tokenizer in a bundle.
const IMAGE_TOKENIZER: &str = "image_tokenizer";
/// The text tokenizer in a bundle, in its own ids.
const TEXT_TOKENIZER: &str = "text_tokenizer.json";

/// An exported bundle.
#[derive(Debug)]
pub struct ExportedBundle {
    /// Key of the training.
    pub training: Digest,
    /// Step of the checkpoint.
    pub step: u64,
    /// Paths of its files with their sizes in bytes.
    pub files: BTreeMap<String, u64>,
    /// `false` if the text tokenizer cannot be written in the model's ids, so that `tokenizer.json` is missing.
    pub has_tokenizer: bool,
}

/// Writes `found`, a checkpoint of `job`, as a bundle into `target`, which must be empty. `cm3flow.json` is written last.
///
/// # Errors
/// [`PipelineError::NotEmpty`]; [`PipelineError::Mismatch`] if the configuration has other tokenizers than the model; those of the stores.
pub async fn export(job: &Job, found: &StoredCheckpoint, stored: StoredType, target: &Store) -> Result<ExportedBundle> {
    if !target.names("").await?.is_empty() {
        return Err(PipelineError::NotEmpty { address: target.address().to_owned() });
    }
    let artefacts = artefact::files(job).await?.ok_or(Mismatch::NotFitted)?;
    // Moments of the optimizer are twice as large as the weights, and no part of a bundle.
    let checkpoint_files = found.files(&[checkpoint::STATE_FILE, checkpoint::MODEL_FILE]).await?;
    let state = checkpoint::state(&checkpoint_files)?;
    let other = |source| PipelineError::from(Mismatch::OtherCheckpointVocabulary { source });
    artefacts.vocabulary.check_same(&state.vocabulary).map_err(other)?;
    let mut files: BTreeMap<String, Bytes> = BTreeMap::new();
    files.extend(hugging_face::write(&checkpoint_files, stored)?.into_iter().map(|(name, bytes)| (name, Bytes::from(bytes))));
    let text = &artefacts.contents[TOKENIZER];
    let tokenizer = TextTokenizer::in_model_ids(text, &state.vocabulary)?;
    let has_tokenizer = tokenizer.is_some();
    files.extend(tokenizer.map(|json| ("tokenizer.json".to_owned(), Bytes::from(json))));
    files.insert("tokenizer_config.json".into(), record_bytes(&tokenizer_config(&state.vocabulary, state.decoder.seq_len)).into());
    files.insert(TEXT_TOKENIZER.into(), text.clone());
    let image_tokenizer = image_tokenizer(&job.config, &artefacts, &mut files)?;
    let bundle = Bundle {
        format_version: BUNDLE_FORMAT_VERSION,
        dataset: job.dataset().to_owned(),
        training: found.training,
        step: found.step,
        text_tokenizer: BundleFile { path: TEXT_TOKENIZER.into(), digest: Digest::of(text) },
        image_tokenizer,
        instruct: value(&job.config.instruct.spelled_out()?),
        sampling: value(&job.config.eval),
        vocabulary: state.vocabulary,
    };
    let mut sizes = BTreeMap::new();
    for (path, bytes) in files.into_iter().chain([(BUNDLE_FILE.to_owned(), record_bytes(&bundle).into())]) {
        sizes.insert(path.clone(), bytes.len() as u64);
        if target.create(&path, bytes).await? == Created::Different {
            return Err(PipelineError::NotEmpty { address: target.address().to_owned() });
        }
    }
    Ok(ExportedBundle { training: found.training, step: found.step, files: sizes, has_tokenizer })
}

/// Settings for transformers: text that spells a control token stays text.
fn tokenizer_config(vocabulary: &Vocabulary, seq_len: u32) -> Value {
    let name = |id: u32| vocabulary.control_name(id).unwrap_or_default();
    json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "split_special_tokens": true,
        "clean_up_tokenization_spaces": false,
        "model_max_length": seq_len,
        "bos_token": name(vocabulary.boundary),
        "eos_token": name(vocabulary.boundary),
        "pad_token": name(vocabulary.pad),
        "unk_token": name(vocabulary.unknown),
    })
}

/// Adds the files of the image tokenizer, and returns their record.
fn image_tokenizer(config: &Config, artefacts: &ArtefactFiles, files: &mut BTreeMap<String, Bytes>) -> Result<BundledImageTokenizer> {
    let mut written = BTreeMap::new();
    let mut put = |purpose: &'static str, source: Option<&Path>| -> Option<PathBuf> {
        let bytes = artefacts.contents.get(purpose)?;
        let ending = source.and_then(Path::extension).map_or_else(|| "safetensors".into(), |ending| ending.to_string_lossy());
        let path = format!("{IMAGE_TOKENIZER}/{purpose}.{ending}");
        files.insert(path.clone(), bytes.clone());
        written.insert(purpose.to_owned(), BundleFile { path: path.clone(), digest: Digest::of(bytes) });
        Some(path.into())
    };
    let mut bundled = config.tokenize.image.clone();
    match &mut bundled {
        ImageTokenizerConfig::Vq(vq) => vq.weights = put(CODEBOOK, vq.weights.as_deref()),
        ImageTokenizerConfig::TorchScript(script) => {
            script.encoder = put(CODEBOOK, Some(&script.encoder)).unwrap_or_default();
            script.decoder = put(DECODER, Some(&script.decoder)).unwrap_or_default();
        }
        ImageTokenizerConfig::Patches(_) => drop(put(CODEBOOK, None)),
        ImageTokenizerConfig::Given(_) => {}
    }
    Ok(BundledImageTokenizer { digest: artefacts.image_tokenizer, config: value(&bundled), files: written })
}

fn value(settings: &impl serde::Serialize) -> Value {
    serde_json::to_value(settings).expect("settings are plain data")
}
