//! Rows of lists: annotations with the names of their images, or with codes.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;
use serde_json::Value;

use super::reader::{Reader, Shape};
use super::reading::Reading;
use super::values::{is, kind, name, number, quoted};
use super::{fields, json, text};

/// Names of a row's fields beside those of annotations.
const NAMES: [&str; 3] = ["image", "images", "codes"];
const IMAGES: Shape = Shape { field: "images", expected: "an object of paths by the roles of the images" };

/// Largest number of fields that a message names.
const MAX_FIELDS: usize = 8;

/// Content of one row of a list.
#[derive(Debug, Default)]
pub(in crate::ingest) struct Row {
    /// Path of the main picture.
    pub(in crate::ingest) image: Option<String>,
    /// Paths of further images by role: condition images that the source has.
    pub(in crate::ingest) images: BTreeMap<String, String>,
    /// Codes in place of the picture, or their problem.
    pub(in crate::ingest) codes: Option<Result<Vec<u32>, String>>,
    /// Annotations of the row.
    pub(in crate::ingest) reading: Reading,
}

impl Row {
    /// Reads a JSON object as [`fields::from_json`] does.
    ///
    /// # Errors
    /// The reason why the text is no object, for people.
    pub(in crate::ingest) fn from_json(bytes: &[u8]) -> Result<Self, String> {
        let mut fields = json::fields(bytes, &[&fields::NAMES, &NAMES])?;
        let image = fields.take("image").and_then(|image| name(&image).unwrap_or_default());
        let codes = fields.take("codes").filter(|codes| !codes.is_null() && image.is_none()).map(|codes| whole_numbers(&codes));
        let mut reader = Reader::new(fields);
        let path = |role: &str, path: &Value| {
            let path = name(path).map_err(is).transpose();
            path.map(|path| path.map(|path| (role.to_owned(), path))).into_iter().collect()
        };
        let images = reader.map(IMAGES, path).into_iter().collect();
        Ok(Self { image, images, codes, reading: fields::read(reader) })
    }
}

fn whole_numbers(codes: &Value) -> Result<Vec<u32>, String> {
    let whole = |code: &Value| {
        let number = number(code).ok().flatten().filter(|number| !code.is_array() && number.fract() == 0.0);
        number.filter(|number| (0.0..=f64::from(u32::MAX)).contains(number)).map(|number| number as u32)
    };
    let shown = |code: &Value| if code.is_number() { code.to_string() } else { kind(code).to_owned() };
    let misfit = |found: String| format!("field codes: expected a list of whole numbers from 0 on, got {found}");
    let Value::Array(codes) = codes else { return Err(misfit(shown(codes))) };
    let read = |(place, code)| whole(code).ok_or_else(|| misfit(format!("a list whose entry {place} is {}", shown(code))));
    (1..).zip(codes).map(read).collect()
}

/// Describes the fields of a row without `image`, for people.
pub(in crate::ingest) fn without_image(bytes: &[u8]) -> String {
    const PROBLEM: &str = "the row names no image by \"image\"";
    let fields = json::all_fields(bytes).unwrap_or_default();
    let others: Vec<String> = fields
        .iter()
        .filter(|(name, _)| !fields::NAMES.contains(&name.as_str()))
        .map(|(name, value)| format!("{} ({})", quoted(name), kind(value)))
        .collect();
    match others.len() {
        0 => PROBLEM.to_owned(),
        1..=MAX_FIELDS => format!("{PROBLEM}; it has {}", others.join(", ")),
        all => format!("{PROBLEM}; it has {} and {} fields more", others[..MAX_FIELDS].join(", "), all - MAX_FIELDS),
    }
}

/// Returns the problem of the list `name` if it does not have one object a line, judged by its first line that is not blank: it is an array
/// of objects, or its lines cannot be separated. A line with an array of other values is a row, and is refused by itself.
pub(in crate::ingest) fn problem_of_list(name: &str, first_line: &[u8]) -> Option<String> {
    if first_line.starts_with(b"\xFF\xFE") || first_line.starts_with(b"\xFE\xFF") {
        return Some(format!("{name} is UTF-16; convert it: iconv -f UTF-16 -t UTF-8 {name}"));
    }
    let line = text::in_utf8(first_line).unwrap_or_default();
    let entries = line.trim_ascii().strip_prefix(b"[")?;
    let is_object = entries.trim_ascii_start().starts_with(b"{");
    let is_row = !is_object && serde_json::from_slice::<IgnoredAny>(&line).is_ok();
    (!is_row).then(|| format!("{name} is one JSON array, not one object a line; convert it: jq -c '.[]' {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(json: &str) -> Row {
        Row::from_json(json.as_bytes()).expect("an object")
    }

    #[test]
    fn a_row_names_its_images_by_text_alone() {
        for json in [r#"{"image": "a.jpg"}"#, r#"{"image": ["a.jpg"]}"#, r#"{"image": [null, "a.jpg"], "images": null}"#] {
            assert_eq!(row(json).image.as_deref(), Some("a.jpg"), "{json}");
        }
        for json in
            ["{}", r#"{"image": null}"#, r#"{"image": 17}"#, r#"{"image": ""}"#, r#"{"image": ["a.jpg", "b.jpg"]}"#, r#"{"image": {}}"#]
        {
            assert_eq!(row(json).image, None, "{json}");
        }
        let images = row(r#"{"image": "a.jpg", "caption": "a", "images": {"seg": ["s.png"], "depth": null, "pose": 3}}"#);
        assert_eq!(images.images, BTreeMap::from([("seg".into(), "s.png".into())]));
        assert_eq!(images.reading.dropped[0].reason, "annotations.images");
        assert_eq!(
            images.reading.problem.as_deref(),
            Some(r#"field images: expected an object of paths by the roles of the images, got an object whose "pose" is a number"#)
        );
    }

    #[test]
    fn a_row_without_image_says_what_it_has() {
        for (json, expected) in [
            (r#"{"images": ["b.jpg"], "file_name": "b.jpg"}"#, r#"; it has "file_name" (a text), "images" (a list)"#),
            (r#"{"image": 17, "caption": "a door"}"#, r#"; it has "image" (a number)"#),
            (r#"{"caption": "a door", "license": null}"#, ""),
            (r#"{"image": NaN}"#, r#"; it has "image" (null)"#),
        ] {
            assert_eq!(without_image(json.as_bytes()), format!("the row names no image by \"image\"{expected}"), "{json}");
        }
        let many: Vec<String> = (0..20).map(|number| format!(r#""{number}{}": 1"#, "long".repeat(30))).collect();
        let said = without_image(format!("{{{}}}", many.join(",")).as_bytes());
        assert!(said.ends_with("(a number) and 12 fields more") && said.len() < 600, "{said}");
    }

    #[test]
    fn codes_are_whole_numbers() {
        let codes = |json: &str| row(&format!(r#"{{"codes": {json}}}"#)).codes;
        assert_eq!(codes("[1, 2.0, \"3\", 4294967295]"), Some(Ok(vec![1, 2, 3, u32::MAX])));
        assert_eq!(codes("null"), None);
        assert_eq!(row(r#"{"image": "a.jpg", "codes": "an old field"}"#).codes, None);
        for (json, got) in [
            ("[1, -2]", "a list whose entry 2 is -2"),
            ("[1.5]", "a list whose entry 1 is 1.5"),
            ("[4294967296]", "a list whose entry 1 is 4294967296"),
            ("[1, null]", "a list whose entry 2 is null"),
            ("[[1], [2]]", "a list whose entry 1 is a list"),
            ("\"1 2\"", "a text"),
        ] {
            assert_eq!(codes(json), Some(Err(format!("field codes: expected a list of whole numbers from 0 on, got {got}"))), "{json}");
        }
    }

    #[test]
    fn a_list_that_is_one_array_is_told_by_its_first_line() {
        let array = Some("l.json is one JSON array, not one object a line; convert it: jq -c '.[]' l.json".to_owned());
        for line in ["[", "\u{feff}[\r", " [ {\"image\": \"a.jpg\"},", r#"[{"image": "a.jpg"}, {"image": "b.jpg"}]"#, r#"["a.jpg","#] {
            assert_eq!(problem_of_list("l.json", line.as_bytes()), array, "{line}");
        }
        for line in [r#"["0.jpg"]"#, "[]", r#"{"image": "a.jpg"}"#, "\u{feff}{}", "broken"] {
            assert_eq!(problem_of_list("l.json", line.as_bytes()), None, "{line}");
        }
        let said = problem_of_list("l.json", b"\xFF\xFE{\0").expect("no UTF-8");
        assert_eq!(said, "l.json is UTF-16; convert it: iconv -f UTF-16 -t UTF-8 l.json");
    }
}
