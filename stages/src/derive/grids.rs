//! Choice of the grids of a sample's images, where images have several shapes.

use cm3flow_schemas::preparation::Preparation;
use cm3flow_schemas::sample::{Annotations, MAIN_IMAGE, RoleImage};
use cm3flow_schemas::{Grid, RoleGrid};

use super::frame::Stored;
use super::size::Size;
use crate::codes;

/// Returns the grids of the main image, and of images with a grid of their own; all others share that of the main one. Empty if all are
/// fitted to the square.
pub(super) fn of(images: &[RoleImage], annotations: &Annotations, preparation: &Preparation) -> Vec<RoleGrid> {
    if preparation.buckets.is_none() {
        return Vec::new();
    }
    let stands_alone = |role: &str| {
        let items = annotations.items.iter().filter_map(|item| item.image.as_deref());
        role == MAIN_IMAGE || items.chain(annotations.references.iter().map(String::as_str)).any(|named| named == role)
    };
    let alone = images.iter().filter(|image| codes::is_given(&image.bytes) || stands_alone(&image.role));
    alone.filter_map(|image| Some(RoleGrid::new(&image.role, grid_of(image, preparation)?))).collect()
}

/// Returns the grid of an image. Codes have the grid of their file if it is one of the shapes, and otherwise that of a square. A picture
/// has the grid of the nearest aspect. `None` for an unreadable header: such a picture is refused when it is decoded.
fn grid_of(image: &RoleImage, preparation: &Preparation) -> Option<Grid> {
    if codes::is_given(&image.bytes) {
        let own = codes::grid_of(&image.bytes).filter(|grid| preparation.grids().contains(grid));
        return own.or_else(|| preparation.grid_for(1, 1));
    }
    let Size { width, height } = Stored::read(&image.bytes)?.upright();
    preparation.grid_for(width, height)
}
