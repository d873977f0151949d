//! Grids: rows and columns of an image's codes, where images have several shapes.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::sample::MAIN_IMAGE;

/// Rows and columns of codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Grid {
    /// Number of rows: codes in a column.
    pub rows: u32,
    /// Number of columns: codes in a row.
    pub columns: u32,
}

impl Grid {
    /// Returns the grid of `side` rows and columns.
    #[must_use]
    pub const fn square(side: u32) -> Self {
        Self { rows: side, columns: side }
    }

    /// Returns the number of codes.
    #[must_use]
    pub const fn codes(&self) -> usize {
        self.rows as usize * self.columns as usize
    }

    /// Returns width and height in pixels of a picture of `pixels` pixels, where each code covers a square.
    #[must_use]
    pub fn size_px(&self, pixels: usize) -> (u32, u32) {
        let code_px = (pixels / self.codes().max(1)).isqrt() as u32;
        (self.columns * code_px, self.rows * code_px)
    }
}

impl fmt::Display for Grid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.rows, self.columns)
    }
}

/// Grid of one image of a sample: an item of the column [`crate::columns::IMAGE_GRIDS`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleGrid {
    /// Role of the image in its sample.
    pub role: String,
    /// Number of rows: codes in a column.
    pub rows: u32,
    /// Number of columns: codes in a row.
    pub columns: u32,
}

impl RoleGrid {
    /// Pairs `grid` with the image `role`.
    #[must_use]
    pub fn new(role: &str, grid: Grid) -> Self {
        Self { role: role.to_owned(), rows: grid.rows, columns: grid.columns }
    }

    /// Returns the grid of the image `role` among `grids`, those of one sample. An unlisted image has the grid of the main image. An empty
    /// list, as in datasets of squares, gives `None`.
    #[must_use]
    pub fn of(grids: &[Self], role: &str) -> Option<Grid> {
        let named = |role: &str| grids.iter().find(|grid| grid.role == role);
        named(role).or_else(|| named(MAIN_IMAGE)).map(|found| Grid { rows: found.rows, columns: found.columns })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grid_tells_the_size_of_its_picture() {
        let wide = Grid { rows: 2, columns: 8 };
        assert_eq!((wide.size_px(16 * 16 * 16), wide.codes(), wide.to_string()), ((128, 32), 16, "2x8".into()));
        assert_eq!(Grid::square(4).size_px(64 * 64), (64, 64));
    }

    #[test]
    fn what_is_not_listed_is_shaped_as_the_main_image() {
        let (wide, square) = (Grid { rows: 2, columns: 8 }, Grid::square(4));
        let grids = [RoleGrid::new(MAIN_IMAGE, wide), RoleGrid::new("style", square)];
        assert_eq!(["main", "style", "edge"].map(|role| RoleGrid::of(&grids, role)), [Some(wide), Some(square), Some(wide)]);
        assert_eq!(RoleGrid::of(&[], MAIN_IMAGE), None);
    }
}
