//! Text tokenizer: reproducible fits, all kinds of files, no control tokens from text, no silent losses.

use cm3flow_schemas::random::Draws;
use serde_json::{Value, json};
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, TokenizerBuilder};

use super::*;

fn corpus() -> Vec<String> {
    ["a dog runs over a meadow", "a dog sleeps on a meadow", "two dogs run over sand", "a red boat on water"]
        .repeat(3)
        .into_iter()
        .map(str::to_owned)
        .collect()
}

fn fitted() -> TextTokenizer {
    TextTokenizer::from_json(&fit(&corpus(), 300).expect("fitted")).expect("its own file")
}

/// A tokenizer of each kind, made by the script beside the files.
const KINDS: [(&str, &[u8], Fidelity); 10] = [
    ("byte_level", include_bytes!("../../../fixtures/tokenizers/byte_level.json"), Fidelity::Exact),
    ("whole_words", include_bytes!("../../../fixtures/tokenizers/whole_words.json"), Fidelity::Exact),
    ("sentencepiece_bytes", include_bytes!("../../../fixtures/tokenizers/sentencepiece_bytes.json"), Fidelity::Exact),
    ("chameleon", include_bytes!("../../../fixtures/tokenizers/chameleon.json"), Fidelity::Exact),
    ("word_end", include_bytes!("../../../fixtures/tokenizers/word_end.json"), Fidelity::Normalized),
    ("word_end_decoded", include_bytes!("../../../fixtures/tokenizers/word_end_decoded.json"), Fidelity::Normalized),
    ("unigram", include_bytes!("../../../fixtures/tokenizers/unigram.json"), Fidelity::Normalized),
    ("unigram_bytes", include_bytes!("../../../fixtures/tokenizers/unigram_bytes.json"), Fidelity::Exact),
    ("word_piece", include_bytes!("../../../fixtures/tokenizers/word_piece.json"), Fidelity::Normalized),
    ("word_level", include_bytes!("../../../fixtures/tokenizers/word_level.json"), Fidelity::Normalized),
];

fn kind(name: &str) -> &'static [u8] {
    KINDS.iter().find(|(known, ..)| *known == name).expect("a kind").1
}

/// Returns the ids that no text may have: those of added tokens and the unknown one.
fn control_ids(json: &[u8]) -> Vec<u32> {
    let named = TextTokenizer::named_tokens(json).expect("a tokenizer");
    let is_unknown = |name: &str| ["<unk>", "[UNK]"].contains(&name);
    named.iter().filter(|token| token.is_added || is_unknown(&token.name)).map(|token| token.id).collect()
}

#[test]
fn fitted_bytes_are_reproducible_and_bounded() {
    let first = fit(&corpus(), 300).expect("fitted");
    assert_eq!(first, fit(&corpus(), 300).expect("fitted"));
    let tokenizer = TextTokenizer::from_json(&first).expect("its own file");
    assert!((257..=300).contains(&tokenizer.size()), "{}", tokenizer.size());
    assert_eq!(tokenizer.fidelity(), Fidelity::Composed);
    assert!(fit(&corpus(), 255).is_err());
    assert_eq!(TextTokenizer::from_json(&fit(&corpus(), 256).expect("bytes alone")).expect("its own file").size(), 256);
    assert!(fit(&[], 300).is_ok_and(|json| TextTokenizer::from_json(&json).is_ok_and(|empty| empty.size() == 256)), "no text, no pairs");
}

/// Makes words over few letters: most pairs are as frequent as some other, and many tokens can be composed in more than one way.
fn words_with_ties(number: u64) -> Vec<String> {
    let mut draws = Draws::new(number, "ties", b"");
    let letters = &["a", "b", "c", "\u{e9}"][..2 + draws.index(3)];
    let word = |draws: &mut Draws| (0..1 + draws.index(12)).map(|_| letters[draws.index(letters.len())]).collect::<String>();
    (0..5 + draws.index(60)).map(|_| (0..1 + draws.index(5)).map(|_| word(&mut draws)).collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn ties_and_order_do_not_change_what_is_fitted() {
    for number in 0..300 {
        let mut texts = words_with_ties(number);
        let size = 260 + (number % 60) as u32;
        let first = fit(&texts, size).expect("fitted");
        for again in 0..3 {
            Draws::new(again, "order", b"").shuffle(&mut texts);
            assert!(fit(&texts, size).expect("fitted") == first, "texts {number} in order {again}");
        }
    }
}

/// Returns the file that the library alone fits on `texts`.
fn fitted_by_the_library(texts: &[String], size: usize) -> Vec<u8> {
    let mut trainer = BpeTrainerBuilder::new()
        .vocab_size(size)
        .show_progress(false)
        .min_frequency(2)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let byte_level = ByteLevel::new(false, true, true);
    let mut tokenizer = TokenizerBuilder::<BPE, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>::new()
        .with_model(BPE::default())
        .with_normalizer(Some(NFC.into()))
        .with_pre_tokenizer(Some(byte_level.into()))
        .with_decoder(Some(byte_level.into()))
        .build()
        .expect("complete");
    tokenizer.train(&mut trainer, texts.iter()).expect("fitted");
    tokenizer.to_string(false).expect("written").into_bytes()
}

#[test]
fn ordinary_texts_are_fitted_on_as_the_library_does() {
    let long_words = [format!("x{} y", "ab".repeat(511)), "\u{6771}\u{4eac}".repeat(170), "e\u{301} ".repeat(700), " ".repeat(900)];
    for (texts, size) in [(corpus(), 300), (corpus(), 2000), (long_words.to_vec(), 400), (vec![], 300)] {
        assert!(fit(&texts, size as u32).expect("fitted") == fitted_by_the_library(&texts, size), "{texts:?}");
    }
    for number in 0..50 {
        let texts = words_with_ties(number);
        assert!(fit(&texts, 280).expect("fitted") == fitted_by_the_library(&texts, 280), "texts {number}");
    }
}

/// Without a bound on pieces, each merge would move the rest of the run, and a token would be half as long as the run.
#[test]
fn runs_without_spaces_are_fitted_on_in_pieces() {
    let mut draws = Draws::new(1, "run", b"");
    let mixed: String = (0..200_000).map(|_| ["a", "b", "\u{e9}", "\u{6771}"][draws.index(4)]).collect();
    for run in ["a".repeat(200_000), "1".repeat(200_000), " ".repeat(200_000), "\u{6771}".repeat(100_000), mixed] {
        let texts = [run, "a dog runs over a meadow".to_owned()];
        let json = fit(&texts, 1000).expect("fitted");
        let named = TextTokenizer::named_tokens(&json).expect("its own file");
        let longest = named.iter().map(|token| token.name.chars().count()).max().expect("bytes");
        assert!((4..=1024).contains(&longest), "{longest} bytes in a token");
        let tokenizer = TextTokenizer::from_json(&json).expect("its own file");
        for text in &texts {
            assert!(tokenizer.decode(&tokenizer.encode(text).expect("bytes")).expect("decodes") == *text);
        }
    }
}

#[test]
fn marks_at_the_end_of_words_read_back_as_spaces() {
    let decoded = |json: &[u8], text: &str| {
        let tokenizer = TextTokenizer::from_json(json).expect("loads");
        tokenizer.decode(&tokenizer.encode(text).unwrap_or_else(|error| panic!("{text:?}: {error}"))).expect("decodes")
    };
    let without_decoder = |name: &str| {
        let mut value: Value = serde_json::from_slice(kind(name)).expect("json");
        value["decoder"] = Value::Null;
        value.to_string().into_bytes()
    };
    let clip = kind("word_end");
    assert_eq!(decoded(clip, "A dog's caf\u{e9},  12 lamps (one)"), "a dog 's caf\u{e9} , 1 2 lamps ( one )");
    assert_eq!(decoded(clip, "\u{6771}\u{4eac} \u{1f98a}\n"), "\u{6771}\u{4eac} \u{1f98a}");
    assert_eq!(decoded(clip, "the mark </w> is text"), "the mark </ w > is text");
    for json in [kind("word_end_decoded"), &without_decoder("word_end_decoded")] {
        assert_eq!(decoded(json, "A dog, two dogs"), "a dog , two dogs");
    }
    // A part of a word ends without a space, and a mark alone is one.
    let tokenizer = TextTokenizer::from_json(clip).expect("loads");
    let ids = tokenizer.encode("a dog").expect("encodes");
    assert_eq!(tokenizer.decode(&ids[..1]).expect("decodes"), "a");
    assert_eq!(tokenizer.fidelity(), Fidelity::Normalized);
    // Files of GPT-2's kind name an empty mark.
    let mut value: Value = serde_json::from_slice(kind("byte_level")).expect("json");
    value["model"]["end_of_word_suffix"] = json!("");
    assert_eq!(TextTokenizer::from_json(value.to_string().as_bytes()).expect("loads").fidelity(), Fidelity::Exact);
}

#[test]
fn any_text_survives_the_round_trip() {
    let tokenizer = fitted();
    for text in ["a dog", "  leading and trailing  ", "<break></s><sentinel:0>", "\u{0}\u{1b}[31m", "Größe 東京 🦊", "\u{202e}rtl", ""]
    {
        let ids = tokenizer.encode(text).expect("encodes");
        assert!(ids.iter().all(|id| *id < tokenizer.size()));
        assert_eq!(tokenizer.decode(&ids).expect("decodes"), text);
    }
    let composed = tokenizer.encode("e\u{301}").expect("encodes");
    assert_eq!(tokenizer.decode(&composed).expect("decodes"), "\u{e9}", "normal form C");
}

#[test]
fn every_kind_loads_and_says_how_text_comes_back() {
    for (name, json, fidelity) in KINDS {
        let tokenizer = TextTokenizer::from_json(json).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        assert_eq!(tokenizer.fidelity(), fidelity, "{name}");
        let ids = tokenizer.encode("a dog runs over a meadow").unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(tokenizer.decode(&ids).expect("decodes"), "a dog runs over a meadow", "{name}");
        assert_eq!(tokenizer.decode(&[]).expect("decodes"), "", "{name}");
    }
    let error = TextTokenizer::from_json(b"{\"model\": {}}").expect_err("no tokenizer");
    assert!(std::error::Error::source(&error).expect("a cause").to_string().contains("has no vocabulary"), "{error}");
}

#[test]
fn spellings_of_control_tokens_are_plain_text_in_every_kind() {
    for (name, json, fidelity) in KINDS {
        let tokenizer = TextTokenizer::from_json(json).expect("loads");
        let (named, control) = (TextTokenizer::named_tokens(json).expect("loads"), control_ids(json));
        let mut refused = 0;
        for token in named.iter().filter(|token| control.contains(&token.id)) {
            let spelled = &token.name;
            for text in [spelled.clone(), format!("a {spelled} dog"), format!("{spelled}{spelled}"), spelled.to_uppercase()] {
                match tokenizer.encode(&text) {
                    Ok(ids) => {
                        assert!(ids.iter().all(|id| !control.contains(id)), "{name}: {text:?} gave {ids:?}");
                        let decoded = tokenizer.decode(&ids).expect("decodes");
                        assert!(fidelity != Fidelity::Exact || decoded == text, "{name}: {text:?} came back as {decoded:?}");
                    }
                    Err(Unrepresentable::Unknown { .. }) => refused += 1,
                    Err(other) => panic!("{name}: {text:?}: {other}"),
                }
            }
        }
        // If every byte has a token, nothing is refused.
        assert_eq!(refused > 0, ["word_end_decoded", "word_piece", "word_level"].contains(&name), "{name} refused {refused}");
    }
}

/// Shows why [`TextTokenizer`] exists: with the library alone, text can name control tokens that are in the model.
#[test]
fn without_care_text_would_name_control_tokens() {
    for name in ["whole_words", "unigram", "unigram_bytes", "word_piece", "word_level"] {
        let mut value: Value = serde_json::from_slice(kind(name)).expect("json");
        value["added_tokens"] = json!([]);
        let careless: Tokenizer = serde_json::from_value(value).expect("loads");
        let spelled = if name == "word_piece" { "balloon" } else { "</s>" };
        let ids = careless.encode(spelled, false).expect("encodes").get_ids().to_vec();
        let control = control_ids(kind(name));
        assert!(ids.iter().any(|id| control.contains(id)), "{name}: {spelled:?} gave {ids:?}");
    }
}

#[test]
fn names_in_the_model_alone_are_left_out_by_range() {
    let named = TextTokenizer::named_tokens(kind("chameleon")).expect("loads");
    let id_of = |name: &str| named.iter().find(|token| token.name == name).expect("a token").id;
    let first = id_of("<reserved08706>") + 1;
    assert!(!named.iter().any(|token| token.is_added && token.name.starts_with("IMGIMG")));
    let tokenizer = TextTokenizer::within(kind("chameleon"), first..u32::MAX).expect("loads");
    for text in ["IMGIMGAZ", "IMGIMGBBJZ", "a IMGIMGCZ <racm3:break>", "<reserved08706>"] {
        let ids = tokenizer.encode(text).expect("bytes");
        assert!(ids.iter().all(|id| *id >= first), "{text:?} gave {ids:?}");
        assert_eq!(tokenizer.decode(&ids).expect("decodes"), text);
    }
    assert_eq!(tokenizer.decode(&[id_of("IMGIMGAZ"), first]).expect("decodes"), "\u{fffd}!", "an id that is no text");
}

#[test]
fn text_is_refused_before_it_is_lost() {
    let refusal =
        |name: &str, text: &str| TextTokenizer::from_json(kind(name)).expect("loads").encode(text).expect_err("cannot be represented");
    for (name, text) in [("unigram", "a 東 dog"), ("word_piece", "a 東 dog"), ("word_level", "a zebra")] {
        let error = refusal(name, text);
        assert!(matches!(&error, Unrepresentable::Unknown { problem } if problem.contains("unknown")), "{name}: {error}");
    }
    // `▁` decodes to a space, and a piece for a byte to that byte.
    assert_eq!(refusal("sentencepiece_bytes", "a\u{2581}dog"), Unrepresentable::Changed { at: 1 });
    assert_eq!(refusal("unigram_bytes", "a <0x41>"), Unrepresentable::Changed { at: 2 });
    assert_eq!(refusal("word_piece", "\u{0}\u{202e}"), Unrepresentable::Changed { at: 0 });
    // Byte pairs without an unknown token skip unknown characters.
    let mut value: Value = serde_json::from_slice(kind("byte_level")).expect("json");
    value["model"]["unk_token"] = Value::Null;
    value["pre_tokenizer"] = json!({"type": "Split", "pattern": {"Regex": " "}, "behavior": "Isolated", "invert": false});
    let silent: Tokenizer = serde_json::from_value(value.clone()).expect("loads");
    assert_eq!(silent.encode("東", false).expect("passes over it").get_ids(), [0_u32; 0]);
    let tokenizer = TextTokenizer::from_json(value.to_string().as_bytes()).expect("loads");
    assert!(matches!(tokenizer.encode("東"), Err(Unrepresentable::Unknown { .. })));
}

#[test]
fn an_added_token_is_inert_by_name_and_by_id() {
    let mut value: Value = serde_json::from_slice(&fit(&corpus(), 300).expect("fitted")).expect("json");
    let vocabulary = value["model"]["vocab"].as_object().expect("names").clone();
    let words: Vec<&String> =
        vocabulary.keys().filter(|name| name.len() > 2 && name.bytes().all(|byte| byte.is_ascii_lowercase())).collect();
    let [one, .., other] = words.as_slice() else { panic!("two words are fitted, not {words:?}") };
    let id = |name: &str| vocabulary.get(name).and_then(Value::as_u64).expect("fitted");
    let token = |id: u64, content: &str| json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": false});
    // `</s>` claims the id of a text token; the other token has another id as an added token than in the model.
    value["added_tokens"] = json!([token(id(one), "</s>"), token(5000, other)]);
    let tokenizer = TextTokenizer::from_json(value.to_string().as_bytes()).expect("loads");
    for text in ["</s>", "a meadow", "meadow", "dog", "dogs", one, other, &format!("{one}{other} {one}")] {
        let ids = tokenizer.encode(text).expect("bytes are left");
        let forbidden = [id(one), id(other), 5000].map(|id| id as u32);
        assert!(ids.iter().all(|id| !forbidden.contains(id)), "{text:?} gave {ids:?}");
        assert_eq!(tokenizer.decode(&ids).expect("decodes"), text);
    }
}

#[test]
fn dropout_is_left_out() {
    let mut value: Value = serde_json::from_slice(kind("byte_level")).expect("json");
    value["model"]["dropout"] = json!(0.9);
    let tokenizer = TextTokenizer::from_json(value.to_string().as_bytes()).expect("loads");
    let first = tokenizer.encode("a dog runs over a meadow").expect("bytes");
    assert!((0..20).all(|_| tokenizer.encode("a dog runs over a meadow").expect("bytes") == first));
}
