//! Scan that finds the units of a source without keeping its rows.
//!
//! Everything is read once, with files in parallel. Content that a [`ScanMemory`] still knows is not read again. A tar or a list is
//! recognised by its facts (size and etag, or time of the last change), a run of samples with separate images by the facts of those files.
//! A memory only saves work: each unit is checked against the plan when it is read.

use std::collections::BTreeMap;

use cm3flow_schemas::Digest;
use cm3flow_schemas::window::SourceUnit;
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectMeta;
use object_store::path::Path;

use super::config::{SourceConfig, SourceFormat};
use super::cuts::Cuts;
use super::facts::FileFacts;
use super::files::{self, FileSample, UnitHasher, digests};
use super::folder::FolderRow;
use super::lines::Lines;
use super::location::Location;
use super::memory::{ScanOptions, Scanning};
use super::planned::{Layout, PlannedUnit};
use super::rows::ListSamples;
use super::webdataset::{self, TarIndex};
use crate::error::{Result, StageError};

/// Number of a source's files scanned in parallel.
const FILES_AT_ONCE: usize = 4;
/// Number of a unit's images read in parallel.
const IMAGES_AT_ONCE: usize = 8;

/// Units of a source, with sizes and counts.
#[derive(Debug, Default, PartialEq)]
pub struct ScannedSource {
    /// Units, in order of files and rows.
    pub units: Vec<PlannedUnit>,
    /// Total size of the listed files that samples are read from, in bytes.
    pub bytes: u64,
    /// Numbers of a folder's skipped files, by extension.
    pub left: BTreeMap<String, u64>,
}

/// Scans the source at `location`.
///
/// # Errors
/// [`StageError::Source`] if there is nothing to read; [`StageError::Store`] or [`StageError::Read`] if reading fails.
pub async fn scan(config: &SourceConfig, location: &Location, options: ScanOptions<'_>) -> Result<ScannedSource> {
    let scanning = Scanning { config, location, options };
    let mut scanned = ScannedSource::default();
    let mut limit = options.limit.unwrap_or(u64::MAX);
    if config.format == SourceFormat::Folder {
        let folder = scanning.folder().await?;
        scanned.units = scanning.units_of_folder(&folder.rows, limit).await?;
        (scanned.bytes, scanned.left) = (folder.bytes, folder.left);
    } else {
        let files = location.matching_files(&config.name).await?;
        let at_once = if options.limit.is_some() { 1 } else { FILES_AT_ONCE };
        for files in files.chunks(at_once) {
            if limit == 0 {
                break;
            }
            let found = futures::future::try_join_all(files.iter().map(|file| scanning.file(file, limit))).await?;
            scanned.bytes += files.iter().map(|file| file.size).sum::<u64>();
            let found: Vec<PlannedUnit> = found.into_iter().flatten().collect();
            limit -= found.iter().map(|planned| planned.unit.rows).sum::<u64>();
            scanned.units.extend(found);
        }
    }
    // A limit may exclude a source that the version before has.
    if scanned.units.is_empty() && options.limit.is_none() {
        let left: Vec<String> = scanned.left.iter().map(|(what, count)| format!("{count} {what}")).collect();
        let left = if left.is_empty() { String::new() } else { format!(" among its files ({})", left.join(", ")) };
        let problem = format!("{} holds no samples{left}; check the source's url", location.path);
        return Err(StageError::Source { name: config.name.clone(), problem });
    }
    Ok(scanned)
}

impl Scanning<'_> {
    /// Returns the units of one file, with at most `limit` samples.
    async fn file(&self, file: &ObjectMeta, limit: u64) -> Result<Vec<PlannedUnit>> {
        match self.config.format {
            SourceFormat::WebDataset => self.tar(file, limit).await,
            _ => self.list(file, limit).await,
        }
    }

    async fn tar(&self, file: &ObjectMeta, limit: u64) -> Result<Vec<PlannedUnit>> {
        let facts = FileFacts::of(file);
        let key = self.key("scanned tar", &(file.location.to_string(), &facts));
        let index: TarIndex = match self.recall(key).await {
            Some(index) => index,
            None => {
                let index = webdataset::index(self.location, &file.location).await?;
                if index.facts.is_settled() {
                    self.remember(key, &index).await;
                }
                index
            }
        };
        let same = self.before().filter(|unit| unit.digest == index.digest);
        let units = Cuts::new(self.config.unit_samples, same).units(index.starts.len() as u64, limit);
        let unit = |(first_row, rows): (u64, u64)| {
            let layout = Layout::Tar(index.part(first_row..first_row + rows));
            PlannedUnit::whole(self.unit(&file.location, index.digest, first_row, rows), layout)
        };
        Ok(units.into_iter().map(unit).collect())
    }

    async fn list(&self, file: &ObjectMeta, limit: u64) -> Result<Vec<PlannedUnit>> {
        let cuts = self.cuts(&file.location);
        let key = |cuts: &Cuts| self.key("scanned list", &(&self.config.name, file.location.to_string(), FileFacts::of(file), cuts, limit));
        if let Some(units) = self.recall(key(&cuts)).await {
            return Ok(units);
        }
        let (body, facts) = self.location.stream(&file.location, None).await?;
        let (lines, reading) = (Lines::new(body, 0, 0), self.options.reading.row_reading(self.location));
        let mut list = ListSamples::of_list(lines, reading, &self.config.name, file.location.filename().unwrap_or_default());
        let (mut units, mut row, mut left, mut has_images) = (Vec::new(), 0, limit, false);
        while let Some(rows) = cuts.rows_at(row, left) {
            let Some(part) = part_of_list(&mut list, rows).await? else { break };
            let digest = self.digest_of_samples(&part.samples).await?;
            has_images |= part.samples.iter().any(|sample| sample.paths().next().is_some());
            let rows = part.samples.len() as u64;
            units.push(PlannedUnit::whole(self.unit(&file.location, digest, row, rows), part.layout));
            (row, left) = (row + rows, left - rows);
        }
        // Images may change while their list stays the same.
        if !has_images && facts.is_settled() {
            self.remember(key(&cuts), &units).await;
            // The next scan cuts by the units of this one.
            let next = Cuts::new(self.config.unit_samples, units.iter().map(|planned| &planned.unit));
            if next != cuts {
                self.remember(key(&next), &units).await;
            }
        }
        Ok(units)
    }

    /// Returns the digest of samples, by the facts of their images, or by reading them.
    async fn digest_of_samples(&self, samples: &[FileSample]) -> Result<Digest> {
        let mut rows = UnitHasher::new();
        samples.iter().for_each(|sample| rows.add_row(sample));
        if samples.iter().all(|sample| sample.pictures().next().is_none()) {
            return Ok(rows.digest());
        }
        let paths: Vec<&Path> = samples.iter().flat_map(FileSample::paths).collect();
        let facts: Vec<_> = paths.iter().map(|path| self.location.facts(path)).collect();
        let facts: Vec<Option<FileFacts>> = futures::stream::iter(facts).buffered(IMAGES_AT_ONCE).try_collect().await?;
        let names: Vec<&str> = paths.iter().map(|path| path.as_ref()).collect();
        let key = self.key("scanned samples", &(rows.digest(), names, &facts));
        match self.recall(key).await {
            Some(digest) => Ok(digest),
            None => {
                let are_settled = facts.iter().flatten().all(FileFacts::is_settled);
                self.digest_by_reading(samples, key, are_settled).await
            }
        }
    }

    /// Reads samples and returns their digest, which it keeps under `key` if their files `are_settled`.
    async fn digest_by_reading(&self, samples: &[FileSample], key: Digest, are_settled: bool) -> Result<Digest> {
        let read: Vec<_> = samples.iter().map(|sample| self.read_digests(sample)).collect();
        let mut read = futures::stream::iter(read).buffered(IMAGES_AT_ONCE);
        let mut hasher = UnitHasher::new();
        while let Some((sample, images)) = read.try_next().await? {
            hasher.add(sample, &images);
        }
        if are_settled {
            self.remember(key, &hasher.digest()).await;
        }
        Ok(hasher.digest())
    }

    async fn read_digests<'s>(&self, sample: &'s FileSample) -> Result<(&'s FileSample, Vec<Digest>)> {
        Ok((sample, digests(&sample.read(self.location, self.options.reading.max_member_bytes).await?)))
    }

    /// Returns the units of a folder, with at most `limit` samples.
    async fn units_of_folder(&self, found: &[FolderRow], limit: u64) -> Result<Vec<PlannedUnit>> {
        let cuts = self.cuts(&self.location.path);
        let mut units = Vec::new();
        for (first_row, rows) in cuts.units(found.len() as u64, limit) {
            let found = &found[first_row as usize..(first_row + rows) as usize];
            let digest = self.digest_of_rows(found).await?;
            let layout = Layout::Files(found.iter().map(|row| row.file.clone()).collect());
            units.push(PlannedUnit::whole(self.unit(&self.location.path, digest, first_row, rows), layout));
        }
        Ok(units)
    }

    async fn digest_of_rows(&self, found: &[FolderRow]) -> Result<Digest> {
        let listed: Vec<_> = found.iter().map(|row| (&row.file, &row.facts)).collect();
        let key = self.key("scanned images", &listed);
        if let Some(digest) = self.recall(key).await {
            return Ok(digest);
        }
        let most = self.options.reading.max_member_bytes;
        let samples: Vec<_> = found.iter().map(|row| files::of_file(self.location, &row.file, most)).collect();
        let samples: Vec<FileSample> = futures::stream::iter(samples).buffered(IMAGES_AT_ONCE).try_collect().await?;
        let are_settled = found.iter().flat_map(|row| &row.facts).all(FileFacts::is_settled);
        self.digest_by_reading(&samples, key, are_settled).await
    }

    /// Iterates over the units of the version before that belong to this source.
    fn before(&self) -> impl Iterator<Item = &SourceUnit> {
        self.options.before.iter().filter(|unit| unit.source == self.config.name)
    }

    fn cuts(&self, file: &Path) -> Cuts {
        let name = file.filename().unwrap_or_default();
        Cuts::new(self.config.unit_samples, self.before().filter(|unit| unit.file == name))
    }

    fn unit(&self, file: &Path, digest: Digest, first_row: u64, rows: u64) -> SourceUnit {
        let file = file.filename().unwrap_or_default().to_owned();
        SourceUnit { source: self.config.name.clone(), file, digest, first_row, rows, only: Vec::new() }
    }
}

/// Returns the next `rows` samples of a list, or as many as are left; `None` at its end.
async fn part_of_list(list: &mut ListSamples, rows: u64) -> Result<Option<PartOfList>> {
    let Some(first) = list.next().await? else { return Ok(None) };
    let (start, first_line, mut end) = (first.start, first.line, first.end);
    let mut samples = vec![first.sample];
    while (samples.len() as u64) < rows
        && let Some(next) = list.next().await?
    {
        end = next.end;
        samples.push(next.sample);
    }
    Ok(Some(PartOfList { samples, layout: Layout::Lines { start, end, first_line } }))
}

/// Consecutive samples of a list.
struct PartOfList {
    samples: Vec<FileSample>,
    layout: Layout,
}
