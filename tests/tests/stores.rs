//! Equality of versions over stores (local files, memory, S3 over HTTP), numbers of workers, and a service that fails now and then.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use cm3flow::Store;
use cm3flow::store::Probe;
use cm3flow_schemas::Digest;
use cm3flow_tests::fault::{Fault, Faults};
use cm3flow_tests::s3::{S3Options, S3Service};
use cm3flow_tests::small::{SAMPLES, sections, store_over};
use cm3flow_tests::trial::{Trial, corpus};
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn service(options: S3Options) -> (S3Service, Arc<dyn ObjectStore>) {
    let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let service = S3Service::start(Arc::clone(&objects), 0, options).await.expect("loopback");
    (service, objects)
}

/// Returns status line and last line of the answer to an unsigned request.
async fn unsigned(service: &S3Service, path: &str) -> (String, String) {
    let address = service.endpoint().replace("http://", "");
    let mut stream = TcpStream::connect(&address).await.expect("somebody listens");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer in UTF-8");
    let lines: Vec<&str> = answer.lines().collect();
    (lines[0].to_owned(), lines[lines.len() - 1].to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_counts_requests_but_not_those_for_the_count() {
    let (service, _) = service(S3Options::default()).await;
    for count in 1..=2 {
        let (status, _) = unsigned(&service, "/bucket/key").await;
        assert!(status.contains("403"), "{status}");
        assert_eq!(service.requests(), count);
        let counted = ("HTTP/1.1 200 OK".to_owned(), format!("{{\"requests\": {count}}}"));
        assert_eq!(unsigned(&service, "/-/requests").await, counted);
    }
}

/// Runs on the store at `address` with the `[store]` section `store`, and returns all objects.
async fn made(address: &str, store: &str, workers: u32) -> BTreeMap<String, Digest> {
    let mut trial = Trial::try_new(&sections(store), "").expect("a good configuration");
    trial.options.limit = Some(SAMPLES);
    trial.config.runtime.workers = workers;
    trial.store = Store::open_with(address, Path::new(""), &trial.config.store).expect("a store");
    let outcome = trial.run().await.unwrap_or_else(|error| panic!("{address} with {workers} workers: {error}"));
    assert!(!outcome.was_published);
    trial.objects().await
}

#[tokio::test(flavor = "multi_thread")]
async fn local_files_memory_and_s3_hold_the_same_version_whatever_the_number_of_workers() {
    let mut expected = None;
    for workers in [1, 2, 4] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (service, _) = service(S3Options::default()).await;
        let local = folder.path().join("store").display().to_string();
        let fsync = "[store]\nfsync = true\n";
        for (address, store) in [("memory://", ""), (&*local, fsync), ("s3://bucket/some/folder", &*service.section())] {
            let objects = made(address, store, workers).await;
            assert!(objects.contains_key("versions/test/1.json"), "{objects:#?}");
            assert_eq!(expected.get_or_insert_with(|| objects.clone()), &objects, "{address} with {workers} workers");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_fails_now_and_then_changes_nothing() {
    let expected = made("memory://", "", 2).await;
    let kinds = [Fault::Fail, Fault::FailAfter, Fault::Throttle, Fault::Conflict, Fault::Cut, Fault::Stall];
    for seed in 0..if cm3flow_tests::long() { 20 } else { 2 } {
        let faults = Faults::random(seed, 50, &kinds);
        let (service, _) = service(S3Options { faults: faults.clone(), ..S3Options::default() }).await;
        assert_eq!(made("s3://bucket/data", &service.section(), 2).await, expected, "seed {seed}:\n{}", faults.log().join("\n"));
    }
}

/// Copies the corpus to the bucket `corpus`, and returns its source section.
async fn remote_corpus(objects: &Arc<dyn ObjectStore>) -> String {
    for name in ["photos-00000.tar", "photos-00001.tar", "photos-00002.tar"] {
        let bytes = std::fs::read(corpus().join(name)).expect("part of the repository");
        objects.put(&ObjectPath::from(format!("corpus/{name}")), bytes.into()).await.expect("memory");
    }
    "[[source]]\nname = \"photos\"\nformat = \"webdataset\"\nurl = \"s3://corpus/photos-*.tar\"\nunit_samples = 6\n".to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_on_s3_are_read_through_failures_to_the_same_version() {
    let expected = made("memory://", "", 2).await;
    let faults = Faults::random(7, 50, &[Fault::Fail, Fault::Cut, Fault::Throttle]);
    let (service, objects) = service(S3Options { faults, ..S3Options::default() }).await;
    let source = remote_corpus(&objects).await;
    let local = sections(&service.section());
    let (before, _) = local.split_once("[[source]]").expect("one source");
    let mut trial = Trial::try_new(before, &source).expect("a good configuration");
    trial.options.limit = Some(SAMPLES);
    trial.run().await.expect("the run ends");
    assert_eq!(trial.objects().await, expected);
}

const SECRET: &str = "hush-5e1f0c2b";

/// Runs the command on the service with the most verbose log, with a secret in the configuration and one in the environment.
async fn talkative(folder: &Path, section: &str, address: &str, arguments: &[&str]) -> Output {
    let (settings, address) = (sections(section), address.to_owned());
    std::fs::write(folder.join("job.toml"), format!("[dataset]\nname = \"test\"\nseed = 3\nstore = \"{address}\"\n{settings}"))
        .expect("ours");
    let mut command = Command::new(env!("CARGO_BIN_EXE_cm3flow-faulty"));
    command.args(arguments).current_dir(folder).env("CM3FLOW_LOG", "trace").env("AZURE_STORAGE_ACCOUNT_KEY", format!("{SECRET}-azure"));
    tokio::task::spawn_blocking(move || command.output().expect("the binary was just built")).await.expect("it does not panic")
}

fn check_silence(what: &str, bytes: &[u8]) {
    assert!(
        !bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes()),
        "{what} holds the secret:\n{}",
        String::from_utf8_lossy(bytes)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_in_no_output_object_log_or_error() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (service, objects) = service(S3Options { secret_key: format!("{SECRET}-s3"), ..S3Options::default() }).await;
    let section = service.section();
    let run = &["run", "job.toml", "--limit", "12"];

    let good = talkative(folder.path(), &section, "s3://bucket/data", run).await;
    assert!(good.status.success(), "{}", String::from_utf8_lossy(&good.stderr));
    let listed: Vec<_> = objects.list(None).try_collect().await.expect("memory");
    assert!(listed.iter().any(|object| object.location.as_ref().ends_with("report.html")), "{listed:#?}");
    for object in listed {
        let bytes = objects.get(&object.location).await.expect("memory").bytes().await.expect("memory");
        check_silence(object.location.as_ref(), &bytes);
    }

    let refused = section.replace("-s3\"", "-wrong\"");
    let syntax = section.replace("secret_access_key", "[secret_access_key");
    let unknown = section.replace("[store.options]\n", "");
    let login = format!("s3://test:{SECRET}@bucket/data");
    for (section, address, arguments, wanted) in [
        (&section, "s3://bucket/data", vec!["doctor", "job.toml"], ""),
        (&refused, "s3://bucket/data", run.to_vec(), "SignatureDoesNotMatch"),
        (&syntax, "s3://bucket/data", run.to_vec(), "job.toml is no valid configuration"),
        (&unknown, "s3://bucket/data", run.to_vec(), "unknown field `access_key_id`"),
        (&section, &*login, run.to_vec(), "dataset.store must hold no user and password, as s3://bucket/data does"),
    ] {
        let output = talkative(folder.path(), section, address, &arguments).await;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() == wanted.is_empty() && error.contains(wanted), "{wanted}:\n{error}");
        check_silence(wanted, &output.stderr);
        check_silence(wanted, &output.stdout);
    }
    check_silence("the good run's log", &good.stderr);
    check_silence("the good run's output", &good.stdout);
}

/// Returns the failed checks of a probe.
async fn lacking(store: &Store) -> Vec<&'static str> {
    let probe = Probe::of(store).await;
    assert!(probe.findings.iter().all(|finding| finding.is_good == finding.advice.is_empty()), "{probe:#?}");
    probe.findings.iter().filter(|finding| !finding.is_good).map(|finding| finding.check).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_finds_nothing_lacking_in_good_stores_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (service, _) = service(S3Options::default()).await;
    let config = Trial::try_new(&sections(&service.section()), "").expect("a good configuration").config.store;
    for address in ["memory://", &folder.path().display().to_string(), "s3://bucket/data"] {
        let store = Store::open_with(address, Path::new(""), &config).expect("a store");
        assert_eq!(lacking(&store).await, [""; 0], "{address}");
        assert_eq!(store.names("").await.expect("listed"), [""; 0], "{address}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_names_what_a_store_lacks() {
    let over = |faults: &Faults| {
        let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        store_over(&memory, faults, cm3flow::store::config::StoreConfig::default()).expect("memory")
    };
    assert_eq!(lacking(&over(&Faults::from(1, Fault::Overwrite))).await, ["create", "race"]);
    assert_eq!(lacking(&over(&Faults::from(1, Fault::Stale))).await, ["listing"]);
    assert_eq!(lacking(&over(&Faults::from(1, Fault::Deny))).await, ["create", "race", "ranges", "listing", "clock", "delete"]);
}
