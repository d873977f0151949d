//! Published versions for readers: manifest and window records, the latter checked against their digests.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use arrow::ipc::convert::try_fb_to_schema;
use arrow::ipc::reader::read_footer_length;
use arrow::ipc::root_as_footer;
use cm3flow_schemas::pack::ShardEntry;
use cm3flow_schemas::version::VersionManifest;
use cm3flow_schemas::vocabulary::TokenWidth;
use cm3flow_schemas::window::WindowRecord;
use cm3flow_schemas::{Digest, columns, layout};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::location::{Location, VersionName};
use super::source::WindowFeed;
use super::window::WindowShards;
use crate::error::{Result, StageError};

/// Size in bytes of the end of an IPC file: footer length and magic.
const TRAILER_BYTES: u64 = 10;
/// Number of window records fetched in parallel.
const WINDOWS_AT_ONCE: usize = 16;

/// Records of one dataset in a store.
#[derive(Clone)]
pub(super) struct Records {
    store: Arc<dyn ObjectStore>,
    pub(super) dataset: String,
}

impl Records {
    pub(super) fn new(location: &Location) -> Self {
        Self { store: Arc::clone(&location.store), dataset: location.dataset.clone() }
    }

    /// Returns the bytes of `path`; `None` if there is no such object.
    pub(super) async fn bytes(&self, path: &str) -> Result<Option<bytes::Bytes>> {
        let failed = |source| StageError::Store { location: path.to_owned(), source };
        match self.store.get(&Path::from(path)).await {
            Ok(found) => Ok(Some(found.bytes().await.map_err(failed)?)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    /// Returns the record at `path`; `None` if there is no such object.
    pub(super) async fn record<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>> {
        self.bytes(path).await?.map(|bytes| parse(path, &bytes)).transpose()
    }

    /// Lists the names in `folder`: files and folders.
    pub(super) async fn names(&self, folder: &str) -> Result<Vec<String>> {
        let failed = |source| StageError::Store { location: folder.to_owned(), source };
        let listed = self.store.list_with_delimiter(Some(&Path::from(folder))).await.map_err(failed)?;
        let paths = listed.objects.iter().map(|object| &object.location).chain(&listed.common_prefixes);
        Ok(paths.filter_map(Path::filename).map(str::to_owned).collect())
    }

    /// Returns the number of the version `name`; `None` if there is none.
    pub(super) async fn number_of(&self, name: &VersionName) -> Result<Option<u32>> {
        #[derive(Deserialize)]
        struct TagRecord {
            version: Option<u32>,
        }
        match name {
            VersionName::Number(number) => Ok(Some(*number)),
            VersionName::Latest => Ok(layout::highest(&self.names(&layout::versions(&self.dataset)).await?)),
            VersionName::Tag(tag) => {
                let folder = layout::tag(&self.dataset, tag);
                let Some(latest) = layout::highest::<u64>(&self.names(&folder).await?) else { return Ok(None) };
                let record: Option<TagRecord> = self.record(&layout::numbered(&folder, latest)).await?;
                Ok(record.and_then(|record| record.version))
            }
        }
    }

    /// Returns the manifest of version `number`; `None` if it is not published.
    pub(super) async fn manifest(&self, number: u32) -> Result<Option<VersionManifest>> {
        let path = layout::manifest(&self.dataset, number);
        let Some(bytes) = self.bytes(&path).await? else { return Ok(None) };
        // The format version is checked first, since a later format may have other fields.
        let record: serde_json::Value = parse(&path, &bytes)?;
        match record["format_version"].as_u64() {
            Some(found) if found != u64::from(layout::FORMAT_VERSION) => {
                let problem = format!("its format is {found}, this reader knows {}; update cm3flow", layout::FORMAT_VERSION);
                Err(StageError::Record { location: path, problem })
            }
            _ => parse(&path, &bytes).map(Some),
        }
    }

    /// Returns the record of window `window` of version `number`, and checks that it has `digest`.
    pub(super) async fn window(&self, number: u32, window: usize, digest: Digest) -> Result<WindowRecord> {
        let path = layout::window(&self.dataset, number, window as u32, digest);
        let damaged = |problem: &str| StageError::Record { location: path.clone(), problem: problem.to_owned() };
        let bytes = self.bytes(&path).await?.ok_or_else(|| damaged("it is missing"))?;
        if Digest::of(&bytes) != digest {
            return Err(damaged("its bytes have another digest"));
        }
        parse(&path, &bytes)
    }

    /// Reads the schema of a shard's packs from the footer of its file.
    pub(super) async fn shard_schema(&self, shard: &ShardEntry) -> Result<SchemaRef> {
        let location = layout::shard(shard.digest);
        let path = Path::from(location.as_str());
        let damaged = |problem: String| StageError::Record { location: location.clone(), problem };
        let read = |bytes: u64| self.store.get_range(&path, shard.bytes.saturating_sub(bytes)..shard.bytes);
        let failed = |source| StageError::Store { location: location.clone(), source };
        let trailer = read(TRAILER_BYTES).await.map_err(failed)?;
        let trailer = trailer[..].try_into().map_err(|_| damaged("it is shorter than its trailer".into()))?;
        let footer_bytes = read_footer_length(trailer).map_err(|error| damaged(error.to_string()))?;
        let footer = read(TRAILER_BYTES + footer_bytes as u64).await.map_err(failed)?;
        let footer = root_as_footer(&footer[..footer_bytes.min(footer.len())]).map_err(|error| damaged(error.to_string()))?;
        let schema = footer.schema().ok_or_else(|| damaged("its footer has no schema".into()))?;
        let schema = try_fb_to_schema(schema).map_err(|error| damaged(error.to_string()))?;
        // The reader needs these columns, whatever else the file has.
        let field = schema.fields().first().map(|field| field.data_type());
        let Some(DataType::FixedSizeList(item, seq_len)) = field else { return Err(damaged("it holds no packs".into())) };
        let width = if *item.data_type() == DataType::UInt16 { TokenWidth::U16 } else { TokenWidth::U32 };
        let expected = columns::pack(seq_len.unsigned_abs() as usize, width);
        if schema == *expected { Ok(expected) } else { Err(damaged("its columns are not those of packs".into())) }
    }
}

fn parse<T: DeserializeOwned>(path: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| StageError::Record { location: path.to_owned(), problem: error.to_string() })
}

/// A published version, as a reader needs it.
pub struct PublishedVersion {
    records: Records,
    /// Manifest of the version.
    pub manifest: VersionManifest,
}

impl PublishedVersion {
    /// Looks up the version of `location`.
    ///
    /// # Errors
    /// [`StageError::NoVersion`] if it is not published, [`StageError::Record`] for a damaged manifest, or those of the store.
    pub async fn open(location: &Location) -> Result<Self> {
        let records = Records::new(location);
        let missing = || StageError::NoVersion { dataset: location.dataset.clone(), version: location.version.to_string() };
        let number = records.number_of(&location.version).await?.ok_or_else(missing)?;
        let manifest = records.manifest(number).await?.ok_or_else(missing)?;
        Ok(Self { records, manifest })
    }

    /// Returns the feed of the version's windows.
    #[must_use]
    pub fn feed(&self) -> PublishedFeed {
        let (version, windows) = (self.manifest.version, self.manifest.windows.clone());
        PublishedFeed { records: self.records.clone(), version, windows, ahead: VecDeque::new() }
    }
}

impl std::fmt::Display for VersionName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Latest => f.write_str("latest"),
            Self::Tag(tag) => f.write_str(tag),
        }
    }
}

/// [`WindowFeed`] of a published version.
pub struct PublishedFeed {
    records: Records,
    version: u32,
    windows: Vec<Digest>,
    /// Shards of windows that were fetched together with an earlier one, each with its window's index.
    ahead: VecDeque<(usize, WindowShards)>,
}

impl PublishedFeed {
    async fn fetch(&mut self, index: usize) -> Result<Option<WindowShards>> {
        self.ahead.retain(|(number, _)| *number >= index);
        if self.ahead.front().is_none_or(|(number, _)| *number != index) {
            let (records, version) = (&self.records, self.version);
            let wanted: Vec<(usize, Digest)> = self.windows.iter().copied().enumerate().skip(index).take(WINDOWS_AT_ONCE).collect();
            let fetched = wanted.into_iter().map(|(number, digest)| async move {
                Ok::<_, StageError>((number, records.window(version, number, digest).await?.shards))
            });
            self.ahead = futures::stream::iter(fetched).buffered(WINDOWS_AT_ONCE).try_collect().await?;
        }
        Ok(self.ahead.pop_front().map(|(_, shards)| shards))
    }
}

impl WindowFeed for PublishedFeed {
    fn window(&mut self, index: usize) -> BoxFuture<'_, Result<Option<WindowShards>>> {
        self.fetch(index).boxed()
    }

    fn has(&self, index: usize) -> bool {
        index <= self.windows.len()
    }
}
