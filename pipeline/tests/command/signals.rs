//! Signals: each kind of loop ends at its next safe point, and a later command goes on from there.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{PATCHES, command, config, stderr, text, with_corpus};

/// A small network with a fit of many steps.
const LONG_FIT: &str = "[runtime]\nthreads = 1\n[tokenize.image]\nkind = \"vq\"\n[tokenize.image.network]\nresolution = 64\nchannels = 16\n\
    channel_multipliers = [1, 2, 4]\nresidual_blocks = 1\nmiddle_attention = false\nz_channels = 16\nembedding_dim = 8\ncodebook_size = 64\n\
    norm_groups = 8\n[fit.codebook]\nsteps = 100000\nwarm_up_steps = 4\nbatch_size = 4\ncrop_px = 32\n[tokenize.text]\nvocabulary_size = 300\n";

/// Starts the command, waits for the event `event`, and sends SIGTERM. Returns exit code, standard error, and the time until its end.
fn terminated_after(folder: &Path, arguments: &[&str], event: &str) -> (Option<i32>, String, Duration) {
    let mut started = command(folder, arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary was just built");
    let told = BufReader::new(started.stdout.take().expect("piped"));
    let is_there = told.lines().map_while(Result::ok).any(|line| line.contains(&format!("\"event\":\"{event}\"")));
    assert!(is_there, "it ended before {event}: {}", text(&started.wait_with_output().expect("ours").stderr));
    terminate(&started);
    let begun = Instant::now();
    let ended = started.wait_with_output().expect("ours");
    (ended.status.code(), stderr(&ended), begun.elapsed())
}

fn terminate(process: &Child) {
    let sent = Command::new("kill").args(["-TERM", &process.id().to_string()]).status().expect("kill is part of every system");
    assert!(sent.success());
}

#[test]
fn a_fit_leaves_a_checkpoint_and_says_how_to_go_on() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    config(folder.path(), &with_corpus(LONG_FIT));
    let (code, error, time) = terminated_after(folder.path(), &["fit", "codebook", "job.toml", "--json"], "fit_begun");
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("run again to go on"), "{error}");
    assert!(time < Duration::from_secs(25), "{time:?}");
    let fits = folder.path().join("store/checkpoints/fit.codebook");
    let fit = std::fs::read_dir(&fits).expect("a checkpoint").next().expect("one fit").expect("readable").path();
    let steps = std::fs::read_dir(fit).expect("a checkpoint").filter_map(Result::ok);
    assert_eq!(steps.filter(|step| step.path().join("complete.json").exists()).count(), 1);
}

#[test]
fn a_run_ends_between_units_and_the_next_one_takes_what_is_there() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    config(folder.path(), &with_corpus(&format!("unit_samples = 1\n[runtime]\nworkers = 1\n{PATCHES}")));
    let (code, error, _) = terminated_after(folder.path(), &["run", "job.toml", "--json"], "unit_done");
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("run again to go on") && !folder.path().join("store/versions").exists(), "{error}");
    let next = command(folder.path(), &["run", "job.toml", "--json"]).output().expect("the binary was just built");
    assert!(next.status.success(), "{}", stderr(&next));
    let made_before =
        text(&next.stdout).lines().filter(|line| line.contains("\"event\":\"unit_done\"") && line.contains("\"was_there\":true")).count();
    assert!(made_before > 0, "{}", text(&next.stdout));
}

#[test]
fn a_command_that_only_looks_ends_at_once() {
    // A store that takes connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let port = silent.local_addr().expect("bound").port();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = format!("[store]\nendpoint = \"http://127.0.0.1:{port}\"\nallow_http = true\n");
    config(folder.path(), &with_corpus(&store).replace("store = \"store\"", "store = \"s3://bucket/store\""));
    let started = command(folder.path(), &["versions", "list", "job.toml"])
        .envs([("AWS_ACCESS_KEY_ID", "key"), ("AWS_SECRET_ACCESS_KEY", "secret")])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary was just built");
    let _asked = silent.accept().expect("the command asks the store");
    let begun = Instant::now();
    terminate(&started);
    let ended = started.wait_with_output().expect("ours");
    assert_eq!(ended.status.code(), Some(1), "{}", stderr(&ended));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}
