//! Readings of source rows: the last unit that read a row, and the files of which only refused rows were read again.

use std::collections::{HashMap, HashSet};

use cm3flow_schemas::Digest;
use cm3flow_schemas::window::{SourceUnit, WindowRecord};
use cm3flow_stages::ingest::PlannedUnit;

use crate::catalog::units::UnitPlace;

/// Returns the row in the file of the `row`-th sample of `unit`.
pub(crate) fn file_row(unit: &SourceUnit, row: u64) -> u64 {
    // A nonempty `only` has one entry for each row of the unit: the fallback applies to whole units alone.
    usize::try_from(row).ok().and_then(|row| unit.only.get(row).copied()).unwrap_or(unit.first_row + row)
}

/// Checks whether the row of the file belongs to `unit`.
pub(crate) fn has_row(unit: &SourceUnit, file_row: u64) -> bool {
    if unit.only.is_empty() {
        (unit.first_row..unit.first_row + unit.rows).contains(&file_row)
    } else {
        unit.only.binary_search(&file_row).is_ok()
    }
}

/// Units of windows by source and file.
pub(crate) struct Readings<'a> {
    windows: &'a [WindowRecord],
    /// Places of units in order of windows.
    by_file: HashMap<(&'a str, &'a str), Vec<UnitPlace>>,
}

impl<'a> Readings<'a> {
    pub(crate) fn new(windows: &'a [WindowRecord]) -> Self {
        let mut by_file: HashMap<_, Vec<UnitPlace>> = HashMap::new();
        for (window, record) in windows.iter().enumerate() {
            for (unit, found) in record.units.iter().enumerate() {
                by_file.entry((found.source.as_str(), found.file.as_str())).or_default().push(UnitPlace { window, unit });
            }
        }
        Self { windows, by_file }
    }

    pub(crate) fn unit(&self, place: UnitPlace) -> &'a SourceUnit {
        &self.windows[place.window].units[place.unit]
    }

    /// Returns the last unit that read the row.
    pub(crate) fn last(&self, source: &str, file: &str, file_row: u64) -> Option<UnitPlace> {
        let places = self.by_file.get(&(source, file))?;
        places.iter().rev().copied().find(|&place| has_row(self.unit(place), file_row))
    }
}

/// Refused rows that a unit read again, by source and file digest. The rest of their file had not changed then, so a whole unit around
/// them counts as read, though no one unit read it as a whole.
#[derive(Debug, Default)]
pub(crate) struct Settled<'a>(HashMap<(&'a str, Digest), Vec<(u64, u64)>>);

impl<'a> Settled<'a> {
    pub(crate) fn new(units: impl Iterator<Item = &'a SourceUnit>) -> Self {
        let mut found: HashMap<_, Vec<_>> = HashMap::new();
        for unit in units {
            if let (Some(first), Some(last)) = (unit.only.first(), unit.only.last()) {
                found.entry((unit.source.as_str(), unit.digest)).or_default().push((*first, *last));
            }
        }
        Self(found)
    }

    /// Checks whether `unit` has been read: its refused rows again, the rest unchanged.
    pub(crate) fn holds(&self, unit: &SourceUnit) -> bool {
        let rows = unit.first_row..unit.first_row + unit.rows;
        let tried = self.0.get(&(unit.source.as_str(), unit.digest));
        tried.is_some_and(|tried| tried.iter().any(|(first, last)| rows.contains(first) && rows.contains(last)))
    }

    /// Drops those of `units` whose place a `present` unit has that counts as read in this way.
    pub(crate) fn without_mended<'b>(
        &self,
        units: impl Iterator<Item = &'b SourceUnit>,
        present: &[PlannedUnit],
    ) -> impl Iterator<Item = &'b SourceUnit> {
        let place = |unit: &SourceUnit| (unit.source.clone(), unit.file.clone(), unit.first_row, unit.rows);
        let mended: HashSet<_> = present.iter().filter(|planned| self.holds(&planned.unit)).map(|planned| place(&planned.unit)).collect();
        units.filter(move |unit| !mended.contains(&place(unit)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::empty_window_record;

    fn unit(digest: &str, first_row: u64, rows: u64, only: &[u64]) -> SourceUnit {
        SourceUnit { source: "s".into(), file: "f".into(), digest: Digest::of(digest.as_bytes()), first_row, rows, only: only.to_vec() }
    }

    #[test]
    fn rows_of_a_unit_are_rows_of_its_file() {
        assert_eq!(file_row(&unit("a", 20, 10, &[]), 3), 23);
        assert_eq!(file_row(&unit("a", 21, 2, &[21, 27]), 1), 27);
    }

    #[test]
    fn the_last_window_with_the_row_counts() {
        let mut windows = vec![empty_window_record(0), empty_window_record(1)];
        windows[0].units = vec![unit("a", 0, 10, &[]), unit("a", 10, 10, &[])];
        windows[1].units = vec![unit("b", 12, 2, &[12, 15])];
        let readings = Readings::new(&windows);
        let last = |row| readings.last("s", "f", row);
        assert_eq!(last(3), Some(UnitPlace { window: 0, unit: 0 }));
        assert_eq!(last(15), Some(UnitPlace { window: 1, unit: 0 }));
        assert_eq!(last(14), Some(UnitPlace { window: 0, unit: 1 }));
        assert_eq!((last(20), readings.last("s", "g", 3)), (None, None));
    }

    #[test]
    fn a_state_is_settled_for_the_unit_whose_rows_were_tried() {
        let tried = [unit("b", 12, 2, &[12, 15])];
        let settled = Settled::new(tried.iter());
        assert!(settled.holds(&unit("b", 10, 10, &[])));
        assert!(!settled.holds(&unit("b", 0, 10, &[])), "another unit of the file");
        assert!(!settled.holds(&unit("c", 10, 10, &[])), "another state of it");
    }
}
