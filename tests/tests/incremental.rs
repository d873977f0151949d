//! Inputs that grow, change and shrink: new parts are processed, unchanged ones are not, and removed ones are reported.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, SystemTime};

use cm3flow::run::RunOutcome;
use cm3flow::source::scan::FileRows;
use cm3flow_tests::given::{GIVEN, caption, codes, npy, rows};
use cm3flow_tests::trial::{SMALL, Trial, source};

const CODES: usize = 64;

/// A list, tars and a folder that a test changes.
struct Sources {
    folder: tempfile::TempDir,
    list: Vec<String>,
}

impl Sources {
    fn new() -> Self {
        let sources = Self { folder: tempfile::tempdir().expect("a temporary folder"), list: Vec::new() };
        for name in ["tars", "photos"] {
            std::fs::create_dir(sources.path(name)).expect("a temporary folder");
        }
        sources
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn config(&self) -> String {
        source("list", "jsonl", &self.path("list.jsonl"), 10)
            + &source("tars", "webdataset", &self.path("tars/*.tar"), 10)
            + &source("photos", "folder", &self.path("photos"), 10)
    }

    /// Appends samples to the list.
    fn append(&mut self, numbers: std::ops::Range<u64>) {
        let long = |number| -> Vec<u32> { codes(number).into_iter().cycle().take(CODES).map(|code| code % 64).collect() };
        self.list.extend(numbers.map(|number| format!("{{\"codes\": {:?}, \"caption\": \"{}\"}}", long(number), caption(number))));
        self.write_list();
    }

    fn write_list(&self) {
        write(&self.path("list.jsonl"), (self.list.join("\n") + "\n").as_bytes());
    }

    /// Writes a tar of samples with given codes.
    fn tar(&self, name: &str, numbers: &[u64]) {
        let mut builder = tar::Builder::new(Vec::new());
        let mut append = |name: String, bytes: &[u8]| {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, bytes).expect("in memory");
        };
        for number in numbers {
            let codes: Vec<u32> = codes(*number).into_iter().cycle().take(CODES).map(|code| code % 64).collect();
            append(format!("{number:04}.npy"), &npy(&codes));
            append(format!("{number:04}.txt"), caption(*number).as_bytes());
        }
        write(&self.path(&format!("tars/{name}")), &builder.into_inner().expect("in memory"));
    }

    /// Writes photos to the folder, each in its own colours.
    fn photos(&self, names: std::ops::Range<u64>, kind: u8) {
        for name in names {
            let pixel = |x: u32, y: u32| image::Rgb([(x * 5) as u8 ^ kind, (y * 5) as u8, (name * 9) as u8]);
            let mut bytes = std::io::Cursor::new(Vec::new());
            image::RgbImage::from_fn(48, 48, pixel).write_to(&mut bytes, image::ImageFormat::Png).expect("in memory");
            write(&self.path(&format!("photos/{name:04}.png")), &bytes.into_inner());
            write(&self.path(&format!("photos/{name:04}.txt")), format!("photo {name} of kind {kind}").as_bytes());
        }
    }
}

/// Writes a file with a modification time a minute ago.
fn write(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).expect("a temporary file");
    settle(path, SystemTime::now() - Duration::from_secs(60));
}

fn settle(path: &Path, modified: SystemTime) {
    let file = std::fs::File::options().append(true).open(path).expect("just written");
    file.set_modified(modified).expect("just written");
}

/// Units that a run is expected to make: file, first row, rows.
type Units<'a> = &'a [(&'a str, u64, u64)];

/// Runs the trial and checks everything that holds after every round.
async fn round(trial: &Trial, before: Option<&RunOutcome>, expected: Units<'_>, kept: u64) -> RunOutcome {
    let prepared =
        |paths: &BTreeSet<String>| paths.iter().filter(|path| path.starts_with("units/prepare/") && path.ends_with("unit.json")).count();
    let paths_before: BTreeSet<String> = trial.objects().await.into_keys().collect();
    let outcome = trial.run().await.expect("the run ends");
    let paths: BTreeSet<String> = trial.objects().await.into_keys().collect();
    let (manifest, windows_before) = (&outcome.manifest, before.map_or(0, |before| before.windows.len()));
    assert_eq!(
        (manifest.version, manifest.base),
        (before.map_or(1, |before| before.manifest.version + 1), before.map(|before| before.manifest.version))
    );

    let units: Vec<_> = outcome.windows[windows_before..].iter().flat_map(|window| &window.units).collect();
    let found: Vec<(&str, u64, u64)> = units.iter().map(|unit| (unit.file.as_str(), unit.first_row, unit.rows)).collect();
    assert_eq!(found, expected, "version {}", manifest.version);
    assert_eq!(
        prepared(&paths) - prepared(&paths_before),
        expected.len(),
        "version {}: what stayed is not prepared again",
        manifest.version
    );

    let samples = &manifest.samples;
    samples.check("the version").expect("it adds up");
    manifest.documents.check("the version").expect("it adds up");
    let of_windows =
        |count: fn(&cm3flow_schemas::ledger::SampleLedger) -> u64| outcome.windows.iter().map(|window| count(&window.samples)).sum::<u64>();
    assert_eq!((samples.input, samples.kept), (of_windows(|samples| samples.input), of_windows(|samples| samples.kept)));
    assert_eq!(samples.input, outcome.windows.iter().flat_map(|window| &window.units).map(|unit| unit.rows).sum::<u64>());
    assert_eq!((samples.kept, samples.refused_total()), (kept, 0), "version {}: {samples}", manifest.version);
    if let Some(before) = before {
        assert_eq!(outcome.windows[..windows_before], before.windows, "the windows before stay");
    }

    let again = trial.run().await.expect("the run ends");
    assert!(again.nothing_to_do() && again.manifest == outcome.manifest);
    assert_eq!(again.drift, outcome.drift);
    outcome
}

fn file_rows(source: &str, file: &str, rows: u64) -> FileRows {
    FileRows { source: source.into(), file: file.into(), rows }
}

#[tokio::test(flavor = "multi_thread")]
async fn five_rounds_of_appended_changed_and_removed_inputs() {
    let mut sources = Sources::new();
    sources.append(0..25);
    let numbers = |from: u64| (from..from + 12).collect::<Vec<_>>();
    sources.tar("a.tar", &numbers(100));
    sources.photos(0..12, 0);
    // A sample with other annotations counts as another one.
    let settings = format!("{SMALL}[dedup]\nby = \"sample\"\n");
    let trial = Trial::try_new(&settings, &sources.config()).expect("a good configuration");
    let expected = [
        ("list.jsonl", 0, 10),
        ("list.jsonl", 10, 10),
        ("list.jsonl", 20, 5),
        ("a.tar", 0, 10),
        ("a.tar", 10, 2),
        ("photos", 0, 10),
        ("photos", 10, 2),
    ];
    let first = round(&trial, None, &expected, 49).await;

    // Appended rows: short units stay as they are.
    sources.append(25..33);
    sources.tar("b.tar", &numbers(200));
    sources.photos(12..15, 0);
    let second = round(&trial, Some(&first), &[("list.jsonl", 25, 8), ("b.tar", 0, 10), ("b.tar", 10, 2), ("photos", 12, 3)], 72).await;
    assert_eq!((&second.drift.removed, &second.drift.changed), (&vec![], &vec![]));

    // Changes: one row, one sample of a tar, one photo; everything else in their units is a duplicate.
    sources.list[3] = sources.list[3].replace("number 3", "number three");
    sources.write_list();
    sources.tar("a.tar", &[&numbers(100)[..11], &[999]].concat());
    sources.photos(1..2, 77);
    let third = round(&trial, Some(&second), &[("list.jsonl", 0, 10), ("a.tar", 0, 10), ("a.tar", 10, 2), ("photos", 0, 10)], 75).await;
    assert_eq!(third.drift.removed, []);
    let changed = [file_rows("list", "list.jsonl", 10), file_rows("photos", "photos", 10), file_rows("tars", "a.tar", 12)];
    assert_eq!(third.drift.changed, changed);

    // Removals: a whole file, rows at the end of the list, the last photo.
    std::fs::remove_file(sources.path("tars/b.tar")).expect("it is there");
    sources.list.truncate(29);
    sources.write_list();
    for extension in ["png", "txt"] {
        std::fs::remove_file(sources.path(&format!("photos/0014.{extension}"))).expect("it is there");
    }
    let fourth = round(&trial, Some(&third), &[("list.jsonl", 25, 4), ("photos", 12, 2)], 75).await;
    let removed = [file_rows("list", "list.jsonl", 4), file_rows("photos", "photos", 1), file_rows("tars", "b.tar", 12)];
    assert_eq!(fourth.drift.removed, removed);
    assert_eq!(
        fourth.drift.changed,
        [file_rows("list", "list.jsonl", 14), file_rows("photos", "photos", 12), file_rows("tars", "a.tar", 12)]
    );

    // All changes at once.
    sources.append(40..42);
    sources.tar("c.tar", &numbers(300));
    std::fs::remove_file(sources.path("tars/a.tar")).expect("it is there");
    sources.photos(20..21, 0);
    let expected = [("list.jsonl", 29, 2), ("c.tar", 0, 10), ("c.tar", 10, 2), ("photos", 14, 1)];
    let fifth = round(&trial, Some(&fourth), &expected, 90).await;
    // The dataset has both forms of the changed tar.
    assert!(fifth.drift.removed.contains(&file_rows("tars", "a.tar", 24)), "{:?}", fifth.drift);
    assert!(fifth.drift.removed.contains(&file_rows("tars", "b.tar", 12)), "{:?}", fifth.drift);
    assert!(fifth.drift.changed_rows() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unchanged_source_is_not_read_again() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let list = folder.path().join("list.jsonl");
    write(&list, rows(0..20).as_bytes());
    let trial = Trial::try_new(GIVEN, &source("list", "jsonl", &list, 8)).expect("a good configuration");
    trial.run().await.expect("the run ends");
    // Other bytes with the same facts can only be detected by reading them.
    let modified = std::fs::metadata(&list).and_then(|facts| facts.modified()).expect("just written");
    std::fs::write(&list, rows(0..20).replace("number 7", "number 8")).expect("a temporary file");
    settle(&list, modified);
    assert!(trial.run().await.expect("the run ends").nothing_to_do());
    // With other facts they are detected.
    settle(&list, modified + Duration::from_secs(1));
    let second = trial.run().await.expect("the run ends");
    assert_eq!((second.manifest.version, &second.drift.changed), (2, &vec![file_rows("list", "list.jsonl", 8)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_reports_nothing_as_removed_and_a_later_run_goes_on_behind_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let list = folder.path().join("list.jsonl");
    write(&list, rows(0..40).as_bytes());
    let mut trial = Trial::try_new(GIVEN, &source("list", "jsonl", &list, 8)).expect("a good configuration");
    trial.options.limit = Some(20);
    let first = trial.run().await.expect("the run ends");
    assert_eq!(first.manifest.samples.input, 20);
    trial.options.limit = None;
    let second = trial.run().await.expect("the run ends");
    assert_eq!((second.manifest.samples.input, second.manifest.samples.duplicate), (40, 0));
    trial.options.limit = Some(9);
    let third = trial.run().await.expect("the run ends");
    assert!(third.nothing_to_do() && third.drift.removed.is_empty());
}
