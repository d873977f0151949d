//! `derive`: everything that is made of pixels: the fitted square, condition images, coordinates within the square.
//!
//! Third stage of `prepare`, and the only one that decodes pictures. Row-local: keeps order and number of rows. Pixels are fitted at once,
//! so no full-size picture waits in a channel; until then it takes room of the byte budget (`memory.rs`). Images with given codes pass.
//! Their boxes are taken to refer to the square, or to the grid of the codes, and no edges are made.
//!
//! Where images have several shapes (`grids.rs`), the main image is fitted to the shape of the nearest aspect. Pictures that show the same
//! (edges, edits, masks, segmentations) get the same shape, so that they lie upon each other. References and items have shapes of their
//! own.
//!
//! Pictures are turned upright by their EXIF orientation. Boxes, masks and other annotations in stored pixels are turned with the picture
//! (`frame.rs`).

mod config;
mod damage;
pub mod decode;
pub mod edges;
pub mod fit;
mod frame;
mod grids;
mod levels;
mod memory;
pub(crate) mod resize;
mod segmentation;
mod size;

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use cm3flow_schemas::preparation::Preparation;
use cm3flow_schemas::rows::{self, ColumnChange};
use cm3flow_schemas::sample::{
    Annotations, DroppedPart, EDGE_IMAGE, LabelledBox, MAIN_IMAGE, OUTLINE_IMAGE, ObjectMask, Orientation, Refusal, RoleImage,
    SCRIBBLE_IMAGE, SEGMENTATION_IMAGE,
};
use cm3flow_schemas::{ImageId, RoleGrid, SchemaError, columns};
use image::{DynamicImage, GrayImage, RgbImage};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use self::frame::{Frame, Stored};
use self::levels::Levels;
use self::memory::Needs;
use self::size::Size;
pub use config::DeriveConfig;
pub use fit::Fit;

use crate::budget::{ByteBudget, PictureRoom};
use crate::channel::ChannelLimits;
use crate::codes;
use crate::error::{DecodeError, Result, StageError};
use crate::stage::{Revised, Transform};

/// Revision of this stage's code; raised when the same input gives other rows.
pub const REVISION: u32 = 6;
/// Name of the stage in metrics, refusals and errors.
pub const NAME: &str = "derive";
/// Reason for boxes less than half of which lies within the cut-out shape.
const CROPPED_BOX: &str = "boxes.cropped";

/// Returns the crates that decode pictures and find edges, with their built-in versions. They are part of [`Preparation`], because codes
/// depend on them.
#[must_use]
pub fn decoder() -> BTreeMap<String, String> {
    let pairs = env!("CM3FLOW_DECODERS").split(',').filter_map(|pair| pair.split_once(' '));
    pairs.map(|(name, version)| (name.to_owned(), version.to_owned())).collect()
}

/// Transform from encoded images to fitted pixels.
#[derive(Debug)]
pub struct Derive {
    config: DeriveConfig,
    preparation: Preparation,
    seed: u64,
    orientation: Orientation,
    budget: ByteBudget,
    change: ColumnChange,
}

impl Derive {
    /// Fits pictures by the image tokenizer's `preparation`; `seed` determines random crops.
    #[must_use]
    pub fn new(config: DeriveConfig, preparation: Preparation, seed: u64) -> Self {
        let mut added = vec![columns::pixels(), columns::given_codes(), columns::annotations(), columns::dropped(), columns::refusal()];
        added.extend(columns::size());
        added.extend(preparation.buckets.map(|_| columns::image_grids()));
        let change = ColumnChange::new(&[columns::IMAGES], added);
        Self { config, preparation, seed, orientation: Orientation::default(), budget: ChannelLimits::default().budget, change }
    }

    /// Sets the frame of the source's coordinates, in place of stored pixels.
    #[must_use]
    pub fn with_orientation(self, orientation: Orientation) -> Self {
        Self { orientation, ..self }
    }

    /// Decodes pictures within the shared `budget`, in place of a new one.
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
        let frame = Frame::of(&images, self.orientation);
        for image in images {
            if codes::is_given(&image.bytes) {
                self.pass(&mut out, &image_id, image);
            } else if let Err((reason, detail)) = self.add_image(&mut out, &image_id, &image, frame.as_ref()) {
                (out.pixels, out.given_codes, out.image_grids) = (Vec::new(), Vec::new(), Vec::new());
                out.refusal = Some(Refusal::new(NAME, reason, format!("image {}: {detail}", image.role)));
                break;
            }
        }
        out
    }

    /// Passes an image with given codes. Only the shape of its picture is known.
    fn pass(&self, out: &mut Out, id: &ImageId, image: RoleImage) {
        if image.role == MAIN_IMAGE {
            let size = self.preparation.size_px(RoleGrid::of(&out.image_grids, MAIN_IMAGE));
            (out.width, out.height) = size;
            let fit = self.fit(out, MAIN_IMAGE, id, size.into());
            map_boxes(out, &fit, |found| frame::within(found, size.into()));
        }
        out.given_codes.push(image);
    }

    /// Decodes an image, and adds the pictures made of it.
    fn add_image(&self, out: &mut Out, id: &ImageId, image: &RoleImage, frame: Option<&Frame>) -> Result<(), DecodeError> {
        let transparency = self.preparation.transparency;
        let frame_of_others = frame.filter(|_| lies_upon_main(&image.role, &out.annotations));
        let turn = |found: Stored| frame_of_others.map_or_else(|| Ok(found.orientation()), |frame| frame.turn_of(found));
        let _room = self.room(out, id, image, turn);
        if is_map(image, &out.annotations) {
            let levels = turned_levels(segmentation::decode(&image.bytes)?, &image.bytes, turn)?;
            self.add_segmentation(out, id, &levels);
        } else if out.annotations.masks.iter().any(|mask| mask.image == image.role) {
            let mask = match Levels::mask_of_png(&image.bytes)? {
                Some(mask) => DynamicImage::ImageLuma8(turned_levels(mask, &image.bytes, turn)?).into_rgb8(),
                None => {
                    let mut mask = decode::decode_turned(&image.bytes, transparency, turn)?;
                    levels::whiten(&mut mask);
                    mask
                }
            };
            self.add(out, &image.role, id, &mask);
        } else {
            let picture = decode::decode_turned(&image.bytes, transparency, turn)?;
            if let Some(frame) = frame.filter(|_| image.role == MAIN_IMAGE) {
                self.add_main(out, id, &picture, frame);
            } else {
                self.add(out, &image.role, id, &picture);
            }
        }
        Ok(())
    }

    /// Waits for room for a picture until it is fitted. A picture with an unreadable header takes none, since it is refused before it is
    /// decoded.
    fn room(
        &self,
        out: &Out,
        id: &ImageId,
        image: &RoleImage,
        turn: impl FnOnce(Stored) -> Result<image::metadata::Orientation, DecodeError>,
    ) -> PictureRoom {
        let bytes = Needs::of(&image.bytes).map_or(0, |needs| {
            let orientation = turn(needs.stored).unwrap_or(image::metadata::Orientation::NoTransforms);
            let fit = self.fit(out, &image.role, id, frame::turned(needs.stored.size, orientation));
            let fitting = if is_map(image, &out.annotations) { fit.levels_working_bytes() } else { fit.working_bytes() };
            needs.decoding_bytes(orientation).max(needs.picture_bytes + fitting)
        });
        self.budget.room_for_picture(usize::try_from(bytes).unwrap_or(usize::MAX))
    }

    /// Returns the fit of the image `role` of the picture `id`, which has `size`.
    fn fit(&self, out: &Out, role: &str, id: &ImageId, size: Size) -> Fit {
        Fit::into_grid(size, RoleGrid::of(&out.image_grids, role), &self.preparation, self.seed, id)
    }

    /// Adds the upright main picture, and the pictures made of it.
    fn add_main(&self, out: &mut Out, id: &ImageId, picture: &RgbImage, frame: &Frame) {
        let fit = self.fit(out, MAIN_IMAGE, id, picture.dimensions().into());
        let fitted = fit.apply(picture);
        (out.width, out.height) = picture.dimensions();
        map_boxes(out, &fit, |found| frame.placed(found));
        if self.config.edges {
            out.push(EDGE_IMAGE, edges::canny(&fitted, self.config.canny_low, self.config.canny_high));
        }
        if self.config.scribbles {
            out.push(SCRIBBLE_IMAGE, edges::scribble(&fitted));
        }
        out.push(MAIN_IMAGE, fitted);
    }

    /// Adds a picture beside the main one. All images of a sample are cut alike, so that an edit matches the image that it edits.
    fn add(&self, out: &mut Out, role: &str, id: &ImageId, picture: &RgbImage) {
        let fitted = self.fit(out, role, id, picture.dimensions().into()).apply(picture);
        out.push(role, fitted);
    }

    fn add_segmentation(&self, out: &mut Out, id: &ImageId, levels: &GrayImage) {
        let levels = self.fit(out, SEGMENTATION_IMAGE, id, levels.dimensions().into()).apply_to_levels(levels);
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

/// Maps the boxes of a sample to the cut-out shape; counts the lost ones.
fn map_boxes(out: &mut Out, fit: &Fit, placed: impl Fn(LabelledBox) -> Result<LabelledBox, &'static str>) {
    for found in std::mem::take(&mut out.annotations.boxes) {
        match placed(found).and_then(|found| fit.map_box(&found).ok_or(CROPPED_BOX)) {
            Ok(found) => out.annotations.boxes.push(found),
            Err(reason) => DroppedPart::add(&mut out.dropped, reason, 1),
        }
    }
}

/// Checks whether the levels of an image number objects.
fn is_map(image: &RoleImage, annotations: &Annotations) -> bool {
    image.role == SEGMENTATION_IMAGE && !annotations.seg_labels.is_empty()
}

/// Checks whether an image shows the pixels of the main one in another way. Edits, references and items have shapes of their own.
fn lies_upon_main(role: &str, annotations: &Annotations) -> bool {
    let edits = annotations.edits.iter().map(|edit| &edit.image);
    let items = annotations.items.iter().filter_map(|item| item.image.as_ref());
    role != MAIN_IMAGE && !edits.chain(&annotations.references).chain(items).any(|image| image == role)
}

/// Turns levels by the result of `turn` for the header of their picture.
fn turned_levels(
    levels: GrayImage,
    bytes: &[u8],
    turn: impl FnOnce(Stored) -> Result<image::metadata::Orientation, DecodeError>,
) -> Result<GrayImage, DecodeError> {
    let own = Stored::read(bytes).and_then(|stored| stored.own);
    let mut picture = DynamicImage::ImageLuma8(levels);
    picture.apply_orientation(turn(Stored { size: (picture.width(), picture.height()).into(), own })?);
    Ok(picture.into_luma8())
}

/// Columns that the transform reads.
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

impl Revised for Derive {
    const NAME: &'static str = NAME;
    const REVISION: u32 = REVISION;
}

impl Transform for Derive {
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
