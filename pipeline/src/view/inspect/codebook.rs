//! Use of the codebook by the image tokens of a version.

use std::collections::BTreeMap;

use cm3flow_schemas::sample::Split;
use cm3flow_stages::eval::CodeUsage;
use serde::Serialize;

use super::Inspector;
use crate::error::Result;

/// Use of the codebook by the image tokens of packs. As in training, an image counts once for each document that holds it.
#[derive(Debug, Clone, Serialize)]
pub struct CodebookView {
    /// Number of the version.
    pub version: u32,
    /// Use over both splits.
    pub all: CodeUsage,
    /// Use in each split, by its name.
    pub splits: BTreeMap<&'static str, CodeUsage>,
}

impl Inspector {
    /// Counts the image tokens of all packs, block by block.
    ///
    /// # Errors
    /// Those of the reader.
    pub async fn codebook(&self) -> Result<CodebookView> {
        let codes = self.manifest.vocabulary.image;
        let mut all = vec![0; codes.len as usize];
        let mut splits = BTreeMap::new();
        let mut blocks = self.blocks();
        for split in Split::ALL {
            let mut counts = vec![0; codes.len as usize];
            for (_, shard) in self.shards(split) {
                for block in 0..shard.blocks.len() {
                    blocks.count_ids(shard, block, codes, &mut counts).await?;
                }
            }
            all.iter_mut().zip(&counts).for_each(|(sum, count)| *sum += count);
            splits.insert(split.name(), CodeUsage::of(counts));
        }
        Ok(CodebookView { version: self.manifest.version, all: CodeUsage::of(all), splits })
    }
}
