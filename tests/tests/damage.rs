//! Planted damage: `verify` and readers name it, and a repair makes the same bytes again.

use std::path::Path;

use cm3flow::PipelineError;
use cm3flow::run::RunOutcome;
use cm3flow::train::train_version;
use cm3flow::versions::verify::Verifier;
use cm3flow::versions::verify::repair::{Repair, repair};
use cm3flow::view::inspect::Inspector;
use cm3flow::view::report::report_version;
use cm3flow_tests::trial::{SMALL, Trial, corpus, corpus_source, source};

/// Publishes the first tar of the corpus in three units and two windows.
async fn published() -> (Trial, RunOutcome) {
    let mut trial = Trial::try_new(SMALL, &corpus_source(10)).expect("a good configuration");
    trial.options.limit = Some(25);
    let outcome = trial.run().await.expect("the run ends");
    assert_eq!(outcome.windows.len(), 2);
    (trial, outcome)
}

async fn bytes_of(trial: &Trial, path: &str) -> Vec<u8> {
    trial.store.get(path).await.expect("memory").unwrap_or_else(|| panic!("{path} is there")).to_vec()
}

async fn put(trial: &Trial, path: &str, bytes: Option<Vec<u8>>) {
    trial.store.delete(path).await.expect("memory");
    if let Some(bytes) = bytes {
        trial.store.create(path, bytes).await.expect("memory");
    }
}

async fn damaged(trial: &Trial) -> Vec<String> {
    let found = Verifier::new(&trial.store, &trial.config.dataset.name).version(1).await.expect("damage is no error");
    found.damaged.into_iter().map(|damage| damage.path).collect()
}

async fn repaired(trial: &Trial) -> Repair {
    repair(&trial.job(), 1).await.expect("what cannot be healed is no error")
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

/// Returns the first object below `folder` whose path has this ending.
async fn object(trial: &Trial, folder: &str, ending: &str) -> String {
    let objects = trial.objects().await;
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
    let (trial, _) = published().await;
    let before = trial.objects().await;
    assert!(damaged(&trial).await.is_empty(), "{:?}", damaged(&trial).await);
    for (folder, ending, damage) in cases {
        let path = object(&trial, folder, ending).await;
        let bytes = damage(bytes_of(&trial, &path).await);
        put(&trial, &path, bytes).await;
        let named = damaged(&trial).await;
        assert!(named.contains(&path), "{path} is damaged, verify names {named:?}");
        let outcome = repaired(&trial).await;
        assert!(outcome.left.is_empty() && outcome.after.is_clean(), "{path}: {:?}", outcome.left);
        assert!(outcome.healed.iter().any(|healed| healed.path == path), "{path}: {:?}", outcome.healed);
        assert_eq!(before, trial.objects().await, "{path} has other bytes now, or something else has");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_in_every_segment_at_once_is_healed() {
    let (trial, _) = published().await;
    let before = trial.objects().await;
    let places = [("units/prepare/", ".parquet"), ("units/settle/", "unit.json"), ("units/compose/", ".parquet"), ("units/pack/", ".json")];
    for (folder, ending) in
        places.into_iter().chain([("shards/", ".arrow"), ("windows/test/1/0/", ".json"), ("windows/test/1/1/", ".json")])
    {
        let path = object(&trial, folder, ending).await;
        put(&trial, &path, None).await;
    }
    let outcome = repaired(&trial).await;
    assert!(outcome.left.is_empty(), "{:?}", outcome.left);
    assert_eq!(before, trial.objects().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_name_what_is_damaged() {
    let trained = "[model]\nlayers = 1\nwidth = 32\nheads = 2\n[train]\nsteps = 2\nbatch_packs = 1\nwarm_up_steps = 1\n[eval]\npacks = 1\nimages = 0\ncaptions = 0\n";
    let mut trial = Trial::try_new(&format!("{SMALL}{trained}"), &corpus_source(10)).expect("a good configuration");
    trial.options.limit = Some(25);
    trial.options.without_training = true;
    let outcome = trial.run().await.expect("the run ends");
    let shard = outcome.windows[0].shards.iter().find(|shard| shard.split == cm3flow_schemas::sample::Split::Train).expect("train packs");
    let path = format!("shards/{}.arrow", shard.digest);
    let whole = bytes_of(&trial, &path).await;
    for bytes in [flipped(whole.clone()), cut(whole.clone()), whole[..100].to_vec()] {
        put(&trial, &path, Some(bytes)).await;
        let read = trial.packs(&outcome).await.expect_err("a damaged shard");
        assert!(format!("{read:?}").contains(&shard.digest.to_string()), "{read:?}");
        let trained = train_version(&trial.job(), None).await;
        let error = trained.expect_err("a damaged shard");
        assert!(format!("{error:?}").contains(&shard.digest.to_string()), "{error:?}");
    }
    put(&trial, &path, Some(whole)).await;

    for (folder, ending) in [("windows/test/1/0/", ".json"), ("versions/", "/1.json")] {
        let path = object(&trial, folder, ending).await;
        let whole = bytes_of(&trial, &path).await;
        put(&trial, &path, Some(cut(whole.clone()))).await;
        let error = Inspector::open(&trial.job(), None).await.err().expect("a damaged record");
        assert!(error.to_string().contains(&path), "{error}");
        put(&trial, &path, Some(whole)).await;
    }
    let inspector = Inspector::open(&trial.job(), None).await.expect("all is whole");
    let sample = inspector.listing(1).await.expect("all is whole").samples[0].sample_id.to_string();
    let unit = &outcome.windows[0].keys.prepare[0].to_string();
    let path = object(&trial, &format!("units/prepare/{}/{unit}/", &unit[..2]), ".parquet").await;
    for path in [path.clone(), object(&trial, &format!("units/prepare/{}/{unit}/", &unit[..2]), "unit.json").await] {
        let whole = bytes_of(&trial, &path).await;
        put(&trial, &path, None).await;
        let found = inspector.sample(&sample).await;
        put(&trial, &path, Some(whole)).await;
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
    let trial = Trial::try_new(SMALL, &source("photos", "webdataset", &tar, 10)).expect("a good configuration");
    trial.run().await.expect("the run ends");
    let prepared = object(&trial, "units/prepare/", ".parquet").await;
    let composed = object(&trial, "units/compose/", ".parquet").await;
    put(&trial, &prepared, None).await;
    put(&trial, &composed, None).await;
    std::fs::remove_file(&tar).expect("it was there");
    let outcome = repaired(&trial).await;
    let left = outcome.left.iter().find(|left| left.damage.path == prepared).expect("it cannot be made again");
    assert!(left.reason.contains("photos.tar") && left.reason.contains("cannot be scanned"), "{}", left.reason);
    std::fs::copy(corpus().join("photos-00000.tar"), &tar).expect("a temporary folder");
    assert!(repaired(&trial).await.after.is_clean(), "the source is there again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_is_not_made_again_from_another_configuration() {
    let (trial, _) = published().await;
    let path = object(&trial, "versions/", "/1.json").await;
    let whole = bytes_of(&trial, &path).await;
    put(&trial, &path, Some(cut(whole))).await;
    let other = trial.changed(&SMALL.replace("seq_len = 512", "seq_len = 700"), &corpus_source(10)).expect("a good configuration");
    let outcome = repair(&other.job(), 1).await.expect("no error");
    assert_eq!(outcome.left.len(), 1, "{:?}", outcome.left);
    assert!(outcome.left[0].reason.contains("configuration"), "{}", outcome.left[0].reason);
    let unread = report_version(&other.job(), None).await.expect_err("a cut manifest");
    assert!(matches!(&unread, PipelineError::Record { location, .. } if *location == path), "{unread}");
    assert!(repaired(&trial).await.after.is_clean());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_store_has_nothing_to_verify() {
    let store = cm3flow::Store::open("memory://", Path::new("")).expect("memory");
    assert!(Verifier::new(&store, "d").all().await.expect("memory").is_empty());
}
