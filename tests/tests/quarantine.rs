//! Units that end their process: they cost themselves alone, and come in once their cause is mended.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use cm3flow_schemas::version::VersionManifest;
use cm3flow_tests::job::{SMALL, corpus, source};

/// Samples of each tar of the corpus.
const TAR: u64 = 25;

/// A job over two tars of the corpus, the second one by the name `poison`.
fn job() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (tar, name) in [("photos-00000.tar", "good.tar"), ("photos-00001.tar", "poison.tar")] {
        std::fs::copy(corpus().join(tar), folder.path().join(name)).expect("a temporary folder");
    }
    let source = source("s", "webdataset", Path::new("*.tar"), 100);
    let config = format!("[dataset]\nname = \"d\"\nstore = \"store\"\n{SMALL}\n{source}");
    std::fs::write(folder.path().join("job.toml"), config).expect("a temporary folder");
    folder
}

fn run(folder: &Path, arguments: &[&str], is_poisoned: bool) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cm3flow-faulty"));
    command.args(["run", "job.toml"]).args(arguments).current_dir(folder).stdin(Stdio::null());
    if is_poisoned {
        let faults = [("CM3FLOW_FAULT", "abort"), ("CM3FLOW_FAULT_ON", "poison"), ("CM3FLOW_FAULT_COMMAND", "work")];
        command.envs(faults);
    }
    command.output().expect("the binary was just built")
}

fn manifest(folder: &Path, version: u32) -> Option<VersionManifest> {
    let bytes = std::fs::read(folder.join(format!("store/versions/d/{version}.json"))).ok()?;
    Some(serde_json::from_slice(&bytes).expect("a manifest"))
}

#[track_caller]
fn ended(output: &Output, code: i32) -> String {
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{error}");
    error
}

#[test]
fn a_unit_that_ends_its_process_is_quarantined_and_the_rest_is_done() {
    let folder = job();
    let folder = folder.path();
    let error = ended(&run(folder, &["--processes", "2"], true), 3);
    assert!(error.contains("poison.tar from row 0 on") && error.contains("signal") && error.contains("--allow-quarantined"), "{error}");
    assert!(manifest(folder, 1).is_none(), "a version that lacks samples is not published unasked");

    ended(&run(folder, &["--processes", "2", "--allow-quarantined"], true), 3);
    let first = manifest(folder, 1).expect("it was asked for");
    assert_eq!((first.samples.input, first.samples.kept, first.samples.quarantined), (2 * TAR, TAR, TAR), "{}", first.samples);

    ended(&run(folder, &[], false), 0);
    let second = manifest(folder, 2).expect("the cause is mended");
    assert_eq!((second.base, second.samples.kept, second.samples.quarantined), (Some(1), 2 * TAR, TAR), "{}", second.samples);
    second.samples.check("version 2").expect("it adds up");
}

#[test]
fn processes_of_their_own_make_the_same_version() {
    let (here, elsewhere) = (job(), job());
    ended(&run(here.path(), &[], false), 0);
    ended(&run(elsewhere.path(), &["--processes", "2"], false), 0);
    let bytes = |folder: &Path| std::fs::read(folder.join("store/versions/d/1.json")).expect("a version");
    assert!(bytes(here.path()) == bytes(elsewhere.path()), "the manifests differ");
}
