//! Names of other implementations; `tests/golden.rs` reads whole files.

use super::*;

fn layout(names: &[&str]) -> Result<Layout, ModelError> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    Layout::detect(&names, 3)
}

#[test]
fn parameters_are_asked_for_by_the_names_of_their_file() {
    let taming = layout(&["model.vqmodel.encoder.conv_in.weight"]).expect("taming");
    let diffusers = layout(&["encoder.conv_in.weight", "encoder.down_blocks.0.resnets.0.conv1.bias"]).expect("diffusers");
    let old =
        layout(&["encoder.conv_in.weight", "encoder.down_blocks.0.x", "encoder.mid_block.attentions.0.proj_attn.weight"]).expect("old");
    let llamagen = layout(&["encoder.conv_in.weight", "encoder.conv_blocks.0.res.0.conv1.bias"]).expect("llamagen");
    for (ours, in_diffusers, in_llamagen) in [
        ("encoder.conv_in.weight", "encoder.conv_in.weight", "encoder.conv_in.weight"),
        ("encoder.down.1.block.0.norm1.bias", "encoder.down_blocks.1.resnets.0.norm1.bias", "encoder.conv_blocks.1.res.0.norm1.bias"),
        (
            "encoder.down.1.block.0.nin_shortcut.weight",
            "encoder.down_blocks.1.resnets.0.conv_shortcut.weight",
            "encoder.conv_blocks.1.res.0.nin_shortcut.weight",
        ),
        ("encoder.down.2.attn.1.q.weight", "encoder.down_blocks.2.attentions.1.to_q.weight", "encoder.conv_blocks.2.attn.1.q.weight"),
        (
            "encoder.down.0.downsample.conv.bias",
            "encoder.down_blocks.0.downsamplers.0.conv.bias",
            "encoder.conv_blocks.0.downsample.conv.bias",
        ),
        ("encoder.mid.block_2.conv1.weight", "encoder.mid_block.resnets.1.conv1.weight", "encoder.mid.2.conv1.weight"),
        ("decoder.mid.attn_1.norm.weight", "decoder.mid_block.attentions.0.group_norm.weight", "decoder.mid.1.norm.weight"),
        ("decoder.up.2.block.3.conv2.weight", "decoder.up_blocks.0.resnets.3.conv2.weight", "decoder.conv_blocks.0.res.3.conv2.weight"),
        ("decoder.up.1.upsample.conv.weight", "decoder.up_blocks.1.upsamplers.0.conv.weight", "decoder.conv_blocks.1.upsample.conv.weight"),
        (
            "decoder.up.0.attn.0.proj_out.bias",
            "decoder.up_blocks.2.attentions.0.to_out.0.bias",
            "decoder.conv_blocks.2.attn.0.proj_out.bias",
        ),
        ("decoder.norm_out.bias", "decoder.conv_norm_out.bias", "decoder.norm_out.bias"),
        ("quantize.embedding.weight", "quantize.embedding.weight", "quantize.embedding.weight"),
    ] {
        assert_eq!(diffusers.name_in_file(ours), in_diffusers);
        assert_eq!(llamagen.name_in_file(ours), in_llamagen);
        assert_eq!(taming.name_in_file(ours), format!("model.vqmodel.{ours}"));
    }
    assert_eq!(old.name_in_file("encoder.mid.attn_1.k.bias"), "encoder.mid_block.attentions.0.key.bias");
}

#[test]
fn only_what_a_layout_is_known_to_hold_is_left_out() {
    let left_out = |first: &[&str], name: &str| layout(first).expect("a layout").is_left_out(name);
    let taming = &["encoder.conv_in.weight", "loss.perceptual_loss.lin0.model.1.weight"][..];
    assert!(left_out(taming, "loss.discriminator.main.0.weight") && left_out(taming, "quantize.cluster_size"));
    assert!(!left_out(taming, "quantize.codebook_used") && !left_out(taming, "encoder.extra.weight"));
    let llamagen = &["encoder.conv_in.weight", "encoder.conv_blocks.0.res.0.conv1.bias"];
    assert!(left_out(llamagen, "quantize.codebook_used") && !left_out(llamagen, "loss.logvar"));
    let diffusers = &["encoder.conv_in.weight", "encoder.down_blocks.0.resnets.0.conv1.bias"];
    assert!(!left_out(diffusers, "quantize.codebook_used") && !left_out(diffusers, "loss.logvar"));
    // A language model that contains the tokenizer.
    let whole = &["lm_head.weight", "model.vqmodel.encoder.conv_in.weight"];
    assert!(left_out(whole, "lm_head.weight") && !left_out(whole, "model.vqmodel.encoder.extra.weight"));
}

#[test]
fn weights_of_no_known_layout_say_what_is_there() {
    let error = layout(&["conv1.weight", "fc.bias"]).expect_err("another network").to_string();
    let expected = "weights hold no VQ image tokenizer: none of their 2 tensors is named encoder.conv_in.weight: conv1.weight, fc.bias";
    assert_eq!(error, expected);
    assert!(layout(&[]).is_err());
    let error = layout(&["a.encoder.conv_in.weight", "b.encoder.conv_in.weight"]).expect_err("two").to_string();
    assert!(error.contains("a.encoder.conv_in.weight and b.encoder.conv_in.weight are there"), "{error}");
    // If averaged weights have a prefix, those without one count.
    assert_eq!(layout(&["ema.encoder.conv_in.weight", "encoder.conv_in.weight"]).expect("one").prefix, "");
}
