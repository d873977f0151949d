//! Comparison with Pillow on pictures of every kind; golden files and the script that makes them lie in `stages/fixtures/`.

use std::path::{Path, PathBuf};

use cm3flow_schemas::preparation::{Preparation, Transparency};
use image::{ImageReader, RgbImage};

use super::*;

/// Allowed differences for lossy formats, whose decoders round and smooth differently.
struct Tolerance {
    /// Largest difference of a share `share` of the values, in levels.
    levels: u8,
    /// Share of the values, 0 to 1.
    share: f64,
    /// Largest difference of any value, in levels.
    most: u8,
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// Reads a golden PNG without the steps that `decode` adds.
fn golden(path: &Path) -> DynamicImage {
    ImageReader::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).decode().unwrap()
}

/// Counts the values by their difference in levels.
fn differences(found: &RgbImage, expected: &RgbImage) -> Vec<usize> {
    assert_eq!(found.dimensions(), expected.dimensions());
    let mut counts = vec![0; 256];
    for (found, expected) in found.as_raw().iter().zip(expected.as_raw()) {
        counts[usize::from(found.abs_diff(*expected))] += 1;
    }
    counts.truncate(counts.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1));
    counts
}

fn fits(counts: &[usize], tolerance: &Tolerance) -> bool {
    let all: usize = counts.iter().sum();
    let near: usize = counts.iter().take(usize::from(tolerance.levels) + 1).sum();
    counts.len() <= usize::from(tolerance.most) + 1 && near as f64 >= tolerance.share * all as f64
}

fn names(folder: &Path) -> Vec<String> {
    let files = std::fs::read_dir(folder).unwrap().map(Result::unwrap).filter(|entry| entry.file_type().unwrap().is_file());
    let mut names: Vec<String> = files.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Returns the allowed differences for a file. JPEG decoders differ by a level in the inverse transform. They differ by two, and more at a
/// few values, in the interpolation of chroma. At the edges, and thus all over a tiny picture, they differ by any amount.
fn tolerance_for(name: &str, picture: &RgbImage) -> Tolerance {
    let short = picture.width().min(picture.height());
    match name.strip_suffix(".jpg") {
        None => Tolerance { levels: 0, share: 1.0, most: 0 },
        Some(_) if short < 9 => Tolerance { levels: 255, share: 1.0, most: 255 },
        Some("grey" | "rgb" | "cmyk" | "cmyk-bare") => Tolerance { levels: 1, share: 1.0, most: 1 },
        Some("444" | "progressive" | "ycck" | "411" | "410" | "422" | "440") => Tolerance { levels: 2, share: 1.0, most: 2 },
        Some(_) => Tolerance { levels: 2, share: 0.997, most: 4 },
    }
}

#[test]
fn pictures_are_decoded_as_by_pillow() {
    let folder = fixtures().join("pictures");
    let (mut wrong, names) = (Vec::new(), names(&folder));
    assert!(names.len() > 80, "{} files", names.len());
    for name in names.iter().filter(|name| !UNSUPPORTED.iter().any(|(unsupported, _)| unsupported == name)) {
        let expected = golden(&folder.join("expected").join(format!("{name}.png"))).into_rgb8();
        match decode(&std::fs::read(folder.join(name)).unwrap()) {
            Err((reason, detail)) => wrong.push(format!("{name}: {reason}: {detail}")),
            Ok(found) if found.dimensions() != expected.dimensions() => {
                wrong.push(format!("{name}: {:?}, expected {:?}", found.dimensions(), expected.dimensions()));
            }
            Ok(found) => {
                let counts = differences(&found, &expected);
                if !fits(&counts, &tolerance_for(name, &expected)) {
                    wrong.push(format!("{name}: {counts:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Rare kinds that the decoders do not know, with a word of the reason that a user reads.
const UNSUPPORTED: [(&str, &str); 2] = [("arithmetic.jpg", "not supported"), ("palette.tiff", "does not support")];

#[test]
fn unsupported_kinds_are_refused_with_a_reason() {
    for (name, word) in UNSUPPORTED {
        let (reason, detail) = decode(&std::fs::read(fixtures().join("pictures").join(name)).unwrap()).unwrap_err();
        assert_eq!(reason, "undecodable_image", "{name}");
        assert!(detail.contains(word), "{name}: {detail}");
    }
}

#[test]
fn squares_are_fitted_as_by_the_references() {
    let folder = fixtures().join("squares");
    let mut wrong = Vec::new();
    for preparation in [Preparation::chameleon(1, Crop::Center), Preparation::chameleon_hf(1, Crop::Center)] {
        for name in names(&folder.join(&preparation.name)) {
            let (source, side) = name.strip_suffix(".png").unwrap().rsplit_once('-').unwrap();
            let expected = golden(&folder.join(&preparation.name).join(&name)).into_rgb8();
            let picture = golden(&folder.join(format!("{source}.png"))).into_rgb8();
            let preparation = Preparation { side_px: side.parse().unwrap(), ..preparation.clone() };
            let found = Fit::of(picture.width(), picture.height(), &preparation, SEED, &ImageId::of(b"")).apply(&picture);
            let counts = differences(&found, &expected);
            if counts.len() > 1 {
                wrong.push(format!("{} {name}: {counts:?}", preparation.name));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_level_with_every_alpha_is_blended_as_by_the_references() {
    let folder = fixtures().join("squares");
    let bytes = std::fs::read(folder.join("alpha.png")).unwrap();
    for (name, transparency) in [("chameleon", Transparency::WhiteDown), ("chameleon-hf", Transparency::WhiteNearest)] {
        let expected = golden(&folder.join(format!("alpha-{name}.png"))).into_rgb8();
        assert_eq!(differences(&super::super::decode::decode(&bytes, transparency).unwrap(), &expected), [65_536 * 3], "{name}");
    }
}
