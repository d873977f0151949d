//! `run`, `train`, `report`.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use super::{ConfigArgs, Done, Session, output};
use crate::catalog::VersionRef;
use crate::config::{Config, Job};
use crate::error::{PipelineError, Result};
use crate::events::progress::Progress;
use crate::metrics::{Endpoint, MetricsAddress};
use crate::run::lease::LeaseMode;
use crate::run::{self as runs, RunOptions};
use crate::train::train_version;
use crate::view::report::report_version;

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Takes at most so many samples, for a first look
    #[arg(long, value_name = "SAMPLES")]
    limit: Option<u64>,
    /// Fits tokenizers and tables anew, which starts a new line of versions
    #[arg(long)]
    refit: bool,
    #[command(flatten)]
    work: ExecutionArgs,
}

/// Options of the work of a run and of its output.
#[derive(Debug, Args)]
pub(super) struct ExecutionArgs {
    /// Units that are worked on at once, instead of the configuration's
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    workers: Option<u32>,
    /// Processes that units are made in, instead of the configuration's
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1024))]
    processes: Option<u32>,
    /// Leaves out training
    #[arg(long)]
    no_train: bool,
    /// Publishes even if units are quarantined
    #[arg(long)]
    allow_quarantined: bool,
    /// Behaviour if another run is at work on the dataset
    #[arg(long, value_enum, default_value_t)]
    lease: LeaseMode,
    #[command(flatten)]
    output: OutputArgs,
}

/// Options of the output while a command works.
#[derive(Debug, Args)]
pub(super) struct OutputArgs {
    /// Prints events, one JSON object a line, instead of the summary
    #[arg(long)]
    pub(super) json: bool,
    /// Offers metrics for Prometheus there, instead of where the configuration says: a port, or an address with a port
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<MetricsAddress>,
}

impl OutputArgs {
    /// Begins the output. Serves metrics while the returned endpoint lives.
    pub(super) async fn begin(&self, config: &Config, progress: &Progress) -> Result<Option<Endpoint>> {
        if self.json {
            progress.print_events();
        }
        match self.metrics.or(config.runtime.metrics) {
            Some(address) => Endpoint::open(address, progress).await.map(Some),
            None => Ok(None),
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct TrainArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Version to train on, by number or tag; the latest by default
    #[arg(long, value_name = "VERSION")]
    version: Option<VersionRef>,
    /// Seed of the first weights and of the order of reading, instead of the configuration's: another training on the same packs
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Version to report on, by number or tag; the latest by default
    #[arg(long, value_name = "VERSION")]
    version: Option<VersionRef>,
    /// File to write
    #[arg(long, value_name = "FILE", default_value = "report.html")]
    out: PathBuf,
}

pub(super) async fn run(args: RunArgs, session: &Session) -> Result<Done> {
    let job = args.config.open(session)?;
    let worker_command = Some(args.config.worker_command(session.log)?);
    execute(job, args.work, RunOptions { limit: args.limit, refit: args.refit, worker_command, ..RunOptions::default() }).await
}

/// Runs `job` with `options`, which the command line's arguments complete.
pub(super) async fn execute(mut job: Job, args: ExecutionArgs, options: RunOptions) -> Result<Done> {
    let runtime = &mut Arc::make_mut(&mut job.config).runtime;
    runtime.workers = args.workers.unwrap_or(runtime.workers);
    runtime.processes = args.processes.unwrap_or(runtime.processes);
    let options = RunOptions { without_training: args.no_train, allow_quarantined: args.allow_quarantined, lease: args.lease, ..options };
    let _metrics = args.output.begin(&job.config, &job.progress).await?;
    let outcome = runs::run(&job, &options).await?;
    if !args.output.json {
        output::print(&output::summary(&outcome, &job.store));
    }
    Ok(if outcome.quarantined > 0 { Done::WithQuarantined } else { Done::All })
}

pub(super) async fn train(args: TrainArgs, session: &Session) -> Result<()> {
    let mut job = args.config.open_existing(session)?;
    if let Some(train) = &mut Arc::make_mut(&mut job.config).train {
        train.seed = args.seed.or(train.seed);
    }
    let _metrics = args.output.begin(&job.config, &job.progress).await?;
    let outcome = train_version(&job, args.version.as_ref()).await?;
    if args.output.json {
        return Ok(());
    }
    output::print(&format!("checkpoint {}, step {}", outcome.checkpoint, outcome.step));
    if let Some((first, last)) = outcome.first_and_last_loss() {
        output::print(&format!("loss       first {first:.3}, last {last:.3} nats per token"));
    }
    Ok(())
}

pub(super) async fn report(args: &ReportArgs, session: &Session) -> Result<()> {
    let job = args.config.open_existing(session)?;
    let page = report_version(&job, args.version.as_ref()).await?;
    std::fs::write(&args.out, page).map_err(|source| PipelineError::Write { path: args.out.clone(), source })?;
    output::print(&format!("report     {}", args.out.display()));
    Ok(())
}
