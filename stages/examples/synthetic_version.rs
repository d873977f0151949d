//! Writes a version of packs with drawn tokens, for benchmarks of readers: `synthetic_version FOLDER PACKS SEQ_LEN`. FOLDER is a store and
//! gets `versions/synthetic/1.json`, and the same tokens as `tokens.u16` (row-major). It takes seconds where a whole run would take hours.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use cm3flow_schemas::document::{Modality, Role, Segment};
use cm3flow_schemas::ledger::{DocumentLedger, SampleLedger};
use cm3flow_schemas::pack::{Pack, PackStatistics, PlacedDocument, ShardEntry};
use cm3flow_schemas::random::Draws;
use cm3flow_schemas::sample::Split;
use cm3flow_schemas::unit::NumericsClass;
use cm3flow_schemas::version::VersionManifest;
use cm3flow_schemas::vocabulary::{Vocabulary, VocabularySizes};
use cm3flow_schemas::window::{WindowKeys, WindowRecord};
use cm3flow_schemas::{Digest, DocumentId, SampleId, columns, rows};
use cm3flow_stages::shard::{ShardConfig, write};

/// Number of documents in a pack: each a caption and an image.
const DOCUMENTS: u32 = 4;
/// Number of packs in a window.
const WINDOW_PACKS: u64 = 10_000;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, packs, seq_len] = &arguments[..] else { panic!("usage: synthetic_version FOLDER PACKS SEQ_LEN") };
    let (packs, seq_len) = (packs.parse().expect("a number of packs"), seq_len.parse().expect("a number of tokens"));
    write_version(Path::new(folder), packs, seq_len);
}

fn write_version(folder: &Path, packs: u64, seq_len: u32) {
    let sizes = VocabularySizes { text: 50_000, image: 8_192, sentinels: 256, total: None };
    let vocabulary = Vocabulary::try_new("synthetic", &sizes).expect("sizes that fit 16 bits");
    let put = |path: String, bytes: &[u8]| {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().expect("it has a folder")).expect("a folder that can be written");
        fs::write(path, bytes).expect("a folder that can be written");
    };
    let mut plain = Vec::new();
    let mut windows = Vec::new();
    for (window, first) in (0_u64..packs).step_by(WINDOW_PACKS as usize).enumerate() {
        let made: Vec<Pack> = (first..packs.min(first + WINDOW_PACKS)).map(|number| pack(number, seq_len, &vocabulary)).collect();
        plain.extend(made.iter().flat_map(|pack| &pack.tokens).flat_map(|id| (*id as u16).to_le_bytes()));
        let schema = columns::pack(seq_len as usize, vocabulary.width());
        let batch = rows::write(&schema, &made).expect("packs fit their schema");
        let shards = write(&ShardConfig::default(), Split::Train, &schema, &[batch], u64::from(seq_len) * 2).expect("one schema");
        shards.iter().for_each(|shard| put(format!("shards/{}.arrow", shard.entry.digest), &shard.bytes));
        let record = window_record(window as u32, shards.into_iter().map(|shard| shard.entry).collect());
        let bytes = serde_json::to_vec(&record).expect("records are JSON");
        let digest = Digest::of(&bytes);
        put(format!("windows/synthetic/1/{window}/{digest}.json"), &bytes);
        windows.push(digest);
    }
    let statistics = PackStatistics { packs, capacity: packs * u64::from(seq_len), ..PackStatistics::default() };
    let manifest = manifest(vocabulary, seq_len, windows, statistics);
    put("versions/synthetic/1.json".into(), &serde_json::to_vec(&manifest).expect("manifests are JSON"));
    put("tokens.u16".into(), &plain);
}

fn pack(number: u64, seq_len: u32, vocabulary: &Vocabulary) -> Pack {
    let mut draws = Draws::new(1, "synthetic", &number.to_le_bytes());
    let len = seq_len / DOCUMENTS;
    let tokens = (0..seq_len).map(|_| draws.below(u64::from(vocabulary.size)) as u32).collect();
    let sample = |document: u32| SampleId([number.to_le_bytes(), u64::from(document).to_le_bytes()].concat().try_into().expect("16 bytes"));
    let segments = |document: u32| {
        let start = document * len;
        let segment = |start, len, modality, role| Segment { start, len, modality, role, loss_weight: 1.0 };
        [
            segment(start, 1, Modality::Control, Role::Boundary),
            segment(start + 1, len / 8, Modality::Text, Role::Target),
            segment(start + 1 + len / 8, 1, Modality::Control, Role::Break),
            segment(start + 2 + len / 8, len - 2 - len / 8, Modality::Image, Role::Target),
        ]
    };
    let placed = |document: u32| PlacedDocument {
        document_id: DocumentId::of(sample(document), "pair", 0),
        sample_id: sample(document),
        task: "pair".into(),
        start: document * len,
        len,
    };
    Pack { tokens, segments: (0..DOCUMENTS).flat_map(segments).collect(), documents: (0..DOCUMENTS).map(placed).collect() }
}

fn window_record(window: u32, shards: Vec<ShardEntry>) -> WindowRecord {
    let none = Digest::of(b"");
    WindowRecord {
        format_version: 1,
        window,
        units: Vec::new(),
        keys: WindowKeys { compose: Vec::new(), pack: [none, none], prepare: Vec::new(), settle: [none] },
        quarantined: Vec::new(),
        blocklist: None,
        shards,
        samples: SampleLedger::default(),
        documents: DocumentLedger::default(),
        statistics: BTreeMap::new(),
        licenses: BTreeMap::new(),
    }
}

fn manifest(vocabulary: Vocabulary, seq_len: u32, windows: Vec<Digest>, statistics: PackStatistics) -> VersionManifest {
    let none = Digest::of(b"");
    VersionManifest {
        format_version: 1,
        dataset: "synthetic".into(),
        version: 1,
        base: None,
        plan: none,
        windows,
        shard_table: none,
        lineage: none,
        blocklist: None,
        seq_len,
        vocabulary,
        preparation: None,
        config: serde_json::Value::Null,
        seed: 1,
        numerics: NumericsClass {
            device: "none".into(),
            dtype: "none".into(),
            batch_size: 1,
            libtorch: "none".into(),
            threads: 1,
            cpu_capability: "none".into(),
        },
        code_changes: BTreeMap::new(),
        artefacts: BTreeMap::new(),
        fitted: BTreeMap::new(),
        samples: SampleLedger::default(),
        documents: DocumentLedger::default(),
        statistics: BTreeMap::from([(Split::Train.name().to_owned(), statistics)]),
        licenses: BTreeMap::new(),
    }
}
