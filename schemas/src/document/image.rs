//! Images as ids: codes alone, or where images have several shapes:
//!
//! ```text
//! image := <size:rows> <size:columns> row{rows}
//! row   := code{columns} <eol>
//! ```
//! This module alone knows the order: builders, checks, readers and generators of images use it.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::error::VocabularyError;
use crate::grid::Grid;
use crate::vocabulary::{ImageShapes, Vocabulary};

/// Codes of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageCodes {
    /// Indices into the codebook, row-major.
    pub codes: Vec<u32>,
    /// Rows and columns of the codes; `None` where all images are squares.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grid: Option<Grid>,
}

/// Borrowed codes of an image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ImageRef<'a> {
    /// Indices into the codebook, row-major.
    pub codes: &'a [u32],
    /// Rows and columns of the codes; `None` where all images are squares.
    pub grid: Option<Grid>,
}

impl<'a> From<&'a ImageCodes> for ImageRef<'a> {
    fn from(image: &'a ImageCodes) -> Self {
        Self { codes: &image.codes, grid: image.grid }
    }
}

impl<'a> From<&'a [u32]> for ImageRef<'a> {
    fn from(codes: &'a [u32]) -> Self {
        Self { codes, grid: None }
    }
}

impl<'a> From<&'a Vec<u32>> for ImageRef<'a> {
    fn from(codes: &'a Vec<u32>) -> Self {
        Self::from(codes.as_slice())
    }
}

impl<'a, const N: usize> From<&'a [u32; N]> for ImageRef<'a> {
    fn from(codes: &'a [u32; N]) -> Self {
        Self::from(codes.as_slice())
    }
}

/// Kinds of token that may follow in an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NextInImage {
    /// One of these size tokens.
    Size(Vec<u32>),
    /// A code.
    Code,
    /// The end of a row.
    LineEnd,
    /// No token: the image is whole.
    Nothing,
}

/// Returns the kinds of token that may follow `ids`, a valid beginning of an image of one of `shapes`.
#[must_use]
pub fn next_in_image(shapes: &ImageShapes, ids: &[u32]) -> NextInImage {
    next(shapes, sides(shapes, ids), ids.len())
}

/// Returns rows and columns as the first two ids give them; `None` for those that are missing or no size.
fn sides(shapes: &ImageShapes, ids: &[u32]) -> [Option<u32>; 2] {
    [0, 1].map(|place| ids.get(place).and_then(|id| shapes.side_of(*id)))
}

/// Returns the kinds of token that may stand at `place` of an image with so many rows and columns, as far as they are known.
fn next(shapes: &ImageShapes, [rows, columns]: [Option<u32>; 2], place: usize) -> NextInImage {
    let sizes = |lengths: Vec<u32>| {
        let mut ids: Vec<u32> = lengths.into_iter().filter_map(|length| shapes.size_id(length)).collect();
        ids.dedup();
        NextInImage::Size(ids)
    };
    match (rows, columns) {
        (None, _) => sizes(shapes.grids.iter().map(|grid| grid.rows).collect()),
        (Some(rows), None) => sizes(shapes.grids.iter().filter(|grid| grid.rows == rows).map(|grid| grid.columns).collect()),
        (Some(rows), Some(columns)) => {
            let line = columns as usize + 1;
            match ((place - 2) / line, (place - 2) % line) {
                (row, _) if row >= rows as usize => NextInImage::Nothing,
                (_, column) if column == columns as usize => NextInImage::LineEnd,
                _ => NextInImage::Code,
            }
        }
    }
}

/// Returns the ids of a whole image.
///
/// # Errors
/// [`VocabularyError::OutOfRange`] for a code outside the image range; [`VocabularyError::Image`] for a grid that is not among the shapes
/// or does not match the number of codes.
pub fn image_ids(vocabulary: &Vocabulary, image: ImageRef<'_>) -> Result<Vec<u32>, VocabularyError> {
    let codes = vocabulary.image_ids(image.codes)?;
    let Some(shapes) = &vocabulary.shapes else { return Ok(codes) };
    let refused = |problem: String| VocabularyError::Image { problem };
    let grid = image.grid.ok_or_else(|| refused(format!("{} codes without their rows and columns", codes.len())))?;
    let sizes = [grid.rows, grid.columns].map(|side| shapes.size_id(side).filter(|_| shapes.grids.contains(&grid)));
    let [Some(rows), Some(columns)] = sizes else { return Err(refused(format!("no image has a grid of {grid}"))) };
    if grid.codes() != codes.len() {
        return Err(refused(format!("{} codes are none of {grid}", codes.len())));
    }
    let mut ids = Vec::with_capacity(ImageShapes::tokens_of(grid));
    ids.extend([rows, columns]);
    for row in codes.chunks_exact(grid.columns as usize) {
        ids.extend(row);
        ids.push(shapes.line_end);
    }
    Ok(ids)
}

/// Returns the codes of a whole image.
///
/// # Errors
/// [`VocabularyError::Foreign`] for an id outside the image range; [`VocabularyError::Image`] if the ids are not one whole image.
pub fn image_of(vocabulary: &Vocabulary, ids: &[u32]) -> Result<ImageCodes, VocabularyError> {
    let (ids, grid) = match &vocabulary.shapes {
        None => (Cow::Borrowed(ids), None),
        Some(shapes) => {
            check_image(vocabulary, shapes, ids)
                .map_err(|(place, problem)| VocabularyError::Image { problem: format!("{problem}, at token {place} of {}", ids.len()) })?;
            let [rows, columns] = sides(shapes, ids).map(Option::unwrap_or_default);
            let grid = Grid { rows, columns };
            (ids.iter().copied().filter(|id| !shapes.contains(*id)).collect(), Some(grid))
        }
    };
    Ok(ImageCodes { codes: vocabulary.image_codes(&ids)?, grid })
}

/// Checks that `ids` are one whole image. The error has the place of the first wrong id, and the problem.
pub(super) fn check_image(vocabulary: &Vocabulary, shapes: &ImageShapes, ids: &[u32]) -> Result<(), (usize, &'static str)> {
    let [rows, columns] = sides(shapes, ids);
    for (place, id) in ids.iter().enumerate() {
        let known = [rows.filter(|_| place > 0), columns.filter(|_| place > 1)];
        let (fits, expected) = match next(shapes, known, place) {
            NextInImage::Size(sizes) => (sizes.contains(id), "a size that images have must stand there"),
            NextInImage::Code => (vocabulary.image.contains(*id), "a code must stand there"),
            NextInImage::LineEnd => (*id == shapes.line_end, "a row must end there"),
            NextInImage::Nothing => (false, "the image ends before it"),
        };
        if !fits {
            return Err((place, expected));
        }
    }
    if next_in_image(shapes, ids) == NextInImage::Nothing { Ok(()) } else { Err((ids.len(), "the image is not whole")) }
}

#[cfg(test)]
mod tests;
