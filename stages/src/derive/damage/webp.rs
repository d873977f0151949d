//! Check of WebP chunks: the pixels may be whole where other announced chunks are missing.

use std::borrow::Cow;

use crate::error::DecodeError;

/// Place of the flags of the extended header.
const FLAGS: usize = 20;
/// Flag of the EXIF chunk, which has the orientation and follows the pixels.
const HAS_EXIF: u8 = 0x08;
/// Chunks that no pixel depends on, and their flags: colour profile, orientation, descriptions.
const ANNOUNCED: [(u8, &[u8; 4]); 3] = [(0x20, b"ICCP"), (HAS_EXIF, b"EXIF"), (0x04, b"XMP ")];

/// Checks whether the file is shorter than its header says.
pub(super) fn is_cut(webp: &[u8]) -> bool {
    let said = webp.get(4..).and_then(<[u8]>::first_chunk::<4>).map(|size| u32::from_le_bytes(*size) as usize);
    said.is_some_and(|said| webp.len() < said.saturating_add(8))
}

/// Returns the file without the flags of missing chunks. Some programs remove a chunk and leave its flag, which the decoder refuses.
///
/// # Errors
/// `truncated_image` for a file that was cut before or within the chunk of its orientation.
///
/// # Source
/// WebP container specification, <https://developers.google.com/speed/webp/docs/riff_container>.
pub(super) fn look(webp: &[u8]) -> Result<Cow<'_, [u8]>, DecodeError> {
    let flags = match (webp.get(12..16), webp.get(FLAGS)) {
        (Some(b"VP8X"), Some(flags)) => *flags,
        _ => return Ok(Cow::Borrowed(webp)),
    };
    let missing = ANNOUNCED.iter().filter(|(flag, name)| flags & flag != 0 && !has_chunk(webp, name));
    let missing = missing.fold(0, |missing, (flag, _)| missing | flag);
    if missing & HAS_EXIF != 0 && is_cut(webp) {
        return Err(("truncated_image", format!("the WebP ends after {} bytes, before the orientation of its picture", webp.len())));
    }
    if missing == 0 {
        return Ok(Cow::Borrowed(webp));
    }
    let mut bare = webp.to_vec();
    bare[FLAGS] &= !missing;
    Ok(Cow::Owned(bare))
}

/// Checks whether the file has a whole chunk of this name.
fn has_chunk(webp: &[u8], name: &[u8; 4]) -> bool {
    let mut rest = webp.get(12..).unwrap_or_default();
    while let Some((found, behind)) = rest.split_first_chunk::<4>() {
        let Some((size, content)) = behind.split_first_chunk::<4>() else { return false };
        let size = u32::from_le_bytes(*size) as usize;
        if found == name {
            return content.len() >= size;
        }
        // Chunks of an odd size are padded.
        rest = content.get(size.saturating_add(size % 2)..).unwrap_or_default();
    }
    false
}
