//! Pool of a reader's blocks: mapped from a local folder, or fetched from a store ahead of use.
//!
//! Up to [`PoolLimits::prefetch_bytes`] are fetched ahead, in the order of reading. The blocks read last are kept, up to
//! [`PoolLimits::cache_bytes`]. A mapped block is checked when it is first read, a fetched one after each fetch.

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use cm3flow_schemas::{Digest, layout};
use memmap2::{Advice, Mmap};
use object_store::ObjectStore;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::block::{Check, damaged, decode, fetch, range_of};
use super::packs::PackBlock;
use super::window::BlockPlace;
use crate::error::{Result, StageError};

/// Largest number of files mapped at once.
const MAPPED_FILES: usize = 256;

/// Place of shards.
#[derive(Clone)]
pub enum Origin {
    /// `shards/` of this folder; files are mapped into memory.
    Folder(PathBuf),
    /// `shards/` of this store; blocks are fetched by range.
    Store(Arc<dyn ObjectStore>),
}

/// Memory limits of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolLimits {
    /// Bytes fetched ahead. Default 64 MiB. Not used for mapped files, which the system reads ahead.
    pub prefetch_bytes: u64,
    /// Bytes kept beyond those that are read now or soon. Default 64 MiB.
    pub cache_bytes: u64,
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self { prefetch_bytes: 64 << 20, cache_bytes: 64 << 20 }
    }
}

type Key = (Digest, usize);

/// A running fetch, aborted when it is dropped.
struct Coming(JoinHandle<Result<Arc<PackBlock>>>);

impl Drop for Coming {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Blocks of one source.
pub(super) struct BlockPool {
    origin: Origin,
    schema: SchemaRef,
    limits: PoolLimits,
    runtime: Handle,
    coming: HashMap<Key, Coming>,
    ready: HashMap<Key, (Arc<PackBlock>, u64)>,
    /// Keys of ready blocks, the least recently read first, and their total bytes.
    by_age: VecDeque<Key>,
    bytes: u64,
    checked: HashSet<Key>,
    /// Keys of mapped blocks that are read now or soon, and that the system has been advised of.
    advised: HashSet<Key>,
    mapped: VecDeque<(Digest, Arc<Mmap>)>,
}

impl BlockPool {
    pub(super) fn new(origin: Origin, schema: SchemaRef, limits: PoolLimits, runtime: Handle) -> Self {
        Self {
            origin,
            schema,
            limits,
            runtime,
            coming: HashMap::new(),
            ready: HashMap::new(),
            by_age: VecDeque::new(),
            bytes: 0,
            checked: HashSet::new(),
            advised: HashSet::new(),
            mapped: VecDeque::new(),
        }
    }

    /// Returns the number of bytes to fetch ahead.
    pub(super) const fn ahead(&self) -> u64 {
        self.limits.prefetch_bytes
    }

    /// Announces the blocks that are read now and soon, in order. Their fetches begin, and other fetches are aborted.
    pub(super) fn expect(&mut self, places: &[BlockPlace]) -> Result<()> {
        let keys: HashSet<Key> = places.iter().map(BlockPlace::key).collect();
        self.coming.retain(|key, _| keys.contains(key));
        self.forget(&keys);
        for place in places {
            let key = place.key();
            if self.ready.contains_key(&key) || self.coming.contains_key(&key) {
                continue;
            }
            match &self.origin {
                Origin::Store(store) => {
                    let coming = self.begin(Arc::clone(store), place);
                    self.coming.insert(key, coming);
                }
                // Repeated advice for each group would take longer than reading the packs.
                Origin::Folder(_) if self.advised.contains(&key) => {}
                Origin::Folder(_) => self.read_ahead(place)?,
            }
        }
        self.advised = keys;
        Ok(())
    }

    /// Returns a block, after waiting for it if necessary.
    pub(super) async fn block(&mut self, place: &BlockPlace) -> Result<Arc<PackBlock>> {
        let key = place.key();
        if let Some((block, _)) = self.ready.get(&key) {
            return Ok(Arc::clone(block));
        }
        let block = match &self.origin {
            Origin::Folder(_) => self.map_block(place)?,
            Origin::Store(store) => {
                let store = Arc::clone(store);
                let mut coming = self.coming.remove(&key).unwrap_or_else(|| self.begin(store, place));
                (&mut coming.0).await.map_err(|source| StageError::Task { stage: super::NAME, source })??
            }
        };
        let bytes = place.entry.body_bytes;
        self.ready.insert(key, (Arc::clone(&block), bytes));
        self.by_age.push_back(key);
        self.bytes += bytes;
        Ok(block)
    }

    /// Forgets the least recently read blocks, except `keys`, down to the limit.
    fn forget(&mut self, keys: &HashSet<Key>) {
        // The system keeps mapped blocks.
        let limit = if matches!(self.origin, Origin::Folder(_)) { 0 } else { self.limits.cache_bytes };
        let spare = |(key, (_, bytes)): (&Key, &(Arc<PackBlock>, u64))| if keys.contains(key) { 0 } else { *bytes };
        let mut over = self.ready.iter().map(spare).sum::<u64>().saturating_sub(limit);
        let ready = &mut self.ready;
        self.by_age.retain(|key| {
            if over == 0 || keys.contains(key) {
                return true;
            }
            if let Some((_, bytes)) = ready.remove(key) {
                over = over.saturating_sub(bytes);
                self.bytes -= bytes;
            }
            false
        });
    }

    fn begin(&self, store: Arc<dyn ObjectStore>, place: &BlockPlace) -> Coming {
        let (schema, place) = (Arc::clone(&self.schema), place.clone());
        Coming(self.runtime.spawn(async move {
            let bytes = fetch(&*store, &place).await?;
            // Digest and decoding would block a thread of the runtime for too long.
            let decoded = tokio::task::spawn_blocking(move || {
                let batch = decode(bytes, &schema, &place, Check::Digest)?;
                Ok(Arc::new(PackBlock::new(&batch)))
            });
            decoded.await.map_err(|source| StageError::Task { stage: super::NAME, source })?
        }))
    }

    fn map_block(&mut self, place: &BlockPlace) -> Result<Arc<PackBlock>> {
        let file = self.map_file(place.shard)?;
        let range = range_of(&place.entry);
        if range.end > file.len() as u64 {
            return Err(damaged(place, format!("its file ends after {} bytes", file.len())));
        }
        let bytes = Bytes::from_owner(Mapped(file)).slice(range.start as usize..range.end as usize);
        let check = if self.checked.contains(&place.key()) { Check::Done } else { Check::Digest };
        let batch = decode(bytes, &self.schema, place, check)?;
        self.checked.insert(place.key());
        Ok(Arc::new(PackBlock::new(&batch)))
    }

    fn read_ahead(&mut self, place: &BlockPlace) -> Result<()> {
        let file = self.map_file(place.shard)?;
        let range = range_of(&place.entry);
        if range.end <= file.len() as u64 {
            // A refused hint costs only time.
            let _ = file.advise_range(Advice::WillNeed, range.start as usize, (range.end - range.start) as usize);
        }
        Ok(())
    }

    #[allow(unsafe_code)]
    fn map_file(&mut self, shard: Digest) -> Result<Arc<Mmap>> {
        if let Some((_, file)) = self.mapped.iter().find(|(digest, _)| *digest == shard) {
            return Ok(Arc::clone(file));
        }
        let Origin::Folder(folder) = &self.origin else { unreachable!("files of a store are not mapped") };
        let path = folder.join(layout::shard(shard));
        let failed = |source| StageError::Read { location: path.display().to_string(), source };
        let file = std::fs::File::open(&path).map_err(failed)?;
        // SAFETY: shards are written once, under the name of their digest, and never changed. They are only ever removed, which leaves a
        // mapping intact.
        let file = Arc::new(unsafe { Mmap::map(&file) }.map_err(failed)?);
        if self.mapped.len() == MAPPED_FILES {
            self.mapped.pop_front();
        }
        self.mapped.push_back((shard, Arc::clone(&file)));
        Ok(file)
    }
}

/// A mapped file as a byte slice.
struct Mapped(Arc<Mmap>);

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}
