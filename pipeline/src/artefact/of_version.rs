//! The artefacts of a published version.

use cm3flow_schemas::version::VersionManifest;

use super::files::given;
use super::{Artefacts, annotators, load, path, pinned, settings};
use crate::config::Job;
use crate::error::{PipelineError, Result};

/// Loads the artefacts that made the version of `manifest`, regardless of the current pins.
///
/// # Errors
/// [`PipelineError::Mismatch`] if the configuration asks for others; [`PipelineError::Damaged`]; those of a file or the store.
pub(crate) async fn of_version(job: &Job, manifest: &VersionManifest) -> Result<Artefacts> {
    let Job { config, store, .. } = job;
    let mut contents = given(config)?;
    for (name, _) in settings(config, &contents) {
        let missing = || PipelineError::Mismatch {
            problem: format!("the configuration fits the {name}, version {} was made with a given one", manifest.version),
        };
        let digest = *manifest.fitted.get(name).ok_or_else(missing)?;
        contents.insert(name, store.get_checked(&path(name, digest), digest).await?);
    }
    let mut artefacts = load(config, &contents)?;
    check_of_version(&artefacts, manifest)?;
    annotators::check_of_version(&artefacts.annotators, manifest)?;
    artefacts.code_changes.clone_from(&manifest.code_changes);
    Ok(artefacts)
}

/// Checks that `artefacts` are those that made the version of `manifest`. Skips annotators: only making units needs them.
///
/// # Errors
/// [`PipelineError::Mismatch`].
fn check_of_version(artefacts: &Artefacts, manifest: &VersionManifest) -> Result<()> {
    let mismatch = |problem: String| PipelineError::Mismatch { problem };
    let version = manifest.version;
    let mut digests = artefacts.digests.iter().filter(|(name, _)| !annotators::is_name(name));
    if let Some((name, _)) = digests.find(|(name, digest)| manifest.artefacts.get(*name) != Some(digest)) {
        return Err(mismatch(format!("version {version} was made with another {name} than the configuration and its pins have now")));
    }
    let differs = |difference| {
        mismatch(format!("version {version} has another vocabulary than the configuration asks for; with that as here: {difference}"))
    };
    artefacts.vocabulary.check_same(&manifest.vocabulary).map_err(differs)
}

/// Loads the current pins' artefacts and checks that they are those that made the version of `manifest`.
///
/// # Errors
/// [`PipelineError::Mismatch`] if the configuration and its pins have others; those of the store.
pub(crate) async fn pinned_of(job: &Job, manifest: &VersionManifest) -> Result<Artefacts> {
    let unfitted = || PipelineError::Mismatch {
        problem: "the tokenizers of this configuration are neither given nor fitted; `cm3flow fit` fits them".into(),
    };
    let artefacts = pinned(job).await?.ok_or_else(unfitted)?;
    check_of_version(&artefacts, manifest)?;
    Ok(artefacts)
}
