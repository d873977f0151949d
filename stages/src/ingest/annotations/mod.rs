//! Annotations as sources write them: JSON objects with some variants, or plain lines of text.
//!
//! Bytes become text (`text`), and text becomes known fields (`json`). Each field is read by itself (`fields`, with `reader` and `values`),
//! so an unreadable one does not cost the others. The result is a [`Reading`]. Its use is decided once all places with annotations of the
//! sample are read. `row` adds the parts of a list's row: names of images, and codes.

mod boxes;
mod fields;
mod images;
mod json;
mod reader;
mod reading;
mod row;
mod text;
mod values;

pub(super) use fields::from_json;
pub(super) use images::{image_names, is_codes_extension, is_image_extension};
pub(super) use reading::Reading;
pub(super) use row::{Row, problem_of_list, without_image};
pub(super) use text::{captions_from_text, is_blank};

/// Reason of a refusal for annotations that cannot be used.
pub(super) const BAD_ANNOTATIONS: &str = "bad_annotations";

#[cfg(test)]
mod tests;
