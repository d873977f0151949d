//! Estimate of the memory for decoding a picture, from its header, before anything is allocated.

use image::metadata::Orientation;
use image::{ColorType, ImageDecoder, ImageFormat};

use super::damage;
use super::decode::opened;
use super::frame::Stored;
use super::size::Size;

/// Memory for decoding one picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Needs {
    pub(super) stored: Stored,
    /// Most bytes allocated at once until the pixels are RGB of 8 bits, these included.
    decoding_bytes: u64,
    /// Allocated bytes of these pixels.
    pub(super) picture_bytes: u64,
}

impl Needs {
    /// Reads the header of `bytes`; `None` if the decoder refuses it.
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        let (format, mut decoder) = opened(bytes).ok()?;
        let stored = Stored::of(&mut decoder);
        let Size { width, height } = stored.size;
        let pixels = u64::from(width) * u64::from(height);
        let reading = decoder.total_bytes() + own_bytes(format, bytes, &decoder, pixels);
        // Rows in work, tables and names.
        let small = 64 * 4 * u64::from(width) + (256 << 10);
        let color = decoder.color_type();
        // Three levels a pixel; four where alpha was blended in place.
        let picture_bytes = if color.has_alpha() { 4 * pixels } else { 3 * pixels };
        Some(Self { stored, decoding_bytes: small + reading.max(converting_bytes(color, pixels)), picture_bytes })
    }

    /// Returns the most bytes allocated at once until the picture is turned, its pixels included.
    pub(super) fn decoding_bytes(&self, orientation: Orientation) -> u64 {
        // A turn that exchanges the sides writes new pixels; other turns work in place.
        let Size { width, height } = self.stored.size;
        let is_written_anew = matches!(
            orientation,
            Orientation::Rotate90 | Orientation::Rotate270 | Orientation::Rotate90FlipH | Orientation::Rotate270FlipH
        );
        let turning = if is_written_anew { self.picture_bytes + 3 * u64::from(width) * u64::from(height) } else { 0 };
        self.decoding_bytes.max(turning)
    }
}

/// Returns the bytes that the decoder of a format allocates beside its output.
fn own_bytes(format: ImageFormat, bytes: &[u8], decoder: &impl ImageDecoder, pixels: u64) -> u64 {
    let encoded = bytes.len() as u64;
    let (width, height) = decoder.dimensions();
    match format {
        // The file, read into a buffer that doubles, and the coefficients of all blocks of a picture with several scans.
        ImageFormat::Jpeg => 2 * encoded + damage::coefficient_bytes_of_jpeg(bytes),
        // The frame, if it is smaller than the screen.
        ImageFormat::Gif => 4 * pixels,
        // Luminance and chrominance in whole blocks of 16, and alpha, both by itself and in the three channels that it is coded like; or
        // all four channels.
        ImageFormat::WebP => encoded + 7 * (u64::from(width) + 16) * (u64::from(height) + 16),
        // The samples of the file, four for three in pictures of mixed ink, and their strips or tiles.
        ImageFormat::Tiff => 3 * decoder.total_bytes(),
        _ => 0,
    }
}

/// Returns the most bytes that pixels of a kind take during their conversion to RGB of 8 bits: before and after each step.
const fn converting_bytes(color: ColorType, pixels: u64) -> u64 {
    let a_pixel = match color {
        ColorType::L8 | ColorType::Rgb8 | ColorType::Rgba8 | ColorType::L16 => 4,
        ColorType::La8 | ColorType::La16 => 6,
        ColorType::Rgb16 => 9,
        ColorType::Rgba16 => 12,
        ColorType::Rgb32F => 15,
        _ => 20,
    };
    a_pixel * pixels
}
