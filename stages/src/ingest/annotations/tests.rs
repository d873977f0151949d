//! Fields of odd types: read as intended, left out, or refused with a message.

#![allow(clippy::unwrap_used)]

use cm3flow_schemas::sample::{Annotations, DroppedPart, LabelledBox, Question, SegLabel};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn read(json: &str) -> Reading {
    from_json(json.as_bytes()).unwrap()
}

/// Returns the annotations of a sample and the counts of lost parts, or the refusal.
fn finished(json: &str) -> Result<(Annotations, Vec<(String, u64)>), String> {
    let counts = |dropped: Vec<DroppedPart>| dropped.into_iter().map(|part| (part.reason, part.count)).collect();
    read(json).finish().map(|(annotations, dropped)| (annotations, counts(dropped)))
}

/// Returns annotations without lost parts.
fn whole(json: &str) -> Annotations {
    let (annotations, dropped) = finished(json).unwrap();
    assert_eq!(dropped, [], "{json}");
    annotations
}

#[test]
fn null_is_missing_everywhere() {
    let fields = ["caption", "text", "captions", "questions", "boxes", "edits", "seg_labels", "masks", "narrative", "narratives"];
    let more = ["translations", "references", "items", "ocr", "fields", "license", "credit", "source"];
    for field in fields.into_iter().chain(more) {
        for nothing in ["null", "[]", "[null]", "NaN", "Infinity"] {
            assert_eq!(whole(&format!(r#"{{"{field}": {nothing}}}"#)), Annotations::default(), "{field}: {nothing}");
        }
    }
    let entries = whole(
        r#"{"captions": [null, "a"], "questions": [null, {"question": "q", "answer": "a", "context": null, "choices": [null, "x"], "explanation": null}],
        "seg_labels": {"1": null, "2": "dog"}, "translations": {"German": null, "French": [null, "chien"]}, "fields": {"a": null, "b": "c"},
        "items": [null, {"text": null, "image": "x.jpg", "caption": null}]}"#,
    );
    let question = Question { options: Some("(A) x".into()), ..Question::new("q", "a") };
    assert_eq!((entries.captions, entries.questions), (vec!["a".to_owned()], vec![question]));
    assert_eq!(entries.seg_labels, [SegLabel { level: 2, label: "dog".into() }]);
    assert_eq!((entries.translations.len(), entries.fields.len(), entries.items.len()), (1, 1, 1));
}

#[test]
fn one_stands_where_a_list_may_and_a_list_of_one_where_one_is_meant() {
    let one = whole(
        r#"{"captions": "a", "narratives": "b", "questions": {"question": "q", "answer": "a", "choices": "x"}, "references": "r.jpg",
        "boxes": {"label": "dog", "x0": 1, "y0": 2, "x1": 3, "y1": 4}, "edits": {"instruction": "i", "image": "e.jpg"},
        "masks": {"label": "m", "image": "m.png"}, "items": {"text": "t"}, "translations": {"German": "g"}}"#,
    );
    let listed = whole(
        r#"{"caption": ["a"], "narrative": ["b"], "questions": [{"question": ["q"], "answer": ["a"], "choices": ["x"]}],
        "references": [["r.jpg"]], "boxes": [{"label": ["dog"], "x0": [1], "y0": 2, "x1": 3, "y1": 4}], "edits": [{"instruction": ["i"], "image": ["e.jpg"]}],
        "masks": [{"label": "m", "image": "m.png"}], "items": [{"text": ["t"]}], "translations": [{"German": ["g"]}]}"#,
    );
    assert_eq!(one, listed);
    assert_eq!((one.captions, one.boxes.len(), one.items.len()), (vec!["a".to_owned()], 1, 1));
    // Several captions stay several; several texts about the sample become one.
    let several = whole(
        r#"{"caption": ["a", "b"], "text": ["c"], "credit": ["A. Author", "B. Author"], "ocr": ["STOP", "GO"], "fields": {"tags": ["x", "y"]}, "license": ["CC0-1.0"]}"#,
    );
    assert_eq!(several.captions, ["a", "b", "c"]);
    assert_eq!((several.credit.as_deref(), several.ocr.as_deref()), (Some("A. Author, B. Author"), Some("STOP\nGO")));
    assert_eq!((several.fields[0].text.as_str(), several.license.as_deref()), ("x, y", Some("CC0-1.0")));
}

#[test]
fn numbers_and_truth_values_are_texts_and_numbers_may_be_written_as_texts() {
    let read = whole(
        r#"{"caption": 7, "license": 3, "credit": false, "source": 12345678901234567890, "questions": [{"question": "How many?", "answer": 2},
        {"question": "Is it?", "answer": true, "choices": [1, 2.5]}], "boxes": [{"label": 4, "x0": "1", "y0": " 2.4 ", "x1": "12.5", "y1": 1e1}],
        "seg_labels": {"3": 9}, "fields": {"score": 0.5}}"#,
    );
    assert_eq!(read.captions, ["7"]);
    assert_eq!(
        (read.license.as_deref(), read.credit.as_deref(), read.source.as_deref()),
        (Some("3"), Some("false"), Some("12345678901234567890"))
    );
    assert_eq!((read.questions[0].answer.as_str(), read.questions[1].answer.as_str()), ("2", "true"));
    assert_eq!(read.questions[1].options.as_deref(), Some("(A) 1 (B) 2.5"));
    assert_eq!(read.boxes, [LabelledBox { label: "4".into(), x0: 1, y0: 2, x1: 13, y1: 10 }]);
    assert_eq!((read.seg_labels[0].label.as_str(), read.fields[0].text.as_str()), ("9", "0.5"));
}

#[test]
fn fields_that_nothing_uses_never_refuse() {
    for odd in ["17", "{}", "[[[1]]]", "\"x\"", "true", "NaN", "1e400", "{\"caption\": 3}"] {
        assert_eq!(whole(&format!(r#"{{"depth": {odd}, "image": {odd}, "codes": {odd}, "caption": "a", "": {odd}}}"#)).captions, ["a"]);
        assert_eq!(whole(&format!(r#"{{"depth": {odd}}}"#)), Annotations::default(), "{odd}");
    }
    for odd in ["{}", "[[1, 2]]", "[{}]"] {
        for field in ["license", "credit", "source"] {
            let (annotations, dropped) = finished(&format!(r#"{{"{field}": {odd}}}"#)).unwrap();
            assert_eq!((annotations, dropped), (Annotations::default(), vec![(format!("annotations.{field}"), 1)]), "{odd}");
        }
    }
}

/// Fields of impossible types, with their messages and the numbers of counted parts.
const MISFITS: [(&str, &str, u64, &str); 26] = [
    ("caption", "{\"en\": \"a\"}", 1, "a text or a list of texts, got an object"),
    ("captions", "[{\"caption\": \"a\"}, {}]", 2, "a text or a list of texts, got a list whose entry 1 is an object (and 1 more)"),
    ("captions", "[[\"a\", \"b\"]]", 1, "a text or a list of texts, got a list whose entry 1 is a list"),
    ("questions", "\"Why?\"", 1, "a list of objects with question and answer, got a text"),
    (
        "questions",
        "[{\"question\": \"q\", \"answers\": [\"a\"]}]",
        1,
        "a list of objects with question and answer, got a list whose entry 1 has no \"answer\" but \"answers\", \"question\"",
    ),
    (
        "questions",
        "{\"question\": \"q\", \"answer\": [\"a\", \"b\"]}",
        1,
        "a list of objects with question and answer, got an object that has a list as \"answer\"",
    ),
    (
        "questions",
        "[{\"question\": \"q\", \"answer\": \"a\", \"choices\": [{}]}]",
        1,
        "a list of objects with question and answer, got a list whose entry 1 has an object among \"choices\"",
    ),
    ("boxes", "\"cat\"", 1, "a list of objects with label, x0, y0, x1, y1, got a text"),
    ("boxes", "[[\"cat\", 1, 2, 3, 4]]", 1, "a list of objects with label, x0, y0, x1, y1, got a list whose entry 1 is a list"),
    ("boxes", "[1, 2, 3, 4]", 4, "a list of objects with label, x0, y0, x1, y1, got a list whose entry 1 is a number (and 3 more)"),
    (
        "boxes",
        "[{\"bbox\": [1, 2, 3, 4]}]",
        1,
        "a list of objects with label, x0, y0, x1, y1, got a list whose entry 1 has no \"x0\" but \"bbox\"",
    ),
    (
        "boxes",
        "[{\"label\": \"a\", \"x0\": NaN, \"y0\": 1, \"x1\": 2, \"y1\": 3}]",
        1,
        "a list of objects with label, x0, y0, x1, y1, got a list whose entry 1 has no \"x0\" but \"label\", \"x1\", \"y0\", \"y1\"",
    ),
    (
        "boxes",
        "[{\"label\": \"a\", \"x0\": \"12px\", \"y0\": 1, \"x1\": 2, \"y1\": 3}]",
        1,
        "a list of objects with label, x0, y0, x1, y1, got a list whose entry 1 has a text as \"x0\"",
    ),
    (
        "edits",
        "[{\"instruction\": \"turn\"}]",
        1,
        "a list of objects with instruction and image, got a list whose entry 1 has no \"image\" but \"instruction\"",
    ),
    (
        "edits",
        "[{\"instruction\": \"turn\", \"image\": 7}]",
        1,
        "a list of objects with instruction and image, got a list whose entry 1 has a number as \"image\"",
    ),
    ("seg_labels", "[\"sky\", \"dog\"]", 1, "an object of labels by their levels, got a list"),
    ("seg_labels", "{\"sky\": 1}", 1, "an object of labels by their levels, got an object whose \"sky\" is no level"),
    (
        "seg_labels",
        "{\"-1\": \"a\", \"4294967296\": \"b\"}",
        2,
        "an object of labels by their levels, got an object whose \"-1\" is no level (and 1 more)",
    ),
    ("masks", "7", 1, "a list of objects with label and image, got a number"),
    ("narratives", "[{}]", 1, "a text or a list of texts, got a list whose entry 1 is an object"),
    ("translations", "\"ein Hund\"", 1, "an object of texts, or lists of texts, by their languages, got a text"),
    (
        "translations",
        "{\"German\": {}}",
        1,
        "an object of texts, or lists of texts, by their languages, got an object whose \"German\" is an object",
    ),
    (
        "items",
        "[{\"text\": \"a\"}, {\"type\": \"image\"}]",
        1,
        "a list of objects with text, or with image and caption, got a list whose entry 2 has no \"text\" but \"type\"",
    ),
    ("items", "[\"a\"]", 1, "a list of objects with text, or with image and caption, got a list whose entry 1 is a text"),
    ("ocr", "[\"a\", {}]", 1, "a text, got a list whose entry 2 is an object"),
    ("fields", "{\"a\": {\"b\": 1}}", 1, "an object of texts by their names, got an object whose \"a\" is an object"),
];

#[test]
fn a_field_of_an_impossible_type_goes_alone_where_the_sample_is_of_use_and_else_refuses_it() {
    for (field, value, count, expected) in MISFITS {
        let said = format!("field {field}: expected {expected}");
        let problem = read(&format!(r#"{{"{field}": {value}}}"#)).finish().unwrap_err();
        assert_eq!(problem, said);
        let beside = if field == "ocr" { "narrative" } else { "ocr" };
        let (annotations, dropped) = finished(&format!(r#"{{"{field}": {value}, "{beside}": "STOP"}}"#)).unwrap();
        assert_eq!(dropped, [(format!("annotations.{field}"), count)]);
        assert_eq!(annotations, whole(&format!(r#"{{"{beside}": "STOP"}}"#)), "{field}: {value}");
    }
    // Messages have no word of the code.
    for word in ["struct ", "Json", "invalid type", "sequence", "a map", "u32", "f64", "string"] {
        assert!(MISFITS.iter().all(|(_, _, _, said)| !said.contains(word)), "{word}");
    }
}

#[test]
fn a_bad_entry_goes_alone() {
    let (annotations, dropped) = finished(
        r#"{"boxes": [{"label": "dog", "x0": 1, "y0": 2, "x1": 3, "y1": 4}, ["cat", 1, 2, 3, 4], {"label": "cat"}],
        "questions": [{"question": "q"}, {"question": "q", "answer": "a"}], "captions": ["a", {}], "seg_labels": {"sky": "blue", "2": "dog"},
        "translations": {"German": ["Hund", {}]}}"#,
    )
    .unwrap();
    assert_eq!(annotations.boxes, [LabelledBox { label: "dog".into(), x0: 1, y0: 2, x1: 3, y1: 4 }]);
    assert_eq!(
        (annotations.questions.len(), annotations.captions.len(), annotations.seg_labels.len(), annotations.translations.len()),
        (1, 1, 1, 1)
    );
    let counts: Vec<(&str, u64)> = dropped.iter().map(|(reason, count)| (reason.as_str(), *count)).collect();
    let mut sorted = counts.clone();
    sorted.sort_unstable();
    let expected = [
        ("annotations.boxes", 2),
        ("annotations.captions", 1),
        ("annotations.questions", 1),
        ("annotations.seg_labels", 1),
        ("annotations.translations", 1),
    ];
    assert_eq!(sorted, expected);
}

#[test]
fn an_interleaved_document_that_lacks_a_part_is_none() {
    let (annotations, dropped) = finished(r#"{"items": [{"text": "a"}, 7, {"image": "x.jpg"}], "caption": "b"}"#).unwrap();
    assert_eq!((annotations.items, dropped), (vec![], vec![("annotations.items".to_owned(), 1)]));
}

#[test]
fn boxes_that_hold_no_pixel_are_counted_by_reason() {
    let boxed = |[x0, y0, x1, y1]: [f64; 4]| json!({"label": "dog", "x0": x0, "y0": y0, "x1": x1, "y1": y1});
    let corners = [[-9.0, 1.0, -2.0, 4.0], [9.0, 1.0, 2.0, 4.0], [1.0, 3.0, 4.0, 3.0], [-4.0, 1.0, 5.2, 4.0], [1.0, -5.0, 4.0, -1.0]];
    let json = json!({"boxes": corners.map(boxed), "caption": "a"});
    let (annotations, dropped) = finished(&json.to_string()).unwrap();
    assert_eq!(annotations.boxes, [LabelledBox { label: "dog".into(), x0: 0, y0: 1, x1: 5, y1: 4 }]);
    assert_eq!(dropped, [("boxes.outside".to_owned(), 2), ("boxes.inverted".to_owned(), 1), ("boxes.empty".to_owned(), 1)]);
    // A misplaced box is not an unreadable part.
    let alone = json!({"boxes": [boxed([9.0, 1.0, 2.0, 4.0])]});
    assert_eq!(finished(&alone.to_string()).unwrap().1, [("boxes.inverted".to_owned(), 1)]);
}

#[test]
fn a_field_that_stands_twice_is_counted_and_its_last_value_read() {
    let (annotations, dropped) = finished(r#"{"caption": "a", "license": "x", "caption": "b", "license": "y"}"#).unwrap();
    assert_eq!((annotations.captions, annotations.license.as_deref()), (vec!["b".to_owned()], Some("y")));
    assert_eq!(dropped, [("annotations.caption".to_owned(), 1), ("annotations.license".to_owned(), 1)]);
    assert_eq!(
        finished(r#"{"caption": "a", "caption": null}"#).unwrap_err(),
        "field caption: it stands more than once, the last one counts"
    );
    assert_eq!(finished(r#"{"license": "a", "license": {}}"#).unwrap().1, [("annotations.license".to_owned(), 2)]);
}

#[test]
fn captions_of_all_spellings_stand_once() {
    let (annotations, dropped) = finished(r#"{"caption": "a door ", "text": "a door", "captions": ["two", " a door", "two"]}"#).unwrap();
    assert_eq!((annotations.captions, dropped), (vec!["a door ".to_owned(), "two".into()], vec![("captions.equal".to_owned(), 3)]));
}

#[test]
fn odd_texts_are_kept_as_they_are() {
    let read = whole(r#"{"caption": "a\u0000b \ud800 \u202e", "captions": [" "], "ocr": "  "}"#);
    assert_eq!(read.captions, ["a\0b \u{fffd} \u{202e}", " "]);
    assert_eq!(read.ocr, None);
    let long = "x".repeat(8 << 20);
    assert_eq!(whole(&format!(r#"{{"caption": "{long}", "depth": "{long}"}}"#)).captions[0].len(), 8 << 20);
}

fn any_json() -> impl Strategy<Value = Value> {
    let name = prop_oneof!["(question|answer|answers|label|image|text|caption|x0|y0|x1|y1|choices|[0-9]{1,2})", ".{0,5}"];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,6}".prop_map(Value::from),
        "-?[0-9]{1,3}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 5, move |inner| {
        let object = proptest::collection::btree_map(name.clone(), inner.clone(), 0..5);
        prop_oneof![
            proptest::collection::vec(inner, 0..5).prop_map(Value::from),
            object.prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_value_of_any_field_is_read_counted_or_refused(field in 0_usize..18, value in any_json()) {
        let names = ["caption", "text", "captions", "questions", "boxes", "edits", "seg_labels", "masks", "narrative", "narratives",
            "translations", "references", "items", "ocr", "fields", "license", "credit", "source"];
        let alone = read(&json!({names[field]: value}).to_string());
        prop_assert_eq!(alone.problem.is_some(), alone.dropped.iter().any(|part| part.reason.starts_with("annotations.")) && field < 15);
        prop_assert!(alone.dropped.iter().all(|part| part.count > 0));
        // With a second text, the sample stays, and everything else is read as it is alone.
        let beside = if names[field] == "narrative" { "ocr" } else { "narrative" };
        let with_text = read(&json!({names[field]: value, beside: "a text"}).to_string());
        prop_assert_eq!(&with_text.dropped, &alone.dropped);
        prop_assert!(with_text.finish().is_ok());
    }
}
