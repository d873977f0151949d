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

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub use output::printable;

use crate::config::Config;
use crate::error::{PipelineError, Result};
use crate::progress::Progress;
use crate::store::Store;

/// Turns image-text pairs into versioned, packed token shards, and trains on them while it does so.
#[derive(Debug, Parser)]
#[command(name = "cm3flow", version)]
pub struct Cli {
    /// Form of the log on standard error; CM3FLOW_LOG names what is logged, as info or cm3flow=debug
    #[arg(long, global = true, env = "CM3FLOW_LOG_FORMAT", default_value = "text")]
    log_format: log::LogFormat,
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
    /// Shows what tensors would be computed on, and why CUDA is not used
    Doctor(doctor::DoctorArgs),
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
    /// The configuration with the address of its store and the folder that it is looked for from.
    fn load(&self) -> Result<(Config, PathBuf)> {
        let mut config = Config::load(&self.config)?;
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
        let store = Store::open(&config.dataset.store, &folder)?;
        Ok((config, store))
    }

    /// Opens the store, which must be there.
    fn open_existing(&self) -> Result<(Config, Store)> {
        let (config, folder) = self.load()?;
        if !Store::may_exist(&config.dataset.store, &folder) {
            let problem = "there is no store yet; `cm3flow run` makes it".to_owned();
            return Err(PipelineError::Address { field: "dataset.store".into(), url: config.dataset.store, problem });
        }
        let store = Store::open(&config.dataset.store, &folder)?;
        Ok((config, store))
    }

    /// Opens the store if it is there, else an empty one in memory: nothing is made.
    fn open_for_a_look(&self) -> Result<(Config, Store)> {
        let (config, folder) = self.load()?;
        let is_there = Store::may_exist(&config.dataset.store, &folder);
        let store = Store::open(if is_there { &config.dataset.store } else { "memory://" }, &folder)?;
        Ok((config, store))
    }
}

/// Runs the command that was asked for.
///
/// # Errors
/// What stopped it.
pub async fn execute(cli: Cli) -> Result<()> {
    log::begin(cli.log_format);
    let progress = Progress::to_standard_error();
    match cli.command {
        Command::Run(args) => run::run(args, &progress).await,
        Command::Plan(args) => plan::plan(&args).await,
        Command::Fit(command) => fit::fit(&command, &progress).await,
        Command::Train(args) => run::train(args, &progress).await,
        Command::Report(args) => run::report(&args).await,
        Command::Versions(command) => versions::versions(&command).await,
        Command::Refused(command) => refused::refused(command, &progress).await,
        Command::Inspect(args) => inspect::inspect(&args).await,
        Command::Doctor(args) => {
            doctor::doctor(&args);
            Ok(())
        }
    }
}
