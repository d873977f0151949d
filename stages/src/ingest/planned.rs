//! Planned units: identity, and place of the rows in the source. They are small, so they can be sent to a worker as JSON.

use cm3flow_schemas::window::SourceUnit;
use serde::{Deserialize, Serialize};

use super::webdataset::TarPart;
use crate::error::{Result, StageError};

/// A unit with all that is needed to read it from its source. It has no rows, so that a plan stays small.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedUnit {
    /// Identity of the unit. Its file lies in the source's folder.
    pub unit: SourceUnit,
    /// Place of the rows.
    pub place: UnitPlace,
}

/// Consecutive rows of a file or a folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnitPlace {
    /// Index of the first row.
    pub first_row: u64,
    /// Number of rows; it exceeds that of a unit of chosen rows.
    pub rows: u64,
    /// Layout-specific part of the place.
    pub(super) layout: Layout,
}

/// Place of a unit's rows, by layout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Layout {
    /// Samples of a tar.
    Tar(TarPart),
    /// Byte range of a row list; `first_line` counts from 0, blank lines included.
    Lines { start: u64, end: u64, first_line: u64 },
    /// Entries of a folder.
    Files(Vec<FolderFile>),
}

/// An entry of a folder: an image, or an entry to refuse.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FolderFile {
    /// Path from the folder on.
    pub(super) name: String,
    /// Names of the annotations beside the image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) beside: Vec<String>,
    /// Refusal that is known without reading the entry: reason and detail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) refusal: Option<(String, String)>,
}

impl PlannedUnit {
    /// Returns a unit of all rows of its place.
    pub(super) fn whole(unit: SourceUnit, layout: Layout) -> Self {
        let place = UnitPlace { first_row: unit.first_row, rows: unit.rows, layout };
        Self { unit, place }
    }

    /// Returns the unit of some rows of this one, which is whole; rows are numbered as in the file.
    ///
    /// # Errors
    /// [`StageError::Source`] if there are no rows, if they do not ascend, or if they do not belong to this unit.
    pub fn only(&self, rows: &[u64]) -> Result<Self> {
        let unit = SourceUnit { rows: rows.len() as u64, only: rows.to_vec(), ..self.unit.clone() };
        let some = Self { unit, place: self.place.clone() };
        if rows.is_empty() {
            return Err(some.refused("no rows are asked for"));
        }
        some.check()?;
        Ok(some)
    }

    /// Checks whether the unit consists of all rows of its place.
    pub(super) const fn is_whole(&self) -> bool {
        self.unit.only.is_empty()
    }

    /// Checks whether `row` of the file belongs to the unit.
    pub(super) fn has(&self, row: u64) -> bool {
        self.is_whole() || self.unit.only.binary_search(&row).is_ok()
    }

    /// Checks that unit and place match.
    pub(super) fn check(&self) -> Result<()> {
        let (unit, place) = (&self.unit, &self.place);
        let place_end = place.first_row.saturating_add(place.rows);
        let problem = if unit.only.is_empty() {
            ((unit.first_row, unit.rows) != (place.first_row, place.rows)).then_some("its rows are not those of its place")
        } else if unit.only.len() as u64 != unit.rows {
            Some("its number of rows is not that of the rows it lists")
        } else if !unit.only.is_sorted_by(|before, after| before < after) {
            Some("its rows are not in ascending order")
        } else {
            unit.only.iter().any(|row| !(place.first_row..place_end).contains(row)).then_some("some of its rows are not in its place")
        };
        problem.map_or(Ok(()), |problem| Err(self.refused(problem)))
    }

    fn refused(&self, problem: &str) -> StageError {
        StageError::Source { name: self.unit.source.clone(), problem: format!("a unit of {} cannot be read: {problem}", self.unit.file) }
    }

    /// Returns the error for a file that has changed since the unit was planned.
    pub(super) fn changed(&self, problem: impl Into<String>) -> StageError {
        StageError::Changed { source_name: self.unit.source.clone(), file: self.unit.file.clone(), problem: problem.into() }
    }
}

#[cfg(test)]
mod tests {
    use cm3flow_schemas::Digest;

    use super::*;

    fn planned() -> PlannedUnit {
        let unit = SourceUnit { source: "s".into(), file: "f".into(), digest: Digest::of(b""), first_row: 10, rows: 5, only: vec![] };
        PlannedUnit::whole(unit, Layout::Lines { start: 0, end: 1, first_line: 0 })
    }

    #[test]
    fn some_rows_must_be_those_of_the_unit_in_order() {
        let some = planned().only(&[10, 12, 14]).expect("rows of the unit");
        assert_eq!((some.unit.rows, some.has(12), some.has(11)), (3, true, false));
        for rows in [&[][..], &[9], &[15], &[12, 11], &[12, 12]] {
            assert!(matches!(planned().only(rows), Err(StageError::Source { .. })), "{rows:?}");
        }
    }

    #[test]
    fn a_unit_survives_json() {
        let some = planned().only(&[11]).expect("a row of the unit");
        let json = serde_json::to_string(&some).expect("plain data");
        assert_eq!(serde_json::from_str::<PlannedUnit>(&json).expect("its own"), some);
    }

    #[test]
    fn a_unit_that_contradicts_itself_is_refused() {
        let mut planned = planned();
        planned.unit.rows = 6;
        assert!(planned.check().is_err());
    }
}
