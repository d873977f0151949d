//! Photos of the sample corpus as files, with altered copies as withdrawals and deduplication meet them in practice.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;

use image::codecs::jpeg::JpegEncoder;
use image::imageops::FilterType;

use crate::trial::corpus;

/// Difference of a copy from its photo.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Altered {
    /// Encoded again as JPEG at this quality, 1 to 100.
    Quality(u8),
    /// Both sides scaled by this factor, then encoded as JPEG at quality 90.
    Scale(f32),
    /// The same file with another caption, in place of the photo.
    Caption,
}

/// Writes the photos of the corpus's first file to `folder`. Beside each `NAME` it writes the altered copy `copy-NAME`; both captions
/// contain the photo's name. Returns the names of the photos.
///
/// # Panics
/// If the corpus cannot be read or `folder` cannot be written.
pub fn altered(folder: &Path, alteration: Altered) -> Vec<String> {
    let mut names = Vec::new();
    for (name, bytes) in photos() {
        let stem = name.trim_end_matches(".jpg").to_owned();
        if alteration != Altered::Caption {
            fs::write(folder.join(&name), &bytes).expect("a folder to write into");
            fs::write(folder.join(format!("{stem}.txt")), format!("a photo called {stem}")).expect("a folder to write into");
        }
        fs::write(folder.join(format!("copy-{name}")), copy(&bytes, alteration)).expect("a folder to write into");
        fs::write(folder.join(format!("copy-{stem}.txt")), format!("another caption of {stem}")).expect("a folder to write into");
        names.push(name);
    }
    names
}

/// Returns the main images of the corpus's first file, by name.
fn photos() -> BTreeMap<String, Vec<u8>> {
    let file = fs::File::open(corpus().join("photos-00000.tar")).expect("part of the repository");
    let mut archive = tar::Archive::new(file);
    let mut photos = BTreeMap::new();
    for member in archive.entries().expect("a tar") {
        let mut member = member.expect("a tar");
        let name = member.path().expect("a name").to_string_lossy().into_owned();
        if name.ends_with(".jpg") && name.matches('.').count() == 1 {
            let mut bytes = Vec::new();
            member.read_to_end(&mut bytes).expect("a tar");
            photos.insert(name, bytes);
        }
    }
    photos
}

fn copy(bytes: &[u8], alteration: Altered) -> Vec<u8> {
    let encoded = |picture: &image::DynamicImage, quality| {
        let mut out = Vec::new();
        picture.to_rgb8().write_with_encoder(JpegEncoder::new_with_quality(&mut out, quality)).expect("memory");
        out
    };
    let picture = || image::load_from_memory(bytes).expect("a photo");
    match alteration {
        Altered::Quality(quality) => encoded(&picture(), quality),
        Altered::Scale(factor) => {
            let picture = picture();
            let side = |px: u32| (px as f32 * factor).round() as u32;
            encoded(&picture.resize_exact(side(picture.width()), side(picture.height()), FilterType::Lanczos3), 90)
        }
        Altered::Caption => bytes.to_vec(),
    }
}
