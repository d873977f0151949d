//! Sums of the ledger, compared with an independent small reader in Python: random tars, folders and lists, as other tools may leave them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use cm3flow_schemas::random::Draws;
use cm3flow_schemas::sample::Refusal;
use cm3flow_schemas::{columns, rows};
use cm3flow_stages::ChannelLimits;
use cm3flow_stages::ingest::{Ingest, Location, NoMemory, ReadOptions, ScanOptions, SourceConfig, scan};
use cm3flow_stages::stage::{Chain, Head, Meters};
use cm3flow_tests::s3::{S3Options, S3Service};
use cm3flow_tests::tools::tool;
use object_store::ObjectStoreExt;
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;

type Counts = BTreeMap<String, u64>;

const READER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/ledger/count.py");
const PHOTO: &[u8] = b"\xff\xd8\xff\xe0 what a stage behind this one would refuse";

/// Counts the samples of a source on the disk by outcome, and skipped files as `left`.
async fn counted(format: &str, path: &Path, unit_samples: u32) -> Counts {
    let path = path.canonicalize().expect("it was written");
    let path = object_store::path::Path::parse(path.to_str().expect("plain")).expect("plain");
    counted_at(format, Location { store: Arc::new(LocalFileSystem::new()), path, is_disk: true }, unit_samples).await
}

/// Counts as [`counted`], for a source anywhere.
async fn counted_at(format: &str, location: Location, unit_samples: u32) -> Counts {
    let text = format!("name = \"s\"\nformat = \"{format}\"\nurl = \"unused\"\nunit_samples = {unit_samples}\n");
    let source: SourceConfig = toml::from_str(&text).expect("a good section");
    let reading = ReadOptions::new(&source, 1 << 20, BTreeSet::new());
    let options = ScanOptions { limit: None, before: &[], address: "", memory: &NoMemory, reading: &reading };
    let scanned = match scan(&source, &location, options).await {
        Ok(scanned) => scanned,
        Err(error) => {
            assert!(error.to_string().contains("holds no samples"), "{error}");
            return Counts::new();
        }
    };
    let mut counts = Counts::new();
    let left: u64 = scanned.left.values().sum();
    if left > 0 {
        counts.insert("left".into(), left);
    }
    for planned in scanned.units {
        let ingest = Ingest::try_new(planned, location.clone(), reading.clone()).expect("as it was scanned");
        let mut batches = Vec::new();
        let collect = |batch| {
            batches.push(batch);
            Ok(())
        };
        let chain = Chain::new(Head::Source(Box::new(ingest)));
        chain.run(&ChannelLimits::default(), &Meters::default(), collect).await.expect("faults are those of rows");
        #[derive(serde::Deserialize)]
        struct Row {
            refusal: Option<Refusal>,
        }
        for row in batches.iter().flat_map(|batch| rows::read::<Row>(batch, &[columns::REFUSAL]).expect("raw samples")) {
            *counts.entry(row.refusal.map_or_else(|| "kept".to_owned(), |refusal| refusal.reason)).or_default() += 1;
        }
    }
    counts
}

/// Compares the counts of this reader with those in Python, for each of `paths`.
async fn compare(test: &str, (kind, format): (&str, &str), paths: &[PathBuf]) {
    let Some(python) = tool(test, &["python3"]) else { return };
    let output = Command::new(python).arg(READER).arg(kind).args(paths).output().expect("python3 runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let expected: Vec<Counts> = String::from_utf8(output.stdout)
        .expect("JSON")
        .lines()
        .map(|line| serde_json::from_str::<Counts>(line).expect("counts").into_iter().filter(|(_, count)| *count > 0).collect())
        .collect();
    assert_eq!(expected.len(), paths.len());
    let mut all = Counts::new();
    for (index, (path, mut expected)) in paths.iter().zip(expected).enumerate() {
        // A source with skipped files only is an error.
        if expected.keys().all(|reason| reason == "left") {
            expected.clear();
        }
        assert_eq!(counted(format, path, 1 + index as u32 % 4).await, expected, "{}", path.display());
        expected.into_iter().for_each(|(reason, count)| *all.entry(reason).or_default() += count);
    }
    println!("{test}: {} {kind}s, {all:?}", paths.len());
}

/// Makes a tar of a few members in random order, with repeats and links, sometimes two archives in one file, sometimes truncated.
fn random_tar(draws: &mut Draws) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..=draws.index(2) {
        let mut builder = tar::Builder::new(Vec::new());
        for _ in 0..draws.index(8) {
            let key = ["a", "b", "c", "d"][draws.index(4)];
            let extension = ["jpg", "jpg", "txt", "v2.jpg", "cls"][draws.index(5)];
            let name = format!("{key}.{extension}");
            let mut header = tar::Header::new_ustar();
            match draws.index(6) {
                0 => {
                    let kind = [tar::EntryType::Link, tar::EntryType::Symlink][draws.index(2)];
                    header.set_entry_type(kind);
                    header.set_size(0);
                    builder.append_link(&mut header, name, format!("{}.jpg", ["a", "b", "c", "d"][draws.index(4)])).expect("memory");
                }
                _ => {
                    let bytes = if extension == "txt" { b"a caption".as_slice() } else { PHOTO }.repeat(draws.index(30));
                    header.set_size(bytes.len() as u64);
                    builder.append_data(&mut header, name, bytes.as_slice()).expect("memory");
                }
            }
        }
        bytes.extend(builder.into_inner().expect("memory"));
    }
    if draws.index(3) == 0 {
        bytes.truncate(draws.index(bytes.len() + 1));
    }
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn tars_are_counted_as_another_reader_counts_them() {
    let (folder, mut draws) = (tempfile::tempdir().expect("a folder"), Draws::new(1, "tars", b""));
    let tars: Vec<PathBuf> = (0..300).map(|number| folder.path().join(format!("{number}.tar"))).collect();
    tars.iter().for_each(|path| std::fs::write(path, random_tar(&mut draws)).expect("space"));
    compare("tars_are_counted_as_another_reader_counts_them", ("tar", "webdataset"), &tars).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn folders_are_counted_as_another_reader_counts_them() {
    let (folder, mut draws) = (tempfile::tempdir().expect("a folder"), Draws::new(2, "folders", b""));
    let folders: Vec<PathBuf> = (0..60).map(|number| folder.path().join(format!("{number}/sub"))).collect();
    for folder in &folders {
        std::fs::create_dir_all(folder).expect("space");
        for _ in 0..draws.index(15) {
            let name = format!("{}.{}", ["a", "b", "c"][draws.index(3)], ["jpg", "jfif", "txt", "json", "csv", "odd"][draws.index(6)]);
            let path = folder.join(name);
            if path.symlink_metadata().is_ok() {
                continue;
            }
            let content = match path.extension().and_then(std::ffi::OsStr::to_str) {
                Some("json") => b"{}".as_slice(),
                Some("txt") => b"a caption",
                _ => PHOTO,
            };
            match (draws.index(5), path.extension().is_some_and(|extension| extension == "jpg")) {
                (0, true) => std::os::unix::fs::symlink("nowhere", &path).expect("space"),
                (1, _) if path.extension().is_some_and(|extension| extension == "odd") => std::fs::write(&path, "text").expect("space"),
                _ => std::fs::write(&path, content).expect("space"),
            }
        }
    }
    let folders: Vec<PathBuf> = folders.iter().filter_map(|path| path.parent().map(Path::to_path_buf)).collect();
    compare("folders_are_counted_as_another_reader_counts_them", ("folder", "folder"), &folders).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_counted_as_another_reader_counts_them() {
    let (folder, mut draws) = (tempfile::tempdir().expect("a folder"), Draws::new(3, "lists", b""));
    for name in ["a.jpg", "ü b.jpg", "100%.jpg"] {
        std::fs::write(folder.path().join(name), PHOTO).expect("space");
    }
    let images = ["a.jpg", "ü b.jpg", "100%.jpg", "gone.jpg", "a.jpg/x"];
    let lists: Vec<PathBuf> = (0..100).map(|number| folder.path().join(format!("{number}.jsonl"))).collect();
    for list in &lists {
        let mut line = || match draws.index(10) {
            0 => "{broken".to_owned(),
            1 => r#"{"caption": "without image"}"#.to_owned(),
            2 => r#"{"image": null, "caption": "without image"}"#.to_owned(),
            _ => serde_json::json!({"image": images[draws.index(4)], "caption": format!("caption {}", draws.index(9))}).to_string(),
        };
        std::fs::write(list, (0..12).map(|_| line() + "\n").collect::<String>()).expect("space");
    }
    compare("lists_are_counted_as_another_reader_counts_them", ("list", "jsonl"), &lists).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_any_characters_are_found_in_s3() {
    let names = [
        "café.jpg",
        "写真.jpg",
        "photo [1].jpg",
        "IMG~1.jpg",
        "100%.jpg",
        "a#b.jpg",
        "q?x.jpg",
        "{x}.jpg",
        "a b+c.jpg",
        "c%20d.jpg",
        "e&f=g.jpg",
    ];
    let objects = Arc::new(InMemory::new());
    let lines: Vec<String> = names.iter().map(|name| serde_json::json!({"image": name}).to_string()).collect();
    let put = async |name: &str, bytes: &[u8]| {
        let path = object_store::path::Path::parse(format!("bucket/josé/{name}")).expect("a key");
        objects.put(&path, bytes.to_vec().into()).await.expect("memory");
    };
    for name in names {
        put(name, PHOTO).await;
    }
    put("list.jsonl", (lines.join("\n") + "\n{\"image\": \"gone.jpg\"}\n{\"image\": \"x//y.jpg\"}\n").as_bytes()).await;
    let service = S3Service::start(objects.clone(), 0, S3Options::default()).await.expect("a free port");
    let store =
        AmazonS3Builder::new().with_bucket_name("bucket").with_endpoint(service.endpoint()).with_allow_http(true).with_region("us-east-1");
    let store = Arc::new(store.with_access_key_id("test").with_secret_access_key("not-so-secret").build().expect("settings of a client"));
    let at = |path: &str| Location { store: store.clone(), path: object_store::path::Path::parse(path).expect("a path"), is_disk: false };
    let expected = |counts: &[(&str, u64)]| counts.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect::<Counts>();
    let found = counted_at("jsonl", at("josé/list.jsonl"), 4).await;
    assert_eq!(found, expected(&[("kept", names.len() as u64), ("missing_image", 1), ("unreadable_image", 1)]));
    assert_eq!(counted_at("folder", at("josé"), 4).await, expected(&[("kept", names.len() as u64), ("left", 1)]));
}
