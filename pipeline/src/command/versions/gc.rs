//! `versions gc`.

use std::fmt::Write;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use crate::command::{ConfigArgs, Session, output};
use crate::error::{PipelineError, Result};
use crate::versions::gc;
use crate::versions::gc::{GcOptions, GcOutcome};

#[derive(Debug, Args)]
pub(in crate::command) struct GcArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Deletes; without it, what would go is only shown
    #[arg(long)]
    apply: bool,
    /// Younger objects stay, and a run that wrote one counts as running
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = humantime::parse_duration)]
    grace: Duration,
    /// Drops old versions of the dataset but so many; tagged ones, young ones and the latest stay
    #[arg(long, value_name = "VERSIONS", value_parser = clap::value_parser!(u32).range(1..))]
    keep: Option<u32>,
    /// Prints JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn gc(args: &GcArgs, session: &Session) -> Result<()> {
    let job = args.config.open_existing(session)?;
    let options = GcOptions { apply: args.apply, grace: args.grace, keep: args.keep };
    let outcome = gc::collect(&job.store, job.dataset(), &options, chrono::Utc::now()).await?;
    output::print(&if args.json { json!(outcome).to_string() } else { shown(&outcome) });
    match outcome.interrupted_by {
        Some(run) => Err(PipelineError::Planning { run }),
        None => Ok(()),
    }
}

fn shown(outcome: &GcOutcome) -> String {
    let mut out = String::new();
    for run in &outcome.running {
        let _ = writeln!(out, "{run} is running or ended lately: what it planned stays");
    }
    if !outcome.dropped_versions.is_empty() {
        let versions: Vec<String> = outcome.dropped_versions.iter().map(u32::to_string).collect();
        let _ = writeln!(out, "versions that go: {}", versions.join(", "));
    }
    for (kind, garbage) in &outcome.garbage {
        let _ = writeln!(out, "{kind:<12} {:>8} objects {:>12}", garbage.objects, output::bytes(garbage.bytes));
    }
    let total = outcome.total();
    let bytes = output::bytes(total.bytes);
    let _ = match (outcome.applied, total.objects) {
        (_, 0) => writeln!(out, "nothing to delete"),
        (true, objects) => writeln!(out, "deleted {objects} objects, {bytes}"),
        (false, objects) => writeln!(out, "would delete {objects} objects, {bytes}; --apply does it"),
    };
    out
}
