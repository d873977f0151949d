//! Tokens for the shape of an image: two for its size, and one at the end of every row of codes.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::IdRange;
use crate::error::VocabularyError;
use crate::grid::Grid;

/// Shapes that images may have, and the tokens that express the shape of an image.
///
/// # Source
/// A pair of size tokens before the codes and a token at the end of each row: Lumina-mGPT, section 2.2,
/// <https://arxiv.org/abs/2408.02657>.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ImageShapes {
    /// Ids of the size tokens, one for each different number of rows or columns of `grids`, ascending: the same for rows and for columns.
    pub sizes: IdRange,
    /// Id of the token that ends every row of codes.
    pub line_end: u32,
    /// Grids that an image may have, ascending.
    pub grids: Vec<Grid>,
}

impl ImageShapes {
    /// Returns the distinct numbers of rows and columns, ascending.
    #[must_use]
    pub fn sides(grids: &[Grid]) -> Vec<u32> {
        let sides: BTreeSet<u32> = grids.iter().flat_map(|grid| [grid.rows, grid.columns]).collect();
        sides.into_iter().collect()
    }

    /// Returns the size token of a side of `length` codes; `None` if no grid has such a side.
    #[must_use]
    pub fn size_id(&self, length: u32) -> Option<u32> {
        let place = Self::sides(&self.grids).binary_search(&length).ok()?;
        Some(self.sizes.start + place as u32)
    }

    /// Returns the length in codes that the size token `id` stands for; `None` for other ids.
    #[must_use]
    pub fn side_of(&self, id: u32) -> Option<u32> {
        let place = id.checked_sub(self.sizes.start)?;
        Self::sides(&self.grids).get(place as usize).copied()
    }

    /// Checks whether `id` is a size token or the end of a row.
    #[must_use]
    pub const fn contains(&self, id: u32) -> bool {
        self.sizes.contains(id) || id == self.line_end
    }

    /// Returns the number of tokens of an image of `grid`: two for its size, and one more in each row for the end.
    #[must_use]
    pub const fn tokens_of(grid: Grid) -> usize {
        2 + grid.rows as usize * (grid.columns as usize + 1)
    }

    /// Returns the number of tokens of the longest image.
    #[must_use]
    pub fn most_tokens(grids: &[Grid]) -> usize {
        grids.iter().map(|grid| Self::tokens_of(*grid)).max().unwrap_or(0)
    }

    /// Checks that the grids ascend and that there are as many size tokens as sides.
    pub(super) fn check(&self) -> Result<(), VocabularyError> {
        let refused = |problem: String| Err(VocabularyError::Shapes { problem });
        if self.grids.is_empty() || self.grids.iter().any(|grid| grid.codes() == 0) {
            return refused("there must be grids, each of one code or more".into());
        }
        if let Some(pair) = self.grids.windows(2).find(|pair| pair[0] >= pair[1]) {
            return refused(format!("grids must ascend, {} stands behind {}", pair[1], pair[0]));
        }
        let sides = Self::sides(&self.grids).len();
        if self.sizes.len as usize != sides {
            return refused(format!("the grids have {sides} different sides, but there are {} size tokens", self.sizes.len));
        }
        Ok(())
    }
}
