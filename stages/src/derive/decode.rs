//! Decodes a picture to RGB: orientation applied, alpha on white, 8 bits a channel, the first frame of an animation.

use std::io::Cursor;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Rgb, RgbImage};

/// Why a picture cannot be decoded: a reason to count, and what exactly.
pub type DecodeError = (&'static str, String);

/// Decodes `bytes`. Sizes have been checked by `filter` before.
///
/// # Errors
/// `truncated_image` for a JPEG without end, `undecodable_image` for whatever the decoder refuses.
pub fn decode(bytes: &[u8]) -> Result<RgbImage, DecodeError> {
    let undecodable = |error: &dyn std::fmt::Display| ("undecodable_image", error.to_string());
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|error| undecodable(&error))?;
    // The JPEG decoder fills what is missing with grey instead of refusing.
    if reader.format() == Some(ImageFormat::Jpeg) && !has_end_marker(bytes) {
        return Err(("truncated_image", format!("the JPEG ends after {} bytes without end marker", bytes.len())));
    }
    let mut decoder = reader.into_decoder().map_err(|error| undecodable(&error))?;
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut picture = DynamicImage::from_decoder(decoder).map_err(|error| undecodable(&error))?;
    picture.apply_orientation(orientation);
    Ok(on_white(picture))
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

fn on_white(picture: DynamicImage) -> RgbImage {
    if !picture.color().has_alpha() {
        return picture.into_rgb8();
    }
    let with_alpha = picture.into_rgba8();
    let mut out = RgbImage::new(with_alpha.width(), with_alpha.height());
    for (from, to) in with_alpha.pixels().zip(out.pixels_mut()) {
        let [red, green, blue, alpha] = from.0.map(u32::from);
        *to = Rgb([red, green, blue].map(|channel| ((channel * alpha + 255 * (255 - alpha) + 127) / 255) as u8));
    }
    out
}
