//! Packs and shards: whole documents side by side in `seq_len` tokens, and the files that hold them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, DocumentId, SampleId};
use crate::document::Segment;
use crate::sample::Split;

/// Where a document stands in its pack. Neighbours share a boundary token, so `start` may be the last token of the one before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacedDocument {
    /// The document.
    pub document_id: DocumentId,
    /// Sample that it was made of.
    pub sample_id: SampleId,
    /// Task that made it.
    pub task: String,
    /// First token in the pack.
    pub start: u32,
    /// Number of tokens, both boundaries included.
    pub len: u32,
}

/// `seq_len` tokens of whole documents; what is left at the end is padding that no segment covers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pack {
    /// Token ids, exactly `seq_len`.
    pub tokens: Vec<u32>,
    /// Segments of all documents, positions counted from the pack's first token.
    pub segments: Vec<Segment>,
    /// Documents, in order.
    pub documents: Vec<PlacedDocument>,
}

/// Packs as a trainer takes them: `rows` packs of `seq_len` tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct PackBatch {
    /// Tokens of a pack.
    pub seq_len: usize,
    /// Token ids, `rows * seq_len`, row-major.
    pub tokens: Vec<u32>,
    /// Segments of each row.
    pub segments: Vec<Vec<Segment>>,
    /// First token of each document of each row.
    pub document_starts: Vec<Vec<u32>>,
}

impl PackBatch {
    /// Number of packs.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.segments.len()
    }
}

/// A file of packs: an Arrow IPC file whose record batches are its blocks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardEntry {
    /// Digest of the whole file, and its name.
    pub digest: Digest,
    /// Split of all its packs.
    pub split: Split,
    /// Size of the file in bytes.
    pub bytes: u64,
    /// Number of packs.
    pub packs: u64,
    /// Its blocks, in order.
    pub blocks: Vec<BlockEntry>,
}

/// A record batch of a shard: the unit of reading and of checking.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockEntry {
    /// Offset of its first byte (the message's length prefix) in the file.
    pub offset: u64,
    /// Bytes of message metadata with its prefix and padding.
    pub metadata_bytes: u64,
    /// Bytes of the message body.
    pub body_bytes: u64,
    /// Number of packs.
    pub packs: u64,
    /// BLAKE3-256 over metadata and body.
    pub digest: Digest,
}

/// Integer statistics of documents and packs; they add up over windows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackStatistics {
    /// Packs.
    pub packs: u64,
    /// Places for tokens: packs times `seq_len`.
    pub capacity: u64,
    /// Places taken by documents; shared boundaries count once.
    pub used: u64,
    /// Documents and tokens by task.
    pub tasks: BTreeMap<String, TaskStatistics>,
}

/// Counts of one task.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskStatistics {
    /// Documents.
    pub documents: u64,
    /// Text tokens.
    pub text_tokens: u64,
    /// Image tokens.
    pub image_tokens: u64,
    /// Control tokens.
    pub control_tokens: u64,
    /// Masked spans.
    pub spans: u64,
    /// Retrieved documents that stand in them.
    pub retrieved: u64,
    /// Documents for which fewer were kept than drawn, so that they fit.
    pub retrieval_lowered: u64,
}

impl PackStatistics {
    /// Share of places that documents take, 0 to 1; 0 without packs.
    #[must_use]
    pub fn fill_rate(&self) -> f64 {
        if self.capacity == 0 { 0.0 } else { self.used as f64 / self.capacity as f64 }
    }

    /// Adds the counts of `other`.
    pub fn add(&mut self, other: &Self) {
        self.packs += other.packs;
        self.capacity += other.capacity;
        self.used += other.used;
        for (task, counts) in &other.tasks {
            let sum = self.tasks.entry(task.clone()).or_default();
            sum.documents += counts.documents;
            sum.text_tokens += counts.text_tokens;
            sum.image_tokens += counts.image_tokens;
            sum.control_tokens += counts.control_tokens;
            sum.spans += counts.spans;
            sum.retrieved += counts.retrieved;
            sum.retrieval_lowered += counts.retrieval_lowered;
        }
    }
    /// What is left when the counts of `other` are taken away; tasks without documents are left out. `None` if `other` counts something that
    /// `self` does not.
    #[must_use]
    pub fn checked_sub(&self, other: &Self) -> Option<Self> {
        let mut tasks = self.tasks.clone();
        for (task, counts) in &other.tasks {
            let left = tasks.get(task)?.checked_sub(counts)?;
            if left.documents == 0 {
                tasks.remove(task);
            } else {
                tasks.insert(task.clone(), left);
            }
        }
        Some(Self {
            packs: self.packs.checked_sub(other.packs)?,
            capacity: self.capacity.checked_sub(other.capacity)?,
            used: self.used.checked_sub(other.used)?,
            tasks,
        })
    }
}

impl TaskStatistics {
    fn checked_sub(&self, other: &Self) -> Option<Self> {
        Some(Self {
            documents: self.documents.checked_sub(other.documents)?,
            text_tokens: self.text_tokens.checked_sub(other.text_tokens)?,
            image_tokens: self.image_tokens.checked_sub(other.image_tokens)?,
            control_tokens: self.control_tokens.checked_sub(other.control_tokens)?,
            spans: self.spans.checked_sub(other.spans)?,
            retrieved: self.retrieved.checked_sub(other.retrieved)?,
            retrieval_lowered: self.retrieval_lowered.checked_sub(other.retrieval_lowered)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_can_be_taken_away_again_and_no_more() {
        let counts = |task: &str, documents| {
            let counts = TaskStatistics { documents, text_tokens: 7, ..TaskStatistics::default() };
            PackStatistics { packs: 1, capacity: 64, used: 40, tasks: BTreeMap::from([(task.to_owned(), counts)]) }
        };
        let mut sum = counts("pair", 3);
        sum.add(&counts("caption", 1));
        assert_eq!(sum.checked_sub(&counts("caption", 1)), Some(counts("pair", 3)), "no empty task stays behind");
        assert_eq!(sum.checked_sub(&counts("caption", 2)), None);
        assert_eq!(sum.checked_sub(&counts("edit", 0)), None);
    }
}
