//! Resizing of pictures that equals Pillow's to the last bit, because codes depend on it.
//!
//! Faster libraries round weights to 16 bits or resize columns first. They differ by a level at some values; at hard edges, where the
//! filter overshoots and levels are clamped to 0..=255, they differ by more. Sums are whole numbers here, so neither the order of additions
//! nor the machine's instructions change them.

use image::RgbImage;

/// Number of lobes of the filter on each side.
const LOBES: f64 = 3.0;
/// Binary places of a weight. Of 32 bits, 8 remain for the level, one for the sign and one for overshooting.
const PLACES: u32 = 22;
/// Half a level, for rounding.
const HALF: i32 = 1 << (PLACES - 1);
/// Number of rows that are resized together.
const BLOCK: usize = 16;

/// Returns the picture in another size, filtered by Lanczos with three lobes. Rows are resized first, then columns, each to whole levels. A
/// side that keeps its length is left alone. All lengths are 1 or more.
///
/// # Source
/// `ImagingResample` for 8 bits in `src/libImaging/Resample.c` of <https://github.com/python-pillow/Pillow>.
pub(crate) fn lanczos(picture: &RgbImage, width: u32, height: u32) -> RgbImage {
    let narrowed = if picture.width() == width { None } else { Some(rows(picture, width)) };
    let picture = narrowed.as_ref().unwrap_or(picture);
    if picture.height() == height { picture.clone() } else { columns(picture, height) }
}

/// Weights of the inputs of one output.
struct Taps {
    /// Index of the first input.
    start: usize,
    /// Weights of the inputs from `start` on, in units of `1 << PLACES`.
    weights: Vec<i32>,
}

/// Returns the weights of each of `to` outputs over `from` inputs.
fn taps(from: u32, to: u32) -> Vec<Taps> {
    let step = f64::from(from) / f64::from(to);
    let stretch = step.max(1.0);
    let reach = LOBES * stretch;
    let of_output = |output: u32| {
        let centre = (f64::from(output) + 0.5) * step;
        let start = (centre - reach + 0.5).max(0.0) as u32;
        let end = ((centre + reach + 0.5) as u32).min(from);
        let weights: Vec<f64> = (start..end).map(|input| kernel((f64::from(input) - centre + 0.5) / stretch)).collect();
        let sum: f64 = weights.iter().sum();
        let places = f64::from(1 << PLACES);
        Taps { start: start as usize, weights: weights.iter().map(|weight| (weight / sum * places).round() as i32).collect() }
    };
    (0..to).map(of_output).collect()
}

fn kernel(x: f64) -> f64 {
    let sinc = |x: f64| if x == 0.0 { 1.0 } else { (x * std::f64::consts::PI).sin() / (x * std::f64::consts::PI) };
    if (-LOBES..LOBES).contains(&x) { sinc(x) * sinc(x / LOBES) } else { 0.0 }
}

fn level(sum: i32) -> u8 {
    (sum >> PLACES).clamp(0, 255) as u8
}

/// Resizes all rows to `width`. Blocks of rows are transposed, so that the levels for one weight lie side by side.
fn rows(picture: &RgbImage, width: u32) -> RgbImage {
    let (from, to) = (picture.width() as usize * 3, width as usize * 3);
    let taps = taps(picture.width(), width);
    let mut out = vec![0; to * picture.height() as usize];
    let mut turned = vec![[0_u8; BLOCK]; from];
    for (source, target) in picture.as_raw().chunks(from * BLOCK).zip(out.chunks_mut(to * BLOCK)) {
        for (row, levels) in source.chunks_exact(from).enumerate() {
            for (value, level) in turned.iter_mut().zip(levels) {
                value[row] = *level;
            }
        }
        for (x, taps) in taps.iter().enumerate() {
            let sums = weighted(&turned[taps.start * 3..], &taps.weights);
            for (row, levels) in target.chunks_exact_mut(to).enumerate() {
                for (channel, sums) in sums.iter().enumerate() {
                    levels[x * 3 + channel] = level(sums[row]);
                }
            }
        }
    }
    RgbImage::from_raw(width, picture.height(), out).expect("as many values as the size says")
}

/// Returns the sums of one output pixel for each row of a block. In: pixels from the first weighted one on, three channels each.
fn weighted(turned: &[[u8; BLOCK]], weights: &[i32]) -> [[i32; BLOCK]; 3] {
    let mut sums = [[HALF; BLOCK]; 3];
    for (pixel, weight) in turned.as_chunks::<3>().0.iter().zip(weights) {
        for (sums, levels) in sums.iter_mut().zip(pixel) {
            for (sum, level) in sums.iter_mut().zip(levels) {
                *sum = sum.wrapping_add(weight.wrapping_mul(i32::from(*level)));
            }
        }
    }
    sums
}

/// Resizes all columns to `height`.
fn columns(picture: &RgbImage, height: u32) -> RgbImage {
    let row = picture.width() as usize * 3;
    let mut out = vec![0; row * height as usize];
    let mut sums = vec![0; row];
    for (taps, target) in taps(picture.height(), height).iter().zip(out.chunks_exact_mut(row)) {
        sums.fill(HALF);
        for (weight, levels) in taps.weights.iter().zip(picture.as_raw()[taps.start * row..].chunks_exact(row)) {
            for (sum, level) in sums.iter_mut().zip(levels) {
                *sum = sum.wrapping_add(weight.wrapping_mul(i32::from(*level)));
            }
        }
        for (target, sum) in target.iter_mut().zip(&sums) {
            *target = level(*sum);
        }
    }
    RgbImage::from_raw(picture.width(), height, out).expect("as many values as the size says")
}
