//! Condition images of a segmentation: a map in fixed colours, the outlines of its objects, masks of single objects.
//!
//! A segmentation is a picture of grey levels or palette indices that number objects; 0 is none. Levels are never mixed, so it is resized
//! by the nearest pixel.

use std::collections::BTreeMap;

use cm3flow_schemas::Digest;
use cm3flow_schemas::sample::SegLabel;
use image::{DynamicImage, GrayImage, Rgb, RgbImage};

use super::decode;
use super::levels::Levels;
use crate::error::DecodeError;

/// Share of the square that an object must cover to get a mask of its own.
const MIN_SHARE: f64 = 0.005;

/// Decodes a segmentation to its stored levels.
///
/// # Errors
/// Those of other pictures, and `bad_segmentation` for a picture whose levels do not number objects.
pub(super) fn decode(bytes: &[u8]) -> Result<GrayImage, DecodeError> {
    if let Some(Levels { levels, .. }) = Levels::of_png(bytes)? {
        return Ok(levels);
    }
    match decode::stored(bytes)?.0 {
        DynamicImage::ImageLuma8(levels) => Ok(levels),
        other => Err((
            "bad_segmentation",
            format!(
                "it is {:?}; with seg_labels it must be greyscale of levels up to 255, or a PNG with a palette, numbered as there",
                other.color()
            ),
        )),
    }
}

/// Returns the colour of a label, the same in all pictures. It is one of 24 hues in two shades, far from white, grey, and the black of
/// pixels without object.
#[must_use]
pub(super) fn colour(label: &str) -> Rgb<u8> {
    let Digest(bytes) = Digest::of(label.trim().to_lowercase().as_bytes());
    let hue = f32::from(bytes[0] % 24) / 4.0;
    let value = [255.0, 160.0][usize::from(bytes[1] % 2)];
    // Levels of red, green and blue of a hue from 0 to 6; one of them is zero and one is full.
    let level = |shift: f32| {
        let distance = ((hue + shift) % 6.0 - 3.0).abs() - 1.0;
        (value * distance.clamp(0.0, 1.0)) as u8
    };
    Rgb([level(0.0), level(4.0), level(2.0)])
}

/// Returns the segmentation with each object in the colour of its label; levels without label are black.
#[must_use]
pub(super) fn coloured(levels: &GrayImage, labels: &[SegLabel]) -> RgbImage {
    let colours: BTreeMap<u32, Rgb<u8>> = labels.iter().map(|found| (found.level, colour(&found.label))).collect();
    let colour_at = |x, y| colours.get(&u32::from(levels.get_pixel(x, y).0[0])).copied().unwrap_or(Rgb([0; 3]));
    RgbImage::from_fn(levels.width(), levels.height(), colour_at)
}

/// Returns a picture that is white where a pixel's right or lower neighbour belongs to another object.
#[must_use]
pub(super) fn outlines(levels: &GrayImage) -> RgbImage {
    let (width, height) = levels.dimensions();
    let is_edge = |x: u32, y: u32| {
        let here = levels.get_pixel(x, y);
        (x + 1 < width && levels.get_pixel(x + 1, y) != here) || (y + 1 < height && levels.get_pixel(x, y + 1) != here)
    };
    RgbImage::from_fn(width, height, |x, y| Rgb([if is_edge(x, y) { 255 } else { 0 }; 3]))
}

/// Returns masks of at most `count` objects whose label is unique, the largest first. Each is a label and a picture that is white at the
/// object.
#[must_use]
pub(super) fn masks_of_single_objects(levels: &GrayImage, labels: &[SegLabel], count: usize) -> Vec<(String, RgbImage)> {
    let mut areas: BTreeMap<u32, usize> = BTreeMap::new();
    levels.pixels().for_each(|level| *areas.entry(u32::from(level.0[0])).or_default() += 1);
    let is_single = |label: &SegLabel| labels.iter().filter(|other| other.label == label.label).count() == 1;
    let least = MIN_SHARE * f64::from(levels.width() * levels.height());
    let area = |label: &SegLabel| areas.get(&label.level).copied().filter(|area| *area as f64 >= least);
    let mut found: Vec<(usize, &SegLabel)> =
        labels.iter().filter(|label| label.level > 0 && is_single(label)).filter_map(|label| Some((area(label)?, label))).collect();
    found.sort_by_key(|(area, label)| (std::cmp::Reverse(*area), label.level));
    let mask = |(_, label): (usize, &SegLabel)| {
        let white_at = |x, y| Rgb([if u32::from(levels.get_pixel(x, y).0[0]) == label.level { 255 } else { 0 }; 3]);
        (label.label.clone(), RgbImage::from_fn(levels.width(), levels.height(), white_at))
    };
    found.into_iter().take(count).map(mask).collect()
}

#[cfg(test)]
mod tests {
    use image::Luma;

    use super::*;

    /// Returns 20 x 20 levels: a 10 x 10 object of level 1 in a corner, one of 4 x 4 of level 2 and one of a single pixel of level 3.
    fn levels() -> GrayImage {
        GrayImage::from_fn(20, 20, |x, y| {
            Luma([match (x, y) {
                (0..10, 0..10) => 1,
                (12..16, 12..16) => 2,
                (19, 19) => 3,
                _ => 0,
            }])
        })
    }

    fn labels(names: [&str; 3]) -> Vec<SegLabel> {
        names.iter().zip(1..).map(|(label, level)| SegLabel { level, label: (*label).into() }).collect()
    }

    #[test]
    fn labels_have_their_colour_in_every_picture_and_nothing_else_has_one() {
        let map = coloured(&levels(), &labels(["dog", "cat", "dog"]));
        assert_eq!((map.get_pixel(0, 0), map.get_pixel(13, 13), map.get_pixel(11, 0)), (&colour("dog"), &colour(" Cat"), &Rgb([0; 3])));
        assert_eq!(map.get_pixel(19, 19), &colour("dog"));
        assert_ne!(colour("dog"), colour("cat"));
        for number in 0..200 {
            let Rgb(levels) = colour(&format!("thing {number}"));
            assert!(levels.contains(&0) && levels.iter().any(|level| *level >= 160), "{levels:?} is neither grey nor dark");
        }
    }

    #[test]
    fn outlines_stand_where_objects_end() {
        let outlines = outlines(&levels());
        let white = Rgb([255; 3]);
        assert_eq!((outlines.get_pixel(9, 3), outlines.get_pixel(8, 3), outlines.get_pixel(10, 3)), (&white, &Rgb([0; 3]), &Rgb([0; 3])));
        assert_eq!(outlines.get_pixel(3, 9), &white);
    }

    #[test]
    fn masks_are_of_the_largest_objects_that_one_word_means() {
        let masks = |names, count| -> Vec<String> {
            masks_of_single_objects(&levels(), &labels(names), count).into_iter().map(|(label, _)| label).collect()
        };
        assert_eq!(masks(["dog", "cat", "bee"], 5), ["dog", "cat"], "the bee is too small");
        assert_eq!(masks(["dog", "cat", "bee"], 1), ["dog"]);
        assert_eq!(masks(["dog", "cat", "dog"], 5), ["cat"], "there are two dogs");
        let (_, mask) = masks_of_single_objects(&levels(), &labels(["dog", "cat", "bee"]), 1).remove(0);
        assert_eq!((mask.get_pixel(9, 9), mask.get_pixel(10, 9)), (&Rgb([255; 3]), &Rgb([0; 3])));
    }
}
