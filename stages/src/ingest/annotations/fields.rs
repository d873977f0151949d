//! Fields of annotations in JSON. Each is read by itself, so an unreadable one does not cost the others.

use std::collections::BTreeMap;

use cm3flow_schemas::sample::{Annotations, DroppedPart, Edit, Item, LabelledBox, NamedText, ObjectMask, Question, SegLabel, Translation};
use serde_json::Value;

use super::boxes::WrittenBox;
use super::json;
use super::reader::{Reader, Shape};
use super::reading::Reading;
use super::values::{entries, is, joined, name, object, optional, required, text};

/// Names of the fields that annotations are read from.
pub(super) const NAMES: [&str; 18] = [
    "caption",
    "text",
    "captions",
    "questions",
    "boxes",
    "edits",
    "seg_labels",
    "masks",
    "narrative",
    "narratives",
    "translations",
    "references",
    "items",
    "ocr",
    "fields",
    "license",
    "credit",
    "source",
];

const QUESTIONS: Shape = Shape { field: "questions", expected: "a list of objects with question and answer" };
const BOXES: Shape = Shape { field: "boxes", expected: "a list of objects with label, x0, y0, x1, y1" };
const EDITS: Shape = Shape { field: "edits", expected: "a list of objects with instruction and image" };
const MASKS: Shape = Shape { field: "masks", expected: "a list of objects with label and image" };
const REFERENCES: Shape = Shape { field: "references", expected: "a list of names of images" };
const ITEMS: Shape = Shape { field: "items", expected: "a list of objects with text, or with image and caption" };
const SEG_LABELS: Shape = Shape { field: "seg_labels", expected: "an object of labels by their levels" };
const TRANSLATIONS: Shape = Shape { field: "translations", expected: "an object of texts, or lists of texts, by their languages" };
const FIELDS: Shape = Shape { field: "fields", expected: "an object of texts by their names" };

/// Reads annotations from a JSON object, in UTF-8 or, after a byte-order mark, in UTF-16. Lone surrogates become U+FFFD; NaN and infinities
/// become null.
///
/// # Errors
/// The reason why the text is no object, for people. An unreadable field is no error: see [`Reading::finish`].
pub(in crate::ingest) fn from_json(bytes: &[u8]) -> Result<Reading, String> {
    json::fields(bytes, &[&NAMES]).map(|fields| read(Reader::new(fields)))
}

/// Reads annotations from the fields of an object.
///
/// Boxes are rounded to whole pixels, and cut at the left and upper edge of the picture. Edits, masks, references and items name their
/// images: by the member's extension in a tar (`edit0.jpg`), by path in a row list. The readers of those turn the names into roles.
pub(super) fn read(mut reader: Reader) -> Reading {
    let labels: BTreeMap<u32, String> = reader.map(SEG_LABELS, seg_label).into_iter().collect();
    let [license, credit, source] = reader.mentions();
    let annotations = Annotations {
        captions: ["caption", "text", "captions"].into_iter().flat_map(|field| reader.texts(field)).collect(),
        questions: reader.list(QUESTIONS, |value| question(value).map(Some)),
        boxes: boxes(&mut reader),
        edits: reader.list(EDITS, |value| edit(value).map(Some)),
        seg_labels: labels.into_iter().map(|(level, label)| SegLabel { level, label }).collect(),
        masks: reader.list(MASKS, |value| mask(value).map(Some)),
        narratives: ["narrative", "narratives"].into_iter().flat_map(|field| reader.texts(field)).collect(),
        translations: reader.map(TRANSLATIONS, translations),
        references: reader.list(REFERENCES, |value| name(value).map_err(is)),
        // A document without one of its items would be another document, so all are dropped.
        items: reader.whole_list(ITEMS, |value| items(value).map(Some)).into_iter().flatten().collect(),
        ocr: reader.text("ocr", "\n").filter(|text| !text.trim().is_empty()),
        fields: reader.map(FIELDS, named_text),
        license,
        credit,
        source,
    };
    let problem = reader.problem();
    Reading { annotations, dropped: reader.dropped, problem }
}

fn boxes(reader: &mut Reader) -> Vec<LabelledBox> {
    let mut found = Vec::new();
    for written in reader.list(BOXES, |value| WrittenBox::read(value).map(Some)) {
        match written.in_pixels() {
            Ok(placed) => found.push(placed),
            Err(reason) => DroppedPart::add(&mut reader.dropped, reason, 1),
        }
    }
    found
}

fn question(value: &Value) -> Result<Question, String> {
    let value = object(value)?;
    let choices = value.get("choices").map_or(Ok(Vec::new()), choices)?;
    let lettered = |(choice, letter): (&String, char)| format!("({letter}) {choice}");
    let options: Vec<String> = choices.iter().zip('A'..).map(lettered).collect();
    Ok(Question {
        question: required(value, "question", text)?,
        answer: required(value, "answer", text)?,
        context: optional(value, "context", text)?,
        options: (!options.is_empty()).then(|| options.join(" ")),
        explanation: optional(value, "explanation", text)?,
    })
}

fn choices(value: &Value) -> Result<Vec<String>, String> {
    let read = |(_, choice)| text(choice).map_err(|kind| format!("has {kind} among \"choices\""));
    Ok(entries(value).map(read).collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
}

fn edit(value: &Value) -> Result<Edit, String> {
    let value = object(value)?;
    Ok(Edit { instruction: required(value, "instruction", text)?, image: required(value, "image", name)? })
}

fn mask(value: &Value) -> Result<ObjectMask, String> {
    let value = object(value)?;
    Ok(ObjectMask { label: required(value, "label", text)?, image: required(value, "image", name)? })
}

/// Returns the image with its caption, then the text. Empty texts are left out.
fn items(value: &Value) -> Result<Vec<Item>, String> {
    let value = object(value)?;
    if !value.is_empty() && !["text", "image", "caption"].iter().any(|known| value.contains_key(*known)) {
        required(value, "text", text)?;
    }
    let written = |field| Ok::<_, String>(optional(value, field, text)?.filter(|text| !text.trim().is_empty()));
    let captioned = Item { text: written("caption")?, image: optional(value, "image", name)? };
    let alone = Item { text: written("text")?, image: None };
    Ok([captioned, alone].into_iter().filter(|item| item.text.is_some() || item.image.is_some()).collect())
}

fn seg_label(level: &str, label: &Value) -> Vec<Result<(u32, String), String>> {
    let Ok(level) = level.trim().parse() else { return vec![Err("is no level".into())] };
    let label = text(label).map_err(is).transpose();
    label.map(|label| label.map(|label| (level, label))).into_iter().collect()
}

fn translations(language: &str, captions: &Value) -> Vec<Result<Translation, String>> {
    let translation = |caption| Translation { language: language.to_owned(), caption };
    entries(captions).filter_map(|(_, caption)| text(caption).map_err(is).map(|caption| caption.map(translation)).transpose()).collect()
}

fn named_text(name: &str, value: &Value) -> Vec<Result<NamedText, String>> {
    let text = joined(value, ", ").map_err(|what| is(&what)).transpose();
    text.map(|text| text.map(|text| NamedText { name: name.to_owned(), text })).into_iter().collect()
}
