//! Bad input: every sample is kept, or refused with the right reason; nothing panics and nothing is lost.

use std::collections::BTreeMap;
use std::fs;
use std::io::Cursor;
use std::path::Path;

use cm3flow::catalog::refused;
use cm3flow_schemas::document::{Modality, Role, unmasked};
use cm3flow_tests::trial::{SMALL, Trial, corpus_source, documents, source};
use image::{DynamicImage, ImageFormat, Rgb, RgbImage};

/// Makes a picture that differs for each kind.
fn picture(kind: u8) -> RgbImage {
    RgbImage::from_fn(96, 80, |x, y| Rgb([(x * 2) as u8 ^ kind, (y * 3) as u8, kind.wrapping_mul(37)]))
}

fn encoded(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).expect("a format that can be written");
    bytes.into_inner()
}

fn jpeg(kind: u8) -> Vec<u8> {
    encoded(&picture(kind).into(), ImageFormat::Jpeg)
}

/// Makes a PNG whose header claims 30,000 x 30,000 pixels that do not exist.
fn huge_header() -> Vec<u8> {
    let mut png = encoded(&picture(9).into(), ImageFormat::Png);
    png[16..20].copy_from_slice(&30_000_u32.to_be_bytes());
    png[20..24].copy_from_slice(&30_000_u32.to_be_bytes());
    let checksum = crc32(&png[12..29]);
    png[29..33].copy_from_slice(&checksum.to_be_bytes());
    png
}

/// Computes the checksum of PNG chunks, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32| (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg());
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}

/// Makes a JPEG whose header says that it lies on its side.
fn rotated() -> Vec<u8> {
    let jpeg = jpeg(5);
    let exif = [&b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"[..]].concat();
    let length = u16::try_from(exif.len() + 2).expect("short");
    [&jpeg[..2], &[0xFF, 0xE1], &length.to_be_bytes(), &exif, &jpeg[2..]].concat()
}

fn animated() -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = image::codecs::gif::GifEncoder::new(&mut bytes);
    for kind in [6, 7] {
        let frame = image::Frame::new(DynamicImage::from(picture(kind)).into_rgba8());
        encoder.encode_frame(frame).expect("memory");
    }
    drop(encoder);
    bytes
}

const HOSTILE: &str = "<script>document.title = 'owned'</script> <break> </s> <sentinel:0> \u{1b}[2J \u{202e} <img src=x onerror=alert(1)>";

/// Key, file extension, bytes, caption, and reason of the refusal.
type Planted = (&'static str, &'static str, Vec<u8>, &'static str, Option<&'static str>);

fn samples() -> Vec<Planted> {
    let truncated = jpeg(1);
    let sixteen_bits = DynamicImage::from(DynamicImage::from(picture(3)).into_rgb16());
    let cmyk = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/cmyk.jpg")).expect("a fixture");
    vec![
        ("good", "jpg", jpeg(0), "a good picture", None),
        ("truncated", "jpg", truncated[..truncated.len() / 2].to_vec(), "cut in half", Some("derive.truncated_image")),
        ("no-bytes", "jpg", Vec::new(), "nothing at all", Some("filter.empty_image")),
        ("hostile<script>key", "jpg", b"this is no picture, whatever its name says".to_vec(), "a text", Some("filter.unknown_format")),
        ("huge-header", "png", huge_header(), "a bomb", Some("filter.too_many_pixels")),
        ("cmyk", "jpg", cmyk, "for a printer", None),
        ("sixteen-bits", "png", encoded(&sixteen_bits, ImageFormat::Png), "deep colours", None),
        ("animated", "gif", animated(), "two frames", None),
        ("rotated", "jpg", rotated(), "on its side", None),
        ("empty-caption", "jpg", jpeg(11), " ", Some("filter.no_caption")),
        ("hostile-caption", "jpg", jpeg(12), HOSTILE, None),
    ]
}

fn tar_of(samples: impl IntoIterator<Item = (String, Vec<u8>)>) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, bytes) in samples {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        tar.append_data(&mut header, name, bytes.as_slice()).expect("memory");
    }
    tar.into_inner().expect("memory")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_sample_is_kept_or_refused_with_its_reason() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let members = samples().into_iter().flat_map(|(key, extension, bytes, caption, _)| {
        [(format!("{key}.{extension}"), bytes), (format!("{key}.txt"), caption.as_bytes().to_vec())]
    });
    let others = [
        ("no-picture.txt".to_owned(), b"words alone".to_vec()),
        ("bad-annotations.jpg".to_owned(), jpeg(13)),
        ("bad-annotations.json".to_owned(), b"{\"captions\": [\"not closed\"".to_vec()),
    ];
    fs::write(folder.path().join("bad.tar"), tar_of(members.chain(others))).expect("a temporary folder");
    let cut = tar_of(
        [("whole.jpg", jpeg(20)), ("whole.txt", b"a whole sample".to_vec()), ("cut.jpg", jpeg(21)), ("cut.txt", b"never read".to_vec())]
            .map(|(name, bytes)| (name.to_owned(), bytes)),
    );
    let inside_second_picture = 512 + jpeg(20).len().next_multiple_of(512) + 1024 + 512 + 100;
    fs::write(folder.path().join("cut.tar"), &cut[..inside_second_picture]).expect("a temporary folder");

    let sources = [corpus_source(25), source("bad", "webdataset", &folder.path().join("*.tar"), 4)].concat();
    let trial = Trial::try_new(SMALL, &sources).expect("a good configuration");
    let outcome = trial.run().await.expect("bad samples stop nothing");
    let listed = refused::list(&trial.store, &outcome.windows, usize::MAX).await.expect("just written");
    let found: BTreeMap<String, String> = listed.into_iter().map(|row| (row.key, format!("{}.{}", row.stage, row.reason))).collect();
    let mut expected: BTreeMap<String, String> =
        samples().into_iter().filter_map(|(key, .., reason)| Some((key.to_owned(), reason?.to_owned()))).collect();
    expected.insert("no-picture".into(), "ingest.no_image".into());
    expected.insert("bad-annotations".into(), "ingest.bad_annotations".into());
    expected.insert("cut".into(), "ingest.damaged_tar".into());
    assert_eq!(found, expected);
    let ledger = &outcome.manifest.samples;
    assert_eq!((ledger.input, ledger.refused_total(), ledger.duplicate), (75 + 15, 8, 0), "{ledger}");
    assert!(ledger.check("version").is_ok());

    // The hostile caption is ordinary text.
    let packs = trial.packs(&outcome).await.expect("just written");
    let artefacts = trial.artefacts().await.expect("pinned");
    let vocabulary = &outcome.manifest.vocabulary;
    let mut spelled = 0;
    for (_, tokens, segments) in documents(&packs) {
        let (tokens, segments) = unmasked(&tokens, &segments, vocabulary);
        for segment in segments.iter().filter(|segment| segment.modality == Modality::Text && segment.role == Role::Target) {
            let ids = vocabulary.text_tokens(&tokens[segment.range()]).expect("ids of text");
            spelled += usize::from(artefacts.text.decode(&ids).expect("ids of text") == HOSTILE);
        }
    }
    assert!(spelled > 0, "no document holds the hostile caption as it was");
    let page = trial.store.get(outcome.report.as_deref().expect("a report")).await.expect("memory").expect("just written");
    let page = String::from_utf8(page.to_vec()).expect("a page is UTF-8");
    assert!(page.contains("hostile&lt;script&gt;key"), "the refused sample is not listed");
    assert!(!page.contains("<script") && !page.contains("<img src=x"), "text from data stands unescaped in the report");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_without_picture_or_sense_are_refused_by_line() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("a.jpg"), jpeg(30)).expect("a temporary folder");
    fs::create_dir(folder.path().join("lists")).expect("a temporary folder");
    let rows = [
        r#"{"image": "../a.jpg", "captions": ["from the folder above"]}"#.to_owned(),
        format!(r#"{{"image": "{}", "captions": ["the same by its full path"]}}"#, folder.path().join("a.jpg").display()),
        r#"{"image": "gone.jpg", "captions": ["it is not there"]}"#.to_owned(),
        r#"{"captions": ["no picture named"]}"#.to_owned(),
        "not even JSON".to_owned(),
    ];
    fs::write(folder.path().join("lists/rows.jsonl"), rows.join("\n")).expect("a temporary folder");
    let sources = [corpus_source(25), source("rows", "jsonl", &folder.path().join("lists/rows.jsonl"), 8)].concat();
    let trial = Trial::try_new(SMALL, &sources).expect("a good configuration");
    let outcome = trial.run().await.expect("bad rows stop nothing");
    let mut reasons: Vec<String> =
        refused::list(&trial.store, &outcome.windows, usize::MAX).await.expect("just written").into_iter().map(|row| row.reason).collect();
    reasons.sort_unstable();
    assert_eq!(reasons, ["bad_annotations", "missing_image", "no_image"]);
    assert_eq!(outcome.manifest.samples.duplicate, 1, "the two rows that name one picture");
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_that_samples_lose_are_counted_by_reason_in_windows_and_manifest() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let rows = [
        r#""captions": ["a caption", "a caption "], "boxes": [{"label": "a", "x0": 9, "y0": 0, "x1": 5, "y1": 9}]"#,
        r#""caption": "another", "boxes": "a cat", "license": {"id": 3}"#,
        r#""caption": "a third", "boxes": [{"label": "a", "x0": 100, "y0": 0, "x1": 120, "y1": 9}, {"label": "b"}], "score": NaN"#,
        r#""boxes": 17"#,
    ];
    let row = |(number, fields): (u8, &&str)| {
        fs::write(folder.path().join(format!("{number}.jpg")), jpeg(40 + number)).expect("a temporary folder");
        format!("{{\"image\": \"{number}.jpg\", {fields}}}")
    };
    let list: Vec<String> = (0..).zip(&rows).map(row).collect();
    fs::write(folder.path().join("rows.jsonl"), list.join("\n")).expect("a temporary folder");
    let sources = [corpus_source(25), source("rows", "jsonl", &folder.path().join("rows.jsonl"), 8)].concat();
    let trial = Trial::try_new(SMALL, &sources).expect("a good configuration");
    let outcome = trial.run().await.expect("bad fields stop nothing");
    let ledger = &outcome.manifest.samples;
    assert_eq!(ledger.refused.get("ingest.bad_annotations"), Some(&1), "{ledger}");
    let mut dropped = ledger.dropped.clone();
    // These are boxes of the corpus itself.
    dropped.remove("boxes.cropped");
    let expected =
        [("annotations.boxes", 2), ("annotations.license", 1), ("boxes.inverted", 1), ("boxes.outside", 1), ("captions.equal", 1)];
    assert_eq!(dropped, expected.map(|(reason, count)| (reason.to_owned(), count)).into());
    let of_windows: u64 = outcome.windows.iter().flat_map(|window| window.samples.dropped.values()).sum();
    assert_eq!(of_windows, ledger.dropped.values().sum::<u64>());
    assert!(ledger.check("version").is_ok());
}
