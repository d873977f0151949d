//! `run`, `train`, `report`.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;

use super::log::LogFormat;
use super::{ConfigArgs, Done, output};
use crate::WorkerCommand;
use crate::catalog::VersionRef;
use crate::config::Config;
use crate::error::{PipelineError, Result};
use crate::events::Event;
use crate::events::progress::Progress;
use crate::metrics::{Endpoint, MetricsAddress};
use crate::run::lease::LeaseMode;
use crate::run::{self as runs, RunOptions};
use crate::store::Store;

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
    work: WorkArgs,
}

/// How a run works and what it tells.
#[derive(Debug, Args)]
pub(super) struct WorkArgs {
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
    /// What to do when another run is at work on the dataset
    #[arg(long, value_enum, default_value_t)]
    lease: LeaseMode,
    #[command(flatten)]
    told: ToldArgs,
}

/// What a command tells while it works.
#[derive(Debug, Args)]
pub(super) struct ToldArgs {
    /// Prints events, one JSON object a line, instead of the summary
    #[arg(long)]
    pub(super) json: bool,
    /// Offers metrics for Prometheus there, instead of where the configuration says: a port, or an address with a port
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<MetricsAddress>,
}

impl ToldArgs {
    /// Begins to tell; metrics are offered while the returned endpoint lives.
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
    #[command(flatten)]
    told: ToldArgs,
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

/// Runs `work` until it is done or a signal comes. After a signal, `stop` is set and the trainer is given time for a checkpoint; a
/// second signal ends everything.
async fn interruptible<T: Send + 'static>(
    stop: &Arc<AtomicBool>,
    progress: &Progress,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let failed = |source| PipelineError::File { path: "the signal handler".into(), source };
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).map_err(failed)?;
    // A task of its own: signals are heard while it computes.
    let mut work = tokio::spawn(work);
    for is_first in [true, false] {
        tokio::select! {
            result = &mut work => return result.map_err(|_| PipelineError::Lost { what: "the command's task" })?,
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
        if is_first {
            progress.tell(Event::Stopping);
            stop.store(true, Ordering::Relaxed);
        }
    }
    Err(PipelineError::Interrupted)
}

pub(super) async fn run(args: RunArgs, log: LogFormat, progress: &Progress) -> Result<Done> {
    let opened = args.config.open()?;
    let options = RunOptions { limit: args.limit, refit: args.refit, ..RunOptions::default() };
    execute(opened, (args.work, args.config.worker_command(log)?), options, progress).await
}

/// Runs what `options` ask for, until it is done or a signal comes.
pub(super) async fn execute(
    (mut config, store): (Config, Store),
    (args, worker_command): (WorkArgs, WorkerCommand),
    options: RunOptions,
    progress: &Progress,
) -> Result<Done> {
    config.runtime.workers = args.workers.unwrap_or(config.runtime.workers);
    config.runtime.processes = args.processes.unwrap_or(config.runtime.processes);
    let options = RunOptions {
        without_training: args.no_train,
        allow_quarantined: args.allow_quarantined,
        lease: args.lease,
        worker_command: (config.runtime.processes > 0).then_some(worker_command),
        ..options
    };
    let _metrics = args.told.begin(&config, progress).await?;
    let (stop, told, place) = (Arc::clone(&options.stop), progress.clone(), store.clone());
    let outcome = interruptible(&stop, progress, async move { runs::run(&config, &store, &options, &told).await }).await?;
    if !args.told.json {
        output::print(&output::summary(&outcome, &place));
    }
    Ok(if outcome.quarantined > 0 { Done::WithQuarantined } else { Done::All })
}

pub(super) async fn train(args: TrainArgs, progress: &Progress) -> Result<()> {
    let (config, store) = args.config.open_existing()?;
    let options = RunOptions::default();
    let _metrics = args.told.begin(&config, progress).await?;
    let (stop, told) = (Arc::clone(&options.stop), progress.clone());
    let training = async move { runs::train_version(&config, &store, args.version.as_ref(), &options, &told).await };
    let outcome = interruptible(&stop, progress, training).await?;
    if args.told.json {
        return Ok(());
    }
    output::print(&format!("checkpoint {}, step {}", outcome.checkpoint, outcome.step));
    if let Some((first, last)) = outcome.first_and_last_loss() {
        output::print(&format!("loss       first {first:.3}, last {last:.3} nats per token"));
    }
    Ok(())
}

pub(super) async fn report(args: &ReportArgs) -> Result<()> {
    let (config, store) = args.config.open_existing()?;
    let page = runs::report_version(&config, &store, args.version.as_ref()).await?;
    std::fs::write(&args.out, page).map_err(|source| PipelineError::Write { path: args.out.clone(), source })?;
    output::print(&format!("report     {}", args.out.display()));
    Ok(())
}
