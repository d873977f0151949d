//! Metrics of a run, scraped over HTTP: at the end they equal the manifest's ledger.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cm3flow::events::progress::Progress;
use cm3flow::metrics::{Endpoint, MetricsAddress};
use cm3flow::run;
use cm3flow_tests::trial::{SMALL, Trial, corpus_source};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Sends a request; returns status line, head and body of the answer.
async fn request(address: SocketAddr, method: &str, path: &str) -> (String, String, String) {
    let mut stream = TcpStream::connect(address).await.expect("somebody listens");
    let request = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer in UTF-8");
    let (head, body) = answer.split_once("\r\n\r\n").expect("head and body");
    (head.lines().next().unwrap_or_default().to_owned(), head.to_lowercase(), body.to_owned())
}

/// Returns the name of a series, for any order of its labels.
fn series(name: &str, labels: &[(&str, &str)]) -> String {
    let mut labels: Vec<String> = labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
    labels.sort_unstable();
    format!("{name}{{{}}}", labels.join(","))
}

/// Parses values by series; every line must be a comment or a series with a number.
fn parse(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let parse = |line: &str| {
        let (found, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no series: {line}"));
        let (name, labels) = found.split_once('{').unwrap_or((found, "}"));
        let labels = labels.trim_end_matches('}').split(',').filter_map(|label| label.split_once('='));
        let labels: Vec<(&str, &str)> = labels.map(|(label, value)| (label, value.trim_matches('"'))).collect();
        (series(name, &labels), value.parse().unwrap_or_else(|_| panic!("no number: {line}")))
    };
    lines.map(parse).collect()
}

async fn scrape(address: SocketAddr) -> BTreeMap<String, f64> {
    let (status, head, body) = request(address, "GET", "/metrics").await;
    assert_eq!(status, "HTTP/1.1 200 OK");
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    parse(&body)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrape_shows_what_the_ledger_says() {
    let trial = Trial::try_new(&SMALL.replace("min_short_side_px = 32", "max_image_bytes = 35000"), &corpus_source(10))
        .expect("a good configuration");
    let progress = Progress::silent();
    let loopback: MetricsAddress = "0".parse().expect("a port");
    let endpoint = Endpoint::open(loopback, &progress).await.expect("a free port");
    let address = endpoint.address();
    assert!(address.ip().is_loopback(), "a port alone is one of the loopback address");

    // Scrapes go on during the run, and no counter ever decreases.
    let ended = Arc::new(AtomicBool::new(false));
    let watching = tokio::spawn({
        let ended = Arc::clone(&ended);
        async move {
            let mut before = BTreeMap::new();
            while !ended.load(Ordering::Relaxed) {
                let now = scrape(address).await;
                for (series, value) in before.iter().filter(|(series, _): &(&String, &f64)| series.contains("_total")) {
                    assert!(now[series] >= *value, "{series} fell from {value} to {}", now[series]);
                }
                before = now;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    });
    let outcome = run::run(&trial.job_telling(&progress), &trial.options).await.expect("the run ends");
    ended.store(true, Ordering::Relaxed);
    watching.await.expect("no counter fell");

    let found = scrape(address).await;
    let value = |name: &str, labels: &[(&str, &str)]| {
        let series = series(name, labels);
        *found.get(&series).unwrap_or_else(|| panic!("{series} is missing in {found:#?}")) as u64
    };
    let (samples, documents) = (&outcome.manifest.samples, &outcome.manifest.documents);
    assert!(samples.refused_total() > 0, "nothing was refused, so nothing is compared");
    for (outcome, count) in [
        ("in", samples.input),
        ("kept", samples.kept),
        ("refused", samples.refused_total()),
        ("duplicate", samples.duplicate),
        ("withdrawn", 0),
        ("quarantined", 0),
    ] {
        assert_eq!(value("cm3flow_samples_total", &[("outcome", outcome)]), count, "{outcome}");
    }
    assert_eq!(value("cm3flow_documents_total", &[("outcome", "packed")]), documents.packed);
    for (of, reasons) in [("samples", &samples.refused), ("documents", &documents.refused)] {
        for (reason, count) in reasons {
            assert_eq!(value("cm3flow_refused_total", &[("of", of), ("reason", reason.as_str())]), *count, "{reason}");
        }
    }
    let (windows, units) = (outcome.windows.len() as u64, outcome.windows.iter().map(|window| window.units.len() as u64).sum::<u64>());
    assert_eq!((value("cm3flow_windows_total", &[]), value("cm3flow_windows_planned", &[])), (windows, windows));
    for (segment, count) in [("prepare", units), ("settle", windows), ("compose", units), ("pack", 2 * windows)] {
        assert_eq!(value("cm3flow_units_total", &[("segment", segment), ("state", "made")]), count, "{segment}");
        assert_eq!(value("cm3flow_units_planned", &[("segment", segment), ("state", "to_make")]), count, "{segment}");
        assert!(value("cm3flow_unit_bytes_total", &[("segment", segment)]) > 0, "{segment}");
    }
    let prepared = (value("cm3flow_samples_prepared", &[]), value("cm3flow_samples_expected", &[]));
    assert_eq!(prepared, (samples.input, samples.input));
    // Refused rows pass the later stages unchanged, so all rows pass all of these.
    for stage in ["filter", "derive", "tokenize", "embed"] {
        let of = |name, direction| value(name, &[("stage", stage), ("direction", direction)]);
        let rows = (of("cm3flow_rows_total", "in"), of("cm3flow_rows_total", "out"));
        assert_eq!(rows, (samples.input, samples.input), "{stage}");
        assert!(of("cm3flow_bytes_total", "in") > 0, "{stage}");
        let queued = (value("cm3flow_queued_batches", &[("stage", stage)]), value("cm3flow_queued_bytes", &[("stage", stage)]));
        assert_eq!(queued, (0, 0), "{stage}");
        for state in ["busy", "starved", "blocked"] {
            value("cm3flow_stage_seconds", &[("stage", stage), ("state", state)]);
        }
    }
    assert_eq!(value("cm3flow_version", &[]), 1);
    assert!(value("cm3flow_store_requests_total", &[("action", "create")]) > units, "each unit has a record and files");
    assert_eq!(value("cm3flow_store_retries_total", &[("action", "create")]), 0, "memory does not fail");
}

#[tokio::test]
async fn only_a_get_of_the_metrics_is_answered() {
    let endpoint = Endpoint::open("0".parse().expect("a port"), &Progress::silent()).await.expect("a free port");
    for (method, path, wanted) in
        [("GET", "/", "404"), ("GET", "/metrics/../etc", "404"), ("POST", "/metrics", "405"), ("GET", "/metrics?x=1", "200")]
    {
        let (status, ..) = request(endpoint.address(), method, path).await;
        assert!(status.contains(wanted), "{method} {path}: {status}");
    }
    let taken = MetricsAddress(endpoint.address());
    let error = Endpoint::open(taken, &Progress::silent()).await.expect_err("the port is taken");
    assert!(error.to_string().contains(&taken.to_string()) && error.is_users_mistake(), "{error}");
}
