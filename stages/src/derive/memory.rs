//! The memory that decoding a picture takes, known from its header before anything is allocated.

use image::metadata::Orientation;
use image::{ColorType, ImageDecoder, ImageFormat};

use super::damage;
use super::decode::opened;
use super::frame::Stored;
use super::size::Size;

/// The memory that a picture takes while it is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Needs {
    pub(super) stored: Stored,
    /// Most bytes that are allocated at once until its pixels are RGB of 8 bits, these among them.
    decoding_bytes: u64,
    /// Bytes of these pixels, as they are allocated.
    pub(super) picture_bytes: u64,
}

impl Needs {
    /// Reads the header of `bytes`; `None` for what the decoder refuses.
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        let (format, mut decoder) = opened(bytes).ok()?;
        let stored = Stored::of(&mut decoder);
        let Size { width, height } = stored.size;
        let pixels = u64::from(width) * u64::from(height);
        let reading = decoder.total_bytes() + own_bytes(format, bytes, &decoder, pixels);
        // Rows that are being worked on, tables, names.
        let small = 64 * 4 * u64::from(width) + (256 << 10);
        let color = decoder.color_type();
        // Three levels a pixel; written over the four that they were made of where there was alpha.
        let picture_bytes = if color.has_alpha() { 4 * pixels } else { 3 * pixels };
        Some(Self { stored, decoding_bytes: small + reading.max(converting_bytes(color, pixels)), picture_bytes })
    }

    /// Most bytes that are allocated at once until the picture is turned, its pixels among them.
    pub(super) fn decoding_bytes(&self, orientation: Orientation) -> u64 {
        // Pixels whose sides are exchanged are written beside the stored ones; others are mirrored in place.
        let Size { width, height } = self.stored.size;
        let is_written_anew = matches!(
            orientation,
            Orientation::Rotate90 | Orientation::Rotate270 | Orientation::Rotate90FlipH | Orientation::Rotate270FlipH
        );
        let turning = if is_written_anew { self.picture_bytes + 3 * u64::from(width) * u64::from(height) } else { 0 };
        self.decoding_bytes.max(turning)
    }
}

/// Bytes that the decoder of a format allocates beside the pixels that it gives out.
fn own_bytes(format: ImageFormat, bytes: &[u8], decoder: &impl ImageDecoder, pixels: u64) -> u64 {
    let encoded = bytes.len() as u64;
    let (width, height) = decoder.dimensions();
    match format {
        // The file, read into a buffer that doubles; coefficients of all blocks where they come in several scans.
        ImageFormat::Jpeg => 2 * encoded + damage::coefficient_bytes_of_jpeg(bytes),
        // The frame, if it is smaller than the screen.
        ImageFormat::Gif => 4 * pixels,
        // Luminance and chrominance in whole blocks of 16; alpha with the three channels that it is coded like, and by itself. Or all four channels.
        ImageFormat::WebP => encoded + 7 * (u64::from(width) + 16) * (u64::from(height) + 16),
        // The file's samples, of which there are four for three where ink is mixed; strips or tiles of them.
        ImageFormat::Tiff => 3 * decoder.total_bytes(),
        _ => 0,
    }
}

/// Most bytes that stored pixels of a kind take while they become RGB of 8 bits: what they are, and what they become, at each step.
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
