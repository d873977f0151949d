//! Overlays: versions with the windows of an earlier version, some of them with holes.

use cm3flow_schemas::version::VersionManifest;
use cm3flow_schemas::window::WindowRecord;
use cm3flow_schemas::{Digest, layout};

use super::totals::Totals;
use super::{Catalog, shard_table};
use crate::error::Result;
use crate::store::{record_bytes, table};

impl Catalog {
    /// Publishes `windows`, changed copies of the windows of `base`, as the next version, with the blocked ids of the table `blocklist`.
    ///
    /// # Errors
    /// [`crate::PipelineError::Ledger`] if the counts do not add up, [`crate::PipelineError::Overtaken`] if that version already exists,
    /// or those of the store.
    pub async fn publish_overlay(
        &self,
        base: &VersionManifest,
        blocklist: Option<Digest>,
        windows: Vec<WindowRecord>,
    ) -> Result<VersionManifest> {
        let version = base.version + 1;
        for record in &windows {
            self.commit_window(version, record).await?;
        }
        let Totals { samples, documents, statistics, licenses } = Totals::of(&windows, version)?;
        let shard_table = table::write(&shard_table(&windows)?, "the shard table")?;
        let digest = Digest::of(&shard_table);
        self.store.create_content(&layout::table(self.dataset(), digest), shard_table).await?;
        let manifest = VersionManifest {
            version,
            base: Some(base.version),
            windows: windows.iter().map(|window| Digest::of(&record_bytes(window))).collect(),
            shard_table: digest,
            blocklist,
            samples,
            documents,
            statistics,
            licenses,
            ..base.clone()
        };
        self.put_version(manifest).await
    }
}
