//! `prepare`: makes one unit, from its source to codes and embeddings.
//!
//! This module holds its stages, its key over these stages, and the making of the unit.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use cm3flow_schemas::canonical::digest_of;
use cm3flow_schemas::ledger::SampleLedger;
use cm3flow_schemas::sample::{DroppedPart, Refusal};
use cm3flow_schemas::unit::{KeyParts, SegmentName, UnitRecord};
use cm3flow_schemas::window::SourceUnit;
use cm3flow_schemas::{Digest, SampleId, columns, rows};
use cm3flow_stages::Steps;
use cm3flow_stages::annotate::Annotate;
use cm3flow_stages::embed::Embed;
use cm3flow_stages::ingest::PlannedUnit;
use cm3flow_stages::tokenize::Tokenize;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{KeyMaker, Worker};
use crate::artefact::Artefacts;
use crate::catalog::units::{Table, count_reasons};
use crate::config::Config;
use crate::error::Result;
use crate::source::photos;
use crate::store::table;

#[derive(Deserialize)]
struct Refused {
    sample_id: SampleId,
    source: String,
    key: String,
    row: u64,
    refusal: Refusal,
}

/// A row of [`columns::refused_sample`].
#[derive(Serialize)]
struct RefusedRow<'a> {
    sample_id: SampleId,
    source: &'a str,
    key: &'a str,
    row: u64,
    stage: &'a str,
    reason: &'a str,
    detail: &'a str,
}

/// Returns the stages after those of [`photos::derived`].
fn steps<'a>(config: &Config) -> Steps<'a, Artefacts> {
    let mut steps = Steps::default();
    if !config.annotate.0.is_empty() {
        steps = steps.then(|artefacts: &Artefacts| Annotate::new(artefacts.annotators.clone(), artefacts.image_spec.side_px));
    }
    let tokenize = |artefacts: &Artefacts| Tokenize::new(artefacts.image.clone(), artefacts.image_spec.clone());
    steps.then(tokenize).map(|artefacts| Embed::new(artefacts.embedder.clone()))
}

impl KeyMaker<'_> {
    /// Returns the key of the samples of `unit`.
    pub(super) fn prepare(&self, unit: &SourceUnit) -> Digest {
        let Config { filter, derive, annotate: annotators, tokenize, dataset, .. } = self.config;
        let stages: Vec<_> = photos::codes().into_iter().chain(steps(self.config).codes()).collect();
        let preparation = tokenize.image.preparation();
        let mut config = json!({"filter": filter, "derive": derive, "preparation": preparation});
        let mut artefacts = vec![self.artefacts.image_spec.digest, self.artefacts.embedder_digest];
        if let Some(settings) = annotators.canonical(preparation.side_px) {
            config["annotate"] = settings;
            artefacts.extend(self.artefacts.annotators.iter().map(|annotator| annotator.spec.digest));
        }
        let roles = self.config.further_roles(&unit.source);
        if !roles.is_empty() {
            config["roles"] = json!(roles);
        }
        let rows = self.config.row_settings(&unit.source);
        if !rows.is_default() {
            config["source"] = json!(rows);
        }
        // The input is the content read, not the name or place of the file.
        let all = digest_of("source unit", &(&unit.source, unit.digest, unit.first_row, unit.rows));
        let input = if unit.only.is_empty() { all } else { digest_of("some rows", &(all, &unit.only)) };
        let numerics = Some(&self.artefacts.numerics);
        let (stages, inputs, artefacts) = (&stages, &[input], &artefacts);
        KeyParts { segment: SegmentName::Prepare, stages, config: &config, inputs, artefacts, seed: dataset.seed, numerics }.key()
    }
}

impl Worker {
    pub(super) async fn prepare(&self, source: &PlannedUnit, key: Digest) -> Result<UnitRecord> {
        let artefacts = &self.artefacts;
        let chain = photos::derived(&self.config, source.clone(), &self.limits)?;
        let (_, batches) = self.collect(steps(&self.config).append_to(chain, artefacts)).await?;

        let schema = artefacts.prepared_schema();
        let mut kept = Vec::new();
        let mut refused: Vec<Refused> = Vec::new();
        let mut dropped = BTreeMap::new();
        for batch in &batches {
            count_dropped(&mut dropped, batch)?;
            let (wanted, unwanted) = table::split_refused(batch)?;
            kept.push(table::projected(&wanted, &schema)?);
            let names = [columns::SAMPLE_ID, columns::SOURCE, columns::KEY, columns::ROW, columns::REFUSAL];
            refused.extend(rows::read::<Refused>(&unwanted, &names)?);
        }
        let kept = table::concatenated(&schema, &kept)?;
        let mut record = UnitRecord::new(SegmentName::Prepare, key);
        record.samples = Some(SampleLedger {
            input: (kept.num_rows() + refused.len()) as u64,
            kept: kept.num_rows() as u64,
            refused: count_reasons(refused.iter().map(|row| (row.refusal.stage.as_str(), row.refusal.reason.as_str()))),
            dropped,
            ..SampleLedger::default()
        });
        self.units.put(&mut record, Table::Prepared, &kept).await?;
        let refused: Vec<RefusedRow<'_>> = refused.iter().map(refused_row).collect();
        self.units.put(&mut record, Table::RefusedSamples, &rows::write(&columns::refused_sample(), &refused)?).await?;
        self.commit(record).await
    }
}

/// Counts the parts that the samples of `batch` lost, including those of refused samples.
fn count_dropped(counts: &mut BTreeMap<String, u64>, batch: &RecordBatch) -> Result<()> {
    #[derive(Deserialize)]
    struct Row {
        dropped: Vec<DroppedPart>,
    }
    for part in rows::read::<Row>(batch, &[columns::DROPPED])?.into_iter().flat_map(|row| row.dropped) {
        *counts.entry(part.reason).or_default() += part.count;
    }
    Ok(())
}

fn refused_row(row: &Refused) -> RefusedRow<'_> {
    let Refused { sample_id, source, key, row, refusal } = row;
    RefusedRow { sample_id: *sample_id, source, key, row: *row, stage: &refusal.stage, reason: &refusal.reason, detail: &refusal.detail }
}
