//! Chooses the grids of a sample's images, where images have several shapes.

use cm3flow_schemas::preparation::Preparation;
use cm3flow_schemas::sample::{Annotations, MAIN_IMAGE, RoleImage};
use cm3flow_schemas::{Grid, RoleGrid};

use super::frame::Stored;
use super::size::Size;
use crate::codes;

/// Grid of the main image, and of those images that have one of their own: all others are shaped as the main one. None if all are fitted to
/// the square.
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

/// Codes have the grid that their file says, if images may have it, or else are taken to be those of a square; a picture has that of the
/// nearest aspect. A header that cannot be read tells none: such a picture is refused when it is decoded.
fn grid_of(image: &RoleImage, preparation: &Preparation) -> Option<Grid> {
    if codes::is_given(&image.bytes) {
        let own = codes::grid_of(&image.bytes).filter(|grid| preparation.grids().contains(grid));
        return own.or_else(|| preparation.grid_for(1, 1));
    }
    let Size { width, height } = Stored::read(&image.bytes)?.upright();
    preparation.grid_for(width, height)
}
