//! Reading of a unit: sends the unit's samples from its source.
//!
//! The content must equal the planned one: a tar is checked by its facts, samples with separate images by the unit's digest.

use arrow::datatypes::SchemaRef;
use cm3flow_schemas::{columns, rows};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};

use super::config::ReadOptions;
use super::facts::FileContent;
use super::files::{self, FileSample, UnitHasher, digests};
use super::lines::Lines;
use super::planned::{FolderFile, Layout, PlannedUnit};
use super::rows::ListSamples;
use super::sample::{self, RawRow, RawSample, is_read};
use super::webdataset::{self, TarPart};
use super::{Location, NAME};
use crate::channel::BatchSender;
use crate::error::{Result, StageError};
use crate::stage::{Revised, Source};

/// Number of rows in a batch: few, since each has encoded images.
const BATCH_ROWS: usize = 16;
/// Number of samples whose images are fetched in parallel.
const SAMPLES_AT_ONCE: usize = 8;

/// First stage of `prepare`, a source: sends [`columns::raw_sample`] for every sample of a unit, in order.
#[derive(Debug)]
pub struct Ingest {
    planned: PlannedUnit,
    location: Location,
    options: ReadOptions,
}

impl Ingest {
    /// Sends the samples of the unit `planned` of the source at `location`, which was scanned with these `options`.
    ///
    /// # Errors
    /// [`StageError::Source`] for a unit that contradicts itself.
    pub fn try_new(planned: PlannedUnit, location: Location, options: ReadOptions) -> Result<Self> {
        planned.check()?;
        Ok(Self { planned, location, options })
    }

    async fn send_all(&self, out: &BatchSender) -> Result<()> {
        let mut batches = Batches { source: &self.planned.unit.source, out, waiting: Vec::with_capacity(BATCH_ROWS), sent: 0 };
        match &self.planned.place.layout {
            Layout::Tar(part) => self.send_tar(part, &mut batches).await?,
            Layout::Lines { start, end, first_line } => {
                self.send_files(self.of_lines(*start, *end, *first_line).await?, &mut batches).await?
            }
            Layout::Files(files) => self.send_files(self.of_folder(files), &mut batches).await?,
        }
        batches.flush().await?;
        if batches.sent == self.planned.unit.rows {
            return Ok(());
        }
        Err(self.planned.changed(format!("it has {} rows where the unit has {}", batches.sent, self.planned.unit.rows)))
    }

    async fn send_tar(&self, part: &TarPart, batches: &mut Batches<'_>) -> Result<()> {
        let path = self.location.file(&self.planned.unit.file)?;
        let changed = || self.planned.changed("its size, etag or time of change is another");
        let (mut samples, found) = match webdataset::samples(&self.location, &path, part, is_read, self.options.max_member_bytes).await {
            Ok(found) => found,
            // A tar that has become shorter lacks these bytes.
            Err(error) => {
                let is_other = self.location.facts(&path).await?.is_some_and(|now| now != part.facts);
                return Err(if is_other { changed() } else { error });
            }
        };
        if found != part.facts {
            return Err(changed());
        }
        let mut row = self.planned.place.first_row;
        while let Some(found) = samples.try_next().await? {
            if self.planned.has(row) {
                let repeated_at = part.repeated.get(&row).copied();
                batches.push(sample::of_tar(found, &self.planned.unit.file, repeated_at, &self.options)).await?;
            }
            row += 1;
        }
        Ok(())
    }

    /// Sends samples whose images are files, all of the unit's place. Checks that their digest is the unit's.
    async fn send_files(&self, found: BoxStream<'_, Result<FileSample>>, batches: &mut Batches<'_>) -> Result<()> {
        let rows = self.planned.place.first_row..;
        let mut read = futures::stream::iter(rows).zip(found).map(|(row, sample)| self.with_images(row, sample)).buffered(SAMPLES_AT_ONCE);
        let mut hasher = UnitHasher::new();
        while let Some((sample, images)) = read.try_next().await? {
            let Some(images) = images else { continue };
            hasher.add(&sample, &digests(&images));
            batches.push(sample::of_files(sample, images, &self.location, &self.options)).await?;
        }
        if self.planned.is_whole() && hasher.digest() != self.planned.unit.digest {
            return Err(self.planned.changed("rows, annotations or images are others"));
        }
        Ok(())
    }

    /// Returns a sample, with its images if `row` belongs to the unit.
    async fn with_images(&self, row: u64, sample: Result<FileSample>) -> Result<(FileSample, Option<Vec<FileContent>>)> {
        let sample = sample?;
        let images = if self.planned.has(row) { Some(sample.read(&self.location, self.options.max_member_bytes).await?) } else { None };
        Ok((sample, images))
    }

    /// Streams the samples in the bytes from `start` to `end` of a list.
    async fn of_lines(&self, start: u64, end: u64, first_line: u64) -> Result<BoxStream<'_, Result<FileSample>>> {
        let path = self.location.file(&self.planned.unit.file)?;
        let changed = |size| self.planned.changed(format!("it has {size} bytes where the unit ends at {end}"));
        let (body, facts) = match self.location.stream(&path, Some(start..end)).await {
            Ok(found) => found,
            // A list that has become shorter may lack these bytes.
            Err(error) => {
                return Err(self.location.facts(&path).await?.filter(|now| now.size() < end).map_or(error, |now| changed(now.size())));
            }
        };
        if facts.size() < end {
            return Err(changed(facts.size()));
        }
        let samples = ListSamples::new(Lines::new(body, start, first_line), self.options.row_reading(&self.location));
        let samples = futures::stream::try_unfold(samples, |mut samples| async move {
            let found = samples.next().await?;
            Ok(found.map(|found| (found.sample, samples)))
        });
        Ok(samples.boxed())
    }

    fn of_folder<'s>(&'s self, files: &'s [FolderFile]) -> BoxStream<'s, Result<FileSample>> {
        let read: Vec<_> = files.iter().map(|file| files::of_file(&self.location, file, self.options.max_member_bytes)).collect();
        futures::stream::iter(read).buffered(SAMPLES_AT_ONCE).boxed()
    }
}

impl Revised for Ingest {
    const NAME: &'static str = NAME;
    const REVISION: u32 = super::REVISION;
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

/// Sender that numbers rows and groups them into batches.
struct Batches<'a> {
    source: &'a str,
    out: &'a BatchSender,
    waiting: Vec<RawRow>,
    /// Number of rows so far, waiting ones included.
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
