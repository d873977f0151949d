//! Files that the configuration names as artefacts. Errors about them carry the file's path.

use std::path::Path;

use bytes::Bytes;
use cm3flow_model::{check_torchscript, check_weights};
use cm3flow_stages::StageError;

use super::{CODEBOOK, Contents, DECODER, PERCEPTUAL, TOKENIZER};
use crate::config::{Config, ImageTokenizerConfig};
use crate::error::{PipelineError, Result};

/// Entries of a folder that an error lists, at most.
const LISTED: usize = 5;

/// Reads a file that the configuration names.
///
/// # Errors
/// [`PipelineError::File`], or [`PipelineError::Unusable`] if it is a folder.
pub(super) fn read(config: &Config, path: &Path) -> Result<Bytes> {
    let path = config.resolve(path);
    if path.is_dir() {
        let source = format!("it is a folder{}; name the file that is meant", held(&path)).into();
        return Err(PipelineError::Unusable { path, source });
    }
    std::fs::read(&path).map(Bytes::from).map_err(|source| PipelineError::File { path, source })
}

/// Reads weights that the configuration names.
///
/// # Errors
/// As [`read`]; [`PipelineError::Unusable`] if the file holds no weights.
fn read_weights(config: &Config, path: &Path) -> Result<Bytes> {
    let bytes = read(config, path)?;
    check_weights(&bytes).map_err(|error| named(config, path, error.into()))?;
    Ok(bytes)
}

/// Reads a TorchScript module that the configuration names.
///
/// # Errors
/// As [`read`]; [`PipelineError::Unusable`] if the file is recognised as something else.
pub(super) fn read_module(config: &Config, path: &Path) -> Result<Bytes> {
    let bytes = read(config, path)?;
    check_torchscript(&bytes).map_err(|error| named(config, path, error.into()))?;
    Ok(bytes)
}

/// Reads the artefacts whose files the configuration names. Leaves out annotators' modules, since no other artefact depends on them.
///
/// # Errors
/// As [`read_module`].
pub(super) fn given(config: &Config) -> Result<Contents> {
    let mut contents = Contents::new();
    match &config.tokenize.image {
        ImageTokenizerConfig::Vq(vq) => {
            if let Some(weights) = &vq.weights {
                contents.insert(CODEBOOK, read_weights(config, weights)?);
            }
        }
        ImageTokenizerConfig::TorchScript(script) => {
            contents.insert(CODEBOOK, read_module(config, &script.encoder)?);
            contents.insert(DECODER, read_module(config, &script.decoder)?);
        }
        ImageTokenizerConfig::Patches(_) | ImageTokenizerConfig::Given(_) => {}
    }
    if let Some(files) = &config.fit.perceptual {
        for (name, path) in PERCEPTUAL.into_iter().zip([&files.features, &files.linear]) {
            contents.insert(name, read_weights(config, path)?);
        }
    }
    if let Some(file) = &config.tokenize.text.file {
        contents.insert(TOKENIZER, read(config, file)?);
    }
    Ok(contents)
}

/// Adds the file's path to `error` if the error concerns the file's content; returns other errors as they are.
pub(super) fn named(config: &Config, path: &Path, error: PipelineError) -> PipelineError {
    let path = config.resolve(path);
    match error {
        PipelineError::Model(error) if error.is_of_the_file() => PipelineError::Unusable { path, source: error.into() },
        PipelineError::Stage(error @ StageError::TextTokenizer { .. }) => PipelineError::Unusable { path, source: error.into() },
        error => error,
    }
}

/// Lists the first names in a folder, as the end of a sentence.
fn held(folder: &Path) -> String {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    match names.len() {
        0 => " without files".to_owned(),
        count if count > LISTED => format!(" with {} and {} more", names[..LISTED].join(", "), count - LISTED),
        _ => format!(" with {}", names.join(", ")),
    }
}
