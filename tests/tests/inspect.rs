//! `inspect` on whole runs: it shows the content of the packs, and pictures as the tokenizer decodes them.

use std::collections::{BTreeMap, HashMap, HashSet};

use cm3flow::PipelineError;
use cm3flow::artefact::decode::{Content, parts};
use cm3flow::run::RunOutcome;
use cm3flow::view::inspect::{Inspector, SampleState};
use cm3flow_schemas::document::{Modality, unmasked};
use cm3flow_schemas::pack::Pack;
use cm3flow_schemas::sample::Split;
use cm3flow_schemas::{SampleId, columns};
use cm3flow_stages::read::{BlockReader, read_packs};
use cm3flow_tests::trial::{SMALL, Trial, WITH_MODELS, corpus, corpus_source, documents};

/// Returns the packs of one split in stored order.
async fn packs_of(trial: &Trial, outcome: &RunOutcome, split: Split) -> Vec<Pack> {
    let shards: Vec<_> = outcome.windows.iter().flat_map(|window| window.shards.clone()).filter(|shard| shard.split == split).collect();
    let schema = columns::pack(outcome.manifest.seq_len as usize, outcome.manifest.vocabulary.width());
    read_packs(&mut BlockReader::new(trial.store.objects(), schema), &shards, usize::MAX).await.expect("just written")
}

async fn small_run() -> (Trial, RunOutcome, Inspector) {
    let trial = Trial::try_new(SMALL, &corpus_source(10)).expect("a good configuration");
    let outcome = trial.run().await.expect("the run ends");
    let inspector = Inspector::open(&trial.job(), None).await.expect("published");
    (trial, outcome, inspector)
}

/// Returns the RGB pixels of a PNG file.
fn pixels(png: &[u8]) -> Vec<u8> {
    image::load_from_memory_with_format(png, image::ImageFormat::Png).expect("a PNG file").into_rgb8().into_raw()
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_of_the_codebook_is_that_of_the_tokens_in_the_shards() {
    let (trial, outcome, inspector) = small_run().await;
    let view = inspector.codebook().await.expect("readable");
    let image = outcome.manifest.vocabulary.image;
    let mut sum = vec![0_u64; image.len as usize];
    for split in Split::ALL {
        let mut counts: BTreeMap<u32, u64> = BTreeMap::new();
        for pack in packs_of(&trial, &outcome, split).await {
            // The test counts by segments, the command by ids.
            for segment in pack.segments.iter().filter(|segment| segment.modality == Modality::Image) {
                pack.tokens[segment.range()].iter().for_each(|id| *counts.entry(id - image.start).or_default() += 1);
            }
        }
        let usage = &view.splits[split.name()];
        let tokens: u64 = counts.values().sum();
        let shown: BTreeMap<u32, u64> = (0..).zip(usage.counts.iter().copied()).filter(|(_, count)| *count > 0).collect();
        assert_eq!(shown, counts, "{}", split.name());
        let by_task = outcome.manifest.statistics[split.name()].tasks.values().map(|task| task.image_tokens).sum::<u64>();
        assert_eq!((usage.tokens, usage.used, usage.codes), (tokens, counts.len(), image.len as usize));
        assert_eq!(tokens, by_task, "the manifest counts the same tokens");
        let entropy_bits: f64 = counts.values().map(|&count| count as f64 / tokens as f64).map(|p| -p * p.log2()).sum();
        assert!((usage.perplexity.log2() - entropy_bits).abs() < 1e-9, "{} is not 2^{entropy_bits}", usage.perplexity);
        counts.iter().for_each(|(code, count)| sum[*code as usize] += count);
    }
    assert_eq!(view.all.counts, sum);
    assert_eq!(view.all.dead_codes.len() + view.all.used, view.all.codes);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_document_of_a_pack_is_found_by_its_id_with_text_and_pictures() {
    let (trial, outcome, inspector) = small_run().await;
    let artefacts = trial.artefacts().await.expect("pinned");
    let vocabulary = &outcome.manifest.vocabulary;
    let packs = packs_of(&trial, &outcome, Split::Train).await;
    let last = packs.len() - 1;
    let mut masked = 0;
    for index in [0, last] {
        let name = format!("train/{index}");
        let pack = inspector.pack(&name).await.expect("it is there");
        assert_eq!((pack.pack.as_str(), pack.token_ids.as_ref()), (name.as_str(), Some(&packs[index].tokens)));
        assert_eq!(pack.segments.iter().map(|segment| segment.len).sum::<u32>(), pack.used, "every place is listed once");
        assert_eq!(pack.segments.len(), packs[index].segments.len());
        assert_eq!(pack.documents.len(), packs[index].documents.len());
        let mut pictures = pack.images.iter();
        for (placed, tokens, segments) in documents(&packs[index..=index]) {
            let view = inspector.document(&placed.document_id.to_string()).await.expect("it is packed");
            assert_eq!((view.document_id, view.sample_id, &view.task), (placed.document_id, placed.sample_id, &placed.task));
            let place = view.place.as_ref().expect("it is packed");
            assert_eq!((place.pack.as_str(), place.start, place.len), (name.as_str(), placed.start, placed.len));
            assert_eq!(view.token_ids.as_deref(), Some(tokens.as_slice()));
            assert_eq!(view.tokens, tokens.len());

            // Segments, masks and text.
            let listed: Vec<_> = view.segments.iter().map(|row| (row.start, row.len, row.modality, row.role, row.has_loss)).collect();
            let stored: Vec<_> = segments.iter().map(|s| (s.start, s.len, s.modality.name(), s.role.name(), s.loss_weight > 0.0)).collect();
            assert_eq!(listed, stored);
            assert!(view.masked.starts_with("</s>") && view.masked.ends_with("</s>"), "{}", view.masked);
            assert_eq!(view.masked.contains("<sentinel:0>"), view.spans > 0, "{}", view.masked);
            assert!(!view.unmasked.contains("<sentinel:") && !view.unmasked.contains("<eoss>"), "{}", view.unmasked);
            masked += view.spans;
            let (whole, _) = unmasked(&tokens, &segments, vocabulary);
            assert!(whole.len() <= tokens.len());

            // Pictures.
            let mut codes = Vec::new();
            for part in parts(&tokens, &segments, vocabulary, &artefacts.text).expect("ids of the vocabulary") {
                match part.content {
                    Content::Text(text) => {
                        // Only line breaks and doubled spaces may differ.
                        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
                        assert!(words(&view.unmasked).contains(&words(&text)), "{text:?} is not in {}", view.unmasked);
                    }
                    Content::Image(image) => codes.push(image.codes),
                }
            }
            assert_eq!(view.images.len(), codes.len());
            for (picture, codes) in view.images.iter().zip(codes) {
                assert_eq!(picture.codes.as_ref(), Some(&codes));
                let decoded = artefacts.image.call(move |tokenizer| tokenizer.decode(&codes)).await.expect("alive").expect("codes");
                assert_eq!(pixels(&picture.png), decoded);
                assert_eq!(pictures.next().expect("the pack has it too").png, picture.png);
            }
        }
    }
    assert!(masked > 0, "no document of these packs has masks");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sample_shows_its_source_its_documents_and_what_it_retrieved() {
    let (trial, outcome, inspector) = small_run().await;
    let mut by_sample: HashMap<SampleId, HashSet<String>> = HashMap::new();
    let packs = trial.packs(&outcome).await.expect("just written");
    for (document, ..) in documents(&packs) {
        by_sample.entry(document.sample_id).or_default().insert(document.document_id.to_string());
    }
    let lines = std::fs::read_to_string(corpus().join("annotations.jsonl")).expect("part of the corpus");
    let mut retrieved = 0;
    for (sample, made) in by_sample.iter().take(3) {
        let view = inspector.sample(&sample.to_string()).await.expect("it is kept");
        assert_eq!(view.sample_id, *sample);
        let [place] = view.places.as_slice() else { panic!("the corpus holds it once: {:?}", view.places) };
        assert_eq!((place.source.as_str(), &place.state), ("photos", &SampleState::Kept));
        assert!(place.file.starts_with("photos-") && lines.contains(&place.key), "{place:?}");
        let annotations = view.annotations.as_ref().expect("it is kept");
        assert!(!annotations.captions.is_empty());
        for caption in &annotations.captions {
            assert!(lines.contains(serde_json::to_string(caption).expect("text").as_str()), "{caption:?}");
        }
        let shown: HashSet<String> =
            view.documents.iter().filter(|document| document.place.is_some()).map(|document| document.document_id.to_string()).collect();
        assert_eq!(&shown, made);
        // Both sides show a retrieval.
        for neighbour in view.documents.iter().flat_map(|document| document.retrieved.iter().map(move |found| (document, found))) {
            let (document, found) = neighbour;
            let other = inspector.sample(&found.sample_id.to_string()).await.expect("it is in the bank");
            assert!(other.retrieved_by.contains(&document.document_id), "{} does not know of it", found.sample_id);
            retrieved += 1;
        }
        assert!(view.images.iter().any(|image| image.file == "main.png"));
    }
    assert!(retrieved > 0, "none of the samples retrieved anything");
}

#[tokio::test(flavor = "multi_thread")]
async fn duplicates_and_refused_samples_say_what_became_of_them() {
    let settings = SMALL.replace("min_short_side_px = 32", "min_short_side_px = 32\nmax_aspect = 1.4");
    let twice = format!("{}{}", corpus_source(10), corpus_source(25).replace("name = \"photos\"", "name = \"again\""));
    let trial = Trial::try_new(&settings, &twice).expect("a good configuration");
    let outcome = trial.run().await.expect("the run ends");
    assert!(outcome.manifest.samples.duplicate > 0, "{}", outcome.manifest.samples);
    let inspector = Inspector::open(&trial.job(), Some(&1.into())).await.expect("published");

    let listing = inspector.listing(3).await.expect("readable");
    assert_eq!((listing.version, listing.samples.len()), (1, 3));
    let twin = inspector.sample(&listing.samples[0].sample_id.to_string()).await.expect("listed");
    let states: HashSet<_> = twin.places.iter().map(|place| (place.source.as_str(), place.state == SampleState::Kept)).collect();
    assert_eq!(states.len(), 2, "{:?}", twin.places);
    assert_eq!(twin.places.iter().filter(|place| place.state == SampleState::Kept).count(), 1, "{:?}", twin.places);
    assert!(twin.places.iter().any(|place| place.state == SampleState::Duplicate { duplicate_of: twin.sample_id }), "{:?}", twin.places);

    let refused = listing.refused.first().expect("some photo is too small or too long");
    let view = inspector.sample(&refused.sample_id.to_string()).await.expect("listed");
    assert_eq!((view.places.len(), view.documents.len(), view.images.len()), (2, 0, 0), "it is refused in both sources");
    for place in &view.places {
        let SampleState::Refused(refusal) = &place.state else { panic!("{place:?} is refused") };
        assert_eq!((&refusal.stage, &refusal.reason, &refusal.detail), (&refused.stage, &refused.reason, &refused.detail));
        assert_eq!(place.key, refused.key);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn beginnings_of_ids_are_taken_and_mistakes_are_told_apart() {
    let (_, outcome, inspector) = small_run().await;
    let listing = inspector.listing(5).await.expect("readable");
    let tasks: HashSet<&str> = listing.documents.iter().map(|document| document.task.as_str()).collect();
    assert!(tasks.len() == listing.documents.len() && tasks.contains("pair"), "one of each task: {tasks:?}");
    let packs: u64 = outcome.manifest.statistics.values().map(|split| split.packs).sum();
    assert_eq!(listing.packs.iter().map(|split| split.packs).sum::<u64>(), packs);

    let id = listing.samples[0].sample_id;
    assert_eq!(inspector.sample(&id.to_string()[..12]).await.expect("a long beginning is its own").sample_id, id);
    // The ids of 75 samples cannot all begin with different digits.
    let digits = "0123456789abcdef".chars();
    let mut ambiguous = 0;
    for digit in digits {
        match inspector.sample(&digit.to_string()).await {
            Ok(view) => assert!(view.sample_id.to_string().starts_with(digit)),
            Err(PipelineError::AmbiguousId { candidates, .. }) => {
                assert!(candidates.len() > 1 && candidates.iter().all(|id| id.starts_with(digit) || id == "and more"), "{candidates:?}");
                ambiguous += 1;
            }
            Err(PipelineError::UnknownId { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert!(ambiguous > 0);
    for wrong in [inspector.sample("0123456789abcdef0123456789abcdef").await.err(), inspector.pack("train/100000").await.err()] {
        assert!(matches!(&wrong, Some(error @ PipelineError::UnknownId { .. }) if error.is_users_mistake()), "{wrong:?}");
    }
    for wrong in [inspector.document("photo-1").await.err(), inspector.pack("train:0").await.err()] {
        assert!(matches!(&wrong, Some(PipelineError::NoId { .. })), "{wrong:?}");
    }
    let trial = Trial::try_new(SMALL, &corpus_source(10)).expect("a good configuration");
    let error = Inspector::open(&trial.job(), None).await.err().expect("nothing is published");
    assert_eq!(error.to_string(), "nothing of dataset test is published yet; `cm3flow run` publishes its first version");
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_of_a_network_are_those_that_the_evaluation_stored() {
    let mut trial = Trial::try_new(WITH_MODELS, &corpus_source(10)).expect("a good configuration");
    trial.options.limit = Some(40);
    let outcome = trial.run().await.expect("the run ends");
    let inspector = Inspector::open(&trial.job(), None).await.expect("published");
    // The evaluation also decodes held-out images, and keeps them as files.
    let mut stored = HashSet::new();
    for path in trial.objects().await.keys().filter(|path| path.contains("/evaluations/") && path.contains("held-out-")) {
        stored.insert(pixels(&trial.store.get(path).await.expect("memory").expect("listed")));
    }
    assert!(!stored.is_empty(), "the evaluation kept no pictures");
    let mut shown = HashSet::new();
    for index in 0..outcome.manifest.statistics[Split::HeldOut.name()].packs {
        let pack = inspector.pack(&format!("held_out/{index}")).await.expect("it is there");
        shown.extend(pack.images.iter().map(|image| pixels(&image.png)));
        for document in pack.documents.iter().take(1) {
            let sample = inspector.sample(&document.placed.sample_id.to_string()).await.expect("it is kept");
            assert_eq!(sample.split, Some(Split::HeldOut));
            assert!(sample.retrieved_by.is_empty(), "held-out samples are not retrieved");
        }
    }
    assert!(stored.is_subset(&shown), "{} of {} pictures are shown", stored.intersection(&shown).count(), stored.len());
}
