//! Texts in UTF-8 or UTF-16, with or without a byte-order mark.

use std::borrow::Cow;

/// Byte-order mark of UTF-8.
const MARK: &[u8] = b"\xEF\xBB\xBF";

/// Converts a text to UTF-8 and removes a byte-order mark. UTF-16 is recognised by its mark; bytes without one stay as they are.
///
/// # Errors
/// The problem, for people.
///
/// # Source
/// The Unicode Standard, section 23.8: the mark, and the encoding that it implies.
pub(super) fn in_utf8(bytes: &[u8]) -> Result<Cow<'_, [u8]>, String> {
    match bytes {
        [0xFF, 0xFE, 0, 0, ..] | [0, 0, 0xFE, 0xFF, ..] => Err("it is UTF-32; save it as UTF-8".into()),
        [0xFF, 0xFE, units @ ..] => from_utf16(units, u16::from_le_bytes),
        [0xFE, 0xFF, units @ ..] => from_utf16(units, u16::from_be_bytes),
        _ => Ok(Cow::Borrowed(bytes.strip_prefix(MARK).unwrap_or(bytes))),
    }
}

fn from_utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Result<Cow<'static, [u8]>, String> {
    let (units, rest) = bytes.as_chunks::<2>();
    if !rest.is_empty() {
        return Err("it is UTF-16 that ends within a character".into());
    }
    let characters = char::decode_utf16(units.iter().map(|pair| unit(*pair)));
    let text: String = characters.map(|character| character.unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
    Ok(Cow::Owned(text.into_bytes()))
}

/// Checks whether a line of a list is empty: white space, or a lone byte-order mark.
pub(in crate::ingest) fn is_blank(line: &[u8]) -> bool {
    line.strip_prefix(MARK).unwrap_or(line).trim_ascii().is_empty()
}

/// Reads one caption a line; empty lines are skipped.
///
/// # Errors
/// The problem of the text, for people.
pub(in crate::ingest) fn captions_from_text(bytes: &[u8]) -> Result<Vec<String>, String> {
    let text = in_utf8(bytes)?;
    let text = std::str::from_utf8(&text).map_err(|error| not_utf8(&error))?;
    // Concatenated texts keep the marks of their parts.
    let is_space = |character: char| character.is_whitespace() || character == '\u{feff}';
    Ok(text.lines().map(|line| line.trim_matches(is_space)).filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

/// Describes bytes that are not UTF-8.
pub(super) fn not_utf8(error: &std::str::Utf8Error) -> String {
    format!("it is not UTF-8 from byte {} on; save it as UTF-8", error.valid_up_to())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Encodes `text` in UTF-16 after a byte-order mark.
    fn utf16(text: &str, bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
        std::iter::once(0xFEFF).chain(text.encode_utf16()).flat_map(bytes).collect()
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_a_text() {
        for text in [
            b"\xEF\xBB\xBFa caf\xC3\xA9\r\n\r\n two ".to_vec(),
            b"a caf\xC3\xA9\n\xEF\xBB\xBFtwo\n".to_vec(),
            utf16("a café\r\ntwo", u16::to_le_bytes),
            utf16("a café\ntwo\n", u16::to_be_bytes),
        ] {
            assert_eq!(captions_from_text(&text).expect("a text"), ["a café", "two"], "{text:?}");
        }
        assert_eq!(captions_from_text(&utf16("🦊", u16::to_le_bytes)).expect("a text"), ["🦊"]);
        assert_eq!(captions_from_text(b"\xFF\xFE\x3E\xD8a\0").expect("half of a character"), ["\u{fffd}a"]);
        assert_eq!(captions_from_text(b"").expect("nothing"), [""; 0]);
    }

    #[test]
    fn other_encodings_are_named() {
        for (text, expected) in [
            (&b"caf\xe9"[..], "it is not UTF-8 from byte 3 on; save it as UTF-8"),
            (b"\xFF\xFEa", "it is UTF-16 that ends within a character"),
            (b"\xFF\xFE\0\0a\0\0\0", "it is UTF-32; save it as UTF-8"),
        ] {
            assert_eq!(captions_from_text(text).expect_err("no text"), expected);
        }
    }

    #[test]
    fn a_line_of_a_mark_alone_is_blank() {
        assert!([&b""[..], b" \r", b"\xEF\xBB\xBF", b"\xEF\xBB\xBF \r"].into_iter().all(is_blank));
        assert!(!is_blank(b"{}") && !is_blank(b"\xEF\xBB\xBF{}"));
    }
}
