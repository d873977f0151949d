//! The command line. Progress and errors go to standard error, results to standard output.

mod output;
mod plan;
mod run;
mod versions;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub use output::printable;

use crate::config::Config;
use crate::error::Result;
use crate::progress::Progress;
use crate::store::Store;

/// Turns image-text pairs into versioned, packed token shards, and trains on them while it does so.
#[derive(Debug, Parser)]
#[command(name = "cm3flow", version)]
pub struct Cli {
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
    Fit(run::FitArgs),
    /// Trains on a published version; goes on from the last checkpoint
    Train(run::TrainArgs),
    /// Writes the report of a published version
    Report(run::ReportArgs),
    /// Published versions
    #[command(subcommand)]
    Versions(versions::VersionsCommand),
    /// Refused samples
    #[command(subcommand)]
    Refused(versions::RefusedCommand),
    /// Shows what tensors would be computed on
    Doctor,
}

/// What every command starts from.
#[derive(Debug, Args)]
struct ConfigArgs {
    /// The configuration, a TOML file
    config: PathBuf,
    /// Store to use instead of the configuration's
    #[arg(long, value_name = "PATH OR URL")]
    store: Option<String>,
}

impl ConfigArgs {
    fn open(&self) -> Result<(Config, Store)> {
        let mut config = Config::load(&self.config)?;
        // A store that is named on the command line is looked for from where the command is run.
        let (address, folder) = match &self.store {
            Some(store) => (store.clone(), PathBuf::from(".")),
            None => (config.dataset.store.clone(), config.folder.clone()),
        };
        config.dataset.store.clone_from(&address);
        let store = Store::open(&address, &folder)?;
        Ok((config, store))
    }
}

/// Runs the command that was asked for.
///
/// # Errors
/// What stopped it.
pub async fn execute(cli: Cli) -> Result<()> {
    let progress = Progress::to_standard_error();
    match cli.command {
        Command::Run(args) => run::run(args, &progress).await,
        Command::Plan(args) => plan::plan(&args).await,
        Command::Fit(args) => run::fit(&args, &progress).await,
        Command::Train(args) => run::train(args, &progress).await,
        Command::Report(args) => run::report(&args).await,
        Command::Versions(command) => versions::versions(&command).await,
        Command::Refused(command) => versions::refused(&command).await,
        Command::Doctor => {
            output::doctor();
            Ok(())
        }
    }
}
