//! Store with planned faults, which wraps another one to test the layers above.
//!
//! Requests are counted from 1, over all stores that share a plan. Each call of the trait counts, thus each attempt of a retry, and each
//! object of a deletion. A listing counts when it begins.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::{fmt, io};

use async_trait::async_trait;
use bytes::Bytes;
use cm3flow_schemas::Digest;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use object_store::client::{HttpError, HttpErrorKind};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// Kind of fault of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It fails without effect.
    Fail,
    /// It takes effect, but reports failure.
    FailAfter,
    /// Its body ends half-way without an error; a request without body fails.
    Cut,
    /// Its body stops half-way and stays open; a request without body gets no answer.
    Stall,
    /// It is refused temporarily.
    Throttle,
    /// It is refused permanently.
    Deny,
    /// A create reports a concurrent one and has no effect; other requests fail.
    Conflict,
    /// A listing lacks objects written through this plan; other requests work.
    Stale,
    /// A create overwrites, as in services that ignore conditions; other requests work.
    Overwrite,
    /// The process aborts before the request is sent.
    Abort,
    /// The process aborts after the request has taken effect.
    AbortAfter,
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Ok(match name {
            "fail" => Self::Fail,
            "fail_after" => Self::FailAfter,
            "cut" => Self::Cut,
            "stall" => Self::Stall,
            "throttle" => Self::Throttle,
            "deny" => Self::Deny,
            "conflict" => Self::Conflict,
            "stale" => Self::Stale,
            "overwrite" => Self::Overwrite,
            "abort" => Self::Abort,
            "abort_after" => Self::AbortAfter,
            _ => return Err(format!("{name:?} is no fault")),
        })
    }
}

/// Plan of faulty requests, with a count of all requests. Clones share the count.
#[derive(Debug, Clone, Default)]
pub struct Faults(Arc<Plan>);

#[derive(Debug, Default)]
struct Plan {
    single: BTreeMap<u64, Fault>,
    from: Option<(u64, Fault)>,
    random: Option<Random>,
    on: Option<(String, Fault)>,
    requests: AtomicU64,
    written: Mutex<BTreeSet<Path>>,
    log: Mutex<Vec<String>>,
}

#[derive(Debug, Clone)]
struct Random {
    seed: u64,
    per_mille: u64,
    kinds: Vec<Fault>,
}

impl Faults {
    /// Returns a plan without faults, which counts requests.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Returns a plan with a fault of the `n`th request.
    #[must_use]
    pub fn at(n: u64, fault: Fault) -> Self {
        Self::each([(n, fault)])
    }

    /// Returns a plan with faults of several requests.
    #[must_use]
    pub fn each(faults: impl IntoIterator<Item = (u64, Fault)>) -> Self {
        Self(Arc::new(Plan { single: faults.into_iter().collect(), ..Plan::default() }))
    }

    /// Returns a plan with a fault of the `n`th request and of all behind it.
    #[must_use]
    pub fn from(n: u64, fault: Fault) -> Self {
        Self(Arc::new(Plan { from: Some((n, fault)), ..Plan::default() }))
    }

    /// Returns a plan with a fault of requests whose path contains `part`.
    #[must_use]
    pub fn on(part: &str, fault: Fault) -> Self {
        Self(Arc::new(Plan { on: Some((part.to_owned(), fault)), ..Plan::default() }))
    }

    /// Returns a plan with faults of about `per_mille` in 1000 requests; `seed` determines these and their kinds, among `kinds`.
    #[must_use]
    pub fn random(seed: u64, per_mille: u64, kinds: &[Fault]) -> Self {
        Self(Arc::new(Plan { random: Some(Random { seed, per_mille, kinds: kinds.to_vec() }), ..Plan::default() }))
    }

    /// Returns the number of requests so far.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.0.requests.load(Ordering::SeqCst)
    }

    /// Returns the requests so far, as action and path.
    ///
    /// # Panics
    /// If another holder panicked.
    #[must_use]
    pub fn log(&self) -> Vec<String> {
        self.0.log.lock().expect("no holder panics").clone()
    }

    /// Wraps the store `inner` in this plan.
    #[must_use]
    pub fn over(&self, inner: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
        Arc::new(FaultStore { inner, faults: self.clone() })
    }

    /// Counts a request, and returns its fault.
    pub(crate) fn next(&self, action: &str, path: &str) -> Option<Fault> {
        let n = self.0.requests.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.log.lock().expect("no holder panics").push(format!("{action} {path}"));
        let random = |Random { seed, per_mille, kinds }: &Random| {
            let draw = Digest::of(format!("{seed} {n}").as_bytes()).to_string();
            let draw = u64::from_str_radix(&draw[..15], 16).expect("digests are hexadecimal");
            (draw % 1000 < *per_mille).then(|| kinds[(draw / 1000) as usize % kinds.len()])
        };
        let later = self.0.from.filter(|(first, _)| n >= *first).map(|(_, fault)| fault);
        let on = self.0.on.as_ref().filter(|(part, _)| path.contains(part.as_str())).map(|(_, fault)| *fault);
        self.0.single.get(&n).copied().or(later).or(on).or_else(|| self.0.random.as_ref().and_then(random))
    }
}

/// A store with a plan of faults.
#[derive(Debug)]
struct FaultStore {
    inner: Arc<dyn ObjectStore>,
    faults: Faults,
}

impl fmt::Display for FaultStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fault({})", self.inner)
    }
}

fn error(kind: HttpErrorKind, source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Generic { store: "fault", source: Box::new(HttpError::new(kind, source)) }
}

/// Returns the error of `fault`, by default that of a broken connection.
fn failure(fault: Fault, path: &str) -> Error {
    match fault {
        Fault::Throttle => {
            let status = cm3flow::store::AttemptError::Status { status: 503, body: "SlowDown".into(), retry_after: None };
            error(HttpErrorKind::Request, status)
        }
        Fault::Deny => Error::PermissionDenied { path: path.to_owned(), source: "denied by the plan".into() },
        _ => error(HttpErrorKind::Interrupted, io::Error::new(io::ErrorKind::ConnectionReset, "broken by the plan")),
    }
}

/// Applies the faults that prevent a request.
async fn before(fault: Option<Fault>, path: &str) -> Result<()> {
    match fault {
        None | Some(Fault::FailAfter | Fault::AbortAfter | Fault::Stale | Fault::Overwrite) => Ok(()),
        Some(Fault::Stall) => std::future::pending().await,
        Some(Fault::Abort) => std::process::abort(),
        Some(fault) => Err(failure(fault, path)),
    }
}

/// Applies the faults that hide the effect of a request.
fn after<T>(fault: Option<Fault>, path: &str, done: Result<T>) -> Result<T> {
    match fault {
        Some(Fault::AbortAfter) => std::process::abort(),
        Some(fault @ Fault::FailAfter) => done.and_then(|_| Err(failure(fault, path))),
        _ => done,
    }
}

/// Returns the first half of a body, which then ends or stalls.
fn half(found: GetResult, stalls: bool) -> GetResult {
    let GetResult { meta, range, attributes, extensions, .. } = &found;
    let (meta, range, attributes, extensions) = (meta.clone(), range.clone(), attributes.clone(), extensions.clone());
    let left = (range.end - range.start) / 2;
    let first = futures::stream::once(async move { found.bytes().await.map(|bytes| bytes.slice(..left as usize)) });
    let first = first.try_filter(|bytes: &Bytes| futures::future::ready(!bytes.is_empty()));
    let stream = if stalls { first.chain(futures::stream::pending()).boxed() } else { first.boxed() };
    GetResult { payload: GetResultPayload::Stream(stream), meta, range, attributes, extensions }
}

#[async_trait]
impl ObjectStore for FaultStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, mut options: PutOptions) -> Result<PutResult> {
        let fault = self.faults.next("put", location.as_ref());
        if fault == Some(Fault::Conflict) && options.mode == PutMode::Create {
            return Err(Error::AlreadyExists { path: location.to_string(), source: "conflict by the plan".into() });
        }
        if fault == Some(Fault::Overwrite) {
            options.mode = PutMode::Overwrite;
        }
        before(fault, location.as_ref()).await?;
        let done = self.inner.put_opts(location, payload, options).await;
        if done.is_ok() {
            self.faults.0.written.lock().expect("no holder panics").insert(location.clone());
        }
        after(fault, location.as_ref(), done)
    }

    async fn put_multipart_opts(&self, location: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let fault = self.faults.next("multipart", location.as_ref());
        before(fault, location.as_ref()).await?;
        after(fault, location.as_ref(), self.inner.put_multipart_opts(location, options).await)
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let head = options.head;
        let range = options.range.as_ref().map(|range| format!(" {range}")).unwrap_or_default();
        let fault = self.faults.next(if head { "head" } else { "get" }, &format!("{location}{range}"));
        if !head && matches!(fault, Some(Fault::Cut | Fault::Stall)) {
            return Ok(half(self.inner.get_opts(location, options).await?, fault == Some(Fault::Stall)));
        }
        before(fault, location.as_ref()).await?;
        after(fault, location.as_ref(), self.inner.get_opts(location, options).await)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let (inner, faults) = (Arc::clone(&self.inner), self.faults.clone());
        let delete = move |location: Result<Path>| {
            let (inner, faults) = (Arc::clone(&inner), faults.clone());
            async move {
                let location = location?;
                let fault = faults.next("delete", location.as_ref());
                before(fault, location.as_ref()).await?;
                after(fault, location.as_ref(), inner.delete(&location).await).map(|()| location)
            }
        };
        locations.then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listed(prefix, |inner, prefix| inner.list(prefix))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        let offset = offset.clone();
        self.listed(prefix, move |inner, prefix| inner.list_with_offset(prefix, &offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let path = prefix.map_or("", AsRef::as_ref);
        let fault = self.faults.next("names", path);
        before(fault, path).await?;
        let mut done = self.inner.list_with_delimiter(prefix).await;
        if let (Ok(listed), Some(Fault::Stale)) = (&mut done, fault) {
            let written = self.faults.0.written.lock().expect("no holder panics").clone();
            listed.objects.retain(|object| !written.contains(&object.location));
        }
        after(fault, path, done)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let fault = self.faults.next("copy", to.as_ref());
        before(fault, to.as_ref()).await?;
        after(fault, to.as_ref(), self.inner.copy_opts(from, to, options).await)
    }
}

impl FaultStore {
    /// Lists objects; a fault occurs after half of them.
    fn listed(
        &self,
        prefix: Option<&Path>,
        list: impl FnOnce(Arc<dyn ObjectStore>, Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> + Send + 'static,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let (inner, faults, prefix) = (Arc::clone(&self.inner), self.faults.clone(), prefix.cloned());
        let listing = async move {
            let path = prefix.clone().unwrap_or_default().to_string();
            let fault = faults.next("list", &path);
            let mut objects: Vec<Result<ObjectMeta>> = list(inner, prefix.as_ref()).collect().await;
            match fault {
                None | Some(Fault::Overwrite) => {}
                Some(Fault::Stale) => {
                    let written = faults.0.written.lock().expect("no holder panics").clone();
                    objects.retain(|object| object.as_ref().is_ok_and(|object| !written.contains(&object.location)));
                }
                Some(Fault::Abort | Fault::AbortAfter) => std::process::abort(),
                Some(fault) => {
                    objects.truncate(objects.len() / 2);
                    if fault == Fault::Stall {
                        return futures::stream::iter(objects).chain(futures::stream::pending()).boxed();
                    }
                    objects.push(Err(failure(fault, &path)));
                }
            }
            futures::stream::iter(objects).boxed()
        };
        futures::stream::once(listing).flatten().boxed()
    }
}
