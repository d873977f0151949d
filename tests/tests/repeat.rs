//! Repeatability: the same configuration, inputs, seed and artefacts give the same bytes, and existing units are never made again.

use std::collections::BTreeMap;

use cm3flow::PipelineError;
use cm3flow::run::RunOptions;
use cm3flow_schemas::Digest;
use cm3flow_tests::trial::{SMALL, Trial, WITH_MODELS, corpus, corpus_source, source};
use tokio_util::sync::CancellationToken;

#[tokio::test(flavor = "multi_thread")]
async fn fresh_stores_and_other_numbers_of_workers_give_the_same_bytes() {
    let mut before = None;
    for workers in [1, 2, 4] {
        let mut trial = Trial::try_new(WITH_MODELS, &corpus_source(4)).expect("a good configuration");
        trial.config.runtime.workers = workers;
        trial.options.limit = Some(20);
        let outcome = trial.run().await.expect("the run ends");
        assert!(!outcome.was_published && outcome.windows.len() == 3, "{} windows", outcome.windows.len());
        let objects = trial.objects().await;
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
        let mut trial =
            Trial::try_new(SMALL, &source("copies", "webdataset", &folder.path().join("*.tar"), 25)).expect("a good configuration");
        trial.config.runtime.workers = workers;
        let outcome = trial.run().await.expect("the run ends");
        let samples = &outcome.manifest.samples;
        assert_eq!((samples.input, samples.kept, samples.duplicate), (75, 25, 50), "{samples}");
        let statistics = outcome.manifest.statistics.values();
        let pairs: u64 = statistics.filter_map(|split| split.tasks.get("pair")).map(|task| task.documents).sum();
        assert_eq!(pairs, 25);
        let objects = trial.objects().await;
        assert_eq!(before.get_or_insert_with(|| objects.clone()), &objects, "{workers} workers made other bytes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_was_stopped_goes_on_to_the_same_bytes() {
    let whole = Trial::try_new(SMALL, &corpus_source(10)).expect("a good configuration");
    whole.run().await.expect("the run ends");
    let mut trial = Trial::try_new(SMALL, &corpus_source(10)).expect("a good configuration");
    trial.stop.cancel();
    assert!(matches!(trial.run().await, Err(PipelineError::Interrupted)));
    assert!(!trial.objects().await.keys().any(|path| path.starts_with("versions/")), "nothing is published");
    // Some of the units exist when the last run begins.
    trial.options = RunOptions { limit: Some(30), ..RunOptions::default() };
    let partial = trial.changed(SMALL, &corpus_source(10)).expect("a good configuration");
    partial.artefacts().await.expect("fitted");
    (trial.options, trial.stop) = (RunOptions::default(), CancellationToken::new());
    trial.run().await.expect("the run ends");
    assert_eq!(trial.objects().await, whole.objects().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_training_that_was_stopped_goes_on_to_the_same_weights() {
    let trial = || {
        let mut trial = Trial::try_new(WITH_MODELS, &corpus_source(6)).expect("a good configuration");
        trial.options.limit = Some(24);
        trial
    };
    let whole = trial();
    whole.run().await.expect("the run ends");
    let mut stopped = trial();
    stopped.options.without_training = true;
    stopped.run().await.expect("the version is published");
    stopped.options = RunOptions { limit: Some(24), ..RunOptions::default() };
    stopped.stop.cancel();
    assert!(matches!(stopped.run().await, Err(PipelineError::Interrupted)));
    stopped.stop = CancellationToken::new();
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
    let trial = Trial::try_new(WITH_MODELS, &corpus_source(6)).expect("a good configuration");
    let trial = Trial { options: RunOptions { limit: Some(24), ..Default::default() }, ..trial };
    let first = trial.run().await.expect("the first run ends");
    assert!(!first.nothing_to_do());
    let objects = trial.objects().await;
    let second = trial.run().await.expect("the second run ends");
    assert!(second.nothing_to_do() && second.report.is_none());
    assert_eq!(second.manifest, first.manifest);
    assert_eq!(second.training.expect("trained").curve, first.training.expect("trained").curve);
    assert_eq!(trial.objects().await, objects);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_packs_reuse_all_image_tokens() {
    let trial = Trial::try_new(SMALL, &corpus_source(10)).expect("a good configuration");
    let first = trial.run().await.expect("the first run ends");
    let objects = trial.objects().await;
    let longer = trial.changed(&SMALL.replace("seq_len = 512", "seq_len = 700"), &corpus_source(10)).expect("a good configuration");
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
    let mut trial = Trial::try_new(SMALL, &corpus_source(10)).expect("a good configuration");
    trial.options.limit = Some(25);
    let first = trial.run().await.expect("the first run ends");
    trial.options.limit = None;
    let second = trial.run().await.expect("the second run ends");
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
    let mut trial = Trial::try_new(SMALL, &corpus_source(10)).expect("a good configuration");
    trial.options.limit = Some(25);
    trial.run().await.expect("the first run ends");
    let mut changed =
        trial.changed(&SMALL.replace("vocabulary_size = 400", "vocabulary_size = 350"), &corpus_source(10)).expect("a good configuration");
    let error = changed.run().await.expect_err("the pinned tokenizer has other settings");
    assert!(matches!(&error, PipelineError::Pinned { name } if name == "tokenizer"), "{error}");
    changed.options.refit = true;
    let second = changed.run().await.expect("refitted");
    assert_eq!((second.manifest.version, second.manifest.base), (2, None));
}
