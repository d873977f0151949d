//! Refusals of `filter`, all without decoding.

#![allow(clippy::unwrap_used)]

use cm3flow_schemas::sample::{Annotations, LabelledBox, Question, Refusal};
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
    dropped: Vec<DroppedPart>,
    refusal: Option<Refusal>,
}

const JUDGED: [&str; 5] = [columns::WIDTH, columns::HEIGHT, columns::ANNOTATIONS, columns::DROPPED, columns::REFUSAL];

fn stage() -> Map<Filter> {
    Map(Filter::new(filter_config()))
}

fn judge_by(config: FilterConfig, sample: Raw) -> Judged {
    let out = run_whole(Map(Filter::new(config)), &raw_batch(&[sample]));
    rows::read(&out, &JUDGED).unwrap().remove(0)
}

fn reason(sample: Raw) -> Option<String> {
    judge_by(filter_config(), sample).refusal.map(|refusal| refusal.reason)
}

fn pictured(bytes: Vec<u8>) -> Raw {
    Raw::new("picture", bytes, &["a caption"])
}

/// Returns the first bytes of a PNG of `width` x `height` pixels: signature and header chunk, no pixels.
fn png_header(width: u32, height: u32) -> Vec<u8> {
    let mut header = b"IHDR".to_vec();
    header.extend(width.to_be_bytes());
    header.extend(height.to_be_bytes());
    header.extend([8, 2, 0, 0, 0]);
    let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
    bytes.extend(13_u32.to_be_bytes());
    bytes.extend(&header);
    bytes.extend(crc32(&header).to_be_bytes());
    // The decoder reads up to the first data chunk before it reports the size.
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
    let refusals: Vec<Option<Refusal>> = rows::read::<Judged>(&out, &JUDGED).unwrap().into_iter().map(|row| row.refusal).collect();
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

/// Returns the losses of a sample, by reason.
fn dropped(judged: &Judged) -> Vec<(&str, u64)> {
    judged.dropped.iter().map(|part| (part.reason.as_str(), part.count)).collect()
}

#[test]
fn captions_are_trimmed_and_bad_ones_dropped() {
    let long = "x".repeat(1001);
    let judged = judge_by(filter_config(), Raw::new("mixed", png(&picture(1, 32, 32)), &["  a lamp \n", "", "ab", &long]));
    assert_eq!(judged.annotations.captions, ["a lamp"]);
    assert_eq!(dropped(&judged), [("captions.too_short", 2), ("captions.too_long", 1)]);
    assert_eq!(judged.refusal, None);
}

#[test]
fn a_sample_whose_captions_all_go_is_kept_for_its_other_texts() {
    let question = Question::new("What is this?", "A lamp.");
    let asked = |captions: &[&str]| {
        let questions = vec![question.clone()];
        Raw::new("asked", png(&picture(1, 32, 32)), captions).annotated(|annotations| annotations.questions = questions)
    };
    let judged = judge_by(filter_config(), asked(&["ab", " ", &"x".repeat(1001)]));
    assert_eq!((judged.annotations.captions.len(), judged.annotations.questions.len(), &judged.refusal), (0, 1, &None));
    assert_eq!(dropped(&judged), [("captions.too_short", 2), ("captions.too_long", 1)]);
    let judged = judge_by(filter_config(), asked(&[]));
    assert_eq!((dropped(&judged), &judged.refusal), (vec![], &None));
    let boxes = vec![LabelledBox { label: "lamp".into(), x0: 1, y0: 1, x1: 9, y1: 9 }];
    let boxed = Raw::new("boxed", png(&picture(1, 32, 32)), &["ab"]).annotated(|annotations| annotations.boxes = boxes);
    assert_eq!(reason(boxed), None);
}

#[test]
fn what_a_refused_sample_would_have_lost_is_not_counted() {
    let judged = judge_by(filter_config(), Raw::new("short", png(&picture(1, 32, 32)), &["ab"]));
    assert_eq!((judged.refusal.as_ref().map(|refusal| refusal.reason.as_str()), dropped(&judged)), (Some("caption_too_short"), vec![]));
}

#[test]
fn what_ingest_dropped_stays_counted() {
    let mut batch = raw_batch(&[Raw::new("counted", png(&picture(1, 32, 32)), &["a lamp", "ab"])]);
    let earlier = vec![DroppedPart { reason: "members.npy".into(), count: 2 }];
    #[derive(Serialize)]
    struct Lost {
        dropped: Vec<DroppedPart>,
    }
    batch = ColumnChange::new(&[], vec![columns::dropped()]).apply(&batch, &[Lost { dropped: earlier }]).unwrap();
    let judged: Judged = rows::read(&run_whole(stage(), &batch), &JUDGED).unwrap().remove(0);
    assert_eq!(dropped(&judged), [("members.npy", 2), ("captions.too_short", 1)]);
}

#[test]
fn lengths_are_those_that_a_reader_sees() {
    let with = |captions: &[&str]| reason(Raw::new("captioned", png(&picture(1, 32, 32)), captions));
    for unseen in ["\u{200b}\u{200b}\u{200b}", "a\u{301}\u{302}", "\u{3164}\u{3164}\u{3164}", "\u{fe0f}\u{fe0f}\u{fe0f}", "ab\0"] {
        assert_eq!(with(&[unseen]).as_deref(), Some("caption_too_short"), "{:?}", unseen.escape_unicode().to_string());
    }
    for word in ["猫", "ね", "강", "ปู", "ມື", "ខ្ញុំ", "က", "\u{200b}猫"] {
        assert_eq!(with(&[word]), None, "{word}");
    }
    assert_eq!(with(&["\u{200b}x\u{301}".repeat(1000).as_str()]), None, "a thousand visible characters");
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
    // Scaled to the square's short side, a line of a million pixels would take gigabytes.
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
