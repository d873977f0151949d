//! Pictures whose samples are numbers: segmentations, and masks of levels 0 and 1.
//!
//! In a palette the index is the number, whatever its colour. In grey pictures with few bits, the stored level is the number.

use std::io::Cursor;

use image::{GrayImage, Luma, RgbImage};
use png::{BitDepth, ColorType, Decoder, DecodingError, Limits, Transformations};

use super::damage::PictureFile;
use crate::error::DecodeError;

/// Limit of the bytes that the decoder may allocate; `filter` has checked sizes before.
const MAX_BYTES: usize = 512 << 20;
const BLACK: [u8; 3] = [0; 3];
const WHITE: [u8; 3] = [255; 3];

/// Samples of a PNG as they are stored.
#[derive(Debug)]
pub(super) struct Levels {
    /// One level, or index into the palette, a pixel.
    pub(super) levels: GrayImage,
    palette: Option<Vec<[u8; 3]>>,
}

impl Levels {
    /// Reads a PNG with a palette, or with grey levels of at most 255; `None` for another picture.
    ///
    /// # Errors
    /// Those of other pictures.
    ///
    /// # Source
    /// PNG, third edition, 7.2: samples of fewer than 8 bits are packed from the high-order bits on, and each line begins with a new byte.
    pub(super) fn of_png(bytes: &[u8]) -> Result<Option<Self>, DecodeError> {
        Self::read(bytes, |color_type, _| matches!(color_type, ColorType::Indexed | ColorType::Grayscale))
    }

    /// Reads a PNG whose kind of samples is `wanted`; `None` for another picture.
    fn read(bytes: &[u8], wanted: impl FnOnce(ColorType, BitDepth) -> bool) -> Result<Option<Self>, DecodeError> {
        if !bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
            return Ok(None);
        }
        let undecodable = |error: DecodingError| ("undecodable_image", error.to_string());
        let file = PictureFile::examine(bytes)?;
        let mut decoder = Decoder::new_with_limits(Cursor::new(&*file.bytes), Limits { bytes: MAX_BYTES });
        decoder.set_transformations(Transformations::IDENTITY);
        let mut reader = decoder.read_info().map_err(undecodable)?;
        let info = reader.info();
        let (color_type, depth) = (info.color_type, info.bit_depth);
        if !wanted(color_type, depth) {
            return Ok(None);
        }
        let palette = info.palette.as_ref().filter(|_| color_type == ColorType::Indexed).map(|palette| palette.as_chunks().0.to_vec());
        let size = reader.output_buffer_size().ok_or_else(|| undecodable(DecodingError::LimitsExceeded))?;
        let mut samples = vec![0; size];
        let frame = reader.next_frame(&mut samples).map_err(|error| match error {
            DecodingError::IoError(_) => ("truncated_image", error.to_string()),
            DecodingError::Format(_) => (file.fault(), error.to_string()),
            other => undecodable(other),
        })?;
        let width = frame.width as usize;
        let mut levels = Vec::with_capacity(width * frame.height as usize);
        for line in samples.chunks_exact(frame.line_size).take(frame.height as usize) {
            if !unpack(line, depth, width, &mut levels) {
                return Ok(None);
            }
        }
        let levels = GrayImage::from_raw(frame.width, frame.height, levels).expect("a level for every pixel");
        Ok(Some(Self { levels, palette }))
    }

    /// Reads a mask of levels 0 and 1, in black and white. `None` if there are other levels, or if the colours of the palette are black and
    /// white themselves. `None` too for grey levels of 8 bits, which decode as they are stored: see [`whiten`].
    ///
    /// # Errors
    /// Those of [`Self::of_png`].
    pub(super) fn mask_of_png(bytes: &[u8]) -> Result<Option<GrayImage>, DecodeError> {
        let is_scaled =
            |color_type, depth| color_type == ColorType::Indexed || color_type == ColorType::Grayscale && depth != BitDepth::Eight;
        Ok(Self::read(bytes, is_scaled)?.and_then(Self::into_mask))
    }

    fn into_mask(self) -> Option<GrayImage> {
        let highest = self.levels.iter().copied().max().unwrap_or_default();
        let is_black_or_white =
            |palette: &Vec<[u8; 3]>| palette.iter().take(usize::from(highest) + 1).all(|colour| [BLACK, WHITE].contains(colour));
        if highest > 1 || self.palette.as_ref().is_some_and(is_black_or_white) {
            return None;
        }
        let mut mask = self.levels;
        mask.pixels_mut().for_each(|Luma([level])| *level *= 255);
        Some(mask)
    }
}

/// Adds the `width` samples of a line to `levels`; returns `true` if all are 255 at most.
fn unpack(line: &[u8], depth: BitDepth, width: usize, levels: &mut Vec<u8>) -> bool {
    let bits = depth as usize;
    match depth {
        BitDepth::Sixteen => {
            let samples = &line.as_chunks().0[..width];
            levels.extend(samples.iter().map(|[_, low]| low));
            return samples.iter().all(|[high, _]| *high == 0);
        }
        BitDepth::Eight => levels.extend_from_slice(&line[..width]),
        BitDepth::One | BitDepth::Two | BitDepth::Four => {
            let sample = |place: usize| (line[place * bits / 8] >> (8 - bits - place * bits % 8)) & ((1 << bits) - 1);
            levels.extend((0..width).map(sample));
        }
    }
    true
}

/// Makes levels 0 and 1 of a mask black and white. Other pictures stay as they are.
pub(super) fn whiten(mask: &mut RgbImage) {
    if mask.iter().all(|level| *level <= 1) {
        mask.iter_mut().for_each(|level| *level *= 255);
    }
}

#[cfg(test)]
mod tests {
    use image::{DynamicImage, Rgb};

    use super::*;
    use crate::fixtures::{level_png, picture, png};

    fn levels(bytes: &[u8]) -> Vec<u8> {
        Levels::of_png(bytes).expect("whole").expect("levels").levels.into_raw()
    }

    #[test]
    fn levels_are_those_that_are_stored_at_every_depth() {
        let colours = [Rgb([9, 9, 9]), Rgb([200, 0, 0]), Rgb([0, 200, 0]), Rgb([0, 0, 200])];
        for (depth, most) in [(BitDepth::One, 1), (BitDepth::Two, 3), (BitDepth::Four, 15), (BitDepth::Eight, 255)] {
            // Five pixels a line do not fill whole bytes.
            let picture = GrayImage::from_fn(5, 3, |x, y| Luma([(x + 2 * y).min(most) as u8]));
            assert_eq!(levels(&level_png(&picture, depth, None)), picture.as_raw().as_slice(), "{depth:?}");
            let few = GrayImage::from_fn(5, 3, |x, y| Luma([(x + 2 * y).min(most).min(3) as u8]));
            assert_eq!(levels(&level_png(&few, depth, Some(&colours))), few.as_raw().as_slice(), "palette of {depth:?}");
        }
    }

    #[test]
    fn what_holds_no_numbers_is_left_to_others() {
        assert!(Levels::of_png(&png(&picture(1, 8, 8))).expect("whole").is_none(), "colours");
        assert!(Levels::of_png(b"BM").expect("not file at").is_none());
        let whole = level_png(&GrayImage::new(40, 40), BitDepth::Eight, None);
        assert_eq!(Levels::of_png(&whole[..whole.len() / 2]).expect_err("half").0, "truncated_image");
        let deep = |level: u16| {
            let deep = image::ImageBuffer::from_pixel(3, 2, Luma([level]));
            crate::fixtures::encoded(&image::DynamicImage::ImageLuma16(deep), image::ImageFormat::Png)
        };
        assert_eq!(levels(&deep(255)), [255; 6]);
        assert!(Levels::of_png(&deep(256)).expect("whole").is_none());
    }

    #[test]
    fn masks_of_levels_0_and_1_are_black_and_white_unless_their_colours_are() {
        let halves = GrayImage::from_fn(4, 1, |x, _| Luma([u8::from(x < 2)]));
        let mask = |depth, palette| Levels::mask_of_png(&level_png(&halves, depth, palette)).expect("whole");
        let white_left = Some(vec![255, 255, 0, 0]);
        for depth in [BitDepth::One, BitDepth::Two, BitDepth::Four, BitDepth::Eight] {
            let grey = mask(depth, None).unwrap_or_else(|| {
                let mut decoded = image::load_from_memory(&level_png(&halves, depth, None)).expect("whole").into_rgb8();
                whiten(&mut decoded);
                DynamicImage::ImageRgb8(decoded).into_luma8()
            });
            assert_eq!(Some(grey.into_raw()), white_left, "{depth:?}");
            assert_eq!(mask(depth, Some(&[Rgb(BLACK), Rgb([128, 0, 0])])).map(GrayImage::into_raw), white_left, "{depth:?}");
            assert_eq!(mask(depth, Some(&[Rgb([0; 3]), Rgb([1; 3])])).map(GrayImage::into_raw), white_left, "{depth:?}");
            assert!(mask(depth, Some(&[Rgb(WHITE), Rgb(BLACK)])).is_none(), "the colours say where the object is");
        }
        let grey = level_png(&GrayImage::from_pixel(2, 2, Luma([2])), BitDepth::Four, None);
        assert!(Levels::mask_of_png(&grey).expect("whole").is_none());
    }
}
