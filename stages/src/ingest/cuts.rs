//! Cuts of a source's rows into units: those of the version before, and by the configuration behind them.

use std::collections::BTreeMap;

use cm3flow_schemas::window::SourceUnit;
use serde::Serialize;

/// Cuts of one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Cuts {
    unit_samples: u64,
    /// Units of the version before: numbers of rows by first row.
    before: BTreeMap<u64, u64>,
}

impl Cuts {
    /// Cuts at those of the units `before`, and else every `unit_samples` rows. If two units begin at one row, the last one counts.
    pub(super) fn new<'a>(unit_samples: u32, before: impl Iterator<Item = &'a SourceUnit>) -> Self {
        // Units of chosen rows lie within others.
        let before = before.filter(|unit| unit.only.is_empty() && unit.rows > 0).map(|unit| (unit.first_row, unit.rows)).collect();
        Self { unit_samples: u64::from(unit_samples), before }
    }

    /// Returns the number of rows of the unit that begins at `row`, if at most `limit` more are wanted and the file is long enough; `None`
    /// if there is no such unit. A unit of the version before is taken whole or not at all.
    pub(super) fn rows_at(&self, row: u64, limit: u64) -> Option<u64> {
        if let Some(rows) = self.before.get(&row) {
            return (*rows <= limit).then_some(*rows);
        }
        let next = self.before.range(row..).next().map_or(u64::MAX, |(next, _)| next - row);
        Some(self.unit_samples.min(limit).min(next)).filter(|rows| *rows > 0)
    }

    /// Returns all units of a file of `total` rows, as first rows and numbers of rows, with at most `limit` rows in all.
    pub(super) fn units(&self, total: u64, mut limit: u64) -> Vec<(u64, u64)> {
        let (mut units, mut row) = (Vec::new(), 0);
        while row < total
            && let Some(rows) = self.rows_at(row, limit)
        {
            let rows = rows.min(total - row);
            units.push((row, rows));
            (row, limit) = (row + rows, limit - rows);
        }
        units
    }
}

#[cfg(test)]
mod tests {
    use cm3flow_schemas::Digest;
    use proptest::prelude::*;

    use super::*;

    fn cuts(unit_samples: u32, before: &[(u64, u64)]) -> Cuts {
        let unit = |&(first_row, rows): &(u64, u64)| SourceUnit {
            source: "s".into(),
            file: "f".into(),
            digest: Digest::of(b""),
            first_row,
            rows,
            only: vec![],
        };
        let before: Vec<SourceUnit> = before.iter().map(unit).collect();
        Cuts::new(unit_samples, before.iter())
    }

    #[test]
    fn without_a_version_before_units_have_one_size() {
        assert_eq!(cuts(3, &[]).units(7, u64::MAX), [(0, 3), (3, 3), (6, 1)]);
        assert_eq!(cuts(3, &[]).units(7, 4), [(0, 3), (3, 1)]);
        assert_eq!(cuts(3, &[]).units(0, 4), []);
    }

    #[test]
    fn appended_rows_begin_a_unit_behind_a_short_one() {
        assert_eq!(cuts(3, &[(0, 3), (3, 1)]).units(9, u64::MAX), [(0, 3), (3, 1), (4, 3), (7, 2)]);
    }

    #[test]
    fn units_before_stay_under_another_size_and_gaps_between_them_are_filled() {
        assert_eq!(cuts(100, &[(0, 3), (7, 2)]).units(10, u64::MAX), [(0, 3), (3, 4), (7, 2), (9, 1)]);
    }

    #[test]
    fn the_later_of_two_units_at_one_row_counts() {
        assert_eq!(cuts(3, &[(0, 3), (0, 2)]).units(4, u64::MAX), [(0, 2), (2, 2)]);
    }

    #[test]
    fn a_limit_takes_units_before_whole_or_not_at_all() {
        assert_eq!(cuts(3, &[(0, 3), (3, 3)]).units(10, 5), [(0, 3)]);
        assert_eq!(cuts(3, &[(0, 3)]).units(10, 5), [(0, 3), (3, 2)]);
    }

    #[test]
    fn a_file_that_became_shorter_cuts_the_last_unit() {
        assert_eq!(cuts(3, &[(0, 3), (3, 3)]).units(5, u64::MAX), [(0, 3), (3, 2)]);
    }

    proptest! {
        #[test]
        fn units_cover_all_rows_once(size in 1_u32..9, total in 0_u64..60, before in proptest::collection::vec((0_u64..50, 1_u64..9), 0..6)) {
            let mut next = 0;
            for (first, rows) in cuts(size, &before).units(total, u64::MAX) {
                prop_assert_eq!(first, next);
                prop_assert!(rows > 0);
                next += rows;
            }
            prop_assert_eq!(next, total);
        }
    }
}
