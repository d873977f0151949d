//! Row lists and folders: samples whose images are files of their own.

use std::collections::BTreeMap;

use cm3flow_schemas::Digest;
use cm3flow_schemas::digest::PartHasher;
use cm3flow_schemas::sample::Annotations;
use object_store::path::Path;
use serde::Deserialize;

use super::annotations::{captions_from_text, from_json, is_image_extension, without_lone_surrogates};
use super::location::Location;
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
    /// Annotations, or why they cannot be read.
    pub annotations: Result<Annotations, String>,
}

#[derive(Deserialize)]
struct RowImage {
    image: Option<String>,
}

#[derive(Deserialize)]
struct RowCodes {
    codes: Option<Vec<u32>>,
}

/// Rows of a JSONL file, empty lines left out; images are looked for relative to its folder.
pub(super) async fn jsonl_samples(location: &Location, file: &Path) -> Result<Vec<FileSample>> {
    let bytes = location.read(file).await?;
    let lines = bytes.split(|byte| *byte == b'\n').enumerate().filter(|(_, line)| !line.trim_ascii().is_empty());
    Ok(lines.map(|(number, line)| jsonl_sample(&location.folder(), number, line)).collect())
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

fn jsonl_sample(folder: &Path, number: usize, line: &[u8]) -> FileSample {
    let resolve = |name: &str| resolve(folder, name);
    let line_mended = without_lone_surrogates(line);
    let image = serde_json::from_slice::<RowImage>(&line_mended).ok().and_then(|row| row.image);
    let mut annotations = from_json(line).map_err(|error| format!("line {}: {error}", number + 1));
    let mut further = Vec::new();
    if let Ok(annotations) = &mut annotations {
        for (index, edit) in annotations.edits.iter_mut().enumerate() {
            let path = resolve(&edit.image);
            edit.image = format!("edit{index}");
            further.push((edit.image.clone(), path));
        }
    }
    FileSample {
        key: image.clone().unwrap_or_else(|| format!("line-{}", number + 1)),
        codes: if image.is_none() && annotations.is_ok() { row_codes(&line_mended, number) } else { None },
        image: image.as_deref().map(resolve),
        further,
        annotations,
    }
}

/// Codes that a row without picture holds.
fn row_codes(line: &[u8], number: usize) -> Option<Result<Vec<u8>, String>> {
    match serde_json::from_slice::<RowCodes>(line) {
        Ok(row) => row.codes.map(|codes| Ok(codes::to_file(&codes))),
        Err(error) => Some(Err(format!("line {}: codes must be whole numbers: {error}", number + 1))),
    }
}

/// Images of a folder and its subfolders, sorted by path, with the captions or annotations beside them.
pub(super) async fn folder_samples(location: &Location) -> Result<Vec<FileSample>> {
    let files = location.files_below().await?;
    let by_path: BTreeMap<&str, &Path> = files.iter().map(|file| (file.location.as_ref(), &file.location)).collect();
    let mut samples = Vec::new();
    for file in &files {
        let path = file.location.as_ref();
        let Some((stem, extension)) = path.rsplit_once('.') else { continue };
        if !is_image_extension(&extension.to_ascii_lowercase()) {
            continue;
        }
        let beside = |extension: &str| by_path.get(format!("{stem}.{extension}").as_str()).copied();
        let annotations = if let Some(json) = beside("json") {
            from_json(&location.read(json).await?).map_err(|error| format!("{}: {error}", location.relative(json)))
        } else if let Some(text) = beside("txt") {
            let captions = captions_from_text(&location.read(text).await?).map_err(|error| format!("{}: {error}", location.relative(text)));
            captions.map(|captions| Annotations { captions, ..Annotations::default() })
        } else {
            Ok(Annotations::default())
        };
        let key = path.strip_prefix(location.path.as_ref()).unwrap_or(path).trim_start_matches('/').to_owned();
        samples.push(FileSample { key, image: Some(file.location.clone()), codes: None, further: Vec::new(), annotations });
    }
    Ok(samples)
}

/// Digest of what a run of samples is made of: keys, annotations and the bytes of all images.
pub(super) async fn digest(location: &Location, samples: &[FileSample]) -> Result<Digest> {
    let mut hasher = PartHasher::new("file samples");
    for sample in samples {
        hasher.part(sample.key.as_bytes());
        let annotations = sample.annotations.as_ref().map_err(String::as_str);
        hasher.part(&cm3flow_schemas::canonical::digest_of("annotations", &annotations).0);
        if let Some(codes) = &sample.codes {
            hasher.part(codes.as_ref().map_or(b"", Vec::as_slice));
        }
        for path in sample.image.iter().chain(sample.further.iter().map(|(_, path)| path)) {
            // A missing image is refused row by row; for the key it counts as having no bytes.
            let bytes = location.read_if_there(path).await?.unwrap_or_default();
            hasher.part(&Digest::of(&bytes).0);
        }
    }
    Ok(hasher.digest())
}
