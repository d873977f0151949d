//! Runs of the real command that are killed, raced and refused: their stores equal those of undisturbed runs, to the last byte.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use cm3flow_schemas::random::Draws;

use super::{PATCHES, config, text, with_corpus};

/// A job in a separate folder.
struct Trial {
    folder: tempfile::TempDir,
}

impl Trial {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        config(folder.path(), &with_corpus(&format!("unit_samples = 4\n[runtime]\nthreads = 1\n[window]\nunits = 3\n{PATCHES}")));
        Self { folder }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cm3flow"));
        command.args(["run", "job.toml"]).args(arguments).current_dir(self.folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn start(&self, arguments: &[&str]) -> Child {
        self.command(arguments).spawn().expect("the binary was just built")
    }

    fn finish(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the binary was just built")
    }

    /// Reads everything in the store except for records of runs and leases.
    fn objects(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let store = self.folder.path().join("store");
        let mut objects = BTreeMap::new();
        let mut folders = vec![store.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                let name = path.strip_prefix(&store).expect("below the store").to_owned();
                if path.is_dir() {
                    if name != Path::new("runs") && name != Path::new("leases") {
                        folders.push(path);
                    }
                } else if !is_left_over(&name) {
                    objects.insert(name, std::fs::read(&path).expect("a file"));
                }
            }
        }
        objects
    }
}

/// Checks for a remnant of a local store that was killed between writing a file and renaming it: `NAME#N`.
fn is_left_over(name: &Path) -> bool {
    name.to_string_lossy().contains('#')
}

#[track_caller]
fn assert_same(found: &BTreeMap<PathBuf, Vec<u8>>, expected: &BTreeMap<PathBuf, Vec<u8>>) {
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    let different: Vec<_> = found.iter().filter(|(name, bytes)| expected[*name] != **bytes).map(|(name, _)| name).collect();
    assert!(different.is_empty(), "other bytes in {different:?}");
}

/// Kills `kills` processes at random moments, up to four on one store.
fn kill_at_random(kills: u32) {
    let undisturbed = Trial::new();
    let start = Instant::now();
    let output = undisturbed.finish(&[]);
    let time = start.elapsed();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let expected = undisturbed.objects();

    let mut draws = Draws::new(11, "kills", b"");
    let (mut left, mut hits) = (kills, 0);
    while left > 0 {
        let job = Trial::new();
        for _ in 0..(1 + draws.index(4) as u32).min(left) {
            let mut child = job.start(&[]);
            std::thread::sleep(time.mul_f64(draws.unit()));
            hits += u32::from(child.try_wait().expect("our child").is_none());
            child.kill().expect("our child");
            child.wait().expect("our child");
            left -= 1;
        }
        let output = job.finish(&[]);
        assert!(output.status.success(), "after a kill: {}", text(&output.stderr));
        assert_same(&job.objects(), &expected);
    }
    assert!(hits * 3 > kills, "only {hits} of {kills} were killed at work");
}

#[test]
fn a_run_that_is_killed_again_and_again_ends_with_the_same_bytes() {
    kill_at_random(10);
}

#[test]
#[ignore = "long"]
fn two_hundred_kills_change_nothing() {
    kill_at_random(200);
}

#[test]
fn two_runs_at_once_end_with_one_version() {
    let alone = Trial::new();
    assert!(alone.finish(&[]).status.success());
    let job = Trial::new();
    let both = [job.start(&["--lease", "ignore"]), job.start(&["--lease", "ignore", "--workers", "1"])];
    let outputs = both.map(|child| child.wait_with_output().expect("our child"));
    for output in &outputs {
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    assert_same(&job.objects(), &alone.objects());
}

#[test]
fn a_second_run_is_refused_while_the_first_is_at_work() {
    let job = Trial::new();
    let mut first = job.start(&[]);
    let leases = job.folder.path().join("store/leases/d/1.json");
    let start = Instant::now();
    while !leases.exists() {
        assert!(start.elapsed() < Duration::from_secs(60), "the first run takes no lease");
        std::thread::sleep(Duration::from_millis(2));
    }
    // The stopped process does not end before the second one has looked.
    let pid = first.id().to_string();
    let signal = |name: &str| assert!(Command::new("kill").args([name, &pid]).status().expect("kill").success());
    signal("-STOP");
    let second = job.finish(&[]);
    let waiting = job.start(&["--lease", "wait"]);
    signal("-CONT");
    assert_eq!(second.status.code(), Some(1), "{}", text(&second.stderr));
    assert!(text(&second.stderr).contains("is at work on d"), "{}", text(&second.stderr));
    assert!(first.wait().expect("our child").success());
    let waited = waiting.wait_with_output().expect("our child");
    assert!(waited.status.success() && text(&waited.stdout).starts_with("nothing to do"), "{}", text(&waited.stdout));
}
