//! WebDataset: tars of one NumPy array and one JSON file for each pack, and a list of the tars.
//!
//! # Source
//! Keys and members: <https://github.com/webdataset/webdataset>. Arrays: NumPy's format 1.0,
//! <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>.

use cm3flow_schemas::Digest;
use cm3flow_schemas::document::Segment;
use cm3flow_schemas::pack::{Pack, PlacedDocument};
use cm3flow_schemas::sample::Split;
use cm3flow_schemas::vocabulary::TokenWidth;
use serde::Serialize;
use tar::{Builder, Header};

use super::{NewFile, PackWriter, append_ids};
use crate::store::record_bytes;

/// Bytes of a tar's blocks: a header takes one, and members are padded to whole blocks.
const BLOCK_BYTES: u64 = 512;
/// Zero blocks at the end of a tar.
const END_BLOCKS: u64 = 2;
/// Alignment of a NumPy file's header, in bytes.
const NPY_ALIGNMENT: usize = 64;
/// Magic bytes of a NumPy file of format 1.0.
const NPY_MAGIC: &[u8] = b"\x93NUMPY\x01\x00";

/// Writes the packs of one split.
pub(super) struct TarWriter {
    split: Split,
    width: TokenWidth,
    limit: u64,
    tar: Builder<Vec<u8>>,
    /// Number of packs in the current tar.
    packs: u64,
    /// Number of packs in earlier tars.
    before: u64,
    shards: Vec<Shard>,
}

/// JSON member of a pack, beside its tokens.
#[derive(Serialize)]
struct Tables<'a> {
    segments: &'a [Segment],
    documents: &'a [PlacedDocument],
}

/// Entry of a tar in the index.
#[derive(Debug, Serialize)]
struct Shard {
    file: String,
    packs: u64,
    bytes: u64,
    digest: Digest,
}

#[derive(Debug, Serialize)]
struct Index {
    split: Split,
    packs: u64,
    shards: Vec<Shard>,
}

impl TarWriter {
    /// Makes a writer of ids of `width` into tars of at most `limit` bytes.
    pub(super) fn new(split: Split, width: TokenWidth, limit: u64) -> Self {
        Self { split, width, limit, tar: Builder::new(Vec::new()), packs: 0, before: 0, shards: Vec::new() }
    }

    fn append(&mut self, name: &str, bytes: &[u8]) {
        let mut header = Header::new_ustar();
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        self.tar.append_data(&mut header, name, bytes).expect("a short name, and memory to write to");
    }

    fn end_tar(&mut self) -> Option<NewFile> {
        if self.packs == 0 {
            return None;
        }
        let tar = std::mem::replace(&mut self.tar, Builder::new(Vec::new()));
        let bytes = tar.into_inner().expect("memory to write to");
        let (path, packs) = (format!("{}-{:06}.tar", self.split.name(), self.shards.len()), std::mem::take(&mut self.packs));
        self.before += packs;
        self.shards.push(Shard { file: path.clone(), packs, bytes: bytes.len() as u64, digest: Digest::of(&bytes) });
        Some(NewFile { path, bytes: bytes.into(), packs })
    }
}

impl PackWriter for TarWriter {
    fn push(&mut self, pack: &Pack) -> Option<NewFile> {
        let tokens = npy(&pack.tokens, self.width);
        let tables = serde_json::to_vec(&Tables { segments: &pack.segments, documents: &pack.documents }).expect("plain data in memory");
        let added = member_bytes(&tokens) + member_bytes(&tables) + END_BLOCKS * BLOCK_BYTES;
        let ended = if self.tar.get_ref().len() as u64 + added > self.limit { self.end_tar() } else { None };
        let key = format!("{}-{:08}", self.split.name(), self.before + self.packs);
        self.append(&format!("{key}.json"), &tables);
        self.append(&format!("{key}.tokens.npy"), &tokens);
        self.packs += 1;
        ended
    }

    fn finish(mut self: Box<Self>) -> (Option<NewFile>, NewFile) {
        let last = self.end_tar();
        let index = record_bytes(&Index { split: self.split, packs: self.before, shards: self.shards });
        (last, NewFile { path: format!("{}-index.json", self.split.name()), bytes: index.into(), packs: 0 })
    }
}

/// Returns the bytes that a member takes in a tar.
const fn member_bytes(content: &[u8]) -> u64 {
    BLOCK_BYTES + (content.len() as u64).next_multiple_of(BLOCK_BYTES)
}

/// Encodes `tokens` as a NumPy file of ids of `width`, shape `[n]`, byte for byte as NumPy does.
fn npy(tokens: &[u32], width: TokenWidth) -> Vec<u8> {
    let id = match width {
        TokenWidth::U16 => "<u2",
        TokenWidth::U32 => "<u4",
    };
    let mut header = format!("{{'descr': '{id}', 'fortran_order': False, 'shape': ({},), }}", tokens.len());
    // After the magic come two bytes of length; the header ends with a newline.
    let before = NPY_MAGIC.len() + 2;
    let filled = (before + header.len() + 1).next_multiple_of(NPY_ALIGNMENT) - before - 1;
    header.extend(std::iter::repeat_n(' ', filled - header.len()));
    header.push('\n');
    let mut file = [NPY_MAGIC, &(header.len() as u16).to_le_bytes(), header.as_bytes()].concat();
    append_ids(tokens, width, &mut file);
    file
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::super::tests::{hole, pack};
    use super::*;

    fn written(packs: &[Pack], width: TokenWidth, limit: u64) -> (Vec<NewFile>, serde_json::Value) {
        let mut writer = Box::new(TarWriter::new(Split::HeldOut, width, limit));
        let mut files: Vec<NewFile> = packs.iter().filter_map(|pack| writer.push(pack)).collect();
        let (last, index) = writer.finish();
        assert_eq!(index.path, "held_out-index.json");
        files.extend(last);
        (files, serde_json::from_slice(&index.bytes).expect("JSON"))
    }

    /// Returns name and contents of a member, with time, owner and mode of its header.
    type Member = (String, Vec<u8>, (u64, u64, u32));

    fn members(file: &NewFile) -> Vec<Member> {
        let mut archive = tar::Archive::new(&*file.bytes);
        let member = |entry: std::io::Result<tar::Entry<'_, &[u8]>>| {
            let mut entry = entry.expect("a member");
            let name = entry.path().expect("a name").to_string_lossy().into_owned();
            let header = entry.header();
            let facts = (header.mtime().expect("a time"), header.uid().expect("an owner"), header.mode().expect("a mode"));
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).expect("in memory");
            (name, bytes, facts)
        };
        archive.entries().expect("a tar").map(member).collect()
    }

    #[test]
    fn a_pack_is_an_array_and_its_tables() {
        let (files, index) = written(&[pack(3), hole()], TokenWidth::U16, 1 << 20);
        let members = members(&files[0]);
        let names: Vec<&str> = members.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(
            names,
            ["held_out-00000000.json", "held_out-00000000.tokens.npy", "held_out-00000001.json", "held_out-00000001.tokens.npy"]
        );
        assert!(members.iter().all(|(.., facts)| *facts == (0, 0, 0o644)));
        let tables = r#"{"segments":[{"start":0,"len":1,"modality":0,"role":0,"loss_weight":0.5},{"start":1,"len":4,"modality":1,"role":5,"loss_weight":1.0},{"start":5,"len":1,"modality":0,"role":0,"loss_weight":0.0}],"documents":[{"document_id":"00000000000000000000000000000003","sample_id":"00000000000000000000000000000004","task":"caption","start":0,"len":6}]}"#;
        assert_eq!(std::str::from_utf8(&members[0].1), Ok(tables));
        assert_eq!(std::str::from_utf8(&members[2].1), Ok(r#"{"segments":[],"documents":[]}"#));
        assert_eq!(members[1].1[128..], [3, 0, 4, 0, 5, 0, 6, 0, 7, 0, 8, 0, 1, 0, 1, 0]);
        let shard = serde_json::json!({"file": "held_out-000000.tar", "packs": 2, "bytes": files[0].bytes.len(), "digest": Digest::of(&files[0].bytes)});
        assert_eq!(index, serde_json::json!({"split": "held_out", "packs": 2, "shards": [shard]}));
    }

    #[test]
    fn an_array_has_the_head_that_numpy_writes() {
        let file = npy(&[1, 70_000], TokenWidth::U32);
        let head = "\u{1}\0v\0{'descr': '<u4', 'fortran_order': False, 'shape': (2,), }";
        assert_eq!(file[..6], *b"\x93NUMPY");
        assert!(file[6..].starts_with(head.as_bytes()) && file[127] == b'\n' && file[6 + head.len()..127].iter().all(|byte| *byte == b' '));
        assert_eq!(file[128..], [1, 0, 0, 0, 0x70, 0x11, 1, 0]);
    }

    #[test]
    fn a_tar_ends_before_it_is_too_large_and_keys_go_on() {
        let packs: Vec<Pack> = (0..5).map(pack).collect();
        let two = written(&packs[..2], TokenWidth::U16, 1 << 20).0[0].bytes.len() as u64;
        for (limit, expected) in [(two, vec![2, 2, 1]), (two - 1, vec![1; 5]), (1, vec![1; 5])] {
            let (files, index) = written(&packs, TokenWidth::U16, limit);
            assert_eq!(files.iter().map(|file| file.packs).collect::<Vec<_>>(), expected, "limit {limit}");
            assert!(limit == 1 || files.iter().all(|file| file.bytes.len() as u64 <= limit));
            assert_eq!(index["packs"], 5);
        }
        let (files, _) = written(&packs, TokenWidth::U16, two);
        assert_eq!(files[2].path, "held_out-000002.tar");
        assert_eq!(members(&files[2])[0].0, "held_out-00000004.json");
    }
}
