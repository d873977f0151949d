//! `pack`: packs the documents of one split of a window into shards.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::UInt16Type;
use cm3flow_schemas::pack::{Pack as PackRow, PackStatistics, ShardEntry};
use cm3flow_schemas::rows::position;
use cm3flow_schemas::sample::Split;
use cm3flow_schemas::unit::{KeyParts, SegmentName, UnitRecord};
use cm3flow_schemas::vocabulary::{TokenWidth, Vocabulary};
use cm3flow_schemas::{Digest, columns, layout, rows};
use cm3flow_stages::pack::{Pack, least_bins, packs_at_other_lengths, statistics};
use cm3flow_stages::shuffle::Shuffle;
use cm3flow_stages::stage::{Chain, Head};
use cm3flow_stages::{Steps, shard};
use serde_json::json;

use super::compose::Retrieved;
use super::task::WindowTask;
use super::{KeyMaker, Worker};
use crate::catalog::units::Table;
use crate::config::Config;
use crate::error::Result;
use crate::store::table;

/// Inputs of the stages that make the packs of one split.
struct Packing<'a> {
    config: &'a Config,
    vocabulary: &'a Vocabulary,
}

/// Returns the stages that make packs of documents; `shard` writes these packs to files.
fn steps<'a>() -> Steps<'a, Packing<'a>> {
    let pack = |Packing { config, vocabulary }: &Packing<'_>| Pack::new(&config.pack, (*vocabulary).clone(), config.dataset.seed);
    Steps::default().then(|packing: &Packing<'_>| Shuffle::new(packing.config.dataset.seed)).then(pack)
}

impl KeyMaker<'_> {
    /// Returns the key of the packs of `split` in the window whose documents have the keys `compose`.
    pub(super) fn pack(&self, compose: &[Digest], split: Split) -> Digest {
        let Config { pack, shard, dataset, .. } = self.config;
        let stages: Vec<_> = steps().codes().chain([(shard::NAME, shard::REVISION)]).collect();
        let config = json!({"pack": pack, "shard": shard, "vocabulary": self.artefacts.vocabulary, "split": split});
        let (stages, inputs) = (&stages, compose);
        KeyParts { segment: SegmentName::Pack, stages, config: &config, inputs, artefacts: &[], seed: dataset.seed, numerics: None }.key()
    }
}

impl Worker {
    pub(super) async fn pack(&self, window: &WindowTask, split: Split) -> Result<UnitRecord> {
        let variants = if split == Split::Train { self.config.mask.variants } else { 1 };
        let mut record = UnitRecord::new(SegmentName::Pack, window.keys.pack_of(split));
        let mut statistics = PackStatistics::default();
        for variant in 0..variants {
            let counts = self.pack_variant(window, split, variant, &mut record).await?;
            if variants > 1 {
                statistics.variant_packs.push(counts.packs);
            }
            statistics.add(&counts);
        }
        record.statistics = Some(statistics);
        self.commit(record).await
    }

    /// Packs one variant of a split's documents into shards of `record`.
    async fn pack_variant(&self, window: &WindowTask, split: Split, variant: u16, record: &mut UnitRecord) -> Result<PackStatistics> {
        let mut documents = Vec::new();
        for key in &window.keys.compose {
            let unit = self.input(SegmentName::Compose, *key).await?;
            for batch in self.units.read(&unit, Table::Documents).await? {
                documents.push(of_variant(&table::of_split(&batch, split)?, variant)?);
            }
        }
        let (config, vocabulary) = (&self.config, &self.artefacts.vocabulary);
        let head = Head::Batches(columns::document(), documents.clone());
        let (schema, packs) = self.collect(steps().append_to(Chain::new(head), &Packing { config, vocabulary })).await?;

        if !packs.is_empty() {
            let token_bytes = if vocabulary.width() == TokenWidth::U16 { 2 } else { 4 };
            let bytes_per_pack = u64::from(config.pack.seq_len) * token_bytes;
            for shard in shard::write(&config.shard, split, &schema, &packs, bytes_per_pack)? {
                self.units.store().create_content(&layout::shard(shard.entry.digest), shard.bytes).await?;
                record.shards.push(ShardEntry { variant, ..shard.entry });
            }
        }
        count(&packs, &documents, config.pack.seq_len as usize)
    }
}

/// Returns the rows of `documents` that belong to `variant`, as [`columns::document`]; all rows of a table without variants.
fn of_variant(documents: &RecordBatch, variant: u16) -> Result<RecordBatch> {
    let Some(variants) = documents.column_by_name(columns::VARIANT) else { return Ok(documents.clone()) };
    let wanted = variants.as_primitive::<UInt16Type>().iter().map(|found| Some(found == Some(variant))).collect();
    table::projected(&table::filtered(documents, &wanted)?, &columns::document())
}

fn count(packs: &[RecordBatch], documents: &[RecordBatch], seq_len: usize) -> Result<PackStatistics> {
    let mut counts = PackStatistics::default();
    let mut costs = Vec::new();
    for batch in packs {
        let rows: Vec<PackRow> = rows::read(batch, &[columns::TOKENS, columns::SEGMENTS, columns::DOCUMENTS])?;
        counts.add(&statistics(&rows, seq_len));
    }
    for batch in documents {
        let tokens = batch.column(position(&batch.schema(), columns::TOKENS)?).as_list::<i32>();
        // The boundary token in front is shared with the document before, so `pack` does not count it.
        costs.extend((0..tokens.len()).map(|row| (tokens.value_length(row) as usize).saturating_sub(1)));
        for document in rows::read::<Retrieved>(batch, &[columns::TASK, columns::RETRIEVED, columns::RETRIEVED_WANTED])? {
            let task = counts.tasks.entry(document.task).or_default();
            task.retrieved += document.retrieved.len() as u64;
            task.retrieval_lowered += u64::from(document.retrieved.len() < usize::from(document.retrieved_wanted));
        }
    }
    counts.least_packs = least_bins(&costs, seq_len - 1) as u64;
    counts.packs_at = packs_at_other_lengths(&costs, seq_len);
    Ok(counts)
}
