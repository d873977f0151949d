//! Ingestion: every sample is sent once, in order, under its own key; unusable content is reported.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use cm3flow_schemas::sample::{self, Annotations, DroppedPart, Edit, LabelledBox, MAIN_IMAGE, Question, Refusal, RoleImage};
use cm3flow_schemas::window::SourceUnit;
use cm3flow_schemas::{Digest, ImageId, SampleId, columns, rows};
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use proptest::prelude::*;
use serde::Deserialize;

mod doors;

use super::*;
use crate::budget::ByteBudget;
use crate::channel::{ChannelLimits, channel};
use crate::codes;
use crate::conformance::{block_on, cases, schema_table};
use crate::error::{Result, StageError};
use crate::fixtures::{jpeg, picture, png};
use crate::meter::StageMeter;
use crate::stage::Source;

mod annotations;

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Row {
    sample_id: SampleId,
    image_id: ImageId,
    source: String,
    key: String,
    row: u64,
    images: Vec<RoleImage>,
    annotations: Annotations,
    dropped: Vec<DroppedPart>,
    refusal: Option<Refusal>,
}

fn tar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in members {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

fn location(files: &[(&str, &[u8])], path: &str) -> Location {
    let store = InMemory::new();
    block_on(async {
        for (name, bytes) in files {
            store.put(&Path::parse(name).unwrap(), bytes.to_vec().into()).await.unwrap();
        }
    });
    Location { store: Arc::new(store), path: Path::parse(path).unwrap(), is_disk: false }
}

fn config(format: SourceFormat, unit_samples: u32) -> SourceConfig {
    let RowSettings { group_by, max_member_bytes, orientation } = RowSettings::default();
    SourceConfig { name: "photos".into(), format, url: "unused".into(), unit_samples, group_by, max_member_bytes, orientation }
}

/// Returns options for [`config`], with some roles that a configuration may need.
fn options() -> ReadOptions {
    ReadOptions::new(&config(SourceFormat::Jsonl, 1), 32 << 20, ["seg", "hed"].map(str::to_owned).into())
}

fn scan_with(config: &SourceConfig, location: &Location, reading: &ReadOptions) -> Result<ScannedSource> {
    block_on(scan(config, location, ScanOptions { limit: None, before: &[], address: "test", memory: &NoMemory, reading }))
}

fn scan_of(config: &SourceConfig, location: &Location, limit: Option<u64>) -> Result<ScannedSource> {
    let reading = options();
    block_on(scan(config, location, ScanOptions { limit, before: &[], address: "test", memory: &NoMemory, reading: &reading }))
}

/// Sends the samples of a unit, and checks that every batch has the schema of raw samples.
fn ingest(unit: PlannedUnit, location: &Location) -> Result<RecordBatch> {
    ingest_with(unit, location, options())
}

fn ingest_with(unit: PlannedUnit, location: &Location, options: ReadOptions) -> Result<RecordBatch> {
    let source = Ingest::try_new(unit, location.clone(), options)?;
    block_on(async move {
        let meter = Arc::new(StageMeter::new("test"));
        let (out, sent) = channel(&ChannelLimits { max_batches: 1, budget: ByteBudget::new(1 << 10) }, &meter, &meter);
        assert_eq!(source.output_schema(), columns::raw_sample());
        let running = tokio::spawn(Box::new(source).run(out));
        let mut batches = Vec::new();
        while let Some(batch) = sent.next().await {
            assert_eq!(batch.schema(), columns::raw_sample());
            batches.push(batch);
        }
        running.await.unwrap()?;
        Ok(concat_batches(&columns::raw_sample(), &batches).unwrap())
    })
}

fn rows_of(batch: &RecordBatch) -> Vec<Row> {
    let wanted = [
        columns::SAMPLE_ID,
        columns::IMAGE_ID,
        columns::SOURCE,
        columns::KEY,
        columns::ROW,
        columns::IMAGES,
        columns::ANNOTATIONS,
        columns::DROPPED,
        columns::REFUSAL,
    ];
    rows::read(batch, &wanted).unwrap()
}

/// Returns the rows of all units of a source, in order.
fn all_rows(config: &SourceConfig, location: &Location) -> Vec<Row> {
    let scanned = scan_of(config, location, None).unwrap();
    scanned.units.into_iter().flat_map(|unit| rows_of(&ingest(unit, location).unwrap())).collect()
}

fn tar_rows(members: &[(&str, &[u8])]) -> Vec<Row> {
    all_rows(&config(SourceFormat::WebDataset, 256), &location(&[("photos.tar", &tar(members))], "photos.tar"))
}

fn reason(row: &Row) -> Option<(&str, &str)> {
    row.refusal.as_ref().map(|refusal| (refusal.stage.as_str(), refusal.reason.as_str()))
}

/// Makes files of every format with good and bad rows. Returns a digest of their bytes, and the rows read from them.
pub(crate) fn every_format() -> (Digest, RecordBatch) {
    let (first, second, third) = (png(&picture(1, 20, 20)), jpeg(&picture(2, 20, 24)), png(&picture(3, 24, 20)));
    let json = br#"{"captions": ["a door"], "boxes": [{"label": "door", "x0": 1, "y0": 2, "x1": 10, "y1": 9}], "edits": [{"instruction": "turn it",
        "image": "edit0"}], "questions": [{"question": "What?", "answer": "a door"}], "license": "CC0-1.0"}"#;
    let members: &[(&str, &[u8])] = &[
        ("a/x.png", &first),
        ("a/x.edit0.png", &third),
        ("a/x.json", json),
        ("a/y.jpg", &second),
        ("a/y.txt", b"one line\n\n  another  \n"),
        ("a/z.txt", b"no picture\n"),
        ("a/codes.npy", &codes::to_file(&[1, 2, 3])),
    ];
    let list = concat!(
        r#"{"image": "photos/x.png", "caption": "a dog"}"#,
        "\n",
        r#"{"codes": [3, 2, 1], "caption": "a row"}"#,
        "\n",
        r#"{"image": "gone.png", "caption": "nothing"}"#,
        "\n{broken\n",
    );
    let photos = tar(members);
    let files: &[(&str, &[u8])] = &[
        ("photos.tar", &photos),
        ("list.jsonl", list.as_bytes()),
        ("photos/x.png", &first),
        ("photos/x.txt", b"a caption\n"),
        ("photos/y.jpg", &second),
    ];
    let rows = [(SourceFormat::WebDataset, "photos.tar"), (SourceFormat::Jsonl, "list.jsonl"), (SourceFormat::Folder, "photos")];
    let rows = rows.into_iter().flat_map(|(format, path)| {
        let location = location(files, path);
        let units = scan_of(&config(format, 2), &location, None).unwrap().units;
        units.into_iter().map(move |unit| ingest(unit, &location).unwrap())
    });
    let rows: Vec<RecordBatch> = rows.collect();
    let bytes: Vec<u8> = files.iter().flat_map(|(_, bytes)| *bytes).copied().collect();
    (Digest::of(&bytes), concat_batches(&columns::raw_sample(), &rows).unwrap())
}

#[test]
fn samples_of_a_tar_are_grouped_by_key() {
    let (first, second, edit) = (png(&picture(1, 20, 20)), jpeg(&picture(2, 20, 20)), png(&picture(3, 20, 20)));
    let json = br#"{"captions": ["a dog", "a hound"], "questions": [{"question": "What?", "answer": "a dog"}],
        "boxes": [{"label": "dog", "x0": 1.4, "y0": -3, "x1": 10.6, "y1": 9}], "edits": [{"instruction": "turn it", "image": "Edit0.PNG", "operation": "turn"}],
        "license": "CC0-1.0", "credit": "A. Author", "source": "https://example.org", "unknown": [1, 2]}"#;
    let rows = tar_rows(&[
        ("a/x.png", &first),
        ("a/x.edit0.png", &edit),
        ("a/x.json", json),
        ("a/y.JPG", &second),
        ("a/y.txt", b"one line\n\n  another  \n"),
        ("a/y.cls", b"3"),
    ]);
    assert_eq!(
        rows.iter().map(|row| (row.key.as_str(), row.row, row.source.as_str())).collect::<Vec<_>>(),
        [("a/x", 0, "photos"), ("a/y", 1, "photos")]
    );
    let image = |role: &str, bytes: &[u8]| RoleImage { role: role.into(), bytes: bytes.to_vec() };
    assert_eq!(rows[0].images, [image(MAIN_IMAGE, &first), image("edit0", &edit)]);
    assert_eq!(
        rows[0].annotations,
        Annotations {
            captions: vec!["a dog".into(), "a hound".into()],
            questions: vec![Question::new("What?", "a dog")],
            boxes: vec![LabelledBox { label: "dog".into(), x0: 1, y0: 0, x1: 11, y1: 9 }],
            edits: vec![Edit { instruction: "turn it".into(), image: "edit0".into() }],
            license: Some("CC0-1.0".into()),
            credit: Some("A. Author".into()),
            source: Some("https://example.org".into()),
            ..Annotations::default()
        }
    );
    assert_eq!(
        (rows[1].annotations.captions.as_slice(), reason(&rows[1])),
        (["one line".to_owned(), "another".to_owned()].as_slice(), None)
    );
    for row in &rows {
        assert_eq!((row.sample_id, row.image_id), (sample::sample_id(&row.images, &row.annotations), ImageId::of(&row.images[0].bytes)));
    }
}

#[test]
fn captions_of_text_and_json_are_joined_whatever_comes_first() {
    let picture = png(&picture(1, 20, 20));
    let text: (&str, &[u8]) = ("x.txt", b"from text");
    let json: (&str, &[u8]) = ("x.json", br#"{"caption": "from json", "credit": "A"}"#);
    for members in [[("x.png", picture.as_slice()), text, json], [("x.png", picture.as_slice()), json, text]] {
        let row = tar_rows(&members).remove(0);
        let mut captions = row.annotations.captions.clone();
        captions.sort();
        assert_eq!((captions, row.annotations.credit), (vec!["from json".to_owned(), "from text".to_owned()], Some("A".to_owned())));
    }
}

#[test]
fn samples_that_lack_something_are_refused_and_not_left_out() {
    let picture = png(&picture(1, 20, 20));
    let rows = tar_rows(&[
        ("whole.png", &picture),
        ("textonly.txt", b"no picture"),
        ("badjson.png", &picture),
        ("badjson.json", b"{\"captions\": [1"),
        ("wrongtype.png", &picture),
        ("wrongtype.json", b"{\"captions\": {\"en\": \"no text\"}}"),
        ("latin.png", &picture),
        ("latin.txt", b"caf\xe9"),
        ("empty.png", b""),
    ]);
    let found: Vec<(&str, Option<(&str, &str)>)> = rows.iter().map(|row| (row.key.as_str(), reason(row))).collect();
    let bad = Some((NAME, "bad_annotations"));
    // `filter` judges an image without bytes.
    assert_eq!(
        found,
        [("whole", None), ("textonly", Some((NAME, "no_image"))), ("badjson", bad), ("wrongtype", bad), ("latin", bad), ("empty", None)]
    );
    assert!(rows[2].refusal.as_ref().unwrap().detail.contains(".json"), "{:?}", rows[2].refusal);
    let distinct: std::collections::BTreeSet<SampleId> = rows.iter().filter(|row| row.images.is_empty()).map(|row| row.sample_id).collect();
    assert_eq!(distinct.len(), 1);
}

#[test]
fn two_samples_without_content_have_ids_of_their_own() {
    let rows = tar_rows(&[("x.txt", b"same"), ("y.txt", b"same")]);
    assert_ne!(rows[0].sample_id, rows[1].sample_id);
}

#[test]
fn a_tar_cut_within_a_picture_refuses_that_sample_alone_naming_file_and_offset() {
    let picture = png(&picture(1, 40, 40));
    let whole = tar(&[("x.png", &picture), ("x.txt", b"one"), ("y.png", &picture), ("y.txt", b"two")]);
    // Content: header and picture, header and text, header, half a picture.
    let end = 512 + picture.len().next_multiple_of(512) + 1024 + 512 + picture.len() / 2;
    let rows = all_rows(&config(SourceFormat::WebDataset, 256), &location(&[("photos.tar", &whole[..end])], "photos.tar"));
    assert_eq!(
        rows.iter().map(|row| (row.key.as_str(), reason(row))).collect::<Vec<_>>(),
        [("x", None), ("y", Some((NAME, "damaged_tar")))]
    );
    let detail = &rows[1].refusal.as_ref().unwrap().detail;
    assert!(detail.contains("photos.tar") && detail.contains(&end.to_string()), "{detail}");
    assert!(rows[1].images.is_empty());
}

#[test]
fn a_tar_cut_within_a_header_is_one_refused_sample_more() {
    let whole = tar(&[("x.png", &[1; 512]), ("y.png", &[2; 512])]);
    let rows = all_rows(&config(SourceFormat::WebDataset, 256), &location(&[("photos.tar", &whole[..1024 + 200])], "photos.tar"));
    assert_eq!(rows.iter().map(reason).collect::<Vec<_>>(), [None, Some((NAME, "damaged_tar"))]);
    assert!(rows[1].refusal.as_ref().unwrap().detail.contains("photos.tar"), "{:?}", rows[1].refusal);
}

#[test]
fn units_are_cut_by_samples_and_named_by_their_tar() {
    let picture = png(&picture(1, 20, 20));
    let names: Vec<String> = (0..7).map(|number| format!("{number}.png")).collect();
    let members: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), picture.as_slice())).collect();
    let (first, second) = (tar(&members), tar(&members[..2]));
    let location =
        location(&[("in/b-1.tar", &second), ("in/a-0.tar", &first), ("in/notes.txt", b"x"), ("in/sub/c-2.tar", &second)], "in/*-?.tar");
    let scanned = scan_of(&config(SourceFormat::WebDataset, 3), &location, None).unwrap();
    let units: Vec<(&str, u64, u64)> =
        scanned.units.iter().map(|unit| (unit.unit.file.as_str(), unit.unit.first_row, unit.unit.rows)).collect();
    assert_eq!(units, [("a-0.tar", 0, 3), ("a-0.tar", 3, 3), ("a-0.tar", 6, 1), ("b-1.tar", 0, 2)]);
    assert_eq!(scanned.units[0].unit.digest, cm3flow_schemas::Digest::of(&first));
    assert_eq!(scanned.bytes, (first.len() + second.len()) as u64);
    let keys: Vec<String> =
        scanned.units.into_iter().flat_map(|unit| rows_of(&ingest(unit, &location).unwrap())).map(|row| row.key).collect();
    assert_eq!(keys, ["0", "1", "2", "3", "4", "5", "6", "0", "1"]);
    let limited = scan_of(&config(SourceFormat::WebDataset, 3), &location, Some(8)).unwrap();
    assert_eq!(limited.units.iter().map(|unit| unit.unit.rows).collect::<Vec<_>>(), [3, 3, 1, 1]);
}

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn samples_do_not_depend_on_the_size_of_units(samples in 1_usize..40, unit_samples in 1_u32..40) {
        let pictures: Vec<Vec<u8>> = (0..samples as u8).map(|kind| png(&picture(kind, 8, 8))).collect();
        let names: Vec<String> = (0..samples).map(|number| format!("{number:03}.png")).collect();
        let members: Vec<(&str, &[u8])> = names.iter().zip(&pictures).map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
        let location = location(&[("photos.tar", &tar(&members))], "photos.tar");
        let content = |unit_samples| -> Vec<Row> {
            // `row` counts within the unit.
            all_rows(&config(SourceFormat::WebDataset, unit_samples), &location).into_iter().map(|row| Row { row: 0, ..row }).collect()
        };
        prop_assert_eq!(content(unit_samples), content(1000));
    }
}

#[test]
fn ingest_schema() {
    insta::assert_snapshot!(schema_table(&columns::raw_sample()));
}

#[test]
fn rows_of_a_list_find_their_images_beside_it() {
    let (first, edited) = (png(&picture(1, 20, 20)), png(&picture(2, 20, 20)));
    let list = concat!(
        r#"{"image": "a.png", "captions": ["a dog"], "edits": [{"instruction": "turn it", "image": "more/b.png"}]}"#,
        "\n\n",
        r#"{"image": "gone.png", "caption": "nothing"}"#,
        "\r\n",
        r#"{"caption": "no image"}"#,
        "\n{broken\n",
    );
    let location = location(&[("in/list.jsonl", list.as_bytes()), ("in/a.png", &first), ("in/more/b.png", &edited)], "in/list.jsonl");
    let rows = all_rows(&config(SourceFormat::Jsonl, 2), &location);
    let found: Vec<(&str, Option<(&str, &str)>)> = rows.iter().map(|row| (row.key.as_str(), reason(row))).collect();
    assert_eq!(
        found,
        [
            ("a.png", None),
            ("gone.png", Some((NAME, "missing_image"))),
            ("line-4", Some((NAME, "no_image"))),
            ("line-5", Some((NAME, "bad_annotations")))
        ]
    );
    assert_eq!(
        rows[0].images.iter().map(|image| (image.role.as_str(), image.bytes.as_slice())).collect::<Vec<_>>(),
        [(MAIN_IMAGE, first.as_slice()), ("edit0", &edited)]
    );
    assert_eq!(rows[0].annotations.edits[0].image, "edit0");
    assert!(rows[1].refusal.as_ref().unwrap().detail == "gone.png does not exist", "{:?}", rows[1].refusal);
    assert!(rows[3].refusal.as_ref().unwrap().detail.contains("line 5"), "{:?}", rows[3].refusal);
    let distinct: std::collections::BTreeSet<SampleId> = rows.iter().map(|row| row.sample_id).collect();
    assert_eq!(distinct.len(), 4);
}

#[test]
fn a_list_names_images_from_its_folder_upwards_or_from_the_root() {
    let rows = ["../a.png", "/a.png", "./../in/b.png", "../../../a.png", "b.png"]
        .map(|name| format!("{{\"image\": \"{name}\", \"caption\": \"yes\"}}"));
    let (a, b) = (png(&picture(1, 20, 20)), png(&picture(2, 20, 20)));
    let location = location(&[("in/list.jsonl", rows.join("\n").as_bytes()), ("a.png", &a), ("in/b.png", &b)], "in/list.jsonl");
    let found: Vec<Vec<u8>> =
        all_rows(&config(SourceFormat::Jsonl, 256), &location).into_iter().map(|row| row.images[0].bytes.clone()).collect();
    assert!(found == [&a, &a, &b, &a, &b].map(Vec::clone), "{} rows", found.len());
}

#[test]
fn a_unit_of_a_list_is_named_by_what_it_holds() {
    let digest = |picture_kind, caption: &str| {
        let list = format!("{{\"image\": \"a.png\", \"caption\": \"{caption}\"}}");
        let location = location(&[("list.jsonl", list.as_bytes()), ("a.png", &png(&picture(picture_kind, 20, 20)))], "list.jsonl");
        scan_of(&config(SourceFormat::Jsonl, 2), &location, None).unwrap().units[0].unit.digest
    };
    assert_eq!(digest(1, "a"), digest(1, "a"));
    assert_ne!(digest(1, "a"), digest(2, "a"));
    assert_ne!(digest(1, "a"), digest(1, "b"));
}

#[test]
fn a_folder_gives_its_images_with_what_stands_beside_them() {
    let bytes = png(&picture(1, 20, 20));
    let files: [(&str, &[u8]); 8] = [
        ("in/b.png", &bytes),
        ("in/b.txt", b"a caption\nanother"),
        ("in/a.PNG", &bytes),
        ("in/a.json", br#"{"captions": ["from json"]}"#),
        ("in/sub/c.png", &bytes),
        ("in/d.png", &bytes),
        ("in/d.json", b"broken"),
        ("in/readme.md", b"x"),
    ];
    let rows = all_rows(&config(SourceFormat::Folder, 256), &location(&files, "in"));
    let found: Vec<_> = rows.iter().map(|row| (row.key.as_str(), row.annotations.captions.len(), reason(row))).collect();
    assert_eq!(found, [("a.PNG", 1, None), ("b.png", 2, None), ("d.png", 0, Some((NAME, "bad_annotations"))), ("sub/c.png", 0, None)]);
}

#[test]
fn a_source_without_files_or_samples_says_so() {
    for (format, files, path) in [
        (SourceFormat::WebDataset, vec![], "in/*.tar"),
        (SourceFormat::WebDataset, vec![("in/a.zip", b"x".as_slice())], "in/*.tar"),
        (SourceFormat::Jsonl, vec![("list.jsonl", b"\n\n".as_slice())], "list.jsonl"),
        (SourceFormat::Folder, vec![("in/a.cls", b"x".as_slice())], "in"),
    ] {
        let error = scan_of(&config(format, 256), &location(&files, path), None).unwrap_err();
        assert!(matches!(&error, StageError::Source { name, .. } if name == "photos"), "{error:?}");
    }
}

#[test]
fn a_tar_that_vanishes_after_the_scan_is_an_error_that_names_it() {
    let location = location(&[("photos.tar", &tar(&[("x.png", b"1")]))], "photos.tar");
    let unit = scan_of(&config(SourceFormat::WebDataset, 256), &location, None).unwrap().units.remove(0);
    block_on(location.store.delete(&Path::from("photos.tar"))).unwrap();
    let error = ingest(unit, &location).unwrap_err();
    assert!(matches!(&error, StageError::Store { location, .. } if location == "photos.tar"), "{error:?}");
    assert!(!error.is_retryable());
}

#[test]
fn the_corpus_is_read_whole() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/corpus");
    let store = Arc::new(object_store::local::LocalFileSystem::new_with_prefix(folder).unwrap());
    let location = Location { store, path: Path::from_url_path("photos-*.tar").unwrap(), is_disk: false };
    let rows = all_rows(&config(SourceFormat::WebDataset, 16), &location);
    assert_eq!(rows.iter().filter(|row| row.refusal.is_some()).count(), 0);
    assert!(
        rows.len() > 50
            && rows.iter().all(|row| row.images.iter().any(|image| image.role == MAIN_IMAGE) && row.annotations.captions.len() == 2),
        "{}",
        rows.len()
    );
    for row in rows.iter().filter(|row| !row.annotations.edits.is_empty()) {
        assert!(row.images.iter().any(|image| image.role == row.annotations.edits[0].image), "{}", row.key);
    }
}

#[test]
fn bad_fields_are_named_by_their_path() {
    let broken = SourceConfig { name: "a/b".into(), url: String::new(), ..config(SourceFormat::Folder, 0) };
    let problems = broken.problems("source[0]");
    assert_eq!(problems.len(), 3, "{problems:?}");
    assert!(problems.iter().all(|problem| problem.starts_with("source[0].")), "{problems:?}");
    assert!(config(SourceFormat::Folder, 1).problems("source[0]").is_empty());
}

#[test]
fn codes_of_a_tar_are_taken_where_a_picture_is_missing() {
    let (picture, codes, edited) = (png(&picture(1, 20, 20)), codes::to_file(&[1, 2]), codes::to_file(&[3, 4]));
    let rows = tar_rows(&[
        ("given.npy", &codes),
        ("given.txt", b"codes alone"),
        ("both.npy", &codes),
        ("both.png", &picture),
        ("edited.png", &picture),
        ("edited.edit0.npy", &edited),
        ("edited.embedding.npy", &codes),
        ("edited.json", br#"{"edits": [{"instruction": "turn it", "image": "Edit0.npy"}]}"#),
        ("features.clip.npy", &codes),
    ]);
    let image = |role: &str, bytes: &[u8]| RoleImage { role: role.into(), bytes: bytes.to_vec() };
    assert_eq!(rows[0].images, [image(MAIN_IMAGE, &codes)]);
    assert_eq!((rows[0].image_id, reason(&rows[0])), (ImageId::of(&codes), None));
    assert_eq!(rows[1].images, [image(MAIN_IMAGE, &picture)]);
    assert_eq!(rows[2].images, [image(MAIN_IMAGE, &picture), image("edit0", &edited)]);
    assert_eq!(rows[2].annotations.edits[0].image, "edit0");
    assert_eq!(reason(&rows[3]), Some((NAME, "no_image")));
}

#[test]
fn codes_of_a_list_stand_in_the_row_or_in_a_file() {
    let file = codes::to_file(&[1, 2, 3]);
    let list = concat!(
        r#"{"image": "a.npy", "caption": "a file"}"#,
        "\n",
        r#"{"codes": [1, 2, 3], "caption": "a row"}"#,
        "\n",
        r#"{"codes": [1, -2], "caption": "negative"}"#,
        "\n",
        r#"{"image": "a.png", "codes": "an old field", "caption": "a picture"}"#,
        "\n",
    );
    let location = location(&[("list.jsonl", list.as_bytes()), ("a.npy", &file), ("a.png", b"picture")], "list.jsonl");
    let rows = all_rows(&config(SourceFormat::Jsonl, 256), &location);
    assert_eq!(rows.iter().map(reason).collect::<Vec<_>>(), [None, None, Some((NAME, "bad_codes")), None]);
    assert_eq!((&rows[0].images, &rows[0].key), (&rows[1].images, &"a.npy".to_owned()));
    assert_eq!(rows[0].images[0].bytes, file, "a row's codes are those of the file that holds the same");
    assert!(rows[2].refusal.as_ref().unwrap().detail.starts_with("line 3: "), "{:?}", rows[2].refusal);
    assert_eq!(rows[3].images[0].bytes, b"picture");
}

#[test]
fn a_unit_is_named_by_the_codes_in_its_rows() {
    let digest = |codes: &str| {
        let list = format!("{{\"codes\": {codes}, \"caption\": \"a\"}}");
        let location = location(&[("list.jsonl", list.as_bytes())], "list.jsonl");
        scan_of(&config(SourceFormat::Jsonl, 2), &location, None).unwrap().units[0].unit.digest
    };
    assert_eq!(digest("[1, 2]"), digest("[1,2]"));
    assert_ne!(digest("[1, 2]"), digest("[2, 1]"));
}

/// Memory that counts its hits.
#[derive(Default)]
struct Counted {
    entries: std::sync::Mutex<std::collections::BTreeMap<cm3flow_schemas::Digest, Vec<u8>>>,
    recalled: std::sync::Mutex<std::collections::BTreeSet<cm3flow_schemas::Digest>>,
}

impl ScanMemory for Counted {
    fn recall(&self, key: Digest) -> futures::future::BoxFuture<'_, Option<Vec<u8>>> {
        let entry = self.entries.lock().unwrap().get(&key).cloned();
        self.recalled.lock().unwrap().extend(entry.is_some().then_some(key));
        Box::pin(std::future::ready(entry))
    }

    fn remember(&self, key: cm3flow_schemas::Digest, entry: Vec<u8>) -> futures::future::BoxFuture<'_, ()> {
        self.entries.lock().unwrap().insert(key, entry);
        Box::pin(std::future::ready(()))
    }
}

/// Files whose last change is a minute old.
struct OldFiles(tempfile::TempDir);

impl OldFiles {
    fn new(files: &[(&str, &[u8])]) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        files.iter().for_each(|(name, bytes)| folder.write(name, bytes, 60));
        folder
    }

    fn write(&self, name: &str, bytes: &[u8], seconds_ago: u64) {
        let path = self.0.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        let file = std::fs::File::options().append(true).open(&path).unwrap();
        file.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(seconds_ago)).unwrap();
    }

    fn location(&self, path: &str) -> Location {
        let store = Arc::new(object_store::local::LocalFileSystem::new_with_prefix(self.0.path()).unwrap());
        Location { store, path: Path::parse(path).unwrap(), is_disk: false }
    }
}

fn remembered(config: &SourceConfig, location: &Location, memory: &Counted) -> ScannedSource {
    remembered_behind(&[], config, location, memory)
}

/// Scans after a version of the units `before`.
fn remembered_behind(before: &[SourceUnit], config: &SourceConfig, location: &Location, memory: &Counted) -> ScannedSource {
    block_on(scan(config, location, ScanOptions { limit: None, before, address: "test", memory, reading: &options() })).unwrap()
}

/// Makes one source of each format with the same pictures.
fn sources() -> (OldFiles, [(SourceFormat, &'static str); 4]) {
    let pictures: Vec<Vec<u8>> = (0..5).map(|kind| png(&picture(kind, 8, 8))).collect();
    let names: Vec<String> = (0..5).map(|number| format!("{number}.png")).collect();
    let members: Vec<(&str, &[u8])> = names.iter().zip(&pictures).map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    let list: String = names.iter().map(|name| format!("{{\"image\": \"in/{name}\", \"caption\": \"one\"}}\n")).collect();
    let files = OldFiles::new(&[
        ("photos.tar", &tar(&members)),
        ("list.jsonl", list.as_bytes()),
        ("codes.jsonl", "{\"codes\": [1, 2]}\n".repeat(5).as_bytes()),
        ("in/0.txt", b"a caption"),
    ]);
    names.iter().zip(&pictures).for_each(|(name, bytes)| files.write(&format!("in/{name}"), bytes, 60));
    let formats = [
        (SourceFormat::WebDataset, "photos.tar"),
        (SourceFormat::Jsonl, "list.jsonl"),
        (SourceFormat::Jsonl, "codes.jsonl"),
        (SourceFormat::Folder, "in"),
    ];
    (files, formats)
}

#[test]
fn what_is_remembered_is_what_a_scan_finds() {
    let (files, formats) = sources();
    for (format, path) in formats {
        let (config, location, memory) = (config(format, 2), files.location(path), Counted::default());
        let first = remembered(&config, &location, &memory);
        let entries = memory.entries.lock().unwrap().clone();
        assert!(!entries.is_empty() && memory.recalled.lock().unwrap().is_empty(), "{path}");
        assert_eq!(remembered(&config, &location, &memory), first, "{path}");
        // A list is also remembered with the cuts of the version made by this scan.
        let made: Vec<SourceUnit> = first.units.iter().map(|planned| planned.unit.clone()).collect();
        assert_eq!(remembered_behind(&made, &config, &location, &memory), first, "{path}");
        assert!(memory.recalled.lock().unwrap().iter().eq(entries.keys()), "{path}: every entry saved a reading");
        assert_eq!(memory.entries.lock().unwrap().len(), entries.len(), "{path}: nothing was read again");
        assert_eq!(scan_of(&config, &location, None).unwrap(), first, "{path}");
        // No damaged entry is used.
        let damaged = |entry: &[u8]| String::from_utf8(entry.to_vec()).unwrap().replacen('1', "2", 1).into_bytes();
        for spoil in [damaged as fn(&[u8]) -> Vec<u8>, |entry| entry[..entry.len() / 2].to_vec(), |_| b"{}".to_vec()] {
            let spoilt = entries.iter().map(|(key, entry)| (*key, spoil(entry))).collect();
            let memory = Counted { entries: std::sync::Mutex::new(spoilt), ..Counted::default() };
            assert_eq!(remembered(&config, &location, &memory), first, "{path}");
        }
    }
}

#[test]
fn a_file_that_was_just_written_is_not_remembered() {
    let (files, formats) = sources();
    for name in ["photos.tar", "codes.jsonl", "in/0.png", "in/1.png", "in/2.png", "in/3.png", "in/4.png"] {
        let bytes = std::fs::read(files.0.path().join(name)).unwrap();
        files.write(name, &bytes, 0);
    }
    for (format, path) in formats {
        let memory = Counted::default();
        remembered(&config(format, 2), &files.location(path), &memory);
        assert!(memory.entries.lock().unwrap().is_empty(), "{path}");
    }
}

#[test]
fn a_changed_image_is_noticed_behind_an_unchanged_list() {
    let (files, formats) = sources();
    for (format, path) in [formats[1], formats[3]] {
        let (config, location, memory) = (config(format, 2), files.location(path), Counted::default());
        files.write("in/2.png", b"as it was", 50);
        let first = remembered(&config, &location, &memory);
        files.write("in/2.png", b"as it is ", 40);
        let second = remembered(&config, &location, &memory);
        let same: Vec<bool> = first.units.iter().zip(&second.units).map(|(before, after)| before == after).collect();
        assert_eq!(same, [true, false, true], "{path}");
    }
}

#[test]
fn appended_rows_leave_the_units_before_as_they_are() {
    let (files, formats) = sources();
    for (format, path) in formats {
        let (config, location) = (config(format, 3), files.location(path));
        let first: Vec<_> = scan_of(&config, &location, None).unwrap().units.into_iter().map(|planned| planned.unit).collect();
        assert_eq!(first.iter().map(|unit| (unit.first_row, unit.rows)).collect::<Vec<_>>(), [(0, 3), (3, 2)], "{path}");
        match format {
            SourceFormat::WebDataset => continue,
            SourceFormat::Folder => {
                for name in ["in/5.png", "in/6.png", "in/7.png", "in/8.png"] {
                    files.write(name, name.as_bytes(), 60);
                }
            }
            SourceFormat::Jsonl => {
                let rows = std::fs::read_to_string(files.0.path().join(path)).unwrap();
                files.write(path, (rows + &"{\"caption\": \"new\"}\n".repeat(4)).as_bytes(), 60);
            }
        }
        let options = ScanOptions { limit: None, before: &first, address: "test", memory: &NoMemory, reading: &options() };
        let second = block_on(scan(&config, &location, options)).unwrap().units;
        let units: Vec<_> = second.iter().map(|planned| planned.unit.clone()).collect();
        assert_eq!(units[..2], first, "{path}");
        assert_eq!(units[2..].iter().map(|unit| (unit.first_row, unit.rows)).collect::<Vec<_>>(), [(5, 3), (8, 1)], "{path}");
        let keys = second.into_iter().flat_map(|planned| rows_of(&ingest(planned, &location).unwrap())).count();
        assert_eq!(keys, 9, "{path}");
    }
}

#[test]
fn an_unchanged_tar_keeps_its_units_under_another_size() {
    let (files, _) = sources();
    let location = files.location("photos.tar");
    let first: Vec<_> =
        scan_of(&config(SourceFormat::WebDataset, 2), &location, None).unwrap().units.into_iter().map(|planned| planned.unit).collect();
    let options = ScanOptions { limit: None, before: &first, address: "test", memory: &NoMemory, reading: &options() };
    let second = block_on(scan(&config(SourceFormat::WebDataset, 100), &location, options)).unwrap().units;
    assert_eq!(second.into_iter().map(|planned| planned.unit).collect::<Vec<_>>(), first);
}

#[test]
fn some_rows_of_a_unit_are_read_alone() {
    let (files, formats) = sources();
    for (format, path) in formats {
        let location = files.location(path);
        let second = scan_of(&config(format, 3), &location, None).unwrap().units.remove(1);
        let whole = rows_of(&ingest(second.clone(), &location).unwrap());
        let last = rows_of(&ingest(second.only(&[4]).unwrap(), &location).unwrap());
        assert_eq!(last, [Row { row: 0, ..whole[1].clone() }], "{path}");
    }
}

#[test]
fn a_planned_unit_is_read_from_its_json_elsewhere() {
    let (files, formats) = sources();
    for (format, path) in formats {
        let location = files.location(path);
        let units = scan_of(&config(format, 2), &location, None).unwrap().units;
        let expected: Vec<Row> = units.iter().flat_map(|unit| rows_of(&ingest(unit.clone(), &location).unwrap())).collect();
        let sent = serde_json::to_string(&units).unwrap();
        let received: Vec<PlannedUnit> = serde_json::from_str(&sent).unwrap();
        let found: Vec<Row> = received.into_iter().flat_map(|unit| rows_of(&ingest(unit, &location).unwrap())).collect();
        assert_eq!((found.len(), found), (5, expected), "{path}");
    }
}

#[test]
fn a_source_that_changed_after_the_scan_is_an_error_that_names_its_file() {
    let (files, formats) = sources();
    let units: Vec<_> =
        formats.map(|(format, path)| scan_of(&config(format, 2), &files.location(path), None).unwrap().units.remove(1)).into();
    let picture = png(&picture(1, 8, 8));
    let changed = |index: usize| {
        let path = formats[index].1;
        let error = ingest(units[index].clone(), &files.location(path)).unwrap_err();
        assert!(matches!(&error, StageError::Changed { file, .. } if *file == path), "{path}: {error:?}");
    };
    // A tar of other bytes, and one that ends before the unit begins.
    files.write("photos.tar", &tar(&[("0.png", &picture), ("1.png", &picture), ("2.png", &picture)]), 30);
    changed(0);
    files.write("photos.tar", b"short", 30);
    changed(0);
    // Another line, another number of lines, fewer bytes.
    let rows = std::fs::read_to_string(files.0.path().join("codes.jsonl")).unwrap();
    for other in [rows.replace("[1, 2]", "[1, 3]"), rows.replace("[1, 2]}", "[1]}\n "), rows[..30].to_owned(), String::new()] {
        files.write("codes.jsonl", other.as_bytes(), 30);
        changed(2);
    }
    // Another image, and annotations added and removed.
    files.write("in/2.png", b"other", 30);
    changed(1);
    changed(3);
}

#[test]
fn annotations_of_every_task_are_read_and_their_images_found() {
    let json = br#"{
        "questions": [{"question": "Why?", "answer": "B", "context": "It rains.", "choices": ["sun", "rain"], "explanation": "Wet."}],
        "seg_labels": {"2": "dog", "1": "sky"},
        "masks": [{"label": "the dog", "image": "dog.PNG"}],
        "narrative": "A long story.", "narratives": ["Another."],
        "translations": {"German": "ein Hund", "French": ["un chien", "le chien"]},
        "references": ["ref.jpg"],
        "items": [{"text": "one"}, {"image": "jpg", "caption": "of it"}, {"text": "  "}],
        "ocr": "STOP", "fields": {"haiku": "rain"}, "depth": "not ours"
    }"#;
    let rows = tar_rows(&[("a.jpg", b"main"), ("a.json", json), ("a.seg.png", b"levels"), ("a.dog.png", b"mask"), ("a.ref.jpg", b"other")]);
    let roles: Vec<&str> = rows[0].images.iter().map(|image| image.role.as_str()).collect();
    assert_eq!(roles, [MAIN_IMAGE, "seg", "dog", "ref"]);
    insta::assert_debug_snapshot!(rows[0].annotations);
}

#[test]
fn an_interleaved_document_without_picture_of_its_own_is_known_by_its_first() {
    let in_a_tar = br#"{"items": [{"text": "one"}, {"image": "0.jpg"}, {"image": "1.jpg"}]}"#;
    let tar = tar_rows(&[("a.json", in_a_tar), ("a.0.jpg", b"first"), ("a.1.jpg", b"second")]);
    let list = br#"{"items": [{"text": "one"}, {"image": "x.jpg"}, {"image": "y.jpg"}], "images": {"depth": "d.png"}}"#;
    let files: &[(&str, &[u8])] = &[("list.jsonl", list), ("x.jpg", b"first"), ("y.jpg", b"second"), ("d.png", b"depth")];
    let listed = all_rows(&config(SourceFormat::Jsonl, 4), &location(files, "list.jsonl"));
    let shown = |row: &Row| {
        let images: Vec<(String, Vec<u8>)> = row.images.iter().map(|image| (image.role.clone(), image.bytes.clone())).collect();
        let items: Vec<Option<String>> = row.annotations.items.iter().map(|item| item.image.clone()).collect();
        (images, items)
    };
    let image = |role: &str, bytes: &[u8]| (role.to_owned(), bytes.to_vec());
    let (main, named) = (Some(MAIN_IMAGE.to_owned()), |role: &str| Some(role.to_owned()));
    assert_eq!(shown(&tar[0]), (vec![image(MAIN_IMAGE, b"first"), image("1", b"second")], vec![None, main.clone(), named("1")]));
    let expected = vec![image(MAIN_IMAGE, b"first"), image("depth", b"depth"), image("item0", b"second")];
    assert_eq!(shown(&listed[0]), (expected, vec![None, main, named("item0")]));
}
