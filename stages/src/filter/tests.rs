//! What `filter` refuses, and that it does so without decoding.

#![allow(clippy::unwrap_used)]

use cm3flow_schemas::sample::{Annotations, Refusal};
use proptest::prelude::*;

use super::*;
use crate::codes::to_file;
use crate::conformance::{cases, check_stage, cuts_do_not_matter, output_table, rows_and_cuts, run_whole};
use crate::fixtures::{Raw, encoded, filter_config, jpeg, picture, png, raw, raw_batch, raw_samples};
use crate::stage::Map;

#[derive(Debug, Deserialize)]
struct Judged {
    width: u32,
    height: u32,
    annotations: Annotations,
    refusal: Option<Refusal>,
}

fn stage() -> Map<Filter> {
    Map(Filter::new(filter_config()))
}

fn judge_by(config: FilterConfig, sample: Raw) -> Judged {
    let out = run_whole(Map(Filter::new(config)), &raw_batch(&[sample]));
    let wanted = [columns::WIDTH, columns::HEIGHT, columns::ANNOTATIONS, columns::REFUSAL];
    rows::read(&out, &wanted).unwrap().remove(0)
}

fn reason(sample: Raw) -> Option<String> {
    judge_by(filter_config(), sample).refusal.map(|refusal| refusal.reason)
}

fn pictured(bytes: Vec<u8>) -> Raw {
    Raw::new("picture", bytes, &["a caption"])
}

/// The first bytes of a PNG of `width` x `height` pixels: signature and header chunk, no pixels.
fn png_header(width: u32, height: u32) -> Vec<u8> {
    let mut header = b"IHDR".to_vec();
    header.extend(width.to_be_bytes());
    header.extend(height.to_be_bytes());
    header.extend([8, 2, 0, 0, 0]);
    let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
    bytes.extend(13_u32.to_be_bytes());
    bytes.extend(&header);
    bytes.extend(crc32(&header).to_be_bytes());
    // The decoder reads on to the first data chunk before it tells the size.
    bytes.extend([0, 0, 0, 0]);
    bytes.extend(b"IDAT");
    bytes.extend(crc32(b"IDAT").to_be_bytes());
    bytes
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 })
    })
}

#[test]
fn filter_keeps_the_contract() {
    let out = check_stage(stage, &raw());
    let refusals: Vec<Option<Refusal>> =
        rows::read::<Judged>(&out, &[columns::WIDTH, columns::HEIGHT, columns::ANNOTATIONS, columns::REFUSAL])
            .unwrap()
            .into_iter()
            .map(|row| row.refusal)
            .collect();
    let found: Vec<(String, String)> = raw_samples()
        .iter()
        .zip(refusals)
        .filter_map(|(sample, refusal)| Some((sample.key.clone(), format!("{}.{}", refusal.as_ref()?.stage, refusal.as_ref()?.reason))))
        .collect();
    let expected = [("tiny", "filter.too_small"), ("speechless", "filter.no_caption"), ("gone", "ingest.missing_image")];
    assert_eq!(found, expected.map(|(key, reason)| (key.to_owned(), reason.to_owned())));
}

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn filter_does_not_depend_on_cuts(case in rows_and_cuts(raw_samples().len())) {
        cuts_do_not_matter(stage, &raw(), &case)?;
    }
}

#[test]
fn filter_schema() {
    insta::assert_snapshot!(output_table(&stage(), &columns::raw_sample()));
}

#[test]
fn a_good_picture_passes_with_its_size() {
    let judged = judge_by(filter_config(), pictured(png(&picture(1, 40, 24))));
    assert_eq!((judged.width, judged.height, judged.refusal), (40, 24, None));
}

#[test]
fn too_many_pixels_are_refused_from_the_header_alone() {
    let judged = judge_by(filter_config(), pictured(png_header(30_000, 30_000)));
    let refusal = judged.refusal.unwrap();
    assert_eq!((refusal.reason.as_str(), refusal.detail.contains("30000x30000")), ("too_many_pixels", true), "{refusal:?}");
    assert_eq!(reason(pictured(png_header(40, 24))), None, "the header is all that is looked at");
}

#[test]
fn shapes_are_refused_by_short_side_and_aspect() {
    assert_eq!(reason(pictured(png(&picture(1, 40, 15)))).as_deref(), Some("too_small"));
    assert_eq!(reason(pictured(png(&picture(1, 64, 16)))), None, "an aspect of exactly 4 is allowed");
    assert_eq!(reason(pictured(png(&picture(1, 65, 16)))).as_deref(), Some("too_elongated"));
    assert_eq!(reason(pictured(png(&picture(1, 16, 65)))).as_deref(), Some("too_elongated"));
}

#[test]
fn bytes_that_are_no_picture_are_refused_with_their_reason() {
    assert_eq!(reason(pictured(vec![])).as_deref(), Some("empty_image"));
    assert_eq!(reason(pictured(b"<html>not found</html>".to_vec())).as_deref(), Some("unknown_format"));
    assert_eq!(reason(pictured(b"\x89PNG\r\n\x1a\nbut nothing else".to_vec())).as_deref(), Some("bad_header"));
    assert_eq!(reason(pictured(vec![0xFF, 0xD8, 0xFF, 0xE0])).as_deref(), Some("bad_header"));
}

#[test]
fn too_many_bytes_are_refused_before_anything_is_read() {
    let config = FilterConfig { max_image_bytes: 100, ..filter_config() };
    let judged = judge_by(config, pictured(b"garbage".repeat(20)));
    assert_eq!(judged.refusal.unwrap().reason, "too_many_bytes");
}

#[test]
fn every_format_that_can_be_decoded_passes() {
    let picture = image::DynamicImage::ImageRgb8(picture(1, 32, 32));
    for format in
        [image::ImageFormat::Png, image::ImageFormat::Gif, image::ImageFormat::WebP, image::ImageFormat::Bmp, image::ImageFormat::Tiff]
    {
        assert_eq!(reason(pictured(encoded(&picture, format))), None, "{format:?}");
    }
    assert_eq!(reason(pictured(jpeg(picture.as_rgb8().unwrap()))), None);
}

#[test]
fn captions_are_trimmed_and_bad_ones_dropped() {
    let long = "x".repeat(1001);
    let judged = judge_by(filter_config(), Raw::new("mixed", png(&picture(1, 32, 32)), &["  a lamp \n", "", "ab", &long]));
    assert_eq!((judged.annotations.captions, judged.refusal), (vec!["a lamp".to_owned()], None));
}

#[test]
fn samples_without_a_usable_caption_are_refused() {
    let with = |captions: &[&str]| reason(Raw::new("captioned", png(&picture(1, 32, 32)), captions));
    assert_eq!(with(&[]).as_deref(), Some("no_caption"));
    assert_eq!(with(&[" \t "]).as_deref(), Some("caption_too_short"));
    assert_eq!(with(&["ab"]).as_deref(), Some("caption_too_short"));
    assert_eq!(with(&["x".repeat(1001).as_str()]).as_deref(), Some("caption_too_long"));
    assert_eq!(with(&["\u{1f98a}".repeat(1000).as_str()]), None, "characters are counted, not bytes");
    let config = FilterConfig { require_caption: false, ..filter_config() };
    assert_eq!(judge_by(config, Raw::new("silent", png(&picture(1, 32, 32)), &[])).refusal, None);
}

#[test]
fn further_images_are_judged_too() {
    let good = || pictured(png(&picture(1, 32, 32)));
    assert_eq!(reason(good().with_image("edit0", vec![])).as_deref(), Some("empty_image"));
    assert_eq!(reason(good().with_image("edit0", png_header(30_000, 30_000))).as_deref(), Some("too_many_pixels"));
    // Scaled to the square's short side, a line of a million pixels would be a picture of gigabytes.
    assert_eq!(reason(good().with_image("edit0", png_header(1_000_000, 1))).as_deref(), Some("too_elongated"));
    assert_eq!(reason(good().with_image("edit0", png(&picture(2, 10, 10)))), None, "only the main image has a smallest size");
}

#[test]
fn every_bad_field_is_named_by_its_path() {
    let config = FilterConfig {
        max_image_bytes: 0,
        max_pixels: 0,
        min_short_side_px: 0,
        max_aspect: f64::NAN,
        min_caption_chars: 5,
        max_caption_chars: 4,
        require_caption: true,
    };
    let problems = config.problems();
    assert_eq!(problems.len(), 5, "{problems:?}");
    assert!(problems.iter().all(|problem| problem.starts_with("filter.")), "{problems:?}");
    assert!(FilterConfig::default().problems().is_empty());
}

#[test]
fn given_codes_pass_without_a_header_and_have_no_size_yet() {
    let judged = judge_by(filter_config(), pictured(to_file(&[0; 16])));
    assert_eq!((judged.width, judged.height, judged.refusal), (0, 0, None));
    let mixed = pictured(to_file(&[0; 16])).with_image("edit0", b"garbage".to_vec());
    assert_eq!(reason(mixed).as_deref(), Some("unknown_format"), "pictures beside them are looked at as ever");
    let config = FilterConfig { max_image_bytes: 100, ..filter_config() };
    assert_eq!(judge_by(config, pictured(to_file(&[0; 16]))).refusal.unwrap().reason, "too_many_bytes");
    assert_eq!(reason(Raw::new("speechless", to_file(&[0; 16]), &[])).as_deref(), Some("no_caption"));
}
