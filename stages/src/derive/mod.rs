//! `derive`: all that follows from the pixels: the fitted square, condition images, coordinates within the square.
//!
//! Third stage of `prepare`, and the only place where a picture is decoded. Row-local: keeps order and number of rows. Pixels are
//! fitted here at once, so that no full-size picture ever waits in a channel; while one is decoded it takes room of the budget of bytes. Images whose codes are given pass by: their boxes are taken to
//! be those of the square, or of their own grid, and no edges are found.
//!
//! Where images have several shapes (`grids.rs`), the main image is fitted to the one of the nearest aspect, and whatever shows it (edges, edits,
//! masks, segmentations) to the same one, so that they lie upon each other; references and items have shapes of their own.

mod config;
pub mod decode;
pub mod edges;
pub mod fit;
mod grids;
mod jpeg;
mod png;
pub(crate) mod resize;
mod segmentation;
mod webp;

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use cm3flow_schemas::columns;
use cm3flow_schemas::preparation::Preparation;
use cm3flow_schemas::rows::{self, ColumnChange};
use cm3flow_schemas::sample::{
    Annotations, DroppedPart, EDGE_IMAGE, MAIN_IMAGE, OUTLINE_IMAGE, ObjectMask, Refusal, RoleImage, SCRIBBLE_IMAGE, SEGMENTATION_IMAGE,
};
use cm3flow_schemas::{ImageId, RoleGrid, SchemaError};
use image::{GrayImage, RgbImage};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

pub use config::DeriveConfig;
pub use fit::Fit;

use self::decode::Header;
use crate::budget::{ByteBudget, PictureRoom};
use crate::channel::ChannelLimits;
use crate::codes;
use crate::error::{Result, StageError};
use crate::stage::Transform;

/// Revision of this stage's code: raised when the same input gives other rows.
pub const REVISION: u32 = 5;
/// The stage's name.
pub const NAME: &str = "derive";

/// Crates that decode pictures and find edges, with the versions that are built in: part of [`Preparation`], because codes depend on them.
#[must_use]
pub fn decoder() -> BTreeMap<String, String> {
    let pairs = env!("CM3FLOW_DECODERS").split(',').filter_map(|pair| pair.split_once(' '));
    pairs.map(|(name, version)| (name.to_owned(), version.to_owned())).collect()
}

/// The transform.
#[derive(Debug)]
pub struct Derive {
    config: DeriveConfig,
    preparation: Preparation,
    seed: u64,
    budget: ByteBudget,
    change: ColumnChange,
}

impl Derive {
    /// Fits pictures as the image tokenizer's `preparation` says; `seed` decides random crops.
    #[must_use]
    pub fn new(config: DeriveConfig, preparation: Preparation, seed: u64) -> Self {
        let mut added = vec![columns::pixels(), columns::given_codes(), columns::annotations(), columns::dropped(), columns::refusal()];
        added.extend(columns::size());
        added.extend(preparation.buckets.map(|_| columns::image_grids()));
        let budget = ChannelLimits::default().budget;
        Self { config, preparation, seed, budget, change: ColumnChange::new(&[columns::IMAGES], added) }
    }

    /// Decodes pictures within `budget`, which others share, in place of a budget of its own.
    #[must_use]
    pub fn with_budget(self, budget: ByteBudget) -> Self {
        Self { budget, ..self }
    }

    fn derive(&self, row: In) -> Out {
        let In { image_id, images, annotations, dropped, width, height, refusal } = row;
        let mut out =
            Out { pixels: Vec::new(), given_codes: Vec::new(), image_grids: Vec::new(), annotations, dropped, width, height, refusal };
        if out.refusal.is_some() {
            return out;
        }
        out.image_grids = grids::of(&images, &out.annotations, &self.preparation);
        for image in images {
            if codes::is_given(&image.bytes) {
                self.pass(&mut out, &image_id, image);
                continue;
            }
            let _room = self.room(&out, &image_id, &image);
            let added = if is_map(&image, &out.annotations) {
                segmentation::decode(&image.bytes).map(|levels| self.add_segmentation(&mut out, &image_id, &levels))
            } else {
                let decoded = decode::decode(&image.bytes, self.preparation.transparency);
                decoded.map(|picture| self.add(&mut out, &image.role, &image_id, picture))
            };
            if let Err((reason, detail)) = added {
                (out.pixels, out.given_codes, out.image_grids) = (Vec::new(), Vec::new(), Vec::new());
                out.refusal = Some(Refusal::new(NAME, reason, format!("image {}: {detail}", image.role)));
                break;
            }
        }
        out
    }

    /// Waits for room for a picture until it is fitted. One whose header cannot be read takes none, since it is refused before it is decoded.
    fn room(&self, out: &Out, id: &ImageId, image: &RoleImage) -> PictureRoom {
        let bytes = Header::of(&image.bytes).map_or(0, |header| {
            let fit = self.fit(out, &image.role, id, header.size);
            let fitting = if is_map(image, &out.annotations) { fit.levels_working_bytes() } else { fit.working_bytes() };
            header.decoding_bytes.max(header.picture_bytes + fitting)
        });
        self.budget.room_for_picture(usize::try_from(bytes).unwrap_or(usize::MAX))
    }

    /// Lets an image pass whose codes are given; of what it was made, only the shape is known.
    fn pass(&self, out: &mut Out, id: &ImageId, image: RoleImage) {
        if image.role == MAIN_IMAGE {
            let size = self.preparation.size_px(RoleGrid::of(&out.image_grids, MAIN_IMAGE));
            (out.width, out.height) = size;
            let fit = self.fit(out, MAIN_IMAGE, id, size);
            map_boxes(&mut out.annotations, &fit);
        }
        out.given_codes.push(image);
    }

    /// Fit of the image `role` of the picture `id`, which has `size`.
    fn fit(&self, out: &Out, role: &str, id: &ImageId, size: (u32, u32)) -> Fit {
        Fit::into_grid(size, RoleGrid::of(&out.image_grids, role), &self.preparation, (self.seed, id))
    }

    fn add(&self, out: &mut Out, role: &str, id: &ImageId, picture: RgbImage) {
        // All images of a sample are cut alike, so that an edit lines up with what it edits.
        let size = picture.dimensions();
        let fit = self.fit(out, role, id, size);
        let fitted = fit.apply(&picture);
        drop(picture);
        if role == MAIN_IMAGE {
            (out.width, out.height) = size;
            map_boxes(&mut out.annotations, &fit);
            if self.config.edges {
                out.push(EDGE_IMAGE, edges::canny(&fitted, self.config.canny_low, self.config.canny_high));
            }
            if self.config.scribbles {
                out.push(SCRIBBLE_IMAGE, edges::scribble(&fitted));
            }
        }
        out.push(role, fitted);
    }

    fn add_segmentation(&self, out: &mut Out, id: &ImageId, levels: &GrayImage) {
        let levels = self.fit(out, SEGMENTATION_IMAGE, id, levels.dimensions()).apply_to_levels(levels);
        out.push(SEGMENTATION_IMAGE, segmentation::coloured(&levels, &out.annotations.seg_labels));
        if self.config.outlines {
            out.push(OUTLINE_IMAGE, segmentation::outlines(&levels));
        }
        let masks = segmentation::masks_of_single_objects(&levels, &out.annotations.seg_labels, self.config.object_masks as usize);
        for (number, (label, mask)) in masks.into_iter().enumerate() {
            let image = format!("object{number}");
            out.push(&image, mask);
            out.annotations.masks.push(ObjectMask { label, image });
        }
    }
}

/// Whether the levels of an image are numbers of objects.
fn is_map(image: &RoleImage, annotations: &Annotations) -> bool {
    image.role == SEGMENTATION_IMAGE && !annotations.seg_labels.is_empty()
}

fn map_boxes(annotations: &mut Annotations, fit: &Fit) {
    annotations.boxes = std::mem::take(&mut annotations.boxes).iter().filter_map(|found| fit.map_box(found)).collect();
}

/// Columns that deriving reads.
const WANTED: [&str; 7] =
    [columns::IMAGE_ID, columns::IMAGES, columns::ANNOTATIONS, columns::DROPPED, columns::WIDTH, columns::HEIGHT, columns::REFUSAL];

#[derive(Deserialize)]
struct In {
    image_id: ImageId,
    images: Vec<RoleImage>,
    annotations: Annotations,
    dropped: Vec<DroppedPart>,
    width: u32,
    height: u32,
    refusal: Option<Refusal>,
}

#[derive(Serialize)]
struct Out {
    pixels: Vec<RoleImage>,
    given_codes: Vec<RoleImage>,
    image_grids: Vec<RoleGrid>,
    annotations: Annotations,
    dropped: Vec<DroppedPart>,
    width: u32,
    height: u32,
    refusal: Option<Refusal>,
}

impl Out {
    fn push(&mut self, role: &str, pixels: RgbImage) {
        self.pixels.push(RoleImage { role: role.to_owned(), bytes: pixels.into_raw() });
    }
}

impl Transform for Derive {
    fn name(&self) -> &'static str {
        NAME
    }

    fn output_schema(&self, input: &SchemaRef) -> Result<SchemaRef, SchemaError> {
        rows::require(input, columns::raw_sample().fields())?;
        rows::require(input, &columns::size())?;
        Ok(self.change.output_schema(input))
    }

    fn transform(&mut self, batch: RecordBatch) -> Result<RecordBatch> {
        let schema_error = |source| StageError::Schema { stage: NAME, source };
        let input: Vec<In> = rows::read(&batch, &WANTED).map_err(schema_error)?;
        let derived: Vec<Out> = input.into_par_iter().map(|row| self.derive(row)).collect();
        self.change.apply(&batch, &derived).map_err(schema_error)
    }
}

#[cfg(test)]
mod tests;
