//! Looks into a published version: what stands behind an id, and how much of the codebook is used.
//!
//! Samples and documents are named by their ids, or by a beginning that no other one has; a pack by its split and its place among the
//! packs of that split, as in `train/12`: windows are only appended, so the name stays in later versions of the same line. Searches
//! fetch the columns of ids alone.

mod codebook;
mod document;
mod find;
mod listing;
mod pack;
mod sample;
mod withdrawn;

use std::ops::Range;

use cm3flow_schemas::Grid;
use cm3flow_schemas::document::{ImageCodes, Modality, Segment};
use cm3flow_schemas::version::VersionManifest;
use cm3flow_schemas::window::WindowRecord;
pub use codebook::CodebookView;
pub use document::DocumentView;
pub(crate) use find::Prefix;
pub use listing::{ListedDocument, ListedPacks, ListedSample, Listing};
pub use pack::{PackPlace, PackView, PackedDocument};
pub use sample::{DocumentSummary, SamplePlace, SampleState, SampleView};
use serde::Serialize;
pub(crate) use withdrawn::is_document_withdrawn;

use crate::artefact::decode::{Content, Part, Run};
use crate::artefact::picture::Decoded;
use crate::artefact::{Artefacts, picture, pinned_of};
use crate::catalog::blocklist::Blocklist;
use crate::catalog::units::WindowTables;
use crate::catalog::{Published, VersionRef};
use crate::config::Job;
use crate::error::Result;

/// A published version that is looked into.
pub struct Inspector {
    job: Job,
    manifest: VersionManifest,
    windows: Vec<WindowRecord>,
    /// Ids that the version may not show.
    blocked: Blocklist,
}

impl Inspector {
    /// Opens `version` of the configuration's dataset, or the latest one.
    ///
    /// # Errors
    /// [`crate::PipelineError::NothingPublished`], [`crate::PipelineError::NoVersion`], or what the store says.
    pub async fn open(job: &Job, version: Option<&VersionRef>) -> Result<Self> {
        let Published { manifest, windows, blocklist: blocked } = Published::open(&job.catalog(), version).await?;
        Ok(Self { job: job.clone(), manifest, windows, blocked })
    }

    fn tables(&self) -> WindowTables<'_> {
        WindowTables::new(&self.job.store, &self.windows)
    }

    /// All windows.
    fn all(&self) -> Range<usize> {
        0..self.windows.len()
    }

    async fn artefacts(&self) -> Result<Artefacts> {
        pinned_of(&self.job, &self.manifest).await
    }
}

/// A picture, decoded from its codes.
#[derive(Debug, Clone, Serialize)]
pub struct Picture {
    /// Name for its file.
    pub file: String,
    /// What it is: a role of the sample's images, or what its segment is there for.
    pub role: String,
    /// Its codes, row-major; only when token ids are asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub codes: Option<Vec<u32>>,
    /// Their rows and columns, where images have several shapes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grid: Option<Grid>,
    /// PNG file.
    #[serde(skip)]
    pub png: Vec<u8>,
}

/// Decodes pictures from `images`: names of their files without ending, what they are, and codes.
async fn pictures(artefacts: &Artefacts, images: Vec<(String, String, ImageCodes)>) -> Result<Vec<Picture>> {
    let decoded = picture::decode(artefacts, images.iter().map(|(.., image)| image.clone()).collect()).await?;
    let picture = |((name, role, image), decoded): ((String, String, ImageCodes), Decoded)| {
        let file = format!("{}.png", file_name(&name));
        let (width, height) = decoded.size;
        Ok(Picture { file, role, codes: Some(image.codes), grid: image.grid, png: picture::png(&decoded.pixels, width, height)? })
    };
    images.into_iter().zip(decoded).map(picture).collect()
}

/// The images of an unmasked document, for [`pictures`]; their names begin with `prefix`.
fn images_of(parts: &[Part], prefix: &str) -> Vec<(String, String, ImageCodes)> {
    let images = parts.iter().filter_map(|part| match &part.content {
        Content::Image(image) => Some((part.role.name(), image)),
        Content::Text(_) => None,
    });
    images.enumerate().map(|(index, (role, image))| (format!("{prefix}{index}-{role}"), role.to_owned(), image.clone())).collect()
}

/// Roles of images come from the sources: what could lead out of a folder is replaced.
fn file_name(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect()
}

/// A segment with what it says.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SegmentView {
    /// First token, counted from the document's first or, in a pack, from the pack's first.
    pub start: u32,
    /// Number of tokens.
    pub len: u32,
    /// Kind of its tokens.
    pub modality: &'static str,
    /// What it is there for.
    pub role: &'static str,
    /// Task of its document.
    pub task: String,
    /// Weight of its tokens as prediction targets, 0 or more.
    pub loss_weight: f32,
    /// Whether its tokens are learnt to be predicted.
    pub has_loss: bool,
    /// Its text, its control token by name, or `[n codes]`.
    pub text: String,
}

impl SegmentView {
    fn new(run: Run, task: &str) -> Self {
        let Segment { start, len, modality, role, loss_weight } = run.segment;
        let (modality, role) = (modality.name(), role.name());
        Self { start, len, modality, role, task: task.to_owned(), loss_weight, has_loss: loss_weight > 0.0, text: run.text }
    }
}

/// A spelled document in one line.
fn line(runs: &[Run]) -> String {
    let spaced = |run: &Run| match run.segment.modality {
        Modality::Text => run.text.clone(),
        _ => format!(" {} ", run.text),
    };
    runs.iter().map(spaced).collect::<String>().trim().replace("  ", " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_cannot_leave_their_folder() {
        assert_eq!(file_name("main"), "main");
        assert_eq!(file_name("../a b/\u{1b}é.png"), "___a_b____png");
    }
}
