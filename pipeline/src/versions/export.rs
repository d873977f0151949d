//! Exports: a version's packs as files for other readers, MosaicML Streaming (MDS) and WebDataset.
//!
//! Packs follow the version's records, window by window in stored order, and every block is checked against its digest. A few blocks are
//! fetched ahead; memory holds one file at a time. Files are created as a whole and index files last, so an interrupted export has none.
//! The same version gives the same bytes. Formats: `schemas/README.md`.

mod mds;
mod webdataset;

use bytes::Bytes;
use cm3flow_schemas::pack::{Pack, ShardEntry};
use cm3flow_schemas::sample::Split;
use cm3flow_schemas::version::VersionManifest;
use cm3flow_schemas::vocabulary::TokenWidth;
use cm3flow_schemas::window::WindowRecord;
use cm3flow_schemas::{columns, layout};
use cm3flow_stages::read::BlockReader;
use futures::stream::{Stream, StreamExt, TryStreamExt};
use serde::Serialize;
use tracing::info;

use mds::MdsWriter;
use webdataset::TarWriter;

use crate::catalog::{Catalog, Published, VersionRef};
use crate::error::{PipelineError, Result};
use crate::store::{Created, Store, record_bytes};

/// Blocks fetched at once.
const BLOCKS_AT_ONCE: usize = 4;

/// Largest size of a file of packs, which memory holds: 1 GiB. Offsets in MDS end at 4 GiB.
pub const MAX_FILE_BYTES: u64 = 1 << 30;

/// Name of the version's manifest in the export.
const MANIFEST: &str = "version.json";

/// File format of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ExportFormat {
    /// MosaicML Streaming: a folder for each split
    Mds,
    /// WebDataset: tars of NumPy arrays and JSON
    Webdataset,
}

impl ExportFormat {
    /// Returns the name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mds => "mds",
            Self::Webdataset => "webdataset",
        }
    }
}

/// Options of an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportOptions {
    /// File format.
    pub format: ExportFormat,
    /// The only split to export; all splits with packs if none.
    pub split: Option<Split>,
    /// Variant of the train documents, as one epoch reads them; held-out documents have one.
    pub variant: u16,
    /// Bytes of a file of packs, at most; bounded by [`MAX_FILE_BYTES`]. A larger single pack gets a file by itself.
    pub max_file_bytes: u64,
}

/// A file of an export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExportedFile {
    /// Path in the folder of the export.
    pub path: String,
    /// Size of the file.
    pub bytes: u64,
    /// Number of packs in it; 0 in a record.
    pub packs: u64,
}

/// Counts of an exported split.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExportedSplit {
    /// The split.
    pub split: Split,
    /// Number of packs.
    pub packs: u64,
    /// Number of files that hold them.
    pub files: u64,
}

/// A finished export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Export {
    /// Name of the dataset.
    pub dataset: String,
    /// Number of the version.
    pub version: u32,
    /// File format.
    pub format: ExportFormat,
    /// Address of its folder.
    pub address: String,
    /// Number of packs in all splits.
    pub packs: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Counts of its splits.
    pub splits: Vec<ExportedSplit>,
    /// All files, in the order of writing.
    pub files: Vec<ExportedFile>,
}

/// A file before it is written.
#[derive(Debug)]
struct NewFile {
    path: String,
    bytes: Bytes,
    packs: u64,
}

/// Turns the packs of one split into files.
trait PackWriter: Send {
    /// Takes the next pack. Returns the previous file if it ended before this pack.
    fn push(&mut self, pack: &Pack) -> Option<NewFile>;
    /// Ends the split. Returns its last file, and the index, which must be written after all files.
    fn finish(self: Box<Self>) -> (Option<NewFile>, NewFile);
}

/// A version to be exported.
pub struct Exporter {
    store: Store,
    manifest: VersionManifest,
    manifest_bytes: Bytes,
    windows: Vec<WindowRecord>,
    splits: Vec<Split>,
    options: ExportOptions,
}

impl Exporter {
    /// Reads the records of `version` of `dataset` in `store`.
    ///
    /// # Errors
    /// [`PipelineError::NoVersion`], [`PipelineError::NothingPublished`], [`PipelineError::NoPacks`], [`PipelineError::NoVariant`],
    /// [`PipelineError::Damaged`], or those of the store.
    pub async fn open(store: &Store, dataset: &str, version: &VersionRef, options: &ExportOptions) -> Result<Self> {
        let catalog = Catalog::new(store.clone(), dataset);
        let Published { manifest, windows, .. } = Published::open(&catalog, Some(version)).await?;
        let manifest_bytes = match catalog.recorded_digest(manifest.version).await? {
            Some(digest) => store.get_checked(&layout::manifest(catalog.dataset(), manifest.version), digest).await?,
            None => record_bytes(&manifest).into(),
        };
        let variants = manifest.statistics.get(Split::Train.name()).map_or(0, |train| train.variant_packs.len()).max(1);
        if usize::from(options.variant) >= variants {
            return Err(PipelineError::NoVariant { version: manifest.version, variants, asked: options.variant });
        }
        let wanted: Vec<Split> = options.split.map_or_else(|| Split::ALL.to_vec(), |split| vec![split]);
        let splits: Vec<Split> =
            wanted.iter().copied().filter(|split| shards(&windows, *split, options.variant).next().is_some()).collect();
        if splits.is_empty() {
            let splits = wanted.iter().map(|split| split.name()).collect::<Vec<_>>().join(" or ");
            return Err(PipelineError::NoPacks { version: manifest.version, splits });
        }
        let options = ExportOptions { max_file_bytes: options.max_file_bytes.min(MAX_FILE_BYTES), ..options.clone() };
        Ok(Self { store: store.clone(), manifest, manifest_bytes, windows, splits, options })
    }

    /// Writes the export into `target`, which must be empty.
    ///
    /// # Errors
    /// [`PipelineError::NotEmpty`], a block's damage as [`PipelineError::Stage`], or those of the stores.
    pub async fn write(&self, target: &Store) -> Result<Export> {
        if !target.names("").await?.is_empty() {
            return Err(not_empty(target));
        }
        let mut export = Export {
            dataset: self.manifest.dataset.clone(),
            version: self.manifest.version,
            format: self.options.format,
            address: target.address().to_owned(),
            packs: 0,
            bytes: 0,
            splits: Vec::new(),
            files: Vec::new(),
        };
        let mut indexes = Vec::new();
        for &split in &self.splits {
            let (packs, files) = (export.packs, export.files.len());
            indexes.push(self.write_split(split, target, &mut export).await?);
            let written = ExportedSplit { split, packs: export.packs - packs, files: (export.files.len() - files) as u64 };
            export.splits.push(written);
        }
        export.put(target, NewFile { path: MANIFEST.to_owned(), bytes: self.manifest_bytes.clone(), packs: 0 }).await?;
        for index in indexes {
            export.put(target, index).await?;
        }
        Ok(export)
    }

    /// Writes the packs of `split`; returns its index.
    async fn write_split(&self, split: Split, target: &Store, export: &mut Export) -> Result<NewFile> {
        let mut writer = self.writer(split);
        let mut blocks = std::pin::pin!(self.blocks(split));
        while let Some(packs) = blocks.try_next().await? {
            for pack in packs {
                if let Some(file) = writer.push(&pack) {
                    export.put(target, file).await?;
                }
            }
        }
        let (last, index) = writer.finish();
        if let Some(file) = last {
            export.put(target, file).await?;
        }
        Ok(index)
    }

    fn writer(&self, split: Split) -> Box<dyn PackWriter> {
        let (width, limit) = (self.manifest.vocabulary.width(), self.options.max_file_bytes);
        match self.options.format {
            ExportFormat::Mds => Box::new(MdsWriter::new(split, self.manifest.seq_len as usize, width, limit)),
            ExportFormat::Webdataset => Box::new(TarWriter::new(split, width, limit)),
        }
    }

    /// Streams the packs of each block of `split`, in order.
    fn blocks(&self, split: Split) -> impl Stream<Item = Result<Vec<Pack>>> {
        let schema = columns::pack(self.manifest.seq_len as usize, self.manifest.vocabulary.width());
        let places =
            shards(&self.windows, split, self.options.variant).flat_map(|shard| (0..shard.blocks.len()).map(move |block| (shard, block)));
        let objects = self.store.objects();
        let fetch = move |(shard, block): (&ShardEntry, usize)| {
            let blocks = BlockReader::new(objects.clone(), schema.clone());
            let shard = shard.clone();
            async move { Ok(blocks.packs(&shard, block).await?) }
        };
        futures::stream::iter(places.map(fetch)).buffered(BLOCKS_AT_ONCE)
    }
}

/// Returns the shards of a split, of one variant if it has several, in the order of the packs' numbers.
fn shards(windows: &[WindowRecord], split: Split, variant: u16) -> impl Iterator<Item = &ShardEntry> {
    let variant = if split == Split::Train { variant } else { 0 };
    windows.iter().flat_map(|window| &window.shards).filter(move |shard| (shard.split, shard.variant) == (split, variant))
}

impl Export {
    async fn put(&mut self, target: &Store, file: NewFile) -> Result<()> {
        let NewFile { path, bytes, packs } = file;
        let written = ExportedFile { path, bytes: bytes.len() as u64, packs };
        if target.create(&written.path, bytes).await? == Created::Different {
            return Err(not_empty(target));
        }
        info!(file = written.path, bytes = written.bytes, packs, "exported a file");
        self.packs += packs;
        self.bytes += written.bytes;
        self.files.push(written);
        Ok(())
    }
}

fn not_empty(target: &Store) -> PipelineError {
    PipelineError::NotEmpty { address: target.address().to_owned() }
}

/// Appends `tokens` as little-endian ids of `width`.
fn append_ids(tokens: &[u32], width: TokenWidth, out: &mut Vec<u8>) {
    match width {
        // Ids of this width were read from 16 bits, so the cast loses nothing.
        TokenWidth::U16 => tokens.iter().for_each(|&id| out.extend_from_slice(&(id as u16).to_le_bytes())),
        TokenWidth::U32 => tokens.iter().for_each(|id| out.extend_from_slice(&id.to_le_bytes())),
    }
}

#[cfg(test)]
mod tests {
    use cm3flow_schemas::document::{Modality, Role, Segment};
    use cm3flow_schemas::pack::PlacedDocument;

    use super::*;

    /// A pack of eight ids from `first` on; one document takes six.
    pub(super) fn pack(first: u32) -> Pack {
        let id = |number: u32| format!("{number:032x}");
        let segment = |(start, len, modality, role, loss_weight)| Segment { start, len, modality, role, loss_weight };
        let segments = [
            (0, 1, Modality::Control, Role::Boundary, 0.5),
            (1, 4, Modality::Text, Role::Condition, 1.0),
            (5, 1, Modality::Control, Role::Boundary, 0.0),
        ];
        let document = PlacedDocument {
            document_id: id(first).parse().expect("an id"),
            sample_id: id(first + 1).parse().expect("an id"),
            task: "caption".into(),
            start: 0,
            len: 6,
        };
        let tokens = (first..first + 6).chain([1, 1]).collect();
        Pack { tokens, segments: segments.map(segment).to_vec(), documents: vec![document] }
    }

    /// A pack with padding only, as withdrawals leave it.
    pub(super) fn hole() -> Pack {
        Pack { tokens: vec![1; 8], segments: Vec::new(), documents: Vec::new() }
    }

    #[test]
    fn ids_are_written_in_their_width() {
        let mut bytes = Vec::new();
        append_ids(&[1, 0xffff], TokenWidth::U16, &mut bytes);
        append_ids(&[1, 0x1_0000], TokenWidth::U32, &mut bytes);
        assert_eq!(bytes, [1, 0, 0xff, 0xff, 1, 0, 0, 0, 0, 0, 1, 0]);
    }
}
