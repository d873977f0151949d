//! Round trip of samples through documents and packs: text and images return unchanged.

use std::collections::{HashMap, HashSet};

use cm3flow::artefact::decode::{Content, Part, parts};
use cm3flow_schemas::SampleId;
use cm3flow_schemas::document::{Role, check};
use cm3flow_stages::eval::psnr;
use cm3flow_tests::trial::{SMALL, Trial, corpus, corpus_source, documents};
use serde_json::Value;

#[tokio::test(flavor = "multi_thread")]
async fn captions_and_images_survive_masking_and_packing() {
    let trial = Trial::try_new(SMALL, &corpus_source(10)).expect("a good configuration");
    let outcome = trial.run().await.expect("the run ends");
    let artefacts = trial.artefacts().await.expect("pinned");
    let packs = trial.packs(&outcome).await.expect("just written");
    let lines = std::fs::read_to_string(corpus().join("annotations.jsonl")).expect("part of the corpus");
    let written: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("annotations")).collect();
    let captions: HashSet<&str> =
        written.iter().flat_map(|row| row["captions"].as_array().expect("captions")).filter_map(Value::as_str).collect();

    let mut pairs: HashMap<SampleId, Vec<u32>> = HashMap::new();
    let mut masked = 0;
    for (document, tokens, segments) in documents(&packs) {
        check(&tokens, &segments, &outcome.manifest.vocabulary).unwrap_or_else(|error| panic!("{}: {error}", document.document_id));
        masked += usize::from(segments.iter().any(|segment| segment.role == Role::SpanEnd));
        if document.task != "pair" {
            continue;
        }
        let parts: Vec<Part> = parts(&tokens, &segments, &outcome.manifest.vocabulary, &artefacts.text).expect("ids of the vocabulary");
        let targets: Vec<&Content> = parts.iter().filter(|part| part.role == Role::Target).map(|part| &part.content).collect();
        let [Content::Text(caption), Content::Image(image)] = targets.as_slice() else {
            panic!("a pair is a caption and an image, not {targets:?}")
        };
        assert!(captions.contains(caption.as_str()), "{caption:?} is no caption of the corpus");
        assert_eq!((image.codes.len(), image.grid), (artefacts.image_spec.codes_per_image(), None));
        pairs.insert(document.sample_id, image.codes.clone());
    }
    assert!(masked * 2 > outcome.manifest.documents.packed as usize, "{masked} documents have masks");
    assert_eq!(pairs.len() as u64, outcome.manifest.samples.kept, "every kept sample made a pair");
    assert_eq!(documents(&packs).count() as u64, outcome.manifest.documents.packed);

    // A decoded picture consists of codes, so encoding it again changes little: patches are rounded to whole levels.
    let (_, codes) = pairs.into_iter().next().expect("there are pairs");
    let tokens = codes.clone();
    let pixels = artefacts.image.call(move |tokenizer| tokenizer.decode(&tokens)).await.expect("alive").expect("codes of the codebook");
    let again = pixels.clone();
    let encoded = artefacts.image.call(move |tokenizer| tokenizer.encode(&again)).await.expect("alive").expect("whole images");
    let decoded = artefacts.image.call(move |tokenizer| tokenizer.decode(&encoded)).await.expect("alive").expect("codes of the codebook");
    assert!(psnr(&decoded, &pixels) > 40.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_held_out_sample_is_trained_on_or_retrieved() {
    let trial = Trial::try_new(SMALL, &corpus_source(10)).expect("a good configuration");
    let outcome = trial.run().await.expect("the run ends");
    let artefacts = trial.artefacts().await.expect("pinned");
    let vocabulary = &outcome.manifest.vocabulary;
    let mut images: HashMap<bool, HashSet<Vec<u32>>> = HashMap::new();
    let mut retrieved: HashSet<Vec<u32>> = HashSet::new();
    for window in &outcome.windows {
        for shard in &window.shards {
            let schema = cm3flow_schemas::columns::pack(outcome.manifest.seq_len as usize, vocabulary.width());
            let mut blocks = cm3flow_stages::read::BlockReader::new(trial.store.objects(), schema);
            let packs = cm3flow_stages::read::read_packs(&mut blocks, std::slice::from_ref(shard), usize::MAX).await.expect("just written");
            let is_train = shard.split == cm3flow_schemas::sample::Split::Train;
            for (document, tokens, segments) in documents(&packs).filter(|(document, ..)| document.task == "pair") {
                for part in parts(&tokens, &segments, vocabulary, &artefacts.text).expect("ids of the vocabulary") {
                    match (part.role, part.content) {
                        (Role::Target, Content::Image(image)) => drop(images.entry(is_train).or_default().insert(image.codes)),
                        (Role::Retrieved, Content::Image(image)) => drop(retrieved.insert(image.codes)),
                        (_, Content::Text(_)) => {}
                        (role, Content::Image(_)) => panic!("{}: an image as {}", document.document_id, role.name()),
                    }
                }
            }
        }
    }
    let (train, held_out) = (&images[&true], &images[&false]);
    assert!(!held_out.is_empty() && train.is_disjoint(held_out));
    assert!(!retrieved.is_empty() && retrieved.is_subset(train), "only train images are retrieved");
}
