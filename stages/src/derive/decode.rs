//! Decoder of pictures to RGB: turned by their EXIF orientation, transparency on white, 8 bits a channel, the first frame of an animation.
//!
//! Colour profiles and gamma are ignored, as in the tokenizers' own code. Of 16 bits the high byte is taken. A picture is decoded if all
//! its pixels are present, whatever else the file lacks (`damage/`).

use std::io::{Cursor, ErrorKind};

use cm3flow_schemas::preparation::Transparency;
use image::metadata::Orientation;
use image::{DynamicImage, ImageBuffer, ImageDecoder, ImageError, ImageFormat, ImageReader, Pixel, RgbImage};

use super::damage::PictureFile;
use super::frame::Stored;
use crate::error::DecodeError;

/// Decodes `bytes`; `transparency` makes transparent pictures opaque. `filter` has checked the size before.
///
/// # Errors
/// `truncated_image` where pixels are missing; `damaged_image` where data are invalid or a checksum fails; `undecodable_image` for a header
/// that the decoder refuses.
pub fn decode(bytes: &[u8], transparency: Transparency) -> Result<RgbImage, DecodeError> {
    decode_turned(bytes, transparency, |found| Ok(found.orientation()))
}

/// Decodes as [`decode`], but turns the picture by the result of `turn` for its header.
///
/// # Errors
/// Those of [`decode`], and those of `turn`.
pub(super) fn decode_turned(
    bytes: &[u8],
    transparency: Transparency,
    turn: impl FnOnce(Stored) -> Result<Orientation, DecodeError>,
) -> Result<RgbImage, DecodeError> {
    let (picture, stored) = stored(bytes)?;
    let orientation = turn(stored)?;
    let picture = on_white(eight_bits(picture), transparency);
    if orientation == Orientation::NoTransforms {
        return Ok(picture);
    }
    let mut turned = DynamicImage::ImageRgb8(picture);
    turned.apply_orientation(orientation);
    Ok(turned.into_rgb8())
}

/// Decodes `bytes` to the stored pixels, and returns them with the header.
///
/// # Errors
/// Those of [`decode`].
pub(super) fn stored(bytes: &[u8]) -> Result<(DynamicImage, Stored), DecodeError> {
    let file = PictureFile::examine(bytes)?;
    let mut decoder = opened(&file.bytes)?.1;
    let stored = Stored::of(&mut decoder);
    let picture = DynamicImage::from_decoder(decoder).map_err(|error| refused(&error, file.fault()))?;
    Ok((picture, stored))
}

/// Converts the decoder's error; `fault` is the reason for invalid data.
fn refused(error: &ImageError, fault: &'static str) -> DecodeError {
    let reason = match error {
        ImageError::IoError(cause) if cause.kind() == ErrorKind::UnexpectedEof => "truncated_image",
        ImageError::Decoding(_) | ImageError::IoError(_) => fault,
        _ => "undecodable_image",
    };
    (reason, error.to_string())
}

/// Returns the format and the decoder of `bytes`, which has read their header.
pub(super) fn opened(bytes: &[u8]) -> Result<(ImageFormat, impl ImageDecoder + '_), DecodeError> {
    let format = image::guess_format(bytes).map_err(|error| ("undecodable_image", error.to_string()))?;
    let reader = ImageReader::with_format(Cursor::new(bytes), format);
    Ok((format, reader.into_decoder().map_err(|error| refused(&error, "undecodable_image"))?))
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

/// Blends a picture with white. It writes three channels over the four, since two copies of a large picture might not fit in memory.
fn on_white(picture: DynamicImage, transparency: Transparency) -> RgbImage {
    if !picture.color().has_alpha() {
        return picture.into_rgb8();
    }
    let with_alpha = picture.into_rgba8();
    let (width, height) = with_alpha.dimensions();
    let mut levels = with_alpha.into_raw();
    let pixels = levels.len() / 4;
    for pixel in 0..pixels {
        let [red, green, blue, alpha] = *levels[4 * pixel..].first_chunk().expect("four levels a pixel");
        let opaque = match alpha {
            255 => [red, green, blue],
            _ => [red, green, blue].map(|level| blended(level, alpha, transparency)),
        };
        levels[3 * pixel..3 * pixel + 3].copy_from_slice(&opaque);
    }
    levels.truncate(3 * pixels);
    RgbImage::from_raw(width, height, levels).expect("three levels a pixel")
}

/// Returns a level blended with white.
///
/// # Source
/// `WhiteDown`: NumPy in Chameleon's image tokenizer, operation for operation, since 254.99… becomes 254 there. `WhiteNearest`:
/// `alpha_composite` of Pillow, which the processor of transformers uses.
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
