//! Collects the content of the page from the store, and photos from the sources.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::ControlFlow;

use cm3flow_schemas::document::{Document, ImageCodes, Modality, Role};
use cm3flow_schemas::pack::{PackStatistics, ShardEntry, TaskStatistics};
use cm3flow_schemas::sample::{Annotations, EDGE_IMAGE, MAIN_IMAGE, RoleCodes, RoleImage, Split};
use cm3flow_schemas::unit::SegmentName;
use cm3flow_schemas::window::SourceUnit;
use cm3flow_schemas::{Grid, ImageId, RoleGrid, SampleId, columns, rows};
use cm3flow_stages::eval::{perplexity, psnr};
use cm3flow_stages::ingest::PlannedUnit;
use cm3flow_stages::read::{BlockReader, read_packs};
use serde::Deserialize;

use super::draw::Curve;
use super::page::*;
use super::{Subject, draw, pictures};
use crate::artefact::decode::spelled;
use crate::artefact::picture;
use crate::catalog::blocklist::Blocklist;
use crate::catalog::checkpoints::TrainOutcome;
use crate::catalog::refused;
use crate::catalog::units::{DOCUMENT_COLUMNS, Table, WindowTables};
use crate::error::Result;
use crate::source::photos::derived_batches;
use crate::train::evaluate::{Evaluation, evaluations_folder};
use crate::view::inspect::is_document_withdrawn;

/// Number of samples shown.
const SAMPLES: usize = 12;
/// Number of queries in the neighbour gallery.
const QUERIES: usize = 6;
/// Number of packs drawn.
const PACKS: usize = 24;
/// Number of refused rows listed.
const REFUSED: usize = 50;
/// Number of credits listed.
const CREDITS: usize = 1000;

#[derive(Debug, Clone, Deserialize)]
struct Prepared {
    sample_id: SampleId,
    image_id: ImageId,
    key: String,
    annotations: Annotations,
    image_codes: Vec<RoleCodes>,
    #[serde(default)]
    image_grids: Vec<RoleGrid>,
}

impl Prepared {
    fn main_image(&self) -> ImageCodes {
        let codes = self.image_codes.iter().find(|image| image.role == MAIN_IMAGE).map(|image| image.codes.clone()).unwrap_or_default();
        ImageCodes { codes, grid: RoleGrid::of(&self.image_grids, MAIN_IMAGE) }
    }

    fn caption(&self) -> String {
        self.annotations.captions.first().cloned().unwrap_or_default()
    }
}

pub(super) async fn page(subject: &Subject<'_>) -> Result<Page> {
    let manifest = subject.manifest;
    let units = WindowTables::new(&subject.job.store, subject.windows);
    let blocked = Blocklist::read(&subject.job.store, &manifest.dataset, manifest.blocklist).await?;
    let names = [columns::SAMPLE_ID, columns::IMAGE_ID, columns::KEY, columns::ANNOTATIONS, columns::IMAGE_CODES];
    let names = columns::with_image_grids(&names, manifest.vocabulary.shapes.is_some());
    let mut prepared: Vec<Prepared> = units.rows(Table::Prepared, &names, CREDITS).await?;
    prepared.retain(|sample| !blocked.contains(sample.sample_id, sample.image_id));
    let refused = refused::list(&subject.job.store, subject.windows, REFUSED).await?;
    let mut documents: Vec<Document> = units.rows(Table::Documents, &DOCUMENT_COLUMNS, 400).await?;
    documents.retain(|document| !is_document_withdrawn(&blocked, document.sample_id, &document.retrieved));
    Ok(Page {
        dataset: manifest.dataset.clone(),
        version: manifest.version,
        base: manifest.base,
        facts: facts(subject),
        ledger: manifest.samples.to_string(),
        documents: manifest.documents.to_string(),
        funnel: funnel(subject),
        reasons: [reasons(&manifest.samples.refused), reasons(&manifest.documents.refused)].concat(),
        dropped: manifest.samples.dropped_lines(),
        left: subject.left.clone(),
        lacking: reasons(&manifest.documents.lacking),
        shortened: manifest.documents.shortened,
        refused,
        samples: samples(subject, &prepared).await?,
        neighbours: neighbours(subject, &units, &prepared, &documents).await?,
        masked: masked(subject, &documents)?,
        packs: packs(subject).await?,
        fill: manifest.statistics.iter().map(|(split, found)| fill(split, found, manifest.seq_len)).collect(),
        tasks: tasks(&manifest.statistics),
        stages: subject.meters.all().iter().map(|meter| stage_time(meter)).collect(),
        training: match subject.training {
            Some(outcome) => training(subject, outcome).await?,
            None => None,
        },
        credits: prepared.iter().filter_map(credit).collect(),
    })
}

fn facts(subject: &Subject<'_>) -> Vec<(&'static str, String)> {
    let (manifest, spec) = (subject.manifest, &subject.artefacts.image_spec);
    let vocabulary = &manifest.vocabulary;
    vec![
        ("windows", manifest.windows.len().to_string()),
        ("tokens of a pack", manifest.seq_len.to_string()),
        (
            "vocabulary",
            format!(
                "{} ids: {} of text, {} of images, {} sentinels",
                vocabulary.size, vocabulary.text.len, vocabulary.image.len, vocabulary.sentinels.len
            ),
        ),
        ("image tokenizer", format!("{}, {} px to {} codes, {}", spec.name, spec.side_px, spec.codes_per_image(), spec.digest.short())),
        ("embedder", subject.artefacts.embedder_name.clone()),
        ("numerics class", manifest.numerics.to_string()),
        ("seed", manifest.seed.to_string()),
        ("licences", manifest.licenses.iter().map(|(license, count)| format!("{license}: {count}")).collect::<Vec<_>>().join(", ")),
    ]
}

fn funnel(subject: &Subject<'_>) -> Vec<FunnelStep> {
    let samples = &subject.manifest.samples;
    let after_filters = samples.input - samples.refused_total();
    let steps = [
        ("in", samples.input),
        ("not refused", after_filters),
        ("no duplicate", after_filters - samples.duplicate),
        ("kept", samples.kept),
    ];
    let percent = |count: u64| count as f64 * 100.0 / samples.input.max(1) as f64;
    steps.map(|(name, count)| FunnelStep { name: name.into(), count, percent: percent(count) }).into()
}

/// Reads fitted photos and their derived images by sample, as far as the sources still hold them. Stops at the units that can hold one of
/// the first [`CREDITS`] samples, which include `wanted`.
async fn photos(subject: &Subject<'_>, wanted: &[&Prepared]) -> Result<HashMap<SampleId, Vec<(RoleImage, Option<Grid>)>>> {
    #[derive(Deserialize)]
    struct Row {
        sample_id: SampleId,
        pixels: Vec<RoleImage>,
        #[serde(default)]
        image_grids: Vec<RoleGrid>,
    }
    let by_unit: HashMap<&SourceUnit, &PlannedUnit> = subject.units.iter().map(|planned| (&planned.unit, planned)).collect();
    let units: Vec<&SourceUnit> = subject.windows.iter().flat_map(|window| &window.units).collect();
    let mut found = HashMap::new();
    let mut samples_seen = 0;
    for unit in units {
        if found.len() == wanted.len() || samples_seen > 2 * CREDITS as u64 {
            break;
        }
        samples_seen += unit.rows;
        let Some(planned) = by_unit.get(unit) else { continue };
        let batches = match derived_batches(&subject.job.config, planned).await {
            Ok(batches) => batches,
            Err(error) => {
                tracing::warn!(file = unit.file, %error, "the report shows no photos of this unit");
                continue;
            }
        };
        for batch in batches {
            for row in rows::read_with::<Row>(&batch, &[columns::SAMPLE_ID, columns::PIXELS], &[columns::IMAGE_GRIDS])? {
                if wanted.iter().any(|sample| sample.sample_id == row.sample_id) {
                    let grids = row.image_grids;
                    let with_grid = |image: RoleImage| {
                        let grid = RoleGrid::of(&grids, &image.role);
                        (image, grid)
                    };
                    found.insert(row.sample_id, row.pixels.into_iter().map(with_grid).collect());
                }
            }
        }
    }
    Ok(found)
}

async fn samples(subject: &Subject<'_>, prepared: &[Prepared]) -> Result<Vec<Sample>> {
    let shown: Vec<&Prepared> = spread(prepared, SAMPLES);
    let photos = photos(subject, &shown).await?;
    let decoded = picture::decode(subject.artefacts, shown.iter().map(|sample| sample.main_image()).collect()).await?;
    let spec = &subject.artefacts.image_spec;
    let photo = |(image, grid): &(RoleImage, Option<Grid>)| {
        let (width, height) = spec.size_px(grid.unwrap_or(spec.square()));
        pictures::photo(&image.bytes, width, height)
    };
    let mut samples = Vec::new();
    for (sample, reconstruction) in shown.into_iter().zip(decoded) {
        let image = |role: &str| photos.get(&sample.sample_id).and_then(|images| images.iter().find(|(image, _)| image.role == role));
        samples.push(Sample {
            sample_id: sample.sample_id,
            key: sample.key.clone(),
            photo: image(MAIN_IMAGE).map(photo).transpose()?,
            edges: image(EDGE_IMAGE).map(photo).transpose()?,
            psnr: image(MAIN_IMAGE)
                .filter(|_| subject.artefacts.image_decodes)
                .map(|(image, _)| psnr(&reconstruction.pixels, &image.bytes)),
            reconstruction: pictures::photo(&reconstruction.pixels, reconstruction.width, reconstruction.height)?,
            caption: sample.caption(),
        });
    }
    Ok(samples)
}

/// Picks at most `count` items, evenly spread.
fn spread<T>(items: &[T], count: usize) -> Vec<&T> {
    let step = items.len().div_ceil(count.max(1)).max(1);
    items.iter().step_by(step).collect()
}

async fn neighbours(subject: &Subject<'_>, units: &WindowTables<'_>, prepared: &[Prepared], documents: &[Document]) -> Result<Vec<Query>> {
    let queries: Vec<&Document> = documents.iter().filter(|document| !document.retrieved.is_empty()).collect();
    let queries: Vec<(&Document, &Prepared)> = spread(&queries, QUERIES)
        .into_iter()
        .filter_map(|query| Some((*query, prepared.iter().find(|sample| sample.sample_id == query.sample_id)?)))
        .collect();
    let wanted = queries.iter().flat_map(|(document, _)| &document.retrieved).map(|neighbour| neighbour.sample_id).collect();
    let bank = banked(units, wanted, subject.manifest.vocabulary.shapes.is_some()).await?;
    let mut gallery = Vec::new();
    for (document, sample) in queries {
        let found: Vec<_> =
            document.retrieved.iter().filter_map(|neighbour| Some((neighbour.similarity, bank.get(&neighbour.sample_id)?))).collect();
        let of_bank = found.iter().map(|(_, row)| ImageCodes { codes: row.codes.clone(), grid: row.grid });
        let shown = std::iter::once(sample.main_image()).chain(of_bank).collect();
        let mut images = picture::decode(subject.artefacts, shown).await?.into_iter();
        let mut next =
            || images.next().map_or_else(|| Ok(String::new()), |found| pictures::photo(&found.pixels, found.width, found.height));
        let image = next()?;
        let mut shown = Vec::new();
        for (similarity, row) in found {
            shown.push(RetrievedRow { caption: row.captions.first().cloned().unwrap_or_default(), image: next()?, similarity });
        }
        gallery.push(Query { caption: sample.caption(), image, found: shown });
    }
    Ok(gallery)
}

/// A sample in the bank.
#[derive(Deserialize)]
struct Banked {
    sample_id: SampleId,
    captions: Vec<String>,
    codes: Vec<u32>,
    #[serde(default)]
    grid: Option<Grid>,
}

/// Reads the rows of `wanted` samples from the banks of all windows, with their grids if they have some. Fetches only those banks as a
/// whole that hold one of them.
async fn banked(units: &WindowTables<'_>, mut wanted: HashSet<SampleId>, has_grids: bool) -> Result<HashMap<SampleId, Banked>> {
    #[derive(Deserialize)]
    struct Id {
        sample_id: SampleId,
    }
    const BANK: Table = Table::Bank;
    let mut found = HashMap::new();
    for place in units.places(SegmentName::Settle, units.all()) {
        if wanted.is_empty() {
            break;
        }
        let mut is_here = false;
        let look = |row: Id| {
            is_here |= wanted.contains(&row.sample_id);
            if is_here { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let _ = units.visit_unit(BANK, place, &[columns::SAMPLE_ID], look).await?;
        if is_here {
            let names = [columns::SAMPLE_ID, columns::CAPTIONS, columns::CODES, columns::GRID];
            let names = if has_grids { &names[..] } else { &names[..3] };
            for row in units.wanted(BANK, place, names, |row: &Banked| wanted.contains(&row.sample_id)).await? {
                wanted.remove(&row.sample_id);
                found.insert(row.sample_id, row);
            }
        }
    }
    Ok(found)
}

/// Shows a document of every task: the first with masked spans, else the first.
fn masked(subject: &Subject<'_>, documents: &[Document]) -> Result<Vec<MaskedDocument>> {
    let mut by_task: BTreeMap<&str, &Document> = BTreeMap::new();
    for document in documents {
        let shown = by_task.entry(&document.task).or_insert(document);
        if shown.spans == 0 && document.spans > 0 {
            *shown = document;
        }
    }
    by_task.into_values().map(|document| masked_document(subject, document)).collect()
}

fn masked_document(subject: &Subject<'_>, document: &Document) -> Result<MaskedDocument> {
    let runs = spelled(&document.tokens, &document.segments, &subject.manifest.vocabulary, &subject.artefacts.text)?;
    let runs = runs.into_iter().filter(|run| run.segment.role != Role::Boundary);
    Ok(MaskedDocument {
        document_id: document.document_id,
        task: document.task.clone(),
        tokens: document.tokens.len(),
        spans: document.spans,
        drawing: draw::document(&document.segments, document.tokens.len()),
        spelled: runs.map(|run| SpelledPart { class: draw::class(&run.segment), text: run.text }).collect(),
    })
}

async fn packs(subject: &Subject<'_>) -> Result<String> {
    let shards: Vec<ShardEntry> =
        subject.windows.iter().flat_map(|window| window.shards.clone()).filter(|shard| shard.split == Split::Train).collect();
    let schema = columns::pack(subject.manifest.seq_len as usize, subject.manifest.vocabulary.width());
    let packs = read_packs(&mut BlockReader::new(subject.job.store.objects(), schema), &shards, PACKS).await?;
    Ok(draw::packs(&packs))
}

fn reasons(counts: &BTreeMap<String, u64>) -> Vec<Reason> {
    counts.iter().map(|(reason, &count)| Reason { reason: reason.clone(), count }).collect()
}

fn fill(split: &str, statistics: &PackStatistics, seq_len: u32) -> Fill {
    let PackStatistics { packs, used, capacity, least_packs, .. } = *statistics;
    let better = statistics.best_seq_len().filter(|(best, _)| *best != seq_len);
    Fill {
        split: split.to_owned(),
        packs,
        used,
        capacity,
        percent: statistics.fill_rate() * 100.0,
        least_packs: (least_packs > 0).then_some(least_packs),
        imbalance: statistics.attention_imbalance(),
        better: better.map(|(best, rate)| (best, rate * 100.0)),
    }
}

/// Sums the counts of tasks over both splits.
fn tasks(statistics: &BTreeMap<String, PackStatistics>) -> BTreeMap<String, TaskStatistics> {
    let mut sum = PackStatistics::default();
    statistics.values().for_each(|split| sum.add(split));
    sum.tasks
}

fn stage_time(meter: &cm3flow_stages::StageMeter) -> StageTime {
    let (rows, busy_s) = (meter.rows_in().max(meter.rows_out()), meter.busy().as_secs_f64());
    StageTime { name: meter.stage, rows, busy_s, rate: if busy_s > 0.0 { rows as f64 / busy_s } else { 0.0 } }
}

fn credit(sample: &Prepared) -> Option<Credit> {
    let Annotations { credit, license, source, .. } = &sample.annotations;
    if credit.is_none() && license.is_none() {
        return None;
    }
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    Some(Credit { key: sample.key.clone(), credit: text(credit), license: text(license), source: text(source) })
}

async fn training(subject: &Subject<'_>, outcome: &TrainOutcome) -> Result<Option<TrainingPart>> {
    let Some((first_loss, last_loss)) = outcome.first_and_last_loss() else { return Ok(None) };
    let folder = outcome.checkpoint.rsplit_once('/').map_or("", |(folder, _)| folder);
    let folder = evaluations_folder(folder, &subject.job.config.eval);
    let mut evaluations = Vec::new();
    for name in subject.job.store.names(&folder).await? {
        evaluations.extend(subject.job.store.record::<Evaluation>(&format!("{folder}/{name}/evaluation.json"), "evaluation").await?);
    }
    evaluations.sort_by_key(|evaluation| evaluation.step);
    let mut part = TrainingPart {
        checkpoint: outcome.checkpoint.clone(),
        steps: outcome.step,
        first_loss,
        last_loss,
        curve: loss_curves(outcome, &evaluations),
        evaluations: evaluations.iter().map(evaluation_row).collect(),
        step: 0,
        images: Vec::new(),
        captions: Vec::new(),
    };
    if let Some(last) = evaluations.last() {
        part.step = last.step;
        let folder = format!("{folder}/{}", last.step);
        for image in &last.images {
            let (generated, reference) =
                (picture(subject, &folder, &image.generated).await?, picture(subject, &folder, &image.reference).await?);
            part.images.push(GeneratedPicture { caption: image.caption.clone(), generated, reference });
        }
        for caption in &last.captions {
            let (reference, generated) = (caption.reference.clone(), caption.generated.clone());
            part.captions.push(GeneratedText { image: picture(subject, &folder, &caption.image).await?, reference, generated });
        }
    }
    Ok(Some(part))
}

async fn picture(subject: &Subject<'_>, folder: &str, name: &str) -> Result<String> {
    Ok(subject.job.store.get(&format!("{folder}/{name}")).await?.map(|bytes| pictures::png(&bytes)).unwrap_or_default())
}

fn evaluation_row(evaluation: &Evaluation) -> EvaluationRow {
    let of = |modality| evaluation.losses.mean(modality).map(perplexity);
    EvaluationRow {
        step: evaluation.step,
        packs: evaluation.packs,
        text: of(Modality::Text),
        image: of(Modality::Image),
        all: evaluation.losses.mean_of_all().map(perplexity),
    }
}

fn loss_curves(outcome: &TrainOutcome, evaluations: &[Evaluation]) -> String {
    let train =
        |modality: Modality| outcome.curve.iter().filter_map(|step| Some((step.step as f64, step.losses.mean(modality)?))).collect();
    let held_out = |modality: Modality| {
        evaluations.iter().filter_map(|evaluation| Some((evaluation.step as f64, evaluation.losses.mean(modality)?))).collect()
    };
    draw::curves(&[
        Curve { class: "curve-text", points: train(Modality::Text), dots: false },
        Curve { class: "curve-image", points: train(Modality::Image), dots: false },
        Curve { class: "curve-text", points: held_out(Modality::Text), dots: true },
        Curve { class: "curve-image", points: held_out(Modality::Image), dots: true },
    ])
}
