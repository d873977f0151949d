//! Exports: the packs of a version as files that other readers read, MosaicML Streaming (MDS) and WebDataset.
//!
//! Packs come by the version's records, window by window in their stored order, and the digest of everything that is read is checked; a few blocks
//! are fetched ahead, and one file is held at a time. Files are created as a whole, index files last, so an export that was cut short has none.
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
use mds::MdsWriter;
use serde::Serialize;
use tracing::info;
use webdataset::TarWriter;

use crate::catalog::{Catalog, Published, VersionRef};
use crate::error::{PipelineError, Result};
use crate::store::{Created, Store, record_bytes};

/// Blocks that are fetched at once.
const BLOCKS_AT_ONCE: usize = 4;

/// Most bytes of a file of packs, which is held in memory: 1 GiB. Offsets in MDS end at 4 GiB.
pub const MAX_FILE_BYTES: u64 = 1 << 30;

/// The manifest of the version, as a file of the export.
const MANIFEST: &str = "version.json";

/// A format of other readers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ExportFormat {
    /// MosaicML Streaming: a folder for each split
    Mds,
    /// WebDataset: tars of NumPy arrays and JSON
    Webdataset,
}

impl ExportFormat {
    /// Name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mds => "mds",
            Self::Webdataset => "webdataset",
        }
    }
}

/// What is exported, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportOptions {
    /// The format.
    pub format: ExportFormat,
    /// The only split; every one that has packs without.
    pub split: Option<Split>,
    /// The variant of the train documents, which is what one epoch reads; held-out ones have one.
    pub variant: u16,
    /// Most bytes of a file of packs, [`MAX_FILE_BYTES`] at most; a pack that is larger by itself has its own.
    pub max_file_bytes: u64,
}

/// A file that was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExportedFile {
    /// Path in the folder of the export.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// Packs in it; 0 in a record.
    pub packs: u64,
}

/// A split that was exported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExportedSplit {
    /// The split.
    pub split: Split,
    /// Its packs.
    pub packs: u64,
    /// Files that hold them.
    pub files: u64,
}

/// A finished export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Export {
    /// The dataset.
    pub dataset: String,
    /// Number of the version.
    pub version: u32,
    /// The format.
    pub format: ExportFormat,
    /// Where it lies.
    pub address: String,
    /// Packs of all splits.
    pub packs: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Its splits.
    pub splits: Vec<ExportedSplit>,
    /// All files, in the order in which they were written.
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
    /// Takes the next pack. Returns the file that had to end before it.
    fn push(&mut self, pack: &Pack) -> Option<NewFile>;
    /// Ends the split: its last file, and the index that must be written after all files.
    fn finish(self: Box<Self>) -> (Option<NewFile>, NewFile);
}

/// A version that is to be exported.
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
    /// [`PipelineError::Damaged`], or what the store says.
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

    /// Writes the export into `target`, in which nothing may be yet.
    ///
    /// # Errors
    /// [`PipelineError::NotEmpty`], a block's damage as [`PipelineError::Stage`], or what the stores say.
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

    /// The packs of each block of `split`, in order.
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

/// Shards of a split, of one variant if it has several, in the order in which packs are counted.
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
        // Ids of this width were read from 16 bits.
        TokenWidth::U16 => tokens.iter().for_each(|&id| out.extend_from_slice(&(id as u16).to_le_bytes())),
        TokenWidth::U32 => tokens.iter().for_each(|id| out.extend_from_slice(&id.to_le_bytes())),
    }
}

#[cfg(test)]
mod tests {
    use cm3flow_schemas::document::{Modality, Role, Segment};
    use cm3flow_schemas::pack::PlacedDocument;

    use super::*;

    /// Eight ids from `first` on, of which one document takes six.
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

    /// A pack of padding alone, as withdrawals leave them.
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
