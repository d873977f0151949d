//! Finds the units of a source without keeping its rows.
//!
//! Everything is read once, files side by side. What a [`ScanMemory`] still knows is not read again: a tar or a list by its facts (size and
//! etag, or time of the last change), a run of samples whose images are files by the facts of those files. A memory only saves work:
//! whatever it says, a unit that is read is checked against what was planned.

use std::collections::HashMap;
use std::ops::Range;

use cm3flow_schemas::Digest;
use cm3flow_schemas::canonical::digest_of;
use cm3flow_schemas::window::SourceUnit;
use futures::future::BoxFuture;
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectMeta;
use object_store::path::Path;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::annotations::problem_of_list;
use super::config::{SourceConfig, SourceFormat};
use super::cuts::Cuts;
use super::files::{self, FileSample, UnitHasher, digests};
use super::lines::Lines;
use super::location::Location;
use super::planned::{FileFacts, FolderFile, Layout, PlannedUnit};
use super::webdataset::{self, TarIndex};
use crate::error::{Result, StageError};

/// Files of a source that are scanned side by side.
const FILES_AT_ONCE: usize = 4;
/// Images of a unit that are looked at side by side.
const IMAGES_AT_ONCE: usize = 8;

/// What earlier scans found, by a key that says of what. Entries may be lost, or be nonsense.
pub trait ScanMemory: Send + Sync {
    /// The entry under `key`, if there is one.
    fn recall(&self, key: Digest) -> BoxFuture<'_, Option<Vec<u8>>>;

    /// Keeps `entry` under `key`, if it can.
    fn remember(&self, key: Digest, entry: Vec<u8>) -> BoxFuture<'_, ()>;
}

/// Remembers nothing.
#[derive(Debug, Clone, Copy)]
pub struct NoMemory;

impl ScanMemory for NoMemory {
    fn recall(&self, _: Digest) -> BoxFuture<'_, Option<Vec<u8>>> {
        Box::pin(std::future::ready(None))
    }

    fn remember(&self, _: Digest, _: Vec<u8>) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// What a scan is asked for beyond its source.
#[derive(Clone, Copy)]
pub struct ScanOptions<'a> {
    /// Takes at most so many samples.
    pub limit: Option<u64>,
    /// Units of the version before, of any source, oldest first: where they still are, units are cut as they were.
    pub before: &'a [SourceUnit],
    /// The source's address in full, which tells apart what the memory keeps.
    pub address: &'a str,
    /// What earlier scans found.
    pub memory: &'a dyn ScanMemory,
}

/// All units of a source, in order, with the number of bytes that the source's files have.
#[derive(Debug, Default, PartialEq)]
pub struct ScannedSource {
    /// Units, in order of files and rows.
    pub units: Vec<PlannedUnit>,
    /// Bytes of the files that samples are read from, as far as they are listed.
    pub bytes: u64,
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
        (scanned.units, scanned.bytes) = scanning.folder(limit).await?;
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
    // A limit may leave out all of a source that the version before has.
    if scanned.units.is_empty() && options.limit.is_none() {
        let problem = format!("{} holds no samples; check the source's url", location.path);
        return Err(StageError::Source { name: config.name.clone(), problem });
    }
    Ok(scanned)
}

/// An entry of the memory: what was found, with a digest that tells whether it is whole.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry<T> {
    found: T,
    check: Digest,
}

/// A scan of one source.
struct Scanning<'a> {
    config: &'a SourceConfig,
    location: &'a Location,
    options: ScanOptions<'a>,
}

impl Scanning<'_> {
    /// Units of one file, at most `limit` samples.
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
            let bytes = index.bytes_of(first_row..first_row + rows);
            let layout = Layout::Tar { start: bytes.start, end: bytes.end, facts: index.facts.clone() };
            PlannedUnit::whole(self.unit(&file.location, index.digest, (first_row, rows)), layout)
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
        let mut lines = Lines::new(body, 0, 0);
        let (mut units, mut row, mut left, mut has_images) = (Vec::new(), 0, limit, false);
        while let Some(rows) = cuts.rows_at(row, left) {
            let Some(part) = self.part_of_list(file, &mut lines, row..row + rows).await? else { break };
            let digest = self.digest_of_samples(&part.samples).await?;
            has_images |= part.samples.iter().any(|sample| sample.paths().next().is_some());
            let rows = part.samples.len() as u64;
            units.push(PlannedUnit::whole(self.unit(&file.location, digest, (row, rows)), part.layout));
            (row, left) = (row + rows, left - rows);
        }
        // Images may change while their list stays as it is.
        if !has_images && facts.is_settled() {
            self.remember(key(&cuts), &units).await;
            // What comes of this is what the next scan cuts by.
            let next = Cuts::new(self.config.unit_samples, units.iter().map(|planned| &planned.unit));
            if next != cuts {
                self.remember(key(&next), &units).await;
            }
        }
        Ok(units)
    }

    /// The next rows of a list, these or as many of them as it still has; `None` at its end.
    async fn part_of_list(&self, file: &ObjectMeta, lines: &mut Lines, rows: Range<u64>) -> Result<Option<PartOfList>> {
        let folder = self.location.folder();
        let Some(first) = lines.next().await? else { return Ok(None) };
        if rows.start == 0
            && let Some(problem) = problem_of_list(file.location.filename().unwrap_or_default(), first.text.as_deref().unwrap_or_default())
        {
            return Err(StageError::Source { name: self.config.name.clone(), problem });
        }
        let (start, first_line, mut end) = (first.start, first.number, first.end);
        let mut samples = vec![files::of_line(&folder, &first)];
        while (samples.len() as u64) < rows.end - rows.start
            && let Some(line) = lines.next().await?
        {
            end = line.end;
            samples.push(files::of_line(&folder, &line));
        }
        Ok(Some(PartOfList { samples, layout: Layout::Lines { start, end, first_line } }))
    }

    /// Digest of samples, by what is known of their images, or by reading them.
    async fn digest_of_samples(&self, samples: &[FileSample]) -> Result<Digest> {
        let mut rows = UnitHasher::new();
        samples.iter().for_each(|sample| rows.add_row(sample));
        let paths: Vec<&Path> = samples.iter().flat_map(FileSample::paths).collect();
        if paths.is_empty() {
            return Ok(rows.digest());
        }
        let facts: Vec<_> = paths.iter().map(|path| self.location.facts(path)).collect();
        let facts: Vec<Option<FileFacts>> = futures::stream::iter(facts).buffered(IMAGES_AT_ONCE).try_collect().await?;
        let names: Vec<&str> = paths.iter().map(|path| path.as_ref()).collect();
        let key = self.key("scanned samples", &(rows.digest(), names, &facts));
        match self.recall(key).await {
            Some(digest) => Ok(digest),
            None => {
                let are_settled = facts.iter().flatten().all(FileFacts::is_settled);
                self.digest_by_reading(samples, (key, are_settled)).await
            }
        }
    }

    /// Digest of samples, kept under `key` if their files `are_settled`.
    async fn digest_by_reading(&self, samples: &[FileSample], (key, are_settled): (Digest, bool)) -> Result<Digest> {
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
        Ok((sample, digests(&sample.read(self.location).await?)))
    }

    /// Units of a folder, at most `limit` samples, with the bytes of its images.
    async fn folder(&self, limit: u64) -> Result<(Vec<PlannedUnit>, u64)> {
        let listed = self.location.files_below().await?;
        let images = folder_images(self.location, &listed);
        let cuts = self.cuts(&self.location.path);
        let mut units = Vec::new();
        for (first_row, rows) in cuts.units(images.len() as u64, limit) {
            let images = &images[first_row as usize..(first_row + rows) as usize];
            let digest = self.digest_of_images(images).await?;
            let layout = Layout::Files(images.iter().map(|image| image.file.clone()).collect());
            units.push(PlannedUnit::whole(self.unit(&self.location.path, digest, (first_row, rows)), layout));
        }
        Ok((units, images.iter().map(|image| image.facts.size()).sum()))
    }

    async fn digest_of_images(&self, images: &[FolderImage]) -> Result<Digest> {
        let listed: Vec<_> = images.iter().map(|image| (&image.file, &image.facts, &image.beside)).collect();
        let key = self.key("scanned images", &listed);
        if let Some(digest) = self.recall(key).await {
            return Ok(digest);
        }
        let samples: Vec<_> = images.iter().map(|image| files::of_file(self.location, &image.file)).collect();
        let samples: Vec<FileSample> = futures::stream::iter(samples).buffered(IMAGES_AT_ONCE).try_collect().await?;
        let is_settled = |image: &FolderImage| image.facts.is_settled() && image.beside.iter().all(FileFacts::is_settled);
        let are_settled = images.iter().all(is_settled);
        self.digest_by_reading(&samples, (key, are_settled)).await
    }

    /// Units of the version before that this source had.
    fn before(&self) -> impl Iterator<Item = &SourceUnit> {
        self.options.before.iter().filter(|unit| unit.source == self.config.name)
    }

    fn cuts(&self, file: &Path) -> Cuts {
        let name = file.filename().unwrap_or_default();
        Cuts::new(self.config.unit_samples, self.before().filter(|unit| unit.file == name))
    }

    fn unit(&self, file: &Path, digest: Digest, (first_row, rows): (u64, u64)) -> SourceUnit {
        let file = file.filename().unwrap_or_default().to_owned();
        SourceUnit { source: self.config.name.clone(), file, digest, first_row, rows, only: Vec::new() }
    }

    fn key(&self, domain: &str, what: &impl Serialize) -> Digest {
        digest_of(domain, &(self.options.address, what))
    }

    async fn recall<T: Serialize + DeserializeOwned>(&self, key: Digest) -> Option<T> {
        let entry: Entry<T> = serde_json::from_slice(&self.options.memory.recall(key).await?).ok()?;
        (entry.check == check(key, &entry.found)).then_some(entry.found)
    }

    async fn remember(&self, key: Digest, found: &impl Serialize) {
        let entry = serde_json::to_vec(&Entry { found, check: check(key, found) }).expect("what a scan finds serializes to JSON");
        self.options.memory.remember(key, entry).await;
    }
}

fn check(key: Digest, found: &impl Serialize) -> Digest {
    digest_of("what a scan found", &(key, found))
}

/// Consecutive rows of a list.
struct PartOfList {
    samples: Vec<FileSample>,
    layout: Layout,
}

/// An image of a folder, as listed.
struct FolderImage {
    file: FolderFile,
    facts: FileFacts,
    /// Facts of the annotations beside it.
    beside: Option<FileFacts>,
}

/// Images among the files of a folder and its subfolders, sorted by path, with the annotations beside them.
fn folder_images(location: &Location, listed: &[ObjectMeta]) -> Vec<FolderImage> {
    let name = |meta: &ObjectMeta| {
        let path = meta.location.as_ref();
        path.strip_prefix(location.path.as_ref()).unwrap_or(path).trim_start_matches('/').to_owned()
    };
    let by_name: HashMap<String, &ObjectMeta> = listed.iter().map(|meta| (name(meta), meta)).collect();
    let image = |meta: &ObjectMeta| {
        let name = name(meta);
        let beside = |extension: &str| {
            let found = by_name.get(&format!("{}.{extension}", files::stem(&name)))?;
            Some((extension.to_owned(), FileFacts::of(found)))
        };
        let (beside, facts) = beside("json").or_else(|| beside("txt")).unzip();
        FolderImage { file: FolderFile { name, beside }, facts: FileFacts::of(meta), beside: facts }
    };
    listed.iter().filter(|meta| files::is_image(meta.location.as_ref())).map(image).collect()
}
