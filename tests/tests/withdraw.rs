//! `versions withdraw`: the next version has nothing of a withdrawn sample, and everything else stays in place.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;

use cm3flow::PipelineError;
use cm3flow::artefact::decode::{Content, Part, parts};
use cm3flow::catalog::Catalog;
use cm3flow::train::follow::Followed;
use cm3flow::versions::rebuild::rebuild;
use cm3flow::versions::verify::repair::repair;
use cm3flow::versions::withdraw::{FormerState, Near, Request, Why, Withdrawal, withdraw};
use cm3flow::view::inspect::{Inspector, SampleState, SampleView};
use cm3flow::view::report::report_version;
use cm3flow_schemas::document::check;
use cm3flow_schemas::ledger::DocumentLedger;
use cm3flow_schemas::pack::{Pack, PackStatistics, PlacedDocument};
use cm3flow_schemas::sample::Split;
use cm3flow_schemas::traits::{PackSource, ReaderState};
use cm3flow_schemas::version::VersionManifest;
use cm3flow_schemas::window::WindowRecord;
use cm3flow_schemas::{Digest, DocumentId, SampleId, columns};
use cm3flow_stages::pack::statistics;
use cm3flow_stages::read::{BlockReader, PackOrder, PackReader, read_packs};
use cm3flow_tests::pictures::{Altered, altered};
use cm3flow_tests::trial::{SMALL, Trial, corpus_source, documents, source};

/// A published version with all its packs.
struct Version {
    manifest: VersionManifest,
    windows: Vec<WindowRecord>,
    packs: BTreeMap<Split, Vec<Pack>>,
}

impl Version {
    async fn read(trial: &Trial, number: u32) -> Self {
        let catalog = Catalog::new(trial.store.clone(), "test");
        let manifest = catalog.version(number).await.expect("published");
        let windows = catalog.windows_of(&manifest).await.expect("whole");
        let schema = columns::pack(manifest.seq_len as usize, manifest.vocabulary.width());
        let mut packs = BTreeMap::new();
        for split in Split::ALL {
            let shards: Vec<_> = windows.iter().flat_map(|window| window.shards.clone()).filter(|shard| shard.split == split).collect();
            let mut blocks = BlockReader::new(trial.store.objects(), schema.clone());
            packs.insert(split, read_packs(&mut blocks, &shards, usize::MAX).await.expect("whole"));
        }
        Self { manifest, windows, packs }
    }

    fn placed(&self) -> impl Iterator<Item = &PlacedDocument> {
        self.packs.values().flatten().flat_map(|pack| &pack.documents)
    }

    fn samples(&self) -> BTreeSet<SampleId> {
        self.placed().map(|placed| placed.sample_id).collect()
    }

    /// Checks all counts against the packs, and the grammar of their documents.
    fn check_counts(&self) {
        let mut documents = DocumentLedger::default();
        for window in &self.windows {
            window.samples.check("a window").expect("the samples add up");
            window.documents.check("a window").expect("the documents add up");
            documents.add(&window.documents);
            assert_eq!(window.licenses.values().sum::<u64>(), window.samples.kept, "each kept sample has a licence");
        }
        assert_eq!(documents, self.manifest.documents);
        assert_eq!(documents.packed, self.placed().count() as u64);
        // All documents of a kept sample may have been refused, or withdrawn with another one.
        assert!(self.manifest.samples.kept >= self.samples().len() as u64);
        for (split, packs) in &self.packs {
            let counted = &self.manifest.statistics[split.name()];
            let found = statistics(packs, self.manifest.seq_len as usize);
            assert!(counted.most_squares >= found.most_squares, "what was the most expensive pack may have a hole by now");
            assert_eq!(of_packs_alone(counted), of_packs_alone(&found), "{}", split.name());
            for pack in packs {
                for (_, tokens, segments) in documents_of(pack) {
                    check(&tokens, &segments, &self.manifest.vocabulary).expect("whole documents");
                }
            }
        }
    }

    fn retrieved(&self) -> u64 {
        self.manifest.statistics.values().flat_map(|split| split.tasks.values()).map(|task| task.retrieved).sum()
    }
}

/// Returns the counts that follow from packs alone.
fn of_packs_alone(counts: &PackStatistics) -> PackStatistics {
    let mut counts =
        PackStatistics { least_packs: 0, most_squares: 0, packs_at: BTreeMap::new(), variant_packs: Vec::new(), ..counts.clone() };
    counts.tasks.values_mut().for_each(|task| (task.retrieved, task.retrieval_lowered) = (0, 0));
    counts
}

fn documents_of(pack: &Pack) -> impl Iterator<Item = (&PlacedDocument, Vec<u32>, Vec<cm3flow_schemas::document::Segment>)> {
    documents(std::slice::from_ref(pack))
}

/// Checks that `after` is `before` without the documents of `gone`, and otherwise unchanged.
fn check_overlay(before: &Version, after: &Version, gone: &HashSet<DocumentId>) {
    let pad = after.manifest.vocabulary.pad;
    assert_eq!(after.windows.len(), before.windows.len());
    for (old, new) in before.windows.iter().zip(&after.windows) {
        assert_eq!((&old.units, &old.keys, &old.blocklist), (&new.units, &new.keys, &new.blocklist));
        let blocks = |window: &WindowRecord| -> Vec<(Split, Vec<u64>)> {
            window.shards.iter().map(|shard| (shard.split, shard.blocks.iter().map(|block| block.packs).collect())).collect()
        };
        assert_eq!(blocks(old), blocks(new), "shards and blocks hold as many packs as before");
    }
    for split in Split::ALL {
        assert_eq!(before.packs[&split].len(), after.packs[&split].len());
        for (old, new) in before.packs[&split].iter().zip(&after.packs[&split]) {
            let (went, stay): (Vec<_>, Vec<_>) = old.documents.iter().cloned().partition(|placed| gone.contains(&placed.document_id));
            assert_eq!(new.documents, stay, "documents that stay have their place");
            let kept: Vec<_> = documents_of(old).filter(|(placed, ..)| !gone.contains(&placed.document_id)).collect();
            assert_eq!(documents_of(new).collect::<Vec<_>>(), kept, "and are the same token by token");
            let covered: HashSet<usize> = new.segments.iter().flat_map(|segment| segment.range()).collect();
            for (position, id) in new.tokens.iter().enumerate().filter(|(position, _)| !covered.contains(position)) {
                assert_eq!(*id, pad, "token {position} is neither a document's nor padding");
            }
            if went.is_empty() {
                assert_eq!(old, new);
            }
            if stay.is_empty() {
                assert!(new.segments.is_empty() && new.tokens.iter().all(|id| *id == pad), "an empty pack is padding");
            }
        }
    }
    after.check_counts();
}

fn request(samples: &[SampleId]) -> Request {
    Request { samples: samples.iter().map(ToString::to_string).collect(), ..Request::default() }
}

async fn run(trial: &Trial, request: &Request) -> Withdrawal {
    withdraw(&trial.job(), request).await.expect("the withdrawal ends")
}

async fn small_run() -> (Trial, Version) {
    run_with("").await
}

/// Publishes a version of the small run with further `sections`.
async fn run_with(sections: &str) -> (Trial, Version) {
    let trial = Trial::try_new(&format!("{SMALL}{sections}"), &corpus_source(10)).expect("a good configuration");
    trial.run().await.expect("the run ends");
    let version = Version::read(&trial, 1).await;
    version.check_counts();
    (trial, version)
}

/// Returns a train sample of `version` that documents of other samples retrieved, as `inspect` shows it.
async fn retrieved_sample(trial: &Trial, version: &Version) -> SampleView {
    let inspector = Inspector::open(&trial.job(), None).await.expect("published");
    let candidates: BTreeSet<SampleId> =
        version.packs[&Split::Train].iter().flat_map(|pack| &pack.documents).map(|placed| placed.sample_id).collect();
    for id in candidates {
        let view = inspector.sample(&id.to_string()).await.expect("packed");
        if view.retrieved_by.len() > 3 && view.annotations.as_ref().is_some_and(|annotations| !annotations.captions.is_empty()) {
            return view;
        }
    }
    panic!("no sample is retrieved")
}

/// Returns the documents that are withdrawn with a sample.
fn documents_with(view: &SampleView) -> HashSet<DocumentId> {
    let own = view.documents.iter().filter(|document| document.place.is_some()).map(|document| document.document_id);
    own.chain(view.retrieved_by.iter().copied()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_withdrawn_sample_is_left_and_all_else_is_where_it_was() {
    let (trial, before) = small_run().await;
    let view = retrieved_sample(&trial, &before).await;
    let gone = documents_with(&view);
    let withdrawal = run(&trial, &request(&[view.sample_id])).await;
    assert_eq!((withdrawal.base, withdrawal.version), (1, Some(2)));
    let listed: Vec<_> = withdrawal.samples.iter().map(|sample| (sample.sample_id, sample.was, sample.why)).collect();
    assert_eq!(listed, [(view.sample_id, FormerState::Kept, Why::Named)]);
    let documents = withdrawal.documents;
    assert!(documents.own > 0 && documents.retrieved > 0, "{documents:?}");
    assert_eq!(documents.own + documents.retrieved, gone.len() as u64);

    let after = Version::read(&trial, 2).await;
    check_overlay(&before, &after, &gone);
    assert_eq!((after.manifest.base, after.manifest.samples.withdrawn), (Some(1), 1));
    assert_eq!(after.manifest.samples.kept + 1, before.manifest.samples.kept);
    assert_eq!(after.manifest.documents.withdrawn, gone.len() as u64);
    assert!(after.retrieved() < before.retrieved());
    assert!(!after.samples().contains(&view.sample_id));
    let digests =
        |version: &Version| -> HashSet<Digest> { version.windows.iter().flat_map(|w| &w.shards).map(|shard| shard.digest).collect() };
    assert_eq!(digests(&after).difference(&digests(&before)).count() as u64, withdrawal.shards, "other shards are those of before");

    // Its caption and its codes, which were in the packs, are gone.
    let artefacts = trial.artefacts().await.expect("pinned");
    let caption = view.annotations.expect("it is prepared").captions.remove(0);
    let codes = view.images.iter().find(|image| image.role == "main").and_then(|image| image.codes.clone()).expect("a main image");
    let shows = |version: &Version| {
        let (mut captions, mut pictures) = (0, 0);
        for pack in version.packs.values().flatten() {
            for (_, tokens, segments) in documents_of(pack) {
                for part in parts(&tokens, &segments, &version.manifest.vocabulary, &artefacts.text).expect("readable") {
                    match part.content {
                        Content::Text(text) => captions += usize::from(text.contains(&caption)),
                        Content::Image(found) => pictures += usize::from(found.codes == codes),
                    }
                }
            }
        }
        (captions, pictures)
    };
    let (captions, pictures) = shows(&before);
    assert!(captions > 1 && pictures > 1, "{captions} captions and {pictures} pictures");
    assert_eq!(shows(&after), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sample_goes_from_every_variant_of_the_documents() {
    let (trial, before) = run_with("[mask]\nvariants = 3\n").await;
    let view = retrieved_sample(&trial, &before).await;
    let gone = documents_with(&view);
    let of_variant = |version: &Version, variant: u16| -> Vec<u64> {
        let shards = version.windows.iter().flat_map(|window| &window.shards);
        shards.filter(|shard| shard.split == Split::Train && shard.variant == variant).map(|shard| shard.packs).collect()
    };
    run(&trial, &request(&[view.sample_id])).await;
    let after = Version::read(&trial, 2).await;
    check_overlay(&before, &after, &gone);
    assert!(!after.samples().contains(&view.sample_id));
    for variant in 0..3 {
        assert_eq!(of_variant(&after, variant), of_variant(&before, variant), "each shard stays one of its variant");
        assert!(!of_variant(&after, variant).is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawn_sample_is_shown_as_such_and_its_documents_not_at_all() {
    let (trial, before) = small_run().await;
    let view = retrieved_sample(&trial, &before).await;
    let id = view.sample_id.to_string();
    run(&trial, &request(&[view.sample_id])).await;
    run(
        &trial,
        &Request {
            samples: vec![before.samples().into_iter().find(|other| *other != view.sample_id).expect("more").to_string()],
            ..Request::default()
        },
    )
    .await;

    let inspector = Inspector::open(&trial.job(), None).await.expect("published");
    let shown = inspector.sample(&id).await.expect("units still name it");
    assert_eq!(shown.version, 3);
    assert!(!shown.places.is_empty());
    assert!(shown.places.iter().all(|place| place.state == SampleState::Withdrawn { withdrawn_in: 2 }), "{:?}", shown.places);
    assert!(shown.documents.is_empty() && shown.retrieved_by.is_empty() && shown.images.is_empty() && shown.annotations.is_none());
    for document in documents_with(&view) {
        let error = inspector.document(&document.to_string()).await.expect_err("withdrawn");
        assert!(error.is_users_mistake() && error.to_string().contains("it was withdrawn"), "{error}");
    }
    let listing = inspector.listing(usize::MAX).await.expect("readable");
    assert!(!listing.samples.iter().any(|sample| sample.sample_id == view.sample_id));
    assert!(!listing.documents.iter().any(|document| documents_with(&view).contains(&document.document_id)));
    let page = report_version(&trial.job(), None).await.expect("a report");
    assert!(!page.contains(&id) && page.contains("withdrawn 2"), "the report counts it and does not show it");

    // The earlier version stays as it was.
    let former = Inspector::open(&trial.job(), Some(&1.into())).await.expect("published");
    assert_eq!(former.sample(&id).await.expect("kept").places[0].state, SampleState::Kept);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_saved_before_continues_after_with_the_same_packs_but_for_holes() {
    let (trial, before) = small_run().await;
    let gone = retrieved_sample(&trial, &before).await.sample_id;
    run(&trial, &request(&[gone])).await;
    let after = Version::read(&trial, 2).await;
    let packs = before.packs[&Split::Train].len();
    let at = packs / 3;
    let read = |version: &Version, from: u64, count: usize| {
        let schema = columns::pack(version.manifest.seq_len as usize, version.manifest.vocabulary.width());
        let feed = Followed::published(&version.windows).feed();
        let order = PackOrder { split: Split::Train, seed: 5, seq_len: version.manifest.seq_len as usize };
        let mut reader = PackReader::new(trial.store.objects(), Box::new(feed), schema, order, tokio::runtime::Handle::current());
        let read = move || {
            reader.restore(ReaderState { position: from });
            let batch = reader.next_batch(count).expect("readable");
            (batch, reader.state())
        };
        tokio::task::spawn_blocking(read)
    };
    // Two epochs and a part of the third, whose later part is read from the next version.
    let (whole, _) = read(&before, 0, 2 * packs + at).await.expect("a thread");
    let (_, state) = read(&before, 0, at).await.expect("a thread");
    let (resumed, _) = read(&after, state.position, 2 * packs).await.expect("a thread");
    let (seq_len, pad) = (whole.seq_len, after.manifest.vocabulary.pad);
    let mut holes = 0;
    for row in 0..resumed.rows() {
        let old = &whole.tokens[(row + at) * seq_len..][..seq_len];
        let new = &resumed.tokens[row * seq_len..][..seq_len];
        assert!(old.iter().zip(new).all(|(old, new)| old == new || *new == pad), "pack {row} is another one");
        assert!(resumed.segments[row].iter().all(|segment| whole.segments[row + at].contains(segment)));
        holes += usize::from(old != new);
    }
    assert!(holes > 0, "some packs have holes");
    assert!(holes < resumed.rows(), "and some have none");
}

#[tokio::test(flavor = "multi_thread")]
async fn packs_whose_documents_all_went_are_padding() {
    let (trial, before) = small_run().await;
    let held_out: Vec<SampleId> =
        before.packs[&Split::HeldOut].iter().flat_map(|pack| &pack.documents).map(|placed| placed.sample_id).collect();
    let samples = held_out.into_iter().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>();
    let withdrawal = run(&trial, &Request { near: Near::Off, ..request(&samples) }).await;
    assert_eq!(withdrawal.empty_packs, before.packs[&Split::HeldOut].len() as u64);
    assert_eq!(withdrawal.documents.retrieved, 0, "held-out samples are not retrieved");
    let after = Version::read(&trial, 2).await;
    let gone = before.packs[&Split::HeldOut].iter().flat_map(|pack| &pack.documents).map(|placed| placed.document_id).collect();
    check_overlay(&before, &after, &gone);
    let counts = &after.manifest.statistics[Split::HeldOut.name()];
    assert_eq!((counts.packs, counts.used, counts.tasks.len()), (withdrawal.empty_packs, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_withdrawal_is_laid_over_the_first() {
    let (trial, before) = small_run().await;
    let first = retrieved_sample(&trial, &before).await;
    run(&trial, &request(&[first.sample_id])).await;
    let between = Version::read(&trial, 2).await;
    let second = before.samples().into_iter().rfind(|sample| *sample != first.sample_id).expect("there are more");
    let inspector = Inspector::open(&trial.job(), None).await.expect("published");
    let gone = documents_with(&inspector.sample(&second.to_string()).await.expect("kept"));
    let withdrawal = run(&trial, &request(&[second, first.sample_id])).await;
    assert_eq!((withdrawal.version, withdrawal.already_withdrawn), (Some(3), BTreeSet::from([first.sample_id])));
    assert_eq!(withdrawal.samples.len(), 1, "{:?}", withdrawal.samples);
    let after = Version::read(&trial, 3).await;
    check_overlay(&between, &after, &gone);
    assert_eq!((after.manifest.base, after.manifest.samples.withdrawn), (Some(2), 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawal_in_two_steps_leaves_the_packs_of_one() {
    let (trial, before) = small_run().await;
    let samples: Vec<SampleId> = before.samples().into_iter().take(2).collect();
    let (at_once, _) = small_run().await;
    run(&trial, &request(&samples[..1])).await;
    run(&trial, &request(&samples[1..])).await;
    run(&at_once, &request(&samples)).await;
    let (stepwise, at_once) = (Version::read(&trial, 3).await, Version::read(&at_once, 2).await);
    assert_eq!(stepwise.windows, at_once.windows);
    assert_eq!(stepwise.manifest.blocklist, at_once.manifest.blocklist);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_refused_and_what_has_gone_is_no_work() {
    let (trial, before) = small_run().await;
    let objects = trial.objects().await;
    let none = |request: Request| {
        let trial = &trial;
        async move { withdraw(&trial.job(), &request).await.expect_err("refused") }
    };
    let text = |text: &str| vec![text.to_owned()];
    let unknown = "0123456789abcdef0123456789abcdef";
    for error in [
        none(Request { samples: text(unknown), ..Request::default() }).await,
        none(Request { images: text(unknown), ..Request::default() }).await,
        none(Request { keys: text("photos/no-such-key"), ..Request::default() }).await,
        none(Request { keys: text("elsewhere/animals-owl"), ..Request::default() }).await,
    ] {
        assert!(matches!(&error, PipelineError::UnknownId { version: 1, .. }) && error.is_users_mistake(), "{error}");
    }
    for error in [
        none(Request { samples: text("photo-1"), ..Request::default() }).await,
        none(Request { keys: text("animals-owl"), ..Request::default() }).await,
    ] {
        assert!(matches!(&error, PipelineError::NoId { .. }), "{error}");
    }
    let id = before.samples().pop_first().expect("samples");
    let dry = run(&trial, &Request { dry_run: true, ..request(&[id]) }).await;
    assert!(dry.documents.own > 0 && dry.packs > 0 && dry.version.is_none() && !dry.nothing_to_do());
    assert_eq!(trial.objects().await, objects, "nothing is written by mistakes and dry runs");

    let done = run(&trial, &request(&[id])).await;
    assert_eq!((dry.documents, dry.packs, dry.shards), (done.documents, done.packs, done.shards));
    let objects = trial.objects().await;
    let again = run(&trial, &request(&[id])).await;
    assert!(again.nothing_to_do() && again.already_withdrawn == BTreeSet::from([id]));
    assert_eq!(trial.objects().await, objects);
}

#[tokio::test(flavor = "multi_thread")]
async fn samples_are_named_by_beginning_image_and_key_alike() {
    let (trial, _) = small_run().await;
    let inspector = Inspector::open(&trial.job(), None).await.expect("published");
    let listing = inspector.listing(3).await.expect("readable");
    let [by_id, by_image, by_key] = listing.samples.as_slice() else { panic!("three samples") };
    let image = inspector.sample(&by_image.sample_id.to_string()).await.expect("listed").image_id.expect("prepared");
    let withdrawal = run(
        &trial,
        &Request {
            samples: vec![by_id.sample_id.to_string()[..12].to_owned()],
            images: vec![image.to_string()[..12].to_owned()],
            keys: vec![format!("photos/{}", by_key.key)],
            ..Request::default()
        },
    )
    .await;
    let found: BTreeSet<SampleId> = withdrawal.samples.iter().map(|sample| sample.sample_id).collect();
    assert_eq!(found, listing.samples.iter().map(|sample| sample.sample_id).collect());
    assert!(withdrawal.samples.iter().all(|sample| sample.why == Why::Named), "{:?}", withdrawal.samples);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_withdrawals_at_once_one_wins_and_the_other_is_told() {
    let (trial, before) = small_run().await;
    let base = before.manifest.clone();
    run(&trial, &request(&[before.samples().pop_first().expect("samples")])).await;
    // The other withdrawal had the same base.
    let lost =
        Catalog::new(trial.store.clone(), "test").publish_overlay(&base, Some(Digest::of(b"other ids")), before.windows.clone()).await;
    assert!(matches!(lost, Err(PipelineError::Overtaken { version: 2, .. })), "{lost:?}");
    assert_eq!(Version::read(&trial, 2).await.manifest.samples.withdrawn, 1, "what was published stays");
}

/// Writes photos of the corpus as files, each unchanged and altered, with captions of their own. Returns the keys of the altered ones.
fn with_copies(folder: &Path, alteration: Altered) -> BTreeMap<String, String> {
    altered(folder, alteration).into_iter().map(|name| (name.clone(), format!("copy-{name}"))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_of_a_withdrawn_photo_go_with_it_and_other_photos_stay() {
    for alteration in [Altered::Quality(40), Altered::Scale(0.7)] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let copies = with_copies(folder.path(), alteration);
        let trial = Trial::try_new(SMALL, &source("files", "folder", folder.path(), 20)).expect("a good configuration");
        trial.run().await.expect("the run ends");
        for (original, copy) in copies.iter().take(8) {
            let withdrawal = run(&trial, &Request { keys: vec![format!("files/{original}")], dry_run: true, ..Request::default() }).await;
            let keys: BTreeSet<&str> = withdrawal.samples.iter().map(|sample| sample.key.as_str()).collect();
            assert_eq!(keys, BTreeSet::from([original.as_str(), copy]), "{alteration:?}: {:?}", withdrawal.samples);
        }
        let (original, copy) = copies.iter().next().expect("photos");
        let request = |near| Request { keys: vec![format!("files/{original}")], near, ..Request::default() };
        let alone = run(&trial, &Request { dry_run: true, ..request(Near::Off) }).await;
        assert_eq!(alone.samples.len(), 1);
        let withdrawal = run(&trial, &request(Near::default())).await;
        assert!(withdrawal.samples.iter().any(|sample| sample.key == *copy && matches!(sample.why, Why::Near(_))));
        let gone: HashSet<SampleId> = withdrawal.samples.iter().map(|sample| sample.sample_id).collect();
        let after = Version::read(&trial, 2).await;
        after.check_counts();
        assert!(after.samples().iter().all(|sample| !gone.contains(sample)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_the_withdrawn_one_stood_for_are_withdrawn_too() {
    let twice = format!("{}{}", corpus_source(10), corpus_source(25).replace("name = \"photos\"", "name = \"again\""));
    let trial = Trial::try_new(SMALL, &twice).expect("a good configuration");
    trial.run().await.expect("the run ends");
    let before = Version::read(&trial, 1).await;
    let id = before.samples().pop_first().expect("samples");
    let withdrawal = run(&trial, &request(&[id])).await;
    let states: Vec<FormerState> = withdrawal.samples.iter().map(|sample| sample.was).collect();
    assert_eq!(states, [FormerState::Kept, FormerState::Duplicate]);
    let (old, new) = (&before.manifest.samples, Version::read(&trial, 2).await.manifest.samples);
    assert_eq!((new.kept + 1, new.duplicate + 1, new.withdrawn), (old.kept, old.duplicate, 2));
}

/// A run on a version from which `view` was withdrawn, over the corpus, the corpus again under another name, and the photos of its first file under
/// other captions; returns the first trial, on the same store, the version of the withdrawal and that of the run.
async fn later_run() -> (Trial, SampleView, Version, Version) {
    let (trial, before) = small_run().await;
    let view = retrieved_sample(&trial, &before).await;
    run(&trial, &request(&[view.sample_id])).await;
    let between = Version::read(&trial, 2).await;
    let again = trial.run().await.expect("the run ends");
    assert!(again.was_published && again.manifest == between.manifest, "a withdrawal alone is no work for a run");
    let folder = tempfile::tempdir().expect("a temporary folder");
    drop(altered(folder.path(), Altered::Caption));
    let more = format!(
        "{}{}{}",
        corpus_source(10),
        corpus_source(25).replace("name = \"photos\"", "name = \"again\""),
        source("files", "folder", folder.path(), 20)
    );
    let later = trial.changed(SMALL, &more).expect("a good configuration");
    let outcome = later.run().await.expect("the run ends");
    assert_eq!((outcome.manifest.version, outcome.manifest.base), (3, Some(2)));
    let after = Version::read(&trial, 3).await;
    (trial, view, between, after)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_run_keeps_the_holes() {
    let (_, view, between, after) = later_run().await;
    assert_eq!(after.windows[..between.windows.len()], between.windows, "the windows with holes are carried on");
    assert_eq!(after.manifest.blocklist, between.manifest.blocklist);
    after.check_counts();
    assert!(!after.samples().contains(&view.sample_id));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_with_holes_is_made_again_with_its_digest_and_its_shards_are_repaired() {
    let (trial, _, _, after) = later_run().await;
    run(&trial, &request(&after.samples().into_iter().take(2).collect::<Vec<_>>())).await;
    let catalog = Catalog::new(trial.store.clone(), "test");
    for version in 1..=4 {
        let again = rebuild(&trial.job(), Some(&version.into()), false).await.expect("all is there");
        assert_eq!(again.first_difference, None, "version {version}");
        assert_eq!(Some(again.manifest), catalog.recorded_digest(version).await.expect("memory"));
    }

    let shards = |version: &Version| -> BTreeSet<Digest> {
        version.windows.iter().flat_map(|window| &window.shards).map(|shard| shard.digest).collect()
    };
    let last = Version::read(&trial, 4).await;
    let rewritten: Vec<Digest> = shards(&last).difference(&shards(&after)).copied().collect();
    assert!(!rewritten.is_empty());
    let before = trial.objects().await;
    let units = before.keys().filter(|path| path.starts_with("units/compose/") && path.ends_with("unit.json"));
    for path in units.cloned().chain(rewritten.iter().map(|shard| format!("shards/{shard}.arrow"))) {
        trial.store.delete(&path).await.expect("memory");
    }
    let outcome = repair(&trial.job(), 4).await.expect("what cannot be healed is no error");
    assert!(outcome.after.is_clean(), "{:?}", outcome.after);
    assert_eq!(trial.objects().await, before, "the same bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_withdrawn_photo_that_come_later_are_neither_kept_nor_retrieved() {
    let (trial, view, between, after) = later_run().await;
    let withdrawn: u64 = after.windows[between.windows.len()..].iter().map(|window| window.samples.withdrawn).sum();
    let copies = 1 + u64::from(view.places[0].file == "photos-00000.tar");
    assert_eq!(withdrawn, copies, "rows of the withdrawn photo that came later count as withdrawn: {}", after.manifest.samples);
    // Documents contain retrieved samples with their pictures.
    let codes = view.images.iter().find(|image| image.role == "main").and_then(|image| image.codes.clone()).expect("a main image");
    let artefacts = trial.artefacts().await.expect("pinned");
    for (_, tokens, segments) in after.packs.values().flatten().flat_map(documents_of) {
        let parts = parts(&tokens, &segments, &after.manifest.vocabulary, &artefacts.text).expect("readable");
        let is_back = |part: &Part| matches!(&part.content, Content::Image(image) if image.codes == codes);
        assert!(!parts.iter().any(is_back), "its picture is back");
    }
}
