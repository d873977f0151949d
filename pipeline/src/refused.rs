//! Samples that were refused: nothing that a source holds is lost in silence.

use cm3flow_schemas::SampleId;
use cm3flow_schemas::unit::SegmentName;
use cm3flow_schemas::window::WindowRecord;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::execute::{Table, WindowTables};
use crate::store::Store;

/// A refused sample: where it is, and why it is not wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedSample {
    /// Its id.
    pub sample_id: SampleId,
    /// Source by its name in the configuration.
    pub source: String,
    /// Key in the source.
    pub key: String,
    /// Row in its unit.
    pub row: u64,
    /// Stage that refused it.
    pub stage: String,
    /// Reason, what is counted.
    pub reason: String,
    /// What exactly.
    pub detail: String,
}

/// Refused samples of `windows`, in their order, at most `limit`.
///
/// # Errors
/// What the store says.
pub async fn list(store: &Store, windows: &[WindowRecord], limit: usize) -> Result<Vec<RefusedSample>> {
    let names = ["sample_id", "source", "key", "row", "stage", "reason", "detail"];
    WindowTables::new(store, windows).rows(SegmentName::Prepare, Table::Refused, &names, limit).await
}
