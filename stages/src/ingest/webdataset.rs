//! WebDataset tars: which members belong to which sample, found in one pass over the file.
//!
//! # Source
//! <https://github.com/webdataset/webdataset#the-webdataset-format>: a key is the member's path up to the first dot of its name.

use std::io::Read;

use cm3flow_schemas::Digest;
use object_store::path::Path;

use super::location::Location;
use crate::error::{Result, StageError};

/// A member of a sample: where its bytes lie in the tar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    /// What follows the key, without the dot, in lower case: `jpg`, `edit0.jpg`, `json`.
    pub extension: String,
    /// Offset of the first byte.
    pub offset: u64,
    /// Number of bytes.
    pub bytes: u64,
}

/// Members with one key, side by side in the tar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TarSample {
    pub key: String,
    pub members: Vec<Member>,
    /// Why the sample cannot be read as a whole, if so.
    pub damage: Option<String>,
}

/// What a tar holds.
#[derive(Debug)]
pub(super) struct TarIndex {
    pub digest: Digest,
    pub samples: Vec<TarSample>,
}

/// Reads the tar at `path` once, in constant memory.
pub(super) async fn index(location: &Location, path: &Path) -> Result<TarIndex> {
    let failed = |source| StageError::Store { location: path.to_string(), source };
    use futures::TryStreamExt;
    use object_store::ObjectStoreExt;
    let body = location.store.get(path).await.map_err(failed)?.into_stream().map_err(std::io::Error::other);
    let reader = tokio_util::io::SyncIoBridge::new(tokio_util::io::StreamReader::new(body));
    let name = path.to_string();
    let indexed = tokio::task::spawn_blocking(move || index_reader(reader));
    indexed
        .await
        .map_err(|source| StageError::Task { stage: super::NAME, source })?
        .map_err(|source| StageError::Read { location: name, source })
}

struct HashingReader<R> {
    inner: R,
    hasher: blake3::Hasher,
    bytes: u64,
    error: Option<std::io::ErrorKind>,
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buffer).inspect_err(|error| self.error = Some(error.kind()))?;
        self.hasher.update(&buffer[..read]);
        self.bytes += read as u64;
        Ok(read)
    }
}

fn index_reader(reader: impl Read) -> std::io::Result<TarIndex> {
    let mut hashing = HashingReader { inner: reader, hasher: blake3::Hasher::new(), bytes: 0, error: None };
    let mut samples: Vec<TarSample> = Vec::new();
    let mut damage = None;
    {
        let mut archive = tar::Archive::new(&mut hashing);
        for entry in archive.entries()? {
            match entry.and_then(|entry| {
                Ok((
                    entry.path()?.to_string_lossy().into_owned(),
                    entry.header().entry_type().is_file(),
                    entry.raw_file_position(),
                    entry.size(),
                ))
            }) {
                Ok((_, false, ..)) => {}
                Ok((path, true, offset, bytes)) => add(&mut samples, &path, offset, bytes),
                Err(error) => {
                    damage = Some(error);
                    break;
                }
            }
        }
    }
    std::io::copy(&mut hashing, &mut std::io::sink())?;
    if let Some(kind) = hashing.error {
        return Err(kind.into());
    }
    let total = hashing.bytes;
    let cut = samples.last_mut().filter(|sample| sample.members.iter().any(|member| member.offset + member.bytes > total));
    match (cut, damage) {
        (Some(cut), _) => cut.damage = Some(format!("the tar ends at byte {total}, within this sample")),
        (None, Some(error)) => {
            samples.push(TarSample {
                key: String::from("(unreadable)"),
                members: vec![],
                damage: Some(format!("the tar is damaged behind the sample before: {error}")),
            });
        }
        (None, None) => {}
    }
    Ok(TarIndex { digest: Digest(*hashing.hasher.finalize().as_bytes()), samples })
}

fn add(samples: &mut Vec<TarSample>, path: &str, offset: u64, bytes: u64) {
    let name_start = path.rfind('/').map_or(0, |slash| slash + 1);
    let (key, extension) = match path[name_start..].find('.') {
        Some(dot) if dot > 0 => (&path[..name_start + dot], path[name_start + dot + 1..].to_ascii_lowercase()),
        // Hidden files and names without extension belong to no sample.
        _ => return,
    };
    let member = Member { extension, offset, bytes };
    match samples.last_mut() {
        Some(last) if last.key == key => last.members.push(member),
        _ => samples.push(TarSample { key: key.to_owned(), members: vec![member], damage: None }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tar(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, bytes) in members {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, *bytes).expect("in memory");
        }
        builder.into_inner().expect("in memory")
    }

    #[test]
    fn members_are_grouped_by_key() {
        let bytes = tar(&[("a/x.jpg", b"12"), ("a/x.edit0.JPG", b"3"), ("a/.hidden", b"4"), ("a/y.json", b"{}")]);
        let index = index_reader(&bytes[..]).expect("whole");
        let keys: Vec<_> = index.samples.iter().map(|sample| (sample.key.as_str(), sample.members.len())).collect();
        assert_eq!(keys, [("a/x", 2), ("a/y", 1)]);
        let first = &index.samples[0].members[1];
        assert_eq!((first.extension.as_str(), &bytes[first.offset as usize..][..1]), ("edit0.jpg", &b"3"[..]));
        assert_eq!(index.digest, Digest::of(&bytes));
    }

    #[test]
    fn a_tar_cut_within_a_member_names_its_sample() {
        let bytes = tar(&[("x.jpg", &[1; 600]), ("y.jpg", &[2; 600])]);
        let index = index_reader(&bytes[..512 + 1024 + 512 + 100]).expect("indexed as far as it goes");
        assert_eq!(index.samples.iter().map(|sample| sample.damage.is_some()).collect::<Vec<_>>(), [false, true]);
    }

    #[test]
    fn what_is_no_tar_is_one_refused_sample() {
        let index = index_reader(&[7_u8; 2048][..]).expect("indexed as far as it goes");
        assert_eq!(index.samples.len(), 1);
        assert!(index.samples[0].damage.is_some());
    }
}
