//! Canny edge maps as condition images.

use image::{GrayImage, Rgb, RgbImage};

/// Edges of `picture`, white on black. `low` and `high` are the gradient thresholds of the hysteresis, `0 < low <= high <= 1140`.
///
/// # Source
/// Canny 1986, as implemented by `imageproc::edges::canny`.
#[must_use]
pub fn canny(picture: &RgbImage, low: f32, high: f32) -> RgbImage {
    let grey: GrayImage = image::imageops::grayscale(picture);
    let edges = imageproc::edges::canny(&grey, low, high);
    RgbImage::from_fn(picture.width(), picture.height(), |x, y| Rgb([edges.get_pixel(x, y).0[0]; 3]))
}
