//! Sends the samples of one unit.

use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use cm3flow_schemas::columns;
use cm3flow_schemas::rows;
use cm3flow_schemas::sample::{self, Annotations, MAIN_IMAGE, Refusal, RoleImage};
use cm3flow_schemas::{ImageId, SampleId};
use futures::FutureExt;
use futures::future::BoxFuture;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use serde::Serialize;

use super::annotations::{captions_from_text, from_json, is_codes_extension, is_image_extension};
use super::files::FileSample;
use super::scan::{PlannedUnit, UnitRows};
use super::webdataset::TarSample;
use super::{Location, NAME};
use crate::channel::BatchSender;
use crate::error::{Result, StageError};
use crate::stage::Source;

/// Rows of a batch: few, since each carries encoded images.
const BATCH_ROWS: usize = 16;

/// The source of `prepare`: sends [`columns::raw_sample`] for every sample of a unit, in order.
#[derive(Debug)]
pub struct Ingest {
    unit: PlannedUnit,
}

impl Ingest {
    /// Sends the samples of `unit`.
    #[must_use]
    pub fn new(unit: PlannedUnit) -> Self {
        Self { unit }
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
        async move {
            let PlannedUnit { unit, location, rows } = self.unit;
            let mut row = 0;
            let total = unit.rows as usize;
            while row < total {
                let end = (row + BATCH_ROWS).min(total);
                let samples = match &rows {
                    UnitRows::Tar(path, samples) => tar_batch(&location, path, &samples[row..end]).await?,
                    UnitRows::Files(samples) => file_batch(&location, &samples[row..end]).await?,
                };
                let numbered = samples.into_iter().enumerate().map(|(index, sample)| sample.into_row(&unit.source, (row + index) as u64));
                let batch = rows::write(&columns::raw_sample(), &numbered.collect::<Vec<_>>());
                out.send(batch.map_err(|source| StageError::Schema { stage: NAME, source })?).await?;
                row = end;
            }
            Ok(())
        }
        .boxed()
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
    refusal: Option<Refusal>,
}

/// A sample as far as it could be read.
struct RawSample {
    key: String,
    images: Vec<RoleImage>,
    annotations: Annotations,
    refusal: Option<Refusal>,
}

impl RawSample {
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

async fn tar_batch(location: &Location, path: &Path, samples: &[TarSample]) -> Result<Vec<RawSample>> {
    let readable = || samples.iter().filter(|sample| sample.damage.is_none()).flat_map(|sample| &sample.members);
    let start = readable().map(|member| member.offset).min().unwrap_or(0);
    let end = readable().map(|member| member.offset + member.bytes).max().unwrap_or(start);
    let bytes = if start == end {
        Bytes::new()
    } else {
        let read = location.store.get_range(path, start..end).await;
        read.map_err(|source| StageError::Store { location: path.to_string(), source })?
    };
    Ok(samples.iter().map(|sample| tar_sample(sample, &location.relative(path), &bytes, start)).collect())
}

/// `bytes` holds the tar `name` from offset `start` on.
fn tar_sample(found: &TarSample, name: &str, bytes: &Bytes, start: u64) -> RawSample {
    let mut sample = RawSample { key: found.key.clone(), images: Vec::new(), annotations: Annotations::default(), refusal: None };
    if let Some(damage) = &found.damage {
        sample.refusal = Some(Refusal::new(NAME, "damaged_tar", format!("{name}: {damage}")));
        return sample;
    }
    let mut given: Vec<(&str, &[u8])> = Vec::new();
    for member in &found.members {
        let from = (member.offset - start) as usize;
        let content = &bytes[from..from + member.bytes as usize];
        let (stem, extension) = member.extension.rsplit_once('.').unwrap_or((MAIN_IMAGE, &member.extension));
        let refused = match extension {
            "json" if stem == MAIN_IMAGE => {
                from_json(content).map(|json| merge(&mut sample.annotations, json)).map_err(|error| error.to_string()).err()
            }
            "txt" if stem == MAIN_IMAGE => captions_from_text(content)
                .map(|captions| sample.annotations.captions.extend(captions))
                .map_err(|error| error.to_string())
                .err(),
            _ if is_image_extension(extension) => {
                let role = if sample.images.iter().any(|image| image.role == stem) { &member.extension } else { stem };
                sample.images.push(RoleImage { role: role.to_owned(), bytes: content.to_vec() });
                None
            }
            _ if is_codes_extension(extension) => {
                given.push((stem, content));
                None
            }
            // Other members (a .cls) are not ours to judge.
            _ => None,
        };
        if let Some(problem) = refused {
            sample.refusal = Some(Refusal::new(NAME, "bad_annotations", format!(".{}: {problem}", member.extension)));
        }
    }
    for edit in &mut sample.annotations.edits {
        if let Some((stem, extension)) = edit.image.rsplit_once('.')
            && [is_image_extension, is_codes_extension].iter().any(|is_known| is_known(&extension.to_ascii_lowercase()))
        {
            edit.image = stem.to_ascii_lowercase();
        }
    }
    // Tars hold embeddings and the like as .npy, too: codes are those that stand where a picture is missing.
    for (role, content) in given {
        let is_named = role == MAIN_IMAGE || sample.annotations.edits.iter().any(|edit| edit.image == role);
        if is_named && !sample.images.iter().any(|image| image.role == role) {
            sample.images.push(RoleImage { role: role.to_owned(), bytes: content.to_vec() });
        }
    }
    sample
}

fn merge(annotations: &mut Annotations, json: Annotations) {
    let captions = std::mem::take(&mut annotations.captions);
    *annotations = json;
    annotations.captions.extend(captions);
}

async fn file_batch(location: &Location, samples: &[FileSample]) -> Result<Vec<RawSample>> {
    let mut batch = Vec::with_capacity(samples.len());
    for found in samples {
        let mut sample = RawSample { key: found.key.clone(), images: Vec::new(), annotations: Annotations::default(), refusal: None };
        match &found.annotations {
            Ok(annotations) => sample.annotations = annotations.clone(),
            Err(problem) => sample.refusal = Some(Refusal::new(NAME, "bad_annotations", problem)),
        }
        match &found.codes {
            Some(Ok(bytes)) => sample.images.push(RoleImage { role: MAIN_IMAGE.to_owned(), bytes: bytes.clone() }),
            Some(Err(problem)) => sample.refusal = Some(Refusal::new(NAME, "bad_codes", problem)),
            None => {}
        }
        let images =
            found.image.iter().map(|path| (MAIN_IMAGE, path)).chain(found.further.iter().map(|(role, path)| (role.as_str(), path)));
        for (role, path) in images {
            match location.read_if_there(path).await? {
                Some(bytes) => sample.images.push(RoleImage { role: role.to_owned(), bytes: bytes.to_vec() }),
                None => sample.refusal = Some(Refusal::new(NAME, "missing_image", format!("{} does not exist", location.relative(path)))),
            }
        }
        batch.push(sample);
    }
    Ok(batch)
}
