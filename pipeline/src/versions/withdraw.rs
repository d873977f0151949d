//! `versions withdraw`: the next version without some samples, as an overlay over the latest one.
//!
//! Packs that hold a document of a withdrawn sample, or one that retrieved it, are rewritten in place: padding replaces the document. So
//! the number of packs, their order and their blocks stay, and with them the positions of readers. Only shards with a hole are written
//! anew. The ids are blocked for later windows. Tables are streamed: memory grows with the withdrawn samples, their documents and the
//! size of one shard, not with the version.

mod documents;
mod find;
mod near;
mod overlay;
mod redo;

use std::collections::BTreeSet;

use cm3flow_schemas::version::VersionManifest;
use cm3flow_schemas::{ImageId, SampleId, columns};
use serde::Serialize;

use documents::WindowDocuments;
use find::{FoundRow, Named};
pub use near::{EQUAL_CODES, Likeness, Near, ParseNearError, SIMILARITY};
use overlay::{OverlayWriter, WindowChange};
pub(crate) use redo::redo;

use crate::catalog::Published;
use crate::catalog::blocklist::Blocklist;
use crate::catalog::units::WindowTables;
use crate::config::Job;
use crate::error::Result;

/// Samples to withdraw, and how.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Ids of samples, or unique beginnings of ids.
    pub samples: Vec<String>,
    /// Ids of main images, or unique beginnings: all samples with the image.
    pub images: Vec<String>,
    /// Samples by source and key, as `source/key`.
    pub keys: Vec<String>,
    /// Copies of these samples that go too.
    pub near: Near,
    /// `true` to find and count everything and write nothing.
    pub dry_run: bool,
}

/// Reason for withdrawing a sample.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(tag = "why", rename_all = "snake_case")]
pub enum Why {
    /// The request names it.
    Named,
    /// Its main image has the bytes of a requested one.
    SameImage,
    /// Its main image is nearly equal to a requested one.
    Near(Likeness),
}

/// State of a sample before its withdrawal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FormerState {
    /// Documents were made of it.
    Kept,
    /// Another sample stands for it.
    Duplicate,
    /// A stage refused it. The withdrawal blocks its id; it stays counted as refused.
    Refused,
}

/// A withdrawn row of the sources.
#[derive(Debug, Clone, Serialize)]
pub struct WithdrawnSample {
    /// Id of the sample.
    pub sample_id: SampleId,
    /// Id of its main image; none for a refused sample.
    pub image_id: Option<ImageId>,
    /// Source by its name in the configuration.
    pub source: String,
    /// Key in the source.
    pub key: String,
    /// Window that read it.
    pub window: usize,
    /// State before the withdrawal.
    pub was: FormerState,
    /// Reason for the withdrawal.
    #[serde(flatten)]
    pub why: Why,
}

/// Numbers of withdrawn documents.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct WithdrawnDocuments {
    /// Documents made of a withdrawn sample.
    pub own: u64,
    /// Documents made of another sample that retrieved a withdrawn one.
    pub retrieved: u64,
}

/// Result of a withdrawal.
#[derive(Debug, Clone, Serialize)]
pub struct Withdrawal {
    /// Name of the dataset.
    pub dataset: String,
    /// Version that samples are withdrawn from.
    pub base: u32,
    /// Version without them; none if nothing was to do or under `dry_run`.
    pub version: Option<u32>,
    /// `true` if the request asked to write nothing.
    pub dry_run: bool,
    /// Withdrawn samples, in order of windows and units.
    pub samples: Vec<WithdrawnSample>,
    /// Requested samples and copies of such that were withdrawn before.
    pub already_withdrawn: BTreeSet<SampleId>,
    /// Documents removed from their packs.
    pub documents: WithdrawnDocuments,
    /// Number of packs with a new hole.
    pub packs: u64,
    /// Number of packs among them without any document left.
    pub empty_packs: u64,
    /// Number of shards that new ones replace.
    pub shards: u64,
}

impl Withdrawal {
    /// Checks whether everything was withdrawn and blocked before.
    #[must_use]
    pub const fn nothing_to_do(&self) -> bool {
        self.version.is_none() && !self.dry_run
    }
}

/// Publishes the version after the latest one of the configuration's dataset, without the samples that `request` names.
///
/// # Errors
/// [`crate::PipelineError::NothingPublished`]; [`crate::PipelineError::NoId`], [`crate::PipelineError::UnknownId`] or
/// [`crate::PipelineError::AmbiguousId`] for a name; [`crate::PipelineError::Overtaken`] if another command published the next version
/// first; [`crate::PipelineError::Damaged`] if tables and packs contradict each other; those of the store.
pub async fn withdraw(job: &Job, request: &Request) -> Result<Withdrawal> {
    let (store, catalog) = (&job.store, job.catalog());
    let Published { manifest: base, windows, blocklist: before } = Published::open(&catalog, None).await?;
    let tables = WindowTables::new(store, &windows);

    let named = find::named(&tables, windows.len(), request, base.version).await?;
    let names = row_columns(&base);
    let mut rows = find::rows_of(&tables, &named, &names).await?;
    if let Near::From(similarity) = request.near {
        let copies = near::copies(&tables, &names, &rows, similarity).await?;
        rows.extend(copies);
    }
    rows.sort_by_key(|found| (found.place, found.row.row));
    let (already, rows): (Vec<FoundRow>, Vec<FoundRow>) =
        rows.into_iter().partition(|found| before.contains(found.row.sample_id, found.row.image_id));
    let states = find::states(&tables, windows.len(), &rows).await?;

    let blocklist = blocked(&before, &named, &rows, request.near);
    let mut withdrawal = Withdrawal {
        dataset: base.dataset.clone(),
        base: base.version,
        version: None,
        dry_run: request.dry_run,
        samples: listed(&named, &before, &rows, &states),
        already_withdrawn: already
            .iter()
            .map(|found| found.row.sample_id)
            .chain(named.samples.intersection(&before.samples).copied())
            .collect(),
        documents: WithdrawnDocuments::default(),
        packs: 0,
        empty_packs: 0,
        shards: 0,
    };
    if blocklist == before {
        return Ok(Withdrawal { dry_run: false, ..withdrawal });
    }
    let new: BTreeSet<SampleId> = rows.iter().map(|found| found.row.sample_id).collect();
    let documents = documents::withdrawn(&tables, windows.len(), &new, &before.samples).await?;
    let changes = changes(documents, &rows, &states);
    let overlay = OverlayWriter::new(store, &base, request.dry_run).lay(windows.into_iter().zip(changes)).await?;
    withdrawal.documents = overlay.documents;
    (withdrawal.packs, withdrawal.empty_packs, withdrawal.shards) = (overlay.packs, overlay.empty_packs, overlay.shards);
    if !request.dry_run {
        let blocklist = blocklist.write(store, &base.dataset).await?;
        withdrawal.version = Some(catalog.publish_overlay(&base, blocklist, overlay.windows).await?.version);
    }
    Ok(withdrawal)
}

/// Returns the columns that rows of a version are read from.
fn row_columns(base: &VersionManifest) -> Vec<&'static str> {
    columns::with_image_grids(&find::PreparedRow::COLUMNS, base.vocabulary.shapes.is_some())
}

/// Returns the blocked ids from now on. Blocks images of withdrawn samples too, unless only named samples go.
fn blocked(before: &Blocklist, named: &Named, rows: &[FoundRow], near: Near) -> Blocklist {
    let mut blocklist = before.clone();
    blocklist.samples.extend(&named.samples);
    blocklist.samples.extend(rows.iter().map(|found| found.row.sample_id));
    blocklist.images.extend(&named.images);
    if near != Near::Off {
        blocklist.images.extend(rows.iter().map(|found| found.row.image_id));
    }
    blocklist
}

fn listed(named: &Named, before: &Blocklist, rows: &[FoundRow], states: &[FormerState]) -> Vec<WithdrawnSample> {
    let found = rows.iter().zip(states).map(|(FoundRow { place, row, why }, &was)| WithdrawnSample {
        sample_id: row.sample_id,
        image_id: Some(row.image_id),
        source: row.source.clone(),
        key: row.key.clone(),
        window: place.window,
        was,
        why: *why,
    });
    let refused = named.refused.iter().filter(|(_, row)| !before.samples.contains(&row.sample_id)).map(|(place, row)| WithdrawnSample {
        sample_id: row.sample_id,
        image_id: None,
        source: row.source.clone(),
        key: row.key.clone(),
        window: place.window,
        was: FormerState::Refused,
        why: Why::Named,
    });
    found.chain(refused).collect()
}

/// Returns the changes of each window: `rows` with their states, and `documents`, which are listed window by window.
fn changes(documents: Vec<WindowDocuments>, rows: &[FoundRow], states: &[FormerState]) -> Vec<WindowChange> {
    let mut changes: Vec<WindowChange> = documents.into_iter().map(WindowChange::new).collect();
    for (found, state) in rows.iter().zip(states) {
        let change = &mut changes[found.place.window];
        match state {
            FormerState::Kept => {
                change.kept += 1;
                *change.licenses.entry(found.row.annotations.license_name().to_owned()).or_default() += 1;
            }
            FormerState::Duplicate => change.duplicate += 1,
            FormerState::Refused => {}
        }
    }
    changes
}
