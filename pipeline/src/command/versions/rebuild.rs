//! `versions rebuild`.

use std::fmt::Write;

use clap::Args;
use serde_json::json;

use crate::catalog::VersionRef;
use crate::command::{ConfigArgs, Session, output};
use crate::error::{PipelineError, Result};
use crate::versions::diff::FieldChange;
use crate::versions::rebuild;
use crate::versions::rebuild::Rebuild;

#[derive(Debug, Args)]
pub(in crate::command) struct RebuildArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Version to make again, by number or tag
    version: VersionRef,
    /// Makes the prepared units again too, as far as the sources still hold their rows
    #[arg(long)]
    from_scratch: bool,
    /// Prints JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn rebuild(args: &RebuildArgs, session: &Session) -> Result<()> {
    let job = args.config.open_existing(session)?;
    let rebuild = rebuild::rebuild(&job, Some(&args.version), args.from_scratch).await?;
    output::print(&if args.json { json!(rebuild).to_string() } else { shown(&rebuild) });
    match rebuild.first_difference {
        Some(object) => Err(PipelineError::OtherBytes { version: rebuild.version, object }),
        None => Ok(()),
    }
}

fn shown(rebuild: &Rebuild) -> String {
    let mut out = format!("version {}\n", rebuild.version);
    for (segment, counts) in &rebuild.segments {
        let _ = write!(out, "{segment:<9} {} units: {} made again, {} of them equal", counts.units, counts.made, counts.equal);
        let _ = match counts.absent {
            0 => writeln!(out),
            absent => writeln!(out, ", {absent} not in the store to compare with"),
        };
    }
    let _ = writeln!(out, "shards    {} compared", rebuild.shards);
    if rebuild.kept_units > 0 {
        let _ =
            writeln!(out, "          {} prepared units were taken as they are: the sources no longer hold their rows", rebuild.kept_units);
    }
    for FieldChange { field, before, after } in &rebuild.settings {
        let value = |value: &Option<String>| output::one_line(value.as_deref().unwrap_or("(none)"));
        let _ = writeln!(out, "setting   {} was {}, the configuration file has {}", output::one_line(field), value(before), value(after));
    }
    if let Some(segment) = rebuild.other_units_from {
        let _ = writeln!(out, "units     from {segment} on, this cm3flow on this machine would make other units under the same settings");
    }
    if !rebuild.is_same_numerics {
        out.push_str("numerics  this machine is in another numerics class than the one that made the version\n");
    }
    let verdict = if rebuild.first_difference.is_some() { "not all of it is equal" } else { "all of it is equal" };
    let _ = writeln!(out, "manifest  {}: {verdict}", rebuild.manifest.short());
    out
}
