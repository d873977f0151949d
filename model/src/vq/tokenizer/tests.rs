//! Encoding and decoding in fixed batches.

use cm3flow_schemas::random::Draws;

use super::*;
use crate::weights::to_safetensors;

fn config() -> VqConfig {
    let config = VqConfig {
        resolution: 32,
        channels: 8,
        channel_multipliers: vec![1, 2, 2],
        norm_groups: 4,
        patch_px: 1,
        ..VqConfig::photos_tiny()
    };
    VqConfig { z_channels: 8, embedding_dim: 4, codebook_size: 32, middle_attention: true, ..config }
}

fn weights(seed: u64) -> Vec<u8> {
    to_safetensors(&VqNetwork::drawn(&config(), seed, Device::Cpu).expect("small").parameters).expect("small")
}

fn tokenizer(weights: &[u8]) -> VqTokenizer {
    VqTokenizer::try_new(&config(), weights, 4, DeviceChoice::Cpu).expect("its own weights")
}

fn noise(images: usize) -> Vec<u8> {
    let mut draws = Draws::new(1, "noise", b"");
    (0..images * 32 * 32 * 3).map(|_| draws.below(256) as u8).collect()
}

#[test]
fn codes_do_not_depend_on_batch_neighbours() {
    let mut tokenizer = tokenizer(&weights(1));
    let pixels = noise(7);
    let together = tokenizer.encode(&pixels).expect("whole images");
    let mut apart = Vec::new();
    for image in pixels.chunks(32 * 32 * 3) {
        apart.extend(tokenizer.encode(image).expect("a whole image"));
    }
    assert_eq!(together, apart);
    let pictures = tokenizer.decode(&together).expect("its own codes");
    assert!(pictures[3 * 3072..4 * 3072] == tokenizer.decode(&together[3 * 64..4 * 64]).expect("its own codes")[..]);
}

#[test]
fn pictures_of_every_shape_are_coded_by_the_same_network() {
    let mut tokenizer = tokenizer(&weights(1));
    let (wide, tall) = (Grid { rows: 4, columns: 16 }, Grid { rows: 16, columns: 4 });
    assert_eq!((tokenizer.spec().size_px(wide), tokenizer.spec().bytes_of(wide)), ((64, 16), 3072));
    let pixels = noise(5);
    let together = tokenizer.encode_grid(&pixels, wide).expect("whole images");
    assert_eq!(together.len(), 5 * 64);
    let last = tokenizer.encode_grid(&pixels[4 * 3072..], wide).expect("a whole image");
    assert_eq!(together[4 * 64..], last[..], "neighbours do not matter");
    assert_ne!(together, tokenizer.encode_grid(&pixels, tall).expect("the same bytes in other rows"));
    // A picture that is black above and white below, in either shape: its first row of codes differs from the last one.
    let half: Vec<u8> = [vec![0; 1536], vec![255; 1536]].concat();
    for grid in [wide, tall] {
        let codes = tokenizer.encode_grid(&half, grid).expect("a whole image");
        let columns = grid.columns as usize;
        assert_ne!(codes[..columns], codes[64 - columns..], "{grid}");
        let picture = tokenizer.decode_grid(&codes, grid).expect("its own codes");
        assert_eq!(picture.len(), 3072);
    }
    let pictures = tokenizer.decode_grid(&together, wide).expect("its own codes");
    assert!(pictures[4 * 3072..] == tokenizer.decode_grid(&last, wide).expect("its own codes")[..]);
    let error = tokenizer.encode_grid(&[0; 3072], Grid { rows: 0, columns: 4 }).expect_err("no image").to_string();
    assert!(error.contains("no whole number of images"), "{error}");
}

#[test]
fn digest_is_that_of_configuration_and_weights() {
    let (one, other) = (weights(1), weights(2));
    let digest = tokenizer(&one).spec().digest;
    assert_eq!(digest, tokenizer(&one).spec().digest);
    assert_ne!(digest, tokenizer(&other).spec().digest);
    let changed = VqConfig { l2_normalized_codes: true, ..config() };
    let changed = VqTokenizer::try_new(&changed, &one, 4, DeviceChoice::Cpu).expect("the same tensors");
    assert_ne!(digest, changed.spec().digest);
}

#[test]
fn spec_says_what_comes_in_and_out() {
    let mut tokenizer = tokenizer(&weights(1));
    let spec = tokenizer.spec().clone();
    assert_eq!((spec.side_px, spec.grid, spec.codebook_size, spec.codebook_dim, spec.name.as_str()), (32, 8, 32, 4, "vq-f4-32"));
    assert_eq!(tokenizer.codebook().len(), 32 * 4);
    assert_eq!(tokenizer.encode(&[]).expect("nothing"), Vec::<u32>::new());
    assert_eq!(tokenizer.decode(&[]).expect("nothing"), Vec::<u8>::new());
    assert_eq!(tokenizer.encode(&[0; 7]).expect_err("cut").to_string(), "7 bytes of pixels are no whole number of images of 3072 bytes");
    assert_eq!(tokenizer.decode(&[0; 63]).expect_err("cut").to_string(), "63 codes are no whole number of images of 64 codes");
    let mut codes = [0; 64];
    codes[5] = 32;
    assert_eq!(tokenizer.decode(&codes).expect_err("too large").to_string(), "code 32 at 5 is out of range 0..32");
}

#[test]
fn weights_of_another_network_are_refused() {
    let config = VqConfig { codebook_size: 64, ..config() };
    let error = VqTokenizer::try_new(&config, &weights(1), 4, DeviceChoice::Cpu).expect_err("32 codes");
    assert_eq!(error.to_string(), "tensor quantize.embedding.weight has shape [32, 4], expected [64, 4]");
}

#[test]
fn other_values_give_other_codes_and_another_digest() {
    let (weights, pixels) = (weights(1), noise(4));
    let mut own = tokenizer(&weights);
    let mut same = tokenizer(&weights).with_values(Values::TwoOver255).expect("on the CPU");
    let mut other = tokenizer(&weights).with_values(Values::Huggingface).expect("on the CPU");
    assert_eq!(own.spec().digest, same.spec().digest);
    assert_ne!(own.spec().digest, other.spec().digest);
    let codes = own.encode(&pixels).expect("whole images");
    assert_eq!(codes, same.encode(&pixels).expect("whole images"));
    assert_ne!(codes, other.encode(&pixels).expect("whole images"));
    assert_eq!(own.decode(&codes).expect("its own codes"), other.decode(&codes).expect("its own codes"));
}
