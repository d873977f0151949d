//! `settle`: decides for a window which samples are held out, which are duplicates, and which go into the bank.
//!
//! Looks at the ids of the whole window first, then at its units one by one. It never holds codes and embeddings of a whole window,
//! except for the rows of its bank.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, BooleanArray, RecordBatch, UInt32Array};
use arrow::datatypes::{DataType, Field, Schema};
use cm3flow_schemas::ledger::{OTHER_ANNOTATIONS, SampleLedger};
use cm3flow_schemas::sample::Annotations;
use cm3flow_schemas::unit::{KeyParts, SegmentName, UnitRecord};
use cm3flow_schemas::{Digest, ImageId, SampleId, columns, layout, rows};
use cm3flow_stages::Steps;
use cm3flow_stages::dedup::{Dedup, DedupKey};
use cm3flow_stages::index::{Index, by_place};
use cm3flow_stages::instruct::{Contents, count_contents};
use cm3flow_stages::split::Split;
use cm3flow_stages::stage::{Chain, Head};
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::kept::{Id, Kept};
use super::task::WindowTask;
use super::{KeyMaker, Worker};
use crate::catalog::blocklist::Blocklist;
use crate::catalog::units::Table;
use crate::config::Config;
use crate::error::{PipelineError, Result};
use crate::store::table;

/// Ids that identify and compare samples.
#[derive(Serialize, Deserialize)]
struct Ids {
    sample_id: SampleId,
    image_id: ImageId,
}

const IDS: [&str; 2] = [columns::SAMPLE_ID, columns::IMAGE_ID];

impl Ids {
    /// Returns the id that a row shares with its duplicates under `key`.
    const fn shared(&self, key: DedupKey) -> Id {
        match key {
            DedupKey::Image => self.image_id.0,
            DedupKey::Sample => self.sample_id.0,
        }
    }
}

/// Inputs of the stages that decide about the ids of a window.
struct Decision<'a> {
    config: &'a Config,
    /// Ids that earlier windows kept, in the form that `dedup` takes.
    kept_before: RecordBatch,
}

impl Decision<'_> {
    fn split(&self) -> Split {
        Split::new(self.config.split.clone(), self.config.dataset.seed)
    }

    fn dedup(&self) -> Dedup {
        Dedup::new(self.config.dedup.clone(), self.kept_before.clone())
    }
}

/// Returns the stages that decide about the ids of a window.
fn deciding<'a>() -> Steps<'a, Decision<'a>> {
    Steps::default().map(Decision::split).then(Decision::dedup)
}

/// Returns the stages that make the rows of the bank, unit by unit.
fn indexing<'a>() -> Steps<'a, ()> {
    Steps::default().map(|()| Index)
}

impl KeyMaker<'_> {
    /// Returns the key of the decisions about the units of the keys `prepare`, after the window with the settle key `before`.
    pub(super) fn settle(&self, before: Option<Digest>, prepare: &[Digest], blocklist: Option<Digest>) -> Digest {
        let Config { split, dedup, dataset, .. } = self.config;
        let stages: Vec<_> = deciding().codes().chain(indexing().codes()).collect();
        let config = json!({"split": split, "dedup": dedup, "first": before.is_none()});
        let inputs: Vec<Digest> = before.into_iter().chain(prepare.iter().copied()).collect();
        let (stages, inputs, artefacts) = (&stages, &inputs, blocklist.as_slice());
        KeyParts { segment: SegmentName::Settle, stages, config: &config, inputs, artefacts, seed: dataset.seed, numerics: None }.key()
    }
}

/// Counts duplicates that differ from the kept sample in other parts, in the form of [`SampleLedger::dropped`].
fn with_other_annotations(settled: &RecordBatch) -> Result<BTreeMap<String, u64>> {
    #[derive(Deserialize)]
    struct Row {
        sample_id: SampleId,
        duplicate_of: Option<SampleId>,
    }
    let rows: Vec<Row> = rows::read(settled, &[columns::SAMPLE_ID, columns::DUPLICATE_OF])?;
    let others = rows.iter().filter(|row| row.duplicate_of.is_some_and(|kept| kept != row.sample_id)).count() as u64;
    Ok((others > 0).then(|| (OTHER_ANNOTATIONS.to_owned(), others)).into_iter().collect())
}

/// Licences and contents of a window's kept samples.
#[derive(Default)]
struct Counted {
    licenses: BTreeMap<String, u64>,
    contents: Contents,
}

/// Decisions about the rows of a window.
struct Decided {
    /// Number of rows of all units, blocked ones included.
    input: u64,
    /// Rows that are not blocked, in order: a [`columns::settled_sample`].
    settled: RecordBatch,
}

impl Worker {
    pub(super) async fn settle(&self, window: &WindowTask) -> Result<UnitRecord> {
        let blocklist = self.blocklist(window).await?;
        let mut units = Vec::with_capacity(window.keys.prepare.len());
        for key in &window.keys.prepare {
            units.push(self.input(SegmentName::Prepare, *key).await?);
        }
        let Decided { input, settled } = self.decide(window, &units, &blocklist).await?;
        let (bank, Counted { licenses, contents }) = self.bank_and_counts(&units, &settled, &blocklist).await?;

        let mut record = UnitRecord::new(SegmentName::Settle, window.keys.settle());
        let is_kept = kept_rows(&settled)?;
        let kept = is_kept.true_count() as u64;
        let decided = settled.num_rows() as u64;
        let (duplicate, withdrawn) = (decided - kept, input - decided);
        let dropped = with_other_annotations(&settled)?;
        record.samples = Some(SampleLedger { input, kept, duplicate, withdrawn, dropped, ..SampleLedger::default() });
        (record.licenses, record.contents) = (licenses, contents);
        self.units.put(&mut record, Table::Settled, &settled).await?;
        self.units.put(&mut record, Table::Bank, &bank).await?;
        let key = self.config.dedup.by;
        let kept: Vec<Ids> = rows::read(&table::filtered(&settled, &is_kept)?, &IDS)?;
        let kept = kept.iter().map(|row| Kept { shared: row.shared(key), sample: row.sample_id.0 }).collect();
        self.earlier(window).put_kept(&mut record, kept).await?;
        self.commit(record).await
    }

    /// Decides about the samples of a window by their ids alone.
    async fn decide(&self, window: &WindowTask, units: &[UnitRecord], blocklist: &Blocklist) -> Result<Decided> {
        let key = self.config.dedup.by;
        let (mut batches, mut input, mut shared) = (Vec::new(), 0, Vec::new());
        for (index, unit) in units.iter().enumerate() {
            let mut ids = self.units.columns(unit, Table::Prepared, &IDS).await?;
            while let Some(batch) = ids.try_next().await? {
                input += batch.num_rows() as u64;
                // A blocked sample must neither represent its duplicates nor appear in any later table.
                let batch = blocklist.without_blocked(batch)?;
                shared.extend(rows::read::<Ids>(&batch, &IDS)?.iter().map(|row| row.shared(key)));
                batches.push(with_unit(&batch, index as u32)?);
            }
        }
        let Some(schema) = batches.first().map(RecordBatch::schema) else {
            return Ok(Decided { input, settled: RecordBatch::new_empty(columns::settled_sample()) });
        };
        shared.sort_unstable();
        shared.dedup();
        let kept_before = self.earlier(window).kept_with(&shared, blocklist).await?;
        let decision = Decision { config: &self.config, kept_before: as_ids(&kept_before, key)? };
        let chain = deciding().append_to(Chain::new(Head::Batches(schema, batches)), &decision);
        let (schema, elected) = self.collect(chain).await?;
        let elected = table::concatenated(&schema, &elected)?;
        Ok(Decided { input, settled: table::projected(&elected, &columns::settled_sample())? })
    }

    /// Returns the bank of a window, in the order of its rows' places, and the counts of the kept samples.
    async fn bank_and_counts(&self, units: &[UnitRecord], settled: &RecordBatch, blocklist: &Blocklist) -> Result<(RecordBatch, Counted)> {
        let (mut bank, mut counted, mut seen) = (Vec::new(), Counted::default(), 0);
        for unit in units {
            let prepared = table::concatenated(&self.artefacts.prepared_schema(), &self.units.read(unit, Table::Prepared).await?)?;
            let prepared = blocklist.without_blocked(prepared)?;
            let decided = settled.slice(seen, prepared.num_rows().min(settled.num_rows() - seen));
            seen += decided.num_rows();
            let prepared = with_decisions(&prepared, &decided, unit)?;
            counted.add(&table::filtered(&prepared, &kept_rows(&prepared)?)?)?;
            let rows = indexing().append_to(Chain::new(Head::Batches(prepared.schema(), vec![prepared])), &());
            bank.extend(self.collect(rows).await?.1);
        }
        Ok((by_place(&bank, self.config.dataset.seed)?, counted))
    }
}

/// What was kept before, as `dedup` takes it.
fn as_ids(kept: &[Kept], key: DedupKey) -> Result<RecordBatch> {
    let settled = columns::settled_sample();
    let field = |name| settled.field_with_name(name).cloned().expect("a column of settled samples");
    let schema = Arc::new(Schema::new(IDS.map(field).to_vec()));
    // By samples, nobody looks at the image.
    let image = |row: &Kept| if key == DedupKey::Image { row.shared } else { Id::default() };
    let ids: Vec<Ids> = kept.iter().map(|row| Ids { sample_id: SampleId(row.sample), image_id: ImageId(image(row)) }).collect();
    Ok(rows::write(&schema, &ids)?)
}

fn with_unit(batch: &RecordBatch, unit: u32) -> Result<RecordBatch> {
    let mut fields = batch.schema().fields().to_vec();
    fields.push(Arc::new(Field::new(columns::UNIT, DataType::UInt32, false)));
    let mut arrays = batch.columns().to_vec();
    arrays.push(Arc::new(UInt32Array::from_value(unit, batch.num_rows())));
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).map_err(|source| PipelineError::Arrow { what: "a prepared batch", source })
}

/// Adds the decisions to `prepared`, which holds all rows of a unit that are not blocked.
fn with_decisions(prepared: &RecordBatch, decided: &RecordBatch, unit: &UnitRecord) -> Result<RecordBatch> {
    let id = |batch: &RecordBatch| -> Result<_> { Ok(Arc::clone(batch.column(rows::position(&batch.schema(), columns::SAMPLE_ID)?))) };
    if id(prepared)? != id(decided)? {
        let location = layout::unit(SegmentName::Prepare, unit.key);
        return Err(PipelineError::Damaged { location, problem: "its table of samples holds others than a moment ago".into() });
    }
    let mut fields = prepared.schema().fields().to_vec();
    let mut arrays = prepared.columns().to_vec();
    for field in [columns::split(), columns::duplicate_of()] {
        arrays.push(Arc::clone(decided.column(rows::position(&decided.schema(), field.name())?)));
        fields.push(field);
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).map_err(|source| PipelineError::Arrow { what: "a settled batch", source })
}

/// Marks the rows that are no duplicates.
fn kept_rows(settled: &RecordBatch) -> Result<BooleanArray> {
    let duplicate_of = settled.column(rows::position(&settled.schema(), columns::DUPLICATE_OF)?);
    Ok((0..settled.num_rows()).map(|row| Some(duplicate_of.is_null(row))).collect())
}

impl Counted {
    fn add(&mut self, kept: &RecordBatch) -> Result<()> {
        #[derive(Deserialize)]
        struct Coded {
            role: String,
        }
        #[derive(Deserialize)]
        struct Row {
            annotations: Annotations,
            image_codes: Vec<Coded>,
        }
        if kept.num_rows() > 0 {
            for row in rows::read::<Row>(kept, &[columns::ANNOTATIONS, columns::IMAGE_CODES])? {
                count_contents(&mut self.contents, &row.annotations, row.image_codes.iter().map(|image| image.role.as_str()));
                *self.licenses.entry(row.annotations.license.unwrap_or_else(|| "unknown".into())).or_default() += 1;
            }
        }
        Ok(())
    }
}
