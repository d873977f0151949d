//! Check of picture files for damage that decoders do not report. The JPEG decoder fills missing parts with grey, even in strict mode.
//! Other decoders refuse a whole picture that lacks only the end of its file.

mod jpeg;
mod png;
mod webp;

use std::borrow::Cow;

use image::ImageFormat;

use self::jpeg::Ending;
pub(super) use self::jpeg::coefficient_bytes as coefficient_bytes_of_jpeg;

use crate::error::DecodeError;

/// A file that may be decoded.
pub(super) struct PictureFile<'a> {
    /// Bytes for the decoder, with an end added where only that is missing.
    pub(super) bytes: Cow<'a, [u8]>,
    is_cut: bool,
}

impl<'a> PictureFile<'a> {
    /// Examines a file. The header may be damaged like the rest.
    ///
    /// # Errors
    /// `truncated_image` where pixels are missing; `damaged_image` where data are invalid or a checksum fails, as far as the decoder does
    /// not report it.
    pub(super) fn examine(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let format = image::guess_format(bytes).map_err(|error| ("undecodable_image", error.to_string()))?;
        let bytes = match format {
            ImageFormat::Jpeg if jpeg::look(bytes)? == Ending::Unmarked => Cow::Owned(jpeg::closed(bytes)),
            ImageFormat::Png => png::look(bytes)?,
            ImageFormat::WebP => webp::look(bytes)?,
            _ => Cow::Borrowed(bytes),
        };
        let is_cut = match format {
            ImageFormat::Gif => bytes.last() != Some(&b';'),
            ImageFormat::WebP => webp::is_cut(&bytes),
            _ => matches!(bytes, Cow::Owned(_)),
        };
        Ok(Self { bytes, is_cut })
    }

    /// Returns the reason to use when the decoder refuses the pixel data.
    pub(super) fn fault(&self) -> &'static str {
        if self.is_cut { "truncated_image" } else { "damaged_image" }
    }
}
