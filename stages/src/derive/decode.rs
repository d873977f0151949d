//! Decodes a picture to RGB: turned by its EXIF orientation, transparency on white, 8 bits a channel, the first frame of an animation.
//!
//! Colour profiles and gamma are ignored, as by the tokenizers' own code. Of 16 bits the high byte is taken.

use std::io::Cursor;

use cm3flow_schemas::preparation::Transparency;
use image::metadata::Orientation;
use image::{DynamicImage, ImageBuffer, ImageFormat, ImageReader, Pixel, Rgb, RgbImage};

use super::frame::Stored;

/// Why a picture cannot be decoded: a reason to count, and what exactly.
pub type DecodeError = (&'static str, String);

/// Decodes `bytes`; transparent pictures become opaque as `transparency` says. Sizes have been checked by `filter` before.
///
/// # Errors
/// `truncated_image` for a JPEG without end, `undecodable_image` for whatever the decoder refuses.
pub fn decode(bytes: &[u8], transparency: Transparency) -> Result<RgbImage, DecodeError> {
    decode_turned(bytes, transparency, |found| Ok(found.orientation()))
}

/// As [`decode`], turned as `turn` says of the picture's header.
///
/// # Errors
/// As [`decode`], and those of `turn`.
pub(super) fn decode_turned(
    bytes: &[u8],
    transparency: Transparency,
    turn: impl FnOnce(Stored) -> Result<Orientation, DecodeError>,
) -> Result<RgbImage, DecodeError> {
    let undecodable = |error: &dyn std::fmt::Display| ("undecodable_image", error.to_string());
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|error| undecodable(&error))?;
    // The JPEG decoder fills what is missing with grey instead of refusing.
    if reader.format() == Some(ImageFormat::Jpeg) && !has_end_marker(bytes) {
        return Err(("truncated_image", format!("the JPEG ends after {} bytes without end marker", bytes.len())));
    }
    let mut decoder = reader.into_decoder().map_err(|error| undecodable(&error))?;
    let orientation = turn(Stored::of(&mut decoder))?;
    let picture = DynamicImage::from_decoder(decoder).map_err(|error| undecodable(&error))?;
    if orientation == Orientation::NoTransforms {
        return Ok(on_white(eight_bits(picture), transparency));
    }
    let mut upright = DynamicImage::ImageRgb8(on_white(eight_bits(picture), transparency));
    upright.apply_orientation(orientation);
    Ok(upright.into_rgb8())
}

/// Whether the marker that ends the picture is there. Goes from segment to segment, so that neither a thumbnail before the scan nor data
/// behind the picture, such as a film, is mistaken for a part of it.
///
/// # Source
/// ITU-T T.81, annex B: a marker is 0xFF and a code; a data byte 0xFF is followed by 0x00; only 0x01 and 0xD0 to 0xD9 have no length.
fn has_end_marker(jpeg: &[u8]) -> bool {
    let mut position = 2;
    while let Some(&[first, code]) = jpeg.get(position..position + 2) {
        position += match (first, code) {
            (0xFF, 0xD9) => return true,
            (0xFF, 0xFF) => 1,
            (0xFF, 0x00 | 0x01 | 0xD0..=0xD8) => 2,
            (0xFF, _) => match jpeg.get(position + 2..position + 4) {
                Some(&[high, low]) => 2 + usize::from(u16::from_be_bytes([high, low])),
                _ => return false,
            },
            _ => 1,
        };
    }
    false
}

/// Takes the high byte of 16 bits, as libpng and Pillow do.
fn eight_bits(picture: DynamicImage) -> DynamicImage {
    fn high<From: Pixel<Subpixel = u16>, To: Pixel<Subpixel = u8>>(from: &ImageBuffer<From, Vec<u16>>) -> ImageBuffer<To, Vec<u8>> {
        let bytes = from.as_raw().iter().map(|level| (level >> 8) as u8).collect();
        ImageBuffer::from_raw(from.width(), from.height(), bytes).expect("both have as many channels")
    }
    match picture {
        DynamicImage::ImageLuma16(deep) => DynamicImage::ImageLuma8(high(&deep)),
        DynamicImage::ImageLumaA16(deep) => DynamicImage::ImageLumaA8(high(&deep)),
        DynamicImage::ImageRgb16(deep) => DynamicImage::ImageRgb8(high(&deep)),
        DynamicImage::ImageRgba16(deep) => DynamicImage::ImageRgba8(high(&deep)),
        other => other,
    }
}

fn on_white(picture: DynamicImage, transparency: Transparency) -> RgbImage {
    if !picture.color().has_alpha() {
        return picture.into_rgb8();
    }
    let with_alpha = picture.into_rgba8();
    let mut out = RgbImage::new(with_alpha.width(), with_alpha.height());
    for (from, to) in with_alpha.pixels().zip(out.pixels_mut()) {
        let [red, green, blue, alpha] = from.0;
        *to = Rgb(match alpha {
            255 => [red, green, blue],
            _ => [red, green, blue].map(|level| blended(level, alpha, transparency)),
        });
    }
    out
}

/// A level with white behind it.
///
/// # Source
/// Cut down: NumPy in Chameleon's image tokenizer, operation for operation, since 254.99… becomes 254 there. Rounded: `alpha_composite`
/// of Pillow, which the processor of transformers uses.
fn blended(level: u8, alpha: u8, transparency: Transparency) -> u8 {
    match transparency {
        Transparency::WhiteDown => {
            let share = f64::from(alpha) / 255.0;
            ((1.0 - share) * 255.0 + share * f64::from(level)) as u8
        }
        Transparency::WhiteNearest => {
            let (level, alpha) = (u32::from(level), u32::from(alpha));
            ((level * alpha + 255 * (255 - alpha) + 127) / 255) as u8
        }
    }
}
