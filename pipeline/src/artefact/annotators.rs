//! Annotators among the artefacts: loaded from the modules that the configuration names, never fitted.

use std::collections::BTreeMap;

use cm3flow_model::annotate::TorchScriptAnnotator;
use cm3flow_schemas::Digest;
use cm3flow_schemas::traits::ImageAnnotator;
use cm3flow_schemas::unit::NumericsClass;
use cm3flow_schemas::version::VersionManifest;
use cm3flow_stages::StageError;
use cm3flow_stages::annotate::{self, Annotator};
use cm3flow_stages::owner::Owner;

use super::Artefacts;
use super::files::read_module;
use crate::config::Config;
use crate::error::{PipelineError, Result};

/// Prefix of annotators' names in a manifest; the role follows.
const PREFIX: &str = "annotator.";

/// Loads the annotators of `config`, each on a thread of its own, by ascending role.
///
/// # Errors
/// [`PipelineError::File`]; [`PipelineError::Unusable`] or [`PipelineError::Model`] if a file is no module.
pub(super) fn load(config: &Config) -> Result<Vec<Annotator>> {
    let side_px = config.tokenize.image.preparation().side_px;
    let one = |(role, annotator): (&String, &crate::config::RoleConfig)| {
        let module = read_module(config, &annotator.module)?;
        let name = format!("{role} ({})", annotator.module.display());
        let settings = annotator.annotator(role, side_px);
        let annotator = TorchScriptAnnotator::try_new(name, &settings, &module, annotator.batch_size, config.runtime.device)?;
        let spec = annotator.spec().clone();
        let owner = Owner::spawn("image annotator", Box::new(annotator) as Box<dyn ImageAnnotator>)?;
        Ok(Annotator { role: role.clone(), owner, spec })
    };
    config.annotate.0.iter().map(one).collect()
}

/// Gives a black picture to each annotator of `artefacts`. A module that makes no pictures thus stops a run before any unit is
/// tried and quarantined.
///
/// # Errors
/// [`PipelineError::Stage`] with the annotator's error.
pub(crate) async fn try_out(artefacts: &Artefacts) -> Result<()> {
    for Annotator { owner, spec, .. } in &artefacts.annotators {
        let black = vec![0; spec.bytes_per_image()];
        let tried = owner.call(move |annotator| annotator.annotate(&black).map(drop)).await?;
        tried.map_err(|source| StageError::Model { stage: annotate::NAME, component: "image annotator", source })?;
    }
    Ok(())
}

/// Returns the digests of `annotators`, by the names that manifests list them under.
pub(super) fn digests(annotators: &[Annotator]) -> BTreeMap<String, Digest> {
    annotators.iter().map(|annotator| (format!("{PREFIX}{}", annotator.role), annotator.spec.digest)).collect()
}

/// Checks whether a manifest lists an annotator under `name`.
pub(super) fn is_name(name: &str) -> bool {
    name.starts_with(PREFIX)
}

/// Returns the numerics class of units that `tokenizer`'s class and `annotators` make. All compute on one device with as many
/// threads; an annotator's batch size and type are in the digest of its settings and module.
pub(super) fn numerics_with(tokenizer: &NumericsClass, annotators: &[Annotator]) -> NumericsClass {
    match annotators.first().map(|annotator| &annotator.spec.numerics) {
        Some(annotator) if tokenizer.libtorch == "none" => {
            NumericsClass { dtype: tokenizer.dtype.clone(), batch_size: tokenizer.batch_size, ..annotator.clone() }
        }
        _ => tokenizer.clone(),
    }
}

/// Checks that `annotators` are those that made the version of `manifest`.
///
/// # Errors
/// [`PipelineError::Mismatch`].
pub(super) fn check_of_version(annotators: &[Annotator], manifest: &VersionManifest) -> Result<()> {
    let (ours, version) = (digests(annotators), manifest.version);
    let theirs = manifest.artefacts.iter().filter(|(name, _)| is_name(name));
    for (name, digest) in theirs {
        let role = &name[PREFIX.len()..];
        match ours.get(name) {
            Some(ours) if ours == digest => {}
            Some(_) => {
                return Err(PipelineError::Mismatch {
                    problem: format!("version {version} was made with another module or settings of annotate.{role}"),
                });
            }
            None => {
                let problem = format!("version {version} was made with an annotator for {role}; name its module under annotate.{role}");
                return Err(PipelineError::Mismatch { problem });
            }
        }
    }
    Ok(())
}
