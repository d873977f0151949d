//! Layout, names, check and comparison of vocabularies.

use super::*;

#[test]
fn cm3leon_fills_sixteen_bits() {
    let vocabulary = Vocabulary::cm3leon();
    assert_eq!((vocabulary.size, vocabulary.image.start, vocabulary.break_), (65_536, 56_320, 64_512));
    assert_eq!((vocabulary.width(), vocabulary.used()), (TokenWidth::U16, 65_026));
    assert!(vocabulary.can_mask());
}

/// A vocabulary as an earlier release wrote it.
const WRITTEN_BEFORE: &str = r#"{"name":"test","size":64,"begin":0,"pad":1,"boundary":2,"unknown":3,"break_":24,"span_end":25,"sentinels":{"start":26,"len":3},"text":{"start":4,"len":10},"image":{"start":14,"len":10}}"#;

#[test]
fn what_was_written_before_reads_and_is_written_the_same() {
    let read: Vocabulary = serde_json::from_str(WRITTEN_BEFORE).expect("the fields of the first format");
    let sizes = VocabularySizes { text: 10, image: 10, sentinels: 3, total: None };
    assert_eq!(read, Vocabulary::try_new("test", &sizes).expect("small"));
    assert_eq!(serde_json::to_string(&read).expect("plain data"), WRITTEN_BEFORE);
    assert!(serde_json::from_str::<Vocabulary>(&WRITTEN_BEFORE.replace("\"pad\"", "\"padding\"")).is_err());
}

#[test]
fn overlap_and_overflow_are_named() {
    let mut vocabulary = Vocabulary::cm3leon();
    vocabulary.image.start -= 1;
    assert_eq!(vocabulary.check(), Err(VocabularyError::Overlap { first: "text".into(), second: "image".into(), id: 56_319 }));
    let sizes = VocabularySizes { text: 100, image: 100, sentinels: 4, total: Some(200) };
    assert!(matches!(Vocabulary::try_new("small", &sizes), Err(VocabularyError::TooLarge { .. })));
    let mut endless = Vocabulary::cm3leon();
    endless.sentinels.len = u32::MAX;
    assert!(matches!(endless.check(), Err(VocabularyError::TooLarge { range, .. }) if range == "sentinels"));
}

#[test]
fn further_modalities_take_part_in_every_check() {
    let with = |name: &str, start, len| {
        let mut vocabulary = Vocabulary::cm3leon();
        vocabulary.modalities.insert(name.into(), IdRange { start, len });
        vocabulary
    };
    assert_eq!(with("audio", 65_026, 510).check(), Ok(()));
    assert!(matches!(with("audio", 65_025, 10).check(), Err(VocabularyError::Overlap { second, .. }) if second == "audio"));
    assert!(matches!(with("audio", 65_026, 511).check(), Err(VocabularyError::TooLarge { range, .. }) if range == "audio"));
    assert!(matches!(with("image", 65_026, 1).check(), Err(VocabularyError::Modality { .. })));
    assert_eq!(with("audio", 65_026, 510).used(), 65_536);
    let error = with("audio", 65_026, 510).check_same(&Vocabulary::cm3leon()).expect_err("one has audio");
    assert_eq!(error.to_string(), r#"vocabularies differ in modalities: {"audio":{"len":510,"start":65026}} here, none there"#);
}

#[test]
fn differing_vocabularies_say_where() {
    let sizes = VocabularySizes { text: 100, image: 100, sentinels: 4, total: None };
    let one = Vocabulary::try_new("one", &sizes).expect("small");
    let two = Vocabulary::try_new("two", &VocabularySizes { image: 101, ..sizes }).expect("small");
    let error = one.check_same(&two).expect_err("image ranges differ");
    assert!(error.to_string().contains("differ in"), "{error}");
    assert!(one.check_same(&Vocabulary { name: "other".into(), ..one.clone() }).is_ok());
    let without = Vocabulary { span_end: None, ..one.clone() };
    assert_eq!(one.check_same(&without).expect_err("one lacks it").to_string(), "vocabularies differ in span_end: 205 here, none there");
    assert!(without.check_same(&one).is_err(), "what only the other side has is noticed as well");
}

#[test]
fn text_is_shifted_or_taken_over() {
    let shifted = Vocabulary::cm3leon();
    assert_eq!(shifted.text_ids(&[0, 56_315]), Ok(vec![4, 56_319]));
    assert_eq!(shifted.text_tokens(&[4, 56_319]), Ok(vec![0, 56_315]));
    assert_eq!(shifted.text_ids(&[56_316]), Err(VocabularyError::OutOfRange { range: "text".into(), value: 56_316, len: 56_316 }));
    assert_eq!(shifted.text_tokens(&[4, 3]), Err(VocabularyError::Foreign { range: "text".into(), id: 3 }));
    let taken = Vocabulary { text_first: 4, ..shifted };
    assert_eq!(taken.text_ids(&[4, 56_319]), Ok(vec![4, 56_319]));
    let error = taken.text_ids(&[3]).expect_err("below the first");
    assert!(error.to_string().contains("text token 3"), "{error}");
}

#[test]
fn an_order_that_is_none_is_refused() {
    let with = |order: Vec<u32>| {
        let sizes = VocabularySizes { text: 4, image: 3, sentinels: 2, total: None };
        Vocabulary { image_order: order, ..Vocabulary::try_new("small", &sizes).expect("small") }
    };
    assert_eq!(with(vec![2, 0, 1]).check(), Ok(()));
    assert_eq!(with(vec![2, 0, 1]).image_ids(&[0, 1, 2]), Ok(vec![10, 8, 9]));
    assert_eq!(with(vec![2, 0, 1]).image_codes(&[10, 8, 9]), Ok(vec![0, 1, 2]));
    for bad in [vec![0, 1], vec![0, 1, 1], vec![0, 1, 3]] {
        assert!(matches!(with(bad.clone()).check(), Err(VocabularyError::Order { .. })), "{bad:?}");
    }
    let error = with(vec![2, 0, 1]).check_same(&with(vec![2, 1, 0])).expect_err("orders differ");
    assert_eq!(error.to_string(), "vocabularies differ in image_order[1]: 0 here, 1 there");
    let written = serde_json::to_string(&with(vec![2, 0, 1])).expect("plain data");
    assert!(written.contains(r#""image_order":"2 0 1""#), "{written}");
    assert_eq!(serde_json::from_str::<Vocabulary>(&written).expect("its own text"), with(vec![2, 0, 1]));
    let garbled = written.replace("2 0 1", "2 x 1");
    assert!(serde_json::from_str::<Vocabulary>(&garbled).expect_err("no number").to_string().contains("\"x\" is no number"));
}

/// Returns the name of a code in Chameleon's tokenizer.
fn image_name(code: u32) -> String {
    let letters: String = code.to_string().bytes().map(|digit| char::from(digit - b'0' + b'A')).collect();
    format!("IMGIMG{letters}Z")
}

/// Returns the names of Chameleon's `tokenizer.json` with `codes` codes. Names of images are in the order of their spelling.
fn chameleon_tokens(codes: u32) -> Vec<NamedToken> {
    let mut names: Vec<String> = ["<s>", "<pad>", "</s>", "<unk>"].map(str::to_owned).into();
    let mut images: Vec<String> = (0..codes).map(image_name).collect();
    images.sort_unstable();
    names.extend(images);
    names.extend(["<eoss>", "<racm3:break>"].map(str::to_owned));
    names.extend((8194..=8706).map(|number| format!("<reserved{number:05}>")));
    names.extend((0..56_825).map(|number| format!("t{number}")));
    names.into_iter().zip(0..).map(|(name, id)| NamedToken { is_added: name.starts_with('<'), name, id }).collect()
}

#[test]
fn chameleon_is_read_from_names() {
    let tokens = chameleon_tokens(8192);
    let v = Vocabulary::chameleon(&tokens).expect("all names are there");
    assert_eq!((v.size, v.begin, v.pad, v.boundary, v.unknown), (65_536, 0, 1, 2, 3));
    assert_eq!(v.image, IdRange { start: 4, len: 8192 });
    assert_eq!(v.image_brackets, Some(Brackets { open: 8197, close: 8196 }));
    assert_eq!((v.break_, v.text, v.text_first), (8710, IdRange { start: 8711, len: 56_825 }, 8711));
    assert!(v.sentinels.len == 0 && v.span_end.is_none() && !v.can_mask());
    assert_eq!(v.width(), TokenWidth::U16);
    for code in 0..8192 {
        let ids = v.image_ids(&[code]).expect("a code");
        assert_eq!(tokens[ids[0] as usize].name, image_name(code));
    }
    let codes: Vec<u32> = (0..8192).collect();
    assert_eq!(v.image_codes(&v.image_ids(&codes).expect("codes")), Ok(codes));
    assert_ne!(v.image_ids(&[1]), Ok(vec![5]), "spellings are not sorted by code");
    assert_eq!(v.text_ids(&[8711, 65_535]), Ok(vec![8711, 65_535]));
    assert!(v.text_ids(&[8710]).is_err());
    assert_eq!(v.control_name(8197).as_deref(), Some("<image>"));
    assert!(serde_json::to_string_pretty(&v).expect("plain data").len() < 50_000);
}

#[test]
fn names_that_are_missing_or_doubled_are_told() {
    let refusal = |change: &dyn Fn(&mut Vec<NamedToken>)| {
        let mut tokens = chameleon_tokens(30);
        change(&mut tokens);
        Vocabulary::chameleon(&tokens).expect_err("something is wrong").to_string()
    };
    let rename = |from: &'static str, to: &'static str| {
        move |tokens: &mut Vec<NamedToken>| tokens.iter_mut().filter(|token| token.name == from).for_each(|token| token.name = to.into())
    };
    assert_eq!(refusal(&rename("<racm3:break>", "x")), "token <racm3:break> cannot be placed: the tokenizer has no token of that name");
    assert!(refusal(&rename("IMGIMGHZ", "x")).starts_with("token IMGIMGIZ cannot be placed: the tokenizer has no name for code 7"));
    assert!(refusal(&rename("t0", "IMGIMGIZ")).contains("two ids"));
    assert!(refusal(&|tokens| tokens.retain(|token| token.name.starts_with('<'))).contains("IMGIMGAZ"));
    let swapped = refusal(&|tokens| {
        let (image, text) = (4, tokens.len() - 1);
        tokens.swap(image, text);
        (tokens[image].id, tokens[text].id) = (image as u32, text as u32);
    });
    assert!(swapped.contains("must follow each other"), "{swapped}");
    // Names with leading zeros, other letters or other suffixes are no codes.
    for name in ["IMGIMGAAZ", "IMGIMGKZ", "IMGIMGZ", "IMGIMGB", "IMGIMGBBBBBBBBBBBBZ"] {
        let mut tokens = chameleon_tokens(30);
        tokens.push(NamedToken { name: name.into(), id: tokens.len() as u32, is_added: true });
        assert_eq!(Vocabulary::chameleon(&tokens).expect("no code").image.len, 30, "{name}");
    }
}
