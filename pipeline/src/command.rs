//! The command line. Progress and errors go to standard error, results to standard output.

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

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::WorkerCommand;
use crate::config::Config;
use crate::error::{PipelineError, Result};
use crate::events::progress::Progress;
use crate::store::{Layer, Store};
use crate::terminal::printable;
use log::LogFormat;

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
    /// Refused samples
    #[command(subcommand)]
    Refused(refused::RefusedCommand),
    /// Shows what stands behind an id of a published version, or how much of the codebook is used
    Inspect(inspect::InspectArgs),
    /// Shows what tensors would be computed on, why CUDA is not used, and what a store lacks
    Doctor(doctor::DoctorArgs),
}

tokio::task_local! {
    /// What the stores of the command are wrapped in.
    static LAYER: Layer;
}

/// What every command starts from.
#[derive(Debug, Args)]
struct ConfigArgs {
    /// The configuration, a TOML file
    config: PathBuf,
    /// Store to use instead of the configuration's
    #[arg(long, global = true, value_name = "PATH OR URL")]
    store: Option<String>,
}

impl ConfigArgs {
    /// How a process is started that makes units of what this one leads.
    fn worker_command(&self, log: LogFormat) -> Result<WorkerCommand> {
        let program = std::env::current_exe().map_err(|source| PipelineError::File { path: "cm3flow itself".into(), source })?;
        let mut arguments = vec!["work".to_owned(), self.config.to_string_lossy().into_owned()];
        arguments.extend(self.store.iter().flat_map(|store| ["--store".to_owned(), store.clone()]));
        arguments.extend(["--log-format".to_owned(), log.to_string()]);
        Ok(WorkerCommand { program, arguments })
    }

    /// The configuration with the address of its store and the folder that it is looked for from.
    fn load(&self) -> Result<(Config, PathBuf)> {
        let mut config = Config::load(&self.config)?;
        config.store.layer = LAYER.try_with(Clone::clone).ok();
        let mut folder = config.folder.clone();
        if let Some(store) = &self.store {
            // A store that is named on the command line is looked for from where the command is run.
            folder = PathBuf::from(".");
            config.dataset.store.clone_from(store);
        }
        Ok((config, folder))
    }

    /// Opens the store; makes it if it is not there.
    fn open(&self) -> Result<(Config, Store)> {
        let (config, folder) = self.load()?;
        let store = Store::open_with(&config.dataset.store, &folder, &config.store)?;
        Ok((config, store))
    }

    /// Opens the store, which must be there.
    fn open_existing(&self) -> Result<(Config, Store)> {
        let (config, folder) = self.load()?;
        if !Store::may_exist(&config.dataset.store, &folder) {
            let problem = "there is no store yet; `cm3flow run` makes it".to_owned();
            return Err(PipelineError::Address { field: "dataset.store".into(), url: config.dataset.store, problem });
        }
        let store = Store::open_with(&config.dataset.store, &folder, &config.store)?;
        Ok((config, store))
    }

    /// Opens the store if it is there, else an empty one in memory: nothing is made.
    fn open_for_a_look(&self) -> Result<(Config, Store)> {
        let (config, folder) = self.load()?;
        let is_there = Store::may_exist(&config.dataset.store, &folder);
        let store = Store::open_with(if is_there { &config.dataset.store } else { "memory://" }, &folder, &config.store)?;
        Ok((config, store))
    }
}

/// How a command ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// All of it is done.
    All,
    /// All but units that are quarantined.
    WithQuarantined,
}

/// Says on standard error why a command failed, if it did. Returns the exit code: 0 done, 1 failed, 2 the user's mistake, 3 done but for units
/// that are quarantined.
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

/// Runs the command that was asked for.
///
/// # Errors
/// What stopped it.
pub async fn execute(cli: Cli) -> Result<Done> {
    log::begin(cli.log_format);
    let progress = Progress::to_standard_error();
    match cli.command {
        Command::Run(args) => return run::run(args, cli.log_format, &progress).await,
        Command::Plan(args) => plan::plan(&args).await,
        Command::Fit(command) => fit::fit(&command, &progress).await,
        Command::Work(args) => work::work(&args).await,
        Command::Train(args) => run::train(args, &progress).await,
        Command::Report(args) => run::report(&args).await,
        Command::Versions(command) => versions::versions(&command, &progress).await,
        Command::Refused(command) => return refused::refused(command, cli.log_format, &progress).await,
        Command::Inspect(args) => inspect::inspect(&args).await,
        Command::Doctor(args) => doctor::doctor(args).await,
    }?;
    Ok(Done::All)
}

/// Runs the command that was asked for with `layer` between all stores that it opens and their retries.
///
/// # Errors
/// What stopped it.
pub async fn execute_with(cli: Cli, layer: Layer) -> Result<Done> {
    LAYER.scope(layer, execute(cli)).await
}
