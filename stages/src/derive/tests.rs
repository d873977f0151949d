//! Decoding of pictures of every kind: upright, RGB, on white, in the right square; refusal of damaged ones.

#![allow(clippy::unwrap_used)]

use cm3flow_schemas::preparation::{Crop, Transparency};
use cm3flow_schemas::sample::{LabelledBox, RoleImage};
use image::codecs::gif::GifEncoder;
use image::{DynamicImage, Frame, GrayAlphaImage, GrayImage, ImageBuffer, ImageFormat, LumaA, Rgb, Rgba, RgbaImage};
use proptest::prelude::*;

use super::*;
use crate::codes::to_file;
use crate::conformance::{cases, check_stage, cuts_do_not_matter, output_table, rows_and_cuts, run_whole};
use crate::filter::Filter;
use crate::fixtures::{Raw, SEED, SIDE, encoded, filter_config, filtered, jpeg, picture, png, preparation, raw_batch};
use crate::stage::Map;

mod buckets;
mod damage;
mod geometry;
mod memory;
mod pillow;

const RED: Rgb<u8> = Rgb([255, 0, 0]);
const BLUE: Rgb<u8> = Rgb([0, 0, 255]);

fn decode(bytes: &[u8]) -> Result<RgbImage, crate::error::DecodeError> {
    super::decode::decode(bytes, Transparency::WhiteDown)
}

#[derive(Debug, Deserialize)]
struct Derived {
    pixels: Vec<RoleImage>,
    annotations: Annotations,
    dropped: Vec<DroppedPart>,
    width: u32,
    height: u32,
    refusal: Option<Refusal>,
}

fn stage() -> Map<Derive> {
    Map(Derive::new(DeriveConfig::default(), preparation(), SEED))
}

fn derive_one(sample: Raw) -> Derived {
    derive_with(DeriveConfig::default(), sample)
}

fn derive_with(config: DeriveConfig, sample: Raw) -> Derived {
    derive_by(Derive::new(config, preparation(), SEED), sample)
}

/// Columns of [`Derived`].
const DERIVED: [&str; 6] = [columns::PIXELS, columns::ANNOTATIONS, columns::DROPPED, columns::WIDTH, columns::HEIGHT, columns::REFUSAL];

fn derive_by(derive: Derive, sample: Raw) -> Derived {
    let filtered = run_whole(Map(crate::filter::Filter::new(filter_config())), &raw_batch(&[sample]));
    rows::read(&run_whole(Map(derive), &filtered), &DERIVED).unwrap().remove(0)
}

/// Makes a picture whose left half is red and right half blue.
fn halves(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, _| if x < width / 2 { RED } else { BLUE })
}

fn is_near(found: &Rgb<u8>, expected: &Rgb<u8>) -> bool {
    found.0.iter().zip(expected.0).all(|(&found, expected)| found.abs_diff(expected) <= 12)
}

#[track_caller]
fn assert_near(picture: &RgbImage, x: u32, y: u32, expected: Rgb<u8>) {
    let found = picture.get_pixel(x, y);
    assert!(is_near(found, &expected), "{found:?} at {x}, {y}, expected {expected:?}");
}

/// Adds an EXIF segment that has only the orientation to a JPEG.
fn with_orientation(jpeg: &[u8], orientation: u8) -> Vec<u8> {
    let mut exif = b"Exif\0\0II*\0".to_vec();
    exif.extend([8, 0, 0, 0, 1, 0, 0x12, 0x01, 3, 0, 1, 0, 0, 0, orientation, 0, 0, 0, 0, 0, 0, 0]);
    with_segment(jpeg, 0xE1, &exif)
}

/// Adds a segment behind the first marker of a JPEG.
fn with_segment(jpeg: &[u8], code: u8, content: &[u8]) -> Vec<u8> {
    let len = (content.len() as u16 + 2).to_be_bytes();
    [&jpeg[..2], &[0xFF, code], &len, content, &jpeg[2..]].concat()
}

/// Makes a JPEG of one 8x8 block in four components of a flat colour each, as Adobe's programs write them: 255 is no ink.
fn cmyk_jpeg(stored: [u8; 4]) -> Vec<u8> {
    let segment = |code: u8, content: &[u8]| [&[0xFF, code], &(content.len() as u16 + 2).to_be_bytes()[..], content].concat();
    let mut counts_dc = [0; 16];
    counts_dc[3] = 9;
    let mut counts_ac = [0; 16];
    counts_ac[0] = 1;
    let mut jpeg = vec![0xFF, 0xD8];
    jpeg.extend(segment(0xEE, b"Adobe\0\x64\0\0\0\0\0"));
    jpeg.extend(segment(0xDB, &[[0].as_slice(), &[8; 64]].concat()));
    jpeg.extend(segment(0xC0, &[8, 0, 8, 0, 8, 4, 1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0, 4, 0x11, 0]));
    jpeg.extend(segment(0xC4, &[[0].as_slice(), &counts_dc, &[0, 1, 2, 3, 4, 5, 6, 7, 8]].concat()));
    jpeg.extend(segment(0xC4, &[[0x10].as_slice(), &counts_ac, &[0]].concat()));
    jpeg.extend(segment(0xDA, &[4, 1, 0, 2, 0, 3, 0, 4, 0, 0, 63, 0]));
    let mut bits = String::new();
    for value in stored {
        // The mean is coded in steps of 8: its category in four bits, its value, then the end of the block.
        let mean = i32::from(value) - 128;
        let category = 32 - mean.unsigned_abs().leading_zeros();
        bits += &format!("{category:04b}");
        if category > 0 {
            let value = if mean < 0 { mean + (1 << category) - 1 } else { mean };
            bits += &format!("{value:0width$b}", width = category as usize);
        }
        bits += "0";
    }
    for byte in bits.as_bytes().chunks(8) {
        let text: String = byte.iter().map(|&bit| bit as char).chain("1".repeat(8 - byte.len()).chars()).collect();
        let byte = u8::from_str_radix(&text, 2).unwrap();
        jpeg.push(byte);
        if byte == 0xFF {
            jpeg.push(0);
        }
    }
    jpeg.extend([0xFF, 0xD9]);
    jpeg
}

/// Makes a WebP of the still `frames`, all of one size.
fn animated_webp(frames: &[RgbImage]) -> Vec<u8> {
    let chunk = |name: &[u8; 4], content: &[u8]| {
        [name.as_slice(), &(content.len() as u32).to_le_bytes(), content, &vec![0; content.len() % 2]].concat()
    };
    let (width, height) = frames[0].dimensions();
    let three = |value: u32| value.to_le_bytes()[..3].to_vec();
    let size = [three(width - 1), three(height - 1)].concat();
    let mut body = b"WEBP".to_vec();
    body.extend(chunk(b"VP8X", &[[2, 0, 0, 0].as_slice(), &size].concat()));
    body.extend(chunk(b"ANIM", &[0; 6]));
    for frame in frames {
        let still = encoded(&DynamicImage::ImageRgb8(frame.clone()), ImageFormat::WebP);
        let frame = [three(0), three(0), size.clone(), three(100), vec![0], still[12..].to_vec()].concat();
        body.extend(chunk(b"ANMF", &frame));
    }
    chunk(b"RIFF", &body)
}

#[test]
fn derive_keeps_the_contract() {
    let out = check_stage(stage, &filtered());
    let rows: Vec<Derived> = rows::read(&out, &DERIVED).unwrap();
    let own: Vec<&str> = rows
        .iter()
        .filter_map(|row| row.refusal.as_ref())
        .filter(|refusal| refusal.stage == NAME)
        .map(|refusal| refusal.reason.as_str())
        .collect();
    assert_eq!(own, ["truncated_image"]);
    for row in &rows {
        assert_eq!(row.refusal.is_some(), row.pixels.is_empty(), "pixels are there exactly for rows that go on");
        assert!(row.pixels.iter().all(|image| image.bytes.len() == (SIDE * SIDE * 3) as usize));
    }
}

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn derive_does_not_depend_on_cuts(case in rows_and_cuts(filtered().num_rows())) {
        cuts_do_not_matter(stage, &filtered(), &case)?;
    }
}

#[test]
fn derive_schema() {
    insta::assert_snapshot!(output_table(&stage(), &filtered().schema()));
}

#[test]
fn exif_rotated_jpeg_comes_out_upright() {
    let stored = jpeg(&halves(32, 16));
    // As stored; turned to the right; turned upside down; turned to the left.
    let upright = decode(&with_orientation(&stored, 1)).unwrap();
    assert_eq!(upright.dimensions(), (32, 16));
    assert_near(&upright, 2, 8, RED);
    let right = decode(&with_orientation(&stored, 6)).unwrap();
    assert_eq!(right.dimensions(), (16, 32));
    assert_near(&right, 8, 2, RED);
    assert_near(&right, 8, 29, BLUE);
    assert_near(&decode(&with_orientation(&stored, 3)).unwrap(), 2, 8, BLUE);
    assert_near(&decode(&with_orientation(&stored, 8)).unwrap(), 8, 2, BLUE);
}

#[test]
fn the_size_of_a_rotated_picture_is_that_of_what_is_seen() {
    let derived = derive_one(Raw::new("rotated", with_orientation(&jpeg(&halves(32, 20)), 6), &["a caption"]));
    assert_eq!((derived.width, derived.height, derived.refusal), (20, 32, None));
}

#[test]
fn cmyk_jpeg_has_the_colours_that_a_printer_means() {
    for (stored, expected) in [
        ([255, 255, 255, 255], Rgb([255, 255, 255])),
        ([255, 0, 0, 255], RED),
        ([0, 0, 255, 255], BLUE),
        ([255, 255, 255, 0], Rgb([0, 0, 0])),
        ([200, 100, 255, 128], Rgb([100, 50, 128])),
    ] {
        let decoded = decode(&cmyk_jpeg(stored)).unwrap();
        assert_eq!(decoded.dimensions(), (8, 8));
        assert_near(&decoded, 4, 4, expected);
    }
}

#[test]
fn sixteen_bits_are_scaled_to_eight() {
    let deep = ImageBuffer::from_pixel(4, 4, Rgb([0xFFFF_u16, 0x8080, 0x0000]));
    assert_eq!(*decode(&encoded(&DynamicImage::ImageRgb16(deep), ImageFormat::Png)).unwrap().get_pixel(1, 1), Rgb([255, 128, 0]));
    let deep = ImageBuffer::from_pixel(4, 4, LumaA([0x0000_u16, 0x8080]));
    assert_eq!(*decode(&encoded(&DynamicImage::ImageLumaA16(deep), ImageFormat::Png)).unwrap().get_pixel(1, 1), Rgb([127, 127, 127]));
}

#[test]
fn grey_pictures_become_rgb() {
    let grey = GrayImage::from_pixel(8, 8, image::Luma([90]));
    assert_eq!(*decode(&encoded(&DynamicImage::ImageLuma8(grey.clone()), ImageFormat::Png)).unwrap().get_pixel(1, 1), Rgb([90, 90, 90]));
    assert_near(&decode(&encoded(&DynamicImage::ImageLuma8(grey), ImageFormat::Jpeg)).unwrap(), 1, 1, Rgb([90, 90, 90]));
}

#[test]
fn alpha_is_composited_on_white() {
    let colours = [
        ([255, 0, 0, 0], [255, 255, 255]),
        ([255, 0, 0, 255], [255, 0, 0]),
        ([0, 0, 0, 128], [127, 127, 127]),
        ([200, 100, 0, 51], [244, 224, 204]),
    ];
    for (from, to) in colours {
        let picture = DynamicImage::ImageRgba8(RgbaImage::from_pixel(4, 4, Rgba(from)));
        assert_eq!(*decode(&encoded(&picture, ImageFormat::Png)).unwrap().get_pixel(2, 2), Rgb(to), "{from:?}");
    }
    let grey = DynamicImage::ImageLumaA8(GrayAlphaImage::from_pixel(4, 4, LumaA([0, 128])));
    assert_eq!(*decode(&encoded(&grey, ImageFormat::Png)).unwrap().get_pixel(2, 2), Rgb([127, 127, 127]));
}

#[test]
fn an_animation_gives_its_first_frame() {
    let frames = [RgbImage::from_pixel(16, 16, RED), RgbImage::from_pixel(16, 16, BLUE)];
    let mut gif = Vec::new();
    {
        let mut encoder = GifEncoder::new(&mut gif);
        for frame in &frames {
            encoder.encode_frame(Frame::new(DynamicImage::ImageRgb8(frame.clone()).into_rgba8())).unwrap();
        }
    }
    for bytes in [gif, animated_webp(&frames)] {
        let decoded = decode(&bytes).unwrap();
        assert_eq!(decoded.dimensions(), (16, 16));
        assert_near(&decoded, 8, 8, RED);
    }
}

#[test]
fn the_square_is_cut_from_the_middle() {
    let thirds = RgbImage::from_fn(60, 20, |x, _| if (20..40).contains(&x) { RED } else { BLUE });
    let fit = Fit::of(60, 20, &preparation(), SEED, &ImageId::of(b""));
    let square = fit.apply(&thirds);
    assert_eq!(square.dimensions(), (SIDE, SIDE));
    assert!((2..SIDE - 2).all(|x| is_near(square.get_pixel(x, 8), &RED)), "{:?}", square.rows().next().unwrap().collect::<Vec<_>>());
}

#[test]
fn a_picture_of_the_right_size_keeps_its_pixels() {
    let picture = picture(3, SIDE, SIDE);
    assert_eq!(Fit::of(SIDE, SIDE, &preparation(), SEED, &ImageId::of(b"")).apply(&picture), picture);
}

#[test]
fn a_random_crop_is_drawn_from_seed_and_image() {
    let random = Preparation::chameleon(SIDE, Crop::Random);
    let fit = |seed, id: &[u8]| Fit::of(100, 20, &random, seed, &ImageId::of(id));
    assert_eq!(fit(1, b"a"), fit(1, b"a"));
    let distinct: Vec<Fit> = (0..10_u8).map(|id| fit(1, &[id])).collect();
    assert!(distinct.iter().any(|other| *other != distinct[0]), "ten images must not all be cut alike");
    assert!((0..10).any(|seed| fit(seed, b"a") != fit(1, b"a")));
    for fit in distinct {
        assert_eq!(fit.apply(&picture(1, 100, 20)).dimensions(), (SIDE, SIDE));
    }
}

#[test]
fn boxes_are_rescaled_to_the_square() {
    // 24x32 is resized to 16x21, and 2 rows are cut above and 3 below.
    let fit = Fit::of(24, 32, &preparation(), SEED, &ImageId::of(b""));
    let boxed = |x0, y0, x1, y1| LabelledBox { label: "door".into(), x0, y0, x1, y1 };
    assert_eq!(fit.map_box(&boxed(0, 0, 24, 32)), Some(boxed(0, 0, 16, 16)));
    assert_eq!(fit.map_box(&boxed(6, 8, 18, 20)), Some(boxed(4, 3, 12, 11)));
    assert_eq!(fit.map_box(&boxed(0, 0, 24, 4)), None, "less than half of it is within the square");
    assert_eq!(fit.map_box(&boxed(5, 5, 5, 9)), None, "no area");
    assert_eq!(fit.map_box(&boxed(9, 9, 5, 12)), None, "turned inside out");
    assert_eq!(fit.map_box(&boxed(100, 100, 200, 200)), None, "outside of the picture");
    assert_eq!(fit.map_box(&boxed(12, 8, 4_000_000_000, 20)), Some(boxed(8, 3, 16, 11)), "cut at the picture's edge");
}

#[test]
fn boxes_of_a_sample_are_those_of_its_square() {
    let boxes = vec![
        LabelledBox { label: "door".into(), x0: 6, y0: 8, x1: 18, y1: 20 },
        LabelledBox { label: "sky".into(), x0: 0, y0: 0, x1: 24, y1: 2 },
    ];
    let sample = Raw::new("boxed", png(&picture(1, 24, 32)), &["a door"]).annotated(|annotations| annotations.boxes = boxes);
    let derived = derive_one(sample);
    assert_eq!(derived.annotations.boxes, [LabelledBox { label: "door".into(), x0: 4, y0: 3, x1: 12, y1: 11 }]);
}

#[test]
fn edges_are_white_where_colours_change() {
    let halves = RgbImage::from_fn(32, 32, |x, _| Rgb([if x < 16 { 0 } else { 255 }; 3]));
    let derived = derive_one(Raw::new("halves", png(&halves), &["two halves"]));
    let roles: Vec<&str> = derived.pixels.iter().map(|image| image.role.as_str()).collect();
    assert_eq!(roles, [EDGE_IMAGE, MAIN_IMAGE]);
    let edges = RgbImage::from_raw(SIDE, SIDE, derived.pixels[0].bytes.clone()).unwrap();
    let is_white = |x: u32| *edges.get_pixel(x, 8) == Rgb([255; 3]);
    assert!((6..=9).any(is_white), "an edge in the middle");
    assert!(!(0..4).any(is_white) && !(12..SIDE).any(is_white), "none beside it");
    assert!(edges.pixels().all(|pixel| [Rgb([0; 3]), Rgb([255; 3])].contains(pixel)));
}

#[test]
fn no_edges_are_made_when_none_are_wanted() {
    let config = DeriveConfig { edges: false, ..DeriveConfig::default() };
    let out = run_whole(Map(Derive::new(config, preparation(), SEED)), &filtered());
    let rows: Vec<Derived> = rows::read(&out, &DERIVED).unwrap();
    assert!(rows.iter().flat_map(|row| &row.pixels).all(|image| image.role != EDGE_IMAGE));
}

#[test]
fn a_sample_with_one_broken_image_is_refused_as_a_whole() {
    let mut cut = png(&picture(2, 32, 32));
    cut.truncate(cut.len() / 2);
    let derived = derive_one(Raw::new("half", png(&picture(1, 32, 32)), &["a caption"]).with_image("edit0", cut));
    let refusal = derived.refusal.unwrap();
    assert_eq!((refusal.stage.as_str(), refusal.reason.as_str()), (NAME, "truncated_image"));
    assert!(refusal.detail.contains("edit0"), "{refusal:?}");
    assert!(derived.pixels.is_empty());
}

#[test]
fn a_real_photograph_is_fitted_with_its_edges() {
    let tar = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/corpus/photos-00000.tar")).unwrap();
    let mut archive = tar::Archive::new(&tar[..]);
    let mut entry = archive
        .entries()
        .unwrap()
        .map(Result::unwrap)
        .find(|entry| entry.path().unwrap().extension().is_some_and(|end| end == "jpg"))
        .unwrap();
    let mut photo = Vec::new();
    std::io::Read::read_to_end(&mut entry, &mut photo).unwrap();
    let decoded = decode(&photo).unwrap();
    let derived = derive_one(Raw::new("photo", photo, &["a photograph"]));
    assert_eq!((derived.refusal, derived.width, derived.height), (None, decoded.width(), decoded.height()));
    assert_eq!(derived.pixels.len(), 2);
}

#[test]
fn thresholds_out_of_order_are_named() {
    assert!(DeriveConfig::default().problems().is_empty());
    for (canny_low, canny_high) in [(0.0, 10.0), (20.0, 10.0), (1.0, 2000.0), (f32::NAN, 10.0)] {
        assert!(DeriveConfig { canny_low, canny_high, ..DeriveConfig::default() }.problems()[0].starts_with("derive.canny_"));
    }
}

#[test]
fn what_decodes_is_known_with_its_version() {
    let decoder = decoder();
    assert_eq!(
        decoder.keys().map(String::as_str).collect::<Vec<_>>(),
        ["gif", "image", "image-webp", "imageproc", "png", "tiff", "zune-jpeg"]
    );
    let lock = include_str!("../../../Cargo.lock");
    for (name, version) in decoder {
        assert!(lock.contains(&format!("name = \"{name}\"\nversion = \"{version}\"\n")), "{name} {version}");
    }
}

#[test]
fn given_codes_pass_undecoded_and_their_boxes_are_those_of_the_square() {
    let boxes = vec![
        LabelledBox { label: "door".into(), x0: 2, y0: 3, x1: 8, y1: 200 },
        LabelledBox { label: "outside".into(), x0: 50, y0: 50, x1: 60, y1: 60 },
    ];
    let codes = to_file(&[1; 16]);
    let sample = Raw::new("given", codes.clone(), &["a door"])
        .with_image("edit0", png(&picture(1, 32, 32)))
        .annotated(|annotations| annotations.boxes = boxes);
    let batch = run_whole(Map(Filter::new(filter_config())), &raw_batch(&[sample]));
    let out = run_whole(stage(), &batch);
    #[derive(Deserialize)]
    struct Given {
        given_codes: Vec<RoleImage>,
    }
    let given: Given = rows::read(&out, &[columns::GIVEN_CODES]).unwrap().remove(0);
    assert_eq!(given.given_codes, [RoleImage { role: MAIN_IMAGE.into(), bytes: codes }]);
    let derived: Derived = rows::read(&out, &DERIVED).unwrap().remove(0);
    assert_eq!((derived.width, derived.height, derived.refusal), (SIDE, SIDE, None));
    assert_eq!(derived.annotations.boxes, [LabelledBox { label: "door".into(), x0: 2, y0: 3, x1: 8, y1: 16 }]);
    assert_eq!(derived.dropped, [DroppedPart { reason: "boxes.outside".into(), count: 1 }]);
    assert_eq!(derived.pixels.iter().map(|image| image.role.as_str()).collect::<Vec<_>>(), ["edit0"], "codes have no edges");
}

#[test]
fn a_segmentation_becomes_conditions_and_one_without_labels_is_a_picture() {
    let levels = image::GrayImage::from_fn(32, 32, |x, _| image::Luma([u8::from(x < 16)]));
    let mut file = std::io::Cursor::new(Vec::new());
    image::DynamicImage::ImageLuma8(levels).write_to(&mut file, image::ImageFormat::Png).unwrap();
    let file = file.into_inner();
    let plain = Raw::new("dog", png(&picture(1, 32, 32)), &["a caption"]).with_image(SEGMENTATION_IMAGE, file);
    let labels = vec![cm3flow_schemas::sample::SegLabel { level: 1, label: "dog".into() }];
    let labelled = plain.clone().annotated(|annotations| annotations.seg_labels = labels.clone());
    let config = DeriveConfig { scribbles: true, outlines: true, ..DeriveConfig::default() };
    let derived = derive_with(config, labelled);
    let roles: Vec<&str> = derived.pixels.iter().map(|image| image.role.as_str()).collect();
    assert_eq!(roles, [EDGE_IMAGE, SCRIBBLE_IMAGE, MAIN_IMAGE, SEGMENTATION_IMAGE, OUTLINE_IMAGE, "object0"]);
    let of = |role: &str| &derived.pixels.iter().find(|image| image.role == role).unwrap().bytes;
    assert_eq!((&of(SEGMENTATION_IMAGE)[..3], &of("object0")[..3]), (segmentation::colour("dog").0.as_slice(), [255; 3].as_slice()));
    assert_eq!(of(OUTLINE_IMAGE).iter().filter(|level| **level == 255).count(), 3 * SIDE as usize, "one line");
    assert_eq!(derived.annotations.masks, [ObjectMask { label: "dog".into(), image: "object0".into() }]);
    assert_eq!(derive_one(plain).pixels.len(), 3, "edges, picture, picture");
    let photo = Raw::new("dog", png(&picture(1, 32, 32)), &["a caption"]).with_image(SEGMENTATION_IMAGE, png(&picture(2, 32, 32)));
    let refused = derive_one(photo.annotated(|annotations| annotations.seg_labels = labels)).refusal.unwrap();
    assert_eq!(refused.reason, "bad_segmentation", "{}", refused.detail);
}
