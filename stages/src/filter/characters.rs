//! Visible characters of a caption: their number, and the number that is required.

use std::sync::LazyLock;

use regex::Regex;

/// Runs of characters with both width and ink. Others have no width (control and format characters, variation selectors, marks on the
/// character before them, the filler of Hangul) or no ink (spaces, the empty cell of Braille).
static VISIBLE: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"[^\s\p{Cc}\p{Cf}\p{M}\p{Default_Ignorable_Code_Point}\x{2800}]+").expect("a pattern without input"));

/// Characters that can be a word alone: those of Chinese, Japanese and Korean, and those of scripts that write a syllable as one character.
static SYLLABIC: LazyLock<Regex> = LazyLock::new(|| {
    let scripts = [
        "Han Hiragana Katakana Hangul Bopomofo Yi Nushu Tangut Lisu Vai Ethiopic Cherokee Canadian_Aboriginal",
        "Thai Lao Khmer Myanmar Tibetan Tai_Tham Tai_Le New_Tai_Lue Tai_Viet Cham Kayah_Li Javanese Balinese Sundanese Batak Buginese",
        "Tagalog Hanunoo Buhid Tagbanwa Rejang Lepcha Limbu Meetei_Mayek Ol_Chiki Chakma Syloti_Nagri Saurashtra",
        "Devanagari Bengali Gurmukhi Gujarati Oriya Tamil Telugu Kannada Malayalam Sinhala Thaana",
    ];
    let class: String = scripts.iter().flat_map(|line| line.split(' ')).map(|script| format!(r"\p{{{script}}}")).collect();
    Regex::new(&format!("[{class}]")).expect("a pattern without input")
});

/// Counts the visible characters of `text`. White space between two of them counts as one, whatever its length.
pub(super) fn visible(text: &str) -> usize {
    let (mut count, mut end) = (0, None);
    for found in VISIBLE.find_iter(text) {
        let is_apart = end.is_some_and(|end| text[end..found.start()].chars().any(is_blank));
        count += usize::from(is_apart) + found.as_str().chars().count();
        end = Some(found.end());
    }
    count
}

fn is_blank(character: char) -> bool {
    character.is_whitespace() || character == '\u{2800}'
}

/// Returns the number of visible characters required of `text` if `min` are required in general.
pub(super) fn needed(text: &str, min: u32) -> usize {
    if SYLLABIC.is_match(text) { min.min(1) as usize } else { min as usize }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_that_nobody_sees_do_not_count() {
        for (text, expected) in [
            ("", 0),
            ("a lamp", 6),
            (" a \t\n lamp ", 6),
            ("\u{200b}\u{200b}\u{200b}", 0),
            ("\u{200b} \u{200b} \u{200b} \u{200b}", 0),
            ("a\u{200b}b\u{feff}c", 3),
            ("a\u{200b} \u{200b}b", 3),
            ("\u{ad}\u{2060}\u{202e}\u{200f}", 0),
            ("\0\u{1}\u{7f}\u{9d}", 0),
            ("\u{301}\u{302}\u{303}", 0),
            ("e\u{301}e\u{302}", 2),
            ("\u{3164}\u{ffa0}\u{115f}\u{1160}", 0),
            ("\u{fe0f}\u{e0100}\u{180b}", 0),
            ("\u{e0067}\u{e0062}", 0),
            ("\u{2800}\u{2800}\u{2800}", 0),
            ("\u{3000}\u{a0}\u{2003}", 0),
            ("❤\u{fe0f}", 1),
            ("\u{1f469}\u{200d}\u{1f467}", 2),
            ("\u{1f98a}\u{1f98a}", 2),
            ("猫", 1),
            ("ภูเขา", 4),
            ("\u{e000}\u{10ffff}", 2),
        ] {
            assert_eq!(visible(text), expected, "{:?}", text.escape_unicode().to_string());
        }
    }

    #[test]
    fn one_character_is_enough_where_it_can_be_a_word() {
        for text in ["猫", "ね", "ネ", "ﾈ", "강", "ㄅ", "ป", "ມ", "ខ", "က", "མ", "फ", "ப", "ሰ", "Ꭰ", "ꀀ", "a 猫", "𠀀"]
        {
            assert_eq!(needed(text, 3), 1, "{text}");
        }
        for text in ["ab", "кот", "γη", "עץ", "يد", "\u{1f98a}", "", "\u{3000}", "。"] {
            assert_eq!(needed(text, 3), 3, "{text}");
        }
        assert_eq!(needed("猫", 0), 0, "if none are needed, none are");
    }
}
