//! Boxes as sources write them: corners in fractions of pixels, possibly beyond the picture.

use cm3flow_schemas::sample::{EMPTY_BOX, INVERTED_BOX, LabelledBox, OUTSIDE_BOX};
use serde_json::Value;

use super::values::{number, object, required, text};

/// A box with its corners as written.
pub(super) struct WrittenBox {
    label: String,
    x: [f64; 2],
    y: [f64; 2],
}

impl WrittenBox {
    /// Reads an object of JSON.
    ///
    /// # Errors
    /// The mismatch, as the rest of a sentence.
    pub(super) fn read(value: &Value) -> Result<Self, String> {
        let value = object(value)?;
        let edge = |name| required(value, name, number);
        let (x, y) = ([edge("x0")?, edge("x1")?], [edge("y0")?, edge("y1")?]);
        Ok(Self { label: required(value, "label", text)?, x, y })
    }

    /// Returns the box in whole pixels, cut at the left and upper edge of the picture.
    ///
    /// # Errors
    /// The reason why no part of it can lie in a picture.
    pub(super) fn in_pixels(self) -> Result<LabelledBox, &'static str> {
        let Self { label, x, y } = self;
        if x[0] > x[1] || y[0] > y[1] {
            return Err(INVERTED_BOX);
        }
        let (x, y) = (x.map(f64::round), y.map(f64::round));
        if x[0] >= x[1] || y[0] >= y[1] {
            return Err(EMPTY_BOX);
        }
        let largest = f64::from(u32::MAX);
        if x[1] <= 0.0 || y[1] <= 0.0 || x[0] >= largest || y[0] >= largest {
            return Err(OUTSIDE_BOX);
        }
        let [[x0, x1], [y0, y1]] = [x, y].map(|edges| edges.map(|edge| edge.clamp(0.0, largest) as u32));
        Ok(LabelledBox { label, x0, y0, x1, y1 })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn boxes_that_hold_no_pixel_say_why() {
        let found = |x0: f64, y0: f64, x1: f64, y1: f64| {
            let written = json!({"label": "dog", "x0": x0, "y0": y0.to_string(), "x1": x1, "y1": y1});
            WrittenBox::read(&written).expect("a box").in_pixels().map(|found| [found.x0, found.y0, found.x1, found.y1])
        };
        assert_eq!(found(1.4, -3.0, 10.6, 9.0), Ok([1, 0, 11, 9]));
        assert_eq!(found(5.0, 5.0, 1e30, 9.0), Ok([5, 5, u32::MAX, 9]));
        assert_eq!(found(10.0, 1.0, 4.0, 9.0), Err("boxes.inverted"));
        assert_eq!(found(-10.0, 1.0, -14.0, 9.0), Err("boxes.inverted"));
        assert_eq!(found(4.0, 1.0, 4.0, 9.0), Err("boxes.empty"));
        assert_eq!(found(0.0, 0.1, 4.0, 0.4), Err("boxes.empty"));
        assert_eq!(found(-10.0, 1.0, -4.0, 9.0), Err("boxes.outside"));
        assert_eq!(found(1.0, -9.0, 4.0, 0.0), Err("boxes.outside"));
        assert_eq!(found(1e20, 1.0, 1e21, 9.0), Err("boxes.outside"));
    }
}
