//! Fit of a picture into the tokenizer's square, or into another shape: a Lanczos resize until it just covers the shape, then a crop.

use cm3flow_schemas::preparation::{Crop, LongSide, Preparation, ResizeFilter};
use cm3flow_schemas::random::Draws;
use cm3flow_schemas::sample::LabelledBox;
use cm3flow_schemas::{Grid, ImageId};
use image::{GrayImage, RgbImage};

use crate::derive::resize::lanczos;
use crate::derive::size::Size;

/// Share of a box's area that must lie within the shape for the box to stay.
const MIN_VISIBLE_SHARE: f64 = 0.5;

/// Map from a picture's pixels to those of the shape that is cut out of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fit {
    width: u32,
    height: u32,
    resized_width: u32,
    resized_height: u32,
    left: u32,
    top: u32,
    cut_width: u32,
    cut_height: u32,
    filter: ResizeFilter,
}

impl Fit {
    /// Returns the fit of a picture of `width` x `height` pixels into the square; `seed` and `id` determine a random crop.
    ///
    /// # Source
    /// Resize the short side, then crop: Chameleon's image tokenizer, <https://arxiv.org/abs/2405.09818>.
    #[must_use]
    pub fn of(width: u32, height: u32, preparation: &Preparation, seed: u64, id: &ImageId) -> Self {
        Self::into_grid(Size { width, height }, None, preparation, seed, id)
    }

    /// As [`Self::of`], into the shape of `grid`, or into the square without one. In: the picture's size.
    pub(super) fn into_grid(picture: Size, grid: Option<Grid>, preparation: &Preparation, seed: u64, id: &ImageId) -> Self {
        let Size { width, height } = picture;
        let (cut_width, cut_height) = preparation.size_px(grid);
        // The side with less to spare gets the length of the shape.
        let is_tall = u64::from(width) * u64::from(cut_height) <= u64::from(height) * u64::from(cut_width);
        let (side, short) = if is_tall { (cut_width, width.max(1)) } else { (cut_height, height.max(1)) };
        // Both follow the references to the last bit, which decides the rounding of halves.
        let scaled = |length: u32| match preparation.long_side {
            LongSide::Nearest => (f64::from(side) / f64::from(short) * f64::from(length)).round_ties_even() as u32,
            LongSide::Down => u32::try_from(u64::from(side) * u64::from(length) / u64::from(short)).unwrap_or(u32::MAX),
        };
        let (resized_width, resized_height) = (scaled(width).max(cut_width), scaled(height).max(cut_height));
        let (spare_x, spare_y) = (resized_width - cut_width, resized_height - cut_height);
        let (left, top) = match preparation.crop {
            Crop::Center => (spare_x / 2, spare_y / 2),
            Crop::Random => {
                let mut draws = Draws::new(seed, "crop", &id.0);
                let mut offset = |spare: u32| draws.below(u64::from(spare) + 1) as u32;
                (offset(spare_x), offset(spare_y))
            }
        };
        Self { width, height, resized_width, resized_height, left, top, cut_width, cut_height, filter: preparation.filter }
    }

    /// Resizes and crops. In: the picture that the fit was made for. Out: the shape's pixels.
    #[must_use]
    pub fn apply(&self, picture: &RgbImage) -> RgbImage {
        let (width, height) = (self.resized_width, self.resized_height);
        let resized = match self.filter {
            _ if picture.dimensions() == (width, height) => None,
            ResizeFilter::Lanczos3 => Some(lanczos(picture, width, height)),
        };
        image::imageops::crop_imm(resized.as_ref().unwrap_or(picture), self.left, self.top, self.cut_width, self.cut_height).to_image()
    }

    /// Returns the most bytes that [`Self::apply`] allocates at once, the shape's pixels included.
    pub(super) fn working_bytes(&self) -> u64 {
        let pixels = |width: u32, height: u32| u64::from(width) * u64::from(height);
        let narrowed = pixels(self.resized_width, self.height);
        let (resized, cut) = (pixels(self.resized_width, self.resized_height), pixels(self.cut_width, self.cut_height));
        // These are transposed rows, sums of a column, and weights: each output has weights of six inputs or more.
        let lengths = [self.width, self.height, self.resized_width, self.resized_height].map(u64::from);
        3 * (narrowed + resized + cut) + 128 * lengths.iter().sum::<u64>()
    }

    /// Returns the same as [`Self::working_bytes`] for [`Self::apply_to_levels`], which resizes columns first, to four floats a pixel.
    pub(super) fn levels_working_bytes(&self) -> u64 {
        16 * u64::from(self.width) * u64::from(self.resized_height) + self.working_bytes()
    }

    /// Resizes by the nearest pixel and crops: for pictures whose levels are numbers. In and out as in [`Self::apply`].
    #[must_use]
    pub fn apply_to_levels(&self, levels: &GrayImage) -> GrayImage {
        let resized = image::imageops::resize(levels, self.resized_width, self.resized_height, image::imageops::FilterType::Nearest);
        image::imageops::crop_imm(&resized, self.left, self.top, self.cut_width, self.cut_height).to_image()
    }

    /// Maps a box from the picture's pixels to the shape's; `None` if less than half of it lies within the shape.
    #[must_use]
    pub fn map_box(&self, found: &LabelledBox) -> Option<LabelledBox> {
        let along = |position: u32, resized: u32, length: u32, offset: u32| {
            f64::from(position.min(length)) * f64::from(resized) / f64::from(length.max(1)) - f64::from(offset)
        };
        let x = [found.x0, found.x1].map(|x| along(x, self.resized_width, self.width, self.left));
        let y = [found.y0, found.y1].map(|y| along(y, self.resized_height, self.height, self.top));
        let area = |x: [f64; 2], y: [f64; 2]| (x[1] - x[0]).max(0.0) * (y[1] - y[0]).max(0.0);
        let (inner_x, inner_y) = (x.map(|x| x.clamp(0.0, f64::from(self.cut_width))), y.map(|y| y.clamp(0.0, f64::from(self.cut_height))));
        if area(x, y) <= 0.0 || area(inner_x, inner_y) < MIN_VISIBLE_SHARE * area(x, y) {
            return None;
        }
        let [x0, x1] = inner_x.map(|x| x.round() as u32);
        let [y0, y1] = inner_y.map(|y| y.round() as u32);
        (x0 < x1 && y0 < y1).then(|| LabelledBox { label: found.label.clone(), x0, y0, x1, y1 })
    }
}
