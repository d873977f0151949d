//! Command line. Progress and errors go to standard error, results to standard output.

mod checkpoints;
mod config;
mod doctor;
mod fit;
mod inspect;
mod log;
mod output;
mod plan;
mod refused;
mod run;
mod versions;
mod work;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use log::LogFormat;

use crate::WorkerCommand;
use crate::config::{Config, Job};
use crate::error::{PipelineError, Result};
use crate::events::Event;
use crate::events::progress::Progress;
use crate::store::{Store, StoreLayer};
use crate::terminal::printable;

/// Longest time between a signal and the end of a command with safe points: the grace period plus the time to record the end.
const LONGEST_END: Duration = Duration::from_secs(25);

/// Turns image-text pairs into versioned, packed token shards, and trains on them while it does so.
#[derive(Debug, Parser)]
#[command(name = "cm3flow", version)]
pub struct Cli {
    /// Form of the log on standard error; CM3FLOW_LOG names what is logged, as info or cm3flow=debug
    #[arg(long, global = true, env = "CM3FLOW_LOG_FORMAT", default_value = "text")]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Ingests what is new, publishes the next version, trains, evaluates and writes a report
    Run(run::RunArgs),
    /// Shows what a run would do, what is there already, and how large the rest will be
    Plan(plan::PlanArgs),
    /// Fits the tokenizers and tables that the configuration does not give, and pins them
    #[command(subcommand)]
    Fit(fit::FitCommand),
    /// Makes units of a run that another process leads: keys on standard input, a JSON line for each on standard output
    Work(work::WorkArgs),
    /// Trains on a published version; goes on from the last checkpoint
    Train(run::TrainArgs),
    /// Writes the report of a published version
    Report(run::ReportArgs),
    /// Published versions
    #[command(subcommand)]
    Versions(versions::VersionsCommand),
    /// Checkpoints of trainings
    #[command(subcommand)]
    Checkpoints(checkpoints::CheckpointsCommand),
    /// Refused samples
    #[command(subcommand)]
    Refused(refused::RefusedCommand),
    /// Shows what stands behind an id of a published version, or how much of the codebook is used
    Inspect(inspect::InspectArgs),
    /// Describes the fields of a configuration: a reference for people, a JSON Schema for editors
    Config(config::DescribeArgs),
    /// Shows what tensors would be computed on, why CUDA is not used, and what a store lacks
    Doctor(doctor::DoctorArgs),
}

impl Command {
    /// Returns `true` if the command reaches safe points, with work to keep. Others may end anywhere: each of their writes leaves a good store.
    fn has_safe_points(&self) -> bool {
        match self {
            Self::Run(_) | Self::Fit(_) | Self::Work(_) | Self::Train(_) => true,
            Self::Refused(command) => command.replays(),
            Self::Plan(_)
            | Self::Report(_)
            | Self::Versions(_)
            | Self::Checkpoints(_)
            | Self::Inspect(_)
            | Self::Config(_)
            | Self::Doctor(_) => false,
        }
    }
}

/// Surroundings of a command: log, progress, signal and store layer.
#[derive(Clone)]
struct Session {
    log: LogFormat,
    progress: Progress,
    stop: CancellationToken,
    /// Layer between the command's stores and their retries.
    layer: Option<StoreLayer>,
}

/// The configuration of a command.
#[derive(Debug, Args)]
struct ConfigArgs {
    /// The configuration, a TOML file
    config: PathBuf,
    /// Store to use instead of the configuration's
    #[arg(long, global = true, value_name = "PATH OR URL")]
    store: Option<String>,
}

/// A listing of what the configuration's dataset has.
#[derive(Debug, Args)]
struct ListArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Prints one JSON object a line
    #[arg(long)]
    json: bool,
}

/// Opens the folder of an export, which outlives the command. The working folder resolves a path, as it does that of a store named on the command
/// line. Makes the folder: open it when nothing else can be a mistake.
fn open_target(job: &Job, to: &str) -> Result<Store> {
    if to.starts_with("memory://") {
        let problem = "what lies in memory is gone when the command ends; name a folder".to_owned();
        return Err(PipelineError::Address { field: "--to".into(), url: to.to_owned(), problem });
    }
    Store::open_named("--to", to, Path::new("."), &job.config.store)
}

impl ConfigArgs {
    /// Returns the command that starts a worker process for a run of this configuration.
    fn worker_command(&self, log: LogFormat) -> Result<WorkerCommand> {
        let program = std::env::current_exe().map_err(|source| PipelineError::System { what: "find the program cm3flow", source })?;
        let mut arguments = vec!["work".to_owned(), self.config.to_string_lossy().into_owned()];
        arguments.extend(self.store.iter().flat_map(|store| ["--store".to_owned(), store.clone()]));
        arguments.extend(["--log-format".to_owned(), log.to_string()]);
        Ok(WorkerCommand { program, arguments })
    }

    /// Loads the configuration, with the store's address, and the folder that a relative address starts from.
    fn load(&self, session: &Session) -> Result<(Config, PathBuf)> {
        let mut config = Config::load(&self.config)?;
        config.store.layer.clone_from(&session.layer);
        let mut folder = config.folder.clone();
        if let Some(store) = &self.store {
            // The working folder resolves a store named on the command line, as it does other arguments.
            folder = PathBuf::from(".");
            config.dataset.store.clone_from(store);
        }
        Ok((config, folder))
    }

    /// Opens the store; creates it if it does not exist.
    fn open(&self, session: &Session) -> Result<Job> {
        let (config, folder) = self.load(session)?;
        let store = Store::open_with(&config.dataset.store, &folder, &config.store)?;
        Ok(session.job(config, store))
    }

    /// Opens the store, which must exist.
    fn open_existing(&self, session: &Session) -> Result<Job> {
        let (config, folder) = self.load(session)?;
        if !Store::may_exist(&config.dataset.store, &folder) {
            let problem = "there is no store yet; `cm3flow run` makes it".to_owned();
            return Err(PipelineError::Address { field: "dataset.store".into(), url: config.dataset.store, problem });
        }
        let store = Store::open_with(&config.dataset.store, &folder, &config.store)?;
        Ok(session.job(config, store))
    }

    /// Opens the store if it exists, else an empty one in memory. Creates nothing.
    fn open_for_a_look(&self, session: &Session) -> Result<Job> {
        let (config, folder) = self.load(session)?;
        let is_there = Store::may_exist(&config.dataset.store, &folder);
        let store = Store::open_with(if is_there { &config.dataset.store } else { "memory://" }, &folder, &config.store)?;
        Ok(session.job(config, store))
    }
}

/// Outcome of a command that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// All work is done.
    All,
    /// All work is done except for quarantined units.
    WithQuarantined,
}

/// Prints the error of a failed command to standard error. Returns the exit code: 0 done, 1 failed, 2 user's mistake, 3 done except for
/// quarantined units.
#[must_use]
pub fn exit_code(ended: &Result<Done>) -> u8 {
    match ended {
        Ok(Done::All) => 0,
        Ok(Done::WithQuarantined) => 3,
        Err(error) => {
            eprintln!("{}", printable(&format!("error: {}", error.with_causes())));
            error.exit_code()
        }
    }
}

impl Session {
    fn job(&self, config: Config, store: Store) -> Job {
        Job { stop: self.stop.clone(), ..Job::new(config, store, self.progress.clone()) }
    }

    async fn execute(&self, command: Command) -> Result<Done> {
        match command {
            Command::Run(args) => return run::run(args, self).await,
            Command::Plan(args) => plan::plan(&args, self).await,
            Command::Fit(command) => fit::fit(&command, self).await,
            Command::Work(args) => work::work(&args, self).await,
            Command::Train(args) => run::train(args, self).await,
            Command::Report(args) => run::report(&args, self).await,
            Command::Versions(command) => versions::versions(&command, self).await,
            Command::Checkpoints(command) => checkpoints::checkpoints(&command, self).await,
            Command::Refused(command) => return refused::refused(command, self).await,
            Command::Inspect(args) => inspect::inspect(&args, self).await,
            Command::Config(args) => {
                config::describe(&args);
                Ok(())
            }
            Command::Doctor(args) => doctor::doctor(args, self).await,
        }?;
        Ok(Done::All)
    }

    /// Executes `command` until it ends. After a first signal a command with safe points continues to the next one, at the latest until the
    /// grace period ends; any other command ends at once, and a second signal ends each. Unfinished work is not committed.
    async fn execute_until_signal(&self, command: Command) -> Result<Done> {
        let failed = |source| PipelineError::System { what: "listen to signals", source };
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let has_safe_points = command.has_safe_points();
        // A separate task, so that signals are handled while the command computes.
        let session = self.clone();
        let mut work = tokio::spawn(async move { session.execute(command).await });
        let lost = |_| PipelineError::Lost { what: "the command's task" };
        tokio::select! {
            done = &mut work => return done.map_err(lost)?,
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        if !has_safe_points {
            return Err(PipelineError::Interrupted);
        }
        self.progress.tell(Event::Stopping);
        self.stop.cancel();
        tokio::select! {
            done = &mut work => done.map_err(lost)?,
            _ = interrupt.recv() => Err(PipelineError::Interrupted),
            _ = terminate.recv() => Err(PipelineError::Interrupted),
            () = tokio::time::sleep(LONGEST_END) => Err(PipelineError::Interrupted),
        }
    }
}

/// Executes the command of `cli`.
///
/// # Errors
/// The first error that stopped it.
pub async fn execute(cli: Cli) -> Result<Done> {
    execute_in(cli, None).await
}

/// Executes the command of `cli`, with `layer` between all stores that it opens and their retries.
///
/// # Errors
/// The first error that stopped it.
pub async fn execute_with(cli: Cli, layer: StoreLayer) -> Result<Done> {
    execute_in(cli, Some(layer)).await
}

async fn execute_in(cli: Cli, layer: Option<StoreLayer>) -> Result<Done> {
    log::begin(cli.log_format);
    let session = Session { log: cli.log_format, progress: Progress::to_standard_error(), stop: CancellationToken::new(), layer };
    session.execute_until_signal(cli.command).await
}
