//! Checks of the manifest, its recorded digest, and its tables.

use arrow::array::RecordBatch;
use cm3flow_schemas::version::VersionManifest;
use cm3flow_schemas::window::WindowRecord;
use cm3flow_schemas::{Digest, layout};

use super::object::Expected;
use super::{Place, Verification, Verifier, object};
use crate::catalog::{Totals, digest_of_windows, lineage, shard_table};
use crate::error::Result;
use crate::store::table;

impl Verifier {
    /// Reads and checks the manifest; `None` if it is damaged.
    pub(super) async fn manifest(&self, version: u32, found: &mut Verification) -> Result<Option<VersionManifest>> {
        let path = layout::manifest(self.catalog.dataset(), version);
        found.objects += 2;
        let recorded = match self.catalog.recorded_digest(version).await {
            Ok(recorded) => recorded,
            Err(error) => {
                found.damage(layout::manifest_digest(self.catalog.dataset(), version), Place::Digest, object::damage_of(error)?);
                None
            }
        };
        let bytes = self.store.get(&path).await?;
        found.bytes += bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
        let manifest = object::record::<VersionManifest>(bytes.as_ref(), "version manifest").and_then(|manifest| {
            let digest = bytes.as_ref().map(|bytes| Digest::of(bytes));
            let place = (manifest.version, &manifest.dataset);
            if recorded.is_some_and(|recorded| digest != Some(recorded)) {
                Err("its bytes do not have the digest that was recorded when it was published".to_owned())
            } else if place != (version, &self.dataset) {
                Err(format!("it is the manifest of version {} of {}", place.0, place.1))
            } else {
                Ok(manifest)
            }
        });
        match manifest {
            Ok(manifest) => {
                if recorded.is_none() {
                    found.damage(layout::manifest_digest(self.catalog.dataset(), version), Place::Digest, "it is missing");
                }
                Ok(Some(manifest))
            }
            Err(problem) => {
                found.damage(path, Place::Manifest, problem);
                Ok(None)
            }
        }
    }

    /// Checks the manifest's tables. Compares them and the manifest's sums with those that the windows give.
    pub(super) async fn tables(
        &mut self,
        manifest: &VersionManifest,
        windows: &[Option<WindowRecord>],
        found: &mut Verification,
    ) -> Result<()> {
        let digests = [Some(manifest.shard_table), Some(manifest.lineage), manifest.blocklist].into_iter().flatten();
        let table = |digest| Expected::new(layout::table(self.catalog.dataset(), digest), digest, Place::Table);
        self.files(digests.map(table).collect(), found).await?;
        let Some(windows) = windows.iter().cloned().collect::<Option<Vec<WindowRecord>>>() else { return Ok(()) };
        if let Some(problem) = sums(manifest, &windows) {
            found.damage(layout::manifest(self.catalog.dataset(), manifest.version), Place::Manifest, problem);
        }
        for (digest, expected) in [(manifest.shard_table, shard_table(&windows)?), (manifest.lineage, lineage(&windows)?)] {
            let path = layout::table(self.catalog.dataset(), digest);
            if !found.damaged.iter().any(|damage| damage.path == path)
                && let Some(problem) = self.table_problem(&path, digest, &expected).await?
            {
                found.damage(path, Place::Table, problem);
            }
        }
        Ok(())
    }

    async fn table_problem(&self, path: &str, digest: Digest, expected: &RecordBatch) -> Result<Option<String>> {
        let read = table::read(self.store.get_checked(path, digest).await?, path);
        match read.and_then(|batches| table::concatenated(&expected.schema(), &batches)) {
            Ok(rows) => Ok((rows != *expected).then(|| "its rows are not those of the windows".to_owned())),
            Err(error) => object::damage_of(error).map(Some),
        }
    }
}

/// Names a sum in the manifest that differs from the windows', if any.
fn sums(manifest: &VersionManifest, windows: &[WindowRecord]) -> Option<String> {
    let Totals { samples, documents, statistics, licenses } = match Totals::of(windows, manifest.version) {
        Ok(totals) => totals,
        Err(error) => return Some(error.to_string()),
    };
    let wrong = [
        ("samples", samples != manifest.samples),
        ("documents", documents != manifest.documents),
        ("statistics", statistics != manifest.statistics),
        ("licences", licenses != manifest.licenses),
        ("plan", digest_of_windows(windows) != manifest.plan),
    ];
    wrong.into_iter().find(|(_, is_wrong)| *is_wrong).map(|(field, _)| format!("its {field} are not what its windows make"))
}
