//! Formats of files by their first bytes: pictures that can be decoded, other pictures, and further files in a picture's place.
//!
//! # Source
//! Signatures of the formats' own specifications; ISO/IEC 14496-12 for the brands of HEIF, AVIF and MP4; the Git LFS specification for
//! pointers.

/// Number of first bytes that suffice to recognise a file.
pub(super) const HEAD_BYTES: u64 = 4096;

/// Signatures at the first byte, with their formats.
const SIGNATURES: [(&[u8], &str); 27] = [
    (b"\xff\x0a", "a JPEG XL picture"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL picture"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 picture"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 picture"),
    (b"8BPS", "a PSD file of Photoshop"),
    (b"%PDF-", "a PDF file"),
    (b"%!PS", "a PostScript file"),
    (b"\0\0\x01\0", "an icon file (ICO)"),
    (b"DDS ", "a DDS texture"),
    (b"#?RADIANCE", "a Radiance HDR picture"),
    (b"\x76\x2f\x31\x01", "an OpenEXR picture"),
    (b"qoif", "a QOI picture"),
    (b"farbfeld", "a farbfeld picture"),
    (b"P1\n", "a PBM picture"),
    (b"P2\n", "a PGM picture"),
    (b"P3\n", "a PPM picture"),
    (b"P4\n", "a PBM picture"),
    (b"P5\n", "a PGM picture"),
    (b"P6\n", "a PPM picture"),
    (b"<svg", "an SVG drawing"),
    (b"\x1a\x45\xdf\xa3", "a Matroska or WebM video"),
    (b"FUJIFILMCCD-RAW", "a raw photo"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself (git lfs pull fetches it)"),
    (b"<!doctype html", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "a gzip file"),
];

/// Brands of files that begin with an `ftyp` box.
const BRANDS: [(&[u8], &str); 13] = [
    (b"heic", "a HEIC picture"),
    (b"heix", "a HEIC picture"),
    (b"hevc", "a HEIC picture"),
    (b"heim", "a HEIC picture"),
    (b"heis", "a HEIC picture"),
    (b"mif1", "a HEIF picture"),
    (b"msf1", "a HEIF picture"),
    (b"avif", "an AVIF picture"),
    (b"avis", "an AVIF picture"),
    (b"crx ", "a raw photo (CR3)"),
    (b"qt  ", "a QuickTime video"),
    (b"isom", "an MP4 video"),
    (b"mp4", "an MP4 video"),
];

/// Compressed files and archives under the name of a tar, with advice.
const ARCHIVES: [(&[u8], &str); 9] = [
    (b"\x1f\x8b", "it is compressed by gzip; decompress it first (gunzip)"),
    (b"\x28\xb5\x2f\xfd", "it is compressed by Zstandard; decompress it first (unzstd)"),
    (b"BZh", "it is compressed by bzip2; decompress it first (bunzip2)"),
    (b"\xfd7zXZ\0", "it is compressed by xz; decompress it first (unxz)"),
    (b"\x04\x22\x4d\x18", "it is compressed by LZ4; decompress it first (lz4 -d)"),
    (b"PK\x03\x04", "it is a zip archive; unpack it and read the folder, or pack it as a tar"),
    (b"7z\xbc\xaf\x27\x1c", "it is a 7z archive; unpack it and read the folder, or pack it as a tar"),
    (b"Rar!\x1a\x07", "it is a RAR archive; unpack it and read the folder, or pack it as a tar"),
    (b"PAR1", "it is a Parquet file"),
];

/// Checks whether the bytes begin a picture that can be decoded.
pub(super) fn is_picture(head: &[u8]) -> bool {
    image::guess_format(head).is_ok_and(|format| format.reading_enabled())
}

/// Names the format of a known file that is not read: another kind of picture, a page, a pointer.
pub(super) fn unsupported(head: &[u8]) -> Option<&'static str> {
    if is_picture(head) {
        return None;
    }
    if head.get(4..8) == Some(b"ftyp") {
        let brand = head.get(8..12).unwrap_or_default();
        return Some(BRANDS.iter().find(|(known, _)| brand.starts_with(known)).map_or("a file of the MP4 family", |(_, name)| name));
    }
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    let found = SIGNATURES.iter().find(|(signature, _)| begins(head, signature) || begins(text, signature));
    found.map(|(_, name)| *name).or_else(|| (begins(text, b"<?xml") && contains(head, b"<svg")).then_some("an SVG drawing"))
}

/// Describes a file that is no tar, with advice.
pub(super) fn archive(head: &[u8]) -> Option<&'static str> {
    let found = ARCHIVES.iter().find(|(signature, _)| head.starts_with(signature)).map(|(_, name)| *name);
    found.or_else(|| unsupported(head).map(|_| "it is something else under the name of a tar; fetch or write it again"))
}

/// Checks whether `head` begins with `signature`; a signature of markup ignores case.
fn begins(head: &[u8], signature: &[u8]) -> bool {
    let is_text = signature.starts_with(b"<");
    head.get(..signature.len()).is_some_and(|start| if is_text { start.eq_ignore_ascii_case(signature) } else { start == signature })
}

fn contains(head: &[u8], part: &[u8]) -> bool {
    head.windows(part.len()).any(|window| window == part)
}

/// Kind of a file by its extension alone (lower case, without dot).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extension {
    /// A picture, whether it can be decoded or not.
    Picture,
    /// Given codes.
    Codes,
    /// Another known kind of file.
    Other,
    /// No known extension: the file may be anything.
    Unknown,
}

impl Extension {
    pub(super) fn of(extension: &str) -> Self {
        match extension {
            "jpg" | "jpeg" | "jpe" | "jfif" | "jif" | "png" | "apng" | "gif" | "webp" | "bmp" | "dib" | "tif" | "tiff" => Self::Picture,
            "heic" | "heif" | "hif" | "avif" | "jxl" | "jp2" | "j2k" | "jpx" | "jpf" | "psd" | "svg" | "ico" | "tga" | "dds" | "hdr"
            | "exr" | "qoi" | "pbm" | "pgm" | "ppm" | "pnm" | "cr2" | "cr3" | "nef" | "arw" | "dng" | "orf" | "rw2" | "raf" => {
                Self::Picture
            }
            "npy" => Self::Codes,
            "txt" | "json" | "jsonl" | "csv" | "tsv" | "md" | "rst" | "html" | "htm" | "xml" | "yaml" | "yml" | "toml" | "ini" | "cfg"
            | "log" | "py" | "rs" | "js" | "css" | "sh" | "ipynb" | "npz" | "pt" | "pth" | "ckpt" | "safetensors" | "parquet" | "arrow"
            | "feather" | "h5" | "hdf5" | "pkl" | "pickle" | "db" | "sqlite" | "lock" | "tar" | "gz" | "tgz" | "zip" | "zst" | "xz"
            | "bz2" | "7z" | "rar" | "pdf" | "doc" | "docx" | "xls" | "xlsx" | "ppt" | "pptx" | "mp4" | "m4v" | "mov" | "mkv" | "webm"
            | "avi" | "mp3" | "m4a" | "wav" | "flac" | "ogg" | "exe" | "dll" | "so" => Self::Other,
            _ => Self::Unknown,
        }
    }
}

/// Returns the name under which files with `extension` are counted: the extension, or `other` if it does not look like one.
pub(super) fn counted_extension(extension: Option<&str>) -> &str {
    let Some(extension) = extension else { return "none" };
    let is_plain = (1..=8).contains(&extension.len()) && extension.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if is_plain && !extension.bytes().all(|byte| byte.is_ascii_digit()) { extension } else { "other" }
}

#[cfg(test)]
mod tests {
    use image::{DynamicImage, ImageFormat};

    use super::*;
    use crate::fixtures::{encoded, jpeg, picture};

    #[test]
    fn pictures_are_told_by_their_bytes() {
        let photo = DynamicImage::ImageRgb8(picture(1, 9, 9));
        let formats = [ImageFormat::Png, ImageFormat::Gif, ImageFormat::WebP, ImageFormat::Bmp, ImageFormat::Tiff];
        for bytes in formats.iter().map(|format| encoded(&photo, *format)).chain([jpeg(&picture(1, 9, 9))]) {
            assert!(is_picture(&bytes) && unsupported(&bytes).is_none());
        }
    }

    #[test]
    fn what_stands_in_a_pictures_place_is_named() {
        for (head, name) in [
            (&b"\0\0\0\x18ftypheic\0\0\0\0mif1"[..], "a HEIC picture"),
            (b"\0\0\0\x1cftypavif", "an AVIF picture"),
            (b"\0\0\0\x20ftypisom", "an MP4 video"),
            (b"\0\0\0\x20ftypmp42", "an MP4 video"),
            (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL picture"),
            (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 picture"),
            (b"%PDF-1.7", "a PDF file"),
            (b"8BPS\0\x01", "a PSD file of Photoshop"),
            (b"\xef\xbb\xbf\n <!DOCTYPE html><html>", "an HTML page"),
            (b"<?xml version=\"1.0\"?><svg/>", "an SVG drawing"),
        ] {
            assert_eq!(unsupported(head), Some(name));
        }
        assert!(unsupported(b"version https://git-lfs.github.com/spec/v1\n").is_some_and(|name| name.starts_with("a Git LFS pointer")));
        assert_eq!(unsupported(b"anything else"), None);
        assert_eq!(unsupported(b""), None);
    }

    #[test]
    fn compressed_tars_are_told_with_what_to_do() {
        assert!(archive(b"\x1f\x8b\x08").is_some_and(|text| text.contains("gunzip")));
        assert!(archive(b"\x28\xb5\x2f\xfd").is_some_and(|text| text.contains("unzstd")));
        assert!(archive(b"<html>").is_some());
        assert_eq!(archive(b"a header"), None);
    }

    #[test]
    fn extensions_are_counted_under_a_bounded_number_of_names() {
        let counted = [Some("cls"), Some("12345"), Some("05_a"), Some("averylongone"), None].map(counted_extension);
        assert_eq!(counted, ["cls", "other", "other", "other", "none"]);
    }
}
