//! Tests of reading and checking a configuration.

use super::*;

/// Reads a configuration. The schema allows each that is good.
fn parse(text: &str) -> Result<Config> {
    let config = Config::parse(text, Path::new("conf/photos.toml"))?;
    assert_eq!(super::schema::tests::refused(text), [""; 0], "{text}");
    Ok(config)
}

const SMALLEST: &str = "[dataset]\nname = \"photos\"\n[[source]]\nname = \"s\"\nformat = \"folder\"\nurl = \"photos\"\n";

#[test]
fn everything_but_dataset_and_source_has_a_default() {
    let config = parse(SMALLEST).expect("complete");
    assert_eq!(config.pack.seq_len, 4096);
    assert_eq!(config.resolve(Path::new("x.json")), Path::new("conf/x.json"));
    assert!(config.train.is_none());
}

#[test]
fn an_unknown_field_is_named_with_its_line() {
    let error = parse(&format!("{SMALLEST}[pack]\nseq_length = 1024\n")).expect_err("no such field");
    let PipelineError::Syntax { source, .. } = &error else { panic!("{error}") };
    assert!(source.to_string().contains("unknown field `seq_length`"), "{source}");
}

#[test]
fn every_bad_field_is_reported_at_once() {
    let text = "[dataset]\nname = \"a b\"\n[runtime]\nworkers = 0\nmax_refused_fraction = 1.5\nmax_refused_min_samples = 0\n[pack]\nseq_len = 0\n[split]\nheld_out = 1.5\n[eval]\ntop_p = 0.0\n[tokenize.image]\nkind = \"vq\"\npreset = \"huge\"\n";
    let error = parse(text).expect_err("all of it is bad");
    let PipelineError::Config { problems, .. } = &error else { panic!("{error}") };
    let wanted = [
        "dataset.name must",
        "runtime.workers must be in 1..=1024, got 0",
        "runtime.max_refused_fraction must be in 0..=1, got 1.5",
        "runtime.max_refused_min_samples must be 1 or more, got 0",
        "source: at least one",
        "tokenize.image.preset must",
        "split.held_out must",
        "pack.seq_len must be in 128..=131072, got 0",
        "eval.top_p must",
    ];
    for wanted in wanted {
        assert!(problems.iter().any(|problem| problem.starts_with(wanted)), "{wanted} is missing in {problems:#?}");
    }
}

#[test]
fn presets_and_modules_of_image_tokenizers_are_known() {
    let modules = "kind = \"torchscript\"\nencoder = \"e.jit\"\ndecoder = \"d.jit\"\nside_px = 256\n";
    for (tokenizer, side, codes) in [
        ("kind = \"vq\"\npreset = \"chameleon\"", 512, 1024),
        ("kind = \"vq\"\npreset = \"llamagen-vq16\"\nweights = \"vq_ds16_c2i.pt\"", 256, 256),
        (&format!("{modules}grid = 32\ncodebook_size = 64000"), 256, 1024),
    ] {
        let image = parse(&format!("{SMALLEST}[tokenize.image]\n{tokenizer}\n")).expect("complete").tokenize.image;
        assert_eq!((image.preparation().side_px, image.codes_per_image()), (side, codes));
    }
    let given = |fields: &str| parse(&format!("{SMALLEST}[tokenize.image]\nkind = \"given\"\n{fields}\n"));
    let image = given("side_px = 256\ngrid = 16\ncodebook_size = 1024").expect("complete").tokenize.image;
    assert_eq!((image.preparation().side_px, image.codes_per_image()), (256, 256));
    let error = given("side_px = 16\ngrid = 17\ncodebook_size = 1").expect_err("two bad fields").to_string();
    assert!(error.contains("tokenize.image.grid must be in 1..=16, got 17"), "{error}");
    assert!(error.contains("tokenize.image.codebook_size must be in 2..=1048576, got 1"), "{error}");
    let bad = "grid = 0\ncodebook_size = 1\nbatch_size = 0\n";
    let error = parse(&format!("{SMALLEST}[tokenize.image]\n{modules}{bad}")).expect_err("three bad fields").to_string();
    assert!(error.contains("grid must be in 1..=256, got 0") && error.contains("codebook_size must"), "{error}");
    assert!(error.contains("tokenize.image.batch_size must be in 1..=1024, got 0"), "{error}");
}

#[test]
fn annotators_are_checked_with_the_rest_and_say_what_they_leave_open() {
    let annotate = |sections: &str| parse(&format!("{SMALLEST}{sections}"));
    let depth = "[annotate.depth]\nmodule = \"depth.pt\"\n";
    let config = annotate(&format!(
        "{depth}[annotate.normal]\nmodule = \"n.pt\"\nside_px = 384\n[annotate.pose]\nmodule = \"p.pt\"\nrange = [0, 255]\n"
    ))
    .expect("complete");
    let settings = config.annotate.canonical(128).expect("three annotators").to_string();
    let plain = |side: u32, range: &str| {
        format!("{{\"batch_size\":8,\"input\":\"unit\",\"inverted\":false,\"output\":0,\"range\":{range},\"side_px\":{side}}}")
    };
    let [depth_map, normal, pose] = [plain(128, "\"picture\""), plain(384, "[-1.0,1.0]"), plain(128, "[0.0,255.0]")];
    assert_eq!(settings, format!("{{\"depth\":{depth_map},\"normal\":{normal},\"pose\":{pose}}}"));
    let recorded: serde_json::Value = serde_json::from_str(&settings).expect("JSON");
    let again = config.annotate.with_settings(&recorded);
    assert_eq!((again.canonical(512), &again.0["depth"].module), (Some(recorded), &PathBuf::from("depth.pt")));
    assert_eq!(AnnotateConfig::default().canonical(128), None, "no key changes where there are none");

    let error = annotate(&format!("{depth}side_px = 4\nbatch_size = 0\nrange = [1, 1]\ninput = {{ mean = [0, 0, 0], std = [1, 0, 1] }}\n"));
    let error = error.expect_err("four bad fields").to_string();
    for wanted in ["side_px must be in 8..=4096, got 4", "batch_size must be in 1..=1024, got 0", "range must be", "input.mean must be"] {
        assert!(error.contains(&format!("annotate.depth.{wanted}")), "{wanted} is missing in {error}");
    }
    for (field, wanted) in
        [("range = \"each\"", "it must be \"picture\" or [black, white]"), ("input = 3", "it must be \"unit\", \"signed\", or {")]
    {
        let PipelineError::Syntax { source, .. } = annotate(&format!("{depth}{field}\n")).expect_err("no such value") else {
            panic!("{field}")
        };
        assert!(source.to_string().contains(wanted), "{source}");
    }
    for role in ["main", "edge", "seg", "edit", "thermal"] {
        let error = annotate(&format!("[annotate.{role}]\nmodule = \"m.pt\"\n")).expect_err("no condition").to_string();
        assert!(
            error.contains(&format!("annotate.{role}: no task takes")) && error.contains("known are depth, hed, normal, pose"),
            "{error}"
        );
    }
    let own = "[instruct.templates.heat]\neach = \"sample\"\nwordings = [[{ image = \"thermal\", given = true }, { image = \"main\" }]]\n";
    assert!(annotate(&format!("[annotate.thermal]\nmodule = \"m.pt\"\n{own}")).is_ok(), "a task of one's own takes it");
    let given = "[tokenize.image]\nkind = \"given\"\nside_px = 256\ngrid = 16\ncodebook_size = 1024\n";
    let error = annotate(&format!("{depth}{given}")).expect_err("no pictures").to_string();
    assert!(error.contains("[annotate] needs pictures to look at") && error.contains("none is decoded"), "{error}");
}

#[test]
fn packs_must_hold_an_image() {
    let error = parse(&format!("{SMALLEST}[pack]\nseq_len = 200\n")).expect_err("256 codes do not fit");
    assert!(error.to_string().contains("pack.seq_len must exceed the 256 codes"), "{error}");
}

#[test]
fn two_sources_need_two_names() {
    let error = parse(&format!("{SMALLEST}{}", &SMALLEST[SMALLEST.find("[[").expect("a source")..])).expect_err("same name");
    assert!(error.to_string().contains("source[1].name must be unique"), "{error}");
}

#[test]
fn a_preparation_is_chosen_by_name_and_says_what_decodes() {
    let settings =
        |preparation: &str| format!("{SMALLEST}[tokenize.image]\nkind = \"vq\"\nweights = \"a\"\npreparation = {preparation:?}\n");
    let preparation = |name: &str| parse(&settings(name)).expect("a preparation").tokenize.image.preparation();
    assert_eq!(parse(SMALLEST).expect("complete").tokenize.image.preparation().name, "chameleon");
    let (own, hf) = (preparation("chameleon"), preparation("chameleon-hf"));
    assert_ne!((own.values, own.long_side), (hf.values, hf.long_side));
    assert!(own.decoder["zune-jpeg"].starts_with(|first: char| first.is_ascii_digit()), "{:?}", own.decoder);
    assert!(matches!(parse(&settings("pillow")), Err(PipelineError::Syntax { .. })));
}

#[test]
fn what_is_fitted_here_takes_the_values_that_it_was_fitted_on() {
    let error = parse(&format!("{SMALLEST}[tokenize.image]\nkind = \"vq\"\npreparation = \"chameleon-hf\"\n")).expect_err("no weights");
    assert!(error.to_string().contains("needs tokenize.image.weights"), "{error}");
}

#[test]
fn shapes_are_switched_on_by_a_word_or_a_table() {
    let parsed = |image: &str| {
        let text = format!(
            "[dataset]\nname = \"d\"\n[[source]]\nname = \"s\"\nformat = \"folder\"\nurl = \"photos\"\n[tokenize.image]\n{image}\n"
        );
        parse(&text)
    };
    let grids = |image: &str| parsed(image).expect("complete").tokenize.image.preparation().grids().len();
    let patches = "kind = \"patches\"\nside_px = 128\n";
    assert_eq!(grids(patches), 0);
    assert_eq!(grids(&format!("{patches}aspect_buckets = false")), 0);
    assert_eq!(grids(&format!("{patches}aspect_buckets = true")), 5);
    assert_eq!(grids(&format!("{patches}aspect_buckets = {{ max_aspect = 2 }}")), 3);
    assert_eq!(grids("kind = \"vq\"\npreset = \"photos-tiny\"\naspect_buckets = true"), 5);
    assert_eq!(grids("kind = \"given\"\nside_px = 64\ngrid = 8\ncodebook_size = 9\naspect_buckets = true"), 3);
    let refused = |image: &str| parsed(image).expect_err("bad").to_string();
    let uneven = refused(&format!("{patches}aspect_buckets = {{ grid_px = 12, max_aspect = 17 }}"));
    assert!(uneven.contains("grid_px must be a multiple of the 8 pixels of a code") && uneven.contains("max_aspect must be in 1..=16"));
    assert!(refused(&format!("{patches}aspect_buckets = {{ grid_px = 0 }}")).contains("got 0"));
    assert!(format!("{:?}", parsed(&format!("{patches}aspect_buckets = 4")).expect_err("a number")).contains("true, false, or a table"));
    let torchscript = "kind = \"torchscript\"\nencoder = \"e\"\ndecoder = \"d\"\nside_px = 64\ngrid = 8\ncodebook_size = 9\n";
    assert!(parsed(&format!("{torchscript}aspect_buckets = true")).is_err(), "modules take squares alone");
    let short = refused(&format!("{patches}aspect_buckets = true\n[pack]\nseq_len = 290"));
    assert!(short.contains("pack.seq_len must exceed the 290 codes of an image"), "{short}");
}
