//! Published versions: manifest, window records and blocked ids, read together.

use cm3flow_schemas::version::VersionManifest;
use cm3flow_schemas::window::{SourceUnit, WindowRecord};

use super::blocklist::Blocklist;
use super::{Catalog, VersionRef};
use crate::error::Result;

/// A published version with its records.
#[derive(Debug, Clone)]
pub struct Published {
    /// The manifest.
    pub manifest: VersionManifest,
    /// Window records, in order.
    pub windows: Vec<WindowRecord>,
    /// Ids that were withdrawn up to this version.
    pub blocklist: Blocklist,
}

impl Published {
    /// Reads the version that `version` names, or the latest one.
    ///
    /// # Errors
    /// [`crate::PipelineError::NoVersion`], [`crate::PipelineError::NothingPublished`], [`crate::PipelineError::Damaged`], or those of the
    /// store.
    pub async fn open(catalog: &Catalog, version: Option<&VersionRef>) -> Result<Self> {
        Self::of_manifest(catalog, catalog.version_or_latest(version).await?).await
    }

    /// Reads the latest version, if there is one.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn latest(catalog: &Catalog) -> Result<Option<Self>> {
        match catalog.latest_version().await? {
            Some(manifest) => Self::of_manifest(catalog, manifest).await.map(Some),
            None => Ok(None),
        }
    }

    async fn of_manifest(catalog: &Catalog, manifest: VersionManifest) -> Result<Self> {
        let windows = catalog.windows_of(&manifest).await?;
        let blocklist = Blocklist::read(catalog.store(), &manifest.dataset, manifest.blocklist).await?;
        Ok(Self { manifest, windows, blocklist })
    }

    /// Returns the units that the version was made of, in order.
    pub fn units(&self) -> impl Iterator<Item = &SourceUnit> {
        self.windows.iter().flat_map(|window| &window.units)
    }
}
