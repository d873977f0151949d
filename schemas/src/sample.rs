//! Samples: raw image-text pairs with their annotations, splits and refusals.

use serde::{Deserialize, Serialize};

use crate::canonical;
use crate::digest::{ImageId, PartHasher, SampleId};

/// Role of the picture that the captions describe.
pub const MAIN_IMAGE: &str = "main";
/// Role of the Canny edge map that `derive` makes.
pub const EDGE_IMAGE: &str = "edge";
/// Role of the scribble that `derive` makes.
pub const SCRIBBLE_IMAGE: &str = "scribble";
/// Role of a segmentation: its levels number objects, and `derive` colours them.
pub const SEGMENTATION_IMAGE: &str = "seg";
/// Role of the outlines of a segmentation that `derive` makes.
pub const OUTLINE_IMAGE: &str = "outline";
/// Role of a depth map.
pub const DEPTH_IMAGE: &str = "depth";
/// Role of a map of surface normals.
pub const NORMAL_IMAGE: &str = "normal";

/// Reason for boxes whose left or upper edge lies beyond the opposite one.
pub const INVERTED_BOX: &str = "boxes.inverted";
/// Reason for boxes without area.
pub const EMPTY_BOX: &str = "boxes.empty";
/// Reason for boxes that lie outside of the picture.
pub const OUTSIDE_BOX: &str = "boxes.outside";

/// Frame of coordinates, for pictures whose EXIF orientation is not upright.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Orientation {
    /// Pixels of the stored picture: when it is turned upright, boxes and masks are turned with it.
    #[default]
    Stored,
    /// Pixels of the upright picture.
    Upright,
}

/// Annotations of a picture by people or models. Every list may be empty. Coordinates are in pixels of the main image; before `derive`, in
/// the frame that [`Orientation`] names.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Annotations {
    /// Descriptions, each of the whole picture.
    pub captions: Vec<String>,
    /// Questions about the main image, with their answers.
    pub questions: Vec<Question>,
    /// Labelled rectangles of the main image.
    pub boxes: Vec<LabelledBox>,
    /// Edits of the main image.
    pub edits: Vec<Edit>,
    /// Labels of the levels in the image [`SEGMENTATION_IMAGE`]. Without them that image is an ordinary picture.
    pub seg_labels: Vec<SegLabel>,
    /// Masks of single objects.
    pub masks: Vec<ObjectMask>,
    /// Long descriptions, a paragraph each.
    pub narratives: Vec<String>,
    /// Captions with their languages.
    pub translations: Vec<Translation>,
    /// Roles of images that show the same thing, person or style as the main image.
    pub references: Vec<String>,
    /// Texts and images in reading order; the main image is one of them.
    pub items: Vec<Item>,
    /// Transcript of the writing in the picture.
    pub ocr: Option<String>,
    /// Further texts of the source, for templates of its own.
    pub fields: Vec<NamedText>,
    /// SPDX identifier, or the source's own word.
    pub license: Option<String>,
    /// Author to name.
    pub credit: Option<String>,
    /// Address of the picture.
    pub source: Option<String>,
}

impl Annotations {
    /// Returns the name that the sample counts under: its licence, or `unknown`.
    #[must_use]
    pub fn license_name(&self) -> &str {
        self.license.as_deref().unwrap_or("unknown")
    }
}

/// A question about the picture, with its answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Question {
    /// Question, as text.
    pub question: String,
    /// Answer, as text.
    pub answer: String,
    /// Knowledge that the answer needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    /// Answers to choose from, as text: `(A) red (B) blue`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub options: Option<String>,
    /// Reasoning that leads to the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explanation: Option<String>,
}

impl Question {
    /// Returns a question without context, options and explanation.
    #[must_use]
    pub fn new(question: impl Into<String>, answer: impl Into<String>) -> Self {
        Self { question: question.into(), answer: answer.into(), context: None, options: None, explanation: None }
    }
}

/// A labelled rectangle: `x0 <= x < x1`, `y0 <= y < y1`, in pixels, y downwards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelledBox {
    /// Name of the object in the box.
    pub label: String,
    /// Left edge.
    pub x0: u32,
    /// Upper edge.
    pub y0: u32,
    /// Right edge, exclusive.
    pub x1: u32,
    /// Lower edge, exclusive.
    pub y1: u32,
}

/// Label of one level of a segmentation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegLabel {
    /// Level, 1 or more; 0 belongs to no object.
    pub level: u32,
    /// Name of the object.
    pub label: String,
}

/// An object, and the role of a picture that is white where the object is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectMask {
    /// Phrase that means this object and no other one in the picture.
    pub label: String,
    /// Role of the mask among the sample's images.
    pub image: String,
}

/// A caption with its language.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Translation {
    /// Name of the language, as templates use it.
    pub language: String,
    /// Caption in that language.
    pub caption: String,
}

/// One item of an interleaved document: a text, or an image with the caption that follows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// Text, or caption of the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Role of the image among the sample's images; `None` for a text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
}

/// A named text of the source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedText {
    /// Name by which templates refer to it.
    pub name: String,
    /// Content, as the source has it.
    pub text: String,
}

/// An edit of the main image: the instruction, and the role of the resulting picture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edit {
    /// Instruction, as text.
    pub instruction: String,
    /// Role of the edited image among the sample's images.
    pub image: String,
}

/// Bytes of a picture with its role. Before `derive` they are an encoded file or a file of codes, after it RGB pixels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleImage {
    /// [`MAIN_IMAGE`], [`EDGE_IMAGE`], or a name from the source.
    pub role: String,
    /// Content, in one of these forms.
    #[serde(with = "serde_bytes")]
    pub bytes: Vec<u8>,
}

/// Codes of a picture with its role, row-major.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleCodes {
    /// Role of the picture, as in [`RoleImage`].
    pub role: String,
    /// Indices into the codebook.
    pub codes: Vec<u32>,
}

/// Reason of a row's refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Stage that refused it.
    pub stage: String,
    /// Reason in snake_case, for counts.
    pub reason: String,
    /// Details for people.
    pub detail: String,
}

impl Refusal {
    /// Returns a refusal by `stage`.
    #[must_use]
    pub fn new(stage: &str, reason: &str, detail: impl Into<String>) -> Self {
        Self { stage: stage.to_owned(), reason: reason.to_owned(), detail: detail.into() }
    }
}

/// Parts that a sample lost although it stays: captions, boxes, fields, members of a tar.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DroppedPart {
    /// Kind of part and reason, such as `captions.too_short`; for unread members of a tar, `members` and their extension.
    pub reason: String,
    /// Number of such parts; 1 or more.
    pub count: u64,
}

impl DroppedPart {
    /// Adds `count` parts to `reason` in `parts`, where each reason stands once. A count of 0 adds nothing.
    pub fn add(parts: &mut Vec<Self>, reason: &str, count: u64) {
        match parts.iter_mut().find(|part| part.reason == reason) {
            Some(part) => part.count += count,
            None if count > 0 => parts.push(Self { reason: reason.to_owned(), count }),
            None => {}
        }
    }
}

/// Side of the evaluation that a sample is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Split {
    /// Excluded from training, banks and fits; only for evaluation.
    HeldOut,
    /// For training.
    Train,
}

impl Split {
    /// Both splits, `train` first.
    pub const ALL: [Self; 2] = [Self::Train, Self::HeldOut];

    /// Returns the name in columns and files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::HeldOut => "held_out",
            Self::Train => "train",
        }
    }

    /// Returns the split of an image: held out if its number in 0..1, drawn from `seed` and its id, is below `held_out`.
    #[must_use]
    pub fn of(seed: u64, image: ImageId, held_out: f64) -> Self {
        if crate::random::Draws::new(seed, "split", &image.0).unit() < held_out { Self::HeldOut } else { Self::Train }
    }
}

impl From<Split> for String {
    fn from(split: Split) -> Self {
        split.name().to_owned()
    }
}

impl TryFrom<String> for Split {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        Self::ALL.into_iter().find(|split| split.name() == name).ok_or_else(|| format!("{name:?} is no split; train and held_out are"))
    }
}

/// Returns the id of a sample: a digest of its images with their roles and its annotations, all sorted.
#[must_use]
pub fn sample_id(images: &[RoleImage], annotations: &Annotations) -> SampleId {
    let mut parts: Vec<Vec<u8>> = images.iter().map(|image| [image.role.as_bytes(), &ImageId::of(&image.bytes).0].concat()).collect();
    let mut add = |digest: crate::Digest| parts.push(digest.0.to_vec());
    annotations.captions.iter().for_each(|caption| add(canonical::digest_of("caption", caption)));
    annotations.questions.iter().for_each(|question| add(canonical::digest_of("question", question)));
    annotations.boxes.iter().for_each(|labelled| add(canonical::digest_of("box", labelled)));
    annotations.edits.iter().for_each(|edit| add(canonical::digest_of("edit", edit)));
    annotations.seg_labels.iter().for_each(|label| add(canonical::digest_of("segment label", label)));
    annotations.masks.iter().for_each(|mask| add(canonical::digest_of("mask", mask)));
    annotations.narratives.iter().for_each(|narrative| add(canonical::digest_of("narrative", narrative)));
    annotations.translations.iter().for_each(|translation| add(canonical::digest_of("translation", translation)));
    annotations.references.iter().for_each(|reference| add(canonical::digest_of("reference", reference)));
    annotations.items.iter().enumerate().for_each(|item| add(canonical::digest_of("item", &item)));
    annotations.ocr.iter().for_each(|ocr| add(canonical::digest_of("ocr", ocr)));
    annotations.fields.iter().for_each(|field| add(canonical::digest_of("field", field)));
    parts.sort_unstable();
    let mut hasher = PartHasher::new("sample");
    for part in &parts {
        hasher.part(part);
    }
    SampleId(hasher.id())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(captions: &[&str]) -> SampleId {
        let images = [RoleImage { role: MAIN_IMAGE.into(), bytes: vec![1, 2, 3] }];
        sample_id(&images, &Annotations { captions: captions.iter().map(ToString::to_string).collect(), ..Annotations::default() })
    }

    #[test]
    fn sample_id_ignores_order_but_not_content() {
        assert_eq!(pair(&["a", "b"]), pair(&["b", "a"]));
        assert_ne!(pair(&["a", "b"]), pair(&["ab"]));
        assert_ne!(pair(&["a"]), pair(&["a", "a"]));
    }

    #[test]
    fn credit_and_address_are_not_in_the_id() {
        let images = [RoleImage { role: MAIN_IMAGE.into(), bytes: vec![1] }];
        let bare = sample_id(&images, &Annotations::default());
        let credited =
            Annotations { credit: Some("A. Author".into()), source: Some("https://example.org".into()), ..Annotations::default() };
        assert_eq!(bare, sample_id(&images, &credited));
    }

    #[test]
    fn split_follows_the_asked_share() {
        let held_out = (0_u32..10_000).filter(|n| Split::of(1, ImageId::of(&n.to_le_bytes()), 0.1) == Split::HeldOut).count();
        assert!((900..1_100).contains(&held_out), "{held_out}");
    }
}
