//! Entries of a folder and its subfolders: some are samples, some are refused, others are counted and skipped.
//!
//! A file with the extension of a picture is a sample, whatever its content; unusable content is refused when it is read. A file with
//! another known extension is skipped. Others are judged by their first bytes. The results are remembered in buckets of files, so a few new
//! files cost only a few reads. The listing is held in memory while the folder is scanned.

use std::collections::{BTreeMap, HashMap};

use cm3flow_schemas::canonical::digest_of;
use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};

use super::config::SourceFormat;
use super::disk::{FolderListing, ListedFile};
use super::facts::{FileContent, FileFacts};
use super::files;
use super::format::{self, Extension, counted_extension};
use super::location::Location;
use super::memory::Scanning;
use super::planned::FolderFile;
use crate::error::Result;

/// Number of files whose first bytes are read in parallel.
const FILES_AT_ONCE: usize = 16;
/// Upper limit of the mean number of files in a bucket.
const BUCKET_FILES: usize = 1024;

/// A row of a folder, as listed.
pub(super) struct FolderRow {
    pub file: FolderFile,
    /// Facts of the image and of the annotations beside it; empty for a refused entry.
    pub facts: Vec<FileFacts>,
}

/// Content of a folder.
#[derive(Default)]
pub(super) struct Folder {
    /// Samples and refused entries, sorted by name.
    pub rows: Vec<FolderRow>,
    /// Numbers of skipped files, by kind.
    pub left: BTreeMap<String, u64>,
    /// Total size of the images in bytes.
    pub bytes: u64,
}

/// Kind of a file by its first bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Head {
    Picture,
    /// A known format that is not read.
    Unsupported(String),
    Unknown,
    Unreadable,
}

/// A file with its name from the folder on.
struct Named {
    name: String,
    file: ListedFile,
}

impl Scanning<'_> {
    /// Scans the folder at the source's address.
    pub(super) async fn folder(&self) -> Result<Folder> {
        debug_assert_eq!(self.config.format, SourceFormat::Folder);
        let FolderListing { files, hidden, faults } = self.location.files_below(&self.config.name).await?;
        let mut folder = Folder::default();
        folder.count("hidden", hidden);
        let named = |file: ListedFile| Named { name: name_below(self.location, &file), file };
        let files: Vec<Named> = files.into_iter().map(named).collect();
        let mut unknown = Vec::new();
        let (mut images, mut texts) = (Vec::new(), Vec::new());
        for file in files {
            let extension = files::extension(&file.name).map(str::to_ascii_lowercase);
            match extension.as_deref().map_or(Extension::Unknown, Extension::of) {
                Extension::Picture => images.push(file),
                _ if matches!(extension.as_deref(), Some("json" | "txt")) => texts.push(file),
                Extension::Unknown => unknown.push(file),
                _ => folder.count(counted_extension(extension.as_deref()), 1),
            }
        }
        for (file, head) in self.heads(unknown).await? {
            match head {
                Head::Picture => images.push(file),
                Head::Unsupported(what) => folder.refuse(file.name, "unsupported_format", &format!("it is {what}")),
                Head::Unreadable => folder.refuse(file.name, "unreadable_image", "its first bytes cannot be read"),
                Head::Unknown => {
                    let extension = files::extension(&file.name).map(str::to_ascii_lowercase);
                    folder.count(counted_extension(extension.as_deref()), 1);
                }
            }
        }
        folder.add_images(images, texts);
        for fault in faults {
            folder.refuse(fault.name, fault.reason, &fault.detail);
        }
        folder.rows.sort_by(|a, b| a.file.name.cmp(&b.file.name));
        Ok(folder)
    }

    /// Returns the kinds of `files` by their first bytes, remembered or read now.
    async fn heads(&self, files: Vec<Named>) -> Result<Vec<(Named, Head)>> {
        let buckets = files.len().div_ceil(BUCKET_FILES).next_power_of_two();
        let mut by_bucket: BTreeMap<usize, Vec<Named>> = BTreeMap::new();
        for file in files {
            let digest = digest_of("file name", &file.name).0;
            let bucket = usize::from(u16::from_le_bytes([digest[0], digest[1]]));
            by_bucket.entry(bucket % buckets).or_default().push(file);
        }
        let mut found = Vec::new();
        for files in by_bucket.into_values() {
            let listed: Vec<_> = files.iter().map(|file| (&file.name, &file.file.facts)).collect();
            let key = self.key("heads of files", &listed);
            let heads: Vec<Head> = match self.recall::<Vec<Head>>(key).await.filter(|heads| heads.len() == files.len()) {
                Some(heads) => heads,
                None => {
                    let reading: Vec<_> = files.iter().map(|file| self.head(file)).collect();
                    let heads: Vec<Head> = futures::stream::iter(reading).buffered(FILES_AT_ONCE).try_collect().await?;
                    if files.iter().all(|file| file.file.facts.is_settled()) {
                        self.remember(key, &heads).await;
                    }
                    heads
                }
            };
            found.extend(files.into_iter().zip(heads));
        }
        Ok(found)
    }

    async fn head(&self, file: &Named) -> Result<Head> {
        Ok(match self.location.head(&file.file.path, format::HEAD_BYTES).await? {
            FileContent::Bytes(bytes) if format::is_picture(&bytes) => Head::Picture,
            FileContent::Bytes(bytes) => format::unsupported(&bytes).map_or(Head::Unknown, |what| Head::Unsupported(what.to_owned())),
            _ => Head::Unreadable,
        })
    }
}

impl Folder {
    fn count(&mut self, what: &str, count: u64) {
        if count > 0 {
            *self.left.entry(what.to_owned()).or_default() += count;
        }
    }

    fn refuse(&mut self, name: String, reason: &str, detail: &str) {
        let refusal = Some((reason.to_owned(), detail.to_owned()));
        self.rows.push(FolderRow { file: FolderFile { name, beside: Vec::new(), refusal }, facts: Vec::new() });
    }

    /// Adds images with the texts of the same name. Texts without an image are refused.
    fn add_images(&mut self, images: Vec<Named>, texts: Vec<Named>) {
        let mut beside: HashMap<&str, Vec<&Named>> = HashMap::new();
        texts.iter().for_each(|text| beside.entry(files::stem(&text.name)).or_default().push(text));
        // JSON precedes plain text, and so do its captions. Names that differ only in case keep their order.
        beside.values_mut().for_each(|texts| texts.sort_by_key(|text| !files::is_json(&text.name)));
        let mut alone: HashMap<&str, &Named> = texts.iter().map(|text| (text.name.as_str(), text)).collect();
        for image in images {
            self.bytes += image.file.facts.size();
            let texts = beside.get(files::stem(&image.name)).map_or(&[][..], Vec::as_slice);
            for text in texts {
                alone.remove(text.name.as_str());
            }
            let facts = std::iter::once(image.file.facts).chain(texts.iter().map(|text| text.file.facts.clone())).collect();
            let beside = texts.iter().map(|text| text.name.clone()).collect();
            self.rows.push(FolderRow { file: FolderFile { name: image.name, beside, refusal: None }, facts });
        }
        let alone: Vec<String> = alone.into_keys().map(str::to_owned).collect();
        alone.into_iter().for_each(|name| self.refuse(name, "no_image", "no picture of this name stands beside it"));
    }
}

fn name_below(location: &Location, file: &ListedFile) -> String {
    let path = file.path.as_ref();
    path.strip_prefix(location.path.as_ref()).unwrap_or(path).trim_start_matches('/').to_owned()
}
