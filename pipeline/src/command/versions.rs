//! `versions`.

mod diff;
mod export;
mod gc;
mod rebuild;
mod tag;
mod verify;
mod withdraw;

use std::fmt::Write;

use clap::{Args, Subcommand};
use cm3flow_schemas::version::VersionManifest;
use serde_json::json;

use super::{ConfigArgs, ListArgs, Session, output};
use crate::catalog::VersionRef;
use crate::error::{PipelineError, Result};

#[derive(Debug, Subcommand)]
pub(super) enum VersionsCommand {
    /// Lists the versions of the configuration's dataset
    List(ListArgs),
    /// Shows one version
    Show(ShowArgs),
    /// Names a version by a tag, lists tags, or removes one
    Tag(tag::TagArgs),
    /// Publishes the next version, without some samples and their near-duplicates
    Withdraw(withdraw::WithdrawArgs),
    /// Says what differs between two versions
    Diff(diff::DiffArgs),
    /// Writes a version's packs as files of MosaicML Streaming (MDS) or WebDataset
    Export(export::ExportArgs),
    /// Re-reads every object of a version and checks it; exit code 1 if something is damaged
    Verify(verify::VerifyArgs),
    /// Makes a version again from its own record and compares; exit code 1 if something differs
    Rebuild(rebuild::RebuildArgs),
    /// Deletes what no version and no run refers to; only shows it without --apply
    Gc(gc::GcArgs),
}

#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The version, by number or tag; the latest by default
    version: Option<VersionRef>,
    /// Prints JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn versions(command: &VersionsCommand, session: &Session) -> Result<()> {
    match command {
        VersionsCommand::List(args) => list(args, session).await,
        VersionsCommand::Show(args) => show(args, session).await,
        VersionsCommand::Tag(args) => tag::tag(args, session).await,
        VersionsCommand::Withdraw(args) => withdraw::withdraw(args, session).await,
        VersionsCommand::Diff(args) => diff::diff(args, session).await,
        VersionsCommand::Export(args) => export::export(args, session).await,
        VersionsCommand::Verify(args) => verify::verify(args, session).await,
        VersionsCommand::Rebuild(args) => rebuild::rebuild(args, session).await,
        VersionsCommand::Gc(args) => gc::gc(args, session).await,
    }
}

async fn list(args: &ListArgs, session: &Session) -> Result<()> {
    let job = args.config.open_existing(session)?;
    let catalog = job.catalog();
    let tags = catalog.tags().await?;
    let mut out = format!("{:>7} {:>5} {:>8} {:>8} {:>8} {:>14}  tags", "version", "base", "windows", "samples", "packs", "tokens");
    for version in catalog.versions().await? {
        let manifest = catalog.version(version).await?;
        let packs: u64 = manifest.statistics.values().map(|split| split.packs).sum();
        let tokens: u64 = manifest.statistics.values().map(|split| split.used).sum();
        let tags: Vec<&str> = tags.iter().filter(|tag| tag.version == version).map(|tag| tag.tag.as_str()).collect();
        if args.json {
            let line = json!({
                "version": version,
                "base": manifest.base,
                "windows": manifest.windows.len(),
                "kept": manifest.samples.kept,
                "packs": packs,
                "tokens": tokens,
                "tags": tags,
            });
            output::print(&line.to_string());
        } else {
            let base = manifest.base.map_or_else(|| "-".to_owned(), |base| base.to_string());
            let _ =
                write!(out, "\n{version:>7} {base:>5} {:>8} {:>8} {packs:>8} {tokens:>14}", manifest.windows.len(), manifest.samples.kept);
            let _ = if tags.is_empty() { Ok(()) } else { write!(out, "  {}", tags.join(", ")) };
        }
    }
    if !args.json {
        output::print(&out);
    }
    Ok(())
}

async fn show(args: &ShowArgs, session: &Session) -> Result<()> {
    let job = args.config.open_existing(session)?;
    let manifest = job.catalog().version_or_latest(args.version.as_ref()).await?;
    if args.json {
        let manifest = serde_json::to_string_pretty(&manifest);
        output::print(&manifest.map_err(|source| PipelineError::Record {
            location: "the manifest".into(),
            expected: "version manifest",
            source,
        })?);
    } else {
        output::print(&shown(&manifest));
    }
    Ok(())
}

fn shown(manifest: &VersionManifest) -> String {
    let mut out = format!("version    {} of {}\n", manifest.version, manifest.dataset);
    if let Some(base) = manifest.base {
        let _ = writeln!(out, "base       {base}");
    }
    let _ = writeln!(out, "windows    {}", manifest.windows.len());
    let _ = writeln!(out, "samples    {}", manifest.samples);
    for (reason, count) in &manifest.samples.refused {
        let _ = writeln!(out, "           {count} refused: {reason}");
    }
    for line in manifest.samples.dropped_lines() {
        let _ = writeln!(out, "           {line}");
    }
    let _ = writeln!(out, "documents  {}", manifest.documents);
    for (reason, count) in &manifest.documents.refused {
        let _ = writeln!(out, "           {count} refused: {reason}");
    }
    if manifest.documents.shortened > 0 {
        let _ = writeln!(out, "           {} lost the end of a text, so that they fit", manifest.documents.shortened);
    }
    if let Some(blocklist) = manifest.blocklist {
        let _ = writeln!(out, "blocked    ids of the table {}", blocklist.short());
    }
    let _ = writeln!(out, "fill rate  {}", output::fill_rates(manifest));
    for line in output::packing(manifest) {
        let _ = writeln!(out, "           {line}");
    }
    let _ =
        writeln!(out, "vocabulary {}, {} ids; packs of {} tokens", manifest.vocabulary.name, manifest.vocabulary.size, manifest.seq_len);
    for (name, digest) in &manifest.artefacts {
        let _ = writeln!(out, "artefact   {name} {}", digest.short());
    }
    for (license, count) in &manifest.licenses {
        let _ = writeln!(out, "licence    {license}: {count} samples");
    }
    let _ = writeln!(
        out,
        "\n{:<12} {:>9} {:>10} {:>10} {:>9} {:>7} {:>9}",
        "task", "documents", "text", "image", "control", "spans", "retrieved"
    );
    let mut sum = cm3flow_schemas::pack::PackStatistics::default();
    manifest.statistics.values().for_each(|split| sum.add(split));
    for (task, counts) in &sum.tasks {
        let tokens = format!("{:>10} {:>10} {:>9}", counts.text_tokens, counts.image_tokens, counts.control_tokens);
        let _ = writeln!(out, "{task:<12} {:>9} {tokens} {:>7} {:>9}", counts.documents, counts.spans, counts.retrieved);
    }
    out
}
