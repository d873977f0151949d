//! `versions export`.

use std::fmt::Write;

use clap::Args;
use cm3flow_schemas::sample::Split;
use serde_json::json;

use crate::catalog::VersionRef;
use crate::command::{ConfigArgs, Session, open_target, output};
use crate::error::Result;
use crate::versions::export::{Export, ExportFormat, ExportOptions, Exporter, MAX_FILE_BYTES};

#[derive(Debug, Args)]
pub(in crate::command) struct ExportArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The version, by number or tag, or `latest`
    version: VersionRef,
    /// Format of the files
    #[arg(long)]
    format: ExportFormat,
    /// Folder that they go to, by path or URL; it must be empty or not exist
    #[arg(long, value_name = "FOLDER")]
    to: String,
    /// The only split to export, train or held_out; both by default
    #[arg(long, value_parser = split)]
    split: Option<Split>,
    /// The variant of the train documents, from 0, if there are several (mask.variants)
    #[arg(long, value_name = "N", default_value_t = 0)]
    variant: u16,
    /// Most bytes of a file, 64 KiB to 1 GiB; one file at a time is held in memory
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 20, value_parser = clap::value_parser!(u64).range(64 << 10..=MAX_FILE_BYTES))]
    max_file_bytes: u64,
    /// Prints JSON, in one line
    #[arg(long)]
    json: bool,
}

fn split(name: &str) -> Result<Split, String> {
    Split::try_from(name.to_owned())
}

pub(super) async fn export(args: &ExportArgs, session: &Session) -> Result<()> {
    let job = args.config.open_existing(session)?;
    let options = ExportOptions { format: args.format, split: args.split, variant: args.variant, max_file_bytes: args.max_file_bytes };
    let exporter = Exporter::open(&job.store, job.dataset(), &args.version, &options).await?;
    let target = open_target(&job, &args.to)?;
    let export = exporter.write(&target).await?;
    output::print(&if args.json { json!(export).to_string() } else { shown(&export) });
    Ok(())
}

fn shown(export: &Export) -> String {
    let Export { dataset, version, format, address, packs, bytes, .. } = export;
    let mut out = format!("version {version} of {dataset} as {}: {packs} packs, {}, in {address}", format.name(), output::bytes(*bytes));
    for split in &export.splits {
        let _ = write!(out, "\n{:<9} {} packs in {} files", split.split.name(), split.packs, split.files);
    }
    out
}
