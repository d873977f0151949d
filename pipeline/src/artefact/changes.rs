//! Codes that another batch size or precision would change: counted once for each tokenizer, numerics class and set of first photos.
//! The counts lie in the store under the tokenizer's digest, and in every manifest.

use std::collections::BTreeMap;
use std::sync::Arc;

use cm3flow_model::vq::Precision;
use cm3flow_schemas::canonical::digest_of;
use cm3flow_schemas::traits::ImageTokenizerSpec;
use cm3flow_schemas::version::CodeChange;
use cm3flow_schemas::{Digest, layout};
use cm3flow_stages::StageError;
use cm3flow_stages::ingest::PlannedUnit;

use super::samples::{Samples, Wanted};
use super::{Contents, image_tokenizer};
use crate::config::{Config, ImageTokenizerConfig, Job};
use crate::error::{PipelineError, Result};

/// Photos that changes are measured on.
const PHOTOS: u64 = 4;

/// Returns changed codes by the name of the changed setting, as [`cm3flow_schemas::version::VersionManifest::code_changes`] holds
/// them. Measures on the first train photos of `units` unless the store holds the counts.
///
/// # Errors
/// Those of the store, a stage or a model.
pub(super) async fn of(
    job: &Job,
    contents: Contents,
    spec: &ImageTokenizerSpec,
    units: &[PlannedUnit],
) -> Result<BTreeMap<String, CodeChange>> {
    let Job { config, store, .. } = job;
    let alternatives = alternatives(config);
    if alternatives.is_empty() {
        return Ok(BTreeMap::new());
    }
    let pixels = Samples::collect(job, units, Wanted { train: PHOTOS, held_out: 0 }).await?.pixels;
    if pixels.is_empty() {
        return Ok(BTreeMap::new());
    }
    // The photos are part of the name: the manifest must not depend on earlier runs over other photos in this store.
    let key = digest_of("code changes", &(&spec.numerics, Digest::of(&pixels)));
    let path = format!("{}/code-changes-{}.json", layout::artefact(spec.digest), key.short());
    if let Some(known) = store.record(&path, "list of changed codes").await? {
        return Ok(known);
    }
    let config = Arc::clone(config);
    let measuring = move || measure(&config, &contents, alternatives, &pixels);
    let changes = tokio::task::spawn_blocking(measuring).await.map_err(|_| PipelineError::Lost { what: "comparing codes" })??;
    store.create_record(&path, &changes).await?;
    // If another run was first, its counts stand.
    Ok(store.record(&path, "list of changed codes").await?.unwrap_or(changes))
}

/// Returns settings that should hardly change codes, by name: one image at a time, half the batch, the other precision.
fn alternatives(config: &Config) -> Vec<(String, ImageTokenizerConfig)> {
    let image = &config.tokenize.image;
    let (batch_size, precision) = match image {
        ImageTokenizerConfig::Vq(vq) => (vq.batch_size, Some(vq.precision)),
        ImageTokenizerConfig::TorchScript(script) => (script.batch_size, None),
        ImageTokenizerConfig::Patches(_) | ImageTokenizerConfig::Given(_) => return Vec::new(),
    };
    let mut sizes = vec![1, batch_size / 2];
    sizes.retain(|size| (1..batch_size).contains(size));
    sizes.dedup();
    let mut alternatives = Vec::new();
    for size in sizes {
        let mut image = image.clone();
        match &mut image {
            ImageTokenizerConfig::Vq(vq) => vq.batch_size = size,
            ImageTokenizerConfig::TorchScript(script) => script.batch_size = size,
            ImageTokenizerConfig::Patches(_) | ImageTokenizerConfig::Given(_) => {}
        }
        alternatives.push((format!("batch_size={size}"), image));
    }
    if let (Some(precision), ImageTokenizerConfig::Vq(vq)) = (precision, image) {
        let (name, other) = match precision {
            Precision::Float32 => ("bfloat16", Precision::Bfloat16),
            Precision::Bfloat16 => ("float32", Precision::Float32),
        };
        let other = crate::config::VqTokenizerConfig { precision: other, ..vq.clone() };
        alternatives.push((format!("precision={name}"), ImageTokenizerConfig::Vq(other)));
    }
    alternatives
}

fn measure(
    config: &Config,
    contents: &Contents,
    alternatives: Vec<(String, ImageTokenizerConfig)>,
    pixels: &[u8],
) -> Result<BTreeMap<String, CodeChange>> {
    let codes_of = |config: &Config| -> Result<Vec<u32>> {
        let encoded = image_tokenizer(config, contents)?.encode(pixels);
        Ok(encoded.map_err(|source| StageError::Model { stage: "fit", component: "image tokenizer", source })?)
    };
    let codes = codes_of(config)?;
    let mut other = config.clone();
    let mut changes = BTreeMap::new();
    for (name, image) in alternatives {
        other.tokenize.image = image;
        let changed = codes_of(&other)?.iter().zip(&codes).filter(|(now, before)| now != before).count();
        changes.insert(name, CodeChange { codes: codes.len() as u64, changed: changed as u64 });
    }
    Ok(changes)
}
