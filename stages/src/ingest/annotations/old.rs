//! Annotations as sources write them: JSON with a few spellings, or plain lines of text.

use std::borrow::Cow;
use std::collections::BTreeMap;

use cm3flow_schemas::sample::{Annotations, Edit, Item, LabelledBox, NamedText, ObjectMask, Question, SegLabel, Translation};
use serde::Deserialize;

/// What a JSON object may say of a picture; fields that are not named here are left alone.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct AnnotationsJson {
    caption: Option<String>,
    captions: Vec<String>,
    text: Option<String>,
    questions: Vec<QuestionJson>,
    boxes: Vec<BoxJson>,
    edits: Vec<Edit>,
    seg_labels: BTreeMap<u32, String>,
    masks: Vec<ObjectMask>,
    narrative: Option<String>,
    narratives: Vec<String>,
    translations: BTreeMap<String, OneOrMany>,
    references: Vec<String>,
    items: Vec<ItemJson>,
    ocr: Option<String>,
    fields: BTreeMap<String, String>,
    license: Option<String>,
    credit: Option<String>,
    source: Option<String>,
}

#[derive(Debug, Deserialize)]
struct QuestionJson {
    question: String,
    answer: String,
    context: Option<String>,
    #[serde(default)]
    choices: Vec<String>,
    explanation: Option<String>,
}

impl From<QuestionJson> for Question {
    fn from(json: QuestionJson) -> Self {
        let lettered = |(choice, letter): (&String, char)| format!("({letter}) {choice}");
        let options: Vec<String> = json.choices.iter().zip('A'..).map(lettered).collect();
        Self {
            question: json.question,
            answer: json.answer,
            context: json.context,
            options: (!options.is_empty()).then(|| options.join(" ")),
            explanation: json.explanation,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(text) => vec![text],
            Self::Many(texts) => texts,
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ItemJson {
    text: Option<String>,
    image: Option<String>,
    caption: Option<String>,
}

impl ItemJson {
    /// The image with its caption, then the text; empty texts are none.
    fn into_items(self) -> impl Iterator<Item = Item> {
        let written = |text: Option<String>| text.filter(|text| !text.trim().is_empty());
        let captioned = Item { text: written(self.caption), image: self.image };
        let alone = Item { text: written(self.text), image: None };
        [captioned, alone].into_iter().filter(|item| item.text.is_some() || item.image.is_some())
    }
}

#[derive(Debug, Deserialize)]
struct BoxJson {
    label: String,
    x0: f64,
    y0: f64,
    x1: f64,
    y1: f64,
}

/// Reads annotations from a JSON object.
///
/// Boxes are rounded to whole pixels; what lies left of or above the picture is cut. Edits, masks, references and items name their images
/// by the member's extension in a tar (`edit0.jpg`) or by path in a row list; what reads those makes roles of the names. Lone surrogates are
/// read as U+FFFD.
pub(super) fn from_json(bytes: &[u8]) -> Result<Annotations, serde_json::Error> {
    let json: AnnotationsJson = serde_json::from_slice(&without_lone_surrogates(bytes))?;
    let edge = |value: f64| value.round().clamp(0.0, f64::from(u32::MAX)) as u32;
    let to_box =
        |found: BoxJson| LabelledBox { label: found.label, x0: edge(found.x0), y0: edge(found.y0), x1: edge(found.x1), y1: edge(found.y1) };
    let translated = |(language, captions): (String, OneOrMany)| {
        captions.into_vec().into_iter().map(move |caption| Translation { language: language.clone(), caption })
    };
    Ok(Annotations {
        captions: json.caption.into_iter().chain(json.text).chain(json.captions).collect(),
        questions: json.questions.into_iter().map(Question::from).collect(),
        boxes: json.boxes.into_iter().map(to_box).collect(),
        edits: json.edits,
        seg_labels: json.seg_labels.into_iter().map(|(level, label)| SegLabel { level, label }).collect(),
        masks: json.masks,
        narratives: json.narrative.into_iter().chain(json.narratives).collect(),
        translations: json.translations.into_iter().flat_map(translated).collect(),
        references: json.references,
        items: json.items.into_iter().flat_map(ItemJson::into_items).collect(),
        ocr: json.ocr.filter(|text| !text.trim().is_empty()),
        fields: json.fields.into_iter().map(|(name, text)| NamedText { name, text }).collect(),
        license: json.license,
        credit: json.credit,
        source: json.source,
    })
}

/// The names by which annotations name images beside the main one, with what is to stand in front of the number of a role.
pub(super) fn image_names(annotations: &mut Annotations) -> impl Iterator<Item = (&'static str, &mut String)> {
    let edits = annotations.edits.iter_mut().map(|edit| ("edit", &mut edit.image));
    let masks = annotations.masks.iter_mut().map(|mask| ("mask", &mut mask.image));
    let references = annotations.references.iter_mut().map(|reference| ("reference", reference));
    let items = annotations.items.iter_mut().filter_map(|item| item.image.as_mut()).map(|image| ("item", image));
    edits.chain(masks).chain(references).chain(items)
}

/// JSON in which escapes of lone surrogates (`\ud800` without its other half) are escapes of U+FFFD. Such halves stand for no
/// character, but writers that count in UTF-16 leave them behind when they cut text; a caption is worth more than the half of an emoji.
pub(super) fn without_lone_surrogates(json: &[u8]) -> Cow<'_, [u8]> {
    let mut mended = Cow::Borrowed(json);
    let mut at = 0;
    // Outside of strings JSON has no backslash, and inside every one begins an escape.
    while let Some(next) = json.get(at..).and_then(|rest| rest.iter().position(|byte| *byte == b'\\')) {
        at += next;
        let (half, other) = (escaped_unit(json, at), escaped_unit(json, at + 6));
        at += match (half, other) {
            (Some(0xD800..=0xDBFF), Some(0xDC00..=0xDFFF)) => 12,
            (Some(0xD800..=0xDFFF), _) => {
                mended.to_mut()[at + 2..at + 6].copy_from_slice(b"fffd");
                6
            }
            _ => 2,
        };
    }
    mended
}

/// The UTF-16 unit of the escape `\uXXXX` at `at`.
fn escaped_unit(json: &[u8], at: usize) -> Option<u16> {
    let digits = json.get(at..at + 6)?.strip_prefix(b"\\u")?;
    u16::from_str_radix(std::str::from_utf8(digits).ok().filter(|digits| !digits.starts_with('+'))?, 16).ok()
}

/// Reads one caption a line; empty lines are none.
pub(super) fn captions_from_text(bytes: &[u8]) -> Result<Vec<String>, std::str::Utf8Error> {
    let text = std::str::from_utf8(bytes)?;
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

/// Whether a file extension (lower case, without dot) is that of an image that can be decoded.
pub(super) fn is_image_extension(extension: &str) -> bool {
    matches!(extension, "jpg" | "jpeg" | "png" | "gif" | "webp" | "bmp" | "tif" | "tiff")
}

/// Whether a file extension is that of given codes.
pub(super) fn is_codes_extension(extension: &str) -> bool {
    extension == "npy"
}
