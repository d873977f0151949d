//! Fitted pictures of the sources: `prepare` begins with them, and fits and the report read them again.

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

/// Inputs of the stages between a source and fitted pixels.
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

/// Returns the stages after `ingest`.
fn steps<'a>() -> Steps<'a, Context<'a>> {
    Steps::default().map(Context::filter).map(Context::derive)
}

/// Returns the names and revisions of the stages of [`derived`], in order.
pub(crate) fn codes() -> Vec<(&'static str, u32)> {
    std::iter::once((Ingest::NAME, Ingest::REVISION)).chain(steps().codes()).collect()
}

/// Makes the chain from the source to fitted pixels. Decodes pictures within the budget of `limits`.
pub(crate) fn derived(config: &Config, source: PlannedUnit, limits: &ChannelLimits) -> Result<Chain> {
    let orientation = config.row_settings(&source.unit.source).orientation;
    let context = Context { config, orientation, budget: limits.budget.clone() };
    Ok(steps().append_to(Chain::new(Head::Source(Box::new(ingest_of(config, source)?))), &context))
}

/// Reads the samples of a unit with fitted pixels, for fits and the report.
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
