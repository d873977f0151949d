//! Structural similarity of two images.

/// Half the side of the window, in pixels: 3.5 deviations, rounded.
const RADIUS: usize = 5;
/// Standard deviation of the window, in pixels.
const DEVIATION: f64 = 1.5;
/// Terms that keep quotients finite for nearly black or nearly flat windows: `(0.01 * 255)^2` and `(0.03 * 255)^2`.
const STABILIZERS: [f64; 2] = [6.5025, 58.5225];

/// Returns the mean structural similarity of square RGB images of `side_px`: -1 to 1, and 1 for equal ones. The mean is over channels and
/// over all places where the window of 11 x 11 pixels lies inside. `None` if there is no such place.
///
/// # Panics
/// If an image has another size than `side_px` squared.
///
/// # Source
/// Wang et al. 2004, section III.B, <https://doi.org/10.1109/TIP.2003.819861>, with biased variances, as scikit-image computes it with
/// `gaussian_weights=True, sigma=1.5, use_sample_covariance=False`.
#[must_use]
pub fn ssim(image: &[u8], reference: &[u8], side_px: usize) -> Option<f64> {
    assert!(image.len() == side_px * side_px * 3 && reference.len() == image.len(), "images must be squares of {side_px} pixels");
    if side_px <= 2 * RADIUS {
        return None;
    }
    let sum: f64 = (0..3).map(|channel| of_channel(&plane(image, channel), &plane(reference, channel), side_px)).sum();
    Some(sum / 3.0)
}

fn plane(image: &[u8], channel: usize) -> Vec<f64> {
    image.iter().skip(channel).step_by(3).map(|&level| f64::from(level)).collect()
}

fn of_channel(x: &[f64], y: &[f64], side: usize) -> f64 {
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).collect::<Vec<_>>();
    let means = [x.to_vec(), y.to_vec(), product(x, x), product(y, y), product(x, y)].map(|values| smoothed(&values, side));
    let [mean_x, mean_y, square_x, square_y, both] = &means;
    let [c1, c2] = STABILIZERS;
    let similarity = |place: usize| {
        let (mx, my) = (mean_x[place], mean_y[place]);
        let (variances, covariance) = (square_x[place] - mx * mx + square_y[place] - my * my, both[place] - mx * my);
        (2.0 * mx * my + c1) * (2.0 * covariance + c2) / ((mx * mx + my * my + c1) * (variances + c2))
    };
    (0..mean_x.len()).map(similarity).sum::<f64>() / mean_x.len() as f64
}

/// Returns the weighted means over the window at every place where it lies inside: along rows, then along columns.
fn smoothed(values: &[f64], side: usize) -> Vec<f64> {
    let bell = |distance: f64| (-0.5 * (distance / DEVIATION).powi(2)).exp();
    let weights: Vec<f64> = (0..=2 * RADIUS).map(|tap| bell(tap as f64 - RADIUS as f64)).collect();
    let sum: f64 = weights.iter().sum();
    let inside = side - 2 * RADIUS;
    let mut rows = vec![0.0; side * inside];
    for (from, to) in values.chunks_exact(side).zip(rows.chunks_exact_mut(inside)) {
        for (x, to) in to.iter_mut().enumerate() {
            *to = weights.iter().zip(&from[x..]).map(|(weight, value)| weight * value).sum::<f64>() / sum;
        }
    }
    let mut out = vec![0.0; inside * inside];
    for (y, to) in out.chunks_exact_mut(inside).enumerate() {
        for (weight, from) in weights.iter().zip(rows[y * inside..].chunks_exact(inside)) {
            to.iter_mut().zip(from).for_each(|(to, from)| *to += weight / sum * from);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes 24 x 24 pixels by whole-number arithmetic, which other programs can repeat.
    fn picture(factor: usize) -> Vec<u8> {
        (0..24 * 24 * 3).map(|place| (place * place * factor / 7 % 256) as u8).collect()
    }

    #[test]
    fn equal_images_are_wholly_alike_and_small_ones_have_no_window() {
        assert!((ssim(&picture(1), &picture(1), 24).expect("large enough") - 1.0).abs() < 1e-12);
        assert_eq!(ssim(&[0; 300], &[0; 300], 10), None);
    }

    #[test]
    fn values_are_those_of_scikit_image() {
        let near: Vec<u8> = picture(1).iter().enumerate().map(|(place, level)| level.saturating_add((place % 40) as u8)).collect();
        let found = [ssim(&picture(1), &picture(3), 24), ssim(&near, &picture(1), 24)].map(|value| value.expect("large enough"));
        // scikit-image 0.25.2, `structural_similarity(a, b, channel_axis=2, data_range=255, ...)` with the settings named above.
        let expected = [0.389714551032, 0.976626086397];
        assert!(found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-9), "{found:?}");
    }
}
