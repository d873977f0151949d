//! Reads a source once and cuts it into units.

use std::sync::Arc;

use cm3flow_schemas::window::SourceUnit;
use object_store::path::Path;

use super::config::{SourceConfig, SourceFormat};
use super::files::{self, FileSample};
use super::location::Location;
use super::webdataset::{self, TarSample};
use crate::error::{Result, StageError};

/// A unit with what is needed to read it.
#[derive(Debug, Clone)]
pub struct PlannedUnit {
    /// What the unit is.
    pub unit: SourceUnit,
    pub(super) location: Location,
    pub(super) rows: UnitRows,
}

impl PlannedUnit {
    /// The unit of some of these rows alone: rows of the file, ascending.
    ///
    /// # Errors
    /// [`StageError::Source`] if one of them is not in this unit.
    pub fn only(&self, rows: &[u64]) -> Result<Self> {
        let first = self.unit.first_row;
        let place = |row: &u64| usize::try_from(row.checked_sub(first)?).ok().filter(|place| (*place as u64) < self.unit.rows);
        let Some(places) = rows.iter().map(place).collect::<Option<Vec<usize>>>() else {
            let problem = format!("{} has no rows {rows:?} in its unit from row {first} on", self.unit.file);
            return Err(StageError::Source { name: self.unit.source.clone(), problem });
        };
        let unit = SourceUnit {
            first_row: rows.first().copied().unwrap_or(first),
            rows: rows.len() as u64,
            only: rows.to_vec(),
            ..self.unit.clone()
        };
        let rows = match &self.rows {
            UnitRows::Tar(path, samples) => UnitRows::Tar(path.clone(), places.iter().map(|place| samples[*place].clone()).collect()),
            UnitRows::Files(samples) => UnitRows::Files(places.iter().map(|place| samples[*place].clone()).collect()),
        };
        Ok(Self { unit, location: self.location.clone(), rows })
    }
}

/// Samples of a unit.
#[derive(Debug, Clone)]
pub(super) enum UnitRows {
    Tar(Path, Arc<[TarSample]>),
    Files(Arc<[FileSample]>),
}

/// All units of a source, in order, with the number of bytes that the source's files have.
#[derive(Debug)]
pub struct ScannedSource {
    /// Units, in order of files and rows.
    pub units: Vec<PlannedUnit>,
    /// Bytes of the files that samples are read from, as far as they are listed.
    pub bytes: u64,
}

/// Scans the source at `location`, at most `limit` samples.
///
/// # Errors
/// [`StageError::Source`] if there is nothing to read; [`StageError::Store`] or [`StageError::Read`] if reading fails.
pub async fn scan(config: &SourceConfig, location: &Location, limit: Option<u64>) -> Result<ScannedSource> {
    let mut remaining = limit.unwrap_or(u64::MAX);
    let mut scanned = ScannedSource { units: Vec::new(), bytes: 0 };
    match config.format {
        SourceFormat::WebDataset => {
            for file in location.matching_files(&config.name).await? {
                if remaining == 0 {
                    break;
                }
                scanned.bytes += file.size;
                let index = webdataset::index(location, &file.location).await?;
                let samples = &index.samples[..index.samples.len().min(usize::try_from(remaining).unwrap_or(usize::MAX))];
                remaining -= samples.len() as u64;
                for (number, rows) in samples.chunks(config.unit_samples as usize).enumerate() {
                    let first_row = number as u64 * u64::from(config.unit_samples);
                    let unit = source_unit(config, &file.location, index.digest, first_row, rows.len());
                    scanned.units.push(PlannedUnit {
                        unit,
                        location: location.clone(),
                        rows: UnitRows::Tar(file.location.clone(), rows.into()),
                    });
                }
            }
        }
        SourceFormat::Jsonl => {
            for file in location.matching_files(&config.name).await? {
                scanned.bytes += file.size;
                let samples = files::jsonl_samples(location, &file.location).await?;
                push_files(&mut scanned, &mut remaining, config, location, &file.location, samples).await?;
            }
        }
        SourceFormat::Folder => {
            let samples = files::folder_samples(location).await?;
            push_files(&mut scanned, &mut remaining, config, location, &location.path, samples).await?;
        }
    }
    if scanned.units.is_empty() {
        return Err(StageError::Source {
            name: config.name.clone(),
            problem: format!("{} holds no samples; check the source's url", location.path),
        });
    }
    Ok(scanned)
}

async fn push_files(
    scanned: &mut ScannedSource,
    remaining: &mut u64,
    config: &SourceConfig,
    location: &Location,
    file: &Path,
    mut samples: Vec<FileSample>,
) -> Result<()> {
    samples.truncate(usize::try_from(*remaining).unwrap_or(usize::MAX));
    *remaining -= samples.len() as u64;
    for (number, rows) in samples.chunks(config.unit_samples as usize).enumerate() {
        let digest = files::digest(location, rows).await?;
        let first_row = number as u64 * u64::from(config.unit_samples);
        let unit = source_unit(config, file, digest, first_row, rows.len());
        scanned.units.push(PlannedUnit { unit, location: location.clone(), rows: UnitRows::Files(rows.into()) });
    }
    Ok(())
}

fn source_unit(config: &SourceConfig, file: &Path, digest: cm3flow_schemas::Digest, first_row: u64, rows: usize) -> SourceUnit {
    let file = file.filename().unwrap_or_default().to_owned();
    SourceUnit { source: config.name.clone(), file, digest, first_row, rows: rows as u64, only: Vec::new() }
}
