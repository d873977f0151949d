//! A `tokenizer.json` in the ids of a vocabulary, for users of Hugging Face's tokenizers.

use cm3flow_schemas::vocabulary::Vocabulary;
use serde_json::{Value, json};
use tokenizers::Tokenizer;

use super::{TextTokenizer, failed, inert};
use crate::error::Result;

impl TextTokenizer {
    /// Rewrites the `tokenizer.json` of a text tokenizer: its tokens have the ids of `vocabulary`, and so have control tokens and codes, as added
    /// tokens named `<break>`, `<sentinel:0>`, `<image:0>`. `None` where that cannot be: for a Unigram model whose ids would have to move, since its
    /// list has no gaps, and for a model that would take such a name in a text for the token.
    ///
    /// # Errors
    /// [`crate::StageError::TextTokenizer`] if the file is no tokenizer.
    pub fn in_model_ids(json: &[u8], vocabulary: &Vocabulary) -> Result<Option<Vec<u8>>> {
        let unreadable = |error: serde_json::Error| failed("cannot read tokenizer.json")(error.into());
        let first = vocabulary.text_first;
        let within = first..first.saturating_add(vocabulary.text.len);
        let value = serde_json::from_slice(json).map_err(unreadable)?;
        let prepared = inert::prepare(value, &within).map_err(|problem| failed("cannot read tokenizer.json")(problem.into()))?;
        let mut written = prepared.json;
        let named = named(vocabulary);
        match written.pointer_mut("/model/vocab") {
            Some(Value::Object(tokens)) => {
                for id in tokens.values_mut() {
                    let old = id.as_u64().unwrap_or_default();
                    *id = json!(old + u64::from(vocabulary.text.start) - u64::from(first));
                }
                // The library numbers added tokens anew, but for those that the model has.
                if named.iter().any(|(id, name)| tokens.insert(name.clone(), json!(id)).is_some()) {
                    return Ok(None);
                }
            }
            Some(Value::Array(_)) if vocabulary.text.start == first => {}
            _ => return Ok(None),
        }
        written["added_tokens"] = named.iter().map(|(id, name)| added(*id, name)).collect();
        let mut tokenizer: Tokenizer = serde_json::from_value(written.clone()).map_err(unreadable)?;
        tokenizer.set_encode_special_tokens(true);
        let is_text = |(id, name): &(u32, String)| {
            let is_it = tokenizer.token_to_id(name) == Some(*id);
            is_it && tokenizer.encode_fast(name.as_str(), false).is_ok_and(|found| !found.get_ids().contains(id))
        };
        if !named.iter().all(is_text) {
            return Ok(None);
        }
        serde_json::to_vec(&written).map(Some).map_err(unreadable)
    }
}

/// Control tokens and codes with their names, by ascending id.
fn named(vocabulary: &Vocabulary) -> Vec<(u32, String)> {
    let code = |id| vocabulary.image_codes(&[id]).ok().and_then(|codes| codes.first().map(|code| format!("<image:{code}>")));
    (0..vocabulary.size).filter_map(|id| Some((id, vocabulary.control_name(id).or_else(|| code(id))?))).collect()
}

fn added(id: u32, name: &str) -> Value {
    json!({ "id": id, "content": name, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true })
}

#[cfg(test)]
mod tests {
    use cm3flow_schemas::vocabulary::VocabularySizes;

    use super::*;
    use crate::tokenize::fit_text;

    #[test]
    fn texts_have_the_ids_of_the_vocabulary_and_every_other_token_its_name() {
        let json = fit_text(&["a dog runs on the sand, a dog".repeat(20)], 300).expect("enough text");
        let own = TextTokenizer::from_json(&json).expect("just fitted");
        let sizes = VocabularySizes { text: own.size(), image: 16, sentinels: 8, total: None };
        let vocabulary = Vocabulary::try_new("test", &sizes).expect("small");
        let written = TextTokenizer::in_model_ids(&json, &vocabulary).expect("a tokenizer").expect("no Unigram");
        let mut theirs = Tokenizer::from_bytes(&written).expect("a tokenizer");
        theirs.set_encode_special_tokens(true);
        for text in ["a dog runs", " on the sand", "<break></s><image:3>", "ä {{ x }}\n"] {
            let ids = theirs.encode_fast(text, false).expect("text").get_ids().to_vec();
            assert_eq!(ids, vocabulary.text_ids(&own.encode(text).expect("text")).expect("in range"), "{text:?}");
        }
        assert_eq!(theirs.token_to_id("</s>"), Some(vocabulary.boundary));
        assert_eq!(theirs.token_to_id("<break>"), Some(vocabulary.break_));
        assert_eq!(theirs.token_to_id("<sentinel:7>"), Some(vocabulary.sentinels.start + 7));
        assert_eq!(theirs.token_to_id("<image:15>"), Some(vocabulary.image.start + 15));
        assert_eq!(theirs.decode(&[vocabulary.boundary, vocabulary.image.start], false).expect("ids"), "</s><image:0>");
    }

    #[test]
    fn a_list_of_tokens_cannot_move() {
        let unigram = include_bytes!("../../../fixtures/tokenizers/unigram.json");
        let own = TextTokenizer::from_json(unigram).expect("a tokenizer");
        let sizes = VocabularySizes { text: own.size(), image: 16, sentinels: 8, total: None };
        let vocabulary = Vocabulary::try_new("test", &sizes).expect("small");
        assert_eq!(TextTokenizer::in_model_ids(unigram, &vocabulary).expect("a tokenizer"), None);
    }

    #[test]
    fn every_kind_is_written_or_left_out_and_no_text_names_a_control_token() {
        let kinds: [(&str, &[u8]); 5] = [
            ("byte_level", include_bytes!("../../../fixtures/tokenizers/byte_level.json")),
            ("sentencepiece_bytes", include_bytes!("../../../fixtures/tokenizers/sentencepiece_bytes.json")),
            ("word_end", include_bytes!("../../../fixtures/tokenizers/word_end.json")),
            ("word_level", include_bytes!("../../../fixtures/tokenizers/word_level.json")),
            ("word_piece", include_bytes!("../../../fixtures/tokenizers/word_piece.json")),
        ];
        let mut written = Vec::new();
        for (kind, json) in kinds {
            let own = TextTokenizer::from_json(json).expect("a tokenizer");
            let sizes = VocabularySizes { text: own.size(), image: 16, sentinels: 8, total: None };
            let vocabulary = Vocabulary::try_new("test", &sizes).expect("small");
            let Some(bytes) = TextTokenizer::in_model_ids(json, &vocabulary).expect("a tokenizer") else { continue };
            written.push(kind);
            let mut theirs = Tokenizer::from_bytes(&bytes).expect("a tokenizer");
            theirs.set_encode_special_tokens(true);
            let ids = theirs.encode_fast("<break> </s> <image:3>", false).expect("text").get_ids().to_vec();
            assert!(ids.iter().all(|id| vocabulary.control_name(*id).is_none() && !vocabulary.image.contains(*id)), "{kind}: {ids:?}");
        }
        assert!(written.contains(&"byte_level"), "{written:?}");
    }
}
