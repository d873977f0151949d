//! The pictures of the sources, fitted: where `prepare` begins, and what fitting and the report look at once more.

use arrow::array::RecordBatch;
use cm3flow_schemas::sample::Orientation;
use cm3flow_stages::derive::Derive;
use cm3flow_stages::filter::Filter;
use cm3flow_stages::ingest::{Ingest, PlannedUnit};
use cm3flow_stages::stage::{Chain, Head, Meters};
use cm3flow_stages::{ByteBudget, ChannelLimits, Revised, Steps};

use super::scan::ingest_of;
use crate::config::Config;
use crate::error::Result;

/// The stages between a source and fitted pixels are made of these.
struct Context<'a> {
    config: &'a Config,
    orientation: Orientation,
    budget: ByteBudget,
}

impl Context<'_> {
    fn filter(&self) -> Filter {
        Filter::new(self.config.filter.clone())
    }

    fn derive(&self) -> Derive {
        let derive = Derive::new(self.config.derive.clone(), self.config.tokenize.image.preparation(), self.config.dataset.seed);
        derive.with_orientation(self.orientation).with_budget(self.budget.clone())
    }
}

/// The stages behind `ingest`.
fn steps<'a>() -> Steps<'a, Context<'a>> {
    Steps::default().map(Context::filter).map(Context::derive)
}

/// Names and revisions of the stages of [`derived`], in order.
pub(crate) fn codes() -> Vec<(&'static str, u32)> {
    std::iter::once((Ingest::NAME, Ingest::REVISION)).chain(steps().codes()).collect()
}

/// From the source to fitted pixels. Pictures are decoded within the budget of `limits`.
pub(crate) fn derived(config: &Config, source: PlannedUnit, limits: &ChannelLimits) -> Result<Chain> {
    let orientation = config.row_settings(&source.unit.source).orientation;
    let context = Context { config, orientation, budget: limits.budget.clone() };
    Ok(steps().append_to(Chain::new(Head::Source(Box::new(ingest_of(config, source)?))), &context))
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
