//! Text: fits give the same bytes anywhere, hostile captions return unchanged and forge no control token, and a version is not read with
//! another vocabulary.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use cm3flow::PipelineError;
use cm3flow::artefact::decode::{Content, parts};
use cm3flow::train::train_version;
use cm3flow::view::report::report_version;
use cm3flow_schemas::Digest;
use cm3flow_schemas::document::{Modality, Role, check};
use cm3flow_schemas::random::Draws;
use cm3flow_stages::error::Unrepresentable;
use cm3flow_stages::tokenize::{Fidelity, TextTokenizer, fit_text};
use cm3flow_tests::hostile::{Hostile, control_spellings, hostile_texts};
use cm3flow_tests::trial::{SMALL, Trial, corpus_source, documents, source, tokenizer_folder, tokenizers};
use image::{Rgb, RgbImage};
use unicode_normalization::UnicodeNormalization;

/// Number of captions in a run.
const CAPTIONS: usize = 1000;

/// Variable of the process that only prints its fit.
const IN_ANOTHER_PROCESS: &str = "CM3FLOW_TEST_FIT";

#[test]
fn fitted_tokenizers_are_the_same_in_every_process() {
    let mut texts: Vec<String> = hostile_texts(&control_spellings(), 5, 3000).into_iter().map(|hostile| hostile.text).collect();
    let digests: Vec<String> = [256, 300, 1000, 6000].map(|size| Digest::of(&fit_text(&texts, size).expect("fitted")).to_string()).into();
    if std::env::var_os(IN_ANOTHER_PROCESS).is_some() {
        println!("fitted {}", digests.join(" "));
        return;
    }
    for threads in ["1", "4"] {
        let output = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "text::fitted_tokenizers_are_the_same_in_every_process", "--nocapture"])
            .envs([(IN_ANOTHER_PROCESS, "1"), ("RAYON_NUM_THREADS", threads)])
            .output()
            .expect("it starts");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains(&format!("fitted {}", digests.join(" "))), "with {threads} threads: {said}");
    }
    Draws::new(1, "order", b"").shuffle(&mut texts);
    assert_eq!(Digest::of(&fit_text(&texts, 1000).expect("fitted")).to_string(), digests[2], "order does not matter");
}

/// Numbers of texts by the outcome of encoding.
#[derive(Default)]
struct Counts {
    exact: usize,
    normalized: usize,
    unknown: usize,
    changed: usize,
    control: usize,
}

fn count(tokenizer: &TextTokenizer, forbidden: &[u32], texts: &[Hostile]) -> Counts {
    let mut counts = Counts::default();
    for Hostile { text, .. } in texts {
        match tokenizer.encode(text) {
            Ok(ids) => {
                counts.control += ids.iter().filter(|id| forbidden.contains(id) || **id >= tokenizer.size()).count();
                let expected = if tokenizer.fidelity() == Fidelity::Composed { text.nfc().collect() } else { text.clone() };
                if tokenizer.decode(&ids).expect("its own ids") == expected {
                    counts.exact += 1;
                } else {
                    assert_eq!(tokenizer.fidelity(), Fidelity::Normalized, "{text:?} is changed in silence");
                    counts.normalized += 1;
                }
            }
            Err(Unrepresentable::Unknown { .. }) => counts.unknown += 1,
            Err(Unrepresentable::Changed { .. }) => counts.changed += 1,
            Err(error @ Unrepresentable::Control { .. }) => panic!("{text:?}: {error}"),
        }
    }
    counts
}

#[test]
fn no_kind_of_tokenizer_takes_text_for_control_tokens() {
    let spellings = control_spellings();
    let texts = hostile_texts(&spellings, 7, 1000);
    let fitted = fit_text(&texts.iter().take(200).map(|hostile| hostile.text.clone()).collect::<Vec<_>>(), 600).expect("fitted");
    let kinds: BTreeMap<String, Vec<u8>> = tokenizers().into_iter().chain([("fitted".to_owned(), fitted)]).collect();
    println!("{} spellings of control tokens in {} texts", spellings.len(), texts.len());
    println!("{:<22}{:>8}{:>12}{:>10}{:>10}{:>10}", "tokenizer", "exact", "normalized", "unknown", "changed", "control");
    for (name, json) in &kinds {
        let named = TextTokenizer::named_tokens(json).expect("a tokenizer");
        let forbidden: Vec<u32> = named.iter().filter(|token| token.is_added).map(|token| token.id).collect();
        let tokenizer = TextTokenizer::from_json(json).expect("loads");
        let Counts { exact, normalized, unknown, changed, control } = count(&tokenizer, &forbidden, &texts);
        println!("{name:<22}{exact:>8}{normalized:>12}{unknown:>10}{changed:>10}{control:>10}");
        assert_eq!(control, 0, "{name}");
        assert_eq!(exact + normalized + unknown + changed, texts.len(), "{name}");
        if ["fitted", "byte_level", "whole_words", "chameleon"].contains(&name.as_str()) {
            assert_eq!(exact, texts.len(), "{name} has a token for every byte");
        }
    }
}

/// Writes a list of pictures with the captions, and returns its path.
fn write_list(folder: &Path, captions: &[Hostile]) -> std::path::PathBuf {
    let mut lines = String::new();
    for (number, caption) in captions.iter().enumerate() {
        let file = format!("{number}.png");
        let shade = |x: u32, y: u32| Rgb([(x * 3) as u8 ^ number as u8, (y * 3) as u8 ^ (number >> 8) as u8, (x + y) as u8]);
        RgbImage::from_fn(64, 64, shade).save(folder.join(&file)).expect("a new folder");
        lines.push_str(&format!("{{\"image\": \"{file}\", \"caption\": \"{}\"}}\n", caption.json));
    }
    let list = folder.join("list.jsonl");
    fs::write(&list, lines).expect("a new folder");
    list
}

/// Runs `settings` on hostile captions, and compares every document with its input.
async fn hostile_captions_survive(settings: &str) {
    let captions = hostile_texts(&control_spellings(), 11, CAPTIONS);
    let folder = tempfile::tempdir().expect("a folder");
    let list = write_list(folder.path(), &captions);
    let settings = format!("{settings}[fit]\nmax_samples = 200\n");
    let trial = Trial::try_new(&settings, &source("hostile", "jsonl", &list, 125)).expect("a good configuration");
    let outcome = trial.run().await.expect("the run ends");
    let artefacts = trial.artefacts().await.expect("given or pinned");
    let packs = trial.packs(&outcome).await.expect("just written");
    let vocabulary = &outcome.manifest.vocabulary;
    assert!(outcome.manifest.samples.refused.is_empty(), "{:?}", outcome.manifest.samples);
    assert!(outcome.manifest.documents.refused.is_empty(), "{:?}", outcome.manifest.documents);

    // `filter` trims captions. A fitted tokenizer composes them; others do not.
    let is_composed = artefacts.text.fidelity() == Fidelity::Composed;
    let read_as = |hostile: &Hostile| -> String {
        let trimmed = hostile.text.trim();
        if is_composed { trimmed.nfc().collect() } else { trimmed.to_owned() }
    };
    let mut missing: BTreeMap<String, usize> = BTreeMap::new();
    captions.iter().for_each(|caption| *missing.entry(read_as(caption)).or_default() += 1);
    let known = missing.clone();
    let (mut text_tokens, mut control_tokens, mut masked, mut retrieved) = (0, 0, 0, 0);
    for (document, tokens, segments) in documents(&packs) {
        check(&tokens, &segments, vocabulary).unwrap_or_else(|error| panic!("{}: {error}", document.document_id));
        masked += usize::from(segments.iter().any(|segment| segment.role == Role::SpanEnd));
        for segment in segments.iter().filter(|segment| segment.modality == Modality::Text) {
            let ids = &tokens[segment.range()];
            text_tokens += ids.len();
            control_tokens += ids.iter().filter(|id| vocabulary.control_name(**id).is_some() || !vocabulary.text.contains(**id)).count();
        }
        for part in parts(&tokens, &segments, vocabulary, &artefacts.text).expect("ids of the vocabulary") {
            match (part.content, part.role, document.task.as_str()) {
                (Content::Text(text), Role::Target, "pair") => {
                    let left = missing.get_mut(&text).unwrap_or_else(|| panic!("{text:?} is no caption"));
                    *left = left.checked_sub(1).unwrap_or_else(|| panic!("{text:?} came back once more"));
                }
                (Content::Text(text), Role::Retrieved, _) => {
                    assert!(known.contains_key(&text), "{text:?} was retrieved and is no caption");
                    retrieved += 1;
                }
                _ => {}
            }
        }
    }
    let documents = outcome.manifest.documents.packed;
    println!("{}: {CAPTIONS} captions, {documents} documents ({masked} masked), {retrieved} retrieved captions", vocabulary.name);
    println!("{text_tokens} tokens of text, {control_tokens} of them control tokens");
    let lost: Vec<_> = missing.into_iter().filter(|(_, left)| *left > 0).collect();
    assert!(lost.is_empty(), "{} captions did not come back: {lost:?}", lost.len());
    assert_eq!(control_tokens, 0);
    assert!(text_tokens > CAPTIONS * 10 && masked > CAPTIONS / 2 && retrieved > CAPTIONS / 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_captions_survive_a_run_with_a_fitted_tokenizer() {
    hostile_captions_survive(SMALL).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_captions_survive_a_run_with_the_ids_of_chameleon() {
    let file = tokenizer_folder().join("chameleon.json");
    let text = format!("[tokenize.text]\nfile = \"{}\"", file.display());
    let vocabulary =
        "[vocabulary]\npreset = \"chameleon\"\nsentinels = { first = \"<reserved08690>\", count = 12 }\nspan_end = \"<reserved08705>\"";
    hostile_captions_survive(&SMALL.replace("[tokenize.text]\nvocabulary_size = 400", &format!("{text}\n{vocabulary}"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_without_tokens_is_refused_with_its_reason() {
    let file = tokenizer_folder().join("word_piece.json");
    let text = format!("[tokenize.text]\nfile = \"{}\"", file.display());
    let settings = SMALL.replace("[tokenize.text]\nvocabulary_size = 400", &text) + "[instruct.tasks]\npair = 1.0\ncaption = 1.0\n";
    let captions =
        ["a dog runs", "a 東京 dog", "two dogs", "a red boat", "\\u0645 dog"].map(|json| Hostile { json: json.into(), text: json.into() });
    let folder = tempfile::tempdir().expect("a folder");
    let list = write_list(folder.path(), &captions);
    let trial = Trial::try_new(&settings, &source("words", "jsonl", &list, 125)).expect("a good configuration");
    let outcome = trial.run().await.expect("the run ends");
    let documents = &outcome.manifest.documents;
    assert_eq!(outcome.manifest.samples.kept, 5);
    let refused = documents.refused["instruct.unrepresentable_text"];
    assert!(refused >= 4 && refused * 3 == documents.packed * 2, "two of five samples, in every task: {documents:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_is_not_read_with_another_vocabulary() {
    let train = "[model]\nlayers = 1\nwidth = 32\nheads = 2\n[train]\nsteps = 1\nbatch_packs = 1\nwarm_up_steps = 1\n";
    let settings = format!("{SMALL}{train}");
    let mut trial = Trial::try_new(&settings, &corpus_source(25)).expect("a good configuration");
    trial.options.without_training = true;
    trial.run().await.expect("the run ends");
    for (vocabulary, wanted) in [
        ("sentinels = 32", "vocabularies differ in sentinels: {\"len\":32,"),
        ("preset = \"cm3leon\"", "vocabularies differ in break_: 64512 here, "),
        ("modalities = { audio = 100 }", "vocabularies differ in modalities: {\"audio\":{\"len\":100,"),
    ] {
        let other = trial.changed(&format!("{settings}[vocabulary]\n{vocabulary}\n"), &corpus_source(25)).expect("a good configuration");
        let trained = train_version(&other.job(), None).await;
        let reported = report_version(&other.job(), None).await;
        for refused in [trained.expect_err("another vocabulary"), reported.expect_err("another vocabulary")] {
            assert!(matches!(refused, PipelineError::Mismatch(_)) && refused.is_users_mistake(), "{vocabulary}: {refused}");
            let said = refused.with_causes();
            assert!(said.contains("version 1 has another vocabulary") && said.contains(wanted), "{vocabulary}: {said}");
        }
    }
}
