//! The blocks that a reader has at hand: mapped from a local folder, or fetched from a store ahead of their use.
//!
//! Ahead are fetched as many blocks as fit into [`PoolLimits::prefetch_bytes`], in the order of reading; behind are kept those read last, as
//! far as [`PoolLimits::cache_bytes`] allows. A mapped block is checked when it is first read, a fetched one whenever it was fetched.

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

/// Files that are mapped at once.
const MAPPED_FILES: usize = 256;

/// Where shards lie.
#[derive(Clone)]
pub enum Origin {
    /// In `shards/` of this folder; they are mapped into memory.
    Folder(PathBuf),
    /// In `shards/` of this store; blocks are fetched by range.
    Store(Arc<dyn ObjectStore>),
}

/// Memory of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolLimits {
    /// Bytes that are fetched ahead. Default 64 MiB. A mapped file has none: the system reads it ahead.
    pub prefetch_bytes: u64,
    /// Bytes that are kept beyond those that are read now or soon. Default 64 MiB.
    pub cache_bytes: u64,
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self { prefetch_bytes: 64 << 20, cache_bytes: 64 << 20 }
    }
}

type Key = (Digest, usize);

/// A fetch that ends with the pool.
struct Coming(JoinHandle<Result<Arc<PackBlock>>>);

impl Drop for Coming {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The blocks of one source.
pub(super) struct BlockPool {
    origin: Origin,
    schema: SchemaRef,
    limits: PoolLimits,
    runtime: Handle,
    coming: HashMap<Key, Coming>,
    ready: HashMap<Key, (Arc<PackBlock>, u64)>,
    /// Keys of what is ready, those read longest ago first, and their bytes.
    by_age: VecDeque<Key>,
    bytes: u64,
    checked: HashSet<Key>,
    /// Keys of mapped blocks that are read now or soon, which the system was told of.
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

    /// Bytes that are to be fetched ahead.
    pub(super) const fn ahead(&self) -> u64 {
        self.limits.prefetch_bytes
    }

    /// Says what is read now and soon, in order: fetches begin, and those of other blocks end.
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
                // Saying it again for each group that is entered would take longer than to read the packs.
                Origin::Folder(_) if self.advised.contains(&key) => {}
                Origin::Folder(_) => self.read_ahead(place)?,
            }
        }
        self.advised = keys;
        Ok(())
    }

    /// A block, waited for if need be.
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

    /// Forgets what was read longest ago, but for `keys`, until no more is kept than the limit says.
    fn forget(&mut self, keys: &HashSet<Key>) {
        // Mapped blocks are the system's to keep.
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
            // Digest and decoding take longer than what may hold up a thread of the runtime.
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
            // A hint that the system does not take costs nothing but time.
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
        // SAFETY: shards are written once, under the name of their digest, and never changed; they are only ever removed, which leaves a
        // mapping as it was.
        let file = Arc::new(unsafe { Mmap::map(&file) }.map_err(failed)?);
        if self.mapped.len() == MAPPED_FILES {
            self.mapped.pop_front();
        }
        self.mapped.push_back((shard, Arc::clone(&file)));
        Ok(file)
    }
}

/// A mapped file as bytes.
struct Mapped(Arc<Mmap>);

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}
