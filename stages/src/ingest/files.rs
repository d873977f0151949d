//! Samples whose images are files of their own: rows of lists, and images of folders with what stands beside them.

use std::collections::BTreeMap;

use bytes::Bytes;
use cm3flow_schemas::Digest;
use cm3flow_schemas::canonical::digest_of;
use cm3flow_schemas::digest::PartHasher;
use cm3flow_schemas::sample::MAIN_IMAGE;
use object_store::path::Path;

use super::annotations::{Reading, Row, captions_from_text, from_json, image_names, is_image_extension, without_image};
use super::lines::{Line, MAX_LINE_BYTES};
use super::location::Location;
use super::planned::FolderFile;
use crate::codes;
use crate::error::Result;

/// A sample whose images are files.
#[derive(Debug, Clone)]
pub(super) struct FileSample {
    pub key: String,
    /// Path of the main image; `None` if the row names none.
    pub image: Option<Path>,
    /// Codes of a main image that the row holds instead, as a file's bytes, or why they are none.
    pub codes: Option<Result<Vec<u8>, String>>,
    /// Further images by role.
    pub further: Vec<(String, Path)>,
    /// What the row has instead of an image, if it names none.
    pub no_image: Option<String>,
    /// Annotations, or why they cannot be read.
    pub annotations: Result<Reading, String>,
}

impl FileSample {
    /// Paths of all images, the main one first.
    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.image.iter().chain(self.further.iter().map(|(_, path)| path))
    }

    /// Bytes of all images, in the order of [`Self::paths`]; `None` for one that is missing.
    pub(super) async fn read(&self, location: &Location) -> Result<Vec<Option<Bytes>>> {
        let mut images = Vec::new();
        for path in self.paths() {
            images.push(location.read_if_there(path).await?);
        }
        Ok(images)
    }
}

/// Digest of what a run of samples is made of: keys, annotations and the bytes of all images.
pub(super) struct UnitHasher(PartHasher);

impl UnitHasher {
    pub(super) fn new() -> Self {
        Self(PartHasher::new("file samples"))
    }

    /// Adds a sample, whose images have these digests: [`digests`].
    pub(super) fn add(&mut self, sample: &FileSample, images: &[Digest]) {
        self.add_row(sample);
        for digest in images {
            self.0.part(&digest.0);
        }
    }

    /// Adds what the row itself says of a sample.
    pub(super) fn add_row(&mut self, sample: &FileSample) {
        self.0.part(sample.key.as_bytes());
        let annotations = sample.annotations.as_ref().map(|reading| &reading.annotations).map_err(String::as_str);
        self.0.part(&digest_of("annotations", &annotations).0);
        if let Some(reading) = sample.annotations.as_ref().ok().filter(|reading| !reading.dropped.is_empty()) {
            self.0.part(&digest_of("dropped", &(&reading.dropped, &reading.problem)).0);
        }
        if let Some(codes) = &sample.codes {
            self.0.part(codes.as_ref().map_or_else(String::as_bytes, Vec::as_slice));
        }
    }

    pub(super) fn digest(&self) -> Digest {
        self.0.digest()
    }
}

/// Digests of images. A missing one is refused row by row; here it counts as having no bytes.
pub(super) fn digests(images: &[Option<Bytes>]) -> Vec<Digest> {
    images.iter().map(|image| Digest::of(image.as_deref().unwrap_or_default())).collect()
}

/// A path that a row names: from the folder of its file, unless it begins at the root of the store; `..` leads one folder up.
fn resolve(folder: &Path, name: &str) -> Path {
    let mut parts: Vec<String> =
        if name.starts_with('/') { Vec::new() } else { folder.parts().map(|part| part.as_ref().to_owned()).collect() };
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part.to_owned()),
        }
    }
    Path::from_iter(parts)
}

/// The sample of a line; images are looked for relative to `folder`.
pub(super) fn of_line(folder: &Path, line: &Line) -> FileSample {
    let number = line.number + 1;
    let refused = |problem: String| FileSample {
        key: format!("line-{number}"),
        image: None,
        codes: None,
        further: Vec::new(),
        no_image: None,
        annotations: Err(format!("line {number}: {problem}")),
    };
    let Some(text) = &line.text else { return refused(format!("it is longer than {MAX_LINE_BYTES} bytes")) };
    let Row { mut image, images, codes, mut reading } = match Row::from_json(text) {
        Ok(row) => row,
        Err(problem) => return refused(problem),
    };
    let mut further: Vec<(String, Path)> = images.into_iter().map(|(role, name)| (role, resolve(folder, &name))).collect();
    let first_item = reading.annotations.items.iter().find_map(|item| item.image.clone());
    image = image.or(first_item);
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for (kind, name) in image_names(&mut reading.annotations) {
        if kind == "item" && Some(&*name) == image.as_ref() {
            MAIN_IMAGE.clone_into(name);
            continue;
        }
        let count = counts.entry(kind).or_default();
        let role = format!("{kind}{count}");
        *count += 1;
        further.push((role.clone(), resolve(folder, name)));
        *name = role;
    }
    let named = |problem: String| format!("line {number}: {problem}");
    let codes = codes.filter(|_| image.is_none()).map(|codes| codes.map(|codes| codes::to_file(&codes)).map_err(named));
    FileSample {
        key: image.clone().unwrap_or_else(|| format!("line-{number}")),
        no_image: (image.is_none() && codes.is_none()).then(|| named(without_image(text))),
        codes,
        image: image.as_deref().map(|name| resolve(folder, name)),
        further,
        annotations: Ok(reading.at(&format!("line {number}"))),
    }
}

/// An image of a folder with the annotations beside it.
pub(super) async fn of_file(location: &Location, file: &FolderFile) -> Result<FileSample> {
    let image = location.below(&file.name)?;
    let mut annotations = Ok(Reading::default());
    if let Some(beside) = &file.beside {
        let path = location.below(&format!("{}.{beside}", stem(&file.name)))?;
        let bytes = location.read(&path).await?;
        let read = if beside == "json" { from_json(&bytes) } else { captions_from_text(&bytes).map(Reading::of_captions) };
        let name = location.relative(&path);
        annotations = read.map(|reading| reading.at(&name)).map_err(|problem| format!("{name}: {problem}"));
    }
    Ok(FileSample { key: file.name.clone(), image: Some(image), codes: None, further: Vec::new(), no_image: None, annotations })
}

/// Name of a file without its extension.
pub(super) fn stem(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(stem, _)| stem)
}

/// Whether a file is an image by its name.
pub(super) fn is_image(name: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, extension)| is_image_extension(&extension.to_ascii_lowercase()))
}
