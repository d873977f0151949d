//! Decodes a picture to RGB: orientation applied, alpha on white, 8 bits a channel, the first frame of an animation.

use std::io::Cursor;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Rgb, RgbImage};

/// Why a picture cannot be decoded: a reason to count, and what exactly.
pub type DecodeError = (&'static str, String);

/// Decodes `bytes`. Sizes have been checked by `filter` before.
///
/// # Errors
/// `truncated_image` for a JPEG whose scan has no end, `undecodable_image` for whatever the decoder refuses.
pub fn decode(bytes: &[u8]) -> Result<RgbImage, DecodeError> {
    let undecodable = |error: &dyn std::fmt::Display| ("undecodable_image", error.to_string());
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|error| undecodable(&error))?;
    // The JPEG decoder fills what is missing with grey instead of refusing.
    if reader.format() == Some(ImageFormat::Jpeg) && !has_end_of_scan(bytes) {
        return Err(("truncated_image", format!("the JPEG ends after {} bytes without end marker", bytes.len())));
    }
    let mut decoder = reader.into_decoder().map_err(|error| undecodable(&error))?;
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut picture = DynamicImage::from_decoder(decoder).map_err(|error| undecodable(&error))?;
    picture.apply_orientation(orientation);
    Ok(on_white(picture))
}

/// Whether an end marker follows the last start of scan. Within a scan every 0xFF data byte is stuffed, so the marker is no data.
fn has_end_of_scan(jpeg: &[u8]) -> bool {
    let pairs = |marker: u8| move |pair: &[u8]| pair == [0xFF, marker];
    let start = jpeg.windows(2).rposition(pairs(0xDA));
    start.is_some_and(|start| jpeg[start..].windows(2).any(pairs(0xD9)))
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
