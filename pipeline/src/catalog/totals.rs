//! Totals: counts over a whole version.

use std::collections::BTreeMap;

use cm3flow_schemas::ledger::{DocumentLedger, SampleLedger};
use cm3flow_schemas::pack::PackStatistics;
use cm3flow_schemas::window::WindowRecord;

use crate::error::Result;

/// Counts over all windows of a version.
pub(crate) struct Totals {
    pub(crate) samples: SampleLedger,
    pub(crate) documents: DocumentLedger,
    pub(crate) statistics: BTreeMap<String, PackStatistics>,
    pub(crate) licenses: BTreeMap<String, u64>,
}

impl Totals {
    /// Adds up the counts of `windows` and checks them.
    ///
    /// # Errors
    /// [`crate::PipelineError::Ledger`].
    pub(crate) fn of(windows: &[WindowRecord], version: u32) -> Result<Self> {
        let mut samples = SampleLedger::default();
        let mut documents = DocumentLedger::default();
        let mut statistics: BTreeMap<String, PackStatistics> = BTreeMap::new();
        let mut licenses: BTreeMap<String, u64> = BTreeMap::new();
        for window in windows {
            samples.add(&window.samples);
            documents.add(&window.documents);
            window.statistics.iter().for_each(|(split, counts)| statistics.entry(split.clone()).or_default().add(counts));
            window.licenses.iter().for_each(|(license, count)| *licenses.entry(license.clone()).or_default() += count);
        }
        let scope = format!("version {version}");
        samples.check(&scope)?;
        documents.check(&scope)?;
        Ok(Self { samples, documents, statistics, licenses })
    }
}
