

use std::sync::Mutex;

use cm3flow_schemas::DynError;
use cm3flow_schemas::random::Draws;
use cm3flow_schemas::traits::{CheckpointFiles, ImageTokenizer};

use super::*;
use crate::vq::VqTokenizer;
use crate::vq::config::Precision;

fn config() -> VqConfig {
    let config = VqConfig {
        resolution: 32,
        channels: 8,
        channel_multipliers: vec![1, 2, 2],
        norm_groups: 4,
        patch_px: 1,
        ..VqConfig::photos_tiny()
    };
    VqConfig { z_channels: 8, embedding_dim: 4, codebook_size: 32, ..config }
}

fn settings() -> VqFitConfig {
    let long = VqFitConfig { steps: 60, warm_up_steps: 20, batch_size: 4, crop_px: 16, restart_after: 10, ..VqFitConfig::default() };
    VqFitConfig { learning_rate: 2e-3, ..long }
}

/// Makes pictures of two colours, one on each side of a vertical edge.
fn pictures(count: usize, side: usize) -> Vec<u8> {
    let mut pixels = Vec::new();
    for number in 0..count {
        let mut draws = Draws::new(1, "pictures", &(number as u64).to_le_bytes());
        let edge = draws.index(side);
        let colours: Vec<u8> = (0..6).map(|_| draws.below(256) as u8).collect();
        for place in 0..side * side {
            let first = if place % side < edge { 0 } else { 3 };
            pixels.extend(&colours[first..first + 3]);
        }
    }
    pixels
}

fn fitted(seed: u64, seen: &mut Vec<FitProgress>) -> Vec<u8> {
    let (config, fit_config, images) = (config(), settings(), pictures(8, 32));
    let job = FitJob { config: &config, fit: &fit_config, images: &images, perceptual: None, seed, device: DeviceChoice::Cpu };
    fit(&job, None, &mut |progress| seen.push(progress)).expect("fits")
}

#[test]
fn fit_is_a_function_of_its_seed_and_its_weights_make_a_tokenizer() {
    // Two threads that wait for a busy core take many times as long as one.
    crate::device::set_threads(1);
    let mut seen = Vec::new();
    let weights = fitted(1, &mut seen);
    assert!(weights == fitted(1, &mut Vec::new()) && weights != fitted(2, &mut Vec::new()));
    assert_eq!(seen.iter().map(|progress| progress.step).collect::<Vec<_>>(), (1..=60).collect::<Vec<_>>());
    let (first, last) = (seen[0], seen[59]);
    assert!(last.reconstruction_loss < 0.7 * first.reconstruction_loss, "{first:?} {last:?}");
    assert!(last.codes_used >= 16 && last.codes_used <= 32, "{last:?}");
    let mut tokenizer = VqTokenizer::try_new(&config(), &weights, 4, DeviceChoice::Cpu).expect("its own weights");
    let codes = tokenizer.encode(&pictures(3, 32)).expect("whole pictures");
    assert_eq!(codes.len(), 3 * 64);
    assert_eq!(tokenizer.decode(&codes).expect("its own codes").len(), 3 * 32 * 32 * 3);
}

#[test]
fn pictures_and_settings_that_do_not_fit_are_refused() {
    let config = config();
    let refused = |fit_config: &VqFitConfig, images: &[u8]| {
        let job = FitJob { config: &config, fit: fit_config, images, perceptual: None, seed: 1, device: DeviceChoice::Cpu };
        fit(&job, None, &mut |_| ()).expect_err("does not fit").to_string()
    };
    assert_eq!(refused(&settings(), &[0; 5]), "5 bytes of pixels are no whole number of images of 3072 bytes");
    assert_eq!(refused(&settings(), &[]), "there are 0 images, fitting needs at least 1");
    let odd = VqFitConfig { crop_px: 18, ..settings() };
    let expected = "codebook fit configuration is invalid: crop_px must be a multiple of the downsampling factor 4, got 18";
    assert_eq!(refused(&odd, &[]), expected);
}

/// Store that keeps checkpoints up to step `last`.
struct Kept {
    last: u64,
    files: Mutex<Option<(u64, CheckpointFiles)>>,
}

impl CheckpointStore for Kept {
    fn put(&self, step: u64, files: &CheckpointFiles) -> Result<(), DynError> {
        if step <= self.last {
            *self.files.lock().expect("no test panics while it holds it") = Some((step, files.clone()));
        }
        Ok(())
    }

    fn latest(&self) -> Result<Option<(u64, CheckpointFiles)>, DynError> {
        Ok(self.files.lock().expect("no test panics while it holds it").clone())
    }
}

#[test]
fn a_fit_that_was_broken_off_ends_with_the_same_weights() {
    crate::device::set_threads(1);
    let (config, images) = (config(), pictures(6, 32));
    // Before and behind the start of the codebook, with a discriminator and gradients of two batches.
    let fit_config = VqFitConfig {
        steps: 16,
        warm_up_steps: 6,
        accumulate: 2,
        batch_size: 2,
        crop_px: 32,
        discriminator_weight: 0.5,
        discriminator_start: 4,
        checkpoint_every: 5,
        ..settings()
    };
    let job = FitJob { config: &config, fit: &fit_config, images: &images, perceptual: None, seed: 1, device: DeviceChoice::Cpu };
    let whole = fit(&job, None, &mut |_| ()).expect("fits");
    for last in [5, 10] {
        let kept = Kept { last, files: Mutex::default() };
        assert!(fit(&job, Some(&kept), &mut |_| ()).expect("fits") == whole, "keeping checkpoints changes nothing");
        let mut seen = Vec::new();
        assert!(fit(&job, Some(&kept), &mut |progress| seen.push(progress.step)).expect("goes on") == whole, "from {last}");
        assert_eq!(seen, (last + 1..=16).collect::<Vec<_>>());
    }
    let without = VqFitConfig { discriminator_weight: 0.0, ..fit_config.clone() };
    let plain = FitJob { fit: &without, ..job };
    assert!(fit(&plain, None, &mut |_| ()).expect("fits") != whole, "the discriminator is heard");
}

#[test]
fn a_linear_start_codes_patches_by_their_principal_components() {
    crate::device::set_threads(1);
    let config = VqConfig { resolution: 32, patch_px: 4, channels: 32, embedding_dim: 6, ..VqConfig::photos_tiny() };
    let fit_config = VqFitConfig { steps: 1, warm_up_steps: 1, crop_px: 32, learning_rate: 1e-9, ..VqFitConfig::default() };
    let images = pictures(24, 32);
    let job = FitJob { config: &config, fit: &fit_config, images: &images, perceptual: None, seed: 1, device: DeviceChoice::Cpu };
    let mut first = 0.0;
    fit(&job, None, &mut |progress| first = progress.reconstruction_loss).expect("fits");
    // Drawn weights give about the variance of the pixels, 0.3; six of 48 components keep nearly all of pictures of two colours.
    assert!(first < 0.02, "{first}");
}

#[test]
fn precision_and_missing_files_are_heeded() {
    crate::device::set_threads(1);
    let (config, images) = (config(), pictures(4, 32));
    let half = VqFitConfig { steps: 4, warm_up_steps: 2, precision: Precision::Bfloat16, ..settings() };
    let job = FitJob { config: &config, fit: &half, images: &images, perceptual: None, seed: 1, device: DeviceChoice::Cpu };
    let full = VqFitConfig { precision: Precision::Float32, ..half.clone() };
    let losses = |fit_config: &VqFitConfig| {
        let mut losses = Vec::new();
        fit(&FitJob { fit: fit_config, ..job }, None, &mut |progress| losses.push(progress.reconstruction_loss)).expect("fits");
        losses
    };
    let (half, full) = (losses(&half), losses(&full));
    assert!(half != full && half.iter().zip(&full).all(|(half, full)| (half - full).abs() < 0.05 * full), "{half:?} {full:?}");
    let perceptual = VqFitConfig { perceptual_weight: 1.0, ..settings() };
    let error = fit(&FitJob { fit: &perceptual, ..job }, None, &mut |_| ()).expect_err("no files");
    assert!(error.to_string().contains("the files of the perceptual loss are not given"), "{error}");
}
