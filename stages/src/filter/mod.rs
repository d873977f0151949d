//! `filter`: refuses samples by bytes, headers and captions, before anything is decoded.
//!
//! Second stage of `prepare`. Row-local: keeps order and number of rows. Captions that are too short or too long are dropped from their
//! sample, and counted. A sample without any caption or other text left is refused. For images with given codes only the bytes are checked;
//! their size stays 0, and `derive` sets it.

mod characters;
mod config;

use std::io::Cursor;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use cm3flow_schemas::rows::{self, ColumnChange};
use cm3flow_schemas::sample::{Annotations, DroppedPart, MAIN_IMAGE, Refusal, RoleImage};
use cm3flow_schemas::{SchemaError, columns};
use serde::{Deserialize, Serialize};

pub use config::FilterConfig;

use crate::codes;
use crate::error::{Result, StageError};
use crate::stage::{Revised, Transform};

/// Revision of this stage's code; raised when the same input gives other rows.
pub const REVISION: u32 = 4;
/// Name of the stage in metrics, refusals and errors.
pub const NAME: &str = "filter";

/// Transform that refuses samples and drops captions.
#[derive(Debug)]
pub struct Filter {
    config: FilterConfig,
    change: ColumnChange,
}

impl Filter {
    /// Filters by `config`, which has been checked.
    #[must_use]
    pub fn new(config: FilterConfig) -> Self {
        let mut added = columns::size();
        added.extend([columns::annotations(), columns::dropped(), columns::refusal()]);
        Self { config, change: ColumnChange::new(&[], added) }
    }
}

/// Columns that the transform reads.
const WANTED: [&str; 4] = [columns::IMAGES, columns::ANNOTATIONS, columns::DROPPED, columns::REFUSAL];

#[derive(Deserialize)]
struct In {
    images: Vec<RoleImage>,
    annotations: Annotations,
    dropped: Vec<DroppedPart>,
    refusal: Option<Refusal>,
}

#[derive(Serialize)]
struct Out {
    width: u32,
    height: u32,
    annotations: Annotations,
    dropped: Vec<DroppedPart>,
    refusal: Option<Refusal>,
}

impl Revised for Filter {
    const NAME: &'static str = NAME;
    const REVISION: u32 = REVISION;
}

impl Transform for Filter {
    fn output_schema(&self, input: &SchemaRef) -> Result<SchemaRef, SchemaError> {
        rows::require(input, columns::raw_sample().fields())?;
        Ok(self.change.output_schema(input))
    }

    fn transform(&mut self, batch: RecordBatch) -> Result<RecordBatch> {
        let schema_error = |source| StageError::Schema { stage: NAME, source };
        let input: Vec<In> = rows::read(&batch, &WANTED).map_err(schema_error)?;
        let judged: Vec<Out> = input.into_iter().map(|row| self.judge(row)).collect();
        self.change.apply(&batch, &judged).map_err(schema_error)
    }
}

impl Filter {
    fn judge(&self, row: In) -> Out {
        let mut out = Out { width: 0, height: 0, annotations: row.annotations, dropped: row.dropped, refusal: row.refusal };
        if out.refusal.is_some() {
            return out;
        }
        let refused = self.check_images(&row.images).and_then(|(width, height)| {
            (out.width, out.height) = (width, height);
            if !has_given_main(&row.images) {
                self.check_side(width, height)?;
            }
            self.check_captions(&mut out.annotations, &mut out.dropped)
        });
        out.refusal = refused.err().map(|(reason, detail)| Refusal::new(NAME, reason, detail));
        out
    }

    /// Checks all images, and returns width and height of the stored main image, from headers alone.
    fn check_images(&self, images: &[RoleImage]) -> Result<(u32, u32), (&'static str, String)> {
        let mut main = (0, 0);
        for image in images {
            let bytes = image.bytes.len() as u64;
            let what = &image.role;
            if bytes == 0 {
                return Err(("empty_image", format!("image {what} has no bytes")));
            }
            if bytes > self.config.max_image_bytes {
                return Err((
                    "too_many_bytes",
                    format!("image {what} has {bytes} bytes, at most {} are allowed", self.config.max_image_bytes),
                ));
            }
            if codes::is_given(&image.bytes) {
                continue;
            }
            let header = image::ImageReader::new(Cursor::new(&image.bytes))
                .with_guessed_format()
                .map_err(|error| ("unknown_format", error.to_string()))?;
            if header.format().is_none() {
                return Err(("unknown_format", format!("image {what} is in no known format")));
            }
            let (width, height) = header.into_dimensions().map_err(|error| ("bad_header", format!("image {what}: {error}")))?;
            let pixels = u64::from(width) * u64::from(height);
            if pixels > self.config.max_pixels {
                return Err((
                    "too_many_pixels",
                    format!("image {what} has {width}x{height} pixels, at most {} are allowed", self.config.max_pixels),
                ));
            }
            self.check_aspect(what, width, height)?;
            if image.role == MAIN_IMAGE {
                main = (width, height);
            }
        }
        Ok(main)
    }

    fn check_side(&self, width: u32, height: u32) -> Result<(), (&'static str, String)> {
        if width.min(height) < self.config.min_short_side_px {
            return Err((
                "too_small",
                format!("{width}x{height} pixels, the short side must have {} or more", self.config.min_short_side_px),
            ));
        }
        Ok(())
    }

    /// Checks the aspect, for every image: the resized size grows with it, because the short side is fixed.
    fn check_aspect(&self, role: &str, width: u32, height: u32) -> Result<(), (&'static str, String)> {
        let (short, long) = (width.min(height), width.max(height));
        let aspect = f64::from(long) / f64::from(short);
        if aspect > self.config.max_aspect {
            return Err((
                "too_elongated",
                format!("image {role} has {width}x{height} pixels, the aspect may be {} at most", self.config.max_aspect),
            ));
        }
        Ok(())
    }

    /// Drops captions that are too short or too long. Losses of a refused sample are not counted.
    fn check_captions(&self, annotations: &mut Annotations, dropped: &mut Vec<DroppedPart>) -> Result<(), (&'static str, String)> {
        let had = annotations.captions.len();
        let (mut short, mut long) = (0, 0);
        annotations.captions.retain_mut(|caption| {
            let trimmed = caption.trim();
            if trimmed.len() != caption.len() {
                *caption = trimmed.to_owned();
            }
            let chars = characters::visible(caption);
            let is_short = chars < characters::needed(caption, self.config.min_caption_chars);
            let is_long = chars > self.config.max_caption_chars as usize;
            short += u64::from(is_short);
            long += u64::from(is_long);
            !is_short && !is_long
        });
        let (min, max) = (self.config.min_caption_chars, self.config.max_caption_chars);
        let is_kept = !annotations.captions.is_empty() || !self.config.require_caption || has_other_texts(annotations);
        match (is_kept, had, short) {
            (true, ..) => {
                DroppedPart::add(dropped, "captions.too_short", short);
                DroppedPart::add(dropped, "captions.too_long", long);
                Ok(())
            }
            (false, 0, _) => Err(("no_caption", "the sample has no caption".into())),
            (false, _, 0) => Err(("caption_too_long", format!("all {long} captions exceed {max} visible characters"))),
            (false, ..) => Err(("caption_too_short", format!("{short} of {had} captions have fewer than {min} visible characters"))),
        }
    }
}

/// Checks whether a sample without captions has other content for a document.
fn has_other_texts(annotations: &Annotations) -> bool {
    let Annotations { questions, boxes, edits, masks, seg_labels, narratives, translations, items, ocr, fields, .. } = annotations;
    let lists = [
        questions.len(),
        boxes.len(),
        edits.len(),
        masks.len(),
        seg_labels.len(),
        narratives.len(),
        translations.len(),
        items.len(),
        fields.len(),
    ];
    lists.iter().any(|length| *length > 0) || ocr.is_some()
}

/// Checks whether the main image is given by codes.
fn has_given_main(images: &[RoleImage]) -> bool {
    images.iter().any(|image| image.role == MAIN_IMAGE && codes::is_given(&image.bytes))
}

#[cfg(test)]
mod tests;
