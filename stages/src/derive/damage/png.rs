//! Check of PNG chunks: completes a file that was cut behind its pixels, and verifies chunks that the decoder drops when they are damaged.

use std::borrow::Cow;

use crate::error::DecodeError;

const SIGNATURE: usize = 8;
/// Bytes of a chunk beside its content: length, name, checksum.
const AROUND: usize = 12;

/// Chunks before the pixels that change the picture, but that the decoder drops if their checksum fails.
const NEEDED: [&[u8; 4]; 2] = [b"tRNS", b"eXIf"];

/// Returns the file, with an end where it was cut within or behind its pixel data. Completeness and checksums of the pixels are left to the
/// decoder.
///
/// # Errors
/// `damaged_image` where the checksum of transparency or orientation fails.
///
/// # Source
/// PNG specification, 5.3, <https://www.w3.org/TR/png-3/#5Chunk-layout>.
pub(super) fn look(png: &[u8]) -> Result<Cow<'_, [u8]>, DecodeError> {
    let mut position = SIGNATURE;
    let mut has_pixels = false;
    while let Some(chunk) = Chunk::at(png, position) {
        let Some(checksum) = chunk.checksum else {
            // The checksum is missing, and perhaps a part of the content.
            let is_part_of_pixels = chunk.name == b"IDAT" && !chunk.content.is_empty();
            return Ok(match has_pixels || is_part_of_pixels {
                true => Cow::Owned(closed(&png[..position], is_part_of_pixels.then_some(chunk.content))),
                false => Cow::Borrowed(png),
            });
        };
        if NEEDED.contains(&chunk.name) && !has_pixels && checksum != chunk.computed() {
            let name = String::from_utf8_lossy(chunk.name);
            return Err(("damaged_image", format!("the checksum of the PNG's {name} chunk fails")));
        }
        has_pixels |= chunk.name == b"IDAT";
        if chunk.name == b"IEND" {
            return Ok(Cow::Borrowed(png));
        }
        position += AROUND + chunk.content.len();
    }
    Ok(if has_pixels { Cow::Owned(closed(&png[..position.min(png.len())], None)) } else { Cow::Borrowed(png) })
}

struct Chunk<'a> {
    name: &'a [u8; 4],
    /// Content, as far as the file has it.
    content: &'a [u8],
    /// `None` if the file ends before it.
    checksum: Option<u32>,
}

impl<'a> Chunk<'a> {
    /// Returns the chunk at `position`; `None` if the file ends before its name does.
    fn at(png: &'a [u8], position: usize) -> Option<Self> {
        let (length, rest) = png.get(position..)?.split_first_chunk::<4>()?;
        let (name, rest) = rest.split_first_chunk::<4>()?;
        let (content, behind) = rest.split_at_checked(u32::from_be_bytes(*length) as usize).unwrap_or((rest, &[]));
        let is_whole = content.len() == u32::from_be_bytes(*length) as usize;
        let checksum = behind.first_chunk::<4>().filter(|_| is_whole).map(|checksum| u32::from_be_bytes(*checksum));
        Some(Self { name, content, checksum })
    }

    fn computed(&self) -> u32 {
        checksum(self.name, self.content)
    }
}

fn checksum(name: &[u8; 4], content: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(name);
    hasher.update(content);
    hasher.finalize()
}

/// Returns the whole `chunks`, followed by a chunk of `pixels` and an end.
fn closed(chunks: &[u8], pixels: Option<&[u8]>) -> Vec<u8> {
    let mut out = chunks.to_vec();
    let added = pixels.map(|pixels| (b"IDAT", pixels)).into_iter().chain([(b"IEND", [].as_slice())]);
    for (name, content) in added {
        out.extend((content.len() as u32).to_be_bytes());
        out.extend(name);
        out.extend(content);
        out.extend(checksum(name, content).to_be_bytes());
    }
    out
}
