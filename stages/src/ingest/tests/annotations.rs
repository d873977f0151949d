//! Annotations of tars, lists and folders: an unreadable field costs only itself, and a row without an image is described.

#![allow(clippy::unwrap_used)]

use cm3flow_schemas::sample::DroppedPart;

use super::*;

/// Returns key, refusal, captions and losses of each sample.
fn shown(batch: &RecordBatch) -> Vec<String> {
    #[derive(Deserialize)]
    struct Lost {
        dropped: Vec<DroppedPart>,
    }
    let lost: Vec<Lost> = rows::read(batch, &[columns::DROPPED]).unwrap();
    let line = |(row, lost): (Row, Lost)| {
        let parts: Vec<String> = lost.dropped.iter().map(|part| format!(" | {} {}", part.count, part.reason)).collect();
        let refusal = row.refusal.map_or_else(|| "kept".to_owned(), |refusal| format!("{}: {}", refusal.reason, refusal.detail));
        format!("{} | {refusal} | {:?}{}", row.key, row.annotations.captions, parts.concat())
    };
    rows_of(batch).into_iter().zip(lost).map(line).collect()
}

fn shown_of(format: SourceFormat, files: &[(&str, &[u8])], path: &str) -> Vec<String> {
    let location = location(files, path);
    let units = scan_of(&config(format, 256), &location, None).unwrap().units;
    units.into_iter().flat_map(|unit| shown(&ingest(unit, &location).unwrap())).collect()
}

fn list(rows: &[&str]) -> Vec<String> {
    let text = rows.join("\n");
    let files: &[(&str, &[u8])] = &[("list.jsonl", text.as_bytes()), ("a.png", b"picture"), ("b.png", b"another")];
    shown_of(SourceFormat::Jsonl, files, "list.jsonl")
}

#[test]
fn rows_of_a_list_with_odd_fields() {
    insta::assert_snapshot!(
        list(&[
            "\u{feff}{\"image\": \"a.png\", \"caption\": \"behind a mark\"}",
            r#"{"image": "a.png", "caption": "a", "license": 3, "score": NaN}"#,
            r#"{"image": "a.png", "caption": "a", "boxes": "a cat"}"#,
            r#"{"image": "a.png", "boxes": "a cat"}"#,
            r#"{"image": "a.png", "caption": ["a", "a", "b"], "text": "b "}"#,
            r#"["0.jpg"]"#,
            r#""0.jpg""#,
            "17",
            r#"{"image": "a.png", "caption": 1"#,
            r#"{"images": ["b.png"], "caption": "a"}"#,
            r#"{"images": ["b.png"]}"#,
            r#"{"file_name": "b.png", "caption": "a"}"#,
            r#"{"image": 17, "caption": "a"}"#,
            r#"{"image": "a.png", "images": ["b.png"], "caption": "a"}"#,
            r#"{"image": "a.png", "caption": "a", "boxes": [["cat", 1, 2, 3, 4]]}"#,
            r#"{"codes": [1, "x"], "caption": "a"}"#,
            r#"{"caption": "a"}"#,
        ])
        .join("\n")
    );
}

#[test]
fn a_list_that_is_one_array_is_an_error_that_says_what_to_do() {
    for text in
        ["[\n  {\"image\": \"a.png\"},\n  {\"image\": \"b.png\"}\n]\n", "\n\u{feff}[{\"image\": \"a.png\"}, {\"image\": \"b.png\"}]"]
    {
        let location = location(&[("in/list.json", text.as_bytes()), ("in/a.png", b"picture")], "in/list.json");
        let error = scan_of(&config(SourceFormat::Jsonl, 256), &location, None).unwrap_err();
        let expected = "list.json is one JSON array, not one object a line; convert it: jq -c '.[]' list.json";
        assert!(matches!(&error, StageError::Source { problem, .. } if problem == expected), "{error:?}");
    }
}

#[test]
fn members_of_a_tar_with_odd_fields() {
    let picture: &[u8] = b"picture";
    let utf16: Vec<u8> = std::iter::once(0xFEFF).chain("ein Café\r\n".encode_utf16()).flat_map(u16::to_le_bytes).collect();
    let members: &[(&str, &[u8])] = &[
        ("array.jpg", picture),
        ("array.json", br#"["0.jpg"]"#),
        ("both.jpg", picture),
        ("both.json", br#"{"caption": "a cafe\u0301", "key": "both", "error_message": null}"#),
        ("both.txt", "a café\n".as_bytes()),
        ("half.jpg", picture),
        ("half.json", br#"{"caption": {"en": "a"}, "boxes": 7}"#),
        ("marked.jpg", picture),
        ("marked.json", b"\xEF\xBB\xBF{\"caption\": \"from json\"}"),
        ("marked.txt", b"\xEF\xBB\xBFfrom text"),
        ("saved.jpg", picture),
        ("saved.json", br#"{"caption": {"en": "a"}, "license": {"id": 3}}"#),
        ("saved.txt", b"from text"),
        ("wide.jpg", picture),
        ("wide.txt", &utf16),
    ];
    insta::assert_snapshot!(shown_of(SourceFormat::WebDataset, &[("photos.tar", &tar(members))], "photos.tar").join("\n"));
}

#[test]
fn files_of_a_folder_with_odd_fields() {
    let files: &[(&str, &[u8])] = &[
        ("in/a.png", b"picture"),
        ("in/a.json", br#"{"captions": "one", "boxes": [3]}"#),
        ("in/b.png", b"picture"),
        ("in/b.json", br#"{"seg_labels": ["sky"]}"#),
        ("in/c.png", b"picture"),
        ("in/c.json", br#"[{"caption": "a"}]"#),
        ("in/d.png", b"picture"),
        ("in/d.txt", b"\xEF\xBB\xBFtwo\n two"),
    ];
    insta::assert_snapshot!(shown_of(SourceFormat::Folder, files, "in").join("\n"));
}

#[test]
fn a_unit_is_another_one_if_what_was_left_out_of_it_is() {
    let digest = |row: &str| {
        let location = location(&[("list.jsonl", row.as_bytes()), ("a.png", b"picture")], "list.jsonl");
        scan_of(&config(SourceFormat::Jsonl, 2), &location, None).unwrap().units[0].unit.digest
    };
    let plain = digest(r#"{"image": "a.png", "caption": "a"}"#);
    assert_eq!(plain, digest(r#"{"image": "a.png", "captions": ["a"], "unknown": 7}"#));
    assert_ne!(plain, digest(r#"{"image": "a.png", "caption": "a", "boxes": 7}"#));
}
