//! Retries of faulty requests: no effect is lost or doubled, and permanent failures are not retried.

use std::sync::Arc;

use cm3flow::store::Created;
use cm3flow::store::config::StoreConfig;
use cm3flow::{PipelineError, Store};
use cm3flow_tests::fault::{Fault, Faults};
use cm3flow_tests::small::store_over;
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

const BYTES: &str = "0123456789";

fn config(text: &str) -> StoreConfig {
    toml::from_str(text).expect("fields of [store]")
}

/// Creates an empty store in memory with `faults`, and returns the objects below them too.
fn store(faults: &Faults) -> (Store, Arc<dyn ObjectStore>) {
    let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    (store_over(&memory, faults, config("stall_timeout_seconds = 1")).expect("memory"), memory)
}

/// Creates a store with `a` = [`BYTES`].
async fn filled(faults: &Faults) -> Store {
    let (store, memory) = store(faults);
    memory.put(&Path::from("a"), BYTES.into()).await.expect("memory");
    store
}

#[tokio::test]
async fn a_create_that_fails_is_tried_again_and_settled_by_reading_back() {
    for (fault, requests) in [
        (Fault::Fail, vec!["put a", "put a"]),
        (Fault::Throttle, vec!["put a", "put a"]),
        (Fault::Stall, vec!["put a", "put a"]),
        // The first attempt took effect: the second is refused, and the object is ours.
        (Fault::FailAfter, vec!["put a", "put a", "get a"]),
        // The first attempt had no effect, so the object is missing.
        (Fault::Conflict, vec!["put a", "get a", "put a"]),
    ] {
        let faults = Faults::at(1, fault);
        let (store, memory) = store(&faults);
        assert_eq!(store.create("a", BYTES).await.expect("settled"), Created::New, "{fault:?}");
        assert_eq!(faults.log(), requests, "{fault:?}");
        assert_eq!(memory.get(&Path::from("a")).await.expect("created").bytes().await.expect("memory"), BYTES);
    }
}

#[tokio::test]
async fn a_create_that_fails_does_not_take_anothers_object_for_its_own() {
    for fault in [Fault::Fail, Fault::FailAfter, Fault::Conflict, Fault::Stall] {
        let store = filled(&Faults::at(1, fault)).await;
        assert_eq!(store.create("a", "other bytes").await.expect("settled"), Created::Different, "{fault:?}");
        assert_eq!(store.get("a").await.expect("memory").expect("the first one stays"), BYTES);
    }
}

#[tokio::test]
async fn a_create_whose_last_attempt_happened_is_no_failure() {
    let faults = Faults::at(1, Fault::FailAfter);
    let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let store = store_over(&memory, &faults, config("retry_deadline_seconds = 0")).expect("memory");
    assert_eq!(store.create("a", BYTES).await.expect("read back"), Created::New);
    assert_eq!(faults.log(), ["put a", "get a"]);
}

#[tokio::test]
async fn a_body_goes_on_from_where_it_broke_off() {
    for fault in [Fault::Cut, Fault::Stall] {
        let faults = Faults::at(1, fault);
        let store = filled(&faults).await;
        assert_eq!(store.get("a").await.expect("whole").expect("there"), BYTES);
        assert_eq!(faults.log(), ["get a", "get a bytes=5-9"], "{fault:?}");

        let faults = Faults::each([(1, fault), (2, Fault::Fail), (3, fault)]);
        let store = filled(&faults).await;
        assert_eq!(store.objects().get_range(&Path::from("a"), 2..8).await.expect("whole"), "234567");
        assert_eq!(faults.log(), ["get a bytes=2-7", "get a bytes=5-7", "get a bytes=5-7", "get a bytes=6-7"], "{fault:?}");
    }
}

#[tokio::test]
async fn an_object_that_is_replaced_while_it_is_read_is_an_error() {
    let (store, memory) = store(&Faults::at(1, Fault::Cut));
    memory.put(&Path::from("a"), BYTES.into()).await.expect("memory");
    let found = store.objects().get(&Path::from("a")).await.expect("opened");
    memory.put(&Path::from("a"), "abcdefghij".into()).await.expect("memory");
    let error = found.bytes().await.expect_err("half of each");
    assert!(error.to_string().contains("it was replaced while it was read"), "{error}");
}

#[tokio::test]
async fn what_is_answered_is_not_asked_again() {
    let faults = Faults::from(1, Fault::Deny);
    let error = filled(&faults).await.get("a").await.expect_err("denied");
    assert!(!error.is_retryable(), "{error}");
    assert_eq!(faults.requests(), 1);

    let faults = Faults::none();
    let (store, _) = store(&faults);
    assert_eq!(store.get("nowhere").await.expect("a clear answer"), None);
    assert_eq!(faults.requests(), 1);
}

#[tokio::test]
async fn what_never_passes_is_given_up_at_the_deadline() {
    for fault in [Fault::Fail, Fault::Throttle] {
        let faults = Faults::from(1, fault);
        let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let store = store_over(&memory, &faults, config("retry_deadline_seconds = 1")).expect("memory");
        let error = store.get("a").await.expect_err("it never passes");
        assert!(error.is_retryable(), "{error}");
        let PipelineError::Store { source, .. } = &error else { panic!("{error}") };
        assert!(source.to_string().contains("gave up after"), "{source}");
        assert!((2..40).contains(&faults.requests()), "{} requests", faults.requests());
    }
}

#[tokio::test]
async fn listings_go_on_where_they_broke_off() {
    for fault in [Fault::Fail, Fault::Stall] {
        let faults = Faults::at(1, fault);
        let (store, memory) = store(&faults);
        for name in ["v/1", "v/2", "v/3", "v/4", "v/5"] {
            memory.put(&Path::from(name), BYTES.into()).await.expect("memory");
        }
        let listed: Vec<_> = store.entries("v").try_collect().await.expect("whole");
        let names: Vec<_> = listed.iter().map(|object| object.location.as_ref()).collect();
        assert_eq!(names, ["v/1", "v/2", "v/3", "v/4", "v/5"], "{fault:?}");
        assert_eq!(faults.requests(), 2);
    }
}

#[tokio::test]
async fn names_and_deletions_are_tried_again() {
    for fault in [Fault::Fail, Fault::FailAfter, Fault::Throttle] {
        let faults = Faults::each([(1, fault), (3, fault)]);
        let store = filled(&faults).await;
        assert_eq!(store.names("").await.expect("listed"), ["a"], "{fault:?}");
        store.delete("a").await.expect("deleted");
        assert_eq!(faults.log(), ["names ", "names ", "delete a", "delete a"]);
        assert_eq!(store.get("a").await.expect("memory"), None);
    }
}
