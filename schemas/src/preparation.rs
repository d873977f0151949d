//! Preparation: how a picture becomes the values that an image tokenizer takes, named and written down to what codes depend on.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::grid::Grid;

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
    /// Shapes beside the square, the nearest of which a picture is fitted to; `None` for the square alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub buckets: Option<AspectBuckets>,
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
            buckets: None,
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

    /// The same with shapes beside the square.
    #[must_use]
    pub fn with_buckets(mut self, buckets: Option<AspectBuckets>) -> Self {
        self.buckets = buckets;
        self
    }

    /// Grids that pictures may be fitted to, ascending; none if all are fitted to the square.
    #[must_use]
    pub fn grids(&self) -> Vec<Grid> {
        self.buckets.map(|buckets| buckets.grids(self.side_px)).unwrap_or_default()
    }

    /// Grid whose aspect is nearest to that of a picture of `width` x `height`, in any unit; `None` if all are fitted to the square.
    #[must_use]
    pub fn grid_for(&self, width: u32, height: u32) -> Option<Grid> {
        self.grids().into_iter().min_by(|one, other| {
            // Quotients of aspects, the larger one above, are compared as whole numbers: what is nearest is so on every machine.
            let [one, other] = [one, other].map(|grid| {
                let (a, b) = (u128::from(width.max(1)) * u128::from(grid.rows), u128::from(height.max(1)) * u128::from(grid.columns));
                (a.max(b), a.min(b))
            });
            (one.0 * other.1).cmp(&(other.0 * one.1))
        })
    }

    /// Width and height in pixels of what a picture is fitted to, if its grid is `grid`, or of the square.
    #[must_use]
    pub fn size_px(&self, grid: Option<Grid>) -> (u32, u32) {
        match (self.buckets, grid) {
            (Some(buckets), Some(grid)) => (grid.columns * buckets.code_px, grid.rows * buckets.code_px),
            _ => (self.side_px, self.side_px),
        }
    }

    /// The same with what decodes.
    #[must_use]
    pub fn with_decoder(mut self, decoder: BTreeMap<String, String>) -> Self {
        self.decoder = decoder;
        self
    }
}

/// Shapes of about the area of the square, with sides on a grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AspectBuckets {
    /// Longest side over the shortest, at most.
    pub max_aspect: u32,
    /// What sides are multiples of, in pixels: a multiple of `code_px` that divides the square's side.
    pub grid_px: u32,
    /// Side of the square that one code stands for, in pixels.
    pub code_px: u32,
}

impl AspectBuckets {
    /// Grids of codes of the shapes that have at most the area of the square of `side_px`, and none of whose sides could be longer. Ascending;
    /// the square is among them.
    #[must_use]
    pub fn grids(&self, side_px: u32) -> Vec<Grid> {
        let (side, step) = (side_px / self.grid_px.max(1), self.grid_px / self.code_px.max(1));
        let area = side * side;
        let grid = |rows: u32| {
            let columns = area / rows;
            let is_within = rows <= self.max_aspect * columns && columns <= self.max_aspect * rows;
            (area / columns == rows && is_within).then_some(Grid { rows: rows * step, columns: columns * step })
        };
        (1..=area).filter_map(grid).collect()
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

    fn buckets(side_px: u32, grid_px: u32, code_px: u32) -> Preparation {
        Preparation::levels(side_px, Crop::Center).with_buckets(Some(AspectBuckets { max_aspect: 4, grid_px, code_px }))
    }

    #[test]
    fn shapes_are_as_large_as_the_square_allows() {
        let grids = |preparation: Preparation| preparation.grids().iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        assert_eq!(grids(buckets(128, 32, 8)), "8x32 12x20 16x16 20x12 32x8");
        assert_eq!(grids(buckets(64, 32, 8)), "4x16 8x8 16x4");
        assert_eq!(grids(Preparation::levels(64, Crop::Center)), "");
        let chameleon = buckets(512, 32, 16);
        assert_eq!(chameleon.grids().len(), 17);
        for grid in chameleon.grids() {
            let (width, height) = chameleon.size_px(Some(grid));
            assert!(width % 32 == 0 && height % 32 == 0 && width.max(height) <= 4 * width.min(height), "{grid}");
            assert!((880..=1024).contains(&grid.codes()), "{grid} has {} codes, the square 1024", grid.codes());
        }
    }

    #[test]
    fn pictures_are_fitted_to_the_nearest_aspect() {
        let preparation = buckets(512, 32, 16);
        let size = |width, height| preparation.size_px(preparation.grid_for(width, height));
        assert_eq!([size(100, 100), size(900, 600), size(600, 900)], [(512, 512), (608, 416), (416, 608)]);
        assert_eq!([size(400, 100), size(1000, 100), size(1, 4000)], [(1024, 256), (1024, 256), (256, 1024)]);
        let square = Preparation::levels(512, Crop::Center);
        assert_eq!((square.grid_for(900, 600), square.size_px(None)), (None, (512, 512)));
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
