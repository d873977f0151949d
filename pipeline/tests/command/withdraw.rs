//! `versions withdraw`: output as text and as JSON, and exit codes.

use std::path::Path;

use serde_json::Value;

use super::{PATCHES, cm3flow, config, text, with_corpus};

fn withdraw(folder: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = cm3flow(folder, &[&["versions", "withdraw", "job.toml"], arguments].concat());
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn a_sample_is_withdrawn_once_and_mistakes_cost_exit_code_2() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let folder = folder.path();
    config(folder, &with_corpus(PATCHES));
    assert_eq!(withdraw(folder, &["--sample", "00"]).0, Some(2), "there is no store yet");
    let run = cm3flow(folder, &["run", "job.toml"]);
    assert!(run.status.success(), "{}", text(&run.stderr));
    let listing: Value = serde_json::from_slice(&cm3flow(folder, &["inspect", "job.toml", "--json"]).stdout).expect("JSON");
    let (id, key) = (listing["samples"][0]["sample_id"].as_str().expect("an id"), listing["samples"][1]["key"].as_str().expect("a key"));
    let key = format!("s/{key}");

    let (code, _, error) = withdraw(folder, &[]);
    assert_eq!((code, error.contains("--sample")), (Some(2), true), "{error}");
    let (code, _, error) = withdraw(folder, &["--sample", "0123456789abcdef0123456789abcdef"]);
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("version 1 has no sample 0123456789abcdef0123456789abcdef"), "{error}");
    let (code, _, error) = withdraw(folder, &["--sample", id, "--near", "2"]);
    assert_eq!((code, error.contains("neither `off` nor a number in 0..=1")), (Some(2), true), "{error}");

    let (code, out, error) = withdraw(folder, &["--sample", id, "--key", &key, "--dry-run"]);
    assert_eq!(code, Some(0), "{error}");
    assert!(out.contains(id) && out.contains(&key) && out.contains("nothing is written"), "{out}");
    let (code, out, error) = withdraw(folder, &["--sample", id, "--key", &key, "--json"]);
    assert_eq!(code, Some(0), "{error}");
    let done: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((&done["base"], &done["version"], &done["samples"][0]["why"]), (&Value::from(1), &Value::from(2), &Value::from("named")));
    assert!(done["documents"]["own"].as_u64().is_some_and(|own| own > 0), "{out}");

    let (code, out, error) = withdraw(folder, &["--sample", id]);
    assert_eq!(code, Some(0), "{error}");
    assert!(out.contains("had been withdrawn before") && out.contains("nothing to do: version 2 of d holds nothing of them"), "{out}");
    let shown = text(&cm3flow(folder, &["inspect", "job.toml", "sample", id]).stdout);
    assert!(shown.contains("withdrawn in version 2") && !shown.contains("caption"), "{shown}");
    let shown = text(&cm3flow(folder, &["versions", "show", "job.toml"]).stdout);
    assert!(shown.contains("withdrawn 2") && shown.contains("blocked"), "{shown}");
}
