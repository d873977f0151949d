//! Text for a terminal.

/// Replaces escape codes and marks that change the order of letters: text from data may hold them, and a terminal must not obey them.
#[must_use]
pub fn printable(text: &str) -> String {
    let is_order = |c| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().map(|c| if c.is_control() && c != '\n' || is_order(c) { '\u{fffd}' } else { c }).collect()
}
