//! `fit`.

use std::fmt::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use super::run::ToldArgs;
use super::{ConfigArgs, Session, output};
use crate::artefact::{self, Quality};
use crate::config::Job;
use crate::error::{PipelineError, Result};
use crate::events::progress::Progress;

/// Artefacts to fit.
#[derive(Debug, Subcommand)]
pub(super) enum FitCommand {
    /// Fits everything that a run needs and the configuration does not give
    All(FitArgs),
    /// Fits the text tokenizer: byte pairs
    Tokenizer(FitArgs),
    /// Fits the image tokenizer and measures it on held-out photos, beside patches with as many codes and tokens
    Codebook(FitArgs),
}

#[derive(Debug, Args)]
pub(super) struct FitArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Fits anew what is pinned, which starts a new line of versions
    #[arg(long)]
    refit: bool,
    /// Folder for copies of the fitted files; for a codebook, also for its quality and a picture of reconstructions
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    #[command(flatten)]
    told: ToldArgs,
}

pub(super) async fn fit(command: &FitCommand, session: &Session) -> Result<()> {
    let (FitCommand::All(args) | FitCommand::Tokenizer(args) | FitCommand::Codebook(args)) = command;
    let job = args.config.open(session)?;
    let _metrics = args.told.begin(&job.config, &job.progress).await?;
    match command {
        FitCommand::All(_) => all(args, &job).await,
        FitCommand::Tokenizer(_) => tokenizer(args, &job).await,
        FitCommand::Codebook(_) => codebook(args, &job).await,
    }
}

async fn all(args: &FitArgs, job: &Job) -> Result<()> {
    let artefacts = artefact::fit(job, args.refit).await?;
    if args.told.json {
        output::print(&json!({"event": "fitted", "artefacts": artefacts.digests}).to_string());
    } else {
        artefacts.digests.iter().for_each(|(name, digest)| output::print(&format!("{name:<16} {digest}")));
    }
    Ok(())
}

async fn tokenizer(args: &FitArgs, job: &Job) -> Result<()> {
    let fitted = artefact::fit_text_tokenizer(job, args.refit).await?;
    let digest = cm3flow_schemas::Digest::of(&fitted.json);
    if args.told.json {
        output::print(&json!({"event": "fitted", "digest": digest, "ids": fitted.size}).to_string());
    } else {
        output::print(&format!("text_tokenizer   {digest}, {} ids", fitted.size));
    }
    write(args, &job.progress, "tokenizer.json", &fitted.json)
}

async fn codebook(args: &FitArgs, job: &Job) -> Result<()> {
    let fitted = artefact::fit_codebook(job, args.refit).await?;
    let digest = cm3flow_schemas::Digest::of(&fitted.weights);
    if args.told.json {
        output::print(&json!({"event": "fitted", "digest": digest, "held_out": fitted.quality}).to_string());
    } else {
        output::print(&format!("codebook {digest}\n\n{}", table(&fitted.quality)));
    }
    let quality = json!({"digest": digest, "held_out": fitted.quality}).to_string();
    write(args, &job.progress, "codebook.safetensors", &fitted.weights)?;
    write(args, &job.progress, "held-out.json", quality.as_bytes())?;
    match &fitted.reconstructions {
        Some(picture) => write(args, &job.progress, "reconstructions.png", picture),
        None => Ok(()),
    }
}

fn table(quality: &[Quality]) -> String {
    let mut out = format!(
        "{:<30} {:>6} {:>8} {:>6} {:>18} {:>10} {:>12}\n",
        "held-out photos", "photos", "PSNR dB", "SSIM", "codes used", "perplexity", "tokens/photo"
    );
    for one in quality {
        let used =
            format!("{} of {} ({:.0} %)", one.codes_used, one.codebook_size, 100.0 * one.codes_used as f64 / f64::from(one.codebook_size));
        let ssim = one.ssim.map_or_else(|| "-".to_owned(), |ssim| format!("{ssim:.3}"));
        let _ = writeln!(
            out,
            "{:<30} {:>6} {:>8.2} {ssim:>6} {used:>18} {:>10.0} {:>12}",
            one.tokenizer, one.photos, one.psnr_db, one.perplexity, one.tokens_per_photo
        );
    }
    out.truncate(out.trim_end().len());
    out
}

/// Writes a file into the folder `--out`, which it creates if missing; does nothing without `--out`.
fn write(args: &FitArgs, progress: &Progress, name: &str, bytes: &[u8]) -> Result<()> {
    let Some(folder) = &args.out else { return Ok(()) };
    let path = folder.join(name);
    let written = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&path, bytes));
    written.map_err(|source| PipelineError::Write { path: path.clone(), source })?;
    let line = format!("written          {}", path.display());
    if args.told.json {
        progress.say(&line);
    } else {
        output::print(&line);
    }
    Ok(())
}
