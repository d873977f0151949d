//! Inspection of a published version: the content behind an id, and the use of the codebook.
//!
//! Samples and documents are named by their ids or unique beginnings. A pack is named by its split and its place among the packs of that
//! split, as in `train/12`. Windows are only appended, so the name stays in later versions of the same line. Searches fetch only the
//! columns of ids.

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
use serde::Serialize;

pub use codebook::CodebookView;
pub use document::DocumentView;
pub(crate) use find::Prefix;
pub use listing::{ListedDocument, ListedPacks, ListedSample, Listing};
pub use pack::{PackPlace, PackView, PackedDocument};
pub use sample::{DocumentSummary, SamplePlace, SampleState, SampleView};
pub(crate) use withdrawn::is_document_withdrawn;

use crate::artefact::decode::{Content, Part, SpelledSegment};
use crate::artefact::picture::Decoded;
use crate::artefact::{Artefacts, picture, pinned_of};
use crate::catalog::blocklist::Blocklist;
use crate::catalog::units::WindowTables;
use crate::catalog::{Published, VersionRef};
use crate::config::Job;
use crate::error::Result;

/// A published version under inspection.
pub struct Inspector {
    job: Job,
    manifest: VersionManifest,
    windows: Vec<WindowRecord>,
    /// Withdrawn ids, which it must not show.
    blocked: Blocklist,
}

impl Inspector {
    /// Opens `version` of the configuration's dataset, the latest if `None`.
    ///
    /// # Errors
    /// [`crate::PipelineError::NothingPublished`], [`crate::PipelineError::NoVersion`], or those of the store.
    pub async fn open(job: &Job, version: Option<&VersionRef>) -> Result<Self> {
        let Published { manifest, windows, blocklist: blocked } = Published::open(&job.catalog(), version).await?;
        Ok(Self { job: job.clone(), manifest, windows, blocked })
    }

    fn tables(&self) -> WindowTables<'_> {
        WindowTables::new(&self.job.store, &self.windows)
    }

    /// Returns the range of all windows.
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
    /// Name of its file.
    pub file: String,
    /// Role of the image in its sample, or of its segment in the document.
    pub role: String,
    /// Codes, row-major; only when token ids are requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub codes: Option<Vec<u32>>,
    /// Rows and columns of the codes, where images have several shapes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grid: Option<Grid>,
    /// Bytes of a PNG file.
    #[serde(skip)]
    pub png: Vec<u8>,
}

/// Decodes pictures from `images`: file names without ending, roles, and codes.
async fn pictures(artefacts: &Artefacts, images: Vec<(String, String, ImageCodes)>) -> Result<Vec<Picture>> {
    let decoded = picture::decode(artefacts, images.iter().map(|(.., image)| image.clone()).collect()).await?;
    let picture = |((name, role, image), decoded): ((String, String, ImageCodes), Decoded)| {
        let file = format!("{}.png", file_name(&name));
        let png = picture::png(&decoded.pixels, decoded.width, decoded.height)?;
        Ok(Picture { file, role, codes: Some(image.codes), grid: image.grid, png })
    };
    images.into_iter().zip(decoded).map(picture).collect()
}

/// Returns the images of an unmasked document in the form that [`pictures`] takes; their names begin with `prefix`.
fn images_of(parts: &[Part], prefix: &str) -> Vec<(String, String, ImageCodes)> {
    let images = parts.iter().filter_map(|part| match &part.content {
        Content::Image(image) => Some((part.role.name(), image)),
        Content::Text(_) => None,
    });
    images.enumerate().map(|(index, (role, image))| (format!("{prefix}{index}-{role}"), role.to_owned(), image.clone())).collect()
}

/// Replaces characters that could lead out of a folder: roles of images come from the sources.
fn file_name(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect()
}

/// A segment with its text.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SegmentView {
    /// First token, counted from the first token of the document or, in a pack, of the pack.
    pub start: u32,
    /// Number of tokens.
    pub len: u32,
    /// Kind of its tokens.
    pub modality: &'static str,
    /// Role of the segment in its document.
    pub role: &'static str,
    /// Task of its document.
    pub task: String,
    /// Weight of its tokens as prediction targets, 0 or more.
    pub loss_weight: f32,
    /// `true` if its tokens count in the loss.
    pub has_loss: bool,
    /// Its text, its control token by name, or `[n codes]`.
    pub text: String,
}

impl SegmentView {
    fn new(spelled: SpelledSegment, task: &str) -> Self {
        let Segment { start, len, modality, role, loss_weight } = spelled.segment;
        let (modality, role) = (modality.name(), role.name());
        Self { start, len, modality, role, task: task.to_owned(), loss_weight, has_loss: loss_weight > 0.0, text: spelled.text }
    }
}

/// Joins a spelled document into one line.
fn line(runs: &[SpelledSegment]) -> String {
    let spaced = |run: &SpelledSegment| match run.segment.modality {
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
