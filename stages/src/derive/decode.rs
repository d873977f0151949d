//! Decodes a picture to RGB: turned by its EXIF orientation, transparency on white, 8 bits a channel, the first frame of an animation.
//!
//! Colour profiles and gamma are ignored, as by the tokenizers' own code. Of 16 bits the high byte is taken. A picture is decoded if all its pixels are
//! there, whatever else the file lacks; the decoders refuse others, but for JPEG, where `jpeg/` judges.

use std::borrow::Cow;
use std::io::{Cursor, ErrorKind};

use cm3flow_schemas::preparation::Transparency;
use image::metadata::Orientation;
use image::{ColorType, DynamicImage, ImageBuffer, ImageDecoder, ImageError, ImageFormat, ImageReader, Pixel, RgbImage};

use super::jpeg::{self, Ending};
use super::{png, webp};

/// Why a picture cannot be decoded: a reason to count, and what exactly.
pub type DecodeError = (&'static str, String);

/// Decodes `bytes`; transparent pictures become opaque as `transparency` says. Sizes have been checked by `filter` before.
///
/// # Errors
/// `truncated_image` where pixels are missing, `damaged_image` where data are invalid or a checksum fails, `undecodable_image` for a header that the
/// decoder refuses.
pub fn decode(bytes: &[u8], transparency: Transparency) -> Result<RgbImage, DecodeError> {
    let (picture, orientation) = stored(bytes)?;
    let mut picture = on_white(eight_bits(picture), transparency);
    if orientation == Orientation::NoTransforms {
        return Ok(picture);
    }
    let mut upright = DynamicImage::ImageRgb8(picture);
    upright.apply_orientation(orientation);
    picture = upright.into_rgb8();
    Ok(picture)
}

/// Decodes `bytes` to the pixels that are stored, and what turns them upright.
///
/// # Errors
/// As [`decode`].
pub(super) fn stored(bytes: &[u8]) -> Result<(DynamicImage, Orientation), DecodeError> {
    let (format, decoder) = opened(bytes)?;
    let whole = match format {
        ImageFormat::Jpeg if jpeg::look(bytes)? == Ending::Unmarked => Cow::Owned(jpeg::closed(bytes)),
        ImageFormat::Png => png::look(bytes)?,
        ImageFormat::WebP => webp::look(bytes).map(|()| Cow::Borrowed(bytes))?,
        _ => Cow::Borrowed(bytes),
    };
    let mut decoder = match &whole {
        Cow::Borrowed(_) => decoder,
        Cow::Owned(closed) => {
            drop(decoder);
            opened(closed)?.1
        }
    };
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let picture = DynamicImage::from_decoder(decoder).map_err(|error| {
        let is_cut = matches!(whole, Cow::Owned(_)) || is_unfinished(format, bytes);
        let reason = match &error {
            ImageError::IoError(cause) if cause.kind() == ErrorKind::UnexpectedEof => "truncated_image",
            ImageError::Decoding(_) | ImageError::IoError(_) if is_cut => "truncated_image",
            ImageError::Decoding(_) | ImageError::IoError(_) => "damaged_image",
            _ => "undecodable_image",
        };
        (reason, error.to_string())
    })?;
    Ok((picture, orientation))
}

/// The decoder of `bytes`, which has read their header.
fn opened(bytes: &[u8]) -> Result<(ImageFormat, impl ImageDecoder + '_), DecodeError> {
    let undecodable = |error: &dyn std::fmt::Display| ("undecodable_image", error.to_string());
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|error| undecodable(&error))?;
    let format = reader.format();
    let decoder = reader.into_decoder().map_err(|error| undecodable(&error))?;
    Ok((format.ok_or_else(|| undecodable(&"no known format"))?, decoder))
}

/// Whether a file ends before it says so, for formats whose decoders do not tell this from other damage.
fn is_unfinished(format: ImageFormat, bytes: &[u8]) -> bool {
    match format {
        ImageFormat::Gif => bytes.last() != Some(&b';'),
        ImageFormat::WebP => webp::is_cut(bytes),
        _ => false,
    }
}

/// What a picture says of itself before it is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Width and height of the picture once it is turned upright.
    pub size: (u32, u32),
    /// Most bytes that are allocated at once while it is decoded, the pixels that come out among them.
    pub decoding_bytes: u64,
    /// Bytes of the pixels that come out, as they are allocated.
    pub picture_bytes: u64,
}

impl Header {
    /// Reads the header of `bytes`; `None` for what the decoder refuses.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let (format, mut decoder) = opened(bytes).ok()?;
        let (width, height) = decoder.dimensions();
        let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
        let is_turned = matches!(
            orientation,
            Orientation::Rotate90 | Orientation::Rotate270 | Orientation::Rotate90FlipH | Orientation::Rotate270FlipH
        );
        let pixels = u64::from(width) * u64::from(height);
        let reading = decoder.total_bytes() + own_bytes(format, bytes, &decoder, pixels);
        // Upright pixels are written beside the stored ones, but for those that are mirrored in place.
        let turning = if is_turned { 6 * pixels } else { 0 };
        let decoding_bytes = reading.max(converting_bytes(decoder.color_type(), pixels)).max(turning);
        let size = if is_turned { (height, width) } else { (width, height) };
        // Three levels a pixel, in place of the four that they were made of.
        Some(Self { size, decoding_bytes, picture_bytes: 4 * pixels })
    }
}

/// Bytes that the decoder of a format allocates beside the pixels that it gives out.
fn own_bytes(format: ImageFormat, bytes: &[u8], decoder: &impl ImageDecoder, pixels: u64) -> u64 {
    let encoded = bytes.len() as u64;
    let (width, height) = decoder.dimensions();
    // Rows that are being worked on, tables.
    let rows = 64 * 4 * u64::from(width) + (256 << 10);
    rows + match format {
        // The file, read into a buffer that doubles; coefficients of all blocks where they come in several scans.
        ImageFormat::Jpeg => 2 * encoded + jpeg::coefficient_bytes(bytes),
        // The frame, if it is smaller than the screen.
        ImageFormat::Gif => 4 * pixels,
        // Luminance and chrominance in whole blocks of 16, and alpha; or all four channels where there is no alpha.
        ImageFormat::WebP => encoded + 4 * (u64::from(width) + 16) * (u64::from(height) + 16),
        // The file's samples, which are four where ink is mixed; strips or tiles of them.
        ImageFormat::Tiff => 2 * decoder.total_bytes().max(8 * pixels),
        _ => 0,
    }
}

/// Most bytes that stored pixels of a kind take while they become RGB of 8 bits: what they are, and what they become, at each step.
const fn converting_bytes(color: ColorType, pixels: u64) -> u64 {
    let a_pixel = match color {
        ColorType::L8 | ColorType::Rgb8 => 4,
        ColorType::Rgba8 => 4,
        ColorType::La8 => 6,
        ColorType::L16 => 4,
        ColorType::La16 => 6,
        ColorType::Rgb16 => 9,
        ColorType::Rgba16 => 12,
        ColorType::Rgb32F => 15,
        _ => 20,
    };
    a_pixel * pixels
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

/// Writes three channels over the four that they are made of: a picture may be so large that two do not fit.
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
