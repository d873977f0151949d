//! `inspect`.

mod text;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::{Value, json};

use super::{ConfigArgs, Session, output};
use crate::catalog::VersionRef;
use crate::error::{PipelineError, Result};
use crate::view::inspect::{Inspector, Picture};

/// Samples and refused samples in a listing.
const LISTED: usize = 5;
/// Digits of an id in the name of a folder.
const SHORT: usize = 12;

#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Version to look into, by number or tag; the latest by default
    #[arg(long, global = true, value_name = "VERSION")]
    version: Option<VersionRef>,
    /// Folder for decoded pictures; by default one in the current folder, named by the id
    #[arg(long, global = true, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Shows token ids, and codes of images, too
    #[arg(long, global = true)]
    tokens: bool,
    /// Prints JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Lists some ids to begin with; so does `inspect CONFIG` alone
    List,
    /// A sample: where it came from, what became of it, its documents
    Sample {
        /// Its id, or a beginning that no other one has
        id: String,
    },
    /// A document: its text with and without masks, its segments, what was retrieved for it
    Document {
        /// Its id, or a beginning that no other one has
        id: String,
    },
    /// A pack: its documents and segments
    Pack {
        /// Split and place in it, as in train/0
        #[arg(value_name = "SPLIT/INDEX")]
        id: String,
    },
    /// How much of the codebook the image tokens use
    Codebook,
}

pub(super) async fn inspect(args: &InspectArgs, session: &Session) -> Result<()> {
    let job = args.config.open_existing(session)?;
    let inspector = Inspector::open(&job, args.version.as_ref()).await?;
    match args.what.as_ref().unwrap_or(&What::List) {
        What::List => show(args, &inspector.listing(LISTED).await?, "list", None, |view, _| text::listing(view)),
        What::Codebook => show(args, &inspector.codebook().await?, "codebook", None, |view, _| text::codebook(view)),
        What::Sample { id } => {
            let mut view = inspector.sample(id).await?;
            let id = view.sample_id.to_string();
            let folder = pictures(args, &mut view.images, &format!("sample-{}", &id[..SHORT]))?;
            show(args, &view, "sample", folder.as_deref(), text::sample);
        }
        What::Document { id } => {
            let mut view = inspector.document(id).await?;
            view.token_ids = view.token_ids.filter(|_| args.tokens);
            let id = view.document_id.to_string();
            let folder = pictures(args, &mut view.images, &format!("document-{}", &id[..SHORT]))?;
            show(args, &view, "document", folder.as_deref(), text::document);
        }
        What::Pack { id } => {
            let mut view = inspector.pack(id).await?;
            view.token_ids = view.token_ids.filter(|_| args.tokens);
            let folder = pictures(args, &mut view.images, &format!("pack-{}", view.pack.replace('/', "-")))?;
            show(args, &view, "pack", folder.as_deref(), text::pack);
        }
    }
    Ok(())
}

/// Writes the pictures into the folder `--out`, by default `name`; returns the folder, `None` without pictures.
fn pictures(args: &InspectArgs, pictures: &mut [Picture], name: &str) -> Result<Option<PathBuf>> {
    if pictures.is_empty() {
        return Ok(None);
    }
    let folder = args.out.clone().unwrap_or_else(|| PathBuf::from(name));
    std::fs::create_dir_all(&folder).map_err(|source| PipelineError::Write { path: folder.clone(), source })?;
    for picture in pictures {
        let path = folder.join(&picture.file);
        std::fs::write(&path, &picture.png).map_err(|source| PipelineError::Write { path, source })?;
        picture.codes = picture.codes.take().filter(|_| args.tokens);
    }
    Ok(Some(folder))
}

/// Prints a view of the given kind, whose pictures lie in `folder`.
fn show<T: Serialize>(args: &InspectArgs, view: &T, kind: &str, folder: Option<&Path>, text: impl Fn(&T, Option<&Path>) -> String) {
    if !args.json {
        return output::print(&text(view, folder));
    }
    let mut shown: Value = json!(view);
    shown["kind"] = json!(kind);
    if let Some(folder) = folder {
        shown["folder"] = json!(folder.display().to_string());
    }
    output::print(&shown.to_string());
}
