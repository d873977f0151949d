//! Reads a unit from its source and sends its samples.
//!
//! What is read must be what was planned: a tar by its facts, samples whose images are files by the unit's digest.

use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use cm3flow_schemas::columns;
use cm3flow_schemas::rows;
use cm3flow_schemas::sample::{self, Annotations, DroppedPart, MAIN_IMAGE, Refusal, RoleImage};
use cm3flow_schemas::{ImageId, SampleId};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use serde::Serialize;

use super::annotations::{Reading, captions_from_text, from_json, image_names, is_codes_extension, is_image_extension};
use super::files::{self, FileSample, UnitHasher, digests};
use super::lines::{Line, Lines};
use super::planned::{FileFacts, FolderFile, Layout, PlannedUnit};
use super::webdataset::{self, TarSample};
use super::{Location, NAME};
use crate::channel::BatchSender;
use crate::error::{Result, StageError};
use crate::stage::Source;

/// Rows of a batch: few, since each carries encoded images.
const BATCH_ROWS: usize = 16;
/// Samples whose images are fetched side by side.
const SAMPLES_AT_ONCE: usize = 8;

/// The source of `prepare`: sends [`columns::raw_sample`] for every sample of a unit, in order.
#[derive(Debug)]
pub struct Ingest {
    planned: PlannedUnit,
    location: Location,
}

impl Ingest {
    /// Sends the samples of the unit `planned` of the source at `location`.
    ///
    /// # Errors
    /// [`StageError::Source`] for a unit that contradicts itself.
    pub fn try_new(planned: PlannedUnit, location: Location) -> Result<Self> {
        planned.check()?;
        Ok(Self { planned, location })
    }

    async fn send_all(&self, out: &BatchSender) -> Result<()> {
        let mut batches = Batches { source: &self.planned.unit.source, out, waiting: Vec::with_capacity(BATCH_ROWS), sent: 0 };
        match &self.planned.place.layout {
            Layout::Tar { start, end, facts } => self.send_tar((*start, *end), facts, &mut batches).await?,
            Layout::Lines { start, end, first_line } => {
                self.send_files(self.of_lines((*start, *end), *first_line).await?, &mut batches).await?
            }
            Layout::Files(files) => self.send_files(self.of_folder(files), &mut batches).await?,
        }
        batches.flush().await?;
        if batches.sent == self.planned.unit.rows {
            return Ok(());
        }
        Err(self.planned.changed(format!("it has {} rows where the unit has {}", batches.sent, self.planned.unit.rows)))
    }

    async fn send_tar(&self, (start, end): (u64, u64), facts: &FileFacts, batches: &mut Batches<'_>) -> Result<()> {
        let path = self.location.file(&self.planned.unit.file)?;
        let changed = || self.planned.changed("its size, etag or time of change is another");
        let (mut samples, found) = match webdataset::samples(&self.location, &path, start..end, is_read).await {
            Ok(found) => found,
            // A tar that became shorter has no such bytes.
            Err(error) => return Err(if self.location.facts(&path).await?.is_some_and(|now| now != *facts) { changed() } else { error }),
        };
        if found != *facts {
            return Err(changed());
        }
        let mut row = self.planned.place.first_row;
        while let Some(sample) = samples.try_next().await? {
            if self.planned.has(row) {
                batches.push(tar_sample(sample, &self.planned.unit.file)).await?;
            }
            row += 1;
        }
        Ok(())
    }

    /// Sends samples whose images are files, all of the unit's place, if their digest is the unit's.
    async fn send_files(&self, found: BoxStream<'_, Result<FileSample>>, batches: &mut Batches<'_>) -> Result<()> {
        let rows = self.planned.place.first_row..;
        let mut read = futures::stream::iter(rows).zip(found).map(|(row, sample)| self.with_images(row, sample)).buffered(SAMPLES_AT_ONCE);
        let mut hasher = UnitHasher::new();
        while let Some((sample, images)) = read.try_next().await? {
            let Some(images) = images else { continue };
            hasher.add(&sample, &digests(&images));
            batches.push(file_sample(sample, images, &self.location)).await?;
        }
        if self.planned.is_whole() && hasher.digest() != self.planned.unit.digest {
            return Err(self.planned.changed("rows, annotations or images are others"));
        }
        Ok(())
    }

    /// A sample with its images if `row` belongs to the unit.
    async fn with_images(&self, row: u64, sample: Result<FileSample>) -> Result<(FileSample, Option<Vec<Option<Bytes>>>)> {
        let sample = sample?;
        let images = if self.planned.has(row) { Some(sample.read(&self.location).await?) } else { None };
        Ok((sample, images))
    }

    /// Samples of the bytes from `start` to `end` of a list.
    async fn of_lines(&self, (start, end): (u64, u64), first_line: u64) -> Result<BoxStream<'_, Result<FileSample>>> {
        let path = self.location.file(&self.planned.unit.file)?;
        let changed = |size| self.planned.changed(format!("it has {size} bytes where the unit ends at {end}"));
        let (body, facts) = match self.location.stream(&path, Some(start..end)).await {
            Ok(found) => found,
            // A list that became shorter may have no such bytes.
            Err(error) => {
                return Err(self.location.facts(&path).await?.filter(|now| now.size() < end).map_or(error, |now| changed(now.size())));
            }
        };
        if facts.size() < end {
            return Err(changed(facts.size()));
        }
        let folder = self.location.folder();
        let lines = futures::stream::try_unfold(Lines::new(body, start, first_line), |mut lines| async move {
            let line: Option<Line> = lines.next().await?;
            Ok(line.map(|line| (line, lines)))
        });
        Ok(lines.map_ok(move |line| files::of_line(&folder, &line)).boxed())
    }

    fn of_folder<'s>(&'s self, files: &'s [FolderFile]) -> BoxStream<'s, Result<FileSample>> {
        let read: Vec<_> = files.iter().map(|file| self.of_file(file)).collect();
        futures::stream::iter(read).buffered(SAMPLES_AT_ONCE).boxed()
    }

    async fn of_file(&self, file: &FolderFile) -> Result<FileSample> {
        files::of_file(&self.location, file).await.map_err(|error| match error {
            StageError::Store { location, source: object_store::Error::NotFound { .. } } => {
                self.planned.changed(format!("{location} is gone"))
            }
            error => error,
        })
    }
}

impl Source for Ingest {
    fn name(&self) -> &'static str {
        NAME
    }

    fn output_schema(&self) -> SchemaRef {
        columns::raw_sample()
    }

    fn run(self: Box<Self>, out: BatchSender) -> BoxFuture<'static, Result<()>> {
        async move { self.send_all(&out).await }.boxed()
    }
}

/// Numbers rows and sends them in batches.
struct Batches<'a> {
    source: &'a str,
    out: &'a BatchSender,
    waiting: Vec<RawRow>,
    /// Rows so far, those that wait included.
    sent: u64,
}

impl Batches<'_> {
    async fn push(&mut self, sample: RawSample) -> Result<()> {
        self.waiting.push(sample.into_row(self.source, self.sent));
        self.sent += 1;
        if self.waiting.len() < BATCH_ROWS { Ok(()) } else { self.flush().await }
    }

    async fn flush(&mut self) -> Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let batch = rows::write(&columns::raw_sample(), &self.waiting).map_err(|source| StageError::Schema { stage: NAME, source })?;
        self.waiting.clear();
        self.out.send(batch).await
    }
}

#[derive(Serialize)]
struct RawRow {
    sample_id: SampleId,
    image_id: ImageId,
    source: String,
    key: String,
    row: u64,
    images: Vec<RoleImage>,
    annotations: Annotations,
    dropped: Vec<DroppedPart>,
    refusal: Option<Refusal>,
}

/// A sample as far as it could be read.
struct RawSample {
    key: String,
    images: Vec<RoleImage>,
    annotations: Annotations,
    dropped: Vec<DroppedPart>,
    refusal: Option<Refusal>,
}

impl RawSample {
    /// Takes annotations, or a refusal if they are of no use.
    fn take(&mut self, reading: Reading) {
        if let Some(problem) = &reading.problem {
            tracing::info!(key = self.key, problem, "annotations could not be read in full");
        }
        match reading.finish() {
            Ok((annotations, dropped)) => (self.annotations, self.dropped) = (annotations, dropped),
            Err(problem) => {
                self.refusal.get_or_insert_with(|| Refusal::new(NAME, "bad_annotations", problem));
            }
        }
    }

    fn into_row(self, source: &str, row: u64) -> RawRow {
        let main = self.images.iter().find(|image| image.role == MAIN_IMAGE);
        let image_id = ImageId::of(main.map_or(&[], |image| image.bytes.as_slice()));
        let refusal = self.refusal.or_else(|| main.is_none().then(|| Refusal::new(NAME, "no_image", "the sample has no image")));
        RawRow {
            // A refused sample may lack all content; its key keeps it apart from others.
            sample_id: if refusal.is_some() && self.images.is_empty() {
                keyed_id(source, &self.key, row)
            } else {
                sample::sample_id(&self.images, &self.annotations)
            },
            image_id,
            source: source.to_owned(),
            key: self.key,
            row,
            images: self.images,
            annotations: self.annotations,
            dropped: self.dropped,
            refusal,
        }
    }
}

fn keyed_id(source: &str, key: &str, row: u64) -> SampleId {
    SampleId(
        cm3flow_schemas::digest::PartHasher::new("sample without content")
            .part(source.as_bytes())
            .part(key.as_bytes())
            .part(&row.to_le_bytes())
            .id(),
    )
}

/// Whether a member is read: others (a .cls) are not ours to judge.
fn is_read(extension: &str) -> bool {
    let last = extension.rsplit('.').next().unwrap_or(extension);
    matches!(last, "json" | "txt") || is_image_extension(last) || is_codes_extension(last)
}

/// A sample of the tar `name`.
fn tar_sample(found: TarSample, name: &str) -> RawSample {
    let mut sample =
        RawSample { key: found.key, images: Vec::new(), annotations: Annotations::default(), dropped: Vec::new(), refusal: None };
    if let Some(damage) = &found.damage {
        sample.refusal = Some(Refusal::new(NAME, "damaged_tar", format!("{name}: {damage}")));
        return sample;
    }
    let mut given: Vec<RoleImage> = Vec::new();
    let (mut reading, mut texts) = (Reading::default(), Reading::default());
    for member in found.members {
        let (stem, extension) = member.extension.rsplit_once('.').unwrap_or((MAIN_IMAGE, &member.extension));
        let refused = match extension {
            "json" if stem == MAIN_IMAGE => from_json(&member.bytes).map(|read| reading.join(read.at(".json"))).err(),
            "txt" if stem == MAIN_IMAGE => {
                captions_from_text(&member.bytes).map(|captions| texts.join(Reading::of_captions(captions))).err()
            }
            _ if is_image_extension(extension) => {
                let role = if sample.images.iter().any(|image| image.role == stem) { &member.extension } else { stem };
                sample.images.push(RoleImage { role: role.to_owned(), bytes: member.bytes });
                None
            }
            _ if is_codes_extension(extension) => {
                given.push(RoleImage { role: stem.to_owned(), bytes: member.bytes });
                None
            }
            _ => None,
        };
        if let Some(problem) = refused {
            sample.refusal = Some(Refusal::new(NAME, "bad_annotations", format!(".{}: {problem}", member.extension)));
        }
    }
    reading.join(texts);
    sample.take(reading);
    for (_, name) in image_names(&mut sample.annotations) {
        if let Some((stem, extension)) = name.rsplit_once('.')
            && [is_image_extension, is_codes_extension].iter().any(|is_known| is_known(&extension.to_ascii_lowercase()))
        {
            *name = stem.to_ascii_lowercase();
        } else if is_image_extension(&name.to_ascii_lowercase()) {
            // `KEY.jpg` has no name but its type.
            MAIN_IMAGE.clone_into(name);
        }
    }
    // Tars hold embeddings and the like as .npy, too: codes are those that stand where a picture is missing.
    for image in given {
        let is_named = image.role == MAIN_IMAGE || image_names(&mut sample.annotations).any(|(_, name)| *name == image.role);
        if is_named && !sample.images.iter().any(|other| other.role == image.role) {
            sample.images.push(image);
        }
    }
    first_item_is_main(&mut sample);
    sample
}

/// An interleaved document without a picture of its own is known by its first one.
fn first_item_is_main(sample: &mut RawSample) {
    let has_main = sample.images.iter().any(|image| image.role == MAIN_IMAGE);
    let Some(first) = sample.annotations.items.iter().find_map(|item| item.image.clone()).filter(|_| !has_main) else { return };
    sample.images.iter_mut().filter(|image| image.role == first).for_each(|image| MAIN_IMAGE.clone_into(&mut image.role));
    let images = sample.annotations.items.iter_mut().filter_map(|item| item.image.as_mut());
    images.filter(|image| **image == first).for_each(|image| MAIN_IMAGE.clone_into(image));
}

/// A sample with its images, in the order of [`FileSample::paths`].
fn file_sample(found: FileSample, images: Vec<Option<Bytes>>, location: &Location) -> RawSample {
    let mut sample =
        RawSample { key: found.key, images: Vec::new(), annotations: Annotations::default(), dropped: Vec::new(), refusal: None };
    match found.annotations {
        Ok(reading) => sample.take(reading),
        Err(problem) => sample.refusal = Some(Refusal::new(NAME, "bad_annotations", problem)),
    }
    if let Some(problem) = found.no_image {
        sample.refusal = Some(Refusal::new(NAME, "no_image", problem));
    }
    match found.codes {
        Some(Ok(bytes)) => sample.images.push(RoleImage { role: MAIN_IMAGE.to_owned(), bytes }),
        Some(Err(problem)) => sample.refusal = Some(Refusal::new(NAME, "bad_codes", problem)),
        None => {}
    }
    let paths = found.image.into_iter().map(|path| (MAIN_IMAGE.to_owned(), path)).chain(found.further);
    for ((role, path), image) in paths.zip(images) {
        match image {
            Some(bytes) => sample.images.push(RoleImage { role, bytes: bytes.to_vec() }),
            None => sample.refusal = Some(Refusal::new(NAME, "missing_image", format!("{} does not exist", location.relative(&path)))),
        }
    }
    sample
}
