//! Blocks of shards: fetched by range, checked, decoded, and kept in a bounded cache.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Float32Type, SchemaRef, UInt8Type, UInt16Type, UInt32Type};
use arrow::ipc::reader::FileDecoder;
use arrow::ipc::{Block, MetadataVersion, root_as_message};
use bytes::Bytes;
use cm3flow_schemas::document::{Modality, Role, Segment};
use cm3flow_schemas::pack::{BlockEntry, Pack, PlacedDocument, ShardEntry};
use cm3flow_schemas::vocabulary::IdRange;
use cm3flow_schemas::{Digest, columns, layout};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use super::window::BlockPlace;
use crate::error::{Result, StageError};

/// Number of decoded blocks in the cache: those of a group, and a few before.
const CACHED_BLOCKS: usize = 8;
/// Number of bytes before a message: continuation marker and length.
const PREFIX_BYTES: usize = 8;
/// Index of the buffer with the tokens, behind the validity buffers of the list and its items.
const TOKENS_BUFFER: usize = 2;

/// Reader of the blocks of shards in a store.
pub struct BlockReader {
    store: Arc<dyn ObjectStore>,
    schema: SchemaRef,
    cache: VecDeque<((Digest, usize), RecordBatch)>,
}

impl BlockReader {
    /// Reads shards of packs of `schema` ([`columns::pack`]) in `store`, which has them as `shards/<digest>.arrow`.
    #[must_use]
    pub fn new(store: Arc<dyn ObjectStore>, schema: SchemaRef) -> Self {
        Self { store, schema, cache: VecDeque::new() }
    }

    /// Returns block `index` of `shard`.
    ///
    /// # Errors
    /// [`StageError::Store`], or [`StageError::Block`] if the bytes do not match the index.
    pub async fn block(&mut self, shard: &ShardEntry, index: usize) -> Result<RecordBatch> {
        let key = (shard.digest, index);
        if let Some((_, batch)) = self.cache.iter().find(|(cached, _)| *cached == key) {
            return Ok(batch.clone());
        }
        let batch = self.fetch(shard, index).await?;
        if self.cache.len() == CACHED_BLOCKS {
            self.cache.pop_front();
        }
        self.cache.push_back((key, batch.clone()));
        Ok(batch)
    }

    /// Returns pack `row` of block `index` of `shard`.
    ///
    /// # Errors
    /// As for [`Self::block`].
    ///
    /// # Panics
    /// If the block has no such row.
    pub async fn pack(&mut self, shard: &ShardEntry, index: usize, row: usize) -> Result<Pack> {
        let block = self.block(shard, index).await?;
        pack_of(&block, row).map_err(|problem| damaged(&BlockPlace::new(shard, index), problem))
    }

    /// Returns all packs of block `index` of `shard`, in order. The block is not cached, so several may be fetched in parallel.
    ///
    /// # Errors
    /// As for [`Self::block`].
    pub async fn packs(&self, shard: &ShardEntry, index: usize) -> Result<Vec<Pack>> {
        let block = self.fetch(shard, index).await?;
        let packs = (0..block.num_rows()).map(|row| pack_of(&block, row)).collect::<Result<_, _>>();
        packs.map_err(|problem| damaged(&BlockPlace::new(shard, index), problem))
    }

    /// Returns the documents of every pack of block `index` of `shard`, in order.
    ///
    /// # Errors
    /// As for [`Self::block`].
    pub async fn documents(&mut self, shard: &ShardEntry, index: usize) -> Result<Vec<Vec<PlacedDocument>>> {
        let block = self.block(shard, index).await?;
        let documents = (0..block.num_rows()).map(|row| placed_documents(&block, row)).collect::<Result<_, _>>();
        documents.map_err(|problem| damaged(&BlockPlace::new(shard, index), problem))
    }

    /// Adds the occurrences of each id of `ids` in block `index` of `shard` to `counts`, which has a place for each id.
    ///
    /// # Errors
    /// As for [`Self::block`].
    pub async fn count_ids(&mut self, shard: &ShardEntry, index: usize, ids: IdRange, counts: &mut [u64]) -> Result<()> {
        let block = self.block(shard, index).await?;
        let mut count = |id: u32| {
            if ids.contains(id) {
                counts[(id - ids.start) as usize] += 1;
            }
        };
        let tokens = block.column(0).as_fixed_size_list().values();
        match tokens.data_type() {
            DataType::UInt16 => tokens.as_primitive::<UInt16Type>().values().iter().for_each(|&id| count(u32::from(id))),
            _ => tokens.as_primitive::<UInt32Type>().values().iter().for_each(|&id| count(id)),
        }
        Ok(())
    }

    async fn fetch(&self, shard: &ShardEntry, index: usize) -> Result<RecordBatch> {
        let place = BlockPlace::new(shard, index);
        let bytes = fetch(&*self.store, &place).await?;
        decode(bytes, &self.schema, &place, Check::Digest)
    }
}

/// Fetches the bytes of a block from `store`.
pub(super) async fn fetch(store: &dyn ObjectStore, place: &BlockPlace) -> Result<Bytes> {
    let path = Path::from(layout::shard(place.shard));
    let range = range_of(&place.entry);
    store.get_range(&path, range).await.map_err(|source| StageError::Store { location: path.to_string(), source })
}

/// Returns the range of a block in its file.
pub(super) fn range_of(entry: &BlockEntry) -> Range<u64> {
    entry.offset..entry.offset + entry.metadata_bytes + entry.body_bytes
}

/// State of the check of a block's digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    /// The bytes are to be compared with the digest.
    Digest,
    /// The bytes have been compared before.
    Done,
}

/// Decodes the block of `place` from its `bytes`.
pub(super) fn decode(bytes: Bytes, schema: &SchemaRef, place: &BlockPlace, check: Check) -> Result<RecordBatch> {
    let damaged = |problem: String| damaged(place, problem);
    let entry = &place.entry;
    if check == Check::Digest {
        let found = Digest::of(&bytes);
        if found != entry.digest {
            return Err(damaged(format!(
                "its {} bytes have digest {}, the index says {}",
                bytes.len(),
                found.short(),
                entry.digest.short()
            )));
        }
    }
    check_tokens(&bytes, schema, entry.packs).map_err(damaged)?;
    let block = Block::new(0, entry.metadata_bytes as i32, entry.body_bytes as i64);
    let decoder = FileDecoder::new(Arc::clone(schema), MetadataVersion::V5);
    let batch = decoder.read_record_batch(&block, &Buffer::from(bytes)).map_err(|error| damaged(error.to_string()))?;
    batch.filter(|batch| batch.num_rows() as u64 == entry.packs).ok_or_else(|| damaged(format!("it does not hold {} packs", entry.packs)))
}

pub(super) fn damaged(place: &BlockPlace, problem: String) -> StageError {
    StageError::Block { shard: place.shard.to_string(), block: place.index, problem }
}

/// Checks that the tokens of a block have the size that `schema` implies. A block does not state its types: with another id width or pack
/// length, other tokens would be read.
fn check_tokens(bytes: &[u8], schema: &SchemaRef, packs: u64) -> Result<(), String> {
    let DataType::FixedSizeList(item, seq_len) = schema.field(0).data_type() else { return Err("packs have no tokens".into()) };
    let wanted = packs * u64::from(seq_len.unsigned_abs()) * item.data_type().primitive_width().unwrap_or_default() as u64;
    let message = root_as_message(bytes.get(PREFIX_BYTES..).unwrap_or_default()).map_err(|error| error.to_string())?;
    let buffers = message.header_as_record_batch().and_then(|batch| batch.buffers()).ok_or("it is no record batch")?;
    match buffers.iter().nth(TOKENS_BUFFER).map(|buffer| buffer.length() as u64) {
        Some(found) if found == wanted => Ok(()),
        found => Err(format!("its tokens take {} bytes, the manifest's vocabulary and seq_len make {wanted}", found.unwrap_or_default())),
    }
}

fn pack_of(block: &RecordBatch, row: usize) -> Result<Pack, String> {
    let mut tokens = Vec::new();
    append_tokens(block, row, &mut tokens);
    Ok(Pack { tokens, segments: segments(block, row), documents: placed_documents(block, row)? })
}

fn append_tokens(block: &RecordBatch, row: usize, out: &mut Vec<u32>) {
    let tokens = block.column(0).as_fixed_size_list().value(row);
    match tokens.data_type() {
        DataType::UInt16 => out.extend(tokens.as_primitive::<UInt16Type>().values().iter().map(|&id| u32::from(id))),
        _ => out.extend(tokens.as_primitive::<UInt32Type>().values()),
    }
}

fn segments(block: &RecordBatch, row: usize) -> Vec<Segment> {
    let segments = block.column(1).as_list::<i32>().value(row);
    let fields = segments.as_struct();
    let offsets = |column: usize| fields.column(column).as_primitive::<UInt32Type>();
    let kinds = |column: usize| fields.column(column).as_primitive::<UInt8Type>();
    let weights = fields.column(4).as_primitive::<Float32Type>();
    let segment = |index: usize| Segment {
        start: offsets(0).value(index),
        len: offsets(1).value(index),
        // Only a later format can have unknown kinds, and its version number is refused before.
        modality: Modality::try_from(kinds(2).value(index)).unwrap_or(Modality::Control),
        role: Role::try_from(kinds(3).value(index)).unwrap_or(Role::Target),
        loss_weight: weights.value(index),
    };
    (0..fields.len()).map(segment).collect()
}

/// Returns at most `limit` packs of shards in stored order, with their documents: for inspection, evaluation and reports.
///
/// # Errors
/// As for [`BlockReader::block`].
pub async fn read_packs(blocks: &mut BlockReader, shards: &[ShardEntry], limit: usize) -> Result<Vec<Pack>> {
    let mut packs = Vec::new();
    for shard in shards {
        for (index, block) in shard.blocks.iter().enumerate() {
            for row in 0..block.packs as usize {
                if packs.len() == limit {
                    return Ok(packs);
                }
                packs.push(blocks.pack(shard, index, row).await?);
            }
        }
    }
    Ok(packs)
}

fn placed_documents(block: &RecordBatch, row: usize) -> Result<Vec<PlacedDocument>, String> {
    let documents = block.column_by_name(columns::DOCUMENTS).ok_or("it has no documents")?.as_list::<i32>().value(row);
    let fields = documents.as_struct();
    let text = |column: usize, index: usize| fields.column(column).as_string::<i32>().value(index).to_owned();
    let offset = |column: usize, index: usize| fields.column(column).as_primitive::<UInt32Type>().value(index);
    let placed = |index: usize| {
        Ok(PlacedDocument {
            document_id: text(0, index).parse().map_err(|error| format!("{error}"))?,
            sample_id: text(1, index).parse().map_err(|error| format!("{error}"))?,
            task: text(2, index),
            start: offset(3, index),
            len: offset(4, index),
        })
    };
    (0..fields.len()).map(placed).collect()
}
