//! `versions verify`.

use std::fmt::Write;

use clap::Args;
use serde_json::json;

use crate::catalog::VersionRef;
use crate::command::{ConfigArgs, Session, output};
use crate::error::{PipelineError, Result};
use crate::versions::verify::repair::Repair;
use crate::versions::verify::{Verification, Verifier, repair};

#[derive(Debug, Args)]
pub(in crate::command) struct VerifyArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Version to verify, by number or tag; the latest by default
    #[arg(conflicts_with = "all")]
    version: Option<VersionRef>,
    /// Verifies all versions, and the tags
    #[arg(long)]
    all: bool,
    /// Makes damaged objects again from their inputs
    #[arg(long)]
    repair: bool,
    /// Prints one JSON object for each version, a line each
    #[arg(long)]
    json: bool,
}

pub(super) async fn verify(args: &VerifyArgs, session: &Session) -> Result<()> {
    let job = args.config.open_existing(session)?;
    let catalog = job.catalog();
    let mut verifier = Verifier::new(&job.store, job.dataset());
    let found =
        if args.all { verifier.all().await? } else { vec![verifier.version(catalog.number_of(args.version.as_ref()).await?).await?] };
    if found.is_empty() {
        return Err(PipelineError::NothingPublished { dataset: job.dataset().to_owned() });
    }
    let mut left = 0;
    for found in found {
        if args.repair && !found.is_clean() {
            let repair = repair::repair(&job, found.version).await?;
            left += repair.left.len();
            output::print(&if args.json { json!(repair).to_string() } else { repaired(&repair) });
        } else {
            left += found.damaged.len();
            output::print(&if args.json { json!(found).to_string() } else { verified(&found) });
        }
    }
    if left > 0 { Err(PipelineError::DamagedObjects { count: left }) } else { Ok(()) }
}

fn verified(found: &Verification) -> String {
    let mut out = format!("version {}: {} objects, {}", found.version, found.objects, output::bytes(found.bytes));
    out.push_str(if found.is_clean() { ", all as recorded" } else { ":" });
    for damage in &found.damaged {
        let _ = write!(out, "\n  damaged  {}  ({}): {}", damage.path, damage.part, output::one_line(&damage.problem));
    }
    out
}

fn repaired(repair: &Repair) -> String {
    let mut out = format!("version {}: {} healed, {} left", repair.after.version, repair.healed.len(), repair.left.len());
    for damage in &repair.healed {
        let _ = write!(out, "\n  healed   {}  ({}): {}", damage.path, damage.part, output::one_line(&damage.problem));
    }
    for left in &repair.left {
        let damage = &left.damage;
        let _ = write!(
            out,
            "\n  damaged  {}  ({}): {}; not healed: {}",
            damage.path,
            damage.part,
            output::one_line(&damage.problem),
            output::one_line(&left.reason)
        );
    }
    out
}
