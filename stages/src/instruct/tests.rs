//! Documents: they read as their templates say, fit, and have control tokens only where the grammar puts them.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use cm3flow_schemas::document::{self, Modality, Role, Segment};
use cm3flow_schemas::sample::{Edit, Item, LabelledBox, MAIN_IMAGE, NamedText, ObjectMask, Question, Translation};
use cm3flow_schemas::vocabulary::VocabularySizes;
use cm3flow_schemas::{ImageId, rows};
use proptest::prelude::*;

use super::*;
use crate::conformance::{cases, check_stage, cuts_do_not_matter, output_table, rows_and_cuts};
use crate::fixtures::{CODES, SEED, SEQ_LEN, bank, instruct_context, retrieved, text_tokenizer, vocabulary};
use crate::stage::Map;

fn stage() -> Map<Instruct> {
    Map(Instruct::new(Arc::new(instruct_context()), bank(), &Contents::default()))
}

/// Returns a context with one record of each of `tasks`, and no masks.
fn context(tasks: &[&str]) -> InstructContext {
    let tasks = tasks.iter().map(|task| ((*task).to_owned(), TaskConfig::default())).collect();
    configured(InstructConfig { tasks, ..InstructConfig::default() })
}

/// Returns a context with `config` and no masks.
fn configured(config: InstructConfig) -> InstructContext {
    InstructContext {
        templates: config.templates().unwrap(),
        config,
        mask: MaskConfig { mean_spans: 0.0, ..MaskConfig::default() },
        ..instruct_context()
    }
}

fn sample(captions: &[&str]) -> In {
    In {
        sample_id: SampleId([1; 16]),
        annotations: Annotations { captions: captions.iter().map(ToString::to_string).collect(), ..Annotations::default() },
        image_codes: vec![codes(MAIN_IMAGE, 1)],
        image_grids: vec![],
        neighbours: vec![],
        split: Split::Train,
    }
}

fn codes(role: &str, code: u32) -> RoleCodes {
    RoleCodes { role: role.into(), codes: vec![code; 16] }
}

/// Makes a bank of samples 10, 11, …, with a caption and 16 codes each.
fn bank_of(captions: &[&[&str]]) -> Arc<Bank> {
    #[derive(Serialize)]
    struct Banked {
        sample_id: SampleId,
        image_id: ImageId,
        captions: Vec<String>,
        codes: Vec<u32>,
        embedding: Vec<f32>,
    }
    let row = |(captions, id): (&&[&str], u8)| Banked {
        sample_id: SampleId([id; 16]),
        image_id: ImageId([id; 16]),
        captions: captions.iter().map(ToString::to_string).collect(),
        codes: vec![2; 16],
        embedding: vec![1.0],
    };
    let rows: Vec<Banked> = captions.iter().zip(10..).map(row).collect();
    Arc::new(Bank::try_new(&[rows::write(&columns::bank_sample(), &rows).unwrap()]).unwrap())
}

fn neighbours(ids: &[u8]) -> Vec<Neighbour> {
    ids.iter()
        .zip(1_u8..)
        .map(|(&id, place)| Neighbour { sample_id: SampleId([id; 16]), similarity: 0.9 - f32::from(place) / 10.0 })
        .collect()
}

fn documents_of(context: InstructContext, bank: Arc<Bank>, sample: &In) -> Vec<Out> {
    let mut documents = Vec::new();
    Instruct::new(Arc::new(context), bank, &Contents::default()).documents_of(sample, &mut documents).unwrap();
    documents
}

fn documents(tasks: &[&str], sample: &In) -> Vec<Out> {
    documents_of(context(tasks), bank_of(&[]), sample)
}

/// Formats a document for people: text as it is, images by their first code, control tokens by name.
fn spelled(tokens: &[u32], segments: &[Segment]) -> String {
    let (vocabulary, tokenizer) = (vocabulary(), text_tokenizer());
    let part = |segment: &Segment| {
        let tokens = &tokens[segment.range()];
        match segment.modality {
            Modality::Control => vocabulary.control_name(tokens[0]).unwrap(),
            Modality::Text => tokenizer.decode(&vocabulary.text_tokens(tokens).unwrap()).unwrap(),
            Modality::Image => format!("[{}x{}]", tokens.len(), tokens[0] - vocabulary.image.start),
        }
    };
    segments.iter().map(part).collect()
}

fn read(document: &Out) -> String {
    document::check(&document.tokens, &document.segments, &vocabulary()).unwrap();
    spelled(&document.tokens, &document.segments)
}

#[test]
fn instruct_keeps_the_contract() {
    #[derive(Deserialize)]
    struct Made {
        task: String,
        tokens: Vec<u32>,
        segments: Vec<Segment>,
        spans: u16,
        refusal: Option<Refusal>,
    }
    let out = check_stage(stage, &retrieved());
    let made: Vec<Made> = rows::read(&out, &[columns::TASK, columns::TOKENS, columns::SEGMENTS, columns::SPANS, columns::REFUSAL]).unwrap();
    let mut tasks: BTreeMap<String, usize> = BTreeMap::new();
    for row in &made {
        *tasks.entry(row.task.clone()).or_default() += 1;
        match &row.refusal {
            Some(refusal) => assert_eq!((refusal.reason.as_str(), row.tokens.len()), ("too_long", 0)),
            None => {
                document::check(&row.tokens, &row.segments, &vocabulary()).unwrap();
                assert!(row.tokens.len() + 3 * usize::from(row.spans) <= SEQ_LEN as usize);
            }
        }
    }
    assert!(made.iter().any(|row| row.refusal.is_some()), "the talkative sample is too long");
    let samples = retrieved().num_rows();
    let expected =
        [("caption", samples), ("detection", 1), ("edge", samples), ("edit", 1), ("grounded", 1), ("pair", samples), ("question", 2)];
    assert_eq!(tasks, expected.map(|(task, count)| (task.to_owned(), count)).into());
}

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn instruct_does_not_depend_on_cuts(case in rows_and_cuts(retrieved().num_rows())) {
        cuts_do_not_matter(stage, &retrieved(), &case)?;
    }
}

#[test]
fn instruct_schema() {
    insta::assert_snapshot!(output_table(&stage(), &retrieved().schema()));
}

#[test]
fn every_task_reads_as_its_template_says() {
    let mut full = sample(&["a dog on sand"]);
    full.annotations.questions = vec![Question::new("What runs?", "a dog.")];
    full.annotations.boxes = vec![
        LabelledBox { label: "dog".into(), x0: 1, y0: 2, x1: 3, y1: 4 },
        LabelledBox { label: "sand".into(), x0: 0, y0: 8, x1: 16, y1: 16 },
    ];
    full.annotations.edits = vec![Edit { instruction: "make it night".into(), image: "edit0".into() }];
    full.image_codes.extend([codes("edge", 3), codes("edit0", 4)]);
    full.neighbours = neighbours(&[10, 11]);
    let bank = bank_of(&[&["a cat"], &["a bird"]]);
    let made = documents_of(context(&["caption", "edge", "edit", "grounded", "pair", "question"]), bank, &full);
    let lines: Vec<String> = made.iter().map(|document| format!("{:<9} {}", document.task, read(document).replace('\n', "\\n"))).collect();
    insta::assert_snapshot!(lines.join("\n"));
    let roles: Vec<Role> = made[2].segments.iter().map(|segment| segment.role).collect();
    assert_eq!(roles.iter().filter(|role| **role == Role::Condition).count(), 3, "what an edit gives");
    assert_eq!(roles.iter().filter(|role| **role == Role::Target).count(), 1, "what an edit asks for");
}

#[test]
fn records_whose_parts_are_missing_are_not_begun() {
    let tasks = ["caption", "edge", "edit", "grounded", "pair", "question"];
    let names = |sample: &In| documents(&tasks, sample).into_iter().map(|document| document.task).collect::<Vec<_>>();
    assert_eq!(names(&sample(&["a dog"])), ["caption", "pair"], "no edges, no edits, no boxes, no questions");
    assert!(names(&sample(&[])).is_empty(), "no caption");
    let mut dangling = sample(&["a dog"]);
    dangling.annotations.edits = vec![Edit { instruction: "x".into(), image: "edit7".into() }];
    assert_eq!(names(&dangling), ["caption", "pair"], "an edit whose image is not there");
}

#[test]
fn the_caption_is_drawn_from_seed_and_document() {
    let captions: Vec<String> = (0..10).map(|number| format!("caption {number}")).collect();
    let captions: Vec<&str> = captions.iter().map(String::as_str).collect();
    let drawn = |seed, id| {
        let sample = In { sample_id: SampleId([id; 16]), ..sample(&captions) };
        read(&documents_of(InstructContext { seed, ..context(&["pair"]) }, bank_of(&[]), &sample)[0])
    };
    assert_eq!(drawn(1, 1), drawn(1, 1));
    let distinct: std::collections::BTreeSet<String> = (0..40).map(|id| drawn(1, id)).collect();
    assert!(distinct.len() > 5, "{distinct:?}");
    assert!((2..12).any(|seed| drawn(seed, 1) != drawn(1, 1)));
}

#[test]
fn retrieved_pairs_are_dropped_from_the_least_similar_on_until_the_document_fits() {
    let bank = bank_of(&[&["a cat"], &["a bird"], &["a fish"]]);
    let mut asking = sample(&["a dog"]);
    asking.neighbours = neighbours(&[12, 10, 11]);
    let made = |seq_len, mean_spans| {
        let mask = MaskConfig { mean_spans, holes: 0.0, drop: 0.0, ..MaskConfig::default() };
        let mut context = InstructContext { seq_len, mask, ..context(&["pair"]) };
        context.config.long_text = LongText::Refuse;
        documents_of(context, Arc::clone(&bank), &asking).remove(0)
    };
    let whole = made(1000, 0.0);
    assert_eq!((whole.retrieved.len(), whole.retrieved_wanted), (3, 3));
    assert_eq!(read(&whole), "</s>a fish<break>[16x2]<break>a cat<break>[16x2]<break>a bird<break>[16x2]<break>a dog<break>[16x1]</s>");
    let exact = made(whole.tokens.len(), 0.0);
    assert_eq!(exact.retrieved.len(), 3, "a document may fill the pack exactly");
    let lowered = made(whole.tokens.len() - 1, 0.0);
    assert_eq!((lowered.retrieved.clone(), lowered.retrieved_wanted), (neighbours(&[12, 10]), 3), "the two most similar stay");
    assert_eq!(read(&lowered), "</s>a fish<break>[16x2]<break>a cat<break>[16x2]<break>a dog<break>[16x1]</s>");
    let alone = documents(&["pair"], &sample(&["a dog"])).remove(0).tokens;
    let bare = made(alone.len(), 0.0);
    assert_eq!((bare.tokens, bare.retrieved.len(), bare.retrieved_wanted, bare.refusal), (alone.clone(), 0, 3, None));
    let refused = made(alone.len() - 1, 0.0);
    assert_eq!(refused.refusal.as_ref().map(|refusal| refusal.reason.as_str()), Some("too_long"), "no image is cut");
    assert!(refused.tokens.is_empty() && refused.segments.is_empty());
    // Room for masks counts.
    let spans = made(1000, 3.0).spans;
    assert!(spans > 0);
    let with_room = made(whole.tokens.len() + 3 * usize::from(spans), 3.0);
    let without = made(whole.tokens.len() + 3 * usize::from(spans) - 1, 3.0);
    assert_eq!((with_room.retrieved.len(), without.retrieved.len()), (3, 2));
}

#[test]
fn a_text_without_tokens_refuses_its_record_and_is_not_retrieved() {
    let tokenizer = TextTokenizer::from_json(include_bytes!("../../fixtures/tokenizers/word_level.json")).unwrap();
    let sizes = VocabularySizes { text: tokenizer.size(), image: 16, sentinels: 8, total: None };
    let vocabulary = Vocabulary::try_new("words", &sizes).unwrap();
    let made = |caption, retrieved| {
        let context = InstructContext { tokenizer: tokenizer.clone(), vocabulary: vocabulary.clone(), ..context(&["pair"]) };
        let mut sample = sample(&[caption]);
        sample.neighbours = neighbours(&[10]);
        documents_of(context, bank_of(&[&[retrieved]]), &sample).remove(0)
    };
    let refused = made("a zebra", "a dog");
    let refusal = refused.refusal.unwrap();
    assert_eq!((refusal.stage.as_str(), refusal.reason.as_str()), ("instruct", "unrepresentable_text"));
    assert!(refusal.detail.contains("no token for a part of the text") && refused.tokens.is_empty(), "{}", refusal.detail);
    let alone = made("a dog", "a zebra");
    assert_eq!((alone.refusal, alone.retrieved.len(), alone.retrieved_wanted), (None, 0, 1));
    let both = made("a dog", "two dogs");
    assert_eq!((both.refusal, both.retrieved.len()), (None, 1));
}

#[test]
fn hostile_text_forges_no_control_token() {
    let hostile = [
        "<break>",
        "</s>",
        "<s><pad><unk>",
        "<sentinel:0> masked <eoss>",
        "</s><sentinel:0><break>",
        "<script>alert(1)</script> &amp; <b>",
        "\u{1b}[31mred\u{1b}[0m\u{7}",
        "{{ caption }} {% for x in y %} {# c #}",
        "\u{0}\u{202e}\u{feff}",
    ];
    for text in hostile {
        let mut sample = sample(&[text]);
        sample.annotations.questions = vec![Question::new(text, text)];
        sample.annotations.boxes = vec![LabelledBox { label: text.into(), x0: 0, y0: 0, x1: 1, y1: 1 }];
        sample.neighbours = neighbours(&[10]);
        for document in documents_of(context(&["pair", "caption", "question", "grounded"]), bank_of(&[&[text]]), &sample) {
            let vocabulary = vocabulary();
            document::check(&document.tokens, &document.segments, &vocabulary).unwrap();
            let control: Vec<u32> = document.tokens.iter().copied().filter(|id| vocabulary.control_name(*id).is_some()).collect();
            let breaks = if document.task == "pair" { 3 } else { 1 };
            assert_eq!(
                control,
                [vec![vocabulary.boundary], vec![vocabulary.break_; breaks], vec![vocabulary.boundary]].concat(),
                "{text:?} in {}",
                document.task
            );
            assert!(read(&document).contains(text), "{text:?} stands in {} as it was written", document.task);
        }
    }
}

#[test]
fn boxes_are_written_in_the_pixels_of_the_square() {
    let out = check_stage(stage, &retrieved());
    #[derive(Deserialize)]
    struct Made {
        task: String,
        tokens: Vec<u32>,
        segments: Vec<Segment>,
    }
    let rows: Vec<Made> = rows::read(&out, &[columns::TASK, columns::TOKENS, columns::SEGMENTS]).unwrap();
    let grounded = rows.iter().find(|row| row.task == "grounded").unwrap();
    // The box is (4, 4) to (20, 28) in 24x32 pixels; these become 16x21, and the middle 16 rows are kept.
    let text = spelled(&grounded.tokens, &grounded.segments);
    assert!(text.contains("door at location (3, 1) -> (13, 16)"), "{text}");
}

#[test]
fn weights_say_how_many_records_are_made() {
    let count = |weight: f64, samples: u16| -> usize {
        let tasks = [("pair".to_owned(), TaskConfig::of_weight(weight))].into();
        let context = configured(InstructConfig { tasks, ..InstructConfig::default() });
        let instruct = Instruct::new(Arc::new(context), bank_of(&[]), &Contents::default());
        let mut made = Vec::new();
        for id in 0..samples {
            let sample_id = SampleId(std::array::from_fn(|index| id.to_le_bytes()[index % 2]));
            instruct.documents_of(&In { sample_id, ..sample(&["a dog"]) }, &mut made).unwrap();
        }
        let ids: std::collections::BTreeSet<DocumentId> = made.iter().map(|document| document.document_id).collect();
        assert_eq!(ids.len(), made.len(), "every record has an id of its own");
        made.len()
    };
    assert_eq!((count(0.0, 10), count(1.0, 10), count(3.0, 10)), (0, 10, 30));
    assert!((440..560).contains(&count(0.5, 1000)));
    assert!((2440..2560).contains(&count(2.5, 1000)));
}

#[test]
fn wordings_of_a_task_are_all_used() {
    let mut asking = sample(&["a dog"]);
    asking.annotations.questions = (0..60).map(|number| Question::new(format!("Question {number}?"), "yes")).collect();
    let mut made = BTreeMap::<&str, usize>::new();
    for document in documents(&["question"], &asking) {
        let text = read(&document);
        let wording = if text.contains("Answer:") {
            "answer"
        } else if text.contains("The answer is") {
            "sentence"
        } else {
            "line"
        };
        *made.entry(wording).or_default() += 1;
    }
    assert_eq!(made.values().sum::<usize>(), 60);
    assert!(made.len() == 3 && made.values().all(|count| *count > 8), "{made:?}");
}

#[test]
fn a_code_that_the_vocabulary_lacks_is_an_error() {
    let mut broken = sample(&["a dog"]);
    broken.image_codes = vec![codes(MAIN_IMAGE, 99)];
    let error =
        Instruct::new(Arc::new(context(&["pair"])), bank_of(&[]), &Contents::default()).documents_of(&broken, &mut Vec::new()).unwrap_err();
    assert!(matches!(error, StageError::Vocabulary { stage: NAME, .. }), "{error:?}");
}

#[test]
fn broken_templates_name_their_task() {
    for (text, problem) in [
        ("[t]\neach = \"sample\"\nwordings = []", "t: no wording"),
        ("[t]\neach = \"sample\"\nwordings = [[{ text = \"a\", image = \"main\" }]]", "t: part 0 must be one of"),
        ("[t]\neach = \"sample\"\nwordings = [[{ given = true }]]", "t: part 0 must be one of"),
        ("[t]\neach = \"sample\"\nwordings = [[{ text = \"{{ open\" }]]", "t: "),
        ("[t]\neach = \"sample\"\nwordings = [[{ text = \"a [[b\" }]]", "t: part 0: a hole [[ is not closed"),
        ("[t]\neach = \"sample\"\nwordings = [[{ text = \"a [[b [[c]] ]]\" }]]", "t: part 0: a hole [[ stands inside another"),
        ("[t]\neach = \"sample\"\nwordings = [[{ text = \"[[a]]\", given = true }]]", "t: part 0 has a hole, so it is not given"),
        ("[t]\neach = \"sample\"\nwordings = [[{ text = \"{% if ocr %}[[a]]{% endif %}\" }]]", "a hole must hold whole {% %} blocks"),
        ("[t]\neach = \"rows\"\nwordings = [[{ text = \"a\" }]]", "rows"),
        ("[t]\neach = \"sample\"\ncolour = 1\nwordings = [[{ text = \"a\" }]]", "colour"),
    ] {
        let error = Templates::parse(text).unwrap_err().to_string();
        assert!(error.contains(problem), "{error}");
    }
}

#[test]
fn tasks_out_of_range_are_named() {
    assert!(InstructConfig::default().problems().is_empty());
    let config = |tasks: &[(&str, f64)]| InstructConfig {
        tasks: tasks.iter().map(|(task, weight)| ((*task).to_owned(), TaskConfig::of_weight(*weight))).collect(),
        ..InstructConfig::default()
    };
    let problems = config(&[("pair", -1.0), ("poem", 1.0)]).problems();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems[0].starts_with("instruct.tasks.poem") && problems[1].starts_with("instruct.tasks.pair"), "{problems:?}");
    assert_eq!(config(&[("pair", 0.0)]).problems().len(), 1);
}

#[test]
fn documents_do_not_depend_on_other_samples_of_the_seed() {
    let first = documents(&["pair", "caption"], &sample(&["a dog", "a hound"]));
    let again = documents_of(
        InstructContext { seed: SEED, ..context(&["pair", "caption"]) },
        bank_of(&[&["a cat"]]),
        &sample(&["a dog", "a hound"]),
    );
    assert!(first.iter().zip(&again).all(|(one, two)| (one.document_id, &one.tokens) == (two.document_id, &two.tokens)));
}

#[test]
fn the_tasks_that_ship_compile_and_are_all_made_by_default() {
    let templates = InstructConfig::default().templates().unwrap();
    assert!(templates.names().count() > 20);
    assert!(InstructConfig::default().problems().is_empty());
}

/// Makes a sample with all content that a task may need.
fn full_sample() -> In {
    let mut full = sample(&["a dog on sand"]);
    let annotations = &mut full.annotations;
    annotations.questions = vec![
        Question::new("What runs?", "a dog."),
        Question {
            context: Some("It is hot.".into()),
            options: Some("(A) sand (B) snow".into()),
            explanation: Some("Snow melts.".into()),
            ..Question::new("What lies there?", "A")
        },
    ];
    annotations.boxes = vec![LabelledBox { label: "dog".into(), x0: 1, y0: 2, x1: 3, y1: 4 }];
    annotations.edits = vec![Edit { instruction: "make it night".into(), image: "edit0".into() }];
    annotations.masks = vec![ObjectMask { label: "the dog".into(), image: "object0".into() }];
    annotations.narratives = vec!["A brown dog runs over a beach.".into()];
    annotations.translations = vec![Translation { language: "German".into(), caption: "ein Hund auf Sand".into() }];
    annotations.references = vec!["reference0".into()];
    let item = |image: Option<&str>, text: Option<&str>| Item { text: text.map(str::to_owned), image: image.map(str::to_owned) };
    annotations.items = vec![
        item(None, Some("First")),
        item(Some(MAIN_IMAGE), Some("a dog")),
        item(None, Some("then")),
        item(Some("item0"), None),
        item(None, Some("last")),
    ];
    annotations.ocr = Some("NO DOGS".into());
    annotations.fields = vec![NamedText { name: "haiku".into(), text: "sand in the fur".into() }];
    let roles = ["edge", "edit0", "object0", "reference0", "item0", "seg", "hed", "pose", "depth", "normal", "scribble", "outline"];
    full.image_codes.extend(roles.iter().zip(2..).map(|(role, code)| codes(role, code % CODES)));
    full
}

#[test]
fn every_task_that_ships_reads_as_its_template_says() {
    let context = InstructContext { seq_len: 1024, ..configured(InstructConfig::default()) };
    let made = documents_of(context, bank_of(&[]), &full_sample());
    let given = |document: &Out| document.segments.iter().filter(|segment| segment.role == Role::Condition).count();
    let line = |document: &Out| format!("{:<12} {} {}", document.task, given(document), read(document).replace('\n', "\\n"));
    insta::assert_snapshot!(made.iter().map(line).collect::<Vec<_>>().join("\n"));
    assert!(made.iter().all(|document| document.refusal.is_none()));
    for document in &made {
        document::check(&document.tokens, &document.segments, &vocabulary()).unwrap();
    }
}

#[test]
fn records_that_are_not_begun_are_counted_by_what_the_sample_lacks() {
    let context = context(&["edge", "question", "choice", "grounded"]);
    let instruct = Instruct::new(Arc::new(context), bank_of(&[]), &Contents::default());
    let mut asking = sample(&["a dog"]);
    asking.annotations.questions = vec![Question::new("What?", "a dog")];
    let mut made = Vec::new();
    instruct.documents_of(&asking, &mut made).unwrap();
    instruct.documents_of(&sample(&["a cat"]), &mut made).unwrap();
    assert_eq!(made.len(), 1);
    let expected = [("choice.choices", 2), ("edge.image edge", 2), ("grounded.objects", 2), ("question.questions", 1)];
    assert_eq!(instruct.tally.counts().lacking, expected.map(|(what, count)| (what.to_owned(), count)).into());
}

/// Makes documents of `sample` with an `[instruct]` section, without retrieved pairs.
fn by_config(toml: &str, sample: &In) -> Vec<Out> {
    documents_of(configured(toml::from_str(toml).unwrap()), bank_of(&[]), sample)
}

#[test]
fn a_task_is_added_in_the_configuration_alone() {
    let haiku = r#"
        tasks = { haiku = 1.0 }
        [templates.haiku]
        each = "sample"
        wordings = [[{ text = "Write a haiku.", given = true }, { image = "main", given = true }, { text = "{{ fields.haiku | upper }}" }]]
    "#;
    let made = by_config(haiku, &full_sample());
    assert_eq!(made.iter().map(read).collect::<Vec<_>>(), ["</s>Write a haiku.<break>[16x1]<break>SAND IN THE FUR</s>"]);
    assert!(by_config(haiku, &sample(&["a dog"])).is_empty(), "nobody wrote one");
}

#[test]
fn holes_are_targets_and_the_text_around_them_is_given() {
    let template = r#"
        tasks = { t = 1.0 }
        [templates.t]
        each = "questions"
        wordings = [[{ text = "Q: {{ question }} A: [[{{ answer }}.]] Sure? [[yes]]" }, { image = "main", given = true }]]
    "#;
    let mut asking = sample(&[]);
    asking.annotations.questions = vec![Question::new("Is [[a]] or {{ b }} there?", "]] [[ no")];
    let made = by_config(template, &asking).remove(0);
    let (vocabulary, tokenizer) = (vocabulary(), text_tokenizer());
    let text = |segment: &Segment| tokenizer.decode(&vocabulary.text_tokens(&made.tokens[segment.range()]).unwrap()).unwrap();
    let texts = made.segments.iter().filter(|segment| segment.modality == Modality::Text);
    let texts: Vec<(String, &str)> = texts.map(|segment| (text(segment), segment.role.name())).collect();
    let expected =
        [("Q: Is [[a]] or {{ b }} there? A:", "condition"), (" ]] [[ no. ", "target"), ("Sure?", "condition"), (" yes", "target")];
    assert_eq!(texts, expected.map(|(text, role)| (text.to_owned(), role)), "brackets of the data are text");
    // A prompt ends with the very tokens that stand before the hole.
    let prompt = tokenizer.encode("Q: Is [[a]] or {{ b }} there? A:").unwrap();
    assert_eq!(vocabulary.text_tokens(&made.tokens[1..=prompt.len()]).unwrap(), prompt);
}

#[test]
fn a_long_text_loses_the_end_of_its_hole_alone() {
    let long = "a dog and a cat and a bird and a fish on the sand by the sea";
    let mut asking = sample(&[]);
    asking.annotations.narratives = vec![long.into()];
    let whole = by_config("tasks = { narrative = 1.0 }", &asking).remove(0);
    let config = toml::from_str("tasks = { narrative = 1.0 }").unwrap();
    let context = InstructContext { seq_len: whole.tokens.len() - 3, ..configured(config) };
    let cut = documents_of(context, bank_of(&[]), &asking).remove(0);
    assert_eq!(cut.tokens.len(), whole.tokens.len() - 3);
    assert_eq!(cut.segments[1], whole.segments[1], "the instruction stays");
}

#[test]
fn templates_that_name_what_no_record_has_are_refused() {
    let problems = |text: &str| toml::from_str::<InstructConfig>(text).unwrap().problems();
    let unknown = problems("[templates.t]\neach = \"sample\"\nwordings = [[{ text = \"{{ poem }}\" }]]");
    assert!(unknown.len() == 1 && unknown[0].contains("t: {{ poem }} is nothing"), "{unknown:?}");
    let order = problems("tasks = { edit = { order = \"image\" } }");
    assert!(order.len() == 1 && order[0].contains("edit: wording 0 has 2 images"), "{order:?}");
    let unused = "tasks = { pair = 1.0 }\n[templates.a]\neach = \"sample\"\nwordings = []\n[templates.b]\neach = \"sample\"\nwordings = []";
    assert_eq!(problems(unused), ["instruct.templates: a: no wording", "instruct.templates: b: no wording"]);
}

#[test]
fn order_form_and_loss_are_the_tasks_or_the_configurations() {
    let asking = full_sample();
    let made = by_config(r#"tasks = { question = { order = "image", form = "autoregressive", most_per_sample = 1 } }"#, &asking);
    assert_eq!(made.len(), 1);
    assert!(read(&made[0]).starts_with("</s>[16x1]<break>Question: "), "{}", read(&made[0]));
    let mut masked = configured(toml::from_str(r#"tasks = { pair = { form = "autoregressive" }, caption = 1.0 }"#).unwrap());
    masked.mask = MaskConfig { mean_spans: 16.0, holes: 0.0, drop: 0.0, ..MaskConfig::default() };
    let spans: Vec<u16> = documents_of(masked, bank_of(&[]), &asking).iter().map(|document| document.spans).collect();
    assert!(spans[0] > 0 && spans[1] == 0, "{spans:?}: caption is masked, pair is not");
    let weights = |task: &str| {
        let made = by_config(&format!(r#"tasks = {{ {task} = {{ loss = "target" }} }}"#), &asking).remove(0);
        made.segments.iter().map(|segment| (segment.role.name(), segment.loss_weight)).collect::<Vec<_>>()
    };
    let (given, closed) = (("condition", 0.0), ("break", 0.0));
    let edit = [("boundary", 1.0), given, closed, given, closed, given, closed, ("target", 1.0), ("boundary", 1.0)];
    assert_eq!(weights("edit"), edit, "a break has the weight of what it closes");
    assert_eq!(weights("ocr"), [("boundary", 1.0), given, ("target", 1.0), ("break", 1.0), given, ("boundary", 1.0)]);
    let either = |id| {
        let sample = In { sample_id: SampleId([id; 16]), ..sample(&["a dog"]) };
        read(&by_config(r#"tasks = { caption = { order = "either" } }"#, &sample)[0]).starts_with("</s>[16x1]")
    };
    let first = (0..100).filter(|id| either(*id)).count();
    assert!((30..70).contains(&first), "{first} of 100 begin with the image");
}

#[test]
fn retrieved_pairs_have_a_weight_of_their_own() {
    let mut asking = sample(&["a dog"]);
    asking.neighbours = neighbours(&[10]);
    let context = configured(toml::from_str("tasks = { pair = 1.0 }\nretrieved_loss = 0.1").unwrap());
    let made = documents_of(context, bank_of(&[&["a cat"]]), &asking).remove(0);
    let weights = |role| made.segments.iter().filter(move |segment| segment.role == role).map(|segment| segment.loss_weight);
    assert_eq!((weights(Role::Retrieved).collect::<Vec<_>>(), weights(Role::Target).collect::<Vec<_>>()), (vec![0.1; 2], vec![1.0; 2]));
}

#[test]
fn a_text_that_is_too_long_loses_its_end_or_its_record() {
    let caption = "a dog and a cat and a bird and a fish on the sand by the sea";
    let whole = by_config("tasks = { pair = 1.0 }", &sample(&[caption])).remove(0);
    let within = |seq_len, policy: &str| {
        let config = toml::from_str(&format!("tasks = {{ pair = 1.0 }}\nlong_text = \"{policy}\"")).unwrap();
        let instruct = Instruct::new(Arc::new(InstructContext { seq_len, ..configured(config) }), bank_of(&[]), &Contents::default());
        let mut made = Vec::new();
        instruct.documents_of(&sample(&[caption]), &mut made).unwrap();
        (made.remove(0), instruct.tally.counts().shortened)
    };
    let (shorter, shortened) = within(whole.tokens.len() - 3, "cut");
    assert_eq!((shorter.tokens.len(), shortened), (whole.tokens.len() - 3, 1));
    let text = read(&shorter);
    assert!(text.starts_with("</s>a dog and a cat") && text.ends_with("<break>[16x1]</s>"), "{text}");
    let (refused, shortened) = within(whole.tokens.len() - 3, "refuse");
    assert_eq!((refused.refusal.map(|refusal| refusal.reason), shortened), (Some("too_long".into()), 0));
    // A text loses at most half of its tokens, and an image none.
    let (refused, _) = within(20, "cut");
    assert_eq!(refused.refusal.map(|refusal| refusal.reason), Some("too_long".into()));
}

#[test]
fn interleaved_documents_are_split_between_their_parts() {
    let full = full_sample();
    let made = |seq_len| {
        let context = InstructContext { seq_len, ..context(&["interleaved"]) };
        documents_of(context, bank_of(&[]), &full).iter().map(read).collect::<Vec<_>>()
    };
    let whole = made(1024);
    assert_eq!(whole, ["</s>First<break>[16x1]<break>a dog\nthen<break>[16x6]<break>last</s>"]);
    for seq_len in [36, 40, 44] {
        let pieces = made(seq_len);
        assert!(pieces.len() > 1, "{pieces:?}");
        assert!(pieces.iter().any(|piece| piece.contains("[16x1]<break>a dog")), "an image keeps its caption: {pieces:?}");
        let parts: Vec<&str> = pieces.iter().map(|piece| piece.trim_start_matches("</s>").trim_end_matches("</s>")).collect();
        let in_a_row = |text: &str| text.replace('\n', "<break>");
        assert_eq!(in_a_row(&format!("</s>{}</s>", parts.join("<break>"))), in_a_row(&whole[0]), "nothing is lost and all is in order");
    }
}

#[test]
fn a_share_moves_the_weight_within_limits() {
    let config: InstructConfig =
        toml::from_str("tasks = { pair = { share = 0.2 }, question = { share = 0.6 }, caption = 1.0, edit = { share = 0.5 } }").unwrap();
    assert!(config.problems().is_empty());
    let mut contents = Contents::default();
    for captions in [2, 1, 0, 0] {
        let mut annotations = Annotations { captions: vec!["a dog".into(); captions], ..Annotations::default() };
        annotations.questions = vec![Question::new("a", "b"); 2];
        count_contents(&mut contents, &annotations, [MAIN_IMAGE].into_iter());
    }
    let natural = config.templates().unwrap().natural(&contents);
    let expected = [("caption", 2), ("edit", 0), ("pair", 2), ("question", 8)];
    assert_eq!(natural, expected.map(|(task, count)| (task.to_owned(), count)).into());
    let multipliers = config.multipliers(&natural);
    // Natural shares are 2 and 8 of 12.
    let close = |task: &str, expected: f64| (multipliers[task] - expected).abs() < 1e-12;
    assert!(close("pair", 0.2 / (2.0 / 12.0)) && close("question", 0.6 / (8.0 / 12.0)), "{multipliers:?}");
    assert_eq!(multipliers.len(), 2, "a task without records has no share to change");
    let clipped: InstructConfig = toml::from_str("tasks = { pair = { share = 1.0 }, question = { share = 0.01 } }").unwrap();
    assert_eq!(clipped.multipliers(&natural).into_values().collect::<Vec<_>>(), [3.0, 0.3]);
}
