//! Damage: pictures with all pixels pass, whatever else their file lacks; all others are refused with the right reason.

use std::path::Path;

use super::*;

fn file(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/pictures").join(name)).unwrap()
}

fn reason(bytes: &[u8]) -> &'static str {
    decode(bytes).expect_err("it is damaged").0
}

/// Returns the range of a PNG chunk, from its length to its checksum.
fn chunk(png: &[u8], name: &[u8; 4]) -> std::ops::Range<usize> {
    let start = png.windows(4).position(|four| four == name).unwrap() - 4;
    start..start + 12 + u32::from_be_bytes(*png[start..].first_chunk().unwrap()) as usize
}

#[test]
fn a_file_that_is_cut_gives_the_whole_picture_or_none() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/pictures");
    let (mut kept, mut refused) = (0, 0);
    for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()) {
        let bytes = std::fs::read(&path).unwrap();
        let Ok(whole) = decode(&bytes) else { continue };
        let last = bytes.len().saturating_sub(40);
        for len in (0..last).step_by(11).chain(last..bytes.len()) {
            match decode(&bytes[..len]) {
                Ok(found) => assert!(found == whole, "{} of {len} bytes is another picture", path.display()),
                Err(_) => refused += 1,
            }
            kept += usize::from(decode(&bytes[..len]).is_ok());
        }
    }
    assert!(kept > 1000 && refused > 10_000, "{kept} kept, {refused} refused");
}

#[test]
fn half_a_file_is_truncated_in_every_format() {
    let picture = DynamicImage::ImageRgb8(picture(1, 64, 64));
    for format in [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::Gif, ImageFormat::WebP, ImageFormat::Bmp, ImageFormat::Tiff] {
        let whole = encoded(&picture, format);
        assert!(decode(&whole).is_ok(), "{format:?}");
        assert_eq!(reason(&whole[..whole.len() / 2]), "truncated_image", "{format:?}");
    }
    for name in ["lossy.webp", "lossy-alpha.webp", "still-interlaced.gif", "rgb8-interlaced.png", "lzw.tiff", "deflate.tiff"] {
        let whole = file(name);
        assert_eq!(reason(&whole[..whole.len() / 2]), "truncated_image", "{name}");
    }
    assert_eq!(reason(b"no picture"), "undecodable_image");
    assert_eq!(reason(b""), "undecodable_image");
}

#[test]
fn a_jpeg_that_lacks_its_end_marker_alone_is_whole() {
    for name in
        ["420.jpg", "grey.jpg", "cmyk.jpg", "restarts.jpg", "progressive.jpg", "progressive-restarts.jpg", "turned6.jpg", "420-1x1.jpg"]
    {
        let whole = file(name);
        let expected = decode(&whole).unwrap();
        for len in [whole.len() - 1, whole.len() - 2] {
            assert!(decode(&whole[..len]).unwrap() == expected, "{name} of {len} bytes");
        }
        assert_eq!(reason(&whole[..whole.len() - 3]), "truncated_image", "{name} lacks a byte of its data");
    }
}

#[test]
fn half_a_jpeg_is_refused_with_an_end_marker_and_without() {
    for name in ["420.jpg", "grey.jpg", "cmyk.jpg", "restarts.jpg", "progressive.jpg", "progressive-restarts.jpg"] {
        let mut half = file(name);
        half.truncate(half.len() * 3 / 4);
        assert_eq!(reason(&half), "truncated_image", "{name}");
        half.extend([0xFF, 0xD9]);
        assert!(["truncated_image", "damaged_image"].contains(&reason(&half)), "{name}");
    }
    let whole = jpeg(&picture(1, 64, 64));
    let detail = decode(&[&whole[..whole.len() - 200], &[0xFF, 0xD9]].concat()).unwrap_err().1;
    assert!(detail.contains("units of scan 1"), "{detail}");
}

#[test]
fn a_jpeg_with_zeroed_data_is_refused() {
    let whole = jpeg(&picture(1, 64, 64));
    for start in (whole.len() - 1200..whole.len() - 600).step_by(100) {
        let mut zeroed = whole.clone();
        zeroed[start..start + 500].fill(0);
        assert!(["truncated_image", "damaged_image"].contains(&reason(&zeroed)), "zeros from byte {start} on");
    }
}

#[test]
fn a_thumbnail_does_not_hide_that_a_jpeg_is_cut() {
    let thumbnail = jpeg(&picture(2, 8, 8));
    let whole = with_segment(&jpeg(&picture(1, 64, 64)), 0xE1, &[b"Exif\0\0".as_slice(), &thumbnail].concat());
    assert!(decode(&whole).is_ok());
    assert_eq!(decode(&whole[..whole.len() - 20]).unwrap_err().0, "truncated_image");
    assert_eq!(decode(&whole[..whole.len() - 20 - 600]).unwrap_err().0, "truncated_image");
}

#[test]
fn what_stands_behind_a_whole_jpeg_does_not_matter() {
    let picture = picture(1, 32, 32);
    let film = [jpeg(&picture), b"film \xFF\xDA film".repeat(3)].concat();
    assert_eq!(decode(&film).unwrap(), decode(&jpeg(&picture)).unwrap());
}

#[test]
fn a_png_that_lacks_its_end_alone_is_whole() {
    for name in ["rgb8.png", "rgb8-interlaced.png", "grey1.png", "palette4-transparent.png", "rgba16.png", "animated.png"] {
        let whole = file(name);
        let expected = decode(&whole).unwrap();
        let pixels = chunk(&whole, b"IDAT");
        // Cut off: the end, the checksum of the last pixels, and parts of the compressed data's own checksum.
        for len in [whole.len() - 1, whole.len() - 12, pixels.end, pixels.end - 1, pixels.end - 4, pixels.end - 8] {
            assert!(decode(&whole[..len]).unwrap() == expected, "{name} of {len} bytes");
        }
        assert_eq!(reason(&whole[..usize::midpoint(pixels.start, pixels.end)]), "truncated_image", "{name}");
        assert_eq!(reason(&whole[..pixels.start + 8]), "truncated_image", "{name} has no pixels");
    }
}

#[test]
fn a_png_whose_checksum_fails_is_damaged() {
    for (name, part) in [
        ("rgb8.png", b"IDAT"),
        ("palette8.png", b"PLTE"),
        ("rgb8-key.png", b"tRNS"),
        ("palette8-alpha.png", b"tRNS"),
        ("turned6.png", b"eXIf"),
    ] {
        let mut damaged = file(name);
        let chunk = chunk(&damaged, part);
        damaged[chunk.end - 5] ^= 1;
        let (reason, detail) = decode(&damaged).unwrap_err();
        let expected = if part == b"PLTE" { "undecodable_image" } else { "damaged_image" };
        assert_eq!(reason, expected, "{name}: {detail}");
    }
    let mut damaged = file("rgb8-gamma.png");
    let gamma = chunk(&damaged, b"gAMA");
    damaged[gamma.end - 5] ^= 1;
    assert!(decode(&damaged).is_ok(), "what changes no pixel may be damaged");
}

#[test]
fn an_animation_that_is_cut_behind_its_first_frame_is_whole() {
    for name in ["animated.gif", "animated.png", "animated.webp"] {
        let whole = file(name);
        let expected = decode(&whole).unwrap();
        let len = whole.len() * 3 / 4;
        assert!(decode(&whole[..len]).unwrap() == expected, "{name} of {len} bytes");
        assert_eq!(reason(&whole[..whole.len() / 4]), "truncated_image", "{name}");
    }
}

#[test]
fn a_webp_that_is_cut_before_its_orientation_is_truncated() {
    let whole = file("turned6.webp");
    let exif = whole.windows(4).position(|four| four == b"EXIF").unwrap();
    for len in [whole.len() - 1, exif + 8, exif] {
        let (reason, detail) = decode(&whole[..len]).unwrap_err();
        assert_eq!((reason, detail.contains("orientation")), ("truncated_image", true), "{len} bytes: {detail}");
    }
    // Some programs remove the chunk and leave the flag that announces it.
    let mut stripped = whole[..exif].to_vec();
    let size = (stripped.len() as u32 - 8).to_le_bytes();
    stripped[4..8].copy_from_slice(&size);
    assert_eq!(decode(&stripped).unwrap().width(), decode(&whole).unwrap().height(), "it is as it is stored");
}
