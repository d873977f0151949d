//! Detection of damage in JPEGs of every kind.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use super::walk::{closed, segment};
use super::{standard, *};

/// Variants of coded data of one picture.
const KINDS: [&str; 11] =
    ["420", "411", "440", "rgb", "cmyk", "grey", "restarts", "progressive", "progressive420", "progressive-restarts", "420-1x1"];

fn pictures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/pictures")
}

fn file(name: &str) -> Vec<u8> {
    std::fs::read(pictures().join(format!("{name}.jpg"))).unwrap()
}

fn reason(jpeg: &[u8]) -> Option<&'static str> {
    look(jpeg).err().map(|(reason, _)| reason)
}

fn detail(jpeg: &[u8]) -> String {
    look(jpeg).unwrap_err().1
}

/// Returns the ranges of the segments with marker `wanted`, except those within scans.
fn segments(jpeg: &[u8], wanted: u8) -> Vec<(usize, usize)> {
    let (mut position, mut found) = (2, Vec::new());
    while let Some((code, _, behind)) = segment(jpeg, position) {
        if code == wanted {
            let start = jpeg[..behind].windows(2).rposition(|two| two == [0xFF, wanted]).unwrap();
            found.push((start, behind));
        }
        position = behind;
    }
    found
}

/// Returns the positions of the coded data and of the end marker.
fn coded(jpeg: &[u8]) -> (usize, usize) {
    (segments(jpeg, 0xDA)[0].1, jpeg.len() - 2)
}

fn with(jpeg: &[u8], start: usize, bytes: &[u8]) -> Vec<u8> {
    let mut out = jpeg.to_vec();
    out[start..start + bytes.len()].copy_from_slice(bytes);
    out
}

#[test]
fn every_whole_picture_is_whole() {
    let mut seen = 0;
    for entry in std::fs::read_dir(pictures()).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.extension().is_some_and(|extension| extension == "jpg") && entry.file_stem().unwrap() != "arithmetic" {
            assert_eq!(look(&std::fs::read(&entry).unwrap()), Ok(Ending::Marked), "{}", entry.display());
            seen += 1;
        }
    }
    for number in 0..3 {
        let tar = std::fs::read(format!("{}/../tests/corpus/photos-{number:05}.tar", env!("CARGO_MANIFEST_DIR"))).unwrap();
        for entry in tar::Archive::new(&tar[..]).entries().unwrap() {
            let mut entry = entry.unwrap();
            if entry.path().unwrap().extension().is_some_and(|extension| extension == "jpg") {
                let mut photo = Vec::new();
                std::io::Read::read_to_end(&mut entry, &mut photo).unwrap();
                assert_eq!(look(&photo), Ok(Ending::Marked), "{}", entry.path().unwrap().display());
                seen += 1;
            }
        }
    }
    assert!(seen > 90, "{seen} pictures");
    assert_eq!(look(&file("arithmetic")), Ok(Ending::Unknown), "of this only the decoder knows");
}

#[test]
fn data_that_end_before_the_last_block_are_noticed_wherever_they_end() {
    for kind in KINDS {
        let whole = file(kind);
        let (start, end) = coded(&whole);
        for cut in start..end {
            // A lone 0xFF is the beginning of a marker, and some codes end with a whole byte of padding.
            let is_whole = |jpeg: &[u8]| look(jpeg).is_ok();
            assert!(!is_whole(&whole[..cut]), "{kind} ends after {cut} of {end} bytes");
            assert!(!is_whole(&closed(&whole[..cut])), "{kind} ends after {cut} of {end} bytes, with an end marker");
        }
        for cut in [end, end + 1] {
            assert_eq!(look(&whole[..cut]), Ok(Ending::Unmarked), "{kind} lacks its end marker alone");
        }
    }
}

#[test]
fn half_a_picture_says_how_much_is_there() {
    let whole = file("420");
    let (start, end) = coded(&whole);
    let half = closed(&whole[..usize::midpoint(start, end)]);
    assert_eq!(reason(&half), Some("truncated_image"));
    let detail = detail(&half);
    assert!(detail.starts_with("the coded data end after ") && detail.ends_with(" of 9 units of scan 1"), "{detail}");
}

#[test]
fn zeroed_data_are_noticed() {
    for kind in KINDS.iter().filter(|kind| **kind != "420-1x1") {
        let whole = file(kind);
        let (start, end) = coded(&whole);
        let middle = usize::midpoint(start, end);
        assert!(look(&with(&whole, middle, &vec![0; end - middle])).is_err(), "the second half of {kind}");
        assert!(look(&with(&whole, start, &vec![0; end - start])).is_err(), "all of {kind}");
    }
}

#[test]
fn bytes_that_belong_to_no_block_are_noticed() {
    for kind in KINDS {
        let whole = file(kind);
        let (_, end) = coded(&whole);
        let more = [&whole[..end], &[0x12, 0x34, 0x56], &whole[end..]].concat();
        assert_eq!(look(&more).unwrap_err().0, "damaged_image", "{kind}");
        assert!(detail(&more).starts_with("3 bytes of coded data are left over"), "{kind}: {}", detail(&more));
        let padded = [&whole[..end], &[0xFF, 0, 0xFF, 0, 0xFF, 0xFF], &whole[end..]].concat();
        assert_eq!(look(&padded), Ok(Ending::Marked), "{kind}: ones are padding");
    }
}

#[test]
fn bits_that_are_no_code_are_noticed() {
    // No standard code consists of ones alone.
    let whole = file("420");
    let (start, end) = coded(&whole);
    let ones = [&whole[..start], &[0xFF, 0].repeat((end - start) / 2), &whole[end..]].concat();
    assert_eq!((reason(&ones), detail(&ones).contains("invalid code")), (Some("damaged_image"), true), "{}", detail(&ones));
}

#[test]
fn restart_markers_come_in_order() {
    for kind in ["restarts", "progressive-restarts"] {
        let whole = file(kind);
        let (start, _) = coded(&whole);
        let first = start + whole[start..].windows(2).position(|two| two == [0xFF, 0xD0]).unwrap();
        let swapped = with(&whole, first, &[0xFF, 0xD1]);
        assert_eq!((reason(&swapped), detail(&swapped).contains("restart marker 0 is missing")), (Some("damaged_image"), true), "{kind}");
        let lost = [&whole[..first], &whole[first + 2..]].concat();
        assert_eq!(reason(&lost), Some("damaged_image"), "{kind}");
        let end = whole.len() - 2;
        let behind_the_last = [&whole[..end], &[0xFF, 0xD7], &whole[end..]].concat();
        assert_eq!(look(&behind_the_last), Ok(Ending::Marked), "{kind}: some programs write one more");
        let more = [&whole[..end], &[0xFF, 0xD7, 1, 2], &whole[end..]].concat();
        assert_eq!(reason(&more), Some("damaged_image"), "{kind}");
    }
}

#[test]
fn a_progressive_picture_whose_last_scans_are_missing_is_noticed() {
    for kind in ["progressive", "progressive420", "progressive-restarts"] {
        let whole = file(kind);
        let scans = segments(&whole, 0xDA);
        assert!(scans.len() > 5, "{kind}");
        for (number, (start, _)) in scans.iter().enumerate().skip(1) {
            // The tables of a scan precede its header.
            let before = segments(&whole[..*start], 0xC4).last().map_or(*start, |(start, _)| *start).min(*start);
            for cut in [&whole[..*start], &closed(&whole[..*start]), &closed(&whole[..before])] {
                assert_eq!(look(cut).unwrap_err().0, "truncated_image", "{kind} before scan {}", number + 1);
            }
            assert!(look(&closed(&whole[..*start])).unwrap_err().1.starts_with(&format!("scans are missing: after {number} of them")));
        }
    }
}

#[test]
fn a_scan_that_does_not_follow_from_those_before_it_is_noticed() {
    let whole = file("progressive");
    let scans = segments(&whole, 0xDA);
    let lost = [&whole[..scans[1].0], &whole[scans[3].0..]].concat();
    // The data of a later scan may fit the tables of an earlier one.
    assert!(matches!(reason(&lost), Some("truncated_image" | "damaged_image")));
    let last = scans.len() - 1;
    let twice = [&whole[..whole.len() - 2], &whole[scans[last].0..]].concat();
    assert_eq!((reason(&twice), detail(&twice).contains("does not follow")), (Some("damaged_image"), true), "{}", detail(&twice));
}

#[test]
fn components_that_no_scan_holds_are_missing() {
    // Each component has a scan of its own, as `cjpeg -scans` writes them, with the same blocks.
    let whole = file("grey");
    let (header, _) = segments(&whole, 0xC0)[0];
    let mut two = whole;
    // A second component makes the frame header 3 bytes longer.
    two[header + 3] += 3;
    two[header + 9] = 2;
    let id = two[header + 10] + 1;
    let behind = header + 13;
    two.splice(behind..behind, [id, 0x11, 0]);
    assert_eq!(reason(&two), Some("truncated_image"), "{}", detail(&two));
    assert!(detail(&two).contains("64 of 128 coefficients"), "{}", detail(&two));
    let (scan, data) = segments(&two, 0xDA)[0];
    let mut second = two[scan..two.len() - 2].to_vec();
    second[5] = id;
    assert_eq!(data - scan, 10);
    let both = [&two[..two.len() - 2], &second, &[0xFF, 0xD9]].concat();
    assert_eq!(look(&both), Ok(Ending::Marked));
    assert!(look(&closed(&both[..both.len() - 20])).is_err());
}

#[test]
fn a_picture_of_a_film_has_the_standard_codes() {
    let whole = file("420");
    let tables = segments(&whole, 0xC4);
    for (start, end) in &tables {
        let mut content = &whole[start + 4..*end];
        while let Some((_, rest)) = content.split_first() {
            let (counts, rest) = rest.split_first_chunk::<16>().unwrap();
            assert!(standard::known(counts, rest).is_some(), "Pillow writes the standard codes");
            content = &rest[counts.iter().map(|count| usize::from(*count)).sum()..];
        }
    }
    let mut bare = whole;
    for (start, end) in tables.iter().rev() {
        bare.drain(start..end);
    }
    assert_eq!(look(&bare), Ok(Ending::Marked));
    let (start, end) = coded(&bare);
    assert_eq!(reason(&closed(&bare[..usize::midpoint(start, end)])), Some("truncated_image"));
}

#[test]
fn what_stands_behind_the_end_marker_does_not_matter() {
    let film = [file("progressive"), file("420"), b"film \xFF\xDA film".repeat(3)].concat();
    assert_eq!(look(&film), Ok(Ending::Marked));
}

#[test]
fn tables_and_headers_that_are_damaged_are_noticed() {
    let whole = file("420");
    let (table, _) = segments(&whole, 0xC4)[0];
    assert_eq!(reason(&with(&whole, table + 5, &[9, 9, 9])), Some("damaged_image"), "more codes than there can be");
    let (scan, _) = segments(&whole, 0xDA)[0];
    assert_eq!(reason(&with(&whole, scan + 5, &[0x77])), Some("damaged_image"), "a component that is not there");
    assert_eq!(reason(&whole[..scan + 4]), Some("truncated_image"));
    assert_eq!(reason(b"\xFF\xD8\xFF\xD9"), Some("truncated_image"));
}

#[test]
fn coefficients_are_kept_only_where_they_come_in_several_scans() {
    // 45 x 37 pixels: 6 x 5 blocks of each of three components; 3 x 3 units of 6 blocks where chrominance is halved.
    assert_eq!(coefficient_bytes(&file("420")), 0);
    assert_eq!(coefficient_bytes(&file("progressive")), 3 * 30 * 136);
    assert_eq!(coefficient_bytes(&file("progressive420")), 54 * 136);
    assert_eq!(coefficient_bytes(b"\xFF\xD8"), 0);
}
