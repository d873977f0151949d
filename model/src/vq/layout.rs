//! Names of a VQGAN's parameters in the files of other implementations, and the reader of such files.
//!
//! The layout is detected from the names in a file. Parameters are then requested under those names, and errors use them. Known further
//! content of a layout (losses, running means of training) is left out by name; anything else is an error.
//!
//! | layout | names | in files |
//! | --- | --- | --- |
//! | taming | `encoder.down.0.block.0`, `encoder.mid.attn_1` | taming-transformers, Chameleon; transformers (`model.vqmodel.…`) |
//! | diffusers | `encoder.down_blocks.0.resnets.0`, `encoder.mid_block.attentions.0` | `VQModel` of diffusers |
//! | llamagen | `encoder.conv_blocks.0.res.0`, `encoder.mid.1` | LlamaGen |

use crate::error::ModelError;
use crate::vq::config::VqConfig;
use crate::weights::{NamedTensors, WeightsFile, listed};

/// Name of a parameter that every layout has; the text before it is the common prefix.
const FIRST: &str = "encoder.conv_in.weight";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Taming,
    /// Layout of diffusers, with the names of attention until 2023 or the later ones.
    Diffusers {
        old_attention: bool,
    },
    LlamaGen,
}

/// Names of parameters in a file.
#[derive(Debug)]
pub(super) struct Layout {
    family: Family,
    prefix: String,
    levels: usize,
    has_decoder: bool,
}

/// Reads the tensors that the network of `config` may need from a file of weights. Out: tensors by the names in the file, and its layout.
///
/// # Errors
/// [`ModelError::Layout`] if the file has no VQGAN; the errors of formats and tensors.
pub(super) fn load(config: &VqConfig, bytes: &[u8]) -> Result<(NamedTensors, Layout), ModelError> {
    let mut file = WeightsFile::open(bytes)?;
    let names = file.names();
    let layout = Layout::detect(&names, config.channel_multipliers.len()).map_err(|error| match (error, file.beside()) {
        (ModelError::Layout { problem }, beside) if !beside.is_empty() => {
            ModelError::Layout { problem: format!("{problem}; beside them stand {}", listed(beside.iter().map(String::as_str))) }
        }
        (error, _) => error,
    })?;
    let mut tensors = NamedTensors::new();
    for name in names.into_iter().filter(|name| !layout.is_left_out(name)) {
        let Some(tensor) = file.tensor(&name)? else { continue };
        let shape = tensor.size();
        let tensor = match shape[..] {
            // A linear layer equals a convolution of one pixel.
            [output, input] if layout.is_linear(&name) => {
                tensor.f_reshape([output, input, 1, 1]).map_err(ModelError::torch("create weights"))?
            }
            _ => tensor,
        };
        tensors.insert(name, tensor);
    }
    Ok((tensors, layout))
}

impl Layout {
    fn detect(names: &[String], levels: usize) -> Result<Self, ModelError> {
        let mut prefixes =
            names.iter().filter_map(|name| name.strip_suffix(FIRST)).filter(|prefix| prefix.is_empty() || prefix.ends_with('.'));
        let Some(prefix) = prefixes.clone().find(|prefix| prefix.is_empty()).or_else(|| prefixes.next()) else {
            let names = match names.len() {
                0 => "there are no tensors".to_owned(),
                count => format!("none of their {count} tensors is named {FIRST}: {}", listed(names.iter().map(String::as_str))),
            };
            return Err(ModelError::Layout { problem: names });
        };
        if let Some(other) = prefixes.next().filter(|_| !prefix.is_empty()) {
            return Err(ModelError::Layout { problem: format!("{prefix}{FIRST} and {other}{FIRST} are there; keep one of them") });
        }
        let own = || names.iter().filter_map(|name| name.strip_prefix(prefix));
        let has = |part: &str| own().any(|name| name.starts_with(part));
        let family = if has("encoder.down_blocks.") {
            Family::Diffusers { old_attention: own().any(|name| name.ends_with(".proj_attn.weight")) }
        } else if has("encoder.conv_blocks.") {
            Family::LlamaGen
        } else {
            Family::Taming
        };
        Ok(Self { family, prefix: prefix.to_owned(), levels, has_decoder: has("decoder.") })
    }

    pub(super) const fn has_decoder(&self) -> bool {
        self.has_decoder
    }

    /// Checks whether the network may ignore a tensor.
    fn is_left_out(&self, name: &str) -> bool {
        // A tensor without the prefix belongs to another network of the file.
        let Some(name) = name.strip_prefix(&self.prefix) else { return true };
        let (parts, names): (&[&str], &[&str]) = match self.family {
            Family::Taming => (&["loss.", "model_ema."], &["quantize.cluster_size", "quantize.embed_avg", "quantize.initted", "colorize"]),
            Family::Diffusers { .. } => (&[], &[]),
            Family::LlamaGen => (&[], &["quantize.codebook_used"]),
        };
        parts.iter().any(|part| name.starts_with(part)) || names.contains(&name)
    }

    /// Checks whether a tensor is the matrix of a linear layer where our network has a convolution.
    fn is_linear(&self, name: &str) -> bool {
        matches!(self.family, Family::Diffusers { .. }) && name.contains(".attentions.")
    }

    /// Returns the name of a parameter in the file.
    pub(super) fn name_in_file(&self, ours: &str) -> String {
        let parts: Vec<&str> = ours.split('.').collect();
        let name = match self.family {
            Family::Taming => ours.to_owned(),
            Family::Diffusers { old_attention } => self.in_diffusers(&parts, old_attention),
            Family::LlamaGen => self.in_llamagen(&parts),
        };
        format!("{}{name}", self.prefix)
    }

    /// Returns the number of a level in the file. Except in taming-transformers, the decoder's levels are numbered in order of computation,
    /// the narrowest first.
    fn level(&self, half: &str, level: &str) -> String {
        match level.parse::<usize>() {
            Ok(level) if half == "up" => self.levels.saturating_sub(level + 1).to_string(),
            _ => level.to_owned(),
        }
    }

    fn in_llamagen(&self, parts: &[&str]) -> String {
        match parts {
            [side, half @ ("down" | "up"), level, rest @ ..] => {
                let rest = rest.join(".");
                let rest = rest.strip_prefix("block.").map_or(rest.clone(), |rest| format!("res.{rest}"));
                format!("{side}.conv_blocks.{}.{rest}", self.level(half, level))
            }
            [side, "mid", block, rest @ ..] => {
                let index = match *block {
                    "block_1" => 0,
                    "attn_1" => 1,
                    _ => 2,
                };
                format!("{side}.mid.{index}.{}", rest.join("."))
            }
            _ => parts.join("."),
        }
    }

    fn in_diffusers(&self, parts: &[&str], old_attention: bool) -> String {
        let residual = |rest: &[&str]| rest.join(".").replace("nin_shortcut", "conv_shortcut");
        let attention = |rest: &[&str]| {
            let [layer, parameter] = rest else { return rest.join(".") };
            let layer = match (*layer, old_attention) {
                ("norm", _) => "group_norm",
                ("q", false) => "to_q",
                ("k", false) => "to_k",
                ("v", false) => "to_v",
                ("proj_out", false) => "to_out.0",
                ("q", true) => "query",
                ("k", true) => "key",
                ("v", true) => "value",
                ("proj_out", true) => "proj_attn",
                (other, _) => other,
            };
            format!("{layer}.{parameter}")
        };
        match parts {
            [side, half @ ("down" | "up"), level, kind, rest @ ..] => {
                let rest = match (*kind, rest) {
                    ("block", [index, rest @ ..]) => format!("resnets.{index}.{}", residual(rest)),
                    ("attn", [index, rest @ ..]) => format!("attentions.{index}.{}", attention(rest)),
                    (kind, rest) => format!("{kind}rs.0.{}", rest.join(".")),
                };
                format!("{side}.{half}_blocks.{}.{rest}", self.level(half, level))
            }
            [side, "mid", "block_1", rest @ ..] => format!("{side}.mid_block.resnets.0.{}", residual(rest)),
            [side, "mid", "block_2", rest @ ..] => format!("{side}.mid_block.resnets.1.{}", residual(rest)),
            [side, "mid", _, rest @ ..] => format!("{side}.mid_block.attentions.0.{}", attention(rest)),
            [side, "norm_out", parameter] => format!("{side}.conv_norm_out.{parameter}"),
            _ => parts.join("."),
        }
    }
}

#[cfg(test)]
mod tests;
