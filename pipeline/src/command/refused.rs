//! `refused list`, `refused replay`.

use clap::{Args, Subcommand};
use serde_json::json;

use super::{ConfigArgs, Done, Session, output, run};
use crate::artefact;
use crate::catalog::refused::{RefusedFilter, RefusedSample};
use crate::catalog::{Published, VersionRef, refused};
use crate::error::{Mismatch, Result};
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

impl RefusedCommand {
    /// Returns `true` if the command makes a version.
    pub(super) fn replays(&self) -> bool {
        matches!(self, Self::Replay(_))
    }
}

/// Filter options for refused samples.
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
    work: run::ExecutionArgs,
}

impl FilterArgs {
    fn filter(&self) -> RefusedFilter {
        let Self { reason, stage, source, window } = self;
        RefusedFilter { reason: reason.clone(), stage: stage.clone(), source: source.clone(), window: window.map(|window| window - 1) }
    }
}

pub(super) async fn refused(command: RefusedCommand, session: &Session) -> Result<Done> {
    match command {
        RefusedCommand::List(args) => list(&args, session).await.map(|()| Done::All),
        RefusedCommand::Replay(args) => replay(args, session).await,
    }
}

async fn list(args: &ListArgs, session: &Session) -> Result<()> {
    for sample in listed(args, session).await? {
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

async fn listed(args: &ListArgs, session: &Session) -> Result<Vec<RefusedSample>> {
    let job = args.config.open_existing(session)?;
    let (filter, limit) = (args.filter.filter(), args.limit.unwrap_or(usize::MAX));
    let catalog = job.catalog();
    if !args.unpublished {
        let published = Published::open(&catalog, args.version.as_ref()).await?;
        return refused::matching(&job.store, &published.windows, &filter, limit).await;
    }
    let artefacts = artefact::pinned(&job).await?.ok_or(Mismatch::NotFitted)?;
    let latest = Published::latest(&catalog).await?;
    let scan = scan_sources(&job, latest.as_ref(), None).await?;
    let plan = Plan::make(&job, &artefacts, latest.as_ref(), &scan).await?;
    plan.refused_before(&job.store, &filter, limit).await
}

async fn replay(args: ReplayArgs, session: &Session) -> Result<Done> {
    let job = args.config.open_existing(session)?;
    let replay = ReplayFilter { filter: args.filter.filter(), version: args.version };
    let worker_command = Some(args.config.worker_command(session.log)?);
    run::execute(job, args.work, RunOptions { replay: Some(replay), worker_command, ..RunOptions::default() }).await
}
