//! `train --seed`, `checkpoints`.

use std::path::Path;

use serde_json::Value;

use super::{PATCHES, cm3flow, config, stderr, stdout, text, with_corpus};

const TRAINING: &str = "[model]\nlayers = 1\nwidth = 16\nheads = 2\n[train]\nsteps = 4\nbatch_packs = 1\nwarm_up_steps = 1\ncheckpoint_every = 2\n\
    evaluate_every = 0\n[eval]\nimages = 0\ncaptions = 0\npacks = 1\n";

/// Runs a command that must succeed; returns its output.
fn printed(folder: &Path, arguments: &[&str]) -> String {
    let output = cm3flow(folder, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
    stdout(&output)
}

/// Runs a command that must fail by the user's mistake; returns its error.
fn mistake(folder: &Path, arguments: &[&str]) -> String {
    let output = cm3flow(folder, arguments);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    stderr(&output)
}

fn json_file(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).expect("written")).expect("JSON")
}

#[test]
fn seeds_give_trainings_of_their_own_and_each_checkpoint_is_exported_whole() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = folder.path();
    config(at, &with_corpus(&format!("{PATCHES}{TRAINING}")));
    assert!(mistake(at, &["checkpoints", "list", "job.toml"]).contains("there is no store yet"));
    printed(at, &["run", "job.toml", "--limit", "20"]);
    let lines = |output: String| output.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect::<Vec<Value>>();
    let first = lines(printed(at, &["checkpoints", "list", "job.toml", "--json"]));
    assert!(first.len() == 1 && first[0]["steps"] == serde_json::json!([2, 4]), "{first:?}");
    let key = first[0]["training"].as_str().expect("a key").to_owned();

    printed(at, &["train", "job.toml", "--seed", "5"]);
    let both = lines(printed(at, &["checkpoints", "list", "job.toml", "--json"]));
    assert!(both.len() == 2 && both.contains(&first[0]), "{both:?}");
    let own = printed(at, &["checkpoints", "show", "job.toml"]);
    assert!(own.starts_with(&format!("checkpoint {}@4 of d", &key[..12])), "{own}");
    std::fs::write(at.join("other.toml"), with_corpus(&format!("{PATCHES}{}", TRAINING.replace("steps = 4", "steps = 6"))))
        .expect("writable");
    let ambiguous = mistake(at, &["checkpoints", "show", "other.toml"]);
    assert!(
        ambiguous.contains("latest names no single checkpoint of dataset d; there are ") && ambiguous.contains(" at 2, 4; "),
        "{ambiguous}"
    );
    assert!(mistake(at, &["checkpoints", "show", "job.toml", "@3"]).contains("@3 names no single checkpoint"));
    assert!(mistake(at, &["checkpoints", "show", "job.toml", "last"]).contains("expected KEY@STEP, KEY, @STEP or latest"));
    let shown = printed(at, &["checkpoints", "show", "job.toml", &key[..8]]);
    assert!(shown.contains("1 layers of width 16, 2 heads") && shown.contains("4 of 4 steps"), "{shown}");
    let seed = |key: &str| {
        let shown: Value = serde_json::from_str(&printed(at, &["checkpoints", "show", "job.toml", key, "--json"])).expect("JSON");
        shown["seed"].as_u64()
    };
    let other = both.iter().find_map(|training| training["training"].as_str().filter(|other| *other != key)).expect("the second one");
    assert_eq!((seed(&key), seed(other)), (Some(0), Some(5)));

    let reference = format!("{}@2", &key[..8]);
    let printed_line = printed(at, &["checkpoints", "export", "job.toml", &reference, "--to", "bundle", "--dtype", "bfloat16"]);
    assert!(printed_line.contains("@2: 8 files") && !printed_line.contains("no tokenizer.json"), "{printed_line}");
    let bundle = json_file(&at.join("bundle/cm3flow.json"));
    assert_eq!((&bundle["training"], &bundle["step"]), (&Value::from(key.as_str()), &Value::from(2)));
    assert_eq!(json_file(&at.join("bundle/config.json"))["dtype"], "bfloat16");
    for file in [&bundle["text_tokenizer"], &bundle["image_tokenizer"]["files"]["codebook"]] {
        let bytes = std::fs::read(at.join("bundle").join(file["path"].as_str().expect("a path"))).expect("written");
        assert_eq!(file["digest"], cm3flow_schemas::Digest::of(&bytes).to_string());
    }
    assert!(bundle["instruct"]["templates"]["caption"]["wordings"][1][0]["text"].as_str().is_some_and(|text| text.contains("[[")));
    assert!(mistake(at, &["checkpoints", "export", "job.toml", "@3", "--to", "nowhere"]).contains("@3 names no single checkpoint"));
    assert!(!at.join("nowhere").exists(), "a mistake makes no folder");
    let again = mistake(at, &["checkpoints", "export", "job.toml", &reference, "--to", "bundle"]);
    assert!(again.contains("is not empty"), "{again}");
}
