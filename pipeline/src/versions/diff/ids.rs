//! Kept samples that only one of two versions has.
//!
//! Skips windows that both share, unless samples were withdrawn from them. Streams the ids of other windows in several passes, each over
//! one part of all ids, so that memory does not grow with the versions.

use std::cmp::Ordering;
use std::ops::{ControlFlow, Range};

use cm3flow_schemas::{ImageId, SampleId, columns};
use serde::Deserialize;

use super::SampleChanges;
use crate::catalog::Published;
use crate::catalog::blocklist::Blocklist;
use crate::catalog::units::{Table, WindowTables};
use crate::error::Result;
use crate::store::Store;

/// Ids of both versions held at once, 16 bytes each.
const IDS_HELD: u64 = 8 << 20;

#[derive(Deserialize)]
struct Settled {
    sample_id: SampleId,
    image_id: ImageId,
    duplicate_of: Option<SampleId>,
}

/// One of the two versions, with its blocked ids.
struct Side<'a> {
    tables: WindowTables<'a>,
    windows: Range<usize>,
    blocked: &'a Blocklist,
}

/// Compares the kept samples of two versions whose first `shared` windows were settled alike; names at most `examples` of each kind.
pub(super) async fn compare(store: &Store, before: &Published, after: &Published, shared: usize, examples: usize) -> Result<SampleChanges> {
    let first = if before.manifest.blocklist == after.manifest.blocklist { shared } else { 0 };
    let before = Side::new(store, before, first);
    let after = Side::new(store, after, first);
    let rows = before.tables.row_count(Table::Settled, before.windows.clone()).await?
        + after.tables.row_count(Table::Settled, after.windows.clone()).await?;
    let parts = rows.div_ceil(IDS_HELD).max(1);
    let mut changes = SampleChanges::default();
    for index in 0..parts {
        let part = Part { index, of: parts };
        let old = kept_ids(&before, part).await?;
        let new = kept_ids(&after, part).await?;
        tally(&old, &new, examples, &mut changes);
    }
    Ok(changes)
}

impl<'a> Side<'a> {
    /// Takes the windows of a version from the `first` one on.
    fn new(store: &Store, Published { windows, blocklist, .. }: &'a Published, first: usize) -> Self {
        Self { tables: WindowTables::new(store, windows), windows: first..windows.len(), blocked: blocklist }
    }
}

/// The `index`-th of `of` equal ranges of all ids.
#[derive(Debug, Clone, Copy)]
struct Part {
    index: u64,
    of: u64,
}

/// Reads the ids of the kept samples in `part`, sorted, each once.
async fn kept_ids(side: &Side<'_>, part: Part) -> Result<Vec<SampleId>> {
    let mut kept = Vec::new();
    let names = [columns::SAMPLE_ID, columns::IMAGE_ID, columns::DUPLICATE_OF];
    let settled = Table::Settled;
    side.tables
        .visit(settled, side.windows.clone(), &names, |_, row: Settled| {
            let is_kept = row.duplicate_of.is_none() && part_of(row.sample_id, part.of) == part.index;
            if is_kept && !side.blocked.contains(row.sample_id, row.image_id) {
                kept.push(row.sample_id);
            }
            ControlFlow::Continue(())
        })
        .await?;
    kept.sort_unstable();
    kept.dedup();
    Ok(kept)
}

/// Returns the part of an id. Ids are digests, so parts have about equal size; parts ascend with the ids.
fn part_of(id: SampleId, parts: u64) -> u64 {
    let head = u64::from_be_bytes(id.0[..8].try_into().expect("an id has 16 bytes"));
    ((u128::from(head) * u128::from(parts)) >> 64) as u64
}

/// Adds the ids that only one of two sorted lists has.
fn tally(before: &[SampleId], after: &[SampleId], examples: usize, changes: &mut SampleChanges) {
    let (mut old, mut new) = (before.iter().peekable(), after.iter().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (Some(old), Some(new)) => old.cmp(new),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return,
        };
        let removed = old.next_if(|_| order.is_le());
        let added = new.next_if(|_| order.is_ge());
        match (removed, added) {
            (Some(id), None) => note(*id, examples, &mut changes.removed, &mut changes.removed_examples),
            (None, Some(id)) => note(*id, examples, &mut changes.added, &mut changes.added_examples),
            _ => {}
        }
    }
}

fn note(id: SampleId, examples: usize, count: &mut u64, named: &mut Vec<SampleId>) {
    *count += 1;
    if named.len() < examples {
        named.push(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(bytes: &[u8]) -> Vec<SampleId> {
        bytes.iter().map(|&byte| SampleId([byte; 16])).collect()
    }

    #[test]
    fn what_only_one_list_has_is_counted_and_the_smallest_are_named() {
        let mut changes = SampleChanges::default();
        tally(&ids(&[1, 2, 4, 9]), &ids(&[2, 3, 4, 5, 6]), 2, &mut changes);
        let expected = SampleChanges { added: 3, removed: 2, added_examples: ids(&[3, 5]), removed_examples: ids(&[1, 9]) };
        assert_eq!(changes, expected);
    }

    #[test]
    fn parts_are_consecutive_and_cover_all_ids() {
        for parts in [1, 2, 3, 256] {
            let found: Vec<u64> = (0..=255).map(|byte| part_of(SampleId([byte; 16]), parts)).collect();
            assert!(found.is_sorted() && found[0] == 0 && found[255] == parts - 1, "{parts} parts: {found:?}");
        }
    }
}
