//! Units that kill their process: only they are lost, and they enter once the cause is removed.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use cm3flow::events::progress::Progress;
use cm3flow::events::{Event, TimedEvent};
use cm3flow::run::{self, RunOptions};
use cm3flow::{Config, Job, Store, WorkerCommand};
use cm3flow_schemas::version::VersionManifest;
use cm3flow_tests::trial::{SMALL, corpus, source};

/// Number of samples in each tar of the corpus.
const TAR: u64 = 25;

/// Creates a job with two tars of the corpus, the second one under the name `poison`.
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

fn command(folder: &Path, arguments: &[&str], is_poisoned: bool) -> Output {
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
    let error = ended(&command(folder, &["--processes", "2"], true), 3);
    assert!(error.contains("poison.tar from row 0 on") && error.contains("signal") && error.contains("--allow-quarantined"), "{error}");
    assert!(manifest(folder, 1).is_none(), "a version that lacks samples is not published unasked");

    ended(&command(folder, &["--processes", "2", "--allow-quarantined"], true), 3);
    let first = manifest(folder, 1).expect("it was asked for");
    assert_eq!((first.samples.input, first.samples.kept, first.samples.quarantined), (2 * TAR, TAR, TAR), "{}", first.samples);

    ended(&command(folder, &[], false), 0);
    let second = manifest(folder, 2).expect("the cause is mended");
    assert_eq!((second.base, second.samples.kept, second.samples.quarantined), (Some(1), 2 * TAR, TAR), "{}", second.samples);
    second.samples.check("version 2").expect("it adds up");
}

#[test]
fn what_becomes_of_a_poisoned_unit_is_told_to_programs() {
    let folder = job();
    let output = command(folder.path(), &["--processes", "1", "--allow-quarantined", "--json"], true);
    ended(&output, 3);
    let parse = |line: &str| serde_json::from_str::<TimedEvent>(line).unwrap_or_else(|error| panic!("{error}: {line}")).event;
    let events: Vec<Event> = String::from_utf8(output.stdout).expect("JSON").lines().map(parse).collect();
    let count = |wanted: fn(&Event) -> bool| events.iter().filter(|event| wanted(event)).count();
    assert_eq!(count(|event| matches!(event, Event::UnitFailed { .. })), 3);
    assert_eq!(count(|event| matches!(event, Event::UnitRetried { attempt: 2 | 3, .. })), 2);
    let named = |event: &Event| matches!(event, Event::UnitQuarantined { file, rows: TAR, .. } if file.contains("poison.tar"));
    assert!(events.iter().any(named), "{events:?}");
    let Some(Event::RunEnded { end, .. }) = events.last() else { panic!("{events:?}") };
    assert_eq!((end.exit_code, end.quarantined_samples, end.version), (3, TAR, Some(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_processes_count_comes_to_the_run_that_started_them() {
    let folder = job();
    let (here, elsewhere) = (Progress::silent(), Progress::silent());
    for (progress, processes, store) in [(&here, 0, "here"), (&elsewhere, 2, "elsewhere")] {
        let text = std::fs::read_to_string(folder.path().join("job.toml")).expect("just written");
        let file = folder.path().join(format!("{store}.toml"));
        std::fs::write(&file, text.replace("store = \"store\"", &format!("store = \"{store}\""))).expect("a temporary folder");
        let mut config = Config::load(&file).expect("a good configuration");
        config.runtime.processes = processes;
        let command = WorkerCommand {
            program: env!("CARGO_BIN_EXE_cm3flow-faulty").into(),
            arguments: vec!["work".into(), file.display().to_string()],
        };
        let options = RunOptions { worker_command: Some(command), ..RunOptions::default() };
        let store = Store::open(&folder.path().join(store).display().to_string(), Path::new("")).expect("a local store");
        run::run(&Job::new(config, store, progress.clone()), &options).await.expect("it ends");
    }
    for stage in ["ingest", "filter", "derive", "tokenize", "embed", "instruct"] {
        let [here, elsewhere] = [&here, &elsewhere].map(|progress| progress.meters().of(stage).counts());
        assert!(here.rows_out > 0, "{stage} did nothing");
        assert_eq!((here.rows_in, here.rows_out), (elsewhere.rows_in, elsewhere.rows_out), "{stage}");
    }
    assert_eq!(here.tally().refused, elsewhere.tally().refused);
}

#[test]
fn processes_of_their_own_make_the_same_version() {
    let (here, elsewhere) = (job(), job());
    ended(&command(here.path(), &[], false), 0);
    ended(&command(elsewhere.path(), &["--processes", "2"], false), 0);
    let bytes = |folder: &Path| std::fs::read(folder.join("store/versions/d/1.json")).expect("a version");
    assert!(bytes(here.path()) == bytes(elsewhere.path()), "the manifests differ");
}
