//! Packs and shards: whole documents side by side in `seq_len` tokens, and the files that hold them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, DocumentId, SampleId};
use crate::document::Segment;
use crate::sample::Split;

/// Place of a document in its pack. Neighbours share a boundary token, so `start` may be the last token of the document before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacedDocument {
    /// Key of the document.
    pub document_id: DocumentId,
    /// Sample that the document was made of.
    pub sample_id: SampleId,
    /// Task whose template made the document.
    pub task: String,
    /// First token in the pack.
    pub start: u32,
    /// Number of tokens, both boundaries included.
    pub len: u32,
}

/// `seq_len` tokens of whole documents; the rest at the end is padding, which no segment covers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pack {
    /// Token ids, exactly `seq_len`.
    pub tokens: Vec<u32>,
    /// Segments of all documents, positions counted from the pack's first token.
    pub segments: Vec<Segment>,
    /// Documents, in order.
    pub documents: Vec<PlacedDocument>,
}

/// Packs in the form that a trainer takes: `rows` packs of `seq_len` tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct PackBatch {
    /// Number of tokens in a pack.
    pub seq_len: usize,
    /// Token ids, `rows * seq_len`, row-major.
    pub tokens: Vec<u32>,
    /// Segments of each row, positions counted from the row's first token.
    pub segments: Vec<Vec<Segment>>,
    /// First token of each document of each row.
    pub document_starts: Vec<Vec<u32>>,
}

impl PackBatch {
    /// Returns the number of packs.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.segments.len()
    }
}

/// A file of packs: an Arrow IPC file whose record batches are its blocks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardEntry {
    /// Digest of the whole file, which is also its name.
    pub digest: Digest,
    /// Split of all packs of the file.
    pub split: Split,
    /// Size of the file in bytes.
    pub bytes: u64,
    /// Number of packs.
    pub packs: u64,
    /// Blocks of the file, in order.
    pub blocks: Vec<BlockEntry>,
    /// Variant of the documents in these packs: epoch `e` reads variant `e` modulo the number of variants.
    #[serde(default, skip_serializing_if = "is_first")]
    pub variant: u16,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
const fn is_first(variant: &u16) -> bool {
    *variant == 0
}

/// A record batch of a shard: the unit of reading and checking.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockEntry {
    /// Offset in the file of the block's first byte, that of the message's length prefix.
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
    /// Number of packs.
    pub packs: u64,
    /// Places for tokens: packs times `seq_len`.
    pub capacity: u64,
    /// Places taken by documents; shared boundaries count once.
    pub used: u64,
    /// Documents and tokens of each task.
    pub tasks: BTreeMap<String, TaskStatistics>,
    /// Lower bound of the number of packs, added up over windows; 0 in records older than this count.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub least_packs: u64,
    /// Sum of the documents' squared lengths: the cost of attention within documents.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub squares: u64,
    /// The same sum for the pack with the largest one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub most_squares: u64,
    /// Packs of each variant, if there are several; they add up to `packs`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub variant_packs: Vec<u64>,
    /// Number of packs at other values of `pack.seq_len`, for those values that hold every document.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub packs_at: BTreeMap<u32, u64>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Counts of one task.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskStatistics {
    /// Number of documents.
    pub documents: u64,
    /// Number of text tokens.
    pub text_tokens: u64,
    /// Number of image tokens.
    pub image_tokens: u64,
    /// Number of control tokens.
    pub control_tokens: u64,
    /// Number of masked spans.
    pub spans: u64,
    /// Number of retrieved samples in the documents.
    pub retrieved: u64,
    /// Documents that kept fewer retrieved samples than were drawn, so that they fit.
    pub retrieval_lowered: u64,
}

impl PackStatistics {
    /// Returns the share of places that documents take, 0 to 1; 0 without packs.
    #[must_use]
    pub fn fill_rate(&self) -> f64 {
        if self.capacity == 0 { 0.0 } else { self.used as f64 / self.capacity as f64 }
    }

    /// Returns the number of packs that a reader hands out in `epochs` epochs. Epochs read one variant each, in turn.
    #[must_use]
    pub fn packs_in(&self, epochs: u64) -> u64 {
        let variants = self.variant_packs.len() as u64;
        if variants == 0 {
            return self.packs * epochs;
        }
        self.packs * (epochs / variants) + self.variant_packs.iter().take((epochs % variants) as usize).sum::<u64>()
    }

    /// Returns the cost of attention in the most expensive pack over that of the mean pack, 1 or more; `None` if it was not counted.
    #[must_use]
    pub fn attention_imbalance(&self) -> Option<f64> {
        (self.squares > 0).then(|| self.most_squares as f64 * self.packs as f64 / self.squares as f64)
    }

    /// Returns the value of `pack.seq_len` in [`Self::packs_at`] with the highest fill rate, and that rate.
    #[must_use]
    pub fn best_seq_len(&self) -> Option<(u32, f64)> {
        let rates = self.packs_at.iter().map(|(&seq_len, &packs)| (seq_len, self.used as f64 / (u64::from(seq_len) * packs.max(1)) as f64));
        rates.max_by(|one, other| one.1.total_cmp(&other.1))
    }

    /// Adds the counts of `other`.
    pub fn add(&mut self, other: &Self) {
        if self.packs == 0 {
            self.packs_at.clone_from(&other.packs_at);
        } else if other.packs > 0 {
            self.packs_at.retain(|seq_len, _| other.packs_at.contains_key(seq_len));
            self.packs_at.iter_mut().for_each(|(seq_len, packs)| *packs += other.packs_at[seq_len]);
        }
        self.variant_packs.resize(self.variant_packs.len().max(other.variant_packs.len()), 0);
        self.variant_packs.iter_mut().zip(&other.variant_packs).for_each(|(sum, packs)| *sum += packs);
        self.least_packs += other.least_packs;
        self.squares += other.squares;
        self.most_squares = self.most_squares.max(other.most_squares);
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

    /// Returns the counts of `self` less those of `other`; `None` if `other` counts something that `self` does not. Tasks without documents
    /// are left out. Counts of the packing as a whole stay as they are.
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
            least_packs: self.least_packs,
            squares: self.squares.checked_sub(other.squares)?,
            most_squares: self.most_squares,
            variant_packs: self.variant_packs.clone(),
            packs_at: self.packs_at.clone(),
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
            let tasks = BTreeMap::from([(task.to_owned(), counts)]);
            PackStatistics { packs: 1, capacity: 64, used: 40, tasks, ..PackStatistics::default() }
        };
        let mut sum = counts("pair", 3);
        sum.add(&counts("caption", 1));
        assert_eq!(sum.checked_sub(&counts("caption", 1)), Some(counts("pair", 3)), "no empty task stays behind");
        assert_eq!(sum.checked_sub(&counts("caption", 2)), None);
        assert_eq!(sum.checked_sub(&counts("edit", 0)), None);
    }

    #[test]
    fn epochs_take_the_variants_in_turn() {
        let window =
            |packs: &[u64]| PackStatistics { packs: packs.iter().sum(), variant_packs: packs.to_vec(), ..PackStatistics::default() };
        let mut sum = window(&[4, 5, 4]);
        sum.add(&PackStatistics::default());
        sum.add(&window(&[1, 1, 2]));
        assert_eq!(sum, window(&[5, 6, 6]));
        assert_eq!([0, 1, 2, 3, 4].map(|epochs| sum.packs_in(epochs)), [0, 5, 11, 17, 22]);
        assert_eq!(PackStatistics { packs: 7, ..PackStatistics::default() }.packs_in(3), 21);
    }

    #[test]
    fn the_best_length_is_one_that_every_window_can_have() {
        let window = |used, packs_at: &[(u32, u64)]| PackStatistics {
            packs: 10,
            used,
            squares: 1000,
            most_squares: 150,
            packs_at: packs_at.iter().copied().collect(),
            ..PackStatistics::default()
        };
        let mut sum = PackStatistics::default();
        sum.add(&window(900, &[(64, 15), (100, 10), (128, 8)]));
        assert_eq!(sum.best_seq_len(), Some((64, 900.0 / 960.0)));
        sum.add(&window(900, &[(100, 10), (128, 8)]));
        assert_eq!(sum.best_seq_len(), Some((100, 0.9)), "64 does not hold the second window's documents");
        assert_eq!(sum.attention_imbalance(), Some(1.5));
        assert_eq!(PackStatistics::default().best_seq_len(), None);
    }
}
