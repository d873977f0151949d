//! Rows of the sources that a request names, and their former states.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::ops::ControlFlow;

use cm3flow_schemas::document::ImageRef;
use cm3flow_schemas::sample::{Annotations, MAIN_IMAGE, RoleCodes};
use cm3flow_schemas::{ImageId, RoleGrid, SampleId, columns};
use serde::Deserialize;

use super::{FormerState, Request, Why};
use crate::catalog::units::{Table, UnitPlace, WindowTables};
use crate::error::{PipelineError, Result};
use crate::view::inspect::Prefix;

pub(super) const PREPARED: Table = Table::Prepared;
const REFUSED: Table = Table::RefusedSamples;
const SETTLED: Table = Table::Settled;

/// A prepared sample with the columns that near-duplicates are found by.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct PreparedRow {
    pub(super) sample_id: SampleId,
    pub(super) image_id: ImageId,
    pub(super) source: String,
    pub(super) key: String,
    pub(super) row: u64,
    pub(super) annotations: Annotations,
    pub(super) image_codes: Vec<RoleCodes>,
    #[serde(default)]
    pub(super) image_grids: Vec<RoleGrid>,
    pub(super) image_embedding: Vec<f32>,
}

impl PreparedRow {
    /// Columns to read; those with shapes are added to them.
    pub(super) const COLUMNS: [&str; 8] = [
        columns::SAMPLE_ID,
        columns::IMAGE_ID,
        columns::SOURCE,
        columns::KEY,
        columns::ROW,
        columns::ANNOTATIONS,
        columns::IMAGE_CODES,
        columns::IMAGE_EMBEDDING,
    ];

    /// Returns codes and shape of the main image.
    pub(super) fn main_image(&self) -> ImageRef<'_> {
        let codes = self.image_codes.iter().find(|image| image.role == MAIN_IMAGE).map_or(&[][..], |image| &image.codes);
        ImageRef { codes, grid: RoleGrid::of(&self.image_grids, MAIN_IMAGE) }
    }
}

/// A row to withdraw.
#[derive(Debug, Clone)]
pub(super) struct FoundRow {
    pub(super) place: UnitPlace,
    pub(super) row: PreparedRow,
    pub(super) why: Why,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct RefusedRow {
    pub(super) sample_id: SampleId,
    pub(super) source: String,
    pub(super) key: String,
}

/// Samples and images that a request names.
#[derive(Debug, Default)]
pub(super) struct Named {
    /// Samples by id or key, refused ones included.
    pub(super) samples: BTreeSet<SampleId>,
    /// Images by id.
    pub(super) images: BTreeSet<ImageId>,
    /// Units that hold prepared rows of these samples or images.
    places: BTreeSet<UnitPlace>,
    /// Refused rows of these samples.
    pub(super) refused: Vec<(UnitPlace, RefusedRow)>,
}

/// One name in a request.
enum Query<'r> {
    Sample(Prefix),
    Image(Prefix),
    Key { text: &'r str, source: &'r str, key: &'r str },
}

/// A name with its matches so far.
struct Search<'r> {
    query: Query<'r>,
    samples: BTreeSet<SampleId>,
    images: BTreeSet<ImageId>,
    places: BTreeSet<UnitPlace>,
    refused: Vec<(UnitPlace, RefusedRow)>,
}

impl<'r> Search<'r> {
    const fn new(query: Query<'r>) -> Self {
        Self { query, samples: BTreeSet::new(), images: BTreeSet::new(), places: BTreeSet::new(), refused: Vec::new() }
    }

    fn all(request: &'r Request) -> Result<Vec<Self>> {
        let samples = request.samples.iter().map(|id| Prefix::try_new("sample", id).map(Query::Sample));
        let images = request.images.iter().map(|id| Prefix::try_new("image", id).map(Query::Image));
        let keys = request.keys.iter().map(|text| {
            let refused =
                || PipelineError::NoId { text: text.clone(), kind: "sample", expected: "by key, a sample is named as SOURCE/KEY" };
            text.split_once('/').map(|(source, key)| Query::Key { text, source, key }).ok_or_else(refused)
        });
        samples.chain(images).chain(keys).map(|query| query.map(Self::new)).collect()
    }

    fn look(&mut self, place: UnitPlace, sample: SampleId, image: Option<ImageId>, source: &str, key: &str) -> bool {
        let is_it = match &self.query {
            Query::Sample(prefix) => prefix.begins(&sample.0) && !prefix.is_hopeless(&self.samples),
            Query::Image(prefix) => image.is_some_and(|image| prefix.begins(&image.0)) && !prefix.is_hopeless(&self.images),
            Query::Key { source: wanted_source, key: wanted_key, .. } => (source, key) == (wanted_source, wanted_key),
        };
        if is_it {
            match self.query {
                Query::Image(_) => self.images.extend(image),
                Query::Sample(_) | Query::Key { .. } => {
                    self.samples.insert(sample);
                }
            }
            if image.is_some() {
                self.places.insert(place);
            }
        }
        is_it
    }

    /// Adds the one match to `named`; fails if there are none or several.
    fn settle(self, named: &mut Named, version: u32) -> Result<()> {
        match &self.query {
            Query::Sample(prefix) => drop(named.samples.insert(prefix.one(&self.samples, version, "")?)),
            Query::Image(prefix) => drop(named.images.insert(prefix.one(&self.images, version, "")?)),
            Query::Key { text, .. } => {
                let mut samples = self.samples.iter();
                match (samples.next(), samples.next()) {
                    (Some(sample), None) => drop(named.samples.insert(*sample)),
                    (None, _) => {
                        return Err(PipelineError::UnknownId { kind: "sample", id: (*text).to_owned(), version, hint: String::new() });
                    }
                    _ => {
                        let candidates = self.samples.iter().map(ToString::to_string).collect();
                        return Err(PipelineError::AmbiguousId { kind: "sample", id: (*text).to_owned(), candidates });
                    }
                }
            }
        }
        named.places.extend(self.places);
        named.refused.extend(self.refused);
        Ok(())
    }
}

/// Finds the match of each name of `request` in a version of `windows` windows.
pub(super) async fn named(tables: &WindowTables<'_>, windows: usize, request: &Request, version: u32) -> Result<Named> {
    #[derive(Deserialize)]
    struct Row {
        sample_id: SampleId,
        image_id: ImageId,
        source: String,
        key: String,
    }
    let mut searches = Search::all(request)?;
    let visit = |place, Row { sample_id, image_id, source, key }: Row| {
        for search in &mut searches {
            search.look(place, sample_id, Some(image_id), &source, &key);
        }
        ControlFlow::Continue(())
    };
    tables.visit(PREPARED, 0..windows, &[columns::SAMPLE_ID, columns::IMAGE_ID, columns::SOURCE, columns::KEY], visit).await?;
    let visit = |place, row: RefusedRow| {
        for search in &mut searches {
            if search.look(place, row.sample_id, None, &row.source, &row.key) {
                search.refused.push((place, row.clone()));
            }
        }
        ControlFlow::Continue(())
    };
    tables.visit(REFUSED, 0..windows, &[columns::SAMPLE_ID, columns::SOURCE, columns::KEY], visit).await?;
    let mut named = Named::default();
    searches.into_iter().try_for_each(|search| search.settle(&mut named, version))?;
    Ok(named)
}

/// Reads the prepared rows of `named` from the columns `names`, in order of windows and units.
pub(super) async fn rows_of(tables: &WindowTables<'_>, named: &Named, names: &[&str]) -> Result<Vec<FoundRow>> {
    let mut found = Vec::new();
    for &place in &named.places {
        let is_named = |row: &PreparedRow| named.samples.contains(&row.sample_id) || named.images.contains(&row.image_id);
        let rows = tables.wanted(PREPARED, place, names, is_named).await?;
        found.extend(rows.into_iter().map(|row| FoundRow { place, row, why: Why::Named }));
    }
    Ok(found)
}

/// Reads the prepared rows of `samples` from the columns `names`, in order: those of the first window of `tables`, which has `units` units.
pub(super) async fn rows_of_samples(
    tables: &WindowTables<'_>,
    units: usize,
    samples: &BTreeSet<SampleId>,
    names: &[&str],
) -> Result<Vec<FoundRow>> {
    let places = (0..units).map(|unit| UnitPlace { window: 0, unit }).collect();
    let named = Named { samples: samples.clone(), places, ..Named::default() };
    let mut rows = rows_of(tables, &named, names).await?;
    rows.sort_by_key(|found| (found.place, found.row.row));
    Ok(rows)
}

/// Returns the former states of `rows`, which are in order of windows, units and rows.
pub(super) async fn states(tables: &WindowTables<'_>, windows: usize, rows: &[FoundRow]) -> Result<Vec<FormerState>> {
    #[derive(Deserialize)]
    struct Row {
        sample_id: SampleId,
        unit: u32,
        duplicate_of: Option<SampleId>,
    }
    let wanted: HashSet<SampleId> = rows.iter().map(|found| found.row.sample_id).collect();
    // Settled rows keep the order of a unit's rows, which tells two rows of one sample apart.
    let mut settled: HashMap<(UnitPlace, SampleId), VecDeque<FormerState>> = HashMap::new();
    let visit = |place: UnitPlace, Row { sample_id, unit, duplicate_of }: Row| {
        if wanted.contains(&sample_id) {
            let place = UnitPlace { unit: unit as usize, ..place };
            let state = if duplicate_of.is_some() { FormerState::Duplicate } else { FormerState::Kept };
            settled.entry((place, sample_id)).or_default().push_back(state);
        }
        ControlFlow::Continue(())
    };
    tables.visit(SETTLED, 0..windows, &[columns::SAMPLE_ID, columns::UNIT, columns::DUPLICATE_OF], visit).await?;
    let state_of = |found: &FoundRow| {
        let state = settled.get_mut(&(found.place, found.row.sample_id)).and_then(VecDeque::pop_front);
        state.ok_or_else(|| PipelineError::Damaged {
            location: format!("the settled samples of window {}", found.place.window),
            problem: format!("they do not decide about sample {}", found.row.sample_id),
        })
    };
    rows.iter().map(state_of).collect()
}
