//! `checkpoints`.

use std::fmt::Write;

use clap::builder::PossibleValue;
use clap::{Args, Subcommand, ValueEnum};
use cm3flow_model::{StoredType, checkpoint};
use serde_json::json;

use super::{ConfigArgs, ListArgs, Session, open_target, output};
use crate::catalog::checkpoints::{CheckpointRef, StoredCheckpoint, find, trainings};
use crate::config::Job;
use crate::error::{Mismatch, PipelineError, Result};
use crate::train::{bundle, own_key};

#[derive(Debug, Subcommand)]
pub(super) enum CheckpointsCommand {
    /// Lists the trainings of the configuration's dataset with the steps of their checkpoints
    List(ListArgs),
    /// Shows the model and the training of a checkpoint
    Show(ShowArgs),
    /// Writes a checkpoint with its tokenizers as a folder that transformers reads
    Export(ExportArgs),
}

#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The checkpoint: KEY@STEP, where a key may be cut; without a key the configuration's training, without a step its last one
    #[arg(default_value_t)]
    checkpoint: CheckpointRef,
    /// Prints JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The checkpoint: KEY@STEP, where a key may be cut; without a key the configuration's training, without a step its last one
    #[arg(default_value_t)]
    checkpoint: CheckpointRef,
    /// Folder that the files go to, by path or URL; it must be empty or not exist
    #[arg(long, value_name = "FOLDER")]
    to: String,
    /// Type of the weights
    #[arg(long, value_enum, default_value_t = Dtype(StoredType::Float32))]
    dtype: Dtype,
    /// Prints JSON, in one line
    #[arg(long)]
    json: bool,
}

/// [`StoredType`] on the command line.
#[derive(Debug, Clone, Copy)]
struct Dtype(StoredType);

impl ValueEnum for Dtype {
    fn value_variants<'a>() -> &'a [Self] {
        const { &[Self(StoredType::Float32), Self(StoredType::Bfloat16), Self(StoredType::Float16)] }
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.0.name()))
    }
}

pub(super) async fn checkpoints(command: &CheckpointsCommand, session: &Session) -> Result<()> {
    match command {
        CheckpointsCommand::List(args) => list(args, session).await,
        CheckpointsCommand::Show(args) => show(args, session).await,
        CheckpointsCommand::Export(args) => export(args, session).await,
    }
}

/// Finds the checkpoint that `wanted` names: of several trainings, that of the configuration if no key is named.
async fn found(job: &Job, wanted: &CheckpointRef) -> Result<StoredCheckpoint> {
    let found = find(&job.store, job.dataset(), wanted).await;
    if let Err(PipelineError::Mismatch(Mismatch::NoCheckpoint { .. })) = &found
        && let Some(own) = own_key(job).await?.and_then(|key| wanted.of_training(key))
        && let Ok(own) = find(&job.store, job.dataset(), &own).await
    {
        return Ok(own);
    }
    found
}

async fn list(args: &ListArgs, session: &Session) -> Result<()> {
    let job = args.config.open_existing(session)?;
    for training in trainings(&job.store, job.dataset()).await? {
        let steps: Vec<String> = training.steps.iter().map(u64::to_string).collect();
        output::print(&if args.json {
            json!({"training": training.key, "steps": training.steps}).to_string()
        } else {
            format!("{}  {}", training.key.short(), steps.join(" "))
        });
    }
    Ok(())
}

async fn show(args: &ShowArgs, session: &Session) -> Result<()> {
    let job = args.config.open_existing(session)?;
    let found = found(&job, &args.checkpoint).await?;
    let state = checkpoint::state(&found.files(&[checkpoint::STATE_FILE]).await?)?;
    if args.json {
        let value = json!({
            "training": found.training,
            "step": found.step,
            "seed": state.seed,
            "decoder": state.decoder,
            "parameters": state.decoder.parameters(),
            "vocabulary": {"name": state.vocabulary.name, "size": state.vocabulary.size},
            "train": state.train,
            "reader": state.reader,
        });
        output::print(&format!("{value:#}"));
        return Ok(());
    }
    let (decoder, train) = (&state.decoder, &state.train);
    let mut out = format!("checkpoint {}@{} of {}\n", found.training.short(), found.step, job.dataset());
    let _ = writeln!(
        out,
        "model      {} layers of width {}, {} heads, {:.1} M parameters, attention {}",
        decoder.layers,
        decoder.width,
        decoder.heads,
        decoder.parameters() as f64 / 1e6,
        json!(decoder.attention).as_str().unwrap_or_default()
    );
    let _ = writeln!(out, "vocabulary {}, {} ids; packs of {} tokens", state.vocabulary.name, state.vocabulary.size, decoder.seq_len);
    let _ = writeln!(
        out,
        "training   {} of {} steps of {} packs, learning rate {}, seed {}",
        found.step,
        train.steps,
        train.batch_packs,
        train.learning_rate.unwrap_or_default(),
        state.seed
    );
    let _ = writeln!(out, "reader     at pack {}", state.reader.position);
    output::print(&out);
    Ok(())
}

async fn export(args: &ExportArgs, session: &Session) -> Result<()> {
    let job = args.config.open_existing(session)?;
    let found = found(&job, &args.checkpoint).await?;
    let target = open_target(&job, &args.to)?;
    let exported = bundle::export(&job, &found, args.dtype.0, &target).await?;
    let (training, step, bytes) = (exported.training, exported.step, exported.files.values().sum::<u64>());
    if args.json {
        output::print(&json!({"training": training, "step": step, "files": exported.files}).to_string());
        return Ok(());
    }
    let mut out = format!(
        "checkpoint {}@{step}: {} files, {}, in {}",
        training.short(),
        exported.files.len(),
        output::bytes(bytes),
        target.address()
    );
    if !exported.has_tokenizer {
        out.push_str("\nno tokenizer.json: a Unigram tokenizer has no room for the ids of the model; text_tokenizer.json has its own ids");
    }
    output::print(&out);
    Ok(())
}
