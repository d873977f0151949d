//! Checks of one object against its recorded facts.

use bytes::Bytes;
use cm3flow_schemas::Digest;
use cm3flow_schemas::pack::BlockEntry;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Place;
use crate::error::{PipelineError, Result};
use crate::store::{Store, record_bytes, table};

/// A file with its recorded facts.
#[derive(Debug, Clone)]
pub(super) struct Expected {
    pub(super) path: String,
    pub(super) digest: Digest,
    pub(super) place: Place,
    /// Size in bytes, if recorded.
    pub(super) bytes: Option<u64>,
    /// Number of a table's rows, if recorded.
    pub(super) rows: Option<u64>,
    /// Blocks of a shard.
    pub(super) blocks: Vec<BlockEntry>,
}

impl Expected {
    /// Expects a file with a known digest and no further facts.
    pub(super) const fn new(path: String, digest: Digest, place: Place) -> Self {
        Self { path, digest, place, bytes: None, rows: None, blocks: Vec::new() }
    }

    fn problem(&self, found: &Bytes) -> Option<String> {
        if let Some(bytes) = self.bytes.filter(|bytes| *bytes != found.len() as u64) {
            return Some(format!("it has {} bytes instead of {bytes}", found.len()));
        }
        let digest = Digest::of(found);
        if digest != self.digest {
            let block = self.blocks.iter().position(|block| block_of(found, block).is_none_or(|bytes| Digest::of(bytes) != block.digest));
            let place = block.map_or_else(String::new, |block| format!(", the first broken block is {block}"));
            return Some(format!("its bytes have digest {} instead of {}{place}", digest.short(), self.digest.short()));
        }
        if let Some(block) =
            self.blocks.iter().position(|block| block_of(found, block).is_none_or(|bytes| Digest::of(bytes) != block.digest))
        {
            return Some(format!("block {block} is not what the index of the window says"));
        }
        let rows = self.rows?;
        match table::row_count(found.clone(), &self.path) {
            Ok(found) if found == rows => None,
            Ok(found) => Some(format!("it has {found} rows instead of {rows}")),
            Err(error) => Some(error.to_string()),
        }
    }
}

fn block_of<'a>(bytes: &'a Bytes, block: &BlockEntry) -> Option<&'a [u8]> {
    let start = usize::try_from(block.offset).ok()?;
    let len = usize::try_from(block.metadata_bytes.checked_add(block.body_bytes)?).ok()?;
    bytes.get(start..start.checked_add(len)?)
}

/// Reads a file; returns its size and its problem, if any.
pub(super) async fn look_at(store: &Store, expected: &Expected) -> Result<(u64, Option<String>)> {
    Ok(match store.get(&expected.path).await? {
        None => (0, Some("it is missing".into())),
        Some(bytes) => (bytes.len() as u64, expected.problem(&bytes)),
    })
}

/// Parses a record, or describes its damage: the bytes must be exactly the serialized form of the content.
pub(super) fn record<T: Serialize + DeserializeOwned>(bytes: Option<&Bytes>, expected: &'static str) -> std::result::Result<T, String> {
    let bytes = bytes.ok_or("it is missing")?;
    let record: T = serde_json::from_slice(bytes).map_err(|error| format!("it is no {expected}: {error}"))?;
    if record_bytes(&record) == bytes[..] { Ok(record) } else { Err(format!("its bytes are not those of a {expected}")) }
}

/// Turns an error about bytes into a description of damage; failures of the network stay errors.
pub(super) fn damage_of(error: PipelineError) -> Result<String> {
    match error {
        PipelineError::Damaged { problem, .. } => Ok(problem),
        error @ (PipelineError::Parquet { .. } | PipelineError::Arrow { .. } | PipelineError::Schema(_)) => Ok(error.to_string()),
        error => Err(error),
    }
}
