//! Annotations as sources write them: objects of JSON with a few spellings, or plain lines of text.
//!
//! Bytes become text (`text`), text becomes the fields that are known (`json`), and each field is read by itself (`fields`, with `reader` and
//! `values`), so that one that cannot be read costs no other. The result is a [`Reading`]: whether it is of use is decided once all places
//! that speak of the sample are read. `row` adds what only rows of lists have: the names of their images, and codes.

mod boxes;
mod fields;
mod images;
mod json;
#[cfg(test)]
#[allow(dead_code, unreachable_pub)]
mod old;
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

#[cfg(test)]
mod tests;
