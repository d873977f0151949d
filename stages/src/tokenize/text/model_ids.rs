//! A `tokenizer.json` in the ids of a vocabulary, for users of Hugging Face's tokenizers.

use cm3flow_schemas::vocabulary::Vocabulary;
use serde_json::{Value, json};

use super::{TextTokenizer, failed, inert};
use crate::error::Result;

impl TextTokenizer {
    /// Rewrites the `tokenizer.json` of a text tokenizer: its tokens have the ids of `vocabulary`, and so have control tokens and codes, as added
    /// tokens named `<break>`, `<sentinel:0>`, `<image:0>`. `None` for a Unigram model whose ids would have to move: its list has no gaps.
    ///
    /// # Errors
    /// [`crate::StageError::TextTokenizer`] if the file is no tokenizer.
    pub fn in_model_ids(json: &[u8], vocabulary: &Vocabulary) -> Result<Option<Vec<u8>>> {
        let unreadable = |error: serde_json::Error| failed("cannot read tokenizer.json")(error.into());
        let first = vocabulary.text_first;
        let within = first..first.saturating_add(vocabulary.text.len);
        let value = serde_json::from_slice(json).map_err(unreadable)?;
        let prepared = inert::prepare(value, &within).map_err(|problem| failed("cannot read tokenizer.json")(problem.into()))?;
        let mut tokenizer = prepared.json;
        match tokenizer.pointer_mut("/model/vocab") {
            Some(Value::Object(tokens)) => {
                for id in tokens.values_mut() {
                    let old = id.as_u64().unwrap_or_default();
                    *id = json!(old + u64::from(vocabulary.text.start) - u64::from(first));
                }
            }
            Some(Value::Array(_)) if vocabulary.text.start == first => {}
            _ => return Ok(None),
        }
        tokenizer["added_tokens"] = added(vocabulary).into();
        serde_json::to_vec(&tokenizer).map(Some).map_err(unreadable)
    }
}

/// Control tokens and codes, by ascending id.
fn added(vocabulary: &Vocabulary) -> Vec<Value> {
    let code = |id| vocabulary.image_codes(&[id]).ok().and_then(|codes| codes.first().map(|code| format!("<image:{code}>")));
    let token = |id: u32| {
        let name = vocabulary.control_name(id).or_else(|| code(id))?;
        Some(json!({
            "id": id, "content": name, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true
        }))
    };
    (0..vocabulary.size).filter_map(token).collect()
}

#[cfg(test)]
mod tests {
    use cm3flow_schemas::vocabulary::VocabularySizes;
    use tokenizers::Tokenizer;

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
}
