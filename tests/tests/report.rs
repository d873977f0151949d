//! Report in a real browser.

use std::collections::HashSet;
use std::path::Path;
use std::process::Command;

use cm3flow_tests::tools::tool;
use cm3flow_tests::trial::{Trial, WITH_MODELS, corpus_source};

/// Runs the browser without a window on `page`.
fn browse(browser: &Path, page: &Path, arguments: &[&str]) -> Vec<u8> {
    let profile = tempfile::tempdir().expect("a temporary folder");
    let output = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--window-size=1150,6000"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .args(arguments)
        .arg(format!("file://{}", page.display()))
        .output()
        .expect("the browser was just found");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[tokio::test(flavor = "multi_thread")]
async fn the_report_shows_pictures_and_curves_in_a_browser() {
    let Some(browser) = tool("the_report_shows_pictures_and_curves_in_a_browser", &["chromium", "chromium-browser", "google-chrome"])
    else {
        return;
    };
    let mut trial = Trial::try_new(WITH_MODELS, &corpus_source(10)).expect("a good configuration");
    trial.options.limit = Some(40);
    let outcome = trial.run().await.expect("the run ends");
    let page = trial.store.get(outcome.report.as_deref().expect("a report")).await.expect("memory").expect("just written");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("report.html");
    std::fs::write(&file, &page).expect("a temporary folder");

    let dom = String::from_utf8(browse(&browser, &file, &["--dump-dom"])).expect("a page is UTF-8");
    for section in ["funnel", "samples", "neighbours", "documents", "packs", "training", "stages", "credits"] {
        assert!(dom.contains(&format!("<section id=\"{section}\">")), "section {section} is missing");
    }
    for wanted in
        [outcome.manifest.samples.to_string().as_str(), "alt=\"generated\"", "alt=\"reconstruction\"", "curve-image", "public-domain"]
    {
        assert!(dom.contains(wanted), "{wanted} is missing");
    }

    let shot = folder.path().join("report.png");
    browse(&browser, &file, &[&format!("--screenshot={}", shot.display())]);
    let shot = image::open(&shot).expect("a screenshot").into_rgb8();
    let top: HashSet<_> = shot.pixels().take(1150 * 3000).map(|pixel| pixel.0).collect();
    assert!(top.len() > 5000, "only {} colours: the photos are missing", top.len());
}
