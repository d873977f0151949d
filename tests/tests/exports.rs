//! `versions export`: both formats have exactly the packs of the version, in order, and a truncated export never looks whole.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use clap::Parser;
use cm3flow::catalog::Catalog;
use cm3flow::command::{Cli, execute};
use cm3flow::versions::export::{Export, ExportFormat, ExportOptions, Exporter};
use cm3flow::versions::withdraw::{Near, Request, withdraw};
use cm3flow::{PipelineError, Result, Store};
use cm3flow_schemas::columns;
use cm3flow_schemas::document::Segment;
use cm3flow_schemas::pack::{Pack, ShardEntry};
use cm3flow_schemas::sample::Split;
use cm3flow_schemas::vocabulary::TokenWidth;
use cm3flow_stages::StageError;
use cm3flow_stages::read::{BlockReader, read_packs};
use cm3flow_tests::fault::{Fault, Faults};
use cm3flow_tests::given::{GIVEN, rows};
use cm3flow_tests::s3::{S3Options, S3Service};
use cm3flow_tests::small::store_over;
use cm3flow_tests::trial::{Trial, source};
use futures::TryStreamExt;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use serde_json::Value;

const FORMATS: [ExportFormat; 2] = [ExportFormat::Mds, ExportFormat::Webdataset];

/// Size of a file in bytes; it is small, so that there are several files.
const FILE_BYTES: u64 = 12_000;

fn sources_in(folder: &Path) -> String {
    source("list", "jsonl", &folder.join("list.jsonl"), 10)
}

/// Publishes a version of 60 samples in several windows, with additional `settings`.
async fn published(folder: &Path, settings: &str) -> Trial {
    std::fs::write(folder.join("list.jsonl"), rows(0..60)).expect("a temporary file");
    let trial = Trial::try_new(&format!("{GIVEN}{settings}"), &sources_in(folder)).expect("a good configuration");
    trial.run().await.expect("the run ends");
    trial
}

fn memory() -> Store {
    Store::open("memory://", Path::new("")).expect("memory")
}

async fn exported(trial: &Trial, version: u32, options: &ExportOptions, target: &Store) -> Result<Export> {
    Exporter::open(&trial.store, "test", &version.into(), options).await?.write(target).await
}

fn options(format: ExportFormat) -> ExportOptions {
    ExportOptions { format, split: None, variant: 0, max_file_bytes: FILE_BYTES }
}

/// Returns all objects of a store, by path.
async fn objects(store: &Store) -> BTreeMap<String, Bytes> {
    let listed: Vec<_> = store.entries("").try_collect().await.expect("a listing");
    let mut objects = BTreeMap::new();
    for object in listed {
        let path = object.location.to_string();
        let bytes = store.get(&path).await.expect("a store").expect("listed");
        objects.insert(path, bytes);
    }
    objects
}

/// Returns the packs of a version from its shards.
async fn packs(trial: &Trial, version: u32, split: Split) -> Vec<Pack> {
    packs_of_variant(trial, version, split, 0).await
}

async fn packs_of_variant(trial: &Trial, version: u32, split: Split, variant: u16) -> Vec<Pack> {
    let catalog = Catalog::new(trial.store.clone(), "test");
    let manifest = catalog.version(version).await.expect("published");
    let windows = catalog.windows_of(&manifest).await.expect("whole");
    let is_wanted = |shard: &ShardEntry| shard.split == split && shard.variant == variant;
    let shards: Vec<_> = windows.into_iter().flat_map(|window| window.shards).filter(is_wanted).collect();
    assert_eq!(manifest.vocabulary.width(), TokenWidth::U16, "as the readers below expect");
    let mut blocks = BlockReader::new(trial.store.objects(), columns::pack(manifest.seq_len as usize, TokenWidth::U16));
    read_packs(&mut blocks, &shards, usize::MAX).await.expect("whole")
}

fn number(bytes: &[u8], place: usize) -> usize {
    u32::from_le_bytes(bytes[place..place + 4].try_into().expect("four bytes")) as usize
}

fn ids(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(2).map(|id| u32::from(u16::from_le_bytes([id[0], id[1]]))).collect()
}

/// Reads the packs of an MDS export, by the specification of the format.
fn read_mds(files: &BTreeMap<String, Bytes>, split: Split) -> Vec<Pack> {
    let index: Value = serde_json::from_slice(&files[&format!("{}/index.json", split.name())]).expect("JSON");
    let mut packs = Vec::new();
    for shard in index["shards"].as_array().expect("shards") {
        let file = &files[&format!("{}/{}", split.name(), shard["raw_data"]["basename"].as_str().expect("a name"))];
        assert_eq!(shard["raw_data"]["bytes"].as_u64(), Some(file.len() as u64));
        assert_eq!(shard["samples"].as_u64(), Some(number(file, 0) as u64));
        for sample in 0..number(file, 0) {
            let sample = &file[number(file, 4 + 4 * sample)..number(file, 8 + 4 * sample)];
            let [documents, weights, segments] = [0, 4, 8].map(|place| number(sample, place));
            let (documents, rest) = sample[12..].split_at(documents);
            let (weights, rest) = rest.split_at(weights);
            let (segments, tokens) = rest.split_at(segments);
            // The shape takes two and three bytes, since all these packs have fewer than 256 segments.
            let weights = weights[2..].chunks_exact(4).map(|weight| f32::from_le_bytes(weight.try_into().expect("four bytes")));
            let segment = |(fields, loss_weight): (&[u8], f32)| Segment {
                start: number(fields, 0) as u32,
                len: number(fields, 4) as u32,
                modality: (number(fields, 8) as u8).try_into().expect("a modality"),
                role: (number(fields, 12) as u8).try_into().expect("a role"),
                loss_weight,
            };
            packs.push(Pack {
                tokens: ids(tokens),
                segments: segments[3..].chunks_exact(16).zip(weights).map(segment).collect(),
                documents: serde_json::from_slice(documents).expect("documents"),
            });
        }
    }
    packs
}

/// Reads the packs of a WebDataset export, by the specification of the format.
fn read_webdataset(files: &BTreeMap<String, Bytes>, split: Split) -> Vec<Pack> {
    let index: Value = serde_json::from_slice(&files[&format!("{}-index.json", split.name())]).expect("JSON");
    let mut members = Vec::new();
    for shard in index["shards"].as_array().expect("shards") {
        let mut archive = tar::Archive::new(&*files[shard["file"].as_str().expect("a name")]);
        for member in archive.entries().expect("a tar") {
            let mut member = member.expect("a member");
            let name = member.path().expect("a name").to_string_lossy().into_owned();
            let mut bytes = Vec::new();
            member.read_to_end(&mut bytes).expect("in memory");
            members.push((name, bytes));
        }
    }
    let pack = |(number, pair): (usize, &[(String, Vec<u8>)])| {
        let key = format!("{}-{number:08}", split.name());
        assert_eq!([&pair[0].0, &pair[1].0], [&format!("{key}.json"), &format!("{key}.tokens.npy")]);
        let mut tables: Value = serde_json::from_slice(&pair[0].1).expect("JSON");
        Pack {
            tokens: ids(&pair[1].1[128..]),
            segments: serde_json::from_value(tables["segments"].take()).expect("segments"),
            documents: serde_json::from_value(tables["documents"].take()).expect("documents"),
        }
    };
    assert_eq!(index["packs"].as_u64(), Some(members.len() as u64 / 2));
    members.chunks(2).enumerate().map(pack).collect()
}

fn read(files: &BTreeMap<String, Bytes>, format: ExportFormat, split: Split) -> Vec<Pack> {
    match format {
        ExportFormat::Mds => read_mds(files, split),
        ExportFormat::Webdataset => read_webdataset(files, split),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_formats_hold_all_of_every_pack_in_the_order_of_the_version() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let trial = published(folder.path(), "").await;
    for format in FORMATS {
        let target = memory();
        let export = exported(&trial, 1, &options(format), &target).await.expect("a good version");
        let files = objects(&target).await;
        for (split, counted) in Split::ALL.into_iter().zip(&export.splits) {
            let expected = packs(&trial, 1, split).await;
            assert_eq!((counted.split, counted.packs), (split, expected.len() as u64));
            assert_eq!(read(&files, format, split), expected, "{format:?} {}", split.name());
        }
        assert!(export.splits[0].files > 2 && export.packs == export.splits.iter().map(|split| split.packs).sum::<u64>(), "{export:?}");
        let listed: BTreeMap<&str, u64> = export.files.iter().map(|file| (file.path.as_str(), file.bytes)).collect();
        assert_eq!(listed, files.iter().map(|(path, bytes)| (path.as_str(), bytes.len() as u64)).collect());
        assert_eq!(Some(&files["version.json"]), trial.store.get("versions/test/1.json").await.expect("memory").as_ref());
        let is_of_packs = |path: &&String| path.ends_with(".mds") || path.ends_with(".tar");
        assert!(files.keys().filter(is_of_packs).all(|path| files[path].len() as u64 <= FILE_BYTES));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_has_the_same_bytes_again_wherever_it_goes() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let trial = published(folder.path(), "").await;
    let service = S3Service::start(Arc::new(InMemory::new()), 0, S3Options::default()).await.expect("loopback");
    let remote =
        trial.changed(&format!("{}{GIVEN}", service.section()), &sources_in(folder.path())).expect("a good configuration").config.store;
    for format in FORMATS {
        let name = format.name();
        let first = memory();
        exported(&trial, 1, &options(format), &first).await.expect("a good version");
        let expected = objects(&first).await;
        for address in [folder.path().join(name).display().to_string(), format!("s3://bucket/exports/{name}")] {
            let target = Store::open_with(&address, Path::new(""), &remote).expect("a store");
            exported(&trial, 1, &options(format), &target).await.expect("a good version");
            assert!(objects(&target).await == expected, "{address}");
        }
        let target = memory();
        let one = ExportOptions { split: Some(Split::HeldOut), ..options(format) };
        let export = exported(&trial, 1, &one, &target).await.expect("a good version");
        assert_eq!(export.splits.len(), 1);
        let is_wanted = |path: &String| path.starts_with("held_out") || path == "version.json";
        let wanted: BTreeMap<_, _> = expected.into_iter().filter(|(path, _)| is_wanted(path)).collect();
        assert!(objects(&target).await == wanted, "one split alone has the files that it has beside the other");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_variant_of_the_train_documents_is_exported() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let trial = published(folder.path(), "[mask]\nvariants = 2\n").await;
    let held_out = packs(&trial, 1, Split::HeldOut).await;
    let train = [packs(&trial, 1, Split::Train).await, packs_of_variant(&trial, 1, Split::Train, 1).await];
    assert_ne!(train[0], train[1]);
    for format in FORMATS {
        for (variant, train) in (0..).zip(&train) {
            let target = memory();
            exported(&trial, 1, &ExportOptions { variant, ..options(format) }, &target).await.expect("a good version");
            let files = objects(&target).await;
            assert!(
                read(&files, format, Split::Train) == *train && read(&files, format, Split::HeldOut) == held_out,
                "{format:?} {variant}"
            );
        }
    }
    let target = memory();
    let error = exported(&trial, 1, &ExportOptions { variant: 2, ..options(FORMATS[0]) }, &target).await.expect_err("there are two");
    let expected = "version 1 has 2 variants of its train documents (mask.variants), numbered from 0: 2 is none of them";
    assert!(error.to_string() == expected && error.is_users_mistake() && objects(&target).await.is_empty(), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_is_cut_short_has_no_index_of_what_is_missing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let trial = published(folder.path(), "").await;
    for format in FORMATS {
        let whole = memory();
        let files = exported(&trial, 1, &options(format), &whole).await.expect("a good version").files.len();
        let whole = objects(&whole).await;
        // A listing comes first, then a create for each file.
        for request in 1..=files as u64 + 1 {
            let below: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
            let target = store_over(&below, &Faults::from(request, Fault::Deny), trial.config.store.clone()).expect("a store");
            let error = exported(&trial, 1, &options(format), &target).await.expect_err("the store denies");
            assert!(matches!(error, PipelineError::Store { .. }), "{error}");
            let there = Store::new(below, "below");
            let files = objects(&there).await;
            assert!(files.iter().all(|(path, bytes)| whole[path] == *bytes), "what is there is whole");
            for split in Split::ALL {
                if files.keys().any(|path| path.starts_with(split.name()) && path.ends_with("index.json")) {
                    assert_eq!(
                        read(&files, format, split),
                        packs(&trial, 1, split).await,
                        "an index means that all of its packs are there"
                    );
                }
            }
            if !files.is_empty() {
                let error = exported(&trial, 1, &options(format), &there).await.expect_err("something is there");
                assert!(matches!(&error, PipelineError::NotEmpty { address } if address == "below") && error.is_users_mistake(), "{error}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_withdrawn_sample_is_exported() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let trial = published(folder.path(), "").await;
    let before = packs(&trial, 1, Split::Train).await;
    // All samples of the first pack, so that only padding is left of it.
    let samples: BTreeSet<String> = before[0].documents.iter().map(|document| document.sample_id.to_string()).collect();
    let request =
        Request { samples: samples.iter().cloned().collect(), images: Vec::new(), keys: Vec::new(), near: Near::Off, dry_run: false };
    withdraw(&trial.job(), &request).await.expect("they are there");
    let after = packs(&trial, 2, Split::Train).await;
    assert!(after[0].segments.is_empty() && after[0].documents.is_empty() && after.len() == before.len());
    for format in FORMATS {
        let target = memory();
        exported(&trial, 2, &options(format), &target).await.expect("a good version");
        let files = objects(&target).await;
        assert_eq!(read(&files, format, Split::Train), after, "{format:?}");
        let holds = |bytes: &[u8], id: &str| bytes.windows(id.len()).any(|window| window == id.as_bytes());
        for (path, bytes) in &files {
            assert!(samples.iter().all(|id| !holds(bytes, id)), "{path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_version_is_not_exported() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let trial = published(folder.path(), "").await;
    let paths: Vec<String> = trial.objects().await.into_keys().collect();
    let of = |begin: &str, end: &str| paths.iter().find(|path| path.starts_with(begin) && path.ends_with(end)).expect("part of it").clone();
    for path in [of("shards/", ".arrow"), of("windows/", ".json"), of("versions/", "/1.json")] {
        let bytes = trial.store.get(&path).await.expect("memory").expect("there");
        let mut damaged = bytes.to_vec();
        // The newline of a record becomes a space.
        let place = if path.starts_with("shards/") { damaged.len() / 2 } else { damaged.len() - 1 };
        damaged[place] ^= 0x2a;
        trial.store.delete(&path).await.expect("memory");
        trial.store.create(&path, damaged).await.expect("memory");
        let target = memory();
        let error = exported(&trial, 1, &options(ExportFormat::Mds), &target).await.expect_err("it is damaged");
        let is_damage = matches!(error, PipelineError::Damaged { .. } | PipelineError::Stage(StageError::Block { .. }));
        assert!(is_damage, "{path}: {error}");
        assert!(objects(&target).await.keys().all(|path| !path.ends_with("index.json")));
        trial.store.delete(&path).await.expect("memory");
        trial.store.create(&path, bytes).await.expect("memory");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_says_what_is_wrong_with_its_arguments() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let trial = published(folder.path(), "").await;
    let store = folder.path().join("store");
    let local = Store::open(&store.display().to_string(), Path::new("")).expect("a folder");
    for (path, bytes) in objects(&trial.store).await {
        local.create(&path, bytes).await.expect("a folder");
    }
    let config = folder.path().join("test.toml");
    let text = format!("[dataset]\nname = \"test\"\nseed = 3\nstore = \"store\"\n{GIVEN}{}", sources_in(folder.path()));
    std::fs::write(&config, text).expect("a temporary file");
    let full = folder.path().join("full");
    std::fs::create_dir_all(full.join("something")).expect("a temporary folder");
    let command = |version: &str, rest: &[&str]| {
        let begin = ["cm3flow", "versions", "export", &*config.display().to_string(), version].map(str::to_owned);
        Cli::try_parse_from(begin.into_iter().chain(rest.iter().map(|&argument| argument.to_owned())))
    };
    let full = full.display().to_string();
    for (rest, problem) in [
        (vec!["--format", "parquet", "--to", "x"], "[possible values: mds, webdataset]"),
        (vec!["--format", "mds", "--to", "x", "--split", "test"], "\"test\" is no split; train and held_out are"),
        (vec!["--format", "mds", "--to", "x", "--max-file-bytes", "1"], "1 is not in 65536..=1073741824"),
        (vec!["--format", "mds"], "--to <FOLDER>"),
    ] {
        let error = command("1", &rest).expect_err("a mistake").to_string();
        assert!(error.contains(problem), "{error}");
    }
    let new = folder.path().join("new").display().to_string();
    for (version, to, problem) in [
        ("2", &*new, "dataset test has no version 2"),
        ("good", &new, "dataset test has no version good"),
        ("1", &full, "full is not empty; export into a new folder"),
        ("1", &config.display().to_string(), "cannot write"),
        ("1", "memory://", "--to = \"memory://\": what lies in memory is gone"),
        ("1", "carrier-pigeon://roof", "--to = \"carrier-pigeon://roof\": no store is known"),
    ] {
        let error = execute(command(version, &["--format", "mds", "--to", to]).expect("good arguments")).await.expect_err("a mistake");
        assert!(error.to_string().contains(problem) && error.is_users_mistake(), "{error}");
    }
    assert!(!Path::new(&new).exists(), "a mistake makes no folder");
    execute(command("latest", &["--format", "webdataset", "--to", &new, "--json"]).expect("good arguments")).await.expect("exported");
    assert!(Path::new(&new).join("train-index.json").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_split_without_packs_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("list.jsonl"), rows(0..20)).expect("a temporary file");
    let settings = GIVEN.replace("held_out = 0.2", "held_out = 0.0");
    let trial = Trial::try_new(&settings, &source("list", "jsonl", &folder.path().join("list.jsonl"), 10)).expect("a good configuration");
    trial.run().await.expect("the run ends");
    let held_out = ExportOptions { split: Some(Split::HeldOut), ..options(ExportFormat::Mds) };
    let error = exported(&trial, 1, &held_out, &memory()).await.expect_err("none is held out");
    assert!(error.to_string() == "version 1 has no held_out packs to export" && error.is_users_mistake(), "{error}");
    let target = memory();
    let export = exported(&trial, 1, &options(ExportFormat::Mds), &target).await.expect("there are train packs");
    assert_eq!(export.splits.iter().map(|split| split.split).collect::<Vec<_>>(), [Split::Train]);
    assert!(objects(&target).await.keys().all(|path| !path.starts_with("held_out")));
}
