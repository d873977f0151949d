//! `versions withdraw`: the next version without some samples, as an overlay over the latest one.
//!
//! Packs that hold a document of a withdrawn sample, or one that retrieved it, are rewritten in place: a hole of padding stands where the
//! document stood, so the number of packs, their order and the blocks they lie in stay, and with them the positions of readers. Only shards
//! with a hole are written anew. The ids are blocked for later windows. Tables are streamed: what is held in memory grows with the
//! withdrawn samples and their documents, and with the size of one shard, not with the version.

mod documents;
mod find;
mod near;
mod overlay;
mod redo;

use std::collections::BTreeSet;

use cm3flow_schemas::version::VersionManifest;
use cm3flow_schemas::{ImageId, SampleId, columns};
use documents::WindowDocuments;
use find::{FoundRow, Named};
pub use near::{EQUAL_CODES, Likeness, Near, ParseNearError, SIMILARITY};
use overlay::{Layer, WindowChange};
pub(crate) use redo::redo;
use serde::Serialize;

use crate::catalog::Published;
use crate::catalog::blocklist::Blocklist;
use crate::catalog::units::WindowTables;
use crate::config::Job;
use crate::error::Result;

/// What is to be withdrawn.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Ids of samples, or beginnings that no other one has.
    pub samples: Vec<String>,
    /// Ids of main images, or such beginnings: all samples that have the image.
    pub images: Vec<String>,
    /// Samples by source and key, as `source/key`.
    pub keys: Vec<String>,
    /// Which copies of them go too.
    pub near: Near,
    /// Finds and counts everything, and writes nothing.
    pub dry_run: bool,
}

/// Why a sample is withdrawn.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(tag = "why", rename_all = "snake_case")]
pub enum Why {
    /// It was asked for.
    Named,
    /// Its main image has the bytes of one that was asked for.
    SameImage,
    /// Its main image is nearly one that was asked for.
    Near(Likeness),
}

/// What became of a row of the sources before it was withdrawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FormerState {
    /// Documents were made of it.
    Kept,
    /// Another sample stood for it.
    Duplicate,
    /// It was not wanted; its id is blocked, and it stays counted as refused.
    Refused,
}

/// A row that is withdrawn.
#[derive(Debug, Clone, Serialize)]
pub struct WithdrawnSample {
    /// Its id.
    pub sample_id: SampleId,
    /// Id of its main image; none for a refused sample.
    pub image_id: Option<ImageId>,
    /// Source by its name in the configuration.
    pub source: String,
    /// Key in the source.
    pub key: String,
    /// Window that read it.
    pub window: usize,
    /// What it was.
    pub was: FormerState,
    /// Why it goes.
    #[serde(flatten)]
    pub why: Why,
}

/// Documents that are withdrawn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct WithdrawnDocuments {
    /// Made of a withdrawn sample.
    pub own: u64,
    /// Made of another sample, for which a withdrawn one was retrieved.
    pub retrieved: u64,
}

/// What came of a withdrawal.
#[derive(Debug, Clone, Serialize)]
pub struct Withdrawal {
    /// The dataset.
    pub dataset: String,
    /// Version that it was withdrawn from.
    pub base: u32,
    /// Version without it; none if there was nothing to do or under `dry_run`.
    pub version: Option<u32>,
    /// Whether nothing was written because nothing was to be.
    pub dry_run: bool,
    /// Samples, in order of windows and units.
    pub samples: Vec<WithdrawnSample>,
    /// Samples that were asked for, or are copies of such, and had been withdrawn before.
    pub already_withdrawn: BTreeSet<SampleId>,
    /// Documents taken out of their packs.
    pub documents: WithdrawnDocuments,
    /// Packs with a new hole.
    pub packs: u64,
    /// Those of them that hold no document any more.
    pub empty_packs: u64,
    /// Shards that other ones take the place of.
    pub shards: u64,
}

impl Withdrawal {
    /// Whether everything had been withdrawn and blocked before.
    #[must_use]
    pub const fn nothing_to_do(&self) -> bool {
        self.version.is_none() && !self.dry_run
    }
}

/// Publishes the version after the latest one of the configuration's dataset, without what `request` names.
///
/// # Errors
/// [`crate::PipelineError::NothingPublished`]; [`crate::PipelineError::NoId`], [`crate::PipelineError::UnknownId`] or
/// [`crate::PipelineError::AmbiguousId`] for a name; [`crate::PipelineError::Overtaken`] if another command published the next version
/// first; [`crate::PipelineError::Damaged`] if tables and packs contradict each other; or what the store says.
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
    let overlay = Layer::new(store, &base, request.dry_run).lay(windows.into_iter().zip(changes)).await?;
    withdrawal.documents = overlay.documents;
    (withdrawal.packs, withdrawal.empty_packs, withdrawal.shards) = (overlay.packs, overlay.empty_packs, overlay.shards);
    if !request.dry_run {
        let blocklist = blocklist.write(store, &base.dataset).await?;
        withdrawal.version = Some(catalog.publish_overlay(&base, blocklist, overlay.windows).await?.version);
    }
    Ok(withdrawal)
}

/// Columns that rows of a version are read from.
fn row_columns(base: &VersionManifest) -> Vec<&'static str> {
    columns::with_image_grids(&find::PreparedRow::COLUMNS, base.vocabulary.shapes.is_some())
}

/// Ids that are blocked from now on: images too, unless only what is named is to go.
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

/// What goes from each window: `rows` with their states, and `documents`, which are listed window by window.
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
