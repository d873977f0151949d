//! Faults of requests and deaths of the process at any time: the run, or the next one, makes exactly the same version.
//!
//! `make test` tries every seventh request of a small run, `make test-long` tries each.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use cm3flow::run::lease::LeaseMode;
use cm3flow_schemas::Digest;
use cm3flow_tests::fault::{Fault, Faults};
use cm3flow_tests::long;
use cm3flow_tests::small::{MAX_REQUESTS, SAMPLES, sections, trial};
use object_store::ObjectStore;
use object_store::memory::InMemory;

type Objects = BTreeMap<String, Digest>;

fn memory() -> Arc<dyn ObjectStore> {
    Arc::new(InMemory::new())
}

/// Returns the objects and the number of requests of an undisturbed run.
async fn undisturbed() -> (Objects, u64) {
    let faults = Faults::none();
    let trial = trial(&memory(), &faults, "").expect("a good configuration");
    trial.run().await.expect("nothing goes wrong");
    let requests = faults.requests();
    assert!((20..=MAX_REQUESTS).contains(&requests), "{requests} requests:\n{}", faults.log().join("\n"));
    let objects = trial.objects().await;
    assert!(objects.contains_key("versions/test/1.json"), "{objects:#?}");
    (objects, requests)
}

/// Iterates over the requests to try, of `requests`; `first` spreads the seventh ones of several tests.
fn places(first: u64, requests: u64) -> impl Iterator<Item = u64> {
    let (first, step) = if long() { (1, 1) } else { (first, 7) };
    (first..=requests).step_by(step)
}

/// Runs with a fault in each place, and checks that the run ends as without it.
async fn sweep(fault: Fault, first: u64) {
    let (expected, requests) = undisturbed().await;
    for n in places(first, requests) {
        let trial = trial(&memory(), &Faults::at(n, fault), "stall_timeout_seconds = 1").expect("a good configuration");
        trial.run().await.unwrap_or_else(|error| panic!("{fault:?} at request {n}: {error}"));
        assert_eq!(trial.objects().await, expected, "{fault:?} at request {n}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_fails_once_changes_nothing() {
    sweep(Fault::Fail, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_fails_after_it_succeeded_changes_nothing() {
    sweep(Fault::FailAfter, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_cut_and_a_create_that_meets_a_conflict_change_nothing() {
    sweep(Fault::Cut, 5).await;
    if long() {
        sweep(Fault::Conflict, 1).await;
        sweep(Fault::Throttle, 1).await;
        sweep(Fault::Stall, 1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_fails_for_good_stops_the_run_and_the_next_one_makes_the_same_version() {
    let (expected, requests) = undisturbed().await;
    for n in places(2, requests) {
        let memory = memory();
        let broken = trial(&memory, &Faults::from(n, Fault::Fail), "retry_deadline_seconds = 0").expect("a good configuration");
        match broken.run().await {
            Err(error) => assert!(error.is_retryable(), "request {n}: {error}"),
            // The run finished, but could not release the lease.
            Ok(_) => {
                let whole = trial(&memory, &Faults::none(), "").expect("a good configuration");
                assert_eq!(whole.objects().await, expected, "request {n}: the store is gone, and the run says that it is done");
            }
        }
        let mut mended = trial(&memory, &Faults::none(), "").expect("a good configuration");
        // The run could not release its lease, and its process, which is this one, still exists.
        mended.options.lease = LeaseMode::Ignore;
        mended.run().await.unwrap_or_else(|error| panic!("after a stop at request {n}: {error}"));
        assert_eq!(mended.objects().await, expected, "after a stop at request {n}");
    }
}

/// Runs the command in `folder` with `variables`.
fn command(folder: &Path, variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cm3flow-faulty"));
    command.args(["run", "job.toml", "--limit", &SAMPLES.to_string()]).current_dir(folder);
    command.envs(variables.iter().copied()).output().expect("the binary was just built")
}

/// Creates a folder with the configuration of the run, on a local store.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let text = format!("[dataset]\nname = \"test\"\nseed = 3\nstore = \"store\"\n{}", sections(""));
    std::fs::write(folder.path().join("job.toml"), text).expect("our folder");
    folder
}

/// Returns the digests of all files of the store in `folder` by path, except those that depend on processes and times.
fn files(folder: &Path) -> Objects {
    let mut files = Objects::new();
    let root = folder.join("store");
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("ours") {
            let path = entry.expect("ours").path();
            let name = path.strip_prefix(&root).expect("below it").display().to_string();
            if path.is_dir() && !["runs", "leases", "scans"].contains(&name.as_str()) {
                folders.push(path);
            } else if path.is_file() {
                files.insert(name, Digest::of(&std::fs::read(&path).expect("ours")));
            }
        }
    }
    files
}

/// Aborts the process in each place, and runs again.
async fn abort(fault: &str, first: u64) {
    let (expected, requests) = undisturbed().await;
    for n in places(first, requests) {
        let folder = folder();
        let died = command(folder.path(), &[("CM3FLOW_FAULT", fault), ("CM3FLOW_FAULT_AT", &n.to_string())]);
        assert!(!died.status.success(), "{fault} at request {n}: it lives");
        let again = command(folder.path(), &[]);
        assert!(again.status.success(), "after {fault} at request {n}: {}", String::from_utf8_lossy(&again.stderr));
        assert_eq!(files(folder.path()), expected, "after {fault} at request {n}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_dies_before_any_request_is_taken_up_by_the_next() {
    abort("abort", 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_dies_after_any_request_is_taken_up_by_the_next() {
    abort("abort_after", 6).await;
}
