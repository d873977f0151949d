//! Fitting: a function of its job, usable by the tokenizer.

use cm3flow_schemas::random::Draws;
use cm3flow_schemas::traits::ImageTokenizer;

use super::*;
use crate::vq::VqTokenizer;

fn config() -> VqConfig {
    let config = VqConfig { resolution: 32, channels: 8, channel_multipliers: vec![1, 2, 2], norm_groups: 4, ..VqConfig::photos_tiny() };
    VqConfig { z_channels: 8, embedding_dim: 4, codebook_size: 32, ..config }
}

fn settings() -> VqFitConfig {
    VqFitConfig { steps: 60, warm_up_steps: 20, batch_size: 4, crop_px: 16, restart_after: 10, ..VqFitConfig::default() }
}

/// Pictures of two colours, one on each side of an upright edge.
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
    let job = FitJob { config: &config, fit: &fit_config, images: &images, seed, device: DeviceChoice::Cpu };
    fit(&job, &mut |progress| seen.push(progress)).expect("fits")
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
        let job = FitJob { config: &config, fit: fit_config, images, seed: 1, device: DeviceChoice::Cpu };
        fit(&job, &mut |_| ()).expect_err("does not fit").to_string()
    };
    assert_eq!(refused(&settings(), &[0; 5]), "5 bytes of pixels are no whole number of images of 3072 bytes");
    assert_eq!(refused(&settings(), &[]), "there are 0 images, fitting needs at least 1");
    let odd = VqFitConfig { crop_px: 18, ..settings() };
    let expected = "codebook fit configuration is invalid: crop_px must be a multiple of the downsampling factor 4, got 18";
    assert_eq!(refused(&odd, &[]), expected);
}
