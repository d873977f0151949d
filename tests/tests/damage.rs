//! Planted damage: whatever is broken, `verify` and readers name it, and a repair makes the same bytes again.

use std::path::Path;

use cm3flow::PipelineError;
use cm3flow::events::progress::Progress;
use cm3flow::run::{self, RunOutcome};
use cm3flow::versions::verify::Verifier;
use cm3flow::versions::verify::repair::{Repair, repair};
use cm3flow::view::inspect::Inspector;
use cm3flow_tests::job::{Job, SMALL, corpus, corpus_source, source};

/// The first tar of the corpus in three units and two windows.
async fn published() -> (Job, RunOutcome) {
    let mut job = Job::try_new(SMALL, &corpus_source(10)).expect("a good configuration");
    job.options.limit = Some(25);
    let outcome = job.run().await.expect("the run ends");
    assert_eq!(outcome.windows.len(), 2);
    (job, outcome)
}

async fn bytes_of(job: &Job, path: &str) -> Vec<u8> {
    job.store.get(path).await.expect("memory").unwrap_or_else(|| panic!("{path} is there")).to_vec()
}

async fn put(job: &Job, path: &str, bytes: Option<Vec<u8>>) {
    job.store.delete(path).await.expect("memory");
    if let Some(bytes) = bytes {
        job.store.create(path, bytes).await.expect("memory");
    }
}

async fn damaged(job: &Job) -> Vec<String> {
    let found = Verifier::new(&job.store, &job.config.dataset.name).version(1).await.expect("damage is no error");
    found.damaged.into_iter().map(|damage| damage.path).collect()
}

async fn repaired(job: &Job) -> Repair {
    repair(&job.config, &job.store, 1, &Progress::silent()).await.expect("what cannot be healed is no error")
}

fn flipped(mut bytes: Vec<u8>) -> Vec<u8> {
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    bytes
}

fn cut(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(bytes.len() * 2 / 3);
    bytes
}

/// The first object below `folder` whose path ends so.
async fn object(job: &Job, folder: &str, ending: &str) -> String {
    let objects = job.objects().await;
    let found = objects.keys().find(|path| path.starts_with(folder) && path.ends_with(ending));
    found.unwrap_or_else(|| panic!("nothing in {folder} ends in {ending}")).clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_damaged_object_is_named_and_healed_to_the_same_bytes() {
    type Damage = fn(Vec<u8>) -> Option<Vec<u8>>;
    let deleted: Damage = |_| None;
    let flip: Damage = |bytes| Some(flipped(bytes));
    let cut_off: Damage = |bytes| Some(cut(bytes));
    let other_count: Damage = |bytes| Some(String::from_utf8(bytes).expect("JSON").replacen("\"kept\": ", "\"kept\": 1", 1).into_bytes());
    let cases: [(&str, &str, Damage); 15] = [
        ("units/prepare/", ".parquet", deleted),
        ("units/prepare/", "unit.json", deleted),
        ("units/prepare/", "unit.json", other_count),
        ("units/settle/", ".parquet", flip),
        ("units/settle/", "unit.json", cut_off),
        ("units/compose/", ".parquet", cut_off),
        ("units/compose/", "unit.json", deleted),
        ("units/pack/", "unit.json", deleted),
        ("shards/", ".arrow", cut_off),
        ("shards/", ".arrow", flip),
        ("windows/test/1/1/", ".json", cut_off),
        ("versions/", "/1.json", cut_off),
        ("versions/", ".digest", cut_off),
        ("versions/", ".parquet", flip),
        ("artefacts/", "tokenizer.json", cut_off),
    ];
    let (job, _) = published().await;
    let before = job.objects().await;
    assert!(damaged(&job).await.is_empty(), "{:?}", damaged(&job).await);
    for (folder, ending, damage) in cases {
        let path = object(&job, folder, ending).await;
        let bytes = damage(bytes_of(&job, &path).await);
        put(&job, &path, bytes).await;
        let named = damaged(&job).await;
        assert!(named.contains(&path), "{path} is damaged, verify names {named:?}");
        let outcome = repaired(&job).await;
        assert!(outcome.left.is_empty() && outcome.after.is_clean(), "{path}: {:?}", outcome.left);
        assert!(outcome.healed.iter().any(|healed| healed.path == path), "{path}: {:?}", outcome.healed);
        assert_eq!(before, job.objects().await, "{path} has other bytes now, or something else has");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_in_every_segment_at_once_is_healed() {
    let (job, _) = published().await;
    let before = job.objects().await;
    let places = [("units/prepare/", ".parquet"), ("units/settle/", "unit.json"), ("units/compose/", ".parquet"), ("units/pack/", ".json")];
    for (folder, ending) in
        places.into_iter().chain([("shards/", ".arrow"), ("windows/test/1/0/", ".json"), ("windows/test/1/1/", ".json")])
    {
        let path = object(&job, folder, ending).await;
        put(&job, &path, None).await;
    }
    let outcome = repaired(&job).await;
    assert!(outcome.left.is_empty(), "{:?}", outcome.left);
    assert_eq!(before, job.objects().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_name_what_is_damaged() {
    let trained = "[model]\nlayers = 1\nwidth = 32\nheads = 2\n[train]\nsteps = 2\nbatch_packs = 1\nwarm_up_steps = 1\n[eval]\npacks = 1\nimages = 0\ncaptions = 0\n";
    let mut job = Job::try_new(&format!("{SMALL}{trained}"), &corpus_source(10)).expect("a good configuration");
    job.options.limit = Some(25);
    job.options.without_training = true;
    let outcome = job.run().await.expect("the run ends");
    let shard = outcome.windows[0].shards.iter().find(|shard| shard.split == cm3flow_schemas::sample::Split::Train).expect("train packs");
    let path = format!("shards/{}.arrow", shard.digest);
    let whole = bytes_of(&job, &path).await;
    for bytes in [flipped(whole.clone()), cut(whole.clone()), whole[..100].to_vec()] {
        put(&job, &path, Some(bytes)).await;
        let read = job.packs(&outcome).await.expect_err("a damaged shard");
        assert!(format!("{read:?}").contains(&shard.digest.to_string()), "{read:?}");
        let trained = run::train_version(&job.config, &job.store, None, &job.options, &Progress::silent()).await;
        let error = trained.expect_err("a damaged shard");
        assert!(format!("{error:?}").contains(&shard.digest.to_string()), "{error:?}");
    }
    put(&job, &path, Some(whole)).await;

    for (folder, ending) in [("windows/test/1/0/", ".json"), ("versions/", "/1.json")] {
        let path = object(&job, folder, ending).await;
        let whole = bytes_of(&job, &path).await;
        put(&job, &path, Some(cut(whole.clone()))).await;
        let error = Inspector::open(&job.config, &job.store, None).await.err().expect("a damaged record");
        assert!(error.to_string().contains(&path), "{error}");
        put(&job, &path, Some(whole)).await;
    }
    let inspector = Inspector::open(&job.config, &job.store, None).await.expect("all is whole");
    let sample = inspector.listing(1).await.expect("all is whole").samples[0].sample_id.to_string();
    let unit = &outcome.windows[0].keys["prepare"][0].to_string();
    let path = object(&job, &format!("units/prepare/{}/{unit}/", &unit[..2]), ".parquet").await;
    for path in [path.clone(), object(&job, &format!("units/prepare/{}/{unit}/", &unit[..2]), "unit.json").await] {
        let whole = bytes_of(&job, &path).await;
        put(&job, &path, None).await;
        let found = inspector.sample(&sample).await;
        put(&job, &path, Some(whole)).await;
        if let Err(error) = found {
            assert!(format!("{error:?}").contains(unit), "{error:?}");
        } else {
            assert!(path.ends_with(".parquet"), "the sample is read although {path} is missing");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_whose_source_is_gone_is_left_and_the_reason_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let tar = folder.path().join("photos.tar");
    std::fs::copy(corpus().join("photos-00000.tar"), &tar).expect("a temporary folder");
    let job = Job::try_new(SMALL, &source("photos", "webdataset", &tar, 10)).expect("a good configuration");
    job.run().await.expect("the run ends");
    let prepared = object(&job, "units/prepare/", ".parquet").await;
    let composed = object(&job, "units/compose/", ".parquet").await;
    put(&job, &prepared, None).await;
    put(&job, &composed, None).await;
    std::fs::remove_file(&tar).expect("it was there");
    let outcome = repaired(&job).await;
    let left = outcome.left.iter().find(|left| left.damage.path == prepared).expect("it cannot be made again");
    assert!(left.reason.contains("photos.tar") && left.reason.contains("cannot be scanned"), "{}", left.reason);
    std::fs::copy(corpus().join("photos-00000.tar"), &tar).expect("a temporary folder");
    assert!(repaired(&job).await.after.is_clean(), "the source is there again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_is_not_made_again_from_another_configuration() {
    let (job, _) = published().await;
    let path = object(&job, "versions/", "/1.json").await;
    let whole = bytes_of(&job, &path).await;
    put(&job, &path, Some(cut(whole))).await;
    let other = job.changed(&SMALL.replace("seq_len = 512", "seq_len = 700"), &corpus_source(10)).expect("a good configuration");
    let outcome = repair(&other.config, &other.store, 1, &Progress::silent()).await.expect("no error");
    assert_eq!(outcome.left.len(), 1, "{:?}", outcome.left);
    assert!(outcome.left[0].reason.contains("configuration"), "{}", outcome.left[0].reason);
    let unread = run::report_version(&other.config, &other.store, None).await.expect_err("a cut manifest");
    assert!(matches!(&unread, PipelineError::Record { location, .. } if *location == path), "{unread}");
    assert!(repaired(&job).await.after.is_clean());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_store_has_nothing_to_verify() {
    let store = cm3flow::Store::open("memory://", Path::new("")).expect("memory");
    assert!(Verifier::new(&store, "d").all().await.expect("memory").is_empty());
}
