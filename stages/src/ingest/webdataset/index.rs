//! Index of a tar in a store: the tar is read once to index it, and then by parts.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read};
use std::ops::{ControlFlow, Range};

use cm3flow_schemas::Digest;
use futures::TryStreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio_util::io::{StreamReader, SyncIoBridge};

use super::headers::{Entry, Headers, Kind};
use super::samples::{Content, Members, Reading, TarSample, walk};
use crate::error::{Result, StageError};
use crate::ingest::NAME;
use crate::ingest::facts::FileFacts;
use crate::ingest::location::Location;

/// Number of samples read ahead of the consumer.
const SAMPLES_AHEAD: usize = 4;

/// A hard link, and the place of its target's data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::ingest) struct HardLink {
    /// Offset of the link's header.
    pub(super) header: u64,
    /// Offset of the first byte of the data.
    pub(super) start: u64,
    /// Offset behind the last byte of the data.
    pub(super) end: u64,
}

/// Index of a tar.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::ingest) struct TarIndex {
    /// Digest of the whole tar.
    pub digest: Digest,
    /// Facts of the file when it was read.
    pub facts: FileFacts,
    /// Offset of each sample, ascending.
    pub starts: Vec<u64>,
    /// Rows of samples with a repeated key, each with the offset of the other sample.
    repeated: BTreeMap<u64, u64>,
    /// Hard links whose data precede them, in order.
    links: Vec<HardLink>,
}

/// Some samples of a tar, with facts that their own bytes lack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::ingest) struct TarPart {
    /// Offset of the first byte, where a header begins.
    pub start: u64,
    /// Offset behind the last byte.
    pub end: u64,
    /// Facts of the whole tar.
    pub facts: FileFacts,
    /// Repeated keys as in [`TarIndex::repeated`], by rows of the tar.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub repeated: BTreeMap<u64, u64>,
    /// Hard links as in [`TarIndex::links`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    links: Vec<HardLink>,
}

impl TarIndex {
    /// Returns the part with the samples `rows`, at least one.
    pub(in crate::ingest) fn part(&self, rows: Range<u64>) -> TarPart {
        let start = self.starts[rows.start as usize];
        let end = self.starts.get(rows.end as usize).copied().unwrap_or_else(|| self.facts.size());
        let repeated = self.repeated.range(rows).map(|(row, other)| (*row, *other)).collect();
        let links = self.links.iter().filter(|link| (start..end).contains(&link.header)).cloned().collect();
        TarPart { start, end, facts: self.facts.clone(), repeated, links }
    }
}

type Bridge = SyncIoBridge<Box<dyn tokio::io::AsyncRead + Send + Unpin>>;

/// Opens the bytes `range` of a tar, or all, for a blocking thread.
async fn open(location: &Location, path: &Path, range: Option<Range<u64>>) -> Result<(Bridge, FileFacts)> {
    let (body, facts) = location.stream(path, range).await?;
    Ok((SyncIoBridge::new(Box::new(StreamReader::new(body.map_err(io::Error::other)))), facts))
}

/// Indexes the tar at `path` in one pass. Memory grows with the offset and the key digest of each sample, and the place of each member.
pub(in crate::ingest) async fn index(location: &Location, path: &Path) -> Result<TarIndex> {
    let (reader, facts) = open(location, path, None).await?;
    let indexing = move || {
        let mut hasher = blake3::Hasher::new();
        let hashing = Tee { inner: reader, hasher: &mut hasher };
        let Walked { starts, repeated, links } = walk_whole(hashing)?;
        Ok(TarIndex { digest: Digest(*hasher.finalize().as_bytes()), facts, starts, repeated, links })
    };
    let indexed = tokio::task::spawn_blocking(indexing).await.map_err(|source| StageError::Task { stage: NAME, source })?;
    indexed.map_err(|source| StageError::Read { location: path.to_string(), source })
}

/// Streams the samples of a part of a tar, in order, and returns the tar's facts. Members are read if their extension `is_wanted` and they
/// have at most `max_bytes`.
pub(in crate::ingest) async fn samples(
    location: &Location,
    path: &Path,
    part: &TarPart,
    is_wanted: fn(&str) -> bool,
    max_bytes: u64,
) -> Result<(BoxStream<'static, Result<TarSample>>, FileFacts)> {
    let (reader, facts) = open(location, path, Some(part.start..part.end)).await?;
    let (sender, receiver) = async_channel::bounded(SAMPLES_AHEAD);
    let (location, path, runtime) = (location.clone(), path.clone(), Handle::current());
    let (base, links) = (part.start, part.links.clone());
    tokio::task::spawn_blocking(move || {
        // Without a receiver nobody needs more samples.
        let send = |sample| if sender.send_blocking(Ok(sample)).is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) };
        let link = |header| links.iter().find(|link| link.header == header).map(|link| link.start..link.end);
        let fetch = |range| {
            let (mut reader, _) = runtime.block_on(open(&location, &path, Some(range))).map_err(io::Error::other)?;
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).map(|_| bytes)
        };
        let mut reading = Reading { is_wanted, max_bytes, link, fetch };
        if let Err(source) = walk(reader, base, &mut reading, send) {
            drop(sender.send_blocking(Err(StageError::Read { location: path.to_string(), source })));
        }
    });
    Ok((Box::pin(receiver), facts))
}

/// Collector of the parts of an index.
#[derive(Debug, Default)]
struct Indexing {
    links: Vec<HardLink>,
    /// Places of members' data, by the digest of the path.
    places: HashMap<u128, Range<u64>>,
}

impl Members for Indexing {
    fn see(&mut self, entry: &Entry) {
        let place = match &entry.kind {
            Kind::File => Some(entry.data.clone()),
            Kind::HardLink(target) => self.places.get(&short_digest(target)).cloned(),
            _ => None,
        };
        let Some(place) = place else { return };
        if matches!(entry.kind, Kind::HardLink(_)) {
            self.links.push(HardLink { header: entry.header, start: place.start, end: place.end });
        }
        self.places.insert(short_digest(&entry.name), place);
    }

    fn content(&mut self, _: &mut Headers<impl Read>, _: &Entry, _: &str) -> io::Result<Content> {
        Ok(Content::Unread)
    }
}

/// Content of an index, except digest and facts.
#[derive(Debug)]
pub(super) struct Walked {
    pub(super) starts: Vec<u64>,
    pub(super) repeated: BTreeMap<u64, u64>,
    pub(super) links: Vec<HardLink>,
}

/// Walks a whole tar, and reads it to the last byte.
pub(super) fn walk_whole(reader: impl Read) -> io::Result<Walked> {
    let (mut starts, mut repeated): (Vec<u64>, _) = (Vec::new(), BTreeMap::new());
    let mut first_rows: HashMap<u128, u64> = HashMap::new();
    let mut indexing = Indexing::default();
    walk(reader, 0, &mut indexing, |sample| {
        let row = starts.len() as u64;
        if !sample.members.is_empty() {
            let first = *first_rows.entry(short_digest(&sample.key_bytes)).or_insert(row);
            if first != row {
                repeated.entry(first).or_insert(sample.start);
                repeated.insert(row, starts[first as usize]);
            }
        }
        starts.push(sample.start);
        ControlFlow::Continue(())
    })?;
    Ok(Walked { starts, repeated, links: indexing.links })
}

/// Returns a digest short enough to keep for each member of a tar, and long enough to distinguish names.
fn short_digest(name: &[u8]) -> u128 {
    let digest = Digest::of(name).0;
    u128::from_le_bytes(std::array::from_fn(|place| digest[place]))
}

/// Reader that hashes the bytes that pass.
struct Tee<'h, R> {
    inner: R,
    hasher: &'h mut blake3::Hasher,
}

impl<R: Read> Read for Tee<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}
