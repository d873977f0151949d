//! A second look at files, which tells pictures whose pixels are all there from damaged ones. Decoders do not: that of JPEG fills what is missing with
//! grey, even where it is told to be strict, and others refuse a whole picture whose file lacks nothing but its end.

mod jpeg;
mod png;
mod webp;

use std::borrow::Cow;

use image::ImageFormat;

use self::jpeg::Ending;
use crate::error::DecodeError;

pub(super) use self::jpeg::coefficient_bytes as coefficient_bytes_of_jpeg;

/// A file that may be decoded.
pub(super) struct PictureFile<'a> {
    /// Its bytes, as the decoder takes them: with an end where nothing but that may be missing.
    pub(super) bytes: Cow<'a, [u8]>,
    is_cut: bool,
}

impl<'a> PictureFile<'a> {
    /// Examines a file whose header may be as damaged as the rest.
    ///
    /// # Errors
    /// `truncated_image` where pixels are missing, `damaged_image` where data are invalid or a checksum fails, as far as the decoder does not tell.
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

    /// Why the decoder refuses the data of the pixels.
    pub(super) fn fault(&self) -> &'static str {
        if self.is_cut { "truncated_image" } else { "damaged_image" }
    }
}
