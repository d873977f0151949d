//! Output, errors that name the mistake, and exit codes.

use std::path::Path;
use std::process::Command;

use super::{PATCHES, cm3flow, config, stderr, stdout, with_corpus};

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
fn a_configuration_is_described_for_people_and_for_editors() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let printed = cm3flow(folder.path(), &["config", "--reference"]);
    assert!(printed.status.success(), "{}", stderr(&printed));
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("guide/configuration.md");
    assert!(stdout(&printed) == std::fs::read_to_string(page).expect("a page of the guide"), "the page is another one");

    let printed = cm3flow(folder.path(), &["config", "--schema"]);
    let schema: serde_json::Value = serde_json::from_str(&stdout(&printed)).expect("JSON");
    assert_eq!(schema["$schema"], "http://json-schema.org/draft-07/schema#");
    let units = &schema["properties"]["window"]["properties"]["units"];
    assert_eq!((&units["minimum"], &units["maximum"], &units["default"]), (&1.into(), &65_536.into(), &16.into()));

    for flags in [&[][..], &["--reference", "--schema"]] {
        let refused = cm3flow(folder.path(), &[&["config"], flags].concat());
        let error = stderr(&refused);
        assert_eq!(refused.status.code(), Some(2), "{error}");
        assert!(error.contains("--reference") && error.contains("--schema"), "{error}");
    }
}

#[test]
fn what_libtorch_says_is_one_line_without_the_stack_of_its_cpp() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("m.pt"), b"\x01no TorchScript").expect("a temporary folder");
    config(folder.path(), &with_corpus(&format!("{PATCHES}[annotate.depth]\nmodule = \"m.pt\"\n")));
    let error = stderr(&cm3flow(folder.path(), &["run", "job.toml"]));
    let lines: Vec<&str> = error.lines().filter(|line| line.starts_with("error: ") || line.contains("frame #")).collect();
    assert!(matches!(lines[..], [line] if line.contains("load annotator depth (m.pt)") && line.contains("not a ZIP archive")), "{error}");
}

#[test]
fn products_that_the_user_chose_belong_to_the_kernels() {
    let mut doctor = Command::new(env!("CARGO_BIN_EXE_cm3flow"));
    let told = stdout(&doctor.arg("doctor").env("MKL_CBWR", "COMPATIBLE").output().expect("the binary was just built"));
    // `COMPATIBLE` products are the only ones that MKL takes by name on processors of every maker.
    assert!(told.contains(", MKL_CBWR=COMPATIBLE"), "{told}");
}

#[test]
fn files_that_are_no_weights_are_named_with_what_they_are() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::create_dir(folder.path().join("folder")).expect("a temporary folder");
    let files: [(&str, &[u8], &str); 8] = [
        ("empty.ckpt", b"", "the file is empty; fetch or copy it once more"),
        ("page.ckpt", b"<!doctype html><title>Log in</title>", "the file is a web page (HTML); download the file itself"),
        ("pointer.ckpt", b"version https://git-lfs.github.com/spec/v1\nsize 28\n", "a Git LFS pointer for a file of 28 bytes; fetch"),
        (
            "index.json",
            br#"{"weight_map": {"a": "m-1.safetensors"}}"#,
            "an index of weights that lie in 1 other files: m-1.safetensors; put",
        ),
        ("gan.json", br#"{"generator": {"a": 1}}"#, "the file is JSON with the entry generator; name a file of tensors"),
        ("text.ckpt", b"Not Found", "the file is text that begins with \"Not Found\"; name a file of tensors"),
        ("noise.ckpt", b"\x07\x08", "the file is of no known kind, it begins with the bytes 07 08; name a file of tensors"),
        ("folder/in.ckpt", b"", "it is a folder with in.ckpt; name the file that is meant"),
    ];
    for (name, bytes, wanted) in files {
        std::fs::write(folder.path().join(name), bytes).expect("a temporary folder");
        let named = name.trim_end_matches("/in.ckpt");
        let settings = format!("[tokenize.image]\nkind = \"vq\"\nweights = \"{named}\"\n");
        config(folder.path(), &with_corpus(&settings));
        let output = cm3flow(folder.path(), &["run", "job.toml"]);
        let error = stderr(&output);
        let line = error.lines().find(|line| line.starts_with("error: ")).unwrap_or_default();
        assert!(line.contains(&format!("/{named}: ")) && line.contains(wanted), "{named}: {error}");
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(!error.contains("fitting on"), "noticed before anything is fitted: {error}");
    }
    for (settings, wanted) in [
        (format!("{PATCHES}[annotate.depth]\nmodule = \"page.ckpt\"\n"), "page.ckpt: the file is a web page (HTML)"),
        (PATCHES.replace("vocabulary_size = 300", "file = \"page.ckpt\""), "page.ckpt: text tokenizer: cannot read tokenizer.json"),
        (
            "[fit.perceptual]\nfeatures = \"pointer.ckpt\"\nlinear = \"page.ckpt\"\n".to_owned(),
            "pointer.ckpt: the file is a Git LFS pointer",
        ),
    ] {
        config(folder.path(), &with_corpus(&settings));
        let error = stderr(&cm3flow(folder.path(), &["run", "job.toml"]));
        assert!(error.contains(wanted), "{settings}: {error}");
    }
}

#[test]
fn documents_that_were_all_refused_are_counted_by_reason() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let essay = "a long text that nobody cuts ".repeat(80);
    let settings = format!(
        "{PATCHES}[instruct.tasks]\nessay = 1.0\n[instruct.templates.essay]\neach = \"sample\"\n\
         wordings = [[{{ text = \"{essay}\" }}, {{ image = \"main\" }}]]\n"
    );
    config(folder.path(), &with_corpus(&settings));
    let output = cm3flow(folder.path(), &["run", "job.toml", "--limit", "6"]);
    let error = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains("no document came into a pack to train on; samples: in 6 = kept 6 + refused 0"), "{error}");
    assert!(
        error.contains("documents: built 6 = packed 0 + refused 6; refused documents by reason: instruct.too_long: 6. Look at"),
        "{error}"
    );
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

#[test]
fn versions_are_tagged_compared_and_verified() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    config(folder.path(), &with_corpus(PATCHES));
    let versions = |arguments: &[&str]| {
        let output = cm3flow(folder.path(), &[&["versions"], arguments].concat());
        (output.status.code(), stdout(&output), stderr(&output))
    };
    assert_eq!(cm3flow(folder.path(), &["run", "job.toml"]).status.code(), Some(0));
    // A run that had nothing to do is in nobody's way.
    assert_eq!(cm3flow(folder.path(), &["run", "job.toml"]).status.code(), Some(0));
    assert_eq!(versions(&["tag", "job.toml", "good", "1"]), (Some(0), "good names version 1\n".into(), String::new()));
    assert!(versions(&["tag", "job.toml"]).1.starts_with("good "));
    assert!(versions(&["show", "job.toml", "good"]).1.starts_with("version    1 of d"));
    let (code, shown, _) = versions(&["diff", "job.toml", "good", "latest"]);
    assert!(code == Some(0) && shown.contains("kept samples: 0 came, 0 went") && shown.contains("settings: the same"), "{shown}");
    let (code, shown, error) = versions(&["verify", "job.toml", "good"]);
    assert!(code == Some(0) && shown.contains("all as recorded"), "{shown}{error}");
    // The run that had nothing to do left events only, and gc deletes them; those of the version's run stay.
    let (code, shown, error) = versions(&["gc", "job.toml", "--grace", "0s", "--apply"]);
    assert_eq!(code, Some(0), "{shown}{error}");
    let runs: Vec<_> = std::fs::read_dir(folder.path().join("store/runs")).expect("runs").map(|run| run.expect("a run").path()).collect();
    let files = |run: &Path, part: &str| std::fs::read_dir(run.join(part)).map_or(0, Iterator::count);
    let told: Vec<_> = runs.iter().map(|run| (files(run, "events"), files(run, "plan"))).filter(|told| *told != (0, 0)).collect();
    assert!(matches!(told[..], [(1.., 1)]), "{told:?}");
    let (code, shown, error) = versions(&["gc", "job.toml", "--grace", "0s"]);
    assert!(code == Some(0) && shown.contains("nothing to delete"), "{shown}{error}");

    let shards = std::fs::read_dir(folder.path().join("store/shards")).expect("packs are written").next().expect("a shard");
    let shard = shards.expect("a file").path();
    std::fs::write(&shard, "cut").expect("a temporary folder");
    let (code, shown, _) = versions(&["verify", "job.toml"]);
    let name = shard.file_name().expect("a name").to_string_lossy().into_owned();
    assert!(code == Some(1) && shown.contains(&name), "{shown}");
    let (code, shown, error) = versions(&["verify", "job.toml", "--repair", "--json"]);
    assert!(code == Some(0) && shown.contains("\"left\":[]"), "{shown}{error}");
    let (code, shown, error) = versions(&["rebuild", "job.toml", "good", "--from-scratch"]);
    assert!(code == Some(0) && shown.contains("all of it is equal"), "{shown}{error}");
    assert_eq!(versions(&["tag", "job.toml", "good", "--remove"]).0, Some(0));
    let (code, _, error) = versions(&["show", "job.toml", "good"]);
    assert!(code == Some(2) && error.contains("has no version good"), "{error}");
}

/// Parses lines of JSON, each of which must be an object.
fn objects(text: &str) -> Vec<serde_json::Value> {
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    text.lines().map(parse).inspect(|object: &serde_json::Value| assert!(object.is_object(), "{object}")).collect()
}

#[test]
fn with_json_a_program_reads_events_alone_and_logs_name_what_they_belong_to() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    config(folder.path(), &with_corpus(PATCHES));
    let output = Command::new(env!("CARGO_BIN_EXE_cm3flow"))
        .args(["run", "job.toml", "--json", "--log-format", "json", "--metrics", "0"])
        .env("CM3FLOW_LOG", "info")
        .current_dir(folder.path())
        .output()
        .expect("the binary was just built");
    assert!(output.status.success(), "{}", stderr(&output));
    let events = objects(&stdout(&output));
    let named = |name: &str| events.iter().filter(|event| event["event"] == name).collect::<Vec<_>>();
    assert_eq!((&events[0]["event"], &events[0]["dataset"]), (&"run_started".into(), &"d".into()));
    let last = events.last().expect("events");
    assert_eq!((&last["event"], &last["exit_code"], &last["version"]), (&"run_ended".into(), &0.into(), &1.into()));
    assert_eq!(named("scan_done")[0]["samples"], 25);
    let units = &named("plan_made")[0]["units"];
    assert_eq!(
        named("unit_done").len() as u64,
        units.as_object().expect("segments").values().map(|unit| unit["to_make"].as_u64().expect("a count")).sum::<u64>()
    );
    assert_eq!(named("window_committed")[0]["samples"]["in"], 25);
    assert_eq!(named("version_published").len(), 1);

    // The store holds the same events.
    let run = events[0]["run"].as_str().expect("a name");
    let recorded = folder.path().join("store/runs").join(run).join("events");
    let mut files: Vec<_> = std::fs::read_dir(&recorded).expect("events").map(|file| file.expect("a file").path()).collect();
    files.sort_by_key(|path| path.file_stem().and_then(|stem| stem.to_str()?.parse::<u32>().ok()));
    let recorded: String = files.iter().map(|path| std::fs::read_to_string(path).expect("a file")).collect();
    assert_eq!(objects(&recorded), events);

    // People and logs have standard error to themselves.
    let said = stderr(&output);
    assert!(said.contains("25 samples in") && said.contains("metrics at http://127.0.0.1:"), "{said}");
    let logged = objects(&said.lines().filter(|line| line.starts_with('{')).collect::<Vec<_>>().join("\n"));
    let spans = |line: &serde_json::Value| line["spans"].as_array().cloned().unwrap_or_default();
    let has = |span: &serde_json::Value, name: &str, field: &str| span["name"] == name && !span[field].is_null();
    let in_window = |line: &&serde_json::Value| {
        spans(line).iter().any(|span| has(span, "run", "dataset")) && spans(line).iter().any(|span| has(span, "window", "window"))
    };
    assert!(logged.iter().any(|line| in_window(&line)), "no line says its run and window:\n{said}");

    let output = cm3flow(folder.path(), &["run", "job.toml", "--json"]);
    let last = objects(&stdout(&output)).pop().expect("events");
    assert_eq!((&last["event"], &last["nothing_to_do"]), (&"run_ended".into(), &true.into()));
    let output = cm3flow(folder.path(), &["refused", "replay", "job.toml", "--reason", "missing_image"]);
    assert!(output.status.success() && stdout(&output).starts_with("nothing to do: version 1"), "{}", stderr(&output));
    let output = cm3flow(folder.path(), &["refused", "list", "job.toml", "1", "--source", "s", "--limit", "3"]);
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(0), ""), "nothing was refused");
}
