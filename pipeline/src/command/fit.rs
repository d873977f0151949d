//! `fit`.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;

use super::{ConfigArgs, output};
use crate::artefact::Quality;
use crate::error::{PipelineError, Result};
use crate::progress::Progress;
use crate::run as runs;

/// What is fitted.
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
    /// Folder to write copies into: what was fitted, and of a codebook its quality and a picture of reconstructions
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Prints JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn fit(command: &FitCommand, progress: &Progress) -> Result<()> {
    match command {
        FitCommand::All(args) => all(args, progress).await,
        FitCommand::Tokenizer(args) => tokenizer(args, progress).await,
        FitCommand::Codebook(args) => codebook(args, progress).await,
    }
}

async fn all(args: &FitArgs, progress: &Progress) -> Result<()> {
    let (config, store) = args.config.open()?;
    let artefacts = runs::fit(&config, &store, args.refit, progress).await?;
    if args.json {
        output::print(&json!(artefacts.digests).to_string());
    } else {
        artefacts.digests.iter().for_each(|(name, digest)| output::print(&format!("{name:<16} {digest}")));
    }
    Ok(())
}

async fn tokenizer(args: &FitArgs, progress: &Progress) -> Result<()> {
    let (config, store) = args.config.open()?;
    let fitted = runs::fit_text_tokenizer(&config, &store, args.refit, progress).await?;
    let digest = cm3flow_schemas::Digest::of(&fitted.json);
    if args.json {
        output::print(&json!({"digest": digest, "ids": fitted.size}).to_string());
    } else {
        output::print(&format!("text_tokenizer   {digest}, {} ids", fitted.size));
    }
    write(args.out.as_deref(), "tokenizer.json", &fitted.json)
}

async fn codebook(args: &FitArgs, progress: &Progress) -> Result<()> {
    let (config, store) = args.config.open()?;
    let fitted = runs::fit_codebook(&config, &store, args.refit, progress).await?;
    let digest = cm3flow_schemas::Digest::of(&fitted.weights);
    let quality = json!({"digest": digest, "held_out": fitted.quality}).to_string();
    if args.json {
        output::print(&quality);
    } else {
        output::print(&format!("codebook {digest}\n\n{}", table(&fitted.quality)));
    }
    let out = args.out.as_deref();
    write(out, "codebook.safetensors", &fitted.weights)?;
    write(out, "held-out.json", quality.as_bytes())?;
    match &fitted.reconstructions {
        Some(picture) => write(out, "reconstructions.png", picture),
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

/// Writes a file into the folder, which is made if it is not there; nothing without folder.
fn write(folder: Option<&Path>, name: &str, bytes: &[u8]) -> Result<()> {
    let Some(folder) = folder else { return Ok(()) };
    let path = folder.join(name);
    let written = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&path, bytes));
    written.map_err(|source| PipelineError::Write { path: path.clone(), source })?;
    output::print(&format!("written          {}", path.display()));
    Ok(())
}
