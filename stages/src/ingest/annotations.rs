//! Annotations as sources write them: JSON with a few spellings, or plain lines of text.

use cm3flow_schemas::sample::{Annotations, Edit, LabelledBox, Question};
use serde::Deserialize;

/// What a JSON object may say of a picture; fields that are not named here are left alone.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct AnnotationsJson {
    caption: Option<String>,
    captions: Vec<String>,
    text: Option<String>,
    questions: Vec<Question>,
    boxes: Vec<BoxJson>,
    edits: Vec<Edit>,
    license: Option<String>,
    credit: Option<String>,
    source: Option<String>,
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
/// Boxes are rounded to whole pixels; what lies left of or above the picture is cut. An edit names its image by the member's
/// extension in a tar (`edit0.jpg`) or by path in a row list; its role is that name without the file type.
pub(super) fn from_json(bytes: &[u8]) -> Result<Annotations, serde_json::Error> {
    let json: AnnotationsJson = serde_json::from_slice(bytes)?;
    let edge = |value: f64| value.round().clamp(0.0, f64::from(u32::MAX)) as u32;
    let to_box =
        |found: BoxJson| LabelledBox { label: found.label, x0: edge(found.x0), y0: edge(found.y0), x1: edge(found.x1), y1: edge(found.y1) };
    Ok(Annotations {
        captions: json.caption.into_iter().chain(json.text).chain(json.captions).collect(),
        questions: json.questions,
        boxes: json.boxes.into_iter().map(to_box).collect(),
        edits: json.edits,
        license: json.license,
        credit: json.credit,
        source: json.source,
    })
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
