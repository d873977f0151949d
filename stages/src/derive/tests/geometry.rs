//! Geometry: boxes, masks, segmentations and condition images match their objects in every orientation of picture and source.

use cm3flow_schemas::sample::{Item, SegLabel};
use image::Luma;
use png::BitDepth;

use super::*;
use crate::fixtures::level_png;

/// Stored form of the test picture: 48 x 32, or square, with a red corner of 16 x 16 at the stored upper left; and its EXIF number.
#[derive(Clone, Copy)]
struct Stored {
    width: u32,
    exif: u8,
}

const WIDE: Stored = Stored { width: 48, exif: 6 };
const SQUARE: Stored = Stored { width: 32, exif: 6 };
const CORNER: u32 = 16;

fn in_corner(x: u32, y: u32) -> bool {
    x < CORNER && y < CORNER
}

impl Stored {
    fn picture(self) -> Vec<u8> {
        let picture = RgbImage::from_fn(self.width, 32, |x, y| if in_corner(x, y) { RED } else { BLUE });
        with_orientation(&jpeg(&picture), self.exif)
    }

    /// Returns a mask that is white in the corner, in stored pixels.
    fn mask(self) -> GrayImage {
        GrayImage::from_fn(self.width, 32, |x, y| Luma([if in_corner(x, y) { 255 } else { 0 }]))
    }

    fn sample(self) -> Raw {
        Raw::new("turned", self.picture(), &["a red corner"])
    }
}

fn grey_png(levels: &GrayImage) -> Vec<u8> {
    encoded(&DynamicImage::ImageLuma8(levels.clone()), ImageFormat::Png)
}

/// Returns `levels` turned to the right.
fn turned_right(levels: &GrayImage) -> GrayImage {
    image::imageops::rotate90(levels)
}

fn derive_in(orientation: Orientation, sample: Raw) -> Derived {
    derive_by(Derive::new(DeriveConfig::default(), preparation(), SEED).with_orientation(orientation), sample)
}

fn fitted(derived: &Derived, role: &str) -> RgbImage {
    let image = derived.pixels.iter().find(|image| image.role == role).unwrap_or_else(|| panic!("no {role}: {:?}", derived.refusal));
    RgbImage::from_raw(SIDE, SIDE, image.bytes.clone()).unwrap()
}

/// Returns the share of pixels where the image `role` is white exactly if the main image is red.
fn agreement(derived: &Derived, role: &str) -> f64 {
    let (main, mask) = (fitted(derived, MAIN_IMAGE), fitted(derived, role));
    let same = main.pixels().zip(mask.pixels()).filter(|(main, mask)| (main.0[0] > 128) == (mask.0[0] > 128)).count();
    assert!(main.pixels().any(|pixel| pixel.0[0] > 128), "the corner is within the square");
    same as f64 / f64::from(SIDE * SIDE)
}

fn with_mask(sample: Raw, mask: Vec<u8>) -> Raw {
    let named = ObjectMask { label: "corner".into(), image: "mask0".into() };
    sample.with_image("mask0", mask).annotated(|annotations| annotations.masks = vec![named])
}

fn boxed(x0: u32, y0: u32, x1: u32, y1: u32) -> LabelledBox {
    LabelledBox { label: "corner".into(), x0, y0, x1, y1 }
}

#[test]
fn boxes_are_in_pixels_of_the_stored_picture_unless_the_source_says_otherwise() {
    for exif in 1..=8 {
        let stored = Stored { width: 32, exif };
        let sample = stored.sample().annotated(|annotations| annotations.boxes = vec![boxed(0, 0, CORNER, CORNER)]);
        let derived = derive_in(Orientation::Stored, sample);
        let [found] = &derived.annotations.boxes[..] else { panic!("{:?}", derived.annotations.boxes) };
        let picture = fitted(&derived, MAIN_IMAGE);
        let (x, y) = ((found.x0 + found.x1) / 2, (found.y0 + found.y1) / 2);
        assert_near(&picture, x, y, RED);
        assert_eq!((found.x1 - found.x0, found.y1 - found.y0), (SIDE / 2, SIDE / 2), "EXIF {exif}");
    }
    // Turned to the right, the corner is at the upper right.
    let seen = SQUARE.sample().annotated(|annotations| annotations.boxes = vec![boxed(16, 0, 32, CORNER)]);
    let derived = derive_in(Orientation::Upright, seen);
    assert_eq!(derived.annotations.boxes, [boxed(8, 0, 16, 8)]);
}

#[test]
fn boxes_that_are_lost_are_counted_by_reason() {
    let boxes = vec![
        boxed(0, 0, 10, 10),
        boxed(50, 0, 60, 10),
        boxed(0, 32, 10, 40),
        boxed(9, 0, 5, 10),
        boxed(5, 0, 5, 10),
        // Within the picture, but outside of the square.
        boxed(0, 0, 6, 32),
        boxed(40, 0, 500, 10),
    ];
    let sample = Raw::new("boxes", png(&picture(1, 48, 32)), &["a caption"]).annotated(|annotations| annotations.boxes = boxes);
    let derived = derive_one(sample);
    let counted: Vec<(&str, u64)> = derived.dropped.iter().map(|part| (part.reason.as_str(), part.count)).collect();
    assert_eq!(counted, [("boxes.cropped", 3), ("boxes.outside", 2), ("boxes.inverted", 1), ("boxes.empty", 1)]);
    assert_eq!((derived.annotations.boxes.len(), derived.refusal), (0, None));
}

#[test]
fn masks_lie_upon_the_main_picture_however_they_are_stored() {
    for (orientation, mask) in [
        (Orientation::Stored, grey_png(&WIDE.mask())),
        (Orientation::Upright, grey_png(&WIDE.mask())),
        (Orientation::Stored, grey_png(&turned_right(&WIDE.mask()))),
        (Orientation::Upright, grey_png(&turned_right(&WIDE.mask()))),
        (Orientation::Upright, with_orientation(&encoded(&DynamicImage::ImageLuma8(WIDE.mask()), ImageFormat::Jpeg), 6)),
    ] {
        let derived = derive_in(orientation, with_mask(WIDE.sample(), mask));
        assert!(agreement(&derived, "mask0") > 0.9, "{orientation:?}: {}", agreement(&derived, "mask0"));
    }
    // The size cannot tell the frame.
    for (orientation, mask) in [(Orientation::Stored, SQUARE.mask()), (Orientation::Upright, turned_right(&SQUARE.mask()))] {
        let derived = derive_in(orientation, with_mask(SQUARE.sample(), grey_png(&mask)));
        assert!(agreement(&derived, "mask0") > 0.9, "{orientation:?}");
    }
    let derived = derive_in(Orientation::Stored, with_mask(SQUARE.sample(), grey_png(&turned_right(&SQUARE.mask()))));
    assert!(agreement(&derived, "mask0") < 0.9, "the test sees what lies elsewhere");
}

#[test]
fn segmentations_and_condition_images_are_turned_as_masks_are() {
    let levels = GrayImage::from_fn(48, 32, |x, y| Luma([u8::from(in_corner(x, y))]));
    let labels = vec![SegLabel { level: 1, label: "corner".into() }];
    for levels in [levels.clone(), turned_right(&levels)] {
        for depth in [BitDepth::One, BitDepth::Two, BitDepth::Four, BitDepth::Eight] {
            for palette in [None, Some(&[Rgb([200, 10, 10]), Rgb([0; 3])][..])] {
                let sample = WIDE.sample().with_image(SEGMENTATION_IMAGE, level_png(&levels, depth, palette));
                let derived = derive_in(Orientation::Stored, sample.annotated(|annotations| annotations.seg_labels = labels.clone()));
                assert!(agreement(&derived, "object0") > 0.9, "{depth:?}");
                assert!(fitted(&derived, SEGMENTATION_IMAGE).pixels().any(|pixel| *pixel == segmentation::colour("corner")));
            }
        }
    }
    let condition = derive_in(Orientation::Stored, WIDE.sample().with_image("pose", grey_png(&WIDE.mask())));
    assert!(agreement(&condition, "pose") > 0.9);
}

#[test]
fn masks_of_levels_0_and_1_are_masks() {
    let levels = GrayImage::from_fn(48, 32, |x, y| Luma([u8::from(in_corner(x, y))]));
    let deep = ImageBuffer::from_fn(48, 32, |x, y| Luma([u16::from(in_corner(x, y))]));
    let coloured = RgbImage::from_fn(48, 32, |x, y| Rgb([u8::from(in_corner(x, y)); 3]));
    let voc = [Rgb([0; 3]), Rgb([128, 0, 0])];
    let mut masks = vec![encoded(&DynamicImage::ImageLuma16(deep), ImageFormat::Png), png(&coloured)];
    masks.push(encoded(&DynamicImage::ImageLuma8(levels.clone()), ImageFormat::Bmp));
    for depth in [BitDepth::One, BitDepth::Two, BitDepth::Four, BitDepth::Eight] {
        masks.extend([None, Some(&voc[..])].map(|palette| level_png(&levels, depth, palette)));
    }
    for (number, mask) in masks.into_iter().enumerate() {
        let derived = derive_one(with_mask(WIDE.sample(), mask));
        assert!(agreement(&derived, "mask0") > 0.9, "mask {number}: {}", agreement(&derived, "mask0"));
    }
    // A palette of black and white shows by itself where the object is.
    let others = GrayImage::from_fn(48, 32, |x, y| Luma([u8::from(!in_corner(x, y))]));
    let swapped = level_png(&others, BitDepth::One, Some(&[Rgb([255; 3]), Rgb([0; 3])]));
    assert!(agreement(&derive_one(with_mask(WIDE.sample(), swapped)), "mask0") > 0.9);
}

#[test]
fn what_has_neither_size_nor_aspect_of_the_main_picture_is_refused() {
    let square = grey_png(&GrayImage::new(40, 40));
    let refused = |sample: Raw| derive_one(sample).refusal.map(|refusal| (refusal.reason, refusal.detail));
    let detail = |role: &str| {
        let sizes = "it has 40x40 pixels, the main image 48x32, and 32x48 once it is turned; their aspects differ";
        Some(("size_mismatch".to_owned(), format!("image {role}: {sizes}")))
    };
    assert_eq!(refused(with_mask(WIDE.sample(), square.clone())), detail("mask0"));
    assert_eq!(refused(WIDE.sample().with_image("depth", square.clone())), detail("depth"));
    let labelled = WIDE.sample().with_image(SEGMENTATION_IMAGE, square.clone());
    let labelled = labelled.annotated(|annotations| annotations.seg_labels = vec![SegLabel { level: 1, label: "dog".into() }]);
    assert_eq!(refused(labelled), detail(SEGMENTATION_IMAGE));
    // Half the size, to within a pixel.
    assert_eq!(refused(WIDE.sample().with_image("depth", grey_png(&GrayImage::new(25, 16)))), None);
    // Edits, references and items have shapes of their own. The size of codes is unknown.
    let edit = cm3flow_schemas::sample::Edit { instruction: "cut it".into(), image: "a".into() };
    let item = Item { text: None, image: Some("c".into()) };
    let others = ["a", "b", "c"].into_iter().fold(WIDE.sample(), |sample, role| sample.with_image(role, square.clone()));
    let others = others.annotated(|annotations| {
        (annotations.edits, annotations.references, annotations.items) = (vec![edit], vec!["b".into()], vec![item]);
    });
    assert_eq!(refused(others), None);
    assert_eq!(refused(Raw::new("given", to_file(&[1; 16]), &["codes"]).with_image("depth", square)), None);
}
