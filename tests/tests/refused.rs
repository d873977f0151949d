//! Refused samples: listed by identity, counted against a budget, and retried.

use std::fs;
use std::path::Path;

use cm3flow::PipelineError;
use cm3flow::catalog::refused::RefusedFilter;
use cm3flow::catalog::{VersionRef, refused};
use cm3flow::events::{Event, TimedEvent};
use cm3flow::plan::{Plan, ReplayFilter};
use cm3flow::run::{RunOptions, RunOutcome};
use cm3flow::source::scan::scan_sources;
use cm3flow::versions::rebuild::rebuild;
use cm3flow_tests::trial::{SMALL, Trial, corpus_source, source};
use image::{ImageFormat, Rgb, RgbImage};

/// Writes a picture that differs for each kind.
fn write_picture(path: &Path, kind: u8) {
    let picture = RgbImage::from_fn(96, 80, |x, y| Rgb([(x * 2) as u8 ^ kind, (y * 3) as u8, kind.wrapping_mul(37)]));
    picture.save_with_format(path, ImageFormat::Png).expect("a temporary folder");
}

/// Writes a list of six rows whose second and fifth pictures are missing.
fn list_with_missing_pictures(folder: &Path) -> String {
    let row = |number: u8| format!("{{\"image\": \"{number}.png\", \"captions\": [\"picture number {number}\"]}}\n");
    fs::write(folder.join("rows.jsonl"), (0..6).map(row).collect::<String>()).expect("a temporary folder");
    for number in [0, 2, 3, 5] {
        write_picture(&folder.join(format!("{number}.png")), number);
    }
    source("rows", "jsonl", &folder.join("rows.jsonl"), 4)
}

fn trial(sources: &str) -> Trial {
    Trial::try_new(SMALL, &[&corpus_source(25), sources].concat()).expect("a good configuration")
}

fn replaying(trial: &Trial, reason: Option<&str>) -> Trial {
    let filter = RefusedFilter { reason: reason.map(str::to_owned), ..RefusedFilter::default() };
    let options = RunOptions { replay: Some(ReplayFilter { filter, version: None }), ..trial.options.clone() };
    Trial { config: trial.config.clone(), store: trial.store.clone(), options, stop: trial.stop.clone() }
}

/// A refused sample: its key, its row in the file, and the window that read it again.
type Listed = (String, u64, Option<u32>);

fn row(key: &str, file_row: u64, read_again_in: Option<u32>) -> Listed {
    (key.to_owned(), file_row, read_again_in)
}

async fn refused_keys(trial: &Trial, outcome: &RunOutcome, filter: &RefusedFilter) -> Vec<Listed> {
    let listed = refused::matching(&trial.store, &outcome.windows, filter, usize::MAX).await.expect("just written");
    listed.into_iter().map(|sample| (sample.key, sample.file_row, sample.read_again_in)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_that_has_arrived_is_kept_by_a_replay_and_nothing_else_is_read_again() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let trial = trial(&list_with_missing_pictures(folder.path()));
    let first = trial.run().await.expect("missing pictures stop nothing");
    let before = first.manifest.samples.clone();
    assert_eq!(before.refused.get("ingest.missing_image"), Some(&2), "{before}");
    let all = RefusedFilter::default();
    assert_eq!(refused_keys(&trial, &first, &all).await, [row("1.png", 1, None), row("4.png", 4, None)]);

    write_picture(&folder.path().join("1.png"), 1);
    let replay = replaying(&trial, Some("missing_image"));
    let second = replay.run().await.expect("the replay ends");
    let after = &second.manifest.samples;
    assert_eq!((second.manifest.version, second.manifest.base), (2, Some(1)));
    assert_eq!((after.input, after.kept, after.duplicate), (before.input + 2, before.kept + 1, before.duplicate), "{after}");
    assert_eq!(after.refused.get("ingest.missing_image"), Some(&3), "the one that is still missing is refused again: {after}");
    assert!(after.check("version").is_ok(), "{after}");
    let window = second.windows.last().expect("a new window");
    let rows: Vec<&[u64]> = window.units.iter().map(|unit| unit.only.as_slice()).collect();
    assert_eq!(rows, [&[1_u64][..], &[4]], "one unit for each unit that the rows were in");
    let listed = refused_keys(&trial, &second, &all).await;
    let again = Some(window.window);
    assert_eq!(listed, [row("1.png", 1, again), row("4.png", 4, again), row("4.png", 4, None)]);

    // The version is rebuilt from its record, with and without prepared units.
    for is_from_scratch in [false, true] {
        let again = rebuild(&trial.job(), Some(&VersionRef::Number(2)), is_from_scratch).await;
        let again = again.expect("the sources hold what was tried once more");
        assert_eq!(again.first_difference, None, "from scratch: {is_from_scratch}");
    }

    // Neither has anything left to do: changes have been read, and refused samples have been retried on these files.
    assert!(trial.run().await.expect("a run ends").nothing_to_do(), "an ordinary run reads the list again");
    assert!(replay.run().await.expect("a replay ends").nothing_to_do(), "a second replay tries the same once more");

    // The last picture arrives, and only its row is read.
    write_picture(&folder.path().join("4.png"), 4);
    let third = replay.run().await.expect("the replay ends");
    let samples = &third.manifest.samples;
    assert_eq!((samples.input, samples.kept), (after.input + 1, after.kept + 1), "{samples}");
    assert!(replay.run().await.expect("a replay ends").nothing_to_do());
    assert!(trial.run().await.expect("a run ends").nothing_to_do());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_of_a_row_that_came_in_elsewhere_meanwhile_is_a_duplicate() {
    let (folder, elsewhere) = (tempfile::tempdir().expect("a temporary folder"), tempfile::tempdir().expect("a temporary folder"));
    let sources = list_with_missing_pictures(folder.path());
    let trial = trial(&sources);
    trial.run().await.expect("missing pictures stop nothing");
    write_picture(&elsewhere.path().join("1.png"), 1);
    let row = "{\"image\": \"1.png\", \"captions\": [\"picture number 1\"]}\n";
    fs::write(elsewhere.path().join("rows.jsonl"), row).expect("a temporary folder");
    let more = [corpus_source(25), sources, source("more", "jsonl", &elsewhere.path().join("rows.jsonl"), 4)].concat();
    let trial = trial.changed(SMALL, &more).expect("a good configuration");
    let before = trial.run().await.expect("a source came").manifest.samples;

    write_picture(&folder.path().join("1.png"), 1);
    let after = replaying(&trial, Some("missing_image")).run().await.expect("the replay ends").manifest.samples;
    assert_eq!((after.input, after.kept, after.duplicate), (before.input + 2, before.kept, before.duplicate + 1), "{after}");
    assert!(after.check("version").is_ok(), "{after}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_that_changed_beyond_its_refused_rows_is_read_as_a_whole() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let trial = trial(&list_with_missing_pictures(folder.path()));
    let before = trial.run().await.expect("missing pictures stop nothing").manifest.samples;
    // The first unit has rows 0 to 3: one picture arrives, another one is replaced.
    write_picture(&folder.path().join("1.png"), 1);
    write_picture(&folder.path().join("2.png"), 22);
    let outcome = replaying(&trial, None).run().await.expect("the replay ends");
    let units = &outcome.windows.last().expect("a new window").units;
    let (whole, tried): (Vec<_>, Vec<_>) = units.iter().partition(|unit| unit.only.is_empty());
    assert_eq!((whole.len(), whole[0].first_row, whole[0].rows), (1, 0, 4));
    assert_eq!((tried.len(), tried[0].only.as_slice()), (1, &[4][..]), "the other unit is as it was");
    let after = outcome.manifest.samples;
    assert_eq!((after.input, after.kept, after.duplicate), (before.input + 5, before.kept + 2, before.duplicate + 2), "{after}");
    assert!(trial.run().await.expect("a run ends").nothing_to_do());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_takes_only_what_it_is_asked_for() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let trial = trial(&list_with_missing_pictures(folder.path()));
    trial.run().await.expect("missing pictures stop nothing");
    for reason in ["no_image", "filter"] {
        assert!(replaying(&trial, Some(reason)).run().await.expect("a replay ends").nothing_to_do(), "{reason}");
    }
    let mut elsewhere = replaying(&trial, None);
    elsewhere.options.replay.as_mut().expect("just set").filter.source = Some("photos".into());
    assert!(elsewhere.run().await.expect("a replay ends").nothing_to_do());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_refuses_too_much_publishes_nothing_and_goes_on_once_more_is_allowed() {
    let strict = SMALL.replace("min_short_side_px = 32", "max_image_bytes = 35000");
    let sources = corpus_source(10);
    let free = Trial::try_new(&strict, &sources).expect("a good configuration").run().await.expect("it refuses, and goes on");
    let refused = free.manifest.samples.refused_total();
    assert!(refused > 4, "{}", free.manifest.samples);

    let budget = "workers = 2\nmax_refused_fraction = 0.01\nmax_refused_min_samples = 1";
    let trial = Trial::try_new(&strict.replace("workers = 2", budget), &sources).expect("a good configuration");
    let error = trial.run().await.expect_err("more is refused than allowed");
    let PipelineError::RefusedTooMuch { reasons, .. } = &error else { panic!("{error}") };
    assert!(reasons.contains("ingest.too_many_bytes"), "{reasons}");
    assert!(error.to_string().contains("refused list") && !error.is_users_mistake(), "{error}");
    let job = trial.job();
    let catalog = job.catalog();
    assert_eq!(catalog.versions().await.expect("memory"), [0_u32; 0], "nothing is published");

    // The causes of the stop can be listed, and the run's events have them.
    let artefacts = trial.artefacts().await.expect("pinned");
    let scan = scan_sources(&job, None, None).await.expect("there");
    let plan = Plan::make(&job, &artefacts, None, &scan).await.expect("memory");
    let listed = plan.refused_before(&trial.store, &RefusedFilter::default(), usize::MAX).await.expect("memory");
    assert!(!listed.is_empty() && listed.iter().all(|sample| sample.stage == "ingest"));
    let events = events(&trial).await;
    assert!(events.iter().any(|event| matches!(event, Event::RefusedTooMuch { .. })), "{events:?}");
    assert!(matches!(events.last(), Some(Event::RunEnded { end, .. }) if end.exit_code == 1 && end.reason.is_some()), "{events:?}");

    let allowed = trial.changed(&strict, &sources).expect("a good configuration").run().await.expect("allowed now");
    assert_eq!(allowed.manifest, free.manifest, "what was prepared is used, and the version is that of a run without a stop");
}

/// Returns all events of all runs, in order of runs and events.
async fn events(trial: &Trial) -> Vec<Event> {
    let mut found = Vec::new();
    for run in trial.store.names("runs").await.expect("memory") {
        let folder = format!("runs/{run}/events");
        let mut objects = trial.store.names(&folder).await.expect("memory");
        objects.sort_by_key(|name| name.trim_end_matches(".jsonl").parse::<u32>().expect("a number"));
        for name in objects {
            let bytes = trial.store.get(&format!("{folder}/{name}")).await.expect("memory").expect("just listed");
            let text = String::from_utf8(bytes.to_vec()).expect("JSON");
            found.extend(text.lines().map(|line| serde_json::from_str::<TimedEvent>(line).expect("an event").event));
        }
    }
    found
}
