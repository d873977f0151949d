//! Overlay: windows with holes, with packs rewritten in place and their counts. Contradictions between tables and packs are errors.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use cm3flow_schemas::pack::{Pack, PackStatistics, PlacedDocument, ShardEntry};
use cm3flow_schemas::sample::Split;
use cm3flow_schemas::version::VersionManifest;
use cm3flow_schemas::window::WindowRecord;
use cm3flow_schemas::{columns, layout, rows};
use cm3flow_stages::pack::{statistics, withdraw};
use cm3flow_stages::read::BlockReader;
use cm3flow_stages::shard::write_blocks;

use super::WithdrawnDocuments;
use super::documents::{WindowDocuments, WithdrawnDocument};
use crate::error::{PipelineError, Result};
use crate::store::Store;

/// Samples and documents that go from a window.
#[derive(Debug)]
pub(super) struct WindowChange {
    /// Number of kept samples.
    pub(super) kept: u64,
    /// Number of duplicates.
    pub(super) duplicate: u64,
    /// Licences of the kept samples, with counts.
    pub(super) licenses: BTreeMap<String, u64>,
    documents: WindowDocuments,
}

impl WindowChange {
    pub(super) const fn new(documents: WindowDocuments) -> Self {
        Self { kept: 0, duplicate: 0, licenses: BTreeMap::new(), documents }
    }
}

/// The windows of the next version, and counts of the changes.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    pub(super) windows: Vec<WindowRecord>,
    pub(super) documents: WithdrawnDocuments,
    pub(super) packs: u64,
    pub(super) empty_packs: u64,
    pub(super) shards: u64,
}

/// Counts of a split's changed packs, before and after.
#[derive(Debug, Default)]
struct Recount {
    before: PackStatistics,
    after: PackStatistics,
    documents: u64,
}

/// Makes the overlay over `base`.
pub(super) struct OverlayWriter<'a> {
    store: &'a Store,
    base: &'a VersionManifest,
    /// `true` to write nothing.
    dry_run: bool,
    overlay: Overlay,
}

impl<'a> OverlayWriter<'a> {
    pub(super) fn new(store: &'a Store, base: &'a VersionManifest, dry_run: bool) -> Self {
        Self { store, base, dry_run, overlay: Overlay::default() }
    }

    /// Applies to each window of the base its change.
    pub(super) async fn lay(mut self, windows: impl Iterator<Item = (WindowRecord, WindowChange)>) -> Result<Overlay> {
        for (mut record, change) in windows {
            for split in Split::ALL {
                if change.documents.values().any(|document| document.split == split) {
                    let recount = self.rewrite(&mut record, split, &change.documents).await?;
                    recounted(self.base, &mut record, split, recount)?;
                }
            }
            for document in change.documents.values() {
                let documents = &mut self.overlay.documents;
                *(if document.is_own { &mut documents.own } else { &mut documents.retrieved }) += 1;
            }
            withdraw_samples(self.base, &mut record, &change)?;
            self.overlay.windows.push(record);
        }
        Ok(self.overlay)
    }

    /// Rewrites the shards of `split` that hold some of `documents`.
    async fn rewrite(&mut self, record: &mut WindowRecord, split: Split, documents: &WindowDocuments) -> Result<Recount> {
        let schema = columns::pack(self.base.seq_len as usize, self.base.vocabulary.width());
        let mut reader = BlockReader::new(self.store.objects(), schema.clone());
        let mut recount = Recount::default();
        for shard in record.shards.iter_mut().filter(|shard| shard.split == split) {
            let found = recount.documents;
            let mut blocks = Vec::with_capacity(shard.blocks.len());
            for index in 0..shard.blocks.len() {
                blocks.push(self.with_holes(&mut reader, shard, index, documents, &mut recount).await?);
            }
            if recount.documents == found {
                continue;
            }
            let written = write_blocks(split, &schema, &blocks)?;
            if !self.dry_run {
                self.store.create_content(&layout::shard(written.entry.digest), written.bytes).await?;
            }
            self.overlay.shards += 1;
            *shard = ShardEntry { variant: shard.variant, ..written.entry };
        }
        let wanted = documents.values().filter(|document| document.split == split).count() as u64;
        if recount.documents != wanted {
            let problem = format!("{wanted} documents of the units are to go from its packs, which hold {}", recount.documents);
            return Err(contradiction(self.base, record, problem));
        }
        Ok(recount)
    }

    /// Returns block `index` of `shard` without `documents`.
    async fn with_holes(
        &mut self,
        reader: &mut BlockReader,
        shard: &ShardEntry,
        index: usize,
        documents: &WindowDocuments,
        recount: &mut Recount,
    ) -> Result<RecordBatch> {
        let held = reader.documents(shard, index).await?;
        let block = reader.block(shard, index).await?;
        if !held.iter().flatten().any(|placed| documents.contains_key(&placed.document_id)) {
            return Ok(block);
        }
        let mut packs: Vec<Pack> = rows::read(&block, &[columns::TOKENS, columns::SEGMENTS, columns::DOCUMENTS])?;
        for pack in &mut packs {
            let before = pack.clone();
            let gone = withdraw(pack, &self.base.vocabulary, |placed| documents.contains_key(&placed.document_id));
            if !gone.is_empty() {
                self.overlay.packs += 1;
                self.overlay.empty_packs += u64::from(pack.documents.is_empty());
                recount.add(&before, pack, gone.iter().map(|placed| (placed, &documents[&placed.document_id])));
            }
        }
        Ok(rows::write(&block.schema(), &packs)?)
    }
}

impl Recount {
    /// Counts a pack before and after documents were removed.
    fn add<'d>(&mut self, before: &Pack, after: &Pack, gone: impl Iterator<Item = (&'d PlacedDocument, &'d WithdrawnDocument)>) {
        let counts = |pack: &Pack| statistics(std::slice::from_ref(pack), pack.tokens.len());
        self.before.add(&counts(before));
        self.after.add(&counts(after));
        for (placed, document) in gone {
            self.documents += 1;
            let task = self.before.tasks.entry(placed.task.clone()).or_default();
            task.retrieved += document.retrieved;
            task.retrieval_lowered += u64::from(document.is_lowered);
        }
    }
}

/// Replaces the former counts of the rewritten packs by the new ones.
fn recounted(base: &VersionManifest, record: &mut WindowRecord, split: Split, recount: Recount) -> Result<()> {
    let former = record.statistics.get(split.name()).cloned().unwrap_or_default();
    let mut counts = former.clone();
    counts.add(&recount.after);
    let too_few = || contradiction(base, record, format!("it counts less of {} than its packs hold", split.name()));
    // Other pack lengths are not computed anew: documents keep their places.
    let counts = PackStatistics { packs_at: former.packs_at, ..counts.checked_sub(&recount.before).ok_or_else(too_few)? };
    let packed = record.documents.packed.checked_sub(recount.documents).ok_or_else(too_few)?;
    record.statistics.insert(split.name().to_owned(), counts);
    record.documents.packed = packed;
    record.documents.withdrawn += recount.documents;
    Ok(())
}

fn withdraw_samples(base: &VersionManifest, record: &mut WindowRecord, change: &WindowChange) -> Result<()> {
    let too_few = |record: &WindowRecord| contradiction(base, record, "it counts fewer samples than its units hold".into());
    let left = (record.samples.kept.checked_sub(change.kept)).zip(record.samples.duplicate.checked_sub(change.duplicate));
    let (kept, duplicate) = left.ok_or_else(|| too_few(record))?;
    for (license, gone) in &change.licenses {
        let left = record.licenses.get(license).and_then(|count| count.checked_sub(*gone)).ok_or_else(|| too_few(record))?;
        if left == 0 {
            record.licenses.remove(license);
        } else {
            record.licenses.insert(license.clone(), left);
        }
    }
    (record.samples.kept, record.samples.duplicate) = (kept, duplicate);
    record.samples.withdrawn += change.kept + change.duplicate;
    Ok(())
}

fn contradiction(base: &VersionManifest, record: &WindowRecord, problem: String) -> PipelineError {
    PipelineError::Damaged { location: format!("window {} of version {} of {}", record.window, base.version, base.dataset), problem }
}
