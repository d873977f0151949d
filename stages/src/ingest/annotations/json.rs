//! Lenient JSON: repairs lone surrogates, NaN and numbers out of range. Of an object, only known fields are kept.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::text;

/// Known fields of an object, by name.
#[derive(Debug, Default)]
pub(super) struct Fields {
    values: BTreeMap<&'static str, Value>,
    /// Names that occur more than once. The last value counts, as in most languages.
    pub(super) repeated: Vec<&'static str>,
}

impl Fields {
    /// Removes the field `name` and returns its value.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        self.values.remove(name)
    }
}

/// Groups of field names.
pub(super) type Names = &'static [&'static [&'static str]];

/// Parses a JSON object and keeps the fields `known`. Others are skipped, whatever they hold.
///
/// # Errors
/// The problem of the text, for people.
pub(super) fn fields(bytes: &[u8], known: Names) -> Result<Fields, String> {
    read(bytes, |deserializer| KnownFields(known).deserialize(deserializer))
}

/// Parses all fields of a JSON object.
///
/// # Errors
/// Those of [`fields`].
pub(super) fn all_fields(bytes: &[u8]) -> Result<Map<String, Value>, String> {
    read(bytes, |deserializer| Map::deserialize(deserializer))
}

type Json<'de> = serde_json::Deserializer<serde_json::de::SliceRead<'de>>;

/// Reads an object. If that fails, it repairs numbers and surrogates, and tries again.
fn read<T>(bytes: &[u8], read: impl Fn(&mut Json<'_>) -> serde_json::Result<T>) -> Result<T, String> {
    let text = text::in_utf8(bytes)?;
    check_object(&text)?;
    let whole = |text: &[u8]| {
        let mut json = Json::from_slice(text);
        read(&mut json).and_then(|found| json.end().map(|()| found))
    };
    whole(&text).or_else(|_| whole(&without_wild_numbers(&without_lone_surrogates(&text)))).map_err(|error| problem(&text, &error))
}

/// Checks that a text begins like an object.
fn check_object(text: &[u8]) -> Result<(), String> {
    let is_json = || serde_json::from_slice::<IgnoredAny>(text).is_ok();
    let kind = match text.trim_ascii_start().first() {
        None => return Err("it is empty, expected an object of JSON".into()),
        Some(b'[') => "a list",
        Some(b'"') => "a text",
        Some(b'-' | b'0'..=b'9') if is_json() => "a number",
        Some(b't' | b'f') if is_json() => "true or false",
        Some(b'n') if is_json() => "null",
        Some(_) => return Ok(()),
    };
    Err(format!("expected an object of JSON, got {kind}"))
}

fn problem(text: &[u8], error: &serde_json::Error) -> String {
    if let Err(error) = std::str::from_utf8(text) {
        return text::not_utf8(&error);
    }
    let said = error.to_string();
    match said.strip_prefix("recursion limit exceeded") {
        Some(place) => format!("it is nested too deep{place}"),
        None => format!("it is no JSON: {said}"),
    }
}

/// Deserializer that keeps the fields with these names.
struct KnownFields(Names);

impl<'de> DeserializeSeed<'de> for KnownFields {
    type Value = Fields;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Fields, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for KnownFields {
    type Value = Fields;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
        let mut fields = Fields::default();
        while let Some(name) = map.next_key_seed(KnownName(self.0))? {
            let Some(name) = name else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if fields.values.insert(name, map.next_value()?).is_some() {
                fields.repeated.push(name);
            }
        }
        Ok(fields)
    }
}

/// Deserializer of a name, `None` unless it is among these.
struct KnownName(Names);

impl<'de> DeserializeSeed<'de> for KnownName {
    type Value = Option<&'static str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KnownName {
    type Value = Option<&'static str>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().copied().flatten().find(|known| **known == name).copied())
    }
}

/// Replaces escapes of lone surrogates (`\ud800` without its other half) by that of U+FFFD. Such halves stand for no character, but writers
/// that count in UTF-16 leave them when they cut text. A caption is worth more than half an emoji.
fn without_lone_surrogates(json: &[u8]) -> Cow<'_, [u8]> {
    let mut mended = Cow::Borrowed(json);
    let mut at = 0;
    // JSON has backslashes only within strings, where each begins an escape.
    while let Some(next) = json.get(at..).and_then(|rest| rest.iter().position(|byte| *byte == b'\\')) {
        at += next;
        let (half, other) = (escaped_unit(json, at), escaped_unit(json, at + 6));
        at += match (half, other) {
            (Some(0xD800..=0xDBFF), Some(0xDC00..=0xDFFF)) => 12,
            (Some(0xD800..=0xDFFF), _) => {
                mended.to_mut()[at + 2..at + 6].copy_from_slice(b"fffd");
                6
            }
            _ => 2,
        };
    }
    mended
}

/// Returns the UTF-16 unit of the escape `\uXXXX` at `at`.
fn escaped_unit(json: &[u8], at: usize) -> Option<u16> {
    let digits = json.get(at..at + 6)?.strip_prefix(b"\\u")?;
    u16::from_str_radix(std::str::from_utf8(digits).ok().filter(|digits| !digits.starts_with('+'))?, 16).ok()
}

/// Replaces numbers that JSON cannot express by null: `NaN` and `Infinity`, as Python and JavaScript write them, and numbers out of the
/// range of f64.
fn without_wild_numbers(json: &[u8]) -> Cow<'_, [u8]> {
    let mut mended = Vec::new();
    let (mut at, mut copied) = (0, 0);
    while let Some(byte) = json.get(at) {
        match byte {
            b'"' => at = end_of_string(json, at + 1),
            b'-' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => {
                let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
                let end = json[at..].iter().position(|byte| !is_part(byte)).map_or(json.len(), |length| at + length);
                if is_wild(&json[at..end]) {
                    mended.extend_from_slice(&json[copied..at]);
                    mended.extend_from_slice(b"null");
                    copied = end;
                }
                at = end;
            }
            _ => at += 1,
        }
    }
    if copied == 0 {
        return Cow::Borrowed(json);
    }
    mended.extend_from_slice(&json[copied..]);
    Cow::Owned(mended)
}

/// Returns the position behind the closing quote of the string whose first byte stands at `at`.
fn end_of_string(json: &[u8], mut at: usize) -> usize {
    while let Some(byte) = json.get(at) {
        at += match byte {
            b'"' => return at + 1,
            b'\\' => 2,
            _ => 1,
        };
    }
    json.len()
}

/// Checks whether a word outside of strings is a number that JSON cannot express.
fn is_wild(word: &[u8]) -> bool {
    let digits = word.strip_prefix(b"-").unwrap_or(word);
    let is_number = digits.first().is_some_and(u8::is_ascii_digit);
    let is_beyond = || std::str::from_utf8(word).is_ok_and(|word| word.parse().is_ok_and(f64::is_infinite));
    matches!(digits, b"NaN" | b"Infinity") || is_number && is_beyond()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KNOWN: Names = &[&["caption"], &["boxes"]];

    fn caption(json: &str) -> Result<Value, String> {
        Ok(fields(format!(r#"{{"caption": {json}}}"#).as_bytes(), KNOWN)?.take("caption").unwrap_or_default())
    }

    #[test]
    fn lone_surrogates_are_read_as_replacement_characters() {
        for (json, expected) in [
            (r"a \ud83e\udd8a b", "a 🦊 b"),
            (r"a \ud83e b", "a \u{fffd} b"),
            (r"a \uDD8A", "a \u{fffd}"),
            (r"\ud83e\ud83e\udd8a", "\u{fffd}🦊"),
            (r"\udd8a\ud83e", "\u{fffd}\u{fffd}"),
            (r"\ud83e\n", "\u{fffd}\n"),
            (r"\\ud83e \\\ud83e", "\\ud83e \\\u{fffd}"),
            (r#"\"\ud800\""#, "\"\u{fffd}\""),
            (r"\u0000\u202e\ufffe", "\u{0}\u{202e}\u{fffe}"),
        ] {
            assert_eq!(caption(&format!("\"{json}\"")), Ok(expected.into()), "{json}");
        }
        assert!(matches!(without_lone_surrogates(br#"{"a": "\u00e9\n"}"#), Cow::Borrowed(_)), "nothing is copied without need");
        for damaged in [r"\ud8", r"\u+800", r"\ud83g"] {
            assert!(caption(&format!("\"{damaged}\"")).is_err(), "{damaged} is no JSON");
        }
    }

    #[test]
    fn numbers_that_json_does_not_have_are_null_and_words_in_strings_stay() {
        for wild in ["NaN", "Infinity", "-Infinity", "-NaN", "1e400", "-1E+999", &"9".repeat(400), &format!("{}.5", "9".repeat(400))] {
            assert_eq!(caption(wild), Ok(Value::Null), "{wild}");
            assert_eq!(caption(&format!(r#"["NaN \" 1e400", {wild},{wild} ,1]"#)), Ok(serde_json::json!(["NaN \" 1e400", null, null, 1])));
            let found = fields(format!(r#"{{"x": {wild}, "NaN": [{wild}], "caption": "a", "y": {{"z": {wild}}}}}"#).as_bytes(), KNOWN);
            assert_eq!(found.expect("others are left alone").take("caption"), Some("a".into()), "{wild}");
        }
        assert_eq!(caption("123456789012345678901234567890").map(|value| value.is_number()), Ok(true));
        assert!(
            matches!(without_wild_numbers(br#"{"a": [1, -2.5e3, true, null, "NaN"]}"#), Cow::Borrowed(_)),
            "nothing is copied without need"
        );
        for damaged in ["nan", "Infinit", "NaNs", "1e400x", "+1"] {
            assert!(caption(damaged).is_err(), "{damaged} is no JSON");
        }
    }

    #[test]
    fn what_is_no_object_is_named() {
        let deep = format!(r#"{{"caption": {}}}"#, "[".repeat(10_000));
        let closed = format!(r#"{{"caption": {}{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
        for (text, expected) in [
            (r#"["0.jpg"]"#, "expected an object of JSON, got a list"),
            ("\u{feff} [1,", "expected an object of JSON, got a list"),
            (r#""a caption""#, "expected an object of JSON, got a text"),
            ("17", "expected an object of JSON, got a number"),
            ("true", "expected an object of JSON, got true or false"),
            (" null", "expected an object of JSON, got null"),
            ("", "it is empty, expected an object of JSON"),
            ("the door", "it is no JSON: expected ident at line 1 column 2"),
            ("{\"caption\": 1", "it is no JSON: EOF while parsing an object at line 1 column 13"),
            ("{} {}", "it is no JSON: trailing characters at line 1 column 4"),
            (&closed, "it is nested too deep at line 1 column 139"),
            (&deep, "it is nested too deep at line 1 column 139"),
        ] {
            assert_eq!(fields(text.as_bytes(), KNOWN).expect_err("no object"), expected, "{text:.40}");
        }
        assert_eq!(fields(b"{\"caption\": \"caf\xe9\"}", KNOWN).expect_err("Latin-1"), "it is not UTF-8 from byte 16 on; save it as UTF-8");
    }

    #[test]
    fn unknown_fields_are_passed_over_and_of_known_ones_the_last_counts() {
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        let json = format!(r#"{{"x": {deep}, "caption": 1, "y": "\ud800", "boxes": [], "caption": 2, "z": 1e400}}"#);
        let mut found = fields(json.as_bytes(), KNOWN).expect("an object");
        assert_eq!((found.take("caption"), found.take("x"), found.repeated), (Some(2.into()), None, vec!["caption"]));
        let found = fields(b"\xEF\xBB\xBF{\"x\": \"\xe9\", \"caption\": null}", KNOWN).expect("an object").take("caption");
        assert_eq!(found, Some(Value::Null));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..60), json in r#"[\[\]{}":,NaInfity0-9e.\\u d8-]{0,60}"#) {
            let _ = fields(&bytes, KNOWN);
            let _ = fields(json.as_bytes(), KNOWN);
            let _ = fields(format!(r#"{{"caption": {json}}}"#).as_bytes(), KNOWN);
            let _ = all_fields(json.as_bytes());
        }

        #[test]
        fn what_is_json_stays_as_it_is(text in ".{0,20}", number in any::<f64>().prop_filter("finite", |number| number.is_finite())) {
            let json = serde_json::json!({"caption": [text, number, {"NaN": [text]}, null, true]});
            let written = json.to_string();
            let mended = without_wild_numbers(&without_lone_surrogates(written.as_bytes())).into_owned();
            prop_assert_eq!(mended.as_slice(), written.as_bytes());
            let read = fields(written.as_bytes(), KNOWN).expect("an object").take("caption");
            prop_assert_eq!(read.as_ref(), json.get("caption"));
        }
    }
}
