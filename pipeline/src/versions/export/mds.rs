//! MDS, version 2: a folder of shards with an `index.json` for each split, byte for byte as the library's own writer makes them.
//!
//! # Source
//! `MDSWriter` and `MDSReader` of MosaicML Streaming 0.13, <https://github.com/mosaicml/streaming>.

use std::collections::BTreeMap;
use std::io::{self, Write};

use cm3flow_schemas::document::Segment;
use cm3flow_schemas::pack::Pack;
use cm3flow_schemas::sample::Split;
use cm3flow_schemas::vocabulary::TokenWidth;
use serde::Serialize;
use serde_json::ser::Formatter;
use twox_hash::XxHash64;

use super::{NewFile, PackWriter, append_ids};

/// Columns sorted by name, as the format requires.
const COLUMNS: [&str; 4] = ["documents", "segment_weights", "segments", "tokens"];
/// Number of values in a row of `segments`.
const SEGMENT_FIELDS: usize = 4;
/// Name of the shards' hash.
const HASH: &str = "xxh64";
/// Version of the format.
const VERSION: u32 = 2;
/// Bytes of a sample count, a size or an offset.
const U32_BYTES: usize = 4;

/// Writes the packs of one split.
pub(super) struct MdsWriter {
    split: Split,
    width: TokenWidth,
    columns: Columns,
    limit: u64,
    /// Settings as every shard holds them.
    settings: Vec<u8>,
    /// Samples of the current shard.
    samples: Vec<u8>,
    /// End offsets of these samples.
    ends: Vec<u32>,
    shards: Vec<Shard>,
}

/// Names and encodings of the columns.
#[derive(Debug, Clone, Serialize)]
struct Columns {
    column_encodings: [String; 4],
    column_names: [&'static str; 4],
    /// Bytes of a column of constant size.
    column_sizes: [Option<usize>; 4],
}

/// Settings in the header of a shard. Here and below, names stand in alphabetical order, as in files of the library.
#[derive(Debug, Serialize)]
struct Settings<'a> {
    #[serde(flatten)]
    columns: &'a Columns,
    compression: (),
    format: &'static str,
    hashes: [&'static str; 1],
    size_limit: u64,
    version: u32,
}

/// Entry of a shard in the index.
#[derive(Debug, Serialize)]
struct Shard {
    #[serde(flatten)]
    columns: Columns,
    compression: (),
    format: &'static str,
    hashes: [&'static str; 1],
    raw_data: RawData,
    samples: usize,
    size_limit: u64,
    version: u32,
    zip_data: (),
}

#[derive(Debug, Serialize)]
struct RawData {
    basename: String,
    bytes: usize,
    hashes: BTreeMap<&'static str, String>,
}

#[derive(Debug, Serialize)]
struct Index {
    shards: Vec<Shard>,
    version: u32,
}

impl MdsWriter {
    /// Makes a writer of packs with `seq_len` ids of `width`, into shards of at most `limit` bytes.
    pub(super) fn new(split: Split, seq_len: usize, width: TokenWidth, limit: u64) -> Self {
        let (id, id_bytes) = match width {
            TokenWidth::U16 => ("uint16", 2),
            TokenWidth::U32 => ("uint32", 4),
        };
        let columns = Columns {
            column_encodings: ["json".into(), "ndarray:float32".into(), "ndarray:uint32".into(), format!("ndarray:{id}:{seq_len}")],
            column_names: COLUMNS,
            column_sizes: [None, None, None, Some(seq_len * id_bytes)],
        };
        let settings =
            json(&Settings { columns: &columns, compression: (), format: "mds", hashes: [HASH], size_limit: limit, version: VERSION });
        Self { split, width, columns, limit, settings, samples: Vec::new(), ends: Vec::new(), shards: Vec::new() }
    }

    /// Returns the number of bytes before the first sample of a shard with `samples` samples.
    fn head_bytes(&self, samples: usize) -> usize {
        U32_BYTES * (samples + 2) + self.settings.len()
    }

    fn end_shard(&mut self) -> Option<NewFile> {
        let ends = std::mem::take(&mut self.ends);
        let samples = std::mem::take(&mut self.samples);
        if ends.is_empty() {
            return None;
        }
        let head = self.head_bytes(ends.len());
        let mut bytes = Vec::with_capacity(head + samples.len());
        append(&mut bytes, ends.len());
        std::iter::once(0).chain(ends.iter().copied()).for_each(|end| append(&mut bytes, head + end as usize));
        bytes.extend_from_slice(&self.settings);
        bytes.extend_from_slice(&samples);
        let basename = format!("shard.{:05}.mds", self.shards.len());
        let path = format!("{}/{basename}", self.split.name());
        let hash = format!("{:016x}", XxHash64::oneshot(0, &bytes));
        self.shards.push(Shard {
            columns: self.columns.clone(),
            compression: (),
            format: "mds",
            hashes: [HASH],
            raw_data: RawData { basename, bytes: bytes.len(), hashes: BTreeMap::from([(HASH, hash)]) },
            samples: ends.len(),
            size_limit: self.limit,
            version: VERSION,
            zip_data: (),
        });
        Some(NewFile { path, bytes: bytes.into(), packs: ends.len() as u64 })
    }
}

impl PackWriter for MdsWriter {
    fn push(&mut self, pack: &Pack) -> Option<NewFile> {
        let sample = sample(pack, self.width);
        let bytes = self.head_bytes(self.ends.len() + 1) + self.samples.len() + sample.len();
        let ended = if bytes as u64 > self.limit { self.end_shard() } else { None };
        self.samples.extend_from_slice(&sample);
        self.ends.push(u32::try_from(self.samples.len()).expect("a shard has 1 GiB and one pack at most"));
        ended
    }

    fn finish(mut self: Box<Self>) -> (Option<NewFile>, NewFile) {
        let last = self.end_shard();
        let index = json(&Index { shards: self.shards, version: VERSION });
        (last, NewFile { path: format!("{}/index.json", self.split.name()), bytes: index.into(), packs: 0 })
    }
}

/// Encodes a pack as a sample: sizes of the columns without a fixed one, then all columns.
fn sample(pack: &Pack, width: TokenWidth) -> Vec<u8> {
    let documents = json(&pack.documents);
    let weights = array(&[pack.segments.len()], pack.segments.iter().map(|segment| segment.loss_weight.to_le_bytes()));
    let fields = |segment: &Segment| [segment.start, segment.len, u8::from(segment.modality).into(), u8::from(segment.role).into()];
    let segments =
        array(&[pack.segments.len(), SEGMENT_FIELDS], pack.segments.iter().flat_map(|segment| fields(segment).map(u32::to_le_bytes)));
    let variable = [documents, weights, segments];
    let mut sample = Vec::new();
    variable.iter().for_each(|column| append(&mut sample, column.len()));
    variable.iter().for_each(|column| sample.extend_from_slice(column));
    append_ids(&pack.tokens, width, &mut sample);
    sample
}

/// Encodes an array of a fixed type and any shape: one byte for the number of axes and the width of lengths, the lengths, the values.
fn array(shape: &[usize], values: impl Iterator<Item = [u8; 4]>) -> Vec<u8> {
    let longest = shape.iter().copied().max().unwrap_or_default();
    let (code, length_bytes) = match longest {
        0..=0xff => (0, 1),
        0x100..=0xffff => (1, 2),
        _ => (2, 4),
    };
    let mut bytes = vec![(shape.len() as u8) << 2 | code];
    shape.iter().for_each(|&length| bytes.extend_from_slice(&length.to_le_bytes()[..length_bytes]));
    values.for_each(|value| bytes.extend_from_slice(&value));
    bytes
}

/// Appends a number as u32: all numbers here count within a shard, so they are below 4 GiB.
fn append(bytes: &mut Vec<u8>, number: usize) {
    bytes.extend_from_slice(&(number as u32).to_le_bytes());
}

/// Serializes JSON as Python does, with a space after each comma and colon.
fn json(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = Vec::new();
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, Spaced)).expect("plain data in memory");
    bytes
}

struct Spaced;

impl Spaced {
    fn comma<W: ?Sized + Write>(writer: &mut W, is_first: bool) -> io::Result<()> {
        if is_first { Ok(()) } else { writer.write_all(b", ") }
    }
}

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, is_first: bool) -> io::Result<()> {
        Self::comma(writer, is_first)
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, is_first: bool) -> io::Result<()> {
        Self::comma(writer, is_first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{hole, pack};
    use super::*;

    const SEQ_LEN: usize = 8;

    fn written(packs: &[Pack], width: TokenWidth, limit: u64) -> (Vec<NewFile>, serde_json::Value) {
        let mut writer = Box::new(MdsWriter::new(Split::Train, SEQ_LEN, width, limit));
        let mut files: Vec<NewFile> = packs.iter().filter_map(|pack| writer.push(pack)).collect();
        let (last, index) = writer.finish();
        assert_eq!(index.path, "train/index.json");
        files.extend(last);
        (files, serde_json::from_slice(&index.bytes).expect("JSON"))
    }

    #[test]
    fn a_sample_holds_sizes_and_then_columns_by_name() {
        let found = sample(&pack(3), TokenWidth::U16);
        let documents = br#"[{"document_id": "00000000000000000000000000000003", "sample_id": "00000000000000000000000000000004", "task": "caption", "start": 0, "len": 6}]"#;
        let number = |number: u32| number.to_le_bytes();
        let mut expected = [number(documents.len() as u32), number(2 + 3 * 4), number(3 + 3 * 16)].concat();
        expected.extend_from_slice(documents);
        // One axis of length 3, lengths in a byte; two axes of lengths 3 and 4.
        expected.extend_from_slice(&[1 << 2, 3]);
        [0.5_f32, 1.0, 0.0].iter().for_each(|weight| expected.extend_from_slice(&weight.to_le_bytes()));
        expected.extend_from_slice(&[2 << 2, 3, 4]);
        [0, 1, 0, 0, 1, 4, 1, 5, 5, 1, 0, 0].iter().for_each(|field| expected.extend_from_slice(&number(*field)));
        [3_u16, 4, 5, 6, 7, 8, 1, 1].iter().for_each(|id| expected.extend_from_slice(&id.to_le_bytes()));
        assert_eq!(found, expected);
        assert_eq!(sample(&pack(3), TokenWidth::U32).len(), expected.len() + SEQ_LEN * 2, "wide ids take two bytes more");
    }

    #[test]
    fn shards_have_offsets_settings_and_an_entry_in_the_index() {
        let packs = [pack(1), hole(), pack(70_000)];
        let (files, index) = written(&packs, TokenWidth::U32, 1 << 20);
        assert_eq!(files.len(), 1);
        let bytes = &files[0].bytes;
        let number = |place: usize| u32::from_le_bytes(bytes[place * 4..][..4].try_into().expect("four bytes")) as usize;
        assert_eq!((number(0), files[0].packs), (3, 3));
        let offsets: Vec<usize> = (1..5).map(number).collect();
        assert_eq!(offsets[3], bytes.len());
        for (pack, range) in packs.iter().zip(offsets.windows(2)) {
            assert_eq!(bytes[range[0]..range[1]], sample(pack, TokenWidth::U32));
        }
        let settings = r#"{"column_encodings": ["json", "ndarray:float32", "ndarray:uint32", "ndarray:uint32:8"], "column_names": ["documents", "segment_weights", "segments", "tokens"], "column_sizes": [null, null, null, 32], "compression": null, "format": "mds", "hashes": ["xxh64"], "size_limit": 1048576, "version": 2}"#;
        assert_eq!(std::str::from_utf8(&bytes[20..offsets[0]]), Ok(settings));
        let shard = &index["shards"][0];
        assert_eq!((shard["samples"].as_u64(), &shard["zip_data"]), (Some(3), &serde_json::Value::Null));
        let data = serde_json::json!({"basename": "shard.00000.mds", "bytes": bytes.len(), "hashes": {"xxh64": format!("{:016x}", XxHash64::oneshot(0, bytes))}});
        assert_eq!((&shard["raw_data"], index["version"].as_u64()), (&data, Some(2)));
    }

    #[test]
    fn a_shard_ends_before_it_is_too_large_and_holds_one_pack_at_least() {
        let packs: Vec<Pack> = (0..7).map(pack).collect();
        let one = written(&packs[..1], TokenWidth::U16, 1 << 20).0[0].bytes.len() as u64;
        // The header holds the limit as text, so its digits count: three instead of seven.
        let two = written(&packs[..2], TokenWidth::U16, 1 << 20).0[0].bytes.len() as u64 - 4;
        for (limit, expected) in [(two, vec![2, 2, 2, 1]), (two - 1, vec![1; 7]), (one / 2, vec![1; 7]), (1 << 20, vec![7])] {
            let (files, _) = written(&packs, TokenWidth::U16, limit);
            assert_eq!(files.iter().map(|file| file.packs).collect::<Vec<_>>(), expected, "limit {limit}");
            assert!(limit < one || files.iter().all(|file| file.bytes.len() as u64 <= limit));
        }
        let (files, index) = written(&packs, TokenWidth::U16, two);
        let names: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(names, ["train/shard.00000.mds", "train/shard.00001.mds", "train/shard.00002.mds", "train/shard.00003.mds"]);
        assert_eq!(index["shards"].as_array().map(Vec::len), Some(4));
    }

    #[test]
    fn lengths_of_axes_take_as_few_bytes_as_the_longest_needs() {
        let none = || std::iter::empty();
        assert_eq!(array(&[0, 4], none()), [8, 0, 4]);
        assert_eq!(array(&[255], none()), [4, 255]);
        assert_eq!(array(&[256, 4], none()), [9, 0, 1, 4, 0]);
        assert_eq!(array(&[65_536], none()), [6, 0, 0, 1, 0]);
    }
}
