//! Frame of reference of a sample: turns boxes and pictures that refer to stored pixels together with the main picture.
//!
//! Boxes turn with the picture. The size of another picture that lies upon it (mask, segmentation, condition image) tells whether that
//! picture refers to the stored or to the upright pixels.

use std::io::Cursor;

use cm3flow_schemas::sample::{self, EMPTY_BOX, INVERTED_BOX, LabelledBox, MAIN_IMAGE, OUTSIDE_BOX, RoleImage};
use image::metadata::Orientation;
use image::{ImageDecoder, ImageReader};

use super::size::Size;
use crate::codes;
use crate::error::DecodeError;

/// Header of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stored {
    /// Size in stored pixels.
    pub(super) size: Size,
    /// Orientation that the picture itself declares.
    pub(super) own: Option<Orientation>,
}

impl Stored {
    /// Reads the header of a picture that is about to be decoded.
    pub(super) fn of(decoder: &mut impl ImageDecoder) -> Self {
        let own = decoder.orientation().ok().filter(|own| *own != Orientation::NoTransforms);
        let own = own.or_else(|| Orientation::from_exif_chunk(&decoder.exif_metadata().ok().flatten()?));
        Self { size: decoder.dimensions().into(), own }
    }

    /// Reads the header of an encoded picture; `None` if the decoder refuses it.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let mut decoder = ImageReader::new(Cursor::new(bytes)).with_guessed_format().ok()?.into_decoder().ok()?;
        Some(Self::of(&mut decoder))
    }

    /// Returns the declared orientation, or none.
    pub(super) fn orientation(&self) -> Orientation {
        self.own.unwrap_or(Orientation::NoTransforms)
    }

    /// Size of the picture as it is seen.
    pub(super) fn upright(&self) -> Size {
        turned(self.size, self.orientation())
    }
}

/// Size of a picture once it is turned.
pub(super) fn turned(stored: Size, orientation: Orientation) -> Size {
    match orientation {
        Orientation::Rotate90 | Orientation::Rotate270 | Orientation::Rotate90FlipH | Orientation::Rotate270FlipH => {
            Size { width: stored.height, height: stored.width }
        }
        Orientation::NoTransforms | Orientation::Rotate180 | Orientation::FlipHorizontal | Orientation::FlipVertical => stored,
    }
}

/// The main picture of a sample, and the frame that the source counts pixels in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame {
    main: Stored,
    counted: sample::Orientation,
}

impl Frame {
    /// Returns the frame of a sample with these images; `None` if the main one is given by codes or cannot be read.
    pub(super) fn of(images: &[RoleImage], counted: sample::Orientation) -> Option<Self> {
        let main = images.iter().find(|image| image.role == MAIN_IMAGE && !codes::is_given(&image.bytes))?;
        Some(Self { main: Stored::read(&main.bytes)?, counted })
    }

    /// Returns the turn that makes another picture lie upon the upright main one.
    ///
    /// # Errors
    /// `size_mismatch` if neither its size nor its aspect is that of the main picture.
    pub(super) fn turn_of(&self, image: Stored) -> Result<Orientation, DecodeError> {
        let (stored, upright) = (self.main.size, self.main.upright());
        let mismatch = || {
            let (Size { width, height }, Size { width: main_width, height: main_height }) = (image.size, stored);
            let seen =
                if stored == upright { String::new() } else { format!(", and {}x{} once it is turned", upright.width, upright.height) };
            let detail = format!("it has {width}x{height} pixels, the main image {main_width}x{main_height}{seen}; their aspects differ");
            ("size_mismatch", detail)
        };
        if let Some(own) = image.own.filter(|own| *own != Orientation::NoTransforms) {
            let size = turned(image.size, own);
            return if size == upright || is_same_aspect(size, upright) { Ok(own) } else { Err(mismatch()) };
        }
        let by_size = (image.size == stored, image.size == upright);
        let fits =
            if by_size == (false, false) { (is_same_aspect(image.size, stored), is_same_aspect(image.size, upright)) } else { by_size };
        match fits {
            (true, false) => Ok(self.main.orientation()),
            (true, true) if image.own.is_none() && self.counted == sample::Orientation::Stored => Ok(self.main.orientation()),
            (_, true) => Ok(Orientation::NoTransforms),
            (false, false) => Err(mismatch()),
        }
    }

    /// Returns a box of the source in pixels of the upright picture, cut at the picture's edges.
    ///
    /// # Errors
    /// The reason why no part of it lies in the picture.
    pub(super) fn placed(&self, found: LabelledBox) -> Result<LabelledBox, &'static str> {
        match self.counted {
            sample::Orientation::Stored => within(found, self.main.size).map(|found| turn_box(found, self.main)),
            sample::Orientation::Upright => within(found, self.main.upright()),
        }
    }
}

/// Cuts a box at the edges of a picture of `width` x `height` pixels.
///
/// # Errors
/// The reason why nothing of it lies in the picture.
pub(super) fn within(found: LabelledBox, picture: Size) -> Result<LabelledBox, &'static str> {
    let Size { width, height } = picture;
    let LabelledBox { label, x0, y0, x1, y1 } = found;
    if x0 > x1 || y0 > y1 {
        return Err(INVERTED_BOX);
    }
    if x0 == x1 || y0 == y1 {
        return Err(EMPTY_BOX);
    }
    if x0 >= width || y0 >= height {
        return Err(OUTSIDE_BOX);
    }
    Ok(LabelledBox { label, x0, y0, x1: x1.min(width), y1: y1.min(height) })
}

/// Turns a box as its picture is turned.
fn turn_box(found: LabelledBox, picture: Stored) -> LabelledBox {
    let Size { width, height } = picture.size;
    let LabelledBox { label, x0, y0, x1, y1 } = found;
    // Edges counted from the right and from below.
    let (from_right, from_below) = ([width - x1, width - x0], [height - y1, height - y0]);
    let (x, y) = ([x0, x1], [y0, y1]);
    let ([x0, x1], [y0, y1]) = match picture.orientation() {
        Orientation::NoTransforms => (x, y),
        Orientation::FlipHorizontal => (from_right, y),
        Orientation::FlipVertical => (x, from_below),
        Orientation::Rotate180 => (from_right, from_below),
        Orientation::Rotate90 => (from_below, x),
        Orientation::Rotate270 => (y, from_right),
        Orientation::Rotate90FlipH => (y, x),
        Orientation::Rotate270FlipH => (from_below, from_right),
    };
    LabelledBox { label, x0, y0, x1, y1 }
}

/// Checks whether a picture of one size, resized to a side of the other, has the other size to within a pixel of the larger.
fn is_same_aspect(one: Size, other: Size) -> bool {
    let cross = |a: u32, b: u32| u64::from(a) * u64::from(b);
    let longest = [one.width, one.height, other.width, other.height].into_iter().max().unwrap_or_default();
    cross(one.width, other.height).abs_diff(cross(one.height, other.width)) <= u64::from(longest)
}

#[cfg(test)]
mod tests {
    use image::{DynamicImage, GrayImage, Luma};

    use super::*;

    const ALL: [Orientation; 8] = [
        Orientation::NoTransforms,
        Orientation::FlipHorizontal,
        Orientation::Rotate180,
        Orientation::FlipVertical,
        Orientation::Rotate90FlipH,
        Orientation::Rotate90,
        Orientation::Rotate270FlipH,
        Orientation::Rotate270,
    ];

    fn stored(width: u32, height: u32, own: Option<Orientation>) -> Stored {
        Stored { size: Size { width, height }, own }
    }

    fn frame(main: Stored, counted: sample::Orientation) -> Frame {
        Frame { main, counted }
    }

    fn boxed(x0: u32, y0: u32, x1: u32, y1: u32) -> LabelledBox {
        LabelledBox { label: "dog".into(), x0, y0, x1, y1 }
    }

    #[test]
    fn boxes_are_turned_as_pixels_are() {
        for orientation in ALL {
            for (x0, y0, x1, y1) in [(1, 2, 5, 4), (0, 0, 7, 5), (6, 4, 7, 5), (0, 3, 1, 5)] {
                let inside = |x, y| (x0..x1).contains(&x) && (y0..y1).contains(&y);
                let mut picture = DynamicImage::ImageLuma8(GrayImage::from_fn(7, 5, |x, y| Luma([u8::from(inside(x, y))])));
                picture.apply_orientation(orientation);
                let frame = frame(stored(7, 5, Some(orientation)), sample::Orientation::Stored);
                assert_eq!(Size { width: picture.width(), height: picture.height() }, frame.main.upright());
                let found = frame.placed(boxed(x0, y0, x1, y1)).expect("within the picture");
                for (x, y, level) in picture.into_luma8().enumerate_pixels() {
                    let is_inside = (found.x0..found.x1).contains(&x) && (found.y0..found.y1).contains(&y);
                    assert_eq!(is_inside, level.0[0] == 1, "{orientation:?}: {x}, {y}");
                }
            }
        }
    }

    #[test]
    fn boxes_that_are_counted_in_the_upright_picture_stay() {
        let frame = frame(stored(70, 50, Some(Orientation::Rotate90)), sample::Orientation::Upright);
        assert_eq!(frame.placed(boxed(10, 55, 60, 65)), Ok(boxed(10, 55, 50, 65)));
        assert_eq!(frame.placed(boxed(50, 0, 60, 10)), Err(OUTSIDE_BOX));
    }

    #[test]
    fn boxes_outside_of_the_picture_say_so() {
        let frame = frame(stored(70, 50, Some(Orientation::Rotate90)), sample::Orientation::Stored);
        assert_eq!(frame.placed(boxed(60, 10, 4_000_000_000, 20)), Ok(boxed(30, 60, 40, 70)));
        for (found, reason) in [
            (boxed(70, 0, 80, 10), OUTSIDE_BOX),
            (boxed(0, 50, 10, 60), OUTSIDE_BOX),
            (boxed(9, 0, 5, 10), INVERTED_BOX),
            (boxed(5, 0, 5, 10), EMPTY_BOX),
        ] {
            assert_eq!(frame.placed(found), Err(reason));
        }
    }

    #[test]
    fn the_size_of_a_mask_tells_how_it_is_turned() {
        use sample::Orientation::{Stored as InStored, Upright};
        let turn = Orientation::Rotate90;
        let main = stored(400, 300, Some(turn));
        let none = Orientation::NoTransforms;
        for (counted, image, expected) in [
            (InStored, stored(400, 300, None), Some(turn)),
            (Upright, stored(400, 300, None), Some(turn)),
            (InStored, stored(300, 400, None), Some(none)),
            (Upright, stored(300, 400, None), Some(none)),
            // Same aspect, another size.
            (InStored, stored(40, 31, None), Some(turn)),
            (InStored, stored(599, 800, None), Some(none)),
            (InStored, stored(40, 36, None), None),
            (InStored, stored(400, 400, None), None),
            // Declared orientation of the picture itself.
            (InStored, stored(400, 300, Some(Orientation::Rotate270)), Some(Orientation::Rotate270)),
            (InStored, stored(300, 400, Some(Orientation::Rotate180)), Some(Orientation::Rotate180)),
            (InStored, stored(400, 300, Some(Orientation::Rotate180)), None),
            (InStored, stored(400, 300, Some(none)), Some(turn)),
        ] {
            assert_eq!(frame(main, counted).turn_of(image).ok(), expected, "{counted:?} {image:?}");
        }
    }

    #[test]
    fn where_both_sizes_are_equal_the_source_says_how_a_mask_is_turned() {
        for (width, height, turn) in [(300, 300, Orientation::Rotate90), (400, 300, Orientation::Rotate180)] {
            let main = stored(width, height, Some(turn));
            let turned = |counted, own| frame(main, counted).turn_of(stored(width, height, own)).ok();
            assert_eq!(turned(sample::Orientation::Stored, None), Some(turn));
            assert_eq!(turned(sample::Orientation::Upright, None), Some(Orientation::NoTransforms));
            assert_eq!(turned(sample::Orientation::Stored, Some(Orientation::NoTransforms)), Some(Orientation::NoTransforms));
        }
        // An equal size has priority over a similar aspect.
        let main = stored(1000, 1001, Some(Orientation::Rotate90));
        let turned = |width, height| frame(main, sample::Orientation::Upright).turn_of(stored(width, height, None)).ok();
        assert_eq!(turned(1000, 1001), Some(Orientation::Rotate90));
        assert_eq!((turned(1001, 1000), turned(500, 500)), (Some(Orientation::NoTransforms), Some(Orientation::NoTransforms)));
    }

    #[test]
    fn a_mismatch_names_the_sizes() {
        let said = |main: Stored| frame(main, sample::Orientation::Stored).turn_of(stored(90, 90, None)).expect_err("a square").1;
        assert_eq!(
            said(stored(400, 300, Some(Orientation::Rotate90))),
            "it has 90x90 pixels, the main image 400x300, and 300x400 once it is turned; their aspects differ"
        );
        assert_eq!(said(stored(400, 300, None)), "it has 90x90 pixels, the main image 400x300; their aspects differ");
    }
}
