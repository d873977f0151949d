//! Annotators, compared with PyTorch's results for the same modules; `tests/parity/annotators.py` makes the files.

use std::path::PathBuf;

use cm3flow_model::annotate::{AnnotatorConfig, InputRange, InputValues, Moments, OutputRange, OwnRange, TorchScriptAnnotator};
use cm3flow_model::device::{DeviceChoice, set_threads};
use cm3flow_schemas::traits::{AnnotatedImage, ImageAnnotator, NotFinite};
use safetensors::SafeTensors;

const SIDE: u32 = 32;
const BYTES: usize = (SIDE * SIDE * 3) as usize;

fn file(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/parity/golden").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}

fn expected(name: &str) -> Vec<u8> {
    let bytes = file("annotators.expected.safetensors");
    SafeTensors::deserialize(&bytes).expect("safetensors").tensor(name).expect("a tensor of this name").data().to_vec()
}

fn edges() -> AnnotatorConfig {
    let moments = Moments { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };
    let range = OutputRange::Fixed([0.0, 1.0]);
    AnnotatorConfig { side_px: SIDE, input: InputValues::Normalized(moments), output: 2, range, inverted: false }
}

fn depth() -> AnnotatorConfig {
    let range = OutputRange::Own(OwnRange::Picture);
    AnnotatorConfig { side_px: SIDE, input: InputValues::Range(InputRange::Unit), output: 0, range, inverted: false }
}

fn normals() -> AnnotatorConfig {
    let range = OutputRange::Fixed([-1.0, 1.0]);
    AnnotatorConfig { side_px: SIDE, input: InputValues::Range(InputRange::Signed), output: 0, range, inverted: false }
}

fn annotator(name: &str, config: &AnnotatorConfig, batch_size: u32) -> TorchScriptAnnotator {
    set_threads(1);
    TorchScriptAnnotator::try_new(name, config, &file(&format!("{name}.jit")), batch_size, DeviceChoice::Cpu).expect("a module")
}

fn pictures(annotator: &mut TorchScriptAnnotator, pixels: &[u8]) -> Vec<AnnotatedImage> {
    let made = annotator.annotate(pixels).expect("whole pictures");
    made.into_iter().map(|picture| picture.expect("finite values")).collect()
}

#[test]
fn annotations_are_those_that_pytorch_computes() {
    for (name, config, side_px) in [("edges", edges(), SIDE), ("depth", depth(), SIDE / 2), ("normals", normals(), SIDE)] {
        let made = pictures(&mut annotator(name, &config, 2), &expected("pixels"));
        assert_eq!(made.len(), 3, "{name}");
        assert!(made.iter().all(|picture| picture.side_px == side_px), "{name}");
        let (found, expected): (Vec<u8>, _) = (made.into_iter().flat_map(|picture| picture.pixels).collect(), expected(name));
        assert_eq!(found.len(), expected.len(), "{name}");
        // A value on the border of two levels may become either.
        let furthest = found.iter().zip(&expected).map(|(found, expected)| found.abs_diff(*expected)).max();
        let others = found.iter().zip(&expected).filter(|(found, expected)| found != expected).count();
        assert!(furthest <= Some(1) && others * 1000 < found.len(), "{name}: {others} of {} levels differ, by {furthest:?}", found.len());
    }
}

#[test]
fn an_annotation_depends_neither_on_the_other_pictures_nor_on_calls_before() {
    for (name, config) in [("edges", edges()), ("depth", depth()), ("normals", normals())] {
        let mut annotator = annotator(name, &config, 2);
        let pixels = expected("pixels");
        let together = pictures(&mut annotator, &pixels);
        let again = pictures(&mut annotator, &pixels);
        let apart: Vec<AnnotatedImage> = pixels.chunks(BYTES).flat_map(|picture| pictures(&mut annotator, picture)).collect();
        assert!(together == again && together == apart, "{name}");
    }
}

#[test]
fn inverted_pictures_are_negatives() {
    let pixels = expected("pixels");
    let plain = pictures(&mut annotator("depth", &depth(), 2), &pixels);
    let inverted = pictures(&mut annotator("depth", &AnnotatorConfig { inverted: true, ..depth() }, 2), &pixels);
    for (plain, inverted) in plain.iter().zip(&inverted) {
        assert!(plain.pixels.iter().zip(&inverted.pixels).all(|(plain, inverted)| plain.abs_diff(255 - inverted) <= 1));
        assert!(plain.pixels.contains(&0) && plain.pixels.contains(&255), "scaled to its own range");
    }
}

#[test]
fn a_picture_of_one_level_where_the_range_is_its_own_is_black() {
    let range = OutputRange::Own(OwnRange::Picture);
    let config = AnnotatorConfig { range, ..normals() };
    // A plane has the normal (0, 0, 1) everywhere, and no edges.
    assert_eq!(pictures(&mut annotator("normals", &config, 1), &[9; BYTES])[0].pixels[..3], [0, 0, 255]);
    let config = AnnotatorConfig { range, ..edges() };
    assert_eq!(pictures(&mut annotator("edges", &config, 1), &[9; BYTES])[0].pixels, [0; BYTES]);
}

#[test]
fn values_that_are_not_finite_are_those_of_their_picture_alone() {
    let pixels = expected("pixels");
    let mixed = [&pixels[..BYTES], &[0; BYTES], &pixels[BYTES..]].concat();
    let mut annotator = annotator("depth", &depth(), 4);
    let mut made = annotator.annotate(&mixed).expect("whole pictures");
    assert_eq!(made.remove(1), Err(NotFinite { values: 256, of: 256 }));
    let alone: Vec<_> = pictures(&mut annotator, &pixels).into_iter().map(Ok).collect();
    assert!(made == alone);
}

#[test]
fn what_a_module_returns_is_checked_and_named() {
    let refused =
        |name: &str, config: &AnnotatorConfig| annotator(name, config, 2).annotate(&[7; BYTES]).expect_err("no picture").to_string();
    assert_eq!(
        refused("edges", &AnnotatorConfig { output: 0, ..edges() }),
        "the annotator edges returned Float of shape [2, 2, 32, 32], expected [2, c, s, s] with 1 or 3 channels, or [2, s, s]"
    );
    let error = refused("edges", &AnnotatorConfig { output: 3, ..edges() });
    assert!(error.starts_with("the annotator edges returned 3 tensors, of which output = 3 is none"), "{error}");
    assert_eq!(refused("decoder", &depth()), "libtorch failed to run annotator decoder", "it takes codes");
    let error = TorchScriptAnnotator::try_new("depth (d.pt)", &depth(), b"no module", 2, DeviceChoice::Cpu).expect_err("no module");
    assert_eq!(error.to_string(), "libtorch failed to load annotator depth (d.pt)");
    let error = annotator("depth", &depth(), 2).annotate(&[7; BYTES + 1]).expect_err("a byte too many").to_string();
    assert!(error.contains("no whole number of images"), "{error}");
}

#[test]
fn bad_settings_are_all_named() {
    let moments = Moments { mean: [0.5; 3], std: [0.5, 0.0, 0.5] };
    let bad = AnnotatorConfig {
        side_px: 4,
        input: InputValues::Normalized(moments),
        output: 0,
        range: OutputRange::Fixed([1.0, 1.0]),
        inverted: false,
    };
    let problems = bad.problems();
    assert_eq!(problems.len(), 3, "{problems:?}");
    for (problem, field) in problems.iter().zip(["side_px must be in 8..=4096, got 4", "input.mean must", "range must"]) {
        assert!(problem.starts_with(field), "{problem}");
    }
    assert!(edges().problems().is_empty() && depth().problems().is_empty());
    let error =
        TorchScriptAnnotator::try_new("depth", &depth(), &file("depth.jit"), 0, DeviceChoice::Cpu).expect_err("no batch").to_string();
    assert!(error.contains("batch_size must be in 1..=1024, got 0"), "{error}");
}

#[test]
fn the_digest_covers_settings_and_module_but_no_name() {
    let of = |name: &str, config: &AnnotatorConfig, module: &str| {
        TorchScriptAnnotator::try_new(name, config, &file(module), 2, DeviceChoice::Cpu).expect("a module").spec().digest
    };
    let digest = of("depth", &depth(), "depth.jit");
    assert_eq!(digest, of("elsewhere/depth.pt", &depth(), "depth.jit"));
    assert_ne!(digest, of("depth", &depth(), "normals.jit"));
    assert_ne!(digest, of("depth", &AnnotatorConfig { inverted: true, ..depth() }, "depth.jit"));
}
