//! Whole runs with third-party image tokenizers: weights without a decoder, and a pair of TorchScript modules.

use std::path::Path;

use cm3flow::run::RunOutcome;
use cm3flow_tests::trial::{Trial, WITH_MODELS, corpus_source};

const MODULES: &str = r#"
kind = "torchscript"
encoder = "golden/encoder.jit"
decoder = "golden/decoder.jit"
side_px = 32
codebook_size = 300
batch_size = 4
"#;

const WITHOUT_DECODER: &str = r#"
kind = "vq"
weights = "golden/chameleon.safetensors"
batch_size = 4
[tokenize.image.network]
resolution = 32
channels = 32
channel_multipliers = [1, 1]
residual_blocks = 1
z_channels = 6
embedding_dim = 5
codebook_size = 300
"#;

/// Returns the settings of a run with models, with the files of `tests/parity/golden/` as image tokenizer.
fn settings(tokenizer: &str) -> String {
    let (before, rest) = WITH_MODELS.split_once("[tokenize.image]").expect("it names a tokenizer");
    let (_, after) = rest.split_once("[tokenize.text]").expect("it names a text tokenizer");
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("parity/golden");
    let tokenizer = tokenizer.replace("golden/", &format!("{}/", golden.display()));
    format!("{before}[filter]\nmin_short_side_px = 32\n[tokenize.image]\n{tokenizer}\n[tokenize.text]{after}")
}

async fn run(tokenizer: &str) -> (Trial, RunOutcome) {
    let mut trial = Trial::try_new(&settings(tokenizer), &corpus_source(10)).expect("a good configuration");
    trial.options.limit = Some(20);
    let outcome = trial.run().await.expect("the run ends");
    assert!(outcome.manifest.samples.kept > 10, "{:?}", outcome.manifest.samples);
    (trial, outcome)
}

#[tokio::test(flavor = "multi_thread")]
async fn torchscript_modules_run_the_whole_job() {
    let (trial, outcome) = run(&format!("{MODULES}grid = 16\n")).await;
    assert_eq!(outcome.manifest.vocabulary.image.len, 300);
    let artefacts = trial.artefacts().await.expect("given and pinned");
    assert!(artefacts.image_decodes);
    assert_eq!(artefacts.embedder_name, "hashed character n-grams, and colour layout or hashed codes");
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_without_decoder_run_the_whole_job() {
    let (trial, outcome) = run(WITHOUT_DECODER).await;
    assert_eq!(outcome.manifest.vocabulary.image.len, 300);
    assert!(!trial.artefacts().await.expect("given and pinned").image_decodes);
}

#[tokio::test(flavor = "multi_thread")]
async fn codes_that_the_modules_do_not_return_stop_the_run() {
    let mut trial = Trial::try_new(&settings(&format!("{MODULES}grid = 8\n")), &corpus_source(10)).expect("a good configuration");
    trial.options.limit = Some(5);
    let error = trial.run().await.expect_err("another grid");
    let mut said = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(error) = source {
        said += &format!(": {error}");
        source = error.source();
    }
    assert!(said.contains("the encoder returned whole numbers of shape [4, 16, 16], expected codes of 4 images, 8 x 8 each"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_no_tokenizer_are_named() {
    for (tokenizer, named) in [
        (WITHOUT_DECODER.replace("chameleon.safetensors", "encoder.jit"), "golden/encoder.jit: "),
        (format!("{}grid = 16\n", MODULES.replace("decoder.jit", "chameleon.safetensors")), "golden/chameleon.safetensors: "),
    ] {
        let trial = Trial::try_new(&settings(&tokenizer), &corpus_source(10)).expect("a good configuration");
        let error = trial.run().await.expect_err("no such tokenizer");
        assert!(error.is_users_mistake() && error.with_causes().contains(named), "{}", error.with_causes());
    }
}
