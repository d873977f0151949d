//! WebDataset tars: which members belong to which sample, found in one pass over the bytes.
//!
//! A scan walks the whole tar and keeps where samples begin; a unit is read by walking its bytes alone, which begin with a header. Both
//! hold one sample at a time.
//!
//! # Source
//! <https://github.com/webdataset/webdataset#the-webdataset-format>: a key is the member's path up to the first dot of its name.

use std::io::Read;
use std::ops::{ControlFlow, Range};

use cm3flow_schemas::Digest;
use futures::TryStreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use tokio_util::io::{StreamReader, SyncIoBridge};

use super::location::Location;
use super::planned::FileFacts;
use crate::error::{Result, StageError};

/// Samples that wait for whoever reads a unit.
const SAMPLES_AHEAD: usize = 4;

/// A member of a sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    /// What follows the key, without the dot, in lower case: `jpg`, `edit0.jpg`, `json`.
    pub extension: String,
    /// Offset behind its last byte.
    end: u64,
    /// Its bytes; none of a member that is not wanted.
    pub bytes: Vec<u8>,
}

/// Members with one key, side by side in the tar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TarSample {
    pub key: String,
    /// Offset of the first header that belongs to the sample.
    start: u64,
    pub members: Vec<Member>,
    /// Why the sample cannot be read as a whole, if so.
    pub damage: Option<String>,
}

/// What a tar holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TarIndex {
    /// Digest of its bytes.
    pub digest: Digest,
    /// What the store said of it when it was read.
    pub facts: FileFacts,
    /// Offset of each sample, ascending.
    pub starts: Vec<u64>,
}

impl TarIndex {
    /// Bytes of the samples `rows`, which are some.
    pub(super) fn bytes_of(&self, rows: Range<u64>) -> Range<u64> {
        let end = self.starts.get(rows.end as usize).copied().unwrap_or_else(|| self.facts.size());
        self.starts[rows.start as usize]..end
    }
}

type Bridge = SyncIoBridge<Box<dyn tokio::io::AsyncRead + Send + Unpin>>;

/// The bytes `range` of a tar, or all, for a thread that may block.
async fn open(location: &Location, path: &Path, range: Option<Range<u64>>) -> Result<(Bridge, FileFacts)> {
    let (body, facts) = location.stream(path, range).await?;
    Ok((SyncIoBridge::new(Box::new(StreamReader::new(body.map_err(std::io::Error::other)))), facts))
}

/// Reads the tar at `path` once, in constant memory but for the offsets of its samples.
pub(super) async fn index(location: &Location, path: &Path) -> Result<TarIndex> {
    let (reader, facts) = open(location, path, None).await?;
    let indexing = move || {
        let mut starts = Vec::new();
        let mut hasher = blake3::Hasher::new();
        let hashing = Tee { inner: reader, hasher: &mut hasher };
        let push = |sample: TarSample| {
            starts.push(sample.start);
            ControlFlow::Continue(())
        };
        walk(hashing, 0, |_| false, push).map(|()| TarIndex { digest: Digest(*hasher.finalize().as_bytes()), facts, starts })
    };
    let indexed = tokio::task::spawn_blocking(indexing).await.map_err(|source| StageError::Task { stage: super::NAME, source })?;
    indexed.map_err(|source| StageError::Read { location: path.to_string(), source })
}

/// Samples of the bytes `range` of a tar, in order, with the members whose extension `is_wanted`, and the tar's facts.
pub(super) async fn samples(
    location: &Location,
    path: &Path,
    range: Range<u64>,
    is_wanted: fn(&str) -> bool,
) -> Result<(BoxStream<'static, Result<TarSample>>, FileFacts)> {
    let base = range.start;
    let (reader, facts) = open(location, path, Some(range)).await?;
    let (sender, receiver) = async_channel::bounded(SAMPLES_AHEAD);
    let location = path.to_string();
    tokio::task::spawn_blocking(move || {
        // A receiver that is gone wants no more.
        let send = |sample| if sender.send_blocking(Ok(sample)).is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) };
        if let Err(source) = walk(reader, base, is_wanted, send) {
            drop(sender.send_blocking(Err(StageError::Read { location, source })));
        }
    });
    Ok((Box::pin(receiver), facts))
}

/// Hashes what is read.
struct Tee<'h, R> {
    inner: R,
    hasher: &'h mut blake3::Hasher,
}

impl<R: Read> Read for Tee<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}

/// Counts what is read, and keeps the error of the file apart from what is wrong with the tar.
struct Counted<R> {
    inner: R,
    bytes: u64,
    error: Option<std::io::Error>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self.inner.read(buffer) {
            Ok(read) => {
                self.bytes += read as u64;
                Ok(read)
            }
            Err(error) => {
                let kind = error.kind();
                self.error = Some(error);
                Err(kind.into())
            }
        }
    }
}

/// Hands every sample of the tar, whose bytes are read from offset `base` on, to `each`, in order, until it breaks; then reads to the
/// end. Damage ends the tar and is the last sample's.
fn walk(
    reader: impl Read,
    base: u64,
    is_wanted: impl Fn(&str) -> bool,
    mut each: impl FnMut(TarSample) -> ControlFlow<()>,
) -> std::io::Result<()> {
    let mut counted = Counted { inner: reader, bytes: 0, error: None };
    let mut last: Option<TarSample> = None;
    let mut damage = None;
    // Where the next header begins, headers of a long name included.
    let mut next_start = base;
    for entry in tar::Archive::new(&mut counted).entries()? {
        match entry.and_then(|entry| read_member(entry, base, &is_wanted)) {
            Ok(found) => {
                let start = next_start.min(found.header);
                next_start = found.end.next_multiple_of(512);
                let Some((key, member)) = found.member else { continue };
                if let Some(sample) = last.as_mut().filter(|sample| sample.key == key) {
                    sample.members.push(member);
                } else if let Some(whole) = last.replace(TarSample { key, start, members: vec![member], damage: None })
                    && each(whole).is_break()
                {
                    return Ok(());
                }
            }
            Err(error) => {
                damage = Some(error);
                break;
            }
        }
    }
    if counted.error.is_none() {
        // What stands behind the end of the tar belongs to its digest.
        let _ = std::io::copy(&mut counted, &mut std::io::sink());
    }
    if let Some(error) = counted.error {
        return Err(error);
    }
    end(last, damage, (next_start, base + counted.bytes), each);
    Ok(())
}

/// Hands out the last sample, and what is wrong with the tar.
fn end(
    last: Option<TarSample>,
    damage: Option<std::io::Error>,
    (start, total): (u64, u64),
    mut each: impl FnMut(TarSample) -> ControlFlow<()>,
) {
    let mut damage = damage.map(|error| format!("the tar is damaged behind the sample before: {error}"));
    if let Some(mut last) = last {
        if last.members.iter().any(|member| member.end > total) {
            last.damage = Some(format!("the tar ends at byte {total}, within this sample"));
            damage = None;
        }
        if each(last).is_break() {
            return;
        }
    }
    if damage.is_some() {
        let start = start.min(total);
        let _ = each(TarSample { key: "(unreadable)".into(), start, members: Vec::new(), damage });
    }
}

/// What stands at a header of a tar.
struct Found {
    /// Offset of the header.
    header: u64,
    /// Offset behind the last byte.
    end: u64,
    /// Key and member, if it belongs to a sample.
    member: Option<(String, Member)>,
}

fn read_member(mut entry: tar::Entry<'_, impl Read>, base: u64, is_wanted: impl Fn(&str) -> bool) -> std::io::Result<Found> {
    let (header, end) = (base + entry.raw_header_position(), base + entry.raw_file_position() + entry.size());
    let path = entry.path()?.to_string_lossy().into_owned();
    let name = if entry.header().entry_type().is_file() { key_and_extension(&path) } else { None };
    let Some((key, extension)) = name else { return Ok(Found { header, end, member: None }) };
    let mut bytes = Vec::new();
    if is_wanted(&extension) {
        entry.read_to_end(&mut bytes)?;
    }
    Ok(Found { header, end, member: Some((key.to_owned(), Member { extension, end, bytes })) })
}

/// Hidden files and names without extension belong to no sample.
fn key_and_extension(path: &str) -> Option<(&str, String)> {
    let name_start = path.rfind('/').map_or(0, |slash| slash + 1);
    let dot = path[name_start..].find('.').filter(|dot| *dot > 0)?;
    Some((&path[..name_start + dot], path[name_start + dot + 1..].to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tar(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, bytes) in members {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, *bytes).expect("in memory");
        }
        builder.into_inner().expect("in memory")
    }

    fn walked(bytes: &[u8], base: u64) -> Vec<TarSample> {
        let mut samples = Vec::new();
        let push = |sample| {
            samples.push(sample);
            ControlFlow::Continue(())
        };
        walk(bytes, base, |_| true, push).expect("in memory");
        samples
    }

    #[test]
    fn members_are_grouped_by_key() {
        let bytes = tar(&[("a/x.jpg", b"12"), ("a/x.edit0.JPG", b"3"), ("a/.hidden", b"4"), ("a/y.json", b"{}")]);
        let samples = walked(&bytes, 0);
        let keys: Vec<_> = samples.iter().map(|sample| (sample.key.as_str(), sample.members.len())).collect();
        assert_eq!(keys, [("a/x", 2), ("a/y", 1)]);
        let second = &samples[0].members[1];
        assert_eq!((second.extension.as_str(), second.bytes.as_slice()), ("edit0.jpg", &b"3"[..]));
    }

    #[test]
    fn samples_read_from_their_offset_are_those_of_the_whole_tar() {
        let long = format!("{}/{}", "folder".repeat(20), "name".repeat(30));
        let (first, second) = (format!("{long}1.jpg"), format!("{long}2.jpg"));
        let bytes = tar(&[(&first, &[1; 700]), ("b.jpg", b"2"), (&second, b"3"), ("c.jpg", b""), ("c.txt", b"text"), ("d.jpg", b"4")]);
        let whole = walked(&bytes, 0);
        assert_eq!(whole.len(), 5);
        for (index, sample) in whole.iter().enumerate() {
            assert_eq!(walked(&bytes[sample.start as usize..], sample.start), whole[index..], "from {}", sample.key);
            let end = whole.get(index + 1).map_or(bytes.len(), |next| next.start as usize);
            assert_eq!(walked(&bytes[sample.start as usize..end], sample.start), [sample.clone()], "{} alone", sample.key);
        }
    }

    #[test]
    fn a_tar_cut_within_a_member_names_its_sample() {
        let bytes = tar(&[("x.jpg", &[1; 600]), ("y.jpg", &[2; 600])]);
        let samples = walked(&bytes[..512 + 1024 + 512 + 100], 0);
        assert_eq!(samples.iter().map(|sample| sample.damage.is_some()).collect::<Vec<_>>(), [false, true]);
        let alone = walked(&bytes[samples[1].start as usize..512 + 1024 + 512 + 100], samples[1].start);
        assert_eq!(alone, samples[1..], "damage is the same from whatever offset it is read");
    }

    #[test]
    fn what_is_no_tar_is_one_refused_sample() {
        let samples = walked(&[7_u8; 2048], 0);
        assert_eq!(samples.len(), 1);
        assert!(samples[0].damage.is_some());
    }

    #[test]
    fn an_error_of_the_file_is_no_damage_of_the_tar() {
        struct Failing;
        impl Read for Failing {
            fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
                Err(std::io::Error::other("the network is gone"))
            }
        }
        let bytes = tar(&[("x.jpg", &[1; 600])]);
        let error = walk((&bytes[..700]).chain(Failing), 0, |_| true, |_| ControlFlow::Continue(())).expect_err("it fails");
        assert_eq!(error.to_string(), "the network is gone");
    }
}
