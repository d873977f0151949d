//! Tests that need a GPU; only `tests/gpu/unit.sh` runs them.

use cm3flow_schemas::random::Draws;
use tch::{Device, Kind, Tensor};

use super::encoder::CudaEncoder;
use super::kernels::Kernels;
use crate::device::{self, DeviceChoice};
use crate::vq::blocks::Norm;
use crate::vq::config::VqConfig;
use crate::vq::network::VqNetwork;

fn gpu() -> Device {
    device::open(DeviceChoice::Cuda).expect("these tests are for a machine with a GPU")
}

fn drawn(shape: &[i64], name: &str, device: Device) -> Tensor {
    let mut draws = Draws::new(1, "test", name.as_bytes());
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| (draws.unit() as f32 - 0.4) * 3.0).collect();
    Tensor::from_slice(&values).reshape(shape).to_device(device)
}

/// Sets weights with which every part of `network` counts; drawn ones close the branches of residual blocks.
fn open_branches(network: &VqNetwork) {
    for (name, tensor) in &network.parameters {
        let (shape, centred) = (tensor.size(), |name: &str| drawn(&tensor.size(), name, tensor.device()) / 1.5 - 0.2);
        let fan_in: i64 = shape.iter().skip(1).product();
        let values = match shape.len() {
            1 if name.contains("norm") && name.ends_with("weight") => centred(name) * 0.3 + 1.0,
            1 => centred(name) * 0.3,
            _ => centred(name) * (3.0 / fan_in as f64).sqrt(),
        };
        let _no_grad = tch::no_grad_guard();
        tensor.shallow_clone().copy_(&values);
    }
}

/// Returns the length of the difference, relative to that of `expected`.
fn error(found: &Tensor, expected: &Tensor) -> f64 {
    let (found, expected) = (found.to_kind(Kind::Double), expected.to_kind(Kind::Double));
    f64::try_from((found - &expected).norm() / expected.norm()).expect("one number")
}

/// Relative rounding of bf16, which keeps eight bits.
const ROUNDING: f64 = 4e-3;

#[test]
#[ignore = "needs a GPU"]
fn kernels_compute_what_libtorch_computes() {
    let device = gpu();
    let kernels = Kernels::try_new().expect("PyTorch brings a compiler");
    // Widths that divide unevenly, truncated spans, a batch of one, a picture of one pixel.
    for (n, h, w, channels, groups) in
        [(2, 5, 7, 24, 4), (3, 33, 20, 128, 32), (1, 130, 129, 64, 32), (2, 1, 1, 512, 32), (1, 9, 4, 2048, 1)]
    {
        let case = format!("{n} {h} {w} {channels} {groups}");
        let x = drawn(&[n, h, w, channels], "x", device).to_kind(Kind::BFloat16);
        let shortcut = drawn(&[n, h, w, channels], "shortcut", device).to_kind(Kind::BFloat16);
        let vector = |name| drawn(&[channels], name, device);
        let by = Norm { weight: vector("weight"), bias: vector("offset"), groups };
        let bias = vector("bias");
        let normalized = |x: &Tensor| {
            x.to_kind(Kind::Float)
                .permute([0, 3, 1, 2])
                .group_norm(groups, Some(&by.weight), Some(&by.bias), 1e-6, true)
                .permute([0, 2, 3, 1])
        };
        let sum = x.to_kind(Kind::Float) + &bias + shortcut.to_kind(Kind::Float);

        let summed = kernels.summed(x.copy()).expect("runs");
        assert!(error(&kernels.normalized(&summed, None, &by, false).expect("runs"), &normalized(&x)) < ROUNDING, "{case}");
        let with_bias = kernels.normalized(&summed, Some(&bias), &by, true).expect("runs");
        assert!(error(&with_bias, &normalized(&(x.to_kind(Kind::Float) + &bias)).silu()) < ROUNDING, "{case}");

        let padded = kernels.added_padded(&x, &bias, Some(&shortcut)).expect("runs");
        assert_eq!(padded.size(), [n, h + 1, w + 1, channels]);
        assert!(error(&padded.narrow(1, 0, h).narrow(2, 0, w), &sum) < ROUNDING, "{case}");
        let edges = padded.narrow(1, h, 1).abs().max().double_value(&[]) + padded.narrow(2, w, 1).abs().max().double_value(&[]);
        assert_eq!(edges, 0.0, "{case}");

        let added = kernels.added(x, &bias, Some(&shortcut)).expect("runs");
        assert!(error(&added.x, &sum) < ROUNDING, "{case}");
        assert!(error(&kernels.normalized(&added, None, &by, true).expect("runs"), &normalized(&added.x).silu()) < ROUNDING, "{case}");
    }
}

#[test]
#[ignore = "needs a GPU"]
fn encoder_is_as_exact_as_the_network_in_bf16() {
    let device = gpu();
    let small = VqConfig {
        resolution: 64,
        channels: 32,
        channel_multipliers: vec![1, 2, 4],
        attention_resolutions: vec![16],
        ..VqConfig::chameleon()
    };
    for config in [VqConfig { resolution: 128, ..VqConfig::chameleon() }, small.clone(), VqConfig { patch_px: 2, ..small }] {
        let network = VqNetwork::drawn(&config, 1, device).expect("a network");
        open_branches(&network);
        let encoder = CudaEncoder::try_new(&network, &config).expect("PyTorch brings a compiler").expect("its widths fit");
        let side = i64::from(config.resolution);
        let levels = (drawn(&[3, side, side, 3], "levels", device) * 50.0 + 100.0).clamp(0.0, 255.0).to_kind(Kind::Uint8);
        let table = Tensor::arange(256, (Kind::Float, device)) * (2.0 / 255.0) - 1.0;
        let pixels = table.index_select(0, &levels.reshape([-1]).to_kind(Kind::Int)).reshape([3, side, side, 3]).permute([0, 3, 1, 2]);
        let _no_grad = tch::no_grad_guard();
        let exact = network.encode(&pixels).expect("runs");
        let plain = error(&network.encode(&pixels.to_kind(Kind::BFloat16)).expect("runs"), &exact);
        let ours = encoder.forward(&levels, &table).expect("runs");
        assert_eq!(ours.size(), exact.size());
        let found = error(&ours, &exact);
        assert!(found < plain * 1.1, "{found} against {plain} for {config:?}");
        assert!(ours.equal(&encoder.forward(&levels, &table).expect("runs")), "the same bits each time");
    }
}
