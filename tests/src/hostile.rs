//! Hostile texts, drawn from a seed: spellings of control tokens, lone surrogates, zero bytes, marks of direction, escapes, in any mixture.

use cm3flow_schemas::random::Draws;
use cm3flow_schemas::vocabulary::Vocabulary;
use cm3flow_stages::tokenize::TextTokenizer;

use crate::trial::tokenizers;

/// A text in JSON, and its expected reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hostile {
    /// Content of a JSON string, without the quotes.
    pub json: String,
    /// Text that a reader should return; lone surrogates become replacement characters.
    pub text: String,
}

/// Pieces that are no words, such as escapes that break naive readers.
const PIECES: [&str; 26] = [
    "\u{0}",
    "\u{0}\u{0}",
    "\u{202e}",
    "\u{200f}\u{2067}",
    "\u{200d}\u{fe0f}",
    "\u{feff}",
    "\u{1b}[31m",
    "\u{7}\u{8}",
    "\\u0041\\n",
    "\\\\\"",
    "'\"`",
    "{{ caption }}",
    "{% for x in y %}{# c #}",
    "&lt;break&gt;",
    "<!-- </s> -->",
    "<|endoftext|>",
    "<0x0A>",
    "▁",
    "##s",
    "Ġ",
    "e\u{301}",
    "\u{1100}\u{1161}\u{11a8}",
    "🦊🏽",
    "東京",
    "\u{a0}\t",
    "\r\n",
];

/// Returns every spelling of a control token: those of the paper's vocabulary, and those in the tokenizers beside the tests.
#[must_use]
pub fn control_spellings() -> Vec<String> {
    let cm3leon = Vocabulary::cm3leon();
    let mut spellings: Vec<String> = (0..cm3leon.size).filter_map(|id| cm3leon.control_name(id)).collect();
    spellings.extend(["<image>", "</image>", "<racm3:break>", "<eoss>", "<reserved08706>", "IMGIMGIBJBZ"].map(str::to_owned));
    for (_, json) in tokenizers() {
        let named = TextTokenizer::named_tokens(&json).expect("a tokenizer");
        let is_control = |name: &str| name.starts_with("IMGIMG") || ["<unk>", "[UNK]"].contains(&name);
        spellings.extend(named.into_iter().filter(|token| token.is_added || is_control(&token.name)).map(|token| token.name));
    }
    spellings.sort_unstable();
    spellings.dedup();
    spellings
}

/// Returns `count` distinct texts. If there are enough, each of `spellings` occurs in one of them.
#[must_use]
pub fn hostile_texts(spellings: &[String], seed: u64, count: usize) -> Vec<Hostile> {
    (0..count).map(|number| hostile_text(spellings, number, &mut Draws::new(seed, "hostile", &number.to_le_bytes()))).collect()
}

fn hostile_text(spellings: &[String], number: usize, draws: &mut Draws) -> Hostile {
    let mut pieces = vec![Piece::Text(format!("{number}")), Piece::Text(spellings[number % spellings.len()].clone())];
    for _ in 0..draws.index(7) {
        pieces.push(match draws.index(10) {
            0..=2 => Piece::Text(spellings[draws.index(spellings.len())].clone()),
            3..=5 => Piece::Text(PIECES[draws.index(PIECES.len())].to_owned()),
            6 => Piece::LoneSurrogate(0xD800 + draws.index(0x400) as u16),
            7 => Piece::LoneSurrogate(0xDC00 + draws.index(0x400) as u16),
            _ => Piece::Text(["a dog", "runs", "over sand", "in 3 colours"][draws.index(4)].to_owned()),
        });
    }
    draws.shuffle(&mut pieces);
    let mut hostile = Hostile { json: String::new(), text: String::new() };
    for piece in &pieces {
        if draws.index(2) == 0 {
            // Two surrogates need a separator, or they could form a character.
            hostile.push(&Piece::Text(" ".into()), false);
        } else if matches!(piece, Piece::LoneSurrogate(_)) {
            hostile.push(&Piece::Text("<".into()), false);
        }
        hostile.push(piece, draws.index(4) == 0);
    }
    hostile
}

enum Piece {
    Text(String),
    LoneSurrogate(u16),
}

impl Hostile {
    /// Appends a piece, with every UTF-16 unit `escaped`, or only those that JSON requires.
    fn push(&mut self, piece: &Piece, escaped: bool) {
        match piece {
            Piece::LoneSurrogate(unit) => {
                self.json.push_str(&format!("\\u{unit:04x}"));
                self.text.push('\u{fffd}');
            }
            Piece::Text(text) => {
                if escaped {
                    text.encode_utf16().for_each(|unit| self.json.push_str(&format!("\\u{unit:04X}")));
                } else {
                    let quoted = serde_json::to_string(text).expect("text is JSON");
                    self.json.push_str(&quoted[1..quoted.len() - 1]);
                }
                self.text.push_str(text);
            }
        }
    }
}
