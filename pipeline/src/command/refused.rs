//! `refused list`, `refused replay`.

use clap::{Args, Subcommand};
use serde_json::json;

use super::log::LogFormat;
use super::{ConfigArgs, Done, output, run};
use crate::artefact;
use crate::catalog::refused::{RefusedFilter, RefusedSample};
use crate::catalog::{Catalog, VersionRef, refused};
use crate::error::{PipelineError, Result};
use crate::events::progress::Progress;
use crate::plan::{Plan, ReplayFilter};
use crate::run::RunOptions;
use crate::source::scan::scan_sources;

#[derive(Debug, Subcommand)]
pub(super) enum RefusedCommand {
    /// Lists the refused samples of a version with their reasons
    List(ListArgs),
    /// Tries refused samples once more, beside what is new, and publishes the next version
    Replay(ReplayArgs),
}

/// Which refused samples are meant.
#[derive(Debug, Args)]
struct FilterArgs {
    /// Only those refused for this reason: ingest.missing_image, or missing_image
    #[arg(long, value_name = "REASON")]
    reason: Option<String>,
    /// Only those that this stage refused, such as ingest
    #[arg(long, value_name = "STAGE")]
    stage: Option<String>,
    /// Only those of this source
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Only those of this window, from 1
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    window: Option<u32>,
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Version by number or tag; the latest by default
    version: Option<VersionRef>,
    #[command(flatten)]
    filter: FilterArgs,
    /// Lists at most so many
    #[arg(long, value_name = "SAMPLES")]
    limit: Option<usize>,
    /// Lists those of a run that was stopped before it published, as far as it came
    #[arg(long, conflicts_with = "version")]
    unpublished: bool,
    /// Prints one JSON object a line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct ReplayArgs {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    filter: FilterArgs,
    /// Only those of this version, by number or tag, instead of all that the latest one holds
    #[arg(long, value_name = "VERSION")]
    version: Option<VersionRef>,
    #[command(flatten)]
    work: run::WorkArgs,
}

impl FilterArgs {
    fn filter(&self) -> RefusedFilter {
        let Self { reason, stage, source, window } = self;
        RefusedFilter { reason: reason.clone(), stage: stage.clone(), source: source.clone(), window: window.map(|window| window - 1) }
    }
}

pub(super) async fn refused(command: RefusedCommand, log: LogFormat, progress: &Progress) -> Result<Done> {
    match command {
        RefusedCommand::List(args) => list(&args).await.map(|()| Done::All),
        RefusedCommand::Replay(args) => replay(args, log, progress).await,
    }
}

async fn list(args: &ListArgs) -> Result<()> {
    for sample in listed(args).await? {
        if args.json {
            output::print(&json!(sample).to_string());
        } else {
            let RefusedSample { sample_id, source, key, stage, reason, detail, read_again_in, .. } = sample;
            let again = read_again_in.map(|window| format!("  (read again in window {})", window + 1)).unwrap_or_default();
            output::print(&output::one_line(&format!("{sample_id}  {source}  {key}  {stage}.{reason}  {detail}{again}")));
        }
    }
    Ok(())
}

async fn listed(args: &ListArgs) -> Result<Vec<RefusedSample>> {
    let (config, store) = args.config.open_existing()?;
    let (filter, limit) = (args.filter.filter(), args.limit.unwrap_or(usize::MAX));
    let catalog = Catalog::new(store.clone(), &config.dataset.name);
    if !args.unpublished {
        let manifest = catalog.version_or_latest(args.version.as_ref()).await?;
        return refused::matching(&store, &catalog.windows_of(&manifest).await?, &filter, limit).await;
    }
    let unfitted = || PipelineError::Mismatch { problem: "nothing is fitted yet, so no run has prepared anything".into() };
    let artefacts = artefact::pinned(&config, &store).await?.ok_or_else(unfitted)?;
    let plan = Plan::make(&config, &artefacts, &catalog, &scan_sources(&config, &store, None).await?).await?;
    plan.refused_before(&store, &filter, limit).await
}

async fn replay(args: ReplayArgs, log: LogFormat, progress: &Progress) -> Result<Done> {
    let opened = args.config.open_existing()?;
    let replay = ReplayFilter { filter: args.filter.filter(), version: args.version };
    let options = RunOptions { replay: Some(replay), ..RunOptions::default() };
    run::execute(opened, (args.work, args.config.worker_command(log)?), options, progress).await
}
