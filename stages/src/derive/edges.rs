//! Condition images of the edges of a picture: Canny edges and scribbles.

use image::{GrayImage, Rgb, RgbImage};

/// Returns the edges of `picture`, white on black. `low` and `high` are the gradient thresholds of the hysteresis,
/// `0 < low <= high <= 1140`.
///
/// # Source
/// Canny 1986, as implemented by `imageproc::edges::canny`.
#[must_use]
pub fn canny(picture: &RgbImage, low: f32, high: f32) -> RgbImage {
    let grey: GrayImage = image::imageops::grayscale(picture);
    in_three_channels(&imageproc::edges::canny(&grey, low, high))
}

/// Returns thick strokes along the strongest edges of `picture`, white on black. The blur has a deviation of a 64th of the side, so that
/// only large shapes are left; strokes are a 64th wide. The side of a rectangle is that of the square of equal area.
#[must_use]
pub fn scribble(picture: &RgbImage) -> RgbImage {
    let grey: GrayImage = image::imageops::grayscale(picture);
    let side = (picture.width() * picture.height()).isqrt();
    let blurred = imageproc::filter::gaussian_blur_f32(&grey, (side as f32 / 64.0).max(0.5));
    let strokes = imageproc::edges::canny(&blurred, 15.0, 40.0);
    let radius = (side / 128).clamp(1, 255) as u8;
    in_three_channels(&imageproc::morphology::dilate(&strokes, imageproc::distance_transform::Norm::L2, radius))
}

fn in_three_channels(grey: &GrayImage) -> RgbImage {
    RgbImage::from_fn(grey.width(), grey.height(), |x, y| Rgb([grey.get_pixel(x, y).0[0]; 3]))
}
