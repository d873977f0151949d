//! Withdrawn samples: units still store them, but they no longer belong to the version, so nothing of them is shown.

use cm3flow_schemas::document::Neighbour;
use cm3flow_schemas::{ImageId, SampleId};

use super::Inspector;
use crate::catalog::blocklist::Blocklist;
use crate::error::{PipelineError, Result};

/// Checks whether a document is made of a sample that `blocked` holds, or retrieved one.
pub(crate) fn is_document_withdrawn(blocked: &Blocklist, sample: SampleId, retrieved: &[Neighbour]) -> bool {
    blocked.samples.contains(&sample) || retrieved.iter().any(|neighbour| blocked.samples.contains(&neighbour.sample_id))
}

impl Inspector {
    /// Returns the version that withdrew a sample; `None` if this version holds it. `image` may be unknown, as for refused samples.
    pub(super) async fn withdrawn_in(&self, sample: SampleId, image: Option<ImageId>) -> Result<Option<u32>> {
        let blocks = |blocked: &Blocklist| blocked.samples.contains(&sample) || image.is_some_and(|image| blocked.images.contains(&image));
        if !blocks(&self.blocked) {
            return Ok(None);
        }
        // Blocked ids stay blocked: the first version in a row that blocks the sample has withdrawn it.
        let catalog = self.job.catalog();
        let mut since = self.manifest.version;
        while since > 1 {
            let before = match catalog.version(since - 1).await {
                Ok(manifest) => Blocklist::read(&self.job.store, &manifest.dataset, manifest.blocklist).await?,
                // Old versions are removed first, so no earlier one is left.
                Err(PipelineError::NoVersion { .. }) => break,
                Err(error) => return Err(error),
            };
            if !blocks(&before) {
                break;
            }
            since -= 1;
        }
        Ok(Some(since))
    }
}
