//! Estimates for `cm3flow plan`: the part of each segment that exists, and the likely size of the rest.

use cm3flow_schemas::unit::{SegmentName, UnitRecord};
use serde::Serialize;

use crate::catalog::units::UnitStore;
use crate::config::{Config, Job};
use crate::error::Result;
use crate::plan::Plan;

/// Numbers and sizes of a segment's units.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct SegmentEstimate {
    /// The segment.
    pub segment: SegmentName,
    /// Number of units that exist.
    pub there: u64,
    /// Number of units to be made.
    pub missing: u64,
    /// Bytes of existing units.
    pub bytes_there: u64,
    /// Estimated bytes of units to be made.
    pub bytes_missing: u64,
}

/// Looks up every unit of `plan`. Estimates sizes of missing units from existing ones, or from a rule of thumb over the
/// configuration if none exist.
///
/// # Errors
/// Those of the store.
pub(crate) async fn estimate(job: &Job, plan: &Plan) -> Result<Vec<SegmentEstimate>> {
    let units = UnitStore::new(job.store.clone());
    let mut estimates = Vec::new();
    for segment in SegmentName::ALL {
        let mut found = SegmentEstimate { segment, there: 0, missing: 0, bytes_there: 0, bytes_missing: 0 };
        let (mut samples_there, mut samples_missing) = (0, 0);
        for window in &plan.windows {
            let keys = window.keys.of(segment);
            let samples: u64 = window.units.iter().map(|unit| unit.rows).sum::<u64>() / keys.len().max(1) as u64;
            for key in keys {
                match units.find(segment, *key).await? {
                    Some(record) => {
                        found.there += 1;
                        found.bytes_there += bytes_of(&record);
                        samples_there += samples;
                    }
                    None => {
                        found.missing += 1;
                        samples_missing += samples;
                    }
                }
            }
        }
        let bytes_per_sample = found.bytes_there.checked_div(samples_there).unwrap_or_else(|| rule_of_thumb(&job.config, segment));
        found.bytes_missing = samples_missing * bytes_per_sample;
        estimates.push(found);
    }
    Ok(estimates)
}

fn bytes_of(record: &UnitRecord) -> u64 {
    record.files.values().map(|file| file.bytes).sum::<u64>() + record.shards.iter().map(|shard| shard.bytes).sum::<u64>()
}

/// Estimates the bytes of one sample. A code takes about 2 bytes when compressed, a pair's embeddings 4 KiB, a document its codes and
/// a hundred tokens of text.
fn rule_of_thumb(config: &Config, segment: SegmentName) -> u64 {
    let codes = 2 * config.tokenize.image.codes_per_image() as u64;
    let images = 1 + u64::from(config.derive.edges) + config.annotate.0.len() as u64;
    // Few of the default tasks fit a sample: the sample corpus gives 432 documents of 75 photos.
    let weights = config.instruct.tasks.values().map(|task| task.weight).sum::<f64>();
    let documents = if config.instruct.tasks.is_empty() { 6 } else { weights.ceil() as u64 };
    let retrieved = u64::from(config.retrieve.documents);
    match segment {
        SegmentName::Prepare => images * codes + 4096,
        SegmentName::Settle => codes + 4096,
        SegmentName::Compose | SegmentName::Pack => u64::from(config.mask.variants) * (documents + retrieved) * (codes + 200),
    }
}
