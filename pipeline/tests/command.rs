//! The command as a user meets it: output, errors that name what is wrong, exit codes.

use std::path::Path;
use std::process::{Command, Output};

fn cm3flow(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cm3flow")).args(arguments).current_dir(folder).output().expect("the binary was just built")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn config(folder: &Path, text: &str) {
    std::fs::write(folder.join("job.toml"), text).expect("a temporary folder");
}

fn with_corpus(rest: &str) -> String {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/corpus/photos-00000.tar");
    let url = corpus.display();
    format!("[dataset]\nname = \"d\"\nstore = \"store\"\n[[source]]\nname = \"s\"\nformat = \"webdataset\"\nurl = \"{url}\"\n{rest}")
}

const PATCHES: &str =
    "[tokenize.image]\nkind = \"patches\"\nside_px = 64\ncodes = 32\n[tokenize.text]\nvocabulary_size = 300\n[pack]\nseq_len = 512\n";

#[test]
fn wrong_fields_are_all_named_and_cost_exit_code_2() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    config(folder.path(), &with_corpus("[pack]\nseq_len = 0\n[split]\nheld_out = 2.0\n"));
    let output = cm3flow(folder.path(), &["run", "job.toml"]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    let error = stderr(&output);
    assert!(error.contains("job.toml has bad fields"), "{error}");
    assert!(error.contains("pack.seq_len must be in 128..=131072, got 0"), "{error}");
    assert!(error.contains("split.held_out must be 0 or more and below 1, got 2"), "{error}");
    assert!(!folder.path().join("store").exists(), "nothing may be written before the configuration is good");
}

#[test]
fn an_unknown_field_is_named_with_its_line() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    config(folder.path(), &with_corpus("[filter]\nmin_side = 3\n"));
    let output = cm3flow(folder.path(), &["plan", "job.toml"]);
    let error = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains("unknown field `min_side`") && error.contains("line 9"), "{error}");
}

#[test]
fn missing_files_are_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = cm3flow(folder.path(), &["run", "nowhere.toml"]);
    assert_eq!((output.status.code(), stderr(&output).contains("nowhere.toml")), (Some(2), true), "{}", stderr(&output));

    for (url, wanted) in [("no/such/*.tar", "no/such"), ("*.tar", "no file matches")] {
        config(folder.path(), &format!("[dataset]\nname = \"d\"\n[[source]]\nname = \"s\"\nformat = \"webdataset\"\nurl = \"{url}\"\n"));
        let output = cm3flow(folder.path(), &["run", "job.toml"]);
        let error = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains(wanted), "{error}");
    }

    config(folder.path(), &with_corpus("[tokenize.image]\nkind = \"vq\"\nweights = \"gone.safetensors\"\n"));
    let output = cm3flow(folder.path(), &["run", "job.toml"]);
    assert_eq!((output.status.code(), stderr(&output).contains("gone.safetensors")), (Some(2), true), "{}", stderr(&output));
}

#[test]
fn a_run_says_what_it_did_and_a_second_one_that_nothing_is_left() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    config(folder.path(), &with_corpus(PATCHES));
    let output = cm3flow(folder.path(), &["plan", "job.toml"]);
    assert!(output.status.success() && stdout(&output).contains("25 samples") && stdout(&output).contains("to fit"), "{}", stdout(&output));

    let output = cm3flow(folder.path(), &["versions", "list", "job.toml"]);
    assert_eq!((output.status.code(), stderr(&output).contains("there is no store yet")), (Some(2), true), "{}", stderr(&output));
    assert!(!folder.path().join("store").exists(), "commands that only look make no store");

    let output = cm3flow(folder.path(), &["run", "job.toml"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let summary = stdout(&output);
    for wanted in ["version    1 of d", "in 25 = kept 25 + refused 0 + duplicate 0", "fill rate", "report.html"] {
        assert!(summary.contains(wanted), "{wanted} is missing in {summary}");
    }
    let report = summary.lines().find_map(|line| line.strip_prefix("report")).expect("a report").trim();
    assert!(Path::new(report).is_file(), "{report}");

    let output = cm3flow(folder.path(), &["run", "job.toml"]);
    assert!(output.status.success() && stdout(&output).starts_with("nothing to do: version 1"), "{}", stdout(&output));
    let output = cm3flow(folder.path(), &["plan", "job.toml", "--json"]);
    let plan: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&plan["is_published"], &plan["version"]), (&serde_json::Value::Bool(true), &serde_json::Value::from(1)));

    let output = cm3flow(folder.path(), &["versions", "list", "job.toml"]);
    assert_eq!(stdout(&output).lines().count(), 2, "{}", stdout(&output));
    let output = cm3flow(folder.path(), &["versions", "show", "job.toml"]);
    assert!(stdout(&output).contains("vocabulary"), "{}", stdout(&output));
    let output = cm3flow(folder.path(), &["versions", "show", "job.toml", "7"]);
    assert_eq!((output.status.code(), stderr(&output).contains("has no version 7")), (Some(2), true), "{}", stderr(&output));
}
