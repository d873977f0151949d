//! Samples whose images are separate files: rows of lists, and images of folders with the files beside them.

use bytes::Bytes;
use cm3flow_schemas::Digest;
use cm3flow_schemas::canonical::digest_of;
use cm3flow_schemas::digest::PartHasher;
use object_store::path::Path;

use super::annotations::{BAD_ANNOTATIONS, Reading, captions_from_text, from_json};
use super::facts::FileContent;
use super::location::Location;
use super::planned::FolderFile;
use crate::error::Result;

/// An image that a row names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Picture {
    /// Name as the source writes it.
    pub name: String,
    /// Path in the store, or the problem of the name.
    pub path: Result<Path, String>,
}

/// A sample whose images are files.
#[derive(Debug, Clone, Default)]
pub(super) struct FileSample {
    pub key: String,
    /// Main image; `None` if the row names none.
    pub image: Option<Picture>,
    /// Codes in the row in place of the main image, as bytes of a file, or their problem.
    pub codes: Option<Result<Vec<u8>, String>>,
    /// Further images by role.
    pub further: Vec<(String, Picture)>,
    /// Annotations as far as they could be read.
    pub reading: Reading,
    /// Description of a row that names no image.
    pub no_image: Option<String>,
    /// Refusal of the sample, if there is one: reason and detail.
    pub refusal: Option<(String, String)>,
}

impl FileSample {
    /// Iterates over all images, the main one first.
    pub(super) fn pictures(&self) -> impl Iterator<Item = &Picture> {
        self.image.iter().chain(self.further.iter().map(|(_, picture)| picture))
    }

    /// Iterates over the paths of all images that have one.
    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.pictures().filter_map(|picture| picture.path.as_ref().ok())
    }

    /// Reads the contents of all images, in the order of [`Self::pictures`].
    pub(super) async fn read(&self, location: &Location, max_bytes: u64) -> Result<Vec<FileContent>> {
        let mut contents = Vec::new();
        for picture in self.pictures() {
            contents.push(match &picture.path {
                Ok(path) => location.content(path, max_bytes).await?,
                Err(problem) => FileContent::Unreadable(problem.clone()),
            });
        }
        Ok(contents)
    }

    /// Refuses the sample, unless it already is.
    pub(super) fn refuse(&mut self, reason: &str, detail: impl Into<String>) {
        self.refusal.get_or_insert_with(|| (reason.to_owned(), detail.into()));
    }
}

/// Digest of a run of samples: keys, annotations and the bytes of all images.
pub(super) struct UnitHasher(PartHasher);

impl UnitHasher {
    pub(super) fn new() -> Self {
        Self(PartHasher::new("file samples"))
    }

    /// Adds a sample with the [`digests`] of its images.
    pub(super) fn add(&mut self, sample: &FileSample, images: &[Digest]) {
        self.add_row(sample);
        for digest in images {
            self.0.part(&digest.0);
        }
    }

    /// Adds the row of a sample, without its images.
    pub(super) fn add_row(&mut self, sample: &FileSample) {
        self.0.part(sample.key.as_bytes());
        let problem = sample.refusal.as_ref().filter(|(reason, _)| reason == BAD_ANNOTATIONS);
        let annotations = problem.map_or(Ok(&sample.reading.annotations), |(_, detail)| Err(detail.as_str()));
        self.0.part(&digest_of("annotations", &annotations).0);
        if let Some(codes) = &sample.codes {
            self.0.part(codes.as_ref().map_or_else(String::as_bytes, Vec::as_slice));
        }
        // Samples without losses keep the digests that they had before losses were counted.
        let refusal = sample.refusal.as_ref().filter(|(reason, _)| reason != BAD_ANNOTATIONS);
        let Reading { dropped, problem, .. } = &sample.reading;
        if refusal.is_some() || problem.is_some() || !dropped.is_empty() {
            self.0.part(&digest_of("lost", &(refusal, dropped, problem)).0);
        }
    }

    pub(super) fn digest(&self) -> Digest {
        self.0.digest()
    }
}

/// Returns the digests of images. A missing or unreadable one counts as empty here; its row is refused later.
pub(super) fn digests(images: &[FileContent]) -> Vec<Digest> {
    let digest = |image: &FileContent| match image {
        FileContent::Bytes(bytes) => Digest::of(bytes),
        FileContent::Missing | FileContent::Unreadable(_) => Digest::of(&[]),
        FileContent::TooLarge(bytes) => digest_of("too large", bytes),
    };
    images.iter().map(digest).collect()
}

/// Reads an image of a folder with the annotations beside it, each of at most `max_bytes`.
pub(super) async fn of_file(location: &Location, file: &FolderFile, max_bytes: u64) -> Result<FileSample> {
    let mut sample = FileSample { key: file.name.clone(), refusal: file.refusal.clone(), ..FileSample::default() };
    if sample.refusal.is_some() {
        return Ok(sample);
    }
    sample.image = Some(Picture { name: file.name.clone(), path: Ok(location.below(&file.name)?) });
    for name in &file.beside {
        let refused = match location.content(&location.below(name)?, max_bytes).await? {
            FileContent::Bytes(bytes) => annotate(&mut sample, name, &bytes).err(),
            FileContent::Missing => Some("it is gone".to_owned()),
            FileContent::Unreadable(problem) => Some(problem),
            FileContent::TooLarge(bytes) => Some(format!("it has {bytes} bytes, at most {max_bytes} are read")),
        };
        if let Some(problem) = refused {
            sample.refuse(BAD_ANNOTATIONS, format!("{name}: {problem}"));
        }
    }
    Ok(sample)
}

/// Adds the annotations of a file beside an image.
fn annotate(sample: &mut FileSample, name: &str, bytes: &Bytes) -> Result<(), String> {
    let read = if is_json(name) { from_json(bytes)? } else { Reading::of_captions(captions_from_text(bytes)?) };
    sample.reading.join(read.at(name));
    Ok(())
}

/// Checks whether a file of annotations is JSON, by its name.
pub(super) fn is_json(name: &str) -> bool {
    extension(name).is_some_and(|extension| extension.eq_ignore_ascii_case("json"))
}

/// Returns the name of a file without its extension.
pub(super) fn stem(name: &str) -> &str {
    extension(name).map_or(name, |extension| &name[..name.len() - extension.len() - 1])
}

/// Returns the extension of a file, if its name has one.
pub(super) fn extension(name: &str) -> Option<&str> {
    let file = name.rsplit_once('/').map_or(name, |(_, file)| file);
    file.rsplit_once('.').filter(|(stem, _)| !stem.is_empty()).map(|(_, extension)| extension)
}
