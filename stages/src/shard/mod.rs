//! `shard`: writes packs to files: Arrow IPC, uncompressed, one record batch a block, each block with its own digest.
//!
//! Last stage of the segment `pack`. A file depends on its packs and the limits alone. Format: `schemas/README.md`.

use std::ops::RangeInclusive;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::reader::read_footer_length;
use arrow::ipc::writer::FileWriter;
use cm3flow_schemas::Digest;
use cm3flow_schemas::limits::{problem, within};
use cm3flow_schemas::pack::{BlockEntry, ShardEntry};
use cm3flow_schemas::sample::Split;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Result, StageError};

/// Revision of this stage's code; raised when the same packs give other bytes.
pub const REVISION: u32 = 1;
/// Name of the stage in metrics, refusals and errors.
pub const NAME: &str = "shard";
/// Size in bytes of the end of an IPC file: footer length and magic.
const TRAILER_BYTES: usize = 10;

const BLOCK_BYTES: RangeInclusive<u64> = 64 << 10..=64 << 20;

/// `[shard]`: sizes of the files that packs are written to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ShardConfig {
    /// Token bytes of a block, which readers fetch as a whole; at least one pack.
    #[schemars(transform = within(BLOCK_BYTES))]
    pub block_bytes: u64,
    /// Bytes of tokens of a file, at least `block_bytes`.
    pub max_shard_bytes: u64,
}

impl Default for ShardConfig {
    fn default() -> Self {
        Self { block_bytes: 2 << 20, max_shard_bytes: 256 << 20 }
    }
}

impl ShardConfig {
    /// Returns the problems of the fields, each with the field's path.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems: Vec<String> = problem("shard.block_bytes", self.block_bytes, &BLOCK_BYTES).into_iter().collect();
        if self.max_shard_bytes < self.block_bytes {
            problems.push(format!(
                "shard.max_shard_bytes must be at least shard.block_bytes, got {} and {}",
                self.max_shard_bytes, self.block_bytes
            ));
        }
        problems
    }
}

/// A shard, with the bytes of its file.
#[derive(Debug)]
pub struct Shard {
    /// Entry for the manifest. The variant of its documents is left at 0, since the file does not know it.
    pub entry: ShardEntry,
    /// Content of the file.
    pub bytes: Vec<u8>,
}

/// Writes packs of one split, in order, to as many files as the limits require. `bytes_per_pack` is the size of a pack's tokens.
///
/// # Errors
/// [`StageError::Arrow`] if the batches differ in their schema.
pub fn write(config: &ShardConfig, split: Split, schema: &SchemaRef, batches: &[RecordBatch], bytes_per_pack: u64) -> Result<Vec<Shard>> {
    let failed = |source: ArrowError| StageError::Arrow { what: "a shard".into(), source };
    let packs = concat_batches(schema, batches).map_err(failed)?;
    let packs_per_block = (config.block_bytes / bytes_per_pack).max(1);
    let packs_per_shard = (config.max_shard_bytes / (packs_per_block * bytes_per_pack)).max(1) * packs_per_block;
    let mut shards = Vec::new();
    let total = packs.num_rows();
    for start in (0..total).step_by(packs_per_shard as usize) {
        let len = (total - start).min(packs_per_shard as usize);
        shards.push(write_shard(split, &packs.slice(start, len), packs_per_block as usize).map_err(failed)?);
    }
    Ok(shards)
}

fn write_shard(split: Split, packs: &RecordBatch, packs_per_block: usize) -> Result<Shard, ArrowError> {
    let starts = (0..packs.num_rows()).step_by(packs_per_block);
    let blocks: Vec<RecordBatch> = starts.map(|start| packs.slice(start, packs_per_block.min(packs.num_rows() - start))).collect();
    file_of(split, &packs.schema(), &blocks)
}

/// Writes a shard of `blocks` as they are: for packs that replace those of a shard, whose blocks keep their numbers of packs. Blocks that
/// were read from a shard give the bytes of that shard.
///
/// # Errors
/// [`StageError::Arrow`] if a block has another schema than `schema`.
pub fn write_blocks(split: Split, schema: &SchemaRef, blocks: &[RecordBatch]) -> Result<Shard> {
    file_of(split, schema, blocks).map_err(|source| StageError::Arrow { what: "a shard".into(), source })
}

fn file_of(split: Split, schema: &SchemaRef, blocks: &[RecordBatch]) -> Result<Shard, ArrowError> {
    let mut writer = FileWriter::try_new(Vec::new(), schema)?;
    for block in blocks {
        // A slice would be written with the validity and offsets of the whole buffers; a copy has only the block.
        writer.write(&concat_batches(schema, [block])?)?;
    }
    let bytes = writer.into_inner()?;
    let packs: Vec<u64> = blocks.iter().map(|block| block.num_rows() as u64).collect();
    let entry = ShardEntry {
        digest: Digest::of(&bytes),
        split,
        bytes: bytes.len() as u64,
        packs: packs.iter().sum(),
        blocks: blocks_of(&bytes, &packs)?,
        variant: 0,
    };
    Ok(Shard { entry, bytes })
}

/// Reads the places of the record batches from the file's footer.
fn blocks_of(bytes: &[u8], packs: &[u64]) -> Result<Vec<BlockEntry>, ArrowError> {
    let trailer: [u8; TRAILER_BYTES] =
        bytes[bytes.len() - TRAILER_BYTES..].try_into().map_err(|_| ArrowError::IpcError("the file has no trailer".into()))?;
    let footer_len = read_footer_length(trailer)?;
    let footer = &bytes[bytes.len() - TRAILER_BYTES - footer_len..bytes.len() - TRAILER_BYTES];
    let footer = arrow::ipc::root_as_footer(footer).map_err(|error| ArrowError::IpcError(error.to_string()))?;
    let found = footer.recordBatches().into_iter().flatten().zip(packs);
    let entry = |(block, &packs): (&arrow::ipc::Block, &u64)| {
        let (offset, metadata_bytes, body_bytes) = (block.offset() as u64, block.metaDataLength() as u64, block.bodyLength() as u64);
        let content = &bytes[offset as usize..(offset + metadata_bytes + body_bytes) as usize];
        BlockEntry { offset, metadata_bytes, body_bytes, packs, digest: Digest::of(content) }
    };
    Ok(found.map(entry).collect())
}

#[cfg(test)]
mod tests;
