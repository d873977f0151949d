//! Shapes: a picture gets the one of the nearest aspect, and pictures of the same scene get the same one.

use cm3flow_schemas::Grid;
use cm3flow_schemas::sample::{Edit, Item};

use super::*;
use crate::filter::FilterConfig;
use crate::fixtures::{PATCH, bucketed_preparation};

const GREEN: Rgb<u8> = Rgb([0, 255, 0]);

#[derive(Debug, Deserialize)]
struct Bucketed {
    pixels: Vec<RoleImage>,
    image_grids: Vec<RoleGrid>,
    annotations: Annotations,
    width: u32,
    height: u32,
    refusal: Option<Refusal>,
}

impl Bucketed {
    /// Returns the image `role` in the size of its grid.
    fn image(&self, role: &str) -> RgbImage {
        let grid = RoleGrid::of(&self.image_grids, role).unwrap();
        let bytes = self.pixels.iter().find(|image| image.role == role).unwrap().bytes.clone();
        RgbImage::from_raw(grid.columns * PATCH, grid.rows * PATCH, bytes).expect("as many bytes as the grid says")
    }

    fn grid(&self, role: &str) -> String {
        RoleGrid::of(&self.image_grids, role).unwrap().to_string()
    }
}

fn bucketed() -> Map<Derive> {
    let config = DeriveConfig { scribbles: true, outlines: true, ..DeriveConfig::default() };
    Map(Derive::new(config, bucketed_preparation(), SEED))
}

fn bucket_one(sample: Raw) -> Bucketed {
    let config = FilterConfig { max_aspect: 20.0, ..filter_config() };
    let filtered = run_whole(Map(Filter::new(config)), &raw_batch(&[sample]));
    let wanted = [columns::PIXELS, columns::IMAGE_GRIDS, columns::ANNOTATIONS, columns::WIDTH, columns::HEIGHT, columns::REFUSAL];
    rows::read(&run_whole(bucketed(), &filtered), &wanted).unwrap().remove(0)
}

/// Makes a red picture with a green tenth at each end of the long side.
fn with_ends(width: u32, height: u32) -> RgbImage {
    let is_end = |place: u32, length: u32| place < length / 10 || place >= length - length / 10;
    RgbImage::from_fn(width, height, |x, y| if is_end(x.max(y), width.max(height)) { GREEN } else { RED })
}

#[test]
fn pictures_take_the_shape_of_the_nearest_aspect() {
    for (width, height, expected) in
        [(64, 64, "4x4"), (60, 40, "3x5"), (40, 60, "5x3"), (128, 32, "2x8"), (320, 32, "2x8"), (32, 320, "8x2")]
    {
        let derived = bucket_one(Raw::new("a", png(&with_ends(width, height)), &["a photo"]));
        assert_eq!((derived.grid(MAIN_IMAGE), derived.width, derived.height), (expected.into(), width, height));
        let fitted = derived.image(MAIN_IMAGE);
        let ends = fitted.pixels().filter(|pixel| is_near(pixel, &GREEN)).count();
        assert_eq!(ends == 0, width.max(height) == 320, "{width}x{height}: what is longer than four squares is cut, all else stays");
        assert_eq!(derived.image(EDGE_IMAGE).dimensions(), fitted.dimensions());
    }
}

#[test]
fn a_turned_picture_has_the_shape_that_it_is_seen_in() {
    let stored = jpeg(&halves(64, 16));
    assert_eq!(bucket_one(Raw::new("a", stored.clone(), &["a photo"])).grid(MAIN_IMAGE), "2x8");
    let turned = bucket_one(Raw::new("a", with_orientation(&stored, 6), &["a photo"]));
    assert_eq!(turned.grid(MAIN_IMAGE), "8x2");
    let upright = turned.image(MAIN_IMAGE);
    assert_near(&upright, 4, 2, RED);
    assert_near(&upright, 4, 29, BLUE);
}

#[test]
fn what_shows_the_same_picture_has_its_shape_and_what_stands_alone_its_own() {
    let square = || png(&picture(1, 64, 64));
    let levels = GrayImage::from_fn(128, 32, |x, _| image::Luma([u8::from(x < 64)]));
    let labels = vec![cm3flow_schemas::sample::SegLabel { level: 1, label: "dog".into() }];
    let sample = Raw::new("a", png(&halves(128, 32)), &["a photo"])
        .with_image("edit0", square())
        .with_image("style", square())
        .with_image("next", png(&picture(2, 20, 80)))
        .with_image(SEGMENTATION_IMAGE, encoded(&DynamicImage::ImageLuma8(levels), ImageFormat::Png))
        .annotated(|annotations| {
            annotations.boxes = vec![LabelledBox { label: "half".into(), x0: 64, y0: 0, x1: 128, y1: 32 }];
            annotations.edits = vec![Edit { instruction: "square it".into(), image: "edit0".into() }];
            annotations.references = vec!["style".into()];
            annotations.items = vec![Item { text: None, image: Some("next".into()) }];
            annotations.seg_labels = labels;
        });
    let derived = bucket_one(sample);
    assert_eq!(derived.refusal, None);
    let grids: Vec<String> = derived.pixels.iter().map(|image| format!("{} {}", image.role, derived.grid(&image.role))).collect();
    assert_eq!(
        grids,
        ["edge 2x8", "scribble 2x8", "main 2x8", "edit0 2x8", "style 4x4", "next 8x2", "seg 2x8", "outline 2x8", "object0 2x8"]
    );
    assert!(derived.pixels.iter().all(|image| derived.image(&image.role).width() > 0), "each has the bytes that its grid says");
    assert_eq!(derived.annotations.boxes, [LabelledBox { label: "half".into(), x0: 16, y0: 0, x1: 32, y1: 8 }], "in the shape's pixels");
}

#[test]
fn given_codes_have_the_grid_of_their_file() {
    let header = "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 8), }\n";
    let wide = [b"\x93NUMPY\x01\x00".as_slice(), &(header.len() as u16).to_le_bytes(), header.as_bytes(), &[1; 16]].concat();
    let boxes = vec![LabelledBox { label: "door".into(), x0: 2, y0: 3, x1: 30, y1: 200 }];
    let sample = |codes| Raw::new("a", codes, &["a photo"]).annotated(|annotations| annotations.boxes = boxes.clone());
    let derived = bucket_one(sample(wide).with_image("edit0", png(&picture(1, 64, 64))));
    assert_eq!((derived.width, derived.height, derived.image("edit0").dimensions()), (32, 8, (32, 8)));
    assert_eq!(derived.annotations.boxes, [LabelledBox { label: "door".into(), x0: 2, y0: 3, x1: 30, y1: 8 }]);
    let square = bucket_one(sample(to_file(&[1; 16])));
    assert_eq!((square.width, square.height, square.image_grids), (16, 16, vec![RoleGrid::new(MAIN_IMAGE, Grid::square(4))]));
    let header = header.replace("(2, 8)", "(0, 4294967295)");
    let hostile = [b"\x93NUMPY\x01\x00".as_slice(), &(header.len() as u16).to_le_bytes(), header.as_bytes()].concat();
    assert_eq!(bucket_one(sample(hostile)).grid(MAIN_IMAGE), "4x4", "what no image has is left to be refused");
}

#[test]
fn derive_keeps_the_contract_with_buckets() {
    let out = check_stage(bucketed, &filtered());
    assert!(out.column_by_name(columns::IMAGE_GRIDS).is_some());
    assert!(run_whole(stage(), &filtered()).column_by_name(columns::IMAGE_GRIDS).is_none(), "without them nothing is added");
}
