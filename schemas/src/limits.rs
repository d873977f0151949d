//! Limits of the numbers in a configuration: one constant serves the check, its message and the JSON Schema.
//!
//! A constant is a range of the standard library, as `1..=1024`, `1..` or `0.0..1.0`, or a pair of bounds where the lower one is left out.

use std::fmt::Display;
use std::ops::{Bound, RangeBounds};

/// The problem with `value` of the field at `path`, if it lies outside `range`.
#[must_use]
pub fn problem<T: PartialOrd + Display>(path: &str, value: T, range: &impl RangeBounds<T>) -> Option<String> {
    (!range.contains(&value)).then(|| format!("{path} must be {}, got {value}", words(range)))
}

fn words<T: Display>(range: &impl RangeBounds<T>) -> String {
    match (range.start_bound(), range.end_bound()) {
        (Bound::Included(low), Bound::Included(high)) => format!("in {low}..={high}"),
        (low, high) => {
            let low = match low {
                Bound::Included(low) => Some(format!("{low} or more")),
                Bound::Excluded(low) => Some(format!("above {low}")),
                Bound::Unbounded => None,
            };
            let high = match high {
                Bound::Included(high) => Some(format!("at most {high}")),
                Bound::Excluded(high) => Some(format!("below {high}")),
                Bound::Unbounded => None,
            };
            low.into_iter().chain(high).collect::<Vec<_>>().join(" and ")
        }
    }
}

#[cfg(feature = "json-schema")]
pub use schema::{items_within, length_within, within};

#[cfg(feature = "json-schema")]
mod schema {
    use std::ops::{Bound, RangeBounds, RangeInclusive};

    use schemars::Schema;
    use serde_json::{Map, Value};

    /// Puts the limits of a number into its schema: for `#[schemars(transform = within(RANGE))]`.
    pub fn within<T: Copy + Into<Value>>(range: impl RangeBounds<T>) -> impl FnMut(&mut Schema) {
        move |schema| limit(schema.ensure_object(), &range)
    }

    /// Puts the limits of the numbers of a list into its schema.
    pub fn items_within<T: Copy + Into<Value>>(range: impl RangeBounds<T>) -> impl FnMut(&mut Schema) {
        move |schema| {
            if let Some(Value::Object(items)) = schema.ensure_object().get_mut("items") {
                limit(items, &range);
            }
        }
    }

    /// Puts the limits of a list's length into its schema.
    pub fn length_within(range: RangeInclusive<usize>) -> impl FnMut(&mut Schema) {
        move |schema| {
            let schema = schema.ensure_object();
            schema.insert("minItems".into(), (*range.start()).into());
            schema.insert("maxItems".into(), (*range.end()).into());
        }
    }

    fn limit<T: Copy + Into<Value>>(schema: &mut Map<String, Value>, range: &impl RangeBounds<T>) {
        let mut put = |bound: Bound<&T>, included: &str, excluded: &str| {
            let (keyword, value) = match bound {
                Bound::Included(value) => (included, *value),
                Bound::Excluded(value) => (excluded, *value),
                // The limit of the type, if it has one, stays.
                Bound::Unbounded => return,
            };
            schema.remove(included);
            schema.insert(keyword.into(), value.into());
        };
        put(range.start_bound(), "minimum", "exclusiveMinimum");
        put(range.end_bound(), "maximum", "exclusiveMaximum");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_outside_is_named_with_its_limits() {
        assert_eq!(problem("a.b", 0, &(1..=1024)).as_deref(), Some("a.b must be in 1..=1024, got 0"));
        assert_eq!(problem("a.b", 0, &(1..)).as_deref(), Some("a.b must be 1 or more, got 0"));
        assert_eq!(problem("a.b", 1.0, &(0.0..1.0)).as_deref(), Some("a.b must be 0 or more and below 1, got 1"));
        let share = (Bound::Excluded(0.0), Bound::Included(1.0));
        assert_eq!(problem("a.b", 0.0, &share).as_deref(), Some("a.b must be above 0 and at most 1, got 0"));
        assert_eq!(problem("a.b", f64::NAN, &share).as_deref(), Some("a.b must be above 0 and at most 1, got NaN"));
        assert_eq!(problem("a.b", -1, &(Bound::Excluded(0), Bound::Unbounded)).as_deref(), Some("a.b must be above 0, got -1"));
    }

    #[test]
    fn a_value_inside_is_no_problem() {
        for value in [1, 1024] {
            assert_eq!(problem("a.b", value, &(1..=1024)), None);
        }
        assert_eq!(problem("a.b", 1.0, &(Bound::Excluded(0.0), Bound::Included(1.0))), None);
    }

    #[cfg(feature = "json-schema")]
    #[test]
    fn limits_stand_in_the_schema_of_a_number() {
        use schemars::{Schema, json_schema};

        let with = |mut transform: Box<dyn FnMut(&mut Schema)>, mut schema: Schema| {
            transform(&mut schema);
            schema
        };
        let number = || json_schema!({ "type": "integer", "minimum": 0 });
        assert_eq!(with(Box::new(within(1..=9)), number()), json_schema!({ "type": "integer", "minimum": 1, "maximum": 9 }));
        assert_eq!(with(Box::new(within(..9)), number()), json_schema!({ "type": "integer", "minimum": 0, "exclusiveMaximum": 9 }));
        let above = (Bound::Excluded(0.0), Bound::Included(1.0));
        assert_eq!(with(Box::new(within(above)), number()), json_schema!({ "type": "integer", "exclusiveMinimum": 0.0, "maximum": 1.0 }));
        let list = json_schema!({ "type": "array", "items": { "type": "integer" } });
        let list = with(Box::new(length_within(1..=8)), with(Box::new(items_within(1..=64)), list));
        let items = json_schema!({ "type": "integer", "minimum": 1, "maximum": 64 });
        assert_eq!(list, json_schema!({ "type": "array", "minItems": 1, "maxItems": 8, "items": items }));
    }
}
