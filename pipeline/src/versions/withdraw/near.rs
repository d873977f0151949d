//! Near-duplicates: rows whose main image equals that of a withdrawn sample, or nearly so.
//!
//! Embeddings are compared first, since they are short, then the codes of the remaining rows: an embedding tells what a picture shows,
//! codes tell where. With the default thresholds, the 75 photos of the sample corpus find their copies and nothing else. This holds for
//! the default embedder and codes of k-means patches (64 an image) or `photos-tiny` (256 an image, fitted for 60 steps). Five copies of
//! each photo were tested. All 300 copies that were encoded again at quality 30 or 60, or scaled to a half or three quarters, were found,
//! with inner products of at least 0.989 and at least 72 % of equal codes. Of the 75 copies without 2 % at each side, 73 were found. Inner
//! products of different photos reached 0.961; pairs above 0.95 had less than a fifth of equal codes.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::str::FromStr;

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::datatypes::Float32Type;
use cm3flow_schemas::document::ImageRef;
use cm3flow_schemas::{ImageId, columns, rows};
use futures::TryStreamExt;
use serde::Serialize;
use thiserror::Error;

use super::Why;
use super::find::{FoundRow, PREPARED, PreparedRow};
use crate::catalog::units::{UnitPlace, WindowTables};
use crate::error::Result;
use crate::store::table;

/// Least inner product of the embeddings of two near images, both of unit length.
pub const SIMILARITY: f32 = 0.97;
/// Least share of equal codes, place by place, of two near images.
pub const EQUAL_CODES: f32 = 0.2;

/// Copies that go with a withdrawn sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Near {
    /// No copies.
    Off,
    /// Copies with the same main image, and those whose embeddings have at least this inner product, 0 to 1, and enough equal codes.
    From(f32),
}

impl Default for Near {
    fn default() -> Self {
        Self::From(SIMILARITY)
    }
}

impl fmt::Display for Near {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::From(threshold) => write!(f, "{threshold}"),
        }
    }
}

/// Text that is neither `off` nor a threshold.
#[derive(Debug, Error)]
#[error("{text:?} is neither `off` nor a number in 0..=1")]
pub struct ParseNearError {
    text: String,
}

impl FromStr for Near {
    type Err = ParseNearError;

    fn from_str(text: &str) -> Result<Self, ParseNearError> {
        let threshold = text.parse().ok().filter(|threshold| (0.0..=1.0).contains(threshold));
        match (text, threshold) {
            ("off", _) => Ok(Self::Off),
            (_, Some(threshold)) => Ok(Self::From(threshold)),
            _ => Err(ParseNearError { text: text.to_owned() }),
        }
    }
}

/// Likeness of two images.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Likeness {
    /// Inner product of their embeddings, in -1..=1.
    pub similarity: f32,
    /// Share of equal codes, place by place, in 0..=1.
    pub equal_codes: f32,
}

impl Likeness {
    fn of(one: &PreparedRow, other: &PreparedRow) -> Self {
        Self {
            similarity: inner_product(&one.image_embedding, &other.image_embedding),
            equal_codes: equal_share(one.main_image(), other.main_image()),
        }
    }
}

/// Finds the rows that are copies of `named`, without these themselves. Reads the columns `names`; keeps the order of windows and units.
pub(super) async fn copies(tables: &WindowTables<'_>, names: &[&str], named: &[FoundRow], similarity: f32) -> Result<Vec<FoundRow>> {
    let seeds: BTreeMap<ImageId, &PreparedRow> = named.iter().map(|found| (found.row.image_id, &found.row)).collect();
    let listed: HashSet<(UnitPlace, u64)> = named.iter().map(|found| (found.place, found.row.row)).collect();
    let mut copies = Vec::new();
    if seeds.is_empty() {
        return Ok(copies);
    }
    for place in tables.places(PREPARED.segment(), tables.all()) {
        let Some(mut batches) = tables.batches(PREPARED, place, names).await? else { continue };
        while let Some(batch) = batches.try_next().await? {
            let candidates = table::filtered(&batch, &near_by_embedding(&batch, &seeds, similarity)?)?;
            for row in rows::read::<PreparedRow>(&candidates, names)? {
                let why = likeness(&row, &seeds, similarity);
                copies.extend(why.filter(|_| !listed.contains(&(place, row.row))).map(|why| FoundRow { place, row, why }));
            }
        }
    }
    Ok(copies)
}

/// Marks the rows of `batch` with an image of `seeds`, or an embedding near to one of theirs.
fn near_by_embedding(batch: &RecordBatch, seeds: &BTreeMap<ImageId, &PreparedRow>, similarity: f32) -> Result<BooleanArray> {
    let schema = batch.schema();
    let images = batch.column(rows::position(&schema, columns::IMAGE_ID)?).as_string::<i32>();
    let embeddings = batch.column(rows::position(&schema, columns::IMAGE_EMBEDDING)?).as_list::<i32>();
    let wanted: HashSet<String> = seeds.keys().map(ToString::to_string).collect();
    let is_near = |row: usize| {
        let embedding = embeddings.value(row);
        let embedding = embedding.as_primitive::<Float32Type>().values();
        wanted.contains(images.value(row)) || seeds.values().any(|seed| inner_product(&seed.image_embedding, embedding) >= similarity)
    };
    Ok((0..batch.num_rows()).map(|row| Some(is_near(row))).collect())
}

/// Returns the reason why `row` is a copy of one of `seeds`, by the nearest of them; `None` if it is no copy.
fn likeness(row: &PreparedRow, seeds: &BTreeMap<ImageId, &PreparedRow>, similarity: f32) -> Option<Why> {
    if seeds.contains_key(&row.image_id) {
        return Some(Why::SameImage);
    }
    let all = seeds.values().map(|seed| Likeness::of(seed, row));
    let near = all.filter(|likeness| likeness.similarity >= similarity && likeness.equal_codes >= EQUAL_CODES);
    near.max_by(|one, other| one.similarity.total_cmp(&other.similarity)).map(Why::Near)
}

/// Returns the inner product; 0 for vectors of different lengths, which come from different embedders.
fn inner_product(one: &[f32], other: &[f32]) -> f32 {
    if one.len() == other.len() { one.iter().zip(other).map(|(a, b)| a * b).sum() } else { 0.0 }
}

/// Returns the share of equal codes; 0 for different grids, or without codes.
fn equal_share(one: ImageRef<'_>, other: ImageRef<'_>) -> f32 {
    if one.codes.is_empty() || one.codes.len() != other.codes.len() || one.grid != other.grid {
        return 0.0;
    }
    one.codes.iter().zip(other.codes).filter(|(a, b)| a == b).count() as f32 / one.codes.len() as f32
}

#[cfg(test)]
mod tests {
    use cm3flow_schemas::sample::{Annotations, MAIN_IMAGE, RoleCodes};
    use cm3flow_schemas::{Grid, RoleGrid, SampleId};

    use super::*;

    fn row(image: u8, embedding: [f32; 2], codes: &[u32]) -> PreparedRow {
        PreparedRow {
            sample_id: SampleId([image; 16]),
            image_id: ImageId([image; 16]),
            source: "s".into(),
            key: "k".into(),
            row: 0,
            annotations: Annotations::default(),
            image_codes: vec![RoleCodes { role: MAIN_IMAGE.into(), codes: codes.to_vec() }],
            image_grids: Vec::new(),
            image_embedding: embedding.to_vec(),
        }
    }

    #[test]
    fn both_embedding_and_codes_must_be_near() {
        let seed = row(1, [1.0, 0.0], &[1, 2, 3, 4]);
        let seeds = BTreeMap::from([(seed.image_id, &seed)]);
        let why = |other: &PreparedRow| likeness(other, &seeds, 0.9);
        assert_eq!(why(&row(1, [0.0, 1.0], &[])), Some(Why::SameImage), "whatever it was prepared to");
        let near = Likeness { similarity: 1.0, equal_codes: 0.75 };
        assert_eq!(why(&row(2, [1.0, 0.0], &[1, 2, 3, 9])), Some(Why::Near(near)));
        assert_eq!(why(&row(2, [0.8, 0.6], &[1, 2, 3, 4])), None, "the embedding is another");
        assert_eq!(why(&row(2, [1.0, 0.0], &[9, 9, 9, 9])), None, "the codes are others");
        assert_eq!(why(&row(2, [1.0, 0.0], &[1, 2])), None, "the grid is another");
        let tall = vec![RoleGrid::new(MAIN_IMAGE, Grid { rows: 4, columns: 1 })];
        assert_eq!(why(&PreparedRow { image_grids: tall, ..row(2, [1.0, 0.0], &[1, 2, 3, 4]) }), None, "the grid is another");
    }

    #[test]
    fn a_threshold_is_read_as_it_is_shown() {
        for text in ["off", "0.5", "1"] {
            assert_eq!(text.parse::<Near>().expect("a threshold").to_string(), text);
        }
        assert_eq!(Near::default().to_string().parse::<Near>().expect("a threshold"), Near::default());
        for text in ["", "on", "1.1", "-0.1", "NaN"] {
            assert!(text.parse::<Near>().is_err(), "{text}");
        }
    }
}
