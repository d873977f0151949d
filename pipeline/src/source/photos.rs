//! The pictures of the sources, fitted: where `prepare` begins, and what fitting and the report look at once more.

use arrow::array::RecordBatch;
use cm3flow_stages::ChannelLimits;
use cm3flow_stages::derive::Derive;
use cm3flow_stages::filter::Filter;
use cm3flow_stages::ingest::PlannedUnit;
use cm3flow_stages::stage::{Chain, Head, Meters};

use super::scan::ingest_of;
use crate::config::Config;
use crate::error::Result;

/// From the source to fitted pixels. Pictures are decoded within the budget of `limits`.
pub(crate) fn derived(config: &Config, source: PlannedUnit, limits: &ChannelLimits) -> Result<Chain> {
    let rows = config.row_settings(&source.unit.source);
    let derive = Derive::new(config.derive.clone(), config.tokenize.image.preparation(), config.dataset.seed);
    let derive = derive.with_orientation(rows.orientation).with_budget(limits.budget.clone());
    Ok(Chain::new(Head::Source(Box::new(ingest_of(config, source)?))).map(Filter::new(config.filter.clone())).map(derive))
}

/// Samples of a unit with fitted pixels, for what looks at photos once more: fitting and the report.
pub(crate) async fn derived_batches(config: &Config, unit: &PlannedUnit) -> Result<Vec<RecordBatch>> {
    let mut batches = Vec::new();
    let collect = |batch| {
        batches.push(batch);
        Ok(())
    };
    let limits = config.runtime.channel_limits();
    derived(config, unit.clone(), &limits)?.run(&limits, &Meters::default(), collect).await?;
    Ok(batches)
}
