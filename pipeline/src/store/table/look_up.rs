//! Look-up of ids in a table sorted by them: fetches only the row groups that may hold them.

use std::sync::Arc;

use arrow::array::RecordBatch;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStore;
use object_store::path::Path;
use parquet::arrow::async_reader::ParquetRecordBatchStreamBuilder;
use parquet::file::metadata::RowGroupMetaData;

use super::{Ranges, ranges_failed};
use crate::error::Result;

/// Streams the row groups that may hold one of `wanted`, from the table of `file_bytes` at `path`. The ids in the table's first column
/// ascend, and so does `wanted`. Fetches only these groups, so it checks no digest.
///
/// # Errors
/// [`crate::error::PipelineError::Parquet`], or those of the store.
pub(crate) async fn row_groups_with(
    objects: Arc<dyn ObjectStore>,
    path: &str,
    file_bytes: u64,
    wanted: &[[u8; 16]],
) -> Result<BoxStream<'static, Result<RecordBatch>>> {
    let location = path.to_owned();
    let failed = move |source| ranges_failed(&location, source);
    let reader = Ranges { objects, path: Path::from(path), file_bytes };
    let builder = ParquetRecordBatchStreamBuilder::new(reader).await.map_err(failed.clone())?;
    let groups = builder.metadata().row_groups().iter().enumerate();
    let groups = groups.filter(|(_, group)| may_hold(group, wanted)).map(|(index, _)| index).collect();
    let stream = builder.with_row_groups(groups).with_batch_size(super::ROW_GROUP_ROWS).build().map_err(failed.clone())?;
    Ok(stream.map_err(failed).boxed())
}

/// Checks whether an id of `wanted` lies between the first and the last id of `group`; `true` without statistics.
fn may_hold(group: &RowGroupMetaData, wanted: &[[u8; 16]]) -> bool {
    let statistics = group.column(0).statistics();
    let Some((first, last)) = statistics.and_then(|found| found.min_bytes_opt().zip(found.max_bytes_opt())) else { return true };
    let from = wanted.partition_point(|id| id.as_slice() < first);
    wanted.get(from).is_some_and(|id| id.as_slice() <= last)
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, FixedSizeBinaryArray};
    use cm3flow_schemas::columns;
    use object_store::ObjectStoreExt;
    use object_store::memory::InMemory;

    use super::super::{Layout, write_as};
    use super::*;

    /// Makes ids of the even numbers below 40,000, which fill five row groups.
    fn table() -> RecordBatch {
        let ids: Vec<[u8; 16]> = (0..20_000).map(|number| id(2 * number)).collect();
        let column = || Arc::new(FixedSizeBinaryArray::try_from_iter(ids.iter()).expect("of one size")) as _;
        RecordBatch::try_new(columns::kept_sample(), vec![column(), column()]).expect("two columns")
    }

    fn id(number: u128) -> [u8; 16] {
        (number << 100).to_be_bytes()
    }

    async fn found(wanted: &[u128]) -> Vec<(usize, u128)> {
        let objects = Arc::new(InMemory::new());
        let bytes = write_as(Layout::IDS, &table(), "test").expect("memory");
        let file_bytes = bytes.len() as u64;
        objects.put(&Path::from("t.parquet"), bytes.into()).await.expect("memory");
        let wanted: Vec<[u8; 16]> = wanted.iter().copied().map(id).collect();
        let groups = row_groups_with(objects, "t.parquet", file_bytes, &wanted).await.expect("just written");
        let groups: Vec<RecordBatch> = groups.try_collect().await.expect("just written");
        let first =
            |group: &RecordBatch| u128::from_be_bytes(group.column(0).as_fixed_size_binary().value(0).try_into().expect("16 bytes")) >> 100;
        groups.iter().map(|group| (group.num_rows(), first(group))).collect()
    }

    #[tokio::test]
    async fn only_row_groups_that_may_hold_an_id_are_read() {
        assert_eq!(found(&[1]).await, [(8192, 0)], "between the first and the last one, though it is not there");
        assert_eq!(found(&[4, 16_384, 20_000]).await, [(8192, 0), (8192, 16_384)]);
        assert_eq!(found(&[39_998]).await, [(3616, 32_768)]);
        assert_eq!(found(&[40_000]).await, []);
        assert_eq!(found(&[16_383]).await, [], "between two row groups");
    }
}
