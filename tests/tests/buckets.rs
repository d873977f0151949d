//! Pictures of several shapes from end to end: each is stored, packed, shown and generated in its own shape.

use std::collections::{BTreeMap, BTreeSet};

use cm3flow::artefact::decode::{Content, Part, parts};
use cm3flow::view::inspect::Inspector;
use cm3flow_schemas::Grid;
use cm3flow_schemas::document::{ImageCodes, Role, check};
use cm3flow_schemas::sample::{EDGE_IMAGE, MAIN_IMAGE};
use cm3flow_stages::eval::psnr;
use cm3flow_tests::trial::{SMALL, Trial, WITH_MODELS, corpus_source, documents};

/// Adds shapes to `settings`, on a grid of 16 pixels: four steps along the square of 64.
fn bucketed(settings: &str, kind: &str) -> String {
    settings.replace(&format!("kind = \"{kind}\"\n"), &format!("kind = \"{kind}\"\naspect_buckets = {{ grid_px = 16 }}\n"))
}

fn size_of(png: &[u8]) -> (u32, u32) {
    let picture = image::load_from_memory_with_format(png, image::ImageFormat::Png).expect("a PNG file");
    (picture.width(), picture.height())
}

#[tokio::test(flavor = "multi_thread")]
async fn photos_come_out_of_packs_in_the_shape_nearest_to_their_own() {
    let trial = Trial::try_new(&bucketed(SMALL, "patches"), &corpus_source(10)).expect("a good configuration");
    let outcome = trial.run().await.expect("the run ends");
    let (artefacts, vocabulary) = (trial.artefacts().await.expect("pinned"), &outcome.manifest.vocabulary);
    let preparation = outcome.manifest.preparation.clone().expect("written");
    assert_eq!(vocabulary.shapes.as_ref().expect("they say shapes").grids, preparation.grids());
    let packs = trial.packs(&outcome).await.expect("just written");
    let (mut pairs, mut retrieved) = (BTreeMap::new(), BTreeSet::new());
    for (document, tokens, segments) in documents(&packs) {
        check(&tokens, &segments, vocabulary).unwrap_or_else(|error| panic!("{}: {error}", document.document_id));
        let parts: Vec<Part> = parts(&tokens, &segments, vocabulary, &artefacts.text).expect("ids of the vocabulary");
        for part in parts {
            match (part.role, part.content) {
                (Role::Target, Content::Image(image)) if document.task == "pair" => drop(pairs.insert(document.sample_id, image)),
                (Role::Retrieved, Content::Image(image)) => drop(retrieved.insert(image.grid.expect("its shape"))),
                _ => {}
            }
        }
    }
    assert_eq!(pairs.len() as u64, outcome.manifest.samples.kept, "every kept sample made a pair");
    let grids: BTreeSet<Grid> = pairs.values().map(|image| image.grid.expect("its shape")).collect();
    assert!(grids.len() >= 3 && retrieved.len() >= 2, "{grids:?}, retrieved {retrieved:?}");

    let inspector = Inspector::open(&trial.job(), None).await.expect("published");
    for (sample, ImageCodes { codes, grid }) in pairs {
        let view = inspector.sample(&sample.to_string()).await.expect("it is kept");
        let (width, height) = (view.width.expect("kept"), view.height.expect("kept"));
        assert_eq!(grid, preparation.grid_for(width, height), "{width}x{height}");
        let grid = grid.expect("its shape");
        let picture = |role: &str| view.images.iter().find(|image| image.role == role).expect("every photo has it");
        assert_eq!((picture(MAIN_IMAGE).codes.as_ref(), picture(MAIN_IMAGE).grid), (Some(&codes), Some(grid)));
        for role in [MAIN_IMAGE, EDGE_IMAGE] {
            assert_eq!(size_of(&picture(role).png), (grid.columns * 8, grid.rows * 8), "{role} of {width}x{height}");
        }
        // A decoded picture consists of codes, so encoding it again changes little.
        let tokens = codes.clone();
        let pixels = artefacts.image.call(move |tokenizer| tokenizer.decode_grid(&tokens, grid)).await.expect("alive").expect("codes");
        let again = pixels.clone();
        let encoded = artefacts.image.call(move |tokenizer| tokenizer.encode_grid(&again, grid)).await.expect("alive").expect("a picture");
        let decoded = artefacts.image.call(move |tokenizer| tokenizer.decode_grid(&encoded, grid)).await.expect("alive").expect("codes");
        assert!(psnr(&decoded, &pixels) > 40.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shapes_come_and_go_without_a_new_codebook() {
    let trial = Trial::try_new(SMALL, &corpus_source(10)).expect("a good configuration");
    let squares = trial.run().await.expect("the run ends");
    let written = serde_json::to_value(&squares.manifest).expect("plain data");
    assert!(written["vocabulary"].get("shapes").is_none() && written["preparation"].get("buckets").is_none(), "{written}");
    let shaped =
        trial.changed(&bucketed(SMALL, "patches"), &corpus_source(10)).expect("a good configuration").run().await.expect("it ends");
    assert_eq!(shaped.manifest.fitted, squares.manifest.fitted, "what is fitted is fitted on squares");
    assert_eq!(shaped.manifest.samples.kept, squares.manifest.samples.kept);
    let again = trial.changed(SMALL, &corpus_source(10)).expect("a good configuration").run().await.expect("it ends");
    let windows = |outcome: &cm3flow::run::RunOutcome| outcome.windows.iter().map(|window| window.shards.clone()).collect::<Vec<_>>();
    assert_eq!(windows(&again), windows(&squares));
    assert_ne!(windows(&shaped), windows(&squares));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_codes_shapes_and_a_model_generates_them() {
    let settings = bucketed(WITH_MODELS, "vq").replace("[tokenize.image.network]", "batch_size = 3\n[tokenize.image.network]");
    let mut trial = Trial::try_new(&settings, &corpus_source(10)).expect("a good configuration");
    trial.options.limit = Some(40);
    let outcome = trial.run().await.expect("the run ends");
    let shapes = outcome.manifest.vocabulary.shapes.clone().expect("they say shapes");
    let sizes: BTreeSet<(u32, u32)> = shapes.grids.iter().map(|grid| (grid.columns * 4, grid.rows * 4)).collect();
    let mut generated = 0;
    for path in trial.objects().await.keys().filter(|path| path.contains("/evaluations/") && path.ends_with(".png")) {
        let size = size_of(&trial.store.get(path).await.expect("memory").expect("listed"));
        assert!(sizes.contains(&size), "{path} is {size:?}");
        generated += usize::from(path.contains("generated-"));
    }
    assert!(generated >= 2, "one at each evaluation");

    let artefacts = trial.artefacts().await.expect("pinned");
    let packs = trial.packs(&outcome).await.expect("just written");
    let mut seen = BTreeSet::new();
    for (document, tokens, segments) in documents(&packs) {
        check(&tokens, &segments, &outcome.manifest.vocabulary).unwrap_or_else(|error| panic!("{}: {error}", document.document_id));
        for part in parts(&tokens, &segments, &outcome.manifest.vocabulary, &artefacts.text).expect("ids of the vocabulary") {
            if let Content::Image(image) = part.content {
                seen.extend(image.grid);
            }
        }
    }
    assert!(seen.len() >= 2, "{seen:?}");
}
