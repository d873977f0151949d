//! Several versions: named by tags, compared, rebuilt, and thinned out.

use cm3flow::catalog::{Catalog, TagName, VersionRef};
use cm3flow::plan::Plan;
use cm3flow::versions::diff::diff;
use cm3flow::versions::gc::{GcOptions, GcOutcome, collect};
use cm3flow::versions::rebuild::rebuild;
use cm3flow::versions::verify::Verifier;
use cm3flow::view::inspect::Inspector;
use cm3flow::{PipelineError, Store};
use cm3flow_schemas::Digest;
use cm3flow_tests::trial::{SMALL, Trial, corpus_source};
use serde_json::json;

/// Creates a dataset of `versions` versions, each with the samples of one more tar.
async fn grown(versions: u64) -> Trial {
    let mut trial = Trial::try_new(SMALL, &corpus_source(10)).expect("a good configuration");
    for version in 1..=versions {
        trial.options.limit = Some(25 * version);
        let outcome = trial.run().await.expect("the run ends");
        assert_eq!(u64::from(outcome.manifest.version), version);
    }
    trial
}

fn named(version: &str) -> VersionRef {
    version.parse().expect("a good name")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_names_a_version_wherever_one_is_asked_for() {
    let trial = grown(2).await;
    let catalog = Catalog::new(trial.store.clone(), "test");
    let good: TagName = "good".parse().expect("a good name");
    catalog.tag(&good, 1).await.expect("version 1 is there");
    assert_eq!(catalog.version_or_latest(Some(&named("good"))).await.expect("tagged").version, 1);
    assert_eq!(catalog.version_or_latest(Some(&named("latest"))).await.expect("published").version, 2);
    assert!(Inspector::open(&trial.job(), Some(&named("good"))).await.is_ok());
    let error = Inspector::open(&trial.job(), Some(&named("bad"))).await.err().expect("no such tag");
    assert!(matches!(&error, PipelineError::NoVersion { version, .. } if version == "bad"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_diff_counts_and_names_what_came_and_what_changed() {
    let trial = grown(2).await;
    let catalog = Catalog::new(trial.store.clone(), "test");
    let [first, second] = [1, 2].map(|number| catalog.version(number));
    let (first, second) = (first.await.expect("published"), second.await.expect("published"));
    let there = diff(&trial.store, "test", &1.into(), &2.into(), 3).await.expect("both are whole");
    assert_eq!(there.kept_samples.added, second.samples.kept - first.samples.kept);
    assert_eq!((there.kept_samples.removed, there.kept_samples.added_examples.len()), (0, 3));
    assert!(there.kept_samples.added_examples.is_sorted());
    assert_eq!((there.windows.shared, there.windows.removed), (first.windows.len() as u64, 0));
    assert_eq!((there.samples["in"].before, there.samples["in"].after), (25, 50));
    assert_eq!((there.sources["photos"].rows.before, there.sources["photos"].added_units), (25, 3));
    assert!(there.settings.is_empty() && there.vocabulary.is_empty(), "{:?}", there.settings);
    let text: u64 = there.tasks.iter().filter(|task| task.split == "train").map(|task| task.text_tokens.after).sum();
    let counted: u64 = second.statistics["train"].tasks.values().map(|task| task.text_tokens).sum();
    assert_eq!(text, counted);

    let back = diff(&trial.store, "test", &2.into(), &1.into(), 3).await.expect("both are whole");
    assert_eq!(
        (back.kept_samples.removed, &back.kept_samples.removed_examples),
        (there.kept_samples.added, &there.kept_samples.added_examples)
    );

    let mut longer = trial.changed(&SMALL.replace("seq_len = 512", "seq_len = 700"), &corpus_source(10)).expect("a good configuration");
    longer.options.limit = Some(50);
    longer.run().await.expect("the run ends");
    let changed = diff(&trial.store, "test", &2.into(), &named("latest"), 3).await.expect("both are whole");
    let fields: Vec<&str> = changed.settings.iter().map(|change| change.field.as_str()).collect();
    assert_eq!(fields, ["config.pack.seq_len", "seq_len"]);
    assert_eq!((changed.kept_samples.added, changed.kept_samples.removed), (0, 0));
    assert_eq!(changed.windows.shared, 1, "a version that is made anew is cut into full windows");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_version_of_a_growing_dataset_is_made_again_with_its_digest() {
    let trial = grown(3).await;
    let before = trial.objects().await;
    let catalog = Catalog::new(trial.store.clone(), "test");
    for version in 1..=3 {
        for is_from_scratch in [false, true] {
            let again = rebuild(&trial.job(), Some(&version.into()), is_from_scratch).await;
            let again = again.expect("all is there");
            assert_eq!(again.first_difference, None, "version {version}");
            assert_eq!(Some(again.manifest), catalog.recorded_digest(version).await.expect("memory"));
            let prepared = again.segments["prepare"];
            assert_eq!(prepared.made, if is_from_scratch { prepared.units } else { 0 });
            for segment in ["settle", "compose", "pack"] {
                let counts = again.segments[segment];
                assert!(counts.units > 0 && (counts.made, counts.equal) == (counts.units, counts.units), "{segment}: {counts:?}");
            }
            assert!(again.shards > 0 && again.settings.is_empty() && again.other_units_from.is_none() && again.is_same_numerics);
        }
    }
    assert_eq!(before, trial.objects().await, "nothing is written");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_says_what_differs_first_and_what_the_configuration_says_otherwise() {
    let trial = grown(1).await;
    let objects = trial.objects().await;
    let path = objects.keys().find(|path| path.starts_with("units/settle/") && path.ends_with("unit.json")).expect("a window is settled");
    let record = String::from_utf8(trial.store.get(path).await.expect("memory").expect("there").to_vec()).expect("JSON");
    trial.store.delete(path).await.expect("memory");
    trial.store.create(path, record.replacen("\"kept\": ", "\"kept\": 9", 1)).await.expect("memory");
    let other = trial.changed(&SMALL.replace("seq_len = 512", "seq_len = 700"), &corpus_source(10)).expect("a good configuration");
    let again = rebuild(&other.job(), None, false).await.expect("all is there");
    assert_eq!(again.first_difference.as_ref(), Some(path));
    let fields: Vec<&str> = again.settings.iter().map(|change| change.field.as_str()).collect();
    assert_eq!(fields, ["pack.seq_len"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_of_a_source_change_keys_unless_they_are_the_defaults() {
    let with = |settings: &str| corpus_source(25) + settings;
    let trial = Trial::try_new(SMALL, &with("")).expect("a good configuration");
    let plain = trial.run().await.expect("the run ends");
    assert!(plain.manifest.config.get("source").is_none(), "{}", plain.manifest.config);
    let stored = trial.changed(SMALL, &with("orientation = \"stored\"")).expect("a good configuration");
    assert!(stored.run().await.expect("it ends").nothing_to_do());

    let upright = trial.changed(SMALL, &with("orientation = \"upright\"")).expect("a good configuration");
    let artefacts = upright.artefacts().await.expect("pinned");
    let segment = Plan::differs_from(&upright.config, &artefacts, &plain.windows).map(|segment| segment.name());
    assert_eq!(segment, Some("prepare"));
    let turned = upright.run().await.expect("the run ends");
    assert_eq!(turned.manifest.config["source"], json!({"photos": {"orientation": "upright"}}));
    // Each version is rebuilt with its own settings, whatever the present configuration.
    for (version, changed) in [(1, vec!["source.photos.orientation"]), (2, vec![])] {
        let again = rebuild(&upright.job().on(trial.store.clone()), Some(&version.into()), true).await.expect("all is there");
        let fields: Vec<&str> = again.settings.iter().map(|change| change.field.as_str()).collect();
        assert_eq!((again.first_difference, again.other_units_from, fields), (None, None, changed), "version {version}");
    }
}

/// Collects garbage as if all present objects except `young` were old.
async fn collected(store: &Store, keep: Option<u32>, young: &[(&str, String)]) -> cm3flow::Result<GcOutcome> {
    let cutoff = chrono::Utc::now();
    for (path, bytes) in young {
        store.create(path, bytes.clone()).await?;
    }
    let options = GcOptions { apply: true, keep, ..GcOptions::default() };
    collect(store, "test", &options, cutoff + chrono::Duration::from_std(options.grace).expect("a day")).await
}

async fn assert_whole(store: &Store, dataset: &str) {
    for found in Verifier::new(store, dataset).all().await.expect("memory") {
        assert!(found.is_clean(), "version {} of {dataset}: {:?}", found.version, found.damaged);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_a_version_of_any_dataset_refers_to_is_garbage() {
    let trial = grown(2).await;
    let mut other = trial.changed(SMALL, &corpus_source(10)).expect("a good configuration");
    other.config.dataset.name = "other".into();
    other.options.limit = Some(25);
    other.run().await.expect("the run ends");
    let before = trial.objects().await;
    let outcome = collected(&trial.store, None, &[]).await.expect("all is whole");
    assert!(outcome.garbage.keys().all(|kind| *kind == "runs"), "{outcome:?}");
    assert_eq!(before, trial.objects().await);

    let mut longer = trial.changed(&SMALL.replace("seq_len = 512", "seq_len = 700"), &corpus_source(10)).expect("a good configuration");
    longer.options.limit = Some(50);
    longer.run().await.expect("the run ends");
    let outcome = collected(&trial.store, Some(1), &[]).await.expect("all is whole");
    assert_eq!(outcome.dropped_versions, [1, 2]);
    assert!(outcome.garbage["shards"].objects > 0 && outcome.garbage["units"].objects > 0, "{outcome:?}");
    assert_eq!(Catalog::new(trial.store.clone(), "test").versions().await.expect("memory"), [3]);
    assert_whole(&trial.store, "test").await;
    assert_whole(&trial.store, "other").await;
    longer.options.limit = None;
    assert_eq!(longer.run().await.expect("windows are appended").manifest.base, Some(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn tagged_versions_and_what_is_unknown_stay() {
    let trial = grown(3).await;
    Catalog::new(trial.store.clone(), "test").tag(&"good".parse().expect("a good name"), 1).await.expect("it is there");
    let unknown = ["notes.txt", "units/prepare/readme.txt", "units/other/00/00/unit.json", "versions/test/notes.md", "shards/odd.arrow"];
    for path in unknown {
        trial.store.create(path, "ours").await.expect("memory");
    }
    let key = Digest::of(b"nobody's").to_string();
    let orphans = [
        format!("units/pack/{}/{key}/unit.json", &key[..2]),
        format!("shards/{key}.arrow"),
        format!("windows/test/9/{}/0.json", &key[..12]),
    ];
    for path in &orphans {
        trial.store.create(path, "{}").await.expect("memory");
    }
    let dry = GcOptions { keep: Some(1), ..GcOptions::default() };
    let later = chrono::Utc::now() + chrono::Duration::days(2);
    let before = trial.objects().await;
    let shown = collect(&trial.store, "test", &dry, later).await.expect("all is whole");
    assert_eq!(before, trial.objects().await, "dry by default");
    let outcome = collected(&trial.store, Some(1), &[]).await.expect("all is whole");
    assert_eq!((&shown.garbage, shown.dropped_versions), (&outcome.garbage, outcome.dropped_versions.clone()));
    assert_eq!(outcome.dropped_versions, [2]);
    let objects = trial.objects().await;
    assert!(unknown.iter().all(|path| objects.contains_key(*path)), "{objects:?}");
    assert!(orphans.iter().all(|path| !objects.contains_key(path)), "{objects:?}");
    assert_whole(&trial.store, "test").await;
    assert!(!Verifier::new(&trial.store, "test").all().await.expect("memory").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_running_run_plans_stays_and_one_that_has_not_planned_stops_all() {
    let trial = grown(1).await;
    let keys = ["prepare", "pack"].map(|segment| (segment, Digest::of(segment.as_bytes()).to_string()));
    for (segment, key) in &keys {
        trial.store.create(&format!("units/{segment}/{}/{key}/x.parquet", &key[..2]), "old").await.expect("memory");
    }
    let other = Digest::of(b"other").to_string();
    let plan = json!({
        "dataset": "test", "version": 2, "base": 1,
        "windows": [{"units": [], "keys": {"prepare": [keys[0].1], "settle": [other], "compose": [], "pack": [other, other]}}],
    });
    trial.store.create("runs/r/plan/0.json", plan.to_string()).await.expect("memory");
    trial.store.create("windows/test/2/0123/0.json", "{}").await.expect("memory");
    let before = trial.objects().await;
    let unplanned = collected(&trial.store, None, &[("runs/s/heartbeat/1.json", "{}".into())]).await;
    assert!(matches!(&unplanned, Err(PipelineError::Planning { run }) if run == "s"), "{unplanned:?}");
    assert_eq!(before, trial.objects().await);

    let outcome = collected(&trial.store, None, &[("runs/r/heartbeat/1.json", "{}".into())]).await.expect("all is whole");
    assert_eq!(outcome.running, ["r"]);
    let gone: Vec<String> = before.into_keys().collect();
    let left = trial.objects().await;
    let gone: Vec<&String> = gone.iter().filter(|path| !left.contains_key(*path)).collect();
    assert_eq!(gone, [&format!("units/pack/{}/{}/x.parquet", &keys[1].1[..2], keys[1].1)]);
}
