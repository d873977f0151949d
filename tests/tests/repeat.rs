//! The promise: the same configuration, inputs, seed and artefacts give the same bytes; and what is there is never made again.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use cm3flow::PipelineError;
use cm3flow::run::RunOptions;
use cm3flow_schemas::Digest;
use cm3flow_tests::job::{Job, SMALL, WITH_MODELS, corpus, corpus_source, source};

#[tokio::test(flavor = "multi_thread")]
async fn fresh_stores_and_other_numbers_of_workers_give_the_same_bytes() {
    let mut before = None;
    for workers in [1, 2, 4] {
        let mut job = Job::try_new(WITH_MODELS, &corpus_source(4)).expect("a good configuration");
        job.config.runtime.workers = workers;
        job.options.limit = Some(20);
        let outcome = job.run().await.expect("the run ends");
        assert!(!outcome.was_published && outcome.windows.len() == 3, "{} windows", outcome.windows.len());
        let objects = job.objects().await;
        for kind in [
            "artefacts/",
            "units/prepare/",
            "units/settle/",
            "units/compose/",
            "units/pack/",
            "shards/",
            "windows/",
            "versions/",
            "checkpoints/",
        ] {
            assert!(objects.keys().any(|path| path.starts_with(kind)), "nothing lies in {kind}");
        }
        match &before {
            None => before = Some(objects),
            Some(before) => assert_eq!(before, &objects, "{workers} workers made other bytes"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_copies_of_one_file_are_duplicates_whoever_is_first() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for copy in ["a.tar", "b.tar", "c.tar"] {
        std::fs::copy(corpus().join("photos-00000.tar"), folder.path().join(copy)).expect("part of the corpus");
    }
    let mut before = None;
    for workers in [1, 4] {
        let mut job = Job::try_new(SMALL, &source("copies", "webdataset", &folder.path().join("*.tar"), 25)).expect("a good configuration");
        job.config.runtime.workers = workers;
        let outcome = job.run().await.expect("the run ends");
        let samples = &outcome.manifest.samples;
        assert_eq!((samples.input, samples.kept, samples.duplicate), (75, 25, 50), "{samples}");
        let statistics = outcome.manifest.statistics.values();
        let pairs: u64 = statistics.filter_map(|split| split.tasks.get("pair")).map(|task| task.documents).sum();
        assert_eq!(pairs, 25);
        let objects = job.objects().await;
        assert_eq!(before.get_or_insert_with(|| objects.clone()), &objects, "{workers} workers made other bytes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_was_stopped_goes_on_to_the_same_bytes() {
    let whole = Job::try_new(SMALL, &corpus_source(10)).expect("a good configuration");
    whole.run().await.expect("the run ends");
    let mut job = Job::try_new(SMALL, &corpus_source(10)).expect("a good configuration");
    job.options.stop.store(true, Ordering::Relaxed);
    assert!(matches!(job.run().await, Err(PipelineError::Interrupted)));
    assert!(!job.objects().await.keys().any(|path| path.starts_with("versions/")), "nothing is published");
    // Some of the units are there when the last run begins.
    job.options = RunOptions { limit: Some(30), ..RunOptions::default() };
    let partial = job.changed(SMALL, &corpus_source(10)).expect("a good configuration");
    partial.artefacts().await.expect("fitted");
    job.options = RunOptions::default();
    job.run().await.expect("the run ends");
    assert_eq!(job.objects().await, whole.objects().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_training_that_was_stopped_goes_on_to_the_same_weights() {
    let job = || {
        let mut job = Job::try_new(WITH_MODELS, &corpus_source(6)).expect("a good configuration");
        job.options.limit = Some(24);
        job
    };
    let whole = job();
    whole.run().await.expect("the run ends");
    let mut stopped = job();
    stopped.options.without_training = true;
    stopped.run().await.expect("the version is published");
    stopped.options = RunOptions { limit: Some(24), ..RunOptions::default() };
    stopped.options.stop.store(true, Ordering::Relaxed);
    assert!(matches!(stopped.run().await, Err(PipelineError::Interrupted)));
    stopped.options.stop.store(false, Ordering::Relaxed);
    let outcome = stopped.run().await.expect("the training ends");
    assert!(outcome.was_published && !outcome.was_trained);
    let checkpoint = outcome.training.expect("trained").checkpoint;
    let of = |objects: BTreeMap<String, Digest>| {
        objects.into_iter().filter(|(path, _)| path.starts_with(&checkpoint)).collect::<BTreeMap<_, _>>()
    };
    let (theirs, ours) = (of(whole.objects().await), of(stopped.objects().await));
    assert!(ours.len() >= 4 && ours == theirs, "{ours:#?} are not {theirs:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_run_makes_nothing() {
    let job = Job::try_new(WITH_MODELS, &corpus_source(6)).expect("a good configuration");
    let job = Job { options: RunOptions { limit: Some(24), ..Default::default() }, ..job };
    let first = job.run().await.expect("the first run ends");
    assert!(!first.nothing_to_do());
    let objects = job.objects().await;
    let second = job.run().await.expect("the second run ends");
    assert!(second.nothing_to_do() && second.report.is_none());
    assert_eq!(second.manifest, first.manifest);
    assert_eq!(second.training.expect("trained").curve, first.training.expect("trained").curve);
    assert_eq!(job.objects().await, objects);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_packs_reuse_all_image_tokens() {
    let job = Job::try_new(SMALL, &corpus_source(10)).expect("a good configuration");
    let first = job.run().await.expect("the first run ends");
    let objects = job.objects().await;
    let longer = job.changed(&SMALL.replace("seq_len = 512", "seq_len = 700"), &corpus_source(10)).expect("a good configuration");
    let second = longer.run().await.expect("the second run ends");
    assert_eq!((second.manifest.version, second.manifest.base, second.manifest.seq_len), (2, None, 700));
    assert_eq!(second.manifest.samples, first.manifest.samples);
    let new: Vec<String> = longer.objects().await.into_keys().filter(|path| !objects.contains_key(path)).collect();
    for kept in ["units/prepare/", "units/settle/", "artefacts/"] {
        assert!(!new.iter().any(|path| path.starts_with(kept)), "{kept} was made again");
    }
    assert!(new.iter().any(|path| path.starts_with("shards/")));
}

#[tokio::test(flavor = "multi_thread")]
async fn new_samples_append_windows_to_the_version_before() {
    let mut job = Job::try_new(SMALL, &corpus_source(10)).expect("a good configuration");
    job.options.limit = Some(25);
    let first = job.run().await.expect("the first run ends");
    job.options.limit = None;
    let second = job.run().await.expect("the second run ends");
    assert_eq!((second.manifest.version, second.manifest.base), (2, Some(1)));
    assert_eq!((first.manifest.samples.input, second.manifest.samples.input), (25, 75));
    let shards =
        |outcome: &cm3flow::run::RunOutcome| -> Vec<_> { outcome.windows.iter().flat_map(|window| window.shards.clone()).collect() };
    let (before, after) = (shards(&first), shards(&second));
    assert_eq!(&after[..before.len()], &before[..], "the base's shards stay, in their places");
    assert!(after.len() > before.len());
    assert!(second.manifest.samples.check("version 2").is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_settings_of_a_fitted_artefact_ask_for_refit() {
    let mut job = Job::try_new(SMALL, &corpus_source(10)).expect("a good configuration");
    job.options.limit = Some(25);
    job.run().await.expect("the first run ends");
    let mut changed =
        job.changed(&SMALL.replace("vocabulary_size = 400", "vocabulary_size = 350"), &corpus_source(10)).expect("a good configuration");
    let error = changed.run().await.expect_err("the pinned tokenizer has other settings");
    assert!(matches!(&error, PipelineError::Pinned { name } if name == "tokenizer"), "{error}");
    changed.options.refit = true;
    let second = changed.run().await.expect("refitted");
    assert_eq!((second.manifest.version, second.manifest.base), (2, None));
}
