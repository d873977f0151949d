//! Whole runs on samples with given codes, which reach the packs unchanged.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use cm3flow::artefact::decode::{Content, parts};
use cm3flow::run::RunOutcome;
use cm3flow_schemas::document::Role;
use cm3flow_tests::given::{GIVEN, caption, codes, npy, rows};
use cm3flow_tests::trial::{SMALL, Trial, corpus, documents, source};

/// Writes a tar of `members`.
fn tar(path: &Path, members: &[(String, Vec<u8>)]) {
    let mut builder = tar::Builder::new(std::fs::File::create(path).expect("a temporary file"));
    for (name, bytes) in members {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, bytes.as_slice()).expect("a temporary file");
    }
    builder.finish().expect("a temporary file");
}

/// Returns caption and codes of every record that is a pair.
async fn pairs(trial: &Trial, outcome: &RunOutcome) -> BTreeMap<String, Vec<u32>> {
    let artefacts = trial.artefacts().await.expect("pinned");
    let packs = trial.packs(outcome).await.expect("just written");
    let mut pairs = BTreeMap::new();
    for (_, tokens, segments) in documents(&packs).filter(|(document, ..)| document.task == "pair") {
        let parts = parts(&tokens, &segments, &outcome.manifest.vocabulary, &artefacts.text).expect("ids of the vocabulary");
        let mut targets = parts.into_iter().filter(|part| part.role == Role::Target).map(|part| part.content);
        let (Some(Content::Text(caption)), Some(Content::Image(codes))) = (targets.next(), targets.next()) else {
            panic!("a pair is a caption and an image")
        };
        pairs.insert(caption, codes.codes);
    }
    pairs
}

#[tokio::test(flavor = "multi_thread")]
async fn codes_of_lists_and_tars_come_out_as_they_went_in() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("list.jsonl"), rows(0..30)).expect("a temporary file");
    let mut members: Vec<(String, Vec<u8>)> = (30..50)
        .flat_map(|number| [(format!("{number}.npy"), npy(&codes(number))), (format!("{number}.txt"), caption(number).into_bytes())])
        .collect();
    // Unusable members: too few codes, a code out of range, a picture without an encoder.
    members.push(("few.npy".into(), npy(&[1; 15])));
    members.push(("few.txt".into(), b"too few codes".to_vec()));
    members.push(("high.npy".into(), npy(&[256; 16])));
    members.push(("high.txt".into(), b"a code too high".to_vec()));
    members.push(("photo.png".into(), png(80)));
    members.push(("photo.txt".into(), b"a picture".to_vec()));
    tar(&folder.path().join("codes.tar"), &members);

    let sources =
        source("list", "jsonl", &folder.path().join("list.jsonl"), 8) + &source("tar", "webdataset", &folder.path().join("*.tar"), 8);
    let trial = Trial::try_new(GIVEN, &sources).expect("a good configuration");
    let outcome = trial.run().await.expect("the run ends");
    let samples = &outcome.manifest.samples;
    assert_eq!((samples.input, samples.kept), (53, 50), "{samples}");
    let refused: BTreeSet<&str> = samples.refused.keys().map(String::as_str).collect();
    assert_eq!(refused, BTreeSet::from(["tokenize.code_out_of_range", "tokenize.no_encoder", "tokenize.wrong_number_of_codes"]));
    let expected: BTreeMap<String, Vec<u32>> = (0..50).map(|number| (caption(number), codes(number))).collect();
    assert_eq!(pairs(&trial, &outcome).await, expected);
    let numerics = &outcome.manifest.numerics;
    assert_eq!((numerics.libtorch.as_str(), numerics.cpu_capability.as_str()), ("none", "any"));
    assert!(!outcome.manifest.artefacts.is_empty() && outcome.report.is_some());
    assert!(trial.run().await.expect("the second run ends").nothing_to_do());
}

#[tokio::test(flavor = "multi_thread")]
async fn codes_stand_beside_pictures_of_a_tokenizer_that_encodes() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let given = |number: u64| -> Vec<u32> { codes(number).into_iter().cycle().take(64).map(|code| code % 64).collect() };
    let lines: String =
        (0..12).map(|number| format!("{{\"codes\": {:?}, \"caption\": \"{}\"}}\n", given(number), caption(number))).collect();
    std::fs::write(folder.path().join("list.jsonl"), lines).expect("a temporary file");
    let sources = source("photos", "webdataset", &corpus().join("photos-00000.tar"), 10)
        + &source("list", "jsonl", &folder.path().join("list.jsonl"), 10);
    let trial = Trial::try_new(SMALL, &sources).expect("a good configuration");
    let outcome = trial.run().await.expect("the run ends");
    let samples = &outcome.manifest.samples;
    assert_eq!((samples.input, samples.kept), (37, 37), "{samples}");
    let pairs = pairs(&trial, &outcome).await;
    for number in 0..12 {
        assert_eq!(pairs.get(&caption(number)), Some(&given(number)), "{number}");
    }
}

/// Makes a picture of one colour as PNG.
fn png(side: u32) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image::RgbImage::from_pixel(side, side, image::Rgb([200, 30, 90])).write_to(&mut bytes, image::ImageFormat::Png).expect("in memory");
    bytes.into_inner()
}
