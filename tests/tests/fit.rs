//! Fit of a single artefact: its quality on held-out photos, and its use by a run.

use cm3flow::{PipelineError, artefact};
use cm3flow_schemas::Digest;
use cm3flow_tests::trial::{SMALL, Trial, WITH_MODELS, corpus_source};

/// Tokenizer of the demo, fitted for a fourth of its steps.
const CODEBOOK: &str = r#"
[runtime]
threads = 2
[split]
held_out = 0.1
[tokenize.image]
kind = "vq"
preset = "photos-tiny"
[fit.codebook]
steps = 250
checkpoint_every = 100
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_fitted_codebook_brings_held_out_photos_back_better_than_patches() {
    let trial = Trial::try_new(CODEBOOK, &corpus_source(10)).expect("a good configuration");
    let fitted = artefact::fit_codebook(&trial.job(), false).await.expect("fits");
    let [network, patches] = &fitted.quality[..] else { panic!("two tokenizers: {:?}", fitted.quality) };
    assert_eq!(
        (network.photos, network.codebook_size, network.tokens_per_photo),
        (patches.photos, patches.codebook_size, patches.tokens_per_photo)
    );
    assert!(network.psnr_db > patches.psnr_db && network.ssim > patches.ssim, "{network:?} {patches:?}");
    assert!(2 * network.codes_used > network.codebook_size as usize, "{network:?}");
    let picture = image::load_from_memory(&fitted.reconstructions.expect("photos are held out")).expect("a PNG file");
    assert_eq!((picture.width(), picture.height()), (128 * network.photos.min(8) as u32, 3 * 128));
    // A pinned artefact is measured again, but not fitted.
    let again = artefact::fit_codebook(&trial.job(), false).await.expect("pinned");
    assert_eq!((again.weights, again.quality), (fitted.weights, fitted.quality));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_tokenizer_is_the_same_in_another_store_and_is_the_one_that_a_run_uses() {
    let fit = async |trial: &Trial| artefact::fit_text_tokenizer(&trial.job(), false).await;
    let [one, other] = [(); 2].map(|()| Trial::try_new(SMALL, &corpus_source(10)).expect("a good configuration"));
    let json = fit(&one).await.expect("fits").json;
    assert_eq!(json, fit(&other).await.expect("fits").json);
    assert_eq!(one.run().await.expect("the run ends").manifest.artefacts["text_tokenizer"], Digest::of(&json));
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, &json).expect("a file");
    let settings = SMALL.replace("[tokenize.text]", &format!("[tokenize.text]\nfile = \"{}\"", path.display()));
    let given = Trial::try_new(&settings, &corpus_source(10)).expect("a good configuration");
    assert!(matches!(fit(&given).await, Err(PipelineError::Given { .. })), "it is given");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_says_how_many_codes_batches_and_precision_change() {
    let settings = WITH_MODELS.split("[model]").next().expect("the part before");
    let trial = Trial::try_new(settings, &corpus_source(25)).expect("a good configuration");
    let manifest = trial.run().await.expect("the run ends").manifest;
    let names: Vec<&str> = manifest.code_changes.keys().map(String::as_str).collect();
    assert_eq!(names, ["batch_size=1", "batch_size=8", "precision=bfloat16"]);
    assert!(manifest.code_changes.values().all(|change| change.codes == 4 * 256), "{:?}", manifest.code_changes);
    let changed = |name: &str| manifest.code_changes[name].changed;
    assert!(changed("precision=bfloat16") > 0 && changed("batch_size=1") < changed("precision=bfloat16"), "{:?}", manifest.code_changes);
    let half = settings.replace("kind = \"vq\"", "kind = \"vq\"\nprecision = \"bfloat16\"");
    let half = trial.changed(&half, &corpus_source(25)).expect("a good configuration").run().await.expect("the run ends").manifest;
    assert_eq!(half.numerics.dtype, "bfloat16");
    assert_eq!(half.code_changes["precision=float32"].changed, changed("precision=bfloat16"), "the same comparison the other way round");
}
