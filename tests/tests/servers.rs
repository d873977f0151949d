//! Third-party object stores hold the same version as memory. Their missing features are listed, so that a change is noticed.

use std::path::Path;

use cm3flow::Store;
use cm3flow::store::Probe;
use cm3flow_tests::servers::Server;
use cm3flow_tests::small::{SAMPLES, sections};
use cm3flow_tests::trial::Trial;

/// Runs on `server`, compares with memory, and returns the missing features.
async fn lacking(server: &Server) -> Vec<&'static str> {
    let mut trial = Trial::try_new(&sections(&server.section), "").expect("a good configuration");
    trial.options.limit = Some(SAMPLES);
    trial.run().await.expect("memory");
    let expected = trial.objects().await;
    trial.store = Store::open_with(server.address, Path::new(""), &trial.config.store).expect("a store");
    let probe = Probe::of(&trial.store).await;
    for finding in &probe.findings {
        println!("{}: {} {}", server.address, finding.check, finding.found);
    }
    trial.run().await.expect("the run ends");
    assert_eq!(trial.objects().await, expected);
    probe.findings.iter().filter(|finding| !finding.is_good).map(|finding| finding.check).collect()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long"]
async fn azurite_lacks_nothing() {
    let Some(server) = Server::azurite("azurite_lacks_nothing") else { return };
    assert_eq!(lacking(&server).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long"]
async fn moto_lacks_nothing() {
    let Some(server) = Server::moto("moto_lacks_nothing") else { return };
    assert_eq!(lacking(&server).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long"]
async fn garage_lacks_creates_that_are_refused_when_something_is_there() {
    let Some(server) = Server::garage("garage_lacks_creates_that_are_refused_when_something_is_there") else { return };
    assert_eq!(lacking(&server).await, ["create", "race"]);
}
