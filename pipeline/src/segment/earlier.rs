//! Kept samples of earlier windows, for the look-ups of `settle`: sorted runs in the store, never held as a whole.
//!
//! The settle unit of every window writes a run of [`columns::kept_sample`] rows: those that its own window kept and, every few windows,
//! those of the windows before. Runs nest like the digits of the window number in base [`FAN_OUT`]: the run of window 8 covers windows 1
//! to 8, that of window 64 covers 1 to 64. So a few runs cover any number of windows ([`cover`]). Each further digit writes a row once
//! more, and a window reads a number of runs that grows with the digits alone. The content of a run is a function of the ordered settle
//! keys.
//!
//! A run is cut into 1, 2, 4, … **buckets** by the first bits of the looked-up id. Each bucket is a table of bounded size. A window reads
//! only the buckets, and in them the row groups, that may hold one of its ids.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{AsArray, FixedSizeBinaryArray, RecordBatch};
use cm3flow_schemas::rows::position;
use cm3flow_schemas::unit::{SegmentName, UnitRecord};
use cm3flow_schemas::{Digest, ImageId, SampleId, columns, layout};
use futures::TryStreamExt;

use super::Worker;
use super::task::WindowTask;
use crate::catalog::blocklist::Blocklist;
use crate::catalog::units::UnitStore;
use crate::error::{PipelineError, Result};
use crate::store::table::Layout;

/// Number of runs of one size that merge into one of the next.
const FAN_OUT: usize = 8;
/// Rows of a bucket, at most on average: 4 MiB.
const BUCKET_ROWS: u64 = if cfg!(test) { 64 } else { 1 << 17 };
/// Prefix of the names of buckets among a unit's files.
const FILE_PREFIX: &str = "kept.";

/// Id of a sample or an image.
pub(super) type Id = [u8; 16];

/// A kept sample. Ordered by shared id, then by sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct KeptSample {
    /// Id that the sample shares with its duplicates.
    pub shared: Id,
    pub sample: Id,
}

/// Consecutive windows whose rows lie in the settle unit of the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SortedRun {
    first: usize,
    last: usize,
}

impl SortedRun {
    /// Returns the run that the settle unit of `window` writes, counted from 0.
    const fn of(window: usize) -> Self {
        let (mut span, windows) = (1, window + 1);
        while windows.is_multiple_of(span * FAN_OUT) {
            span *= FAN_OUT;
        }
        Self { first: windows - span, last: window }
    }
}

/// Returns the runs that together cover the first `windows` windows, the newest first.
fn cover(windows: usize) -> Vec<SortedRun> {
    let mut runs = Vec::new();
    let mut left = windows;
    while let Some(last) = left.checked_sub(1) {
        let run = SortedRun::of(last);
        left = run.first;
        runs.push(run);
    }
    runs
}

/// Buckets of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Buckets {
    /// Binary logarithm of their number.
    bits: u32,
}

impl Buckets {
    fn for_rows(rows: u64) -> Self {
        Self { bits: rows.div_ceil(BUCKET_ROWS).max(1).next_power_of_two().trailing_zeros().min(u16::BITS) }
    }

    /// Returns the buckets of a settle unit.
    fn of(record: &UnitRecord) -> Result<Self> {
        let files = record.files.keys().filter(|name| name.starts_with(FILE_PREFIX)).count();
        if files.is_power_of_two() {
            return Ok(Self { bits: files.trailing_zeros() });
        }
        let location = layout::unit(SegmentName::Settle, record.key);
        Err(PipelineError::Damaged { location, problem: format!("it lists {files} tables of kept samples, which is no power of two") })
    }

    const fn count(self) -> usize {
        1 << self.bits
    }

    fn of_id(self, id: &Id) -> usize {
        // A shift by all bits yields `None`: a single bucket holds every id.
        usize::from(u16::from_be_bytes([id[0], id[1]]).checked_shr(u16::BITS - self.bits).unwrap_or(0))
    }

    fn file(bucket: usize) -> String {
        format!("{FILE_PREFIX}{bucket:05}")
    }
}

fn batch_of(rows: &[KeptSample]) -> Result<RecordBatch> {
    let failed = |source| PipelineError::Arrow { what: "kept samples", source };
    let column = |of: fn(&KeptSample) -> &Id| {
        let values = FixedSizeBinaryArray::try_from_sparse_iter_with_size(rows.iter().map(|row| Some(of(row))), 16);
        values.map(|values| Arc::new(values) as _).map_err(failed)
    };
    RecordBatch::try_new(columns::kept_sample(), vec![column(|row| &row.shared)?, column(|row| &row.sample)?]).map_err(failed)
}

fn rows_of(batch: &RecordBatch) -> Result<Vec<KeptSample>> {
    let ids = |name| -> Result<Vec<Id>> {
        let column = batch.column(position(&batch.schema(), name)?).as_fixed_size_binary();
        let id = |value: Option<&[u8]>| value.and_then(|value| value.try_into().ok());
        column.iter().map(id).collect::<Option<_>>().ok_or_else(|| PipelineError::Damaged {
            location: format!("a table of kept samples, column {name}"),
            problem: "not all of its values are ids".into(),
        })
    };
    Ok(ids(columns::SHARED_ID)?.into_iter().zip(ids(columns::SAMPLE_ID)?).map(|(shared, sample)| KeptSample { shared, sample }).collect())
}

/// Returns the rows of `found` whose shared ids are among `wanted`. Both ascend.
fn matches<'r>(found: &'r [KeptSample], wanted: &'r [Id]) -> impl Iterator<Item = &'r KeptSample> {
    let mut wanted = wanted.iter().peekable();
    found.iter().filter(move |row| {
        while wanted.next_if(|id| **id < row.shared).is_some() {}
        wanted.peek().is_some_and(|id| **id == row.shared)
    })
}

/// The windows before a given one.
pub(super) struct EarlierWindows<'a> {
    units: &'a UnitStore,
    /// Settle keys of these windows, in order.
    keys: &'a [Digest],
}

impl Worker {
    /// Returns the windows before `window`.
    pub(super) fn earlier<'a>(&'a self, window: &'a WindowTask) -> EarlierWindows<'a> {
        EarlierWindows { units: &self.units, keys: &window.earlier }
    }
}

impl EarlierWindows<'_> {
    /// Reads the settle record of the `window`-th of them.
    pub(super) async fn record(&self, window: usize) -> Result<UnitRecord> {
        let key = self.keys[window];
        let missing = || PipelineError::Damaged {
            location: layout::unit(SegmentName::Settle, key),
            problem: "an earlier window's unit is missing".into(),
        };
        self.units.find(SegmentName::Settle, key).await?.ok_or_else(missing)
    }

    /// Reads kept samples of these windows that share an id of `wanted` and are not blocked. `wanted` ascends, and so does the result.
    pub(super) async fn kept_with(&self, wanted: &[Id], blocklist: &Blocklist) -> Result<Vec<KeptSample>> {
        let mut found = Vec::new();
        for run in cover(self.keys.len()) {
            let record = self.record(run.last).await?;
            let buckets = Buckets::of(&record)?;
            for ids in wanted.chunk_by(|a, b| buckets.of_id(a) == buckets.of_id(b)) {
                let mut groups = self.units.row_groups_with(&record, &Buckets::file(buckets.of_id(&ids[0])), ids).await?;
                while let Some(group) = groups.try_next().await? {
                    found.extend(matches(&rows_of(&group)?, ids));
                }
            }
        }
        found.retain(|row: &KeptSample| !blocklist.contains(SampleId(row.sample), ImageId(row.shared)));
        found.sort_unstable();
        Ok(found)
    }

    /// Writes the run that ends with the current window, which kept `own`, into the window's settle unit.
    pub(super) async fn put_kept(&self, record: &mut UnitRecord, mut own: Vec<KeptSample>) -> Result<()> {
        own.sort_unstable();
        let run = SortedRun::of(self.keys.len());
        let mut inputs = Vec::new();
        let mut rows = own.len() as u64;
        for earlier in cover(self.keys.len()).into_iter().take_while(|earlier| earlier.first >= run.first) {
            let record = self.record(earlier.last).await?;
            let buckets = Buckets::of(&record)?;
            for bucket in 0..buckets.count() {
                rows += UnitStore::rows_of(&record, &Buckets::file(bucket))?;
            }
            inputs.push(Input { buckets: 0..buckets.count(), record: Some(record), rows: Vec::new().into_iter() });
        }
        inputs.push(Input { record: None, buckets: 0..0, rows: own.into_iter() });
        let buckets = Buckets::for_rows(rows);
        let mut merge = Merge { units: self.units, inputs };
        let mut next = merge.next().await?;
        for bucket in 0..buckets.count() {
            let mut rows = Vec::new();
            while let Some(row) = next.take_if(|row| buckets.of_id(&row.shared) == bucket) {
                rows.push(row);
                next = merge.next().await?;
            }
            self.units.put_file(record, &Buckets::file(bucket), &batch_of(&rows)?, Layout::IDS).await?;
        }
        Ok(())
    }
}

/// A sorted run as an input of a merge; holds one bucket at a time.
struct Input {
    record: Option<UnitRecord>,
    /// Buckets not read yet.
    buckets: Range<usize>,
    rows: std::vec::IntoIter<KeptSample>,
}

/// Merge of several runs into one sequence, in order.
struct Merge<'a> {
    units: &'a UnitStore,
    inputs: Vec<Input>,
}

impl Merge<'_> {
    async fn next(&mut self) -> Result<Option<KeptSample>> {
        for input in &mut self.inputs {
            while input.rows.len() == 0
                && let Some(record) = &input.record
                && let Some(bucket) = input.buckets.next()
            {
                let mut rows = Vec::new();
                for batch in self.units.read_file(record, &Buckets::file(bucket)).await? {
                    rows.extend(rows_of(&batch)?);
                }
                input.rows = rows.into_iter();
            }
        }
        let first = |input: &&mut Input| input.rows.as_slice().first().copied();
        let least = self.inputs.iter_mut().filter(|input| input.rows.len() > 0).min_by_key(first);
        Ok(least.and_then(|input| input.rows.next()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use cm3flow_schemas::random::Draws;

    use super::*;
    use crate::store::Store;

    #[test]
    fn few_runs_cover_all_windows_once() {
        for windows in 0..1500 {
            let mut left = windows;
            for run in cover(windows) {
                assert_eq!(run.last + 1, left, "{windows} windows");
                left = run.first;
            }
            assert_eq!(left, 0, "{windows} windows");
            assert!(cover(windows).len() <= 4 * (FAN_OUT - 1), "{windows} windows");
        }
        assert_eq!(cover(64), [SortedRun { first: 0, last: 63 }]);
        assert_eq!(cover(10), [SortedRun { first: 9, last: 9 }, SortedRun { first: 8, last: 8 }, SortedRun { first: 0, last: 7 }]);
    }

    #[test]
    fn buckets_follow_the_order_of_ids() {
        for rows in [0, 1, 64, 65, 1000, 1 << 40] {
            let buckets = Buckets::for_rows(rows);
            let of = |first: u16| buckets.of_id(&std::array::from_fn(|place| if place < 2 { first.to_be_bytes()[place] } else { 0xff }));
            assert!((of(0), of(u16::MAX)) == (0, buckets.count() - 1), "{rows} rows");
            assert!((1..=u16::MAX).all(|first| of(first - 1) <= of(first)), "{rows} rows");
            assert!(rows <= BUCKET_ROWS * buckets.count() as u64 || buckets.bits == u16::BITS, "{rows} rows");
        }
    }

    fn settle_key(window: usize) -> Digest {
        Digest::of(&window.to_le_bytes())
    }

    fn id(draws: &mut Draws) -> Id {
        u128::to_be_bytes(u128::from(draws.next_u64()) << 64 | u128::from(draws.next_u64()))
    }

    /// Makes settle units of windows that kept some rows; returns these rows too.
    async fn windows(units: &UnitStore, count: usize) -> (Vec<Digest>, Vec<KeptSample>) {
        let mut draws = Draws::new(1, "test", b"");
        let (mut keys, mut all) = (Vec::new(), Vec::new());
        for window in 0..count {
            let own: Vec<KeptSample> =
                (0..draws.index(20)).map(|_| KeptSample { shared: id(&mut draws), sample: id(&mut draws) }).collect();
            let mut record = UnitRecord::new(SegmentName::Settle, settle_key(window));
            EarlierWindows { units, keys: &keys }.put_kept(&mut record, own.clone()).await.expect("memory");
            units.commit(record).await.expect("memory");
            keys.push(settle_key(window));
            all.extend(own);
        }
        (keys, all)
    }

    #[tokio::test]
    async fn what_any_earlier_window_kept_is_found_and_nothing_else() {
        let units = UnitStore::new(Store::open("memory://", Path::new("")).expect("memory"));
        let (keys, all) = windows(&units, 77).await;
        let last_merge = units.find(SegmentName::Settle, keys[63]).await.expect("memory").expect("committed");
        assert!(Buckets::of(&last_merge).expect("whole").count() > 2, "runs of several buckets are merged and looked up");
        let earlier = EarlierWindows { units: &units, keys: &keys };
        let mut draws = Draws::new(2, "test", b"");
        let known: BTreeSet<Id> = all.iter().step_by(3).map(|row| row.shared).collect();
        let unknown: BTreeSet<Id> = (0..200).map(|_| id(&mut draws)).collect();
        let wanted: Vec<Id> = known.union(&unknown).copied().collect();
        let mut expected: Vec<KeptSample> = all.iter().filter(|row| known.contains(&row.shared)).copied().collect();
        expected.sort_unstable();
        assert_eq!(earlier.kept_with(&wanted, &Blocklist::default()).await.expect("memory"), expected);

        let blocklist = Blocklist { samples: [SampleId(expected[5].sample)].into(), images: [ImageId(expected[0].shared)].into() };
        let (image, sample) = (expected.remove(0), expected.remove(4));
        let found = earlier.kept_with(&wanted, &blocklist).await.expect("memory");
        assert_eq!(found, expected, "{image:?} and {sample:?} are blocked");
    }

    #[tokio::test]
    async fn a_run_that_lacks_a_bucket_is_named() {
        let units = UnitStore::new(Store::open("memory://", Path::new("")).expect("memory"));
        let mut record = UnitRecord::new(SegmentName::Settle, settle_key(0));
        let rows: Vec<KeptSample> = (0..200_u8).map(|number| KeptSample { shared: [number; 16], sample: [number; 16] }).collect();
        EarlierWindows { units: &units, keys: &[] }.put_kept(&mut record, rows).await.expect("memory");
        assert_eq!(record.files.len(), 4);
        record.files.remove("kept.00002");
        assert!(matches!(Buckets::of(&record), Err(PipelineError::Damaged { problem, .. }) if problem.contains("3 tables")));
    }
}
