//! Preparation: how a picture becomes the values that an image tokenizer takes, named and written down to what codes depend on.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How a picture becomes the square that an image tokenizer takes: named, because codes depend on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preparation {
    /// Name for people and configurations.
    pub name: String,
    /// Side of the square, in pixels.
    pub side_px: u32,
    /// Which square is cut out.
    pub crop: Crop,
    /// How the picture is resized, its short side to `side_px`.
    pub filter: ResizeFilter,
    /// What the long side is rounded to.
    pub long_side: LongSide,
    /// What transparency becomes.
    pub transparency: Transparency,
    /// What the levels 0 to 255 become.
    pub values: Values,
    /// Crates that decode, with their versions: two decoders of one JPEG differ by a level here and there.
    pub decoder: BTreeMap<String, String>,
}

impl Preparation {
    /// As Chameleon's own image tokenizer does it.
    ///
    /// # Source
    /// `chameleon/inference/image_tokenizer.py` of <https://github.com/facebookresearch/chameleon>, which does not turn pictures by
    /// their EXIF orientation, as this project does.
    #[must_use]
    pub fn chameleon(side_px: u32, crop: Crop) -> Self {
        Self {
            name: "chameleon".into(),
            side_px,
            crop,
            filter: ResizeFilter::Lanczos3,
            long_side: LongSide::Nearest,
            transparency: Transparency::WhiteDown,
            values: Values::TwoOver255,
            decoder: BTreeMap::new(),
        }
    }

    /// As the processor of transformers does it for the same networks.
    ///
    /// # Source
    /// `ChameleonImageProcessorPil` of transformers 5.23. Its namesake without `Pil` resizes with torchvision, which has no such
    /// filter before 0.27 and takes a bicubic one: that is not what is done here.
    #[must_use]
    pub fn chameleon_hf(side_px: u32, crop: Crop) -> Self {
        Self {
            name: "chameleon-hf".into(),
            long_side: LongSide::Down,
            transparency: Transparency::WhiteNearest,
            values: Values::Huggingface,
            ..Self::chameleon(side_px, crop)
        }
    }

    /// For tokenizers that take levels as they are.
    #[must_use]
    pub fn levels(side_px: u32, crop: Crop) -> Self {
        Self { name: "levels".into(), values: Values::Levels, ..Self::chameleon(side_px, crop) }
    }

    /// The same with what decodes.
    #[must_use]
    pub fn with_decoder(mut self, decoder: BTreeMap<String, String>) -> Self {
        self.decoder = decoder;
        self
    }
}

/// Which square is cut out of a picture whose short side has been resized to the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Crop {
    /// The one in the middle; of an odd rest, the smaller part is cut off before it.
    Center,
    /// One drawn from the seed and the image's id.
    Random,
}

/// Filter of resizing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResizeFilter {
    /// Lanczos with three lobes, widened for shrinking; rows first, then columns, each rounded to whole levels, as in Pillow.
    Lanczos3,
}

/// What the long side is rounded to, once it has been scaled as the short one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LongSide {
    /// The nearest pixel; halves to even.
    Nearest,
    /// The pixel below.
    Down,
}

/// What transparency becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transparency {
    /// White shines through; levels are cut to whole ones.
    WhiteDown,
    /// White shines through; levels are rounded to the nearest.
    WhiteNearest,
}

/// What the levels 0 to 255 become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Values {
    /// `x * 2 / 255 - 1`, rounded once to f32: -1 to 1.
    #[serde(rename = "two_over_255")]
    TwoOver255,
    /// `x * 0.0078` rounded to f32, then 1 subtracted in f32: -1 to 0.989.
    Huggingface,
    /// They stay as they are.
    Levels,
}

impl Values {
    /// The value of each level.
    ///
    /// # Source
    /// Of `Huggingface`: rescaling and normalising by mean 1 and deviation 1, `preprocessor_config.json` of Chameleon's processor.
    #[must_use]
    pub fn table(self) -> [f32; 256] {
        std::array::from_fn(|level| {
            let level = level as f64;
            match self {
                Self::TwoOver255 => (level * 2.0 / 255.0 - 1.0) as f32,
                Self::Huggingface => (level * 0.0078) as f32 - 1.0,
                Self::Levels => level as f32,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_the_reference_to_the_bit() {
        let levels: BTreeMap<String, Vec<f32>> =
            serde_json::from_str(include_str!("../../stages/fixtures/levels.json")).expect("a fixture");
        for preparation in [Preparation::chameleon(512, Crop::Center), Preparation::chameleon_hf(512, Crop::Center)] {
            assert_eq!(preparation.values.table()[..], levels[&preparation.name][..], "{}", preparation.name);
        }
    }

    #[test]
    fn a_preparation_says_all_that_codes_depend_on() {
        let preparation = Preparation::chameleon(256, Crop::Random).with_decoder(BTreeMap::from([("png".into(), "1".into())]));
        let expected = serde_json::json!({
            "name": "chameleon", "side_px": 256, "crop": "random", "filter": "lanczos3", "long_side": "nearest",
            "transparency": "white_down", "values": "two_over_255", "decoder": {"png": "1"},
        });
        assert_eq!(serde_json::to_value(preparation).expect("plain"), expected);
        let hf = serde_json::to_value(Preparation::chameleon_hf(512, Crop::Center)).expect("plain");
        assert_eq!(
            (&hf["long_side"], &hf["transparency"], &hf["values"]),
            (&"down".into(), &"white_nearest".into(), &"huggingface".into())
        );
    }
}
