//! Condition images of annotators: real TorchScript modules on the photos of the corpus, down to documents and pictures.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use cm3flow::PipelineError;
use cm3flow::plan::{Plan, output_config};
use cm3flow::run::RunOutcome;
use cm3flow::versions::rebuild::rebuild;
use cm3flow::view::inspect::Inspector;
use cm3flow_schemas::document::Role;
use cm3flow_tests::trial::{SMALL, Trial, corpus_source, documents, source};
use image::{GrayImage, RgbImage};

/// Returns the folder of the modules that `tests/parity/annotators.py` makes.
fn modules() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("parity/golden")
}

/// Returns the settings of a run with one annotator, from the file `module`, and with documents of its task and of `edge`.
fn with_annotator(role: &str, module: &Path, settings: &str) -> String {
    let tasks = format!("[instruct.tasks]\nedge = 1.0\n{role} = 1.0\n");
    format!("{SMALL}{tasks}[annotate.{role}]\nmodule = {:?}\n{settings}\n", module.display().to_string())
}

fn with_depth(settings: &str) -> String {
    with_annotator("depth", &modules().join("depth.jit"), settings)
}

fn decoded(png: &[u8]) -> RgbImage {
    image::load_from_memory(png).expect("a PNG file").into_rgb8()
}

/// Returns the correlation of two lists of numbers.
fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let centred = |values: &[f64]| {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        values.iter().map(|value| value - mean).collect::<Vec<_>>()
    };
    let (a, b) = (centred(a), centred(b));
    let inner = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    inner(&a, &b) / (inner(&a, &a) * inner(&b, &b)).sqrt()
}

/// Returns the mean brightness of squares of 8 x 8 pixels, which the codes of these tests preserve.
fn coarse(picture: &GrayImage) -> Vec<f64> {
    let mean = |left: u32, top: u32| {
        let levels = (0..64).map(|place| f64::from(picture.get_pixel(left + place % 8, top + place / 8).0[0]));
        levels.sum::<f64>() / 64.0
    };
    (0..picture.height() / 8).flat_map(|row| (0..picture.width() / 8).map(move |column| mean(column * 8, row * 8))).collect()
}

async fn documents_of(trial: &Trial, outcome: &RunOutcome, task: &str) -> Vec<String> {
    let packs = trial.packs(outcome).await.expect("just written");
    let of_task = documents(&packs).filter(|(document, ..)| document.task == task);
    let with_condition = of_task.inspect(|(document, _, segments)| {
        assert!(segments.iter().any(|segment| segment.role == Role::Condition), "{} has no condition", document.document_id);
    });
    with_condition.map(|(document, ..)| document.document_id.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn photos_become_documents_with_the_depth_that_a_module_sees() {
    let trial = Trial::try_new(&with_depth("side_px = 48"), &corpus_source(25)).expect("a good configuration");
    let outcome = trial.run().await.expect("the run ends");
    let manifest = &outcome.manifest;
    assert_eq!((manifest.samples.input, manifest.samples.kept), (75, 75), "{}", manifest.samples);
    let made = documents_of(&trial, &outcome, "depth").await;
    assert_eq!(
        (made.len(), made.len() as u64),
        (75, manifest.documents.packed - documents_of(&trial, &outcome, "edge").await.len() as u64)
    );

    // The test repeats the module's computation on decoded pictures: bright or low parts are near.
    let inspector = Inspector::open(&trial.job(), None).await.expect("published");
    for id in made.iter().step_by(15) {
        let view = inspector.document(id).await.expect("it is packed");
        let [condition, photo] = view.images.as_slice() else { panic!("{} pictures", view.images.len()) };
        let (depth, photo) = (decoded(&condition.png), decoded(&photo.png));
        assert_eq!((depth.dimensions(), photo.dimensions()), ((64, 64), (64, 64)));
        let grey = |picture: &RgbImage| image::imageops::grayscale(picture);
        let near = GrayImage::from_fn(64, 64, |x, y| {
            image::Luma([(f32::from(grey(&photo).get_pixel(x, y).0[0]) * (0.5 + y as f32 / 128.0)) as u8])
        });
        let alike = correlation(&coarse(&grey(&depth)), &coarse(&near));
        assert!(alike > 0.8, "document {id}: the depth map and the photo correlate by {alike} alone");
        let levels: BTreeSet<u8> = depth.pixels().map(|pixel| pixel.0[0]).collect();
        assert!(levels.len() > 8, "{levels:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_annotators_stand_side_by_side_whatever_the_workers() {
    let golden = modules();
    let moments = "{ mean = [0.485, 0.456, 0.406], std = [0.229, 0.224, 0.225] }";
    let settings = format!(
        "{}[annotate.hed]\nmodule = {:?}\ninput = {moments}\noutput = 2\nbatch_size = 3\n[annotate.normal]\nmodule = {:?}\ninput = \"signed\"\nside_px = 32\n",
        with_depth("").replace("[instruct.tasks]\n", "[instruct.tasks]\nhed = 1.0\nnormal = 1.0\n"),
        golden.join("edges.jit").display().to_string(),
        golden.join("normals.jit").display().to_string(),
    );
    let trial = Trial::try_new(&settings, &corpus_source(10)).expect("a good configuration");
    let outcome = trial.run().await.expect("the run ends");
    for task in ["depth", "hed", "normal", "edge"] {
        assert_eq!(documents_of(&trial, &outcome, task).await.len(), 75, "{task}");
    }
    let view = Inspector::open(&trial.job(), None).await.expect("published");
    let sample = view.listing(1).await.expect("readable").samples[0].sample_id.to_string();
    let images = view.sample(&sample).await.expect("listed").images;
    let roles: Vec<&str> = images.iter().map(|image| image.role.as_str()).filter(|role| !role.starts_with("edit")).collect();
    assert_eq!(roles, ["edge", "main", "depth", "hed", "normal"]);
    // A normal towards the viewer is blue; flat ground covers most of a photo.
    let normal = decoded(&images.iter().find(|image| image.role == "normal").expect("just listed").png);
    let mean = |channel: usize| normal.pixels().map(|pixel| f64::from(pixel.0[channel])).sum::<f64>() / 4096.0;
    assert!(mean(2) > 180.0 && (90.0..165.0).contains(&mean(0)) && (90.0..165.0).contains(&mean(1)), "{} {} {}", mean(0), mean(1), mean(2));

    let alone = Trial::try_new(&settings.replace("workers = 2", "workers = 1"), &corpus_source(10)).expect("a good configuration");
    alone.run().await.expect("the run ends");
    assert!(trial.objects().await == alone.objects().await, "the number of workers changes the store");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_follow_the_bytes_of_a_module_and_its_settings_but_not_its_place() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let elsewhere = folder.path().join("renamed.pt");
    std::fs::copy(modules().join("depth.jit"), &elsewhere).expect("a temporary folder");
    let sources = corpus_source(25);
    let trial = Trial::try_new(&with_depth(""), &sources).expect("a good configuration");
    let first = trial.run().await.expect("the run ends");
    let manifest = &first.manifest;
    assert!(manifest.artefacts.contains_key("annotator.depth"), "{:?}", manifest.artefacts);
    assert_eq!(manifest.config["annotate"]["depth"]["range"], "picture");
    assert_eq!(manifest.config["annotate"]["depth"]["side_px"], 64, "that of the tokenizer");
    assert!(!manifest.config.to_string().contains("jit"), "{}", manifest.config);
    assert_eq!(manifest.numerics.libtorch, "2.11.0", "k-means patches alone need none");

    let moved =
        trial.changed(&with_annotator("depth", &elsewhere, "range = \"picture\"\nbatch_size = 8"), &sources).expect("a good configuration");
    assert!(moved.run().await.expect("it ends").nothing_to_do());
    for again in [true, false] {
        let made = rebuild(&moved.job(), None, again).await.expect("all is there");
        assert_eq!((made.first_difference, made.other_units_from, made.settings), (None, None, vec![]));
    }
    for settings in ["inverted = true", "batch_size = 4", "side_px = 32", "input = \"signed\"", "range = [-2, 2]"] {
        let other = trial.changed(&with_depth(settings), &sources).expect("a good configuration");
        let artefacts = other.artefacts().await.expect("pinned");
        let segment = Plan::differs_from(&other.config, &artefacts, &first.windows).map(|segment| segment.name());
        assert_eq!(segment, Some("prepare"), "{settings}");
    }
    let other = trial.changed(&with_annotator("depth", &modules().join("normals.jit"), ""), &sources).expect("a good configuration");
    let error = rebuild(&other.job(), None, true).await.expect_err("another module");
    assert!(error.to_string().contains("another module or settings of annotate.depth"), "{error}");

    // Inspecting a version needs no module; making its units again does.
    let without = trial.changed(&SMALL.replace("[split]", "[instruct.tasks]\nedge = 1.0\ndepth = 1.0\n[split]"), &sources).expect("good");
    assert!(output_config(&without.config).get("annotate").is_none());
    let inspector = Inspector::open(&without.job(), None).await.expect("published");
    let sample = inspector.listing(1).await.expect("readable").samples[0].sample_id.to_string();
    assert!(inspector.sample(&sample).await.expect("listed").images.iter().any(|image| image.role == "depth"));
    let error = rebuild(&without.job(), None, true).await.expect_err("no module");
    assert!(error.to_string().contains("name its module under annotate.depth"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_annotator_cannot_see_is_refused_by_reason() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str, picture: RgbImage| {
        picture.save(folder.path().join(format!("{name}.png"))).expect("a temporary folder");
        std::fs::write(folder.path().join(format!("{name}.txt")), format!("a picture called {name}")).expect("a temporary folder");
    };
    write("night", RgbImage::new(80, 80));
    for number in 0..5_u8 {
        write(&format!("slope {number}"), RgbImage::from_fn(80, 80, |x, y| image::Rgb([(x * 3) as u8, (y * 3) as u8, number * 40])));
    }
    let sources = source("mine", "folder", folder.path(), 10) + &corpus_source(25);
    let trial = Trial::try_new(&with_depth(""), &sources).expect("a good configuration");
    let outcome = trial.run().await.expect("a bad sample stops nothing");
    let samples = &outcome.manifest.samples;
    assert_eq!((samples.input, samples.refused.get("annotate.not_finite")), (81, Some(&1)), "{samples}");
    assert_eq!(samples.kept, 80, "{samples}");
    let inspector = Inspector::open(&trial.job(), None).await.expect("published");
    let refused = &inspector.listing(3).await.expect("readable").refused;
    let details: Vec<&str> = refused.iter().map(|sample| sample.detail.as_str()).collect();
    assert_eq!(details, ["image depth: 1024 of 1024 values are not finite"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_that_makes_no_pictures_ends_the_run_and_is_named() {
    let sources = corpus_source(25);
    let settings = with_annotator("hed", &modules().join("edges.jit"), "output = 0");
    let error = Trial::try_new(&settings, &sources).expect("a good configuration").run().await.expect_err("two channels are no picture");
    let chain = chain(&error);
    assert!(chain.contains("annotator hed (") && chain.contains("edges.jit)") && chain.contains("shape [8, 2, 64, 64]"), "{chain}");

    let settings = with_annotator("hed", &modules().join("taming.ckpt"), "");
    let error = Trial::try_new(&settings, &sources).expect("a good configuration").run().await.expect_err("no module");
    assert!(self::chain(&error).contains("taming.ckpt"), "{error}");
    let settings = with_annotator("hed", Path::new("nowhere/hed.pt"), "");
    let error = Trial::try_new(&settings, &sources).expect("a good configuration").run().await.expect_err("no file");
    assert!(matches!(&error, PipelineError::File { path, .. } if path.ends_with("nowhere/hed.pt")), "{error}");
}

/// Returns an error with all its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
