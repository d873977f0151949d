//! Canonical bytes of configurations: equal settings give equal keys, however the file is laid out.
//!
//! Values are typed and length-prefixed, and maps are sorted by key. Floats are encoded by their bits. Absent fields (`None`) are left out,
//! so a new field whose default is `None` changes no key.

use serde::Serialize;
use serde_json::Value;

use crate::digest::{Digest, PartHasher};

/// Returns the digest of `value` under `domain`.
///
/// # Panics
/// If JSON cannot represent `value`, as for a map whose keys are not strings. No configuration type is such a value.
#[must_use]
pub fn digest_of(domain: &str, value: &impl Serialize) -> Digest {
    let value = serde_json::to_value(value).expect("configuration types serialize to JSON");
    let mut bytes = Vec::new();
    encode(&value, &mut bytes);
    PartHasher::new(domain).part(&bytes).digest()
}

fn encode(value: &Value, out: &mut Vec<u8>) {
    let sized = |tag: u8, len: usize, out: &mut Vec<u8>| {
        out.push(tag);
        out.extend((len as u64).to_le_bytes());
    };
    match value {
        Value::Null => out.push(b'n'),
        Value::Bool(flag) => out.extend([b'b', u8::from(*flag)]),
        Value::Number(number) => {
            if let Some(natural) = number.as_u64() {
                out.push(b'u');
                out.extend(natural.to_le_bytes());
            } else if let Some(integer) = number.as_i64() {
                out.push(b'i');
                out.extend(integer.to_le_bytes());
            } else {
                let float = number.as_f64().expect("a JSON number without arbitrary precision is an integer or a float");
                out.push(b'f');
                out.extend(float.to_bits().to_le_bytes());
            }
        }
        Value::String(text) => {
            sized(b's', text.len(), out);
            out.extend(text.as_bytes());
        }
        Value::Array(items) => {
            sized(b'a', items.len(), out);
            items.iter().for_each(|item| encode(item, out));
        }
        Value::Object(fields) => {
            let mut present: Vec<_> = fields.iter().filter(|(_, value)| !value.is_null()).collect();
            present.sort_by_key(|(name, _)| *name);
            sized(b'o', present.len(), out);
            for (name, value) in present {
                sized(b'k', name.len(), out);
                out.extend(name.as_bytes());
                encode(value, out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn field_order_and_absent_fields_do_not_matter() {
        let one = digest_of("t", &json!({"a": 1, "b": 0.5}));
        assert_eq!(one, digest_of("t", &json!({"b": 0.5, "a": 1, "new": null})));
        assert_ne!(one, digest_of("t", &json!({"a": 1, "b": 0.25})));
        assert_ne!(one, digest_of("other", &json!({"a": 1, "b": 0.5})));
    }

    #[test]
    fn types_are_kept_apart() {
        assert_ne!(digest_of("t", &json!("1")), digest_of("t", &json!(1)));
        assert_ne!(digest_of("t", &json!(["ab", "c"])), digest_of("t", &json!(["a", "bc"])));
    }
}
