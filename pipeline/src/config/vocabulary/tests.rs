//! Refusals of `[vocabulary]`, and vocabularies over tokenizers.

use std::path::Path;

use cm3flow_schemas::vocabulary::Brackets;
use cm3flow_stages::tokenize::fit_text;

use super::*;
use crate::config::Config;
use crate::error::PipelineError;

const CHAMELEON: &[u8] = include_bytes!("../../../../stages/fixtures/tokenizers/chameleon.json");
const LLAMA: &[u8] = include_bytes!("../../../../stages/fixtures/tokenizers/sentencepiece_bytes.json");

fn config(sections: &str) -> Result<VocabularyConfig> {
    let text = format!("[dataset]\nname = \"d\"\n[[source]]\nname = \"s\"\nformat = \"folder\"\nurl = \"photos\"\n{sections}");
    let config = Config::parse(&text, Path::new("d.toml"))?;
    assert_eq!(crate::config::schema::tests::refused(&text), [""; 0], "{text}");
    Ok(config.vocabulary)
}

fn problems(sections: &str) -> String {
    match config(sections) {
        Err(PipelineError::Config { problems, .. }) => problems.join("\n"),
        other => panic!("{sections} is refused for bad fields, not {other:?}"),
    }
}

fn fitted_tokenizer() -> Vec<u8> {
    fit_text(&["a dog and a dog".to_owned()], 260).expect("fitted")
}

fn mismatch(built: Result<(TextTokenizer, Vocabulary)>) -> String {
    match built {
        Err(error @ PipelineError::Mismatch(_)) => error.with_causes(),
        other => panic!("a mismatch, not {other:?}"),
    }
}

#[test]
fn fitted_is_as_small_as_the_tokenizers_allow() {
    let (tokenizer, vocabulary) = config("").expect("defaults").build(&fitted_tokenizer(), 100, &[]).expect("fits");
    let sizes = VocabularySizes { text: tokenizer.size(), image: 100, sentinels: 64, total: None };
    assert_eq!(vocabulary, Vocabulary::try_new("fitted", &sizes).expect("small"));
    let few = config("[vocabulary]\nsentinels = 2\n").expect("two").build(&fitted_tokenizer(), 100, &[]).expect("fits").1;
    assert_eq!(few.sentinels.len, 2);
}

#[test]
fn cm3leon_has_the_papers_ids_for_any_tokenizer_that_fits() {
    let cm3leon = config("[vocabulary]\npreset = \"cm3leon\"\n").expect("a preset");
    assert_eq!(cm3leon.build(LLAMA, 8192, &[]).expect("fits").1, Vocabulary::cm3leon());
    assert_eq!(mismatch(cm3leon.build(LLAMA, 8193, &[])), "the image tokenizer has 8193 ids, the vocabulary \"cm3leon\" has room for 8192");
}

#[test]
fn further_modalities_are_placed_behind_everything_else_or_where_the_user_says() {
    let audio = "[vocabulary.modalities]\naudio = 500\nvideo = { start = 100000, len = 10 }\n";
    let vocabulary = config(audio).expect("fields").build(&fitted_tokenizer(), 100, &[]).expect("grows").1;
    assert_eq!(vocabulary.modalities["video"], IdRange { start: 100_000, len: 10 });
    assert_eq!((vocabulary.used(), vocabulary.size), (100_010, 100_032));
    let audio = "[vocabulary.modalities]\naudio = 500\n";
    let vocabulary = config(audio).expect("fields").build(&fitted_tokenizer(), 100, &[]).expect("grows").1;
    assert_eq!(vocabulary.modalities["audio"], IdRange { start: vocabulary.sentinels.end(), len: 500 });
    assert!(vocabulary.size >= vocabulary.used() && vocabulary.size.is_multiple_of(64));
    let cm3leon =
        |sections: &str| config(&format!("[vocabulary]\npreset = \"cm3leon\"\n{sections}")).expect("fields").build(LLAMA, 8192, &[]);
    assert_eq!(cm3leon("modalities = { audio = 510 }").expect("as many as are reserved").1.size, 65_536);
    assert!(mismatch(cm3leon("modalities = { audio = 511 }")).contains("vocabulary range audio ends at id 65537"));
    assert_eq!(cm3leon("modalities = { audio = 511 }\nsize = 65600").expect("more ids").1.size, 65_600);
    let overlap = mismatch(cm3leon("modalities = { audio = { start = 56000, len = 1 } }"));
    assert_eq!(overlap, "[vocabulary] contradicts itself: vocabulary ranges text and audio overlap at id 56000");
}

/// Sections of a Chameleon that is not masked.
const PLAIN: &str = "[tokenize.text]\nfile = \"tokenizer.json\"\n[mask]\nmean_spans = 0.0\n[vocabulary]\npreset = \"chameleon\"\n";

#[test]
fn chameleon_takes_ids_over_by_name() {
    let (tokenizer, v) = config(PLAIN).expect("no masks").build(CHAMELEON, 120, &[]).expect("fits");
    assert_eq!((v.image, v.image_order.len()), (IdRange { start: 4, len: 120 }, 120));
    assert_eq!(v.image_brackets, Some(Brackets { open: 125, close: 124 }));
    assert_eq!((v.break_, v.text_first, v.text.start, v.size), (142, 143, 143, 543));
    let tokens = tokenizer.encode("a dog IMGIMGAZ <racm3:break>").expect("bytes");
    assert_eq!(v.text_ids(&tokens), Ok(tokens), "the tokenizer's ids are the model's");
    assert!(mismatch(config(PLAIN).expect("fields").build(CHAMELEON, 121, &[])).contains("the image tokenizer has 121 ids"));
    assert!(
        mismatch(config(PLAIN).expect("fields").build(LLAMA, 120, &[])).starts_with("tokenize.text.file is no tokenizer of Chameleon's")
    );
}

#[test]
fn chameleon_masks_only_with_reserved_tokens() {
    let masked = PLAIN.replace("mean_spans = 0.0", "mean_spans = 1.0");
    let refused = problems(&masked);
    assert!(refused.starts_with("mask.mean_spans must be 0 for a vocabulary without sentinels and span end, got 1"), "{refused}");
    let span_end = "span_end = \"<reserved08705>\"\n";
    for sentinels in [
        "sentinels = { first = \"<reserved08690>\", count = 8 }\n",
        "sentinels = { first = 126, count = 8 }\n",
        "sentinels = [126, \"<reserved08691>\", 128, 129, 130, 131, 132, 133]\n",
    ] {
        let built = config(&format!("{masked}{sentinels}{span_end}")).expect("mapped").build(CHAMELEON, 120, &[]);
        let v = built.expect("fits").1;
        assert_eq!((v.sentinels, v.span_end), (IdRange { start: 126, len: 8 }, Some(141)), "{sentinels}");
        assert!(v.can_mask());
    }
    assert!(problems(&format!("{masked}{span_end}")).contains("must be given together"));
    assert!(problems(&format!("{PLAIN}sentinels = 8\n{span_end}")).contains("sentinels must name reserved tokens"));
    let built = |sentinels: &str| mismatch(config(&format!("{masked}{sentinels}{span_end}")).expect("fields").build(CHAMELEON, 120, &[]));
    assert_eq!(built("sentinels = [126, 128]\n"), "ids of vocabulary.sentinels must follow each other, 128 stands behind 126");
    assert!(built("sentinels = [\"<reserved1>\", 127]\n").contains("<reserved1>"));
    assert!(built("sentinels = { first = 126, count = 100 }\n").contains("overlap"));
}

const SHAPES: &str = "[tokenize.image]\nkind = \"patches\"\nside_px = 64\naspect_buckets = true\n";

/// The grids of [`SHAPES`].
fn grids() -> Vec<Grid> {
    [(4, 16), (8, 8), (16, 4)].map(|(rows, columns)| Grid { rows, columns }).to_vec()
}

#[test]
fn tokens_of_shapes_stand_behind_everything_else_or_are_reserved_ones() {
    let fitted = config(SHAPES).expect("fields").build(&fitted_tokenizer(), 100, &grids()).expect("grows").1;
    let start = fitted.sentinels.end();
    let shapes = ImageShapes { sizes: IdRange { start, len: 3 }, line_end: start + 3, grids: grids() };
    assert_eq!((fitted.shapes.as_ref(), fitted.size.is_multiple_of(64)), (Some(&shapes), true));
    let cm3leon = config(&format!("{SHAPES}[vocabulary]\npreset = \"cm3leon\"\nmodalities = {{ audio = 506 }}\n")).expect("fields");
    let cm3leon = cm3leon.build(LLAMA, 8192, &grids()).expect("as many as are reserved").1;
    assert_eq!((cm3leon.shapes.map(|shapes| shapes.line_end), cm3leon.modalities["audio"].start), (Some(65_029), 65_030));

    let refused = problems(&format!("{SHAPES}{PLAIN}"));
    assert!(refused.contains("vocabulary.sizes = { first = \"<reserved…>\", count = 3 } and vocabulary.line_end"), "{refused}");
    let named = |count: u32| format!("{PLAIN}sizes = {{ first = \"<reserved08690>\", count = {count} }}\nline_end = \"<reserved08705>\"\n");
    let chameleon = |count| config(&format!("{SHAPES}{}", named(count))).expect("mapped").build(CHAMELEON, 120, &grids());
    let shapes = chameleon(3).expect("fits").1.shapes.expect("mapped");
    assert_eq!((shapes.sizes, shapes.line_end), (IdRange { start: 126, len: 3 }, 141));
    assert!(mismatch(chameleon(4)).contains("the grids have 3 different sides, but there are 4 size tokens"));
    assert!(problems(&named(3)).contains("which is off"));
    assert!(problems(&format!("{SHAPES}[vocabulary]\nline_end = 5\n")).contains("are for vocabulary.preset = \"chameleon\""));

    let custom = |vocabulary: &Vocabulary, sections: &str| {
        let written = inline(&serde_json::to_value(vocabulary).expect("plain data"));
        format!("{sections}[vocabulary]\npreset = \"custom\"\ncustom = {written}\n")
    };
    let built = config(&custom(&fitted, SHAPES)).expect("its own fields").build(&fitted_tokenizer(), 100, &grids()).expect("fits");
    assert_eq!(built.1, fitted);
    let others = config(&custom(&fitted, SHAPES)).expect("its own fields").build(&fitted_tokenizer(), 100, &grids()[..2]);
    assert!(mismatch(others).contains("are not those of tokenize.image.aspect_buckets"));
    assert!(problems(&custom(&fitted, "")).contains("must be given together"));
}

#[test]
fn a_custom_vocabulary_is_that_of_a_manifest() {
    let (_, fitted) = config("").expect("defaults").build(&fitted_tokenizer(), 100, &[]).expect("fits");
    let written = format!("[vocabulary]\npreset = \"custom\"\ncustom = {}\n", inline(&serde_json::to_value(&fitted).expect("plain data")));
    assert_eq!(config(&written).expect("its own fields").build(&fitted_tokenizer(), 100, &[]).expect("fits").1, fitted);
    assert!(mismatch(config(&written).expect("fields").build(LLAMA, 100, &[])).contains("the text tokenizer has 480 ids"));
    let without = written.replace("span_end", "begin2");
    assert!(matches!(config(&without), Err(PipelineError::Syntax { .. })), "an unknown field");
    let overlapping = written.replace("pad = 1", "pad = 0");
    assert!(problems(&overlapping).contains("vocabulary.custom: vocabulary ranges <s> and <pad> overlap at id 0"));
    let unmasked = Vocabulary { span_end: None, sentinels: IdRange::default(), ..fitted };
    let written =
        format!("[vocabulary]\npreset = \"custom\"\ncustom = {}\n", inline(&serde_json::to_value(&unmasked).expect("plain data")));
    assert!(problems(&written).contains("mask.mean_spans must be 0"));
    assert!(config(&format!("{written}[mask]\nmean_spans = 0.0\n")).is_ok());
}

/// JSON as TOML writes it on one line.
fn inline(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Object(fields) => {
            let fields: Vec<String> = fields.iter().map(|(name, value)| format!("{name} = {}", inline(value))).collect();
            format!("{{ {} }}", fields.join(", "))
        }
        serde_json::Value::Array(values) => format!("[{}]", values.iter().map(inline).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

#[test]
fn fields_of_other_presets_are_refused() {
    for (sections, wanted) in [
        ("[vocabulary]\npreset = \"custom\"\n", "vocabulary.custom and vocabulary.preset"),
        ("[vocabulary]\npreset = \"cm3leon\"\nsentinels = 64\n", "vocabulary.sentinels are 512"),
        ("[vocabulary]\nsentinels = 1\n", "vocabulary.sentinels must be a number in 2..=512"),
        ("[vocabulary]\nsentinels = [\"<a>\", \"<b>\"]\n", "vocabulary.sentinels must be a number in 2..=512"),
        ("[vocabulary]\nspan_end = 3\n", "vocabulary.span_end is for"),
        ("[vocabulary]\nsize = 0\n", "vocabulary.size must be in 1..=4194304"),
        (
            "[mask]\nmean_spans = 0.0\n[vocabulary]\npreset = \"chameleon\"\n",
            "vocabulary.preset \"chameleon\" needs Chameleon's tokenizer.json",
        ),
    ] {
        assert!(problems(sections).contains(wanted), "{sections}: {}", problems(sections));
    }
    assert!(matches!(config("[vocabulary]\npreset = \"llama\"\n"), Err(PipelineError::Syntax { .. })));
}
