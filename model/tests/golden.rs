//! Image tokenizers, compared with reference implementations on the same weights, each in its own file layout.
//! `tests/parity/parity.py --golden` makes the files.

use std::path::PathBuf;

use cm3flow_model::device::{DeviceChoice, set_threads};
use cm3flow_model::vq::{TorchScriptConfig, TorchScriptTokenizer, VqConfig, VqTokenizer};
use cm3flow_schemas::conformance::check_image_tokenizer;
use cm3flow_schemas::traits::ImageTokenizer;
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;
use serde::Deserialize;

/// Difference of the two nearest distances below which rounding decides.
const MARGIN: f32 = 1e-4;
const LARGEST_PIXEL_DIFFERENCE: f32 = 1e-4;

/// Content of `golden/<name>.json`.
#[derive(Deserialize)]
struct Described {
    network: Option<VqConfig>,
    weights: Option<String>,
    modules: Option<TorchScriptConfig>,
}

struct Expected {
    pixels: Vec<u8>,
    codes: Vec<u32>,
    margins: Vec<f32>,
    decoded: Option<Vec<f32>>,
}

fn file(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/parity/golden").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}

fn described(name: &str) -> Described {
    serde_json::from_slice(&file(&format!("{name}.json"))).expect("a description")
}

fn words(bytes: &[u8]) -> impl Iterator<Item = [u8; 4]> {
    bytes.as_chunks::<4>().0.iter().copied()
}

fn expected(name: &str) -> Expected {
    let bytes = file(&format!("{name}.expected.safetensors"));
    let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
    let data = |name: &str, dtype: Dtype| {
        let tensor = tensors.tensor(name).ok()?;
        assert_eq!(tensor.dtype(), dtype, "{name}");
        Some(tensor.data().to_vec())
    };
    let floats = |bytes: Vec<u8>| words(&bytes).map(f32::from_le_bytes).collect::<Vec<_>>();
    Expected {
        pixels: data("pixels", Dtype::U8).expect("pixels"),
        codes: words(&data("codes", Dtype::I32).expect("codes")).map(u32::from_le_bytes).collect(),
        margins: data("margins", Dtype::F32).map(floats).expect("margins"),
        decoded: data("decoded", Dtype::F32).map(floats),
    }
}

fn network(name: &str) -> (VqConfig, Vec<u8>) {
    let described = described(name);
    (described.network.expect("a network"), file(&described.weights.expect("a file of weights")))
}

fn tokenizer(name: &str) -> VqTokenizer {
    set_threads(1);
    let (config, weights) = network(name);
    VqTokenizer::try_new(&config, &weights, 2, DeviceChoice::Cpu).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn modules(config: &TorchScriptConfig) -> TorchScriptTokenizer {
    set_threads(1);
    let (encoder, decoder) = (file("encoder.jit"), file("decoder.jit"));
    TorchScriptTokenizer::try_new(config, &encoder, &decoder, 2, DeviceChoice::Cpu).expect("two modules")
}

fn check_codes(name: &str, expected: &Expected, found: &[u32]) {
    assert_eq!(found.len(), expected.codes.len());
    let clear = expected.margins.iter().filter(|margin| **margin > MARGIN).count();
    assert!(clear * 100 >= 99 * found.len(), "{name}: {clear} of {} codes are clear", found.len());
    for (place, (found, expected)) in found.iter().zip(&expected.codes).enumerate().filter(|(place, _)| expected.margins[*place] > MARGIN) {
        assert_eq!(found, expected, "{name}: code {place}");
    }
    let mut distinct = expected.codes.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert!(distinct.len() > 100, "{name}: {} different codes prove little", distinct.len());
}

fn check_pixels(name: &str, expected: &[f32], found: &[f32]) {
    assert_eq!(found.len(), expected.len());
    let difference = found.iter().zip(expected).map(|(found, expected)| (found - expected).abs()).fold(0.0, f32::max);
    assert!(difference <= LARGEST_PIXEL_DIFFERENCE, "{name}: pixels differ by {difference}");
}

#[test]
fn codes_and_pixels_are_those_of_the_reference() {
    for name in ["taming", "diffusers", "llamagen"] {
        let (mut tokenizer, expected) = (tokenizer(name), expected(name));
        check_codes(name, &expected, &tokenizer.encode(&expected.pixels).expect("whole pictures"));
        let found = tokenizer.decode_values(&expected.codes).expect("codes of the codebook");
        check_pixels(name, expected.decoded.as_ref().expect("decoded pixels"), &found);
    }
}

/// The pictures of `expected`, and the two halves of the first one in reverse: three that differ.
fn squares(expected: &Expected) -> Vec<u8> {
    let (first, half) = (&expected.pixels[..expected.pixels.len() / 2], expected.pixels.len() / 4);
    [&expected.pixels, &first[half..], &first[..half]].concat()
}

#[test]
fn weights_as_others_publish_them_keep_the_contract() {
    for name in ["taming", "diffusers", "llamagen", "chameleon"] {
        check_image_tokenizer(|| tokenizer(name), &squares(&expected(name)));
    }
}

#[test]
fn torchscript_modules_keep_the_contract() {
    let config = described("torchscript").modules.expect("modules");
    check_image_tokenizer(|| modules(&config), &squares(&expected("torchscript")));
}

#[test]
fn weights_without_decoder_encode_and_say_why_they_do_not_decode() {
    let (mut tokenizer, expected) = (tokenizer("chameleon"), expected("chameleon"));
    assert!(expected.decoded.is_none() && !tokenizer.can_decode());
    check_codes("chameleon", &expected, &tokenizer.encode(&expected.pixels).expect("whole pictures"));
    let error = tokenizer.decode(&expected.codes).expect_err("no decoder").to_string();
    assert!(error.contains("hold no decoder") && error.contains("vqgan.ckpt"), "{error}");
}

#[test]
fn torchscript_modules_compute_what_they_were_made_of() {
    let (mut tokenizer, expected) = (modules(&described("torchscript").modules.expect("modules")), expected("torchscript"));
    check_codes("torchscript", &expected, &tokenizer.encode(&expected.pixels).expect("whole pictures"));
    let found = tokenizer.decode_values(&expected.codes).expect("codes in range");
    check_pixels("torchscript", expected.decoded.as_ref().expect("decoded pixels"), &found);
    // Padding of the batch changes nothing.
    let one = expected.codes.len() / 2;
    let (bytes, pictures) = (expected.pixels.len() / 2, tokenizer.decode(&expected.codes).expect("codes in range"));
    assert_eq!(tokenizer.encode(&expected.pixels[bytes..]).expect("a picture"), tokenizer.encode(&expected.pixels).expect("two")[one..]);
    assert!(tokenizer.decode(&expected.codes[one..]).expect("a picture") == pictures[bytes..]);
    assert!(tokenizer.codebook().is_empty() && tokenizer.spec().codebook_dim == 0);
}

#[test]
fn what_torchscript_modules_return_is_checked() {
    let config = described("torchscript").modules.expect("modules");
    let pixels = expected("torchscript").pixels;
    let refused = |config: TorchScriptConfig| modules(&config).encode(&pixels).expect_err("other codes").to_string();
    let error = refused(TorchScriptConfig { grid: 8, ..config });
    assert_eq!(error, "the encoder returned whole numbers of shape [2, 16, 16], expected codes of 2 images, 8 x 8 each, in 0..300");
    let error = refused(TorchScriptConfig { codebook_size: 2, ..config });
    assert!(error.starts_with("the encoder returned code ") && error.ends_with(" in 0..2"), "{error}");
    let swapped = (file("decoder.jit"), file("encoder.jit"));
    let mut swapped = TorchScriptTokenizer::try_new(&config, &swapped.0, &swapped.1, 2, DeviceChoice::Cpu).expect("two modules");
    let error = swapped.encode(&pixels).expect_err("pictures are no codes").to_string();
    assert!(error.contains("TorchScript"), "{error}");
    let error = TorchScriptTokenizer::try_new(&config, b"no module", b"", 2, DeviceChoice::Cpu).expect_err("no module").to_string();
    assert_eq!(error, "libtorch failed to load the TorchScript encoder");
    let error = TorchScriptConfig { side_px: 4, grid: 5, codebook_size: 1 }.check().expect_err("three bad fields").to_string();
    assert!(error.contains("side_px") && error.contains("grid") && error.contains("codebook_size"), "{error}");
}

#[test]
fn digest_of_modules_covers_both_files_and_the_configuration() {
    let config = described("torchscript").modules.expect("modules");
    let digest = modules(&config).spec().digest;
    assert_eq!(digest, modules(&config).spec().digest);
    assert_ne!(digest, modules(&TorchScriptConfig { codebook_size: 301, ..config }).spec().digest);
    let encoder = file("encoder.jit");
    let twice = TorchScriptTokenizer::try_new(&config, &encoder, &encoder, 2, DeviceChoice::Cpu).expect("two modules");
    assert_ne!(digest, twice.spec().digest);
}

#[test]
fn tensors_that_do_not_fit_are_named_as_in_their_file() {
    let refused = |name: &str, change: fn(&mut VqConfig)| {
        let (mut config, weights) = network(name);
        change(&mut config);
        VqTokenizer::try_new(&config, &weights, 2, DeviceChoice::Cpu).expect_err("another network").to_string()
    };
    for (name, lacking, extra, misshapen) in [
        (
            "chameleon",
            "model.vqmodel.encoder.down.0.block.1.norm1.weight",
            "model.vqmodel.encoder.mid.attn_1.k.bias",
            "model.vqmodel.quant_conv.weight",
        ),
        ("taming", "encoder.down.0.block.1.norm1.weight", "decoder.mid.attn_1.k.bias", "encoder.conv_out.weight"),
        (
            "diffusers",
            "encoder.down_blocks.0.resnets.1.norm1.weight",
            "decoder.mid_block.attentions.0.group_norm.bias",
            "encoder.conv_out.weight",
        ),
        ("llamagen", "encoder.conv_blocks.0.res.1.norm1.weight", "decoder.mid.1.k.bias", "encoder.conv_out.weight"),
    ] {
        let error = refused(name, |config| config.residual_blocks = 2);
        assert!(error.contains(&format!("lack tensor {lacking} ")), "{error}");
        let error = refused(name, |config| config.middle_attention = false);
        assert!(error.contains(&format!("tensor {extra}, which")), "{error}");
        let change: fn(&mut VqConfig) =
            if name == "chameleon" { |config| config.embedding_dim += 1 } else { |config| config.z_channels += 1 };
        let error = refused(name, change);
        assert!(error.starts_with(&format!("tensor {misshapen} has shape ")), "{error}");
    }
}

#[test]
fn a_torchscript_module_is_no_file_of_weights() {
    let error = VqTokenizer::try_new(&network("taming").0, &file("encoder.jit"), 2, DeviceChoice::Cpu).expect_err("a module");
    assert!(error.to_string().contains("kind = \"torchscript\""), "{error}");
}
