//! `eval`: metrics of text and images, without models.

mod ssim;
mod usage;

pub use ssim::ssim;
pub use usage::CodeUsage;

/// Returns the perplexity of a mean loss in nats.
#[must_use]
pub fn perplexity(mean_loss: f64) -> f64 {
    mean_loss.exp()
}

/// Returns the peak signal-to-noise ratio of 8-bit images, in dB; infinite for equal ones.
///
/// # Panics
/// If the images differ in size.
#[must_use]
pub fn psnr(image: &[u8], reference: &[u8]) -> f64 {
    assert_eq!(image.len(), reference.len(), "images must have the same size");
    let error: u64 = image.iter().zip(reference).map(|(&a, &b)| u64::from(a.abs_diff(b)).pow(2)).sum();
    10.0 * (255.0_f64.powi(2) * image.len() as f64 / error as f64).log10()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        assert!((perplexity(8192.0_f64.ln()) - 8192.0).abs() < 1e-6);
        assert!(psnr(&[10, 20], &[10, 20]).is_infinite());
        assert!((psnr(&[0, 0], &[255, 255])).abs() < 1e-12);
        assert!((psnr(&[0; 4], &[16; 4]) - 24.048).abs() < 1e-3);
    }
}
