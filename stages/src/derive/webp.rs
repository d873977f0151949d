//! Looks at the chunks of a WebP that was cut: its pixels may be all there, but not what turns them upright.

use super::decode::DecodeError;

/// Flag of the extended header: the file has an EXIF chunk, which stands behind the pixels.
const HAS_EXIF: u8 = 0x08;

/// Whether the file ends before it says so.
pub(super) fn is_cut(webp: &[u8]) -> bool {
    let said = webp.get(4..).and_then(<[u8]>::first_chunk::<4>).map(|size| u32::from_le_bytes(*size) as usize);
    said.is_some_and(|said| webp.len() < said.saturating_add(8))
}

/// # Errors
/// `truncated_image` for a file that was cut before or within the chunk that holds its orientation.
///
/// # Source
/// WebP container specification, <https://developers.google.com/speed/webp/docs/riff_container>.
pub(super) fn look(webp: &[u8]) -> Result<(), DecodeError> {
    let is_announced = webp.get(12..16) == Some(b"VP8X") && webp.get(20).is_some_and(|flags| flags & HAS_EXIF != 0);
    if is_announced && is_cut(webp) && !has_chunk(webp, b"EXIF") {
        return Err(("truncated_image", format!("the WebP ends after {} bytes, before the orientation of its picture", webp.len())));
    }
    Ok(())
}

/// Whether a whole chunk of this name is there.
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
