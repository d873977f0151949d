//! Inspection of a pack by its place, and the places of documents in packs.

use std::collections::{HashMap, HashSet};

use cm3flow_schemas::document::Segment;
use cm3flow_schemas::pack::{PlacedDocument, ShardEntry};
use cm3flow_schemas::sample::Split;
use cm3flow_schemas::{Digest, DocumentId, columns};
use cm3flow_stages::read::BlockReader;
use serde::Serialize;

use super::{Inspector, Picture, SegmentView, images_of, line, pictures};
use crate::artefact::decode::{parts, spelled, tokens_of};
use crate::error::{PipelineError, Result};

/// Place of a document in a pack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PackPlace {
    /// Name of the pack.
    pub pack: String,
    /// First token of the document in the pack.
    pub start: u32,
    /// Number of the document's tokens.
    pub len: u32,
}

/// A document in a pack.
#[derive(Debug, Clone, Serialize)]
pub struct PackedDocument {
    /// The document's id, sample and task, and its place in the pack.
    #[serde(flatten)]
    pub placed: PlacedDocument,
    /// Text as in the pack: control tokens by name, images as `[n codes]`.
    pub masked: String,
    /// Text before masking.
    pub unmasked: String,
}

/// A pack with its documents.
#[derive(Debug, Clone, Serialize)]
pub struct PackView {
    /// Number of the version.
    pub version: u32,
    /// Name of the pack: split and place.
    pub pack: String,
    /// Window of the pack.
    pub window: usize,
    /// Shard that holds it.
    pub shard: Digest,
    /// Index of the block in the shard.
    pub block: usize,
    /// Index of the pack in the block.
    pub row: usize,
    /// Length of the pack in tokens.
    pub seq_len: u32,
    /// Number of tokens in documents.
    pub used: u32,
    /// Documents, in order.
    pub documents: Vec<PackedDocument>,
    /// Segments of all documents.
    pub segments: Vec<SegmentView>,
    /// Images of all documents.
    pub images: Vec<Picture>,
    /// Token ids, padding included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<u32>>,
}

/// Place of a pack in the store.
struct Location<'a> {
    window: usize,
    shard: &'a ShardEntry,
    block: usize,
    row: usize,
}

impl Inspector {
    /// Shows the pack of a name such as `train/12`.
    ///
    /// # Errors
    /// [`PipelineError::NoId`], [`PipelineError::UnknownId`], or those of the store, the reader and the models.
    pub async fn pack(&self, name: &str) -> Result<PackView> {
        let (split, index) = parse(name)?;
        let Location { window, shard, block, row } = self.locate(split, index)?;
        let pack = self.blocks().pack(shard, block, row).await?;
        let artefacts = self.artefacts().await?;
        let vocabulary = &self.manifest.vocabulary;
        let mut view = PackView {
            version: self.manifest.version,
            pack: pack_name(split, index),
            window,
            shard: shard.digest,
            block,
            row,
            seq_len: self.manifest.seq_len,
            used: pack.segments.iter().map(|segment| segment.len).sum(),
            documents: Vec::new(),
            segments: Vec::new(),
            images: Vec::new(),
            token_ids: Some(pack.tokens.clone()),
        };
        let mut images = Vec::new();
        for (number, document) in pack.documents.iter().enumerate() {
            let (tokens, segments) = tokens_of(&pack, document);
            let masked = spelled(&tokens, &segments, vocabulary, &artefacts.text)?;
            images.extend(images_of(&parts(&tokens, &segments, vocabulary, &artefacts.text)?, &format!("{number}-{}-", document.task)));
            let (whole, whole_segments) = cm3flow_schemas::document::unmasked(&tokens, &segments, vocabulary);
            let unmasked = spelled(&whole, &whole_segments, vocabulary, &artefacts.text)?;
            let (masked_line, unmasked) = (line(&masked), line(&unmasked));
            view.documents.push(PackedDocument { placed: document.clone(), masked: masked_line, unmasked });
            // Neighbours share a boundary token, which is listed once.
            let listed = view.segments.last().map_or(0, |last| last.start + last.len);
            for mut run in masked {
                run.segment = Segment { start: run.segment.start + document.start, ..run.segment };
                if run.segment.start >= listed {
                    view.segments.push(SegmentView::new(run, &document.task));
                }
            }
        }
        view.images = pictures(&artefacts, images).await?;
        Ok(view)
    }

    pub(super) fn blocks(&self) -> BlockReader {
        let schema = columns::pack(self.manifest.seq_len as usize, self.manifest.vocabulary.width());
        BlockReader::new(self.job.store.objects(), schema)
    }

    /// Returns the shards of a split with their windows, in the order of the packs' numbers.
    pub(super) fn shards(&self, split: Split) -> impl Iterator<Item = (usize, &ShardEntry)> {
        let shards = self.windows.iter().enumerate().flat_map(|(window, record)| record.shards.iter().map(move |shard| (window, shard)));
        shards.filter(move |(_, shard)| shard.split == split)
    }

    fn locate(&self, split: Split, index: u64) -> Result<Location<'_>> {
        let mut before = 0;
        for (window, shard) in self.shards(split) {
            for (block, entry) in shard.blocks.iter().enumerate() {
                if index < before + entry.packs {
                    return Ok(Location { window, shard, block, row: (index - before) as usize });
                }
                before += entry.packs;
            }
        }
        let hint = match before {
            0 => format!(": the split {} has no packs", split.name()),
            _ => format!(": the split {} has packs 0 to {}", split.name(), before - 1),
        };
        Err(PipelineError::UnknownId { kind: "pack", id: pack_name(split, index), version: self.manifest.version, hint })
    }

    /// Finds the places of `documents` in packs of `window`.
    pub(super) async fn packs_of(&self, window: usize, documents: &HashSet<DocumentId>) -> Result<HashMap<DocumentId, PackPlace>> {
        let mut found = HashMap::new();
        let mut blocks = self.blocks();
        for split in Split::ALL {
            let mut index = 0;
            for (of, shard) in self.shards(split) {
                if of != window {
                    index += shard.packs;
                    continue;
                }
                for block in 0..shard.blocks.len() {
                    if found.len() == documents.len() {
                        return Ok(found);
                    }
                    for pack in blocks.documents(shard, block).await? {
                        for PlacedDocument { document_id, start, len, .. } in pack {
                            if documents.contains(&document_id) {
                                found.insert(document_id, PackPlace { pack: pack_name(split, index), start, len });
                            }
                        }
                        index += 1;
                    }
                }
            }
        }
        Ok(found)
    }
}

pub(super) fn pack_name(split: Split, index: u64) -> String {
    format!("{}/{index}", split.name())
}

fn parse(name: &str) -> Result<(Split, u64)> {
    let refused = || PipelineError::NoId {
        text: name.to_owned(),
        kind: "pack",
        expected: "a pack is named by split and place, train/0 or held_out/0",
    };
    let (split, index) = name.split_once('/').ok_or_else(refused)?;
    let split = Split::try_from(split.to_owned()).map_err(|_| refused())?;
    Ok((split, index.parse().map_err(|_| refused())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_packs_are_read_back() {
        for (split, index) in [(Split::Train, 0), (Split::HeldOut, 12)] {
            assert_eq!(parse(&pack_name(split, index)).expect("its own name"), (split, index));
        }
        for name in ["", "train", "train/", "train/-1", "train/x", "test/0", "0/train"] {
            assert!(matches!(parse(name), Err(PipelineError::NoId { .. })), "{name}");
        }
    }
}
