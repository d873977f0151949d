//! Resilience around every store: temporary failures are retried, bodies continue where they broke off, and a create with unknown
//! outcome is settled by reading back.
//!
//! This is the one place with retries: the clients below have none. It passes on multipart uploads and conditional copies, which cm3flow
//! does not use, and deletes objects one by one.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyMode, CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};

use super::body::Body;
use super::retry::{AttemptError, Attempts, RetryPolicy, is_retryable, within};

/// Piece of an upload that may take one stall timeout.
const UPLOAD_BYTES: u64 = 4 << 20;

/// Stall timeouts for a listing of one level, whose pages are not visible here.
const LISTING_STALLS: u32 = 10;

/// Concurrent deletions.
const DELETIONS: usize = 16;

/// Order of a store's listings. A listing in order of paths can continue after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Listing {
    InOrder,
    Unordered,
}

/// A store with retries. Clones share the store below.
#[derive(Clone)]
pub(super) struct Resilient {
    inner: Arc<dyn ObjectStore>,
    policy: RetryPolicy,
    listing: Listing,
}

impl Resilient {
    pub(super) fn new(inner: Arc<dyn ObjectStore>, policy: RetryPolicy, listing: Listing) -> Self {
        Self { inner, policy, listing }
    }

    /// Creates an object. A failed attempt may have created it, so this compares the object that exists then.
    async fn create(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let mut attempts = Attempts::new(self.policy, "create", location.as_ref());
        let limit = self.upload_limit(&payload);
        loop {
            attempts.count();
            let error = match within(limit, self.inner.put_opts(location, payload.clone(), options.clone())).await {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            if !matches!(error, Error::AlreadyExists { .. }) {
                let Err(error) = attempts.pause(error).await else { continue };
                // The last attempt may have created it.
                let looked = if is_retryable(&error) { self.once().standing(location, &payload).await } else { Ok(Standing::Nothing) };
                return if let Ok(Standing::Ours(put)) = looked { Ok(put) } else { Err(error) };
            }
            if !attempts.have_failed() && is_certain(&error) {
                return Err(error);
            }
            match self.standing(location, &payload).await? {
                Standing::Ours(put) if attempts.have_failed() => return Ok(put),
                Standing::Ours(_) | Standing::Other => return Err(error),
                // Services also answer "conflict" if two creates meet and neither has happened.
                Standing::Nothing => attempts.pause(conflict(&error)).await?,
            }
        }
    }

    /// Returns the same store without retries.
    fn once(&self) -> Self {
        Self { policy: RetryPolicy { deadline: Duration::ZERO, ..self.policy }, ..self.clone() }
    }

    /// Compares the object at `location` with the one to be created there.
    async fn standing(&self, location: &Path, payload: &PutPayload) -> Result<Standing> {
        let found = match self.get_opts(location, GetOptions::default()).await {
            Ok(found) => found,
            Err(Error::NotFound { .. }) => return Ok(Standing::Nothing),
            Err(error) => return Err(error),
        };
        let put = PutResult { e_tag: found.meta.e_tag.clone(), version: found.meta.version.clone(), extensions: Default::default() };
        Ok(if is_same(&found.bytes().await?, payload) { Standing::Ours(put) } else { Standing::Other })
    }

    fn upload_limit(&self, payload: &PutPayload) -> Duration {
        let pieces = payload.content_length() as u64 / UPLOAD_BYTES + 1;
        self.policy.stall.saturating_mul(u32::try_from(pieces).unwrap_or(u32::MAX))
    }

    async fn delete_one(&self, location: &Path) -> Result<()> {
        let mut attempts = Attempts::new(self.policy, "delete", location.as_ref());
        loop {
            attempts.count();
            match within(self.policy.stall, self.inner.delete(location)).await {
                Ok(()) => return Ok(()),
                // An attempt that seemed to fail has deleted it.
                Err(Error::NotFound { .. }) if attempts.have_failed() => return Ok(()),
                Err(error) => attempts.pause(error).await?,
            }
        }
    }
}

/// Object at the location of a create.
enum Standing {
    Nothing,
    /// The same bytes, with the result that their put would have returned.
    Ours(PutResult),
    Other,
}

fn is_same(found: &[u8], payload: &PutPayload) -> bool {
    let mut rest = found;
    let parts_are_equal = payload.iter().all(|part| {
        let (start, after) = rest.split_at_checked(part.len()).unwrap_or((&[], &[]));
        rest = after;
        start == &part[..]
    });
    found.len() == payload.content_length() && parts_are_equal
}

/// Checks whether the service found an object for certain, rather than a conflict with a create that may still fail.
fn is_certain(error: &Error) -> bool {
    let Error::AlreadyExists { source, .. } = error else { return false };
    matches!(source.downcast_ref::<Error>(), Some(Error::Precondition { .. } | Error::NotModified { .. }))
}

/// Turns a conflict into an error that is retried.
fn conflict(error: &Error) -> Error {
    AttemptError::Status { status: 409, body: error.to_string(), retry_after: None }.into()
}

#[async_trait]
impl ObjectStore for Resilient {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        match options.mode {
            PutMode::Create => self.create(location, payload, options).await,
            PutMode::Overwrite => {
                let mut attempts = Attempts::new(self.policy, "write", location.as_ref());
                let limit = self.upload_limit(&payload);
                attempts.run(limit, || self.inner.put_opts(location, payload.clone(), options.clone())).await
            }
            // Nobody outside can see whether a failed update has happened.
            PutMode::Update(_) => self.inner.put_opts(location, payload, options).await,
        }
    }

    async fn put_multipart_opts(&self, location: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let mut attempts = Attempts::new(self.policy, "read", location.as_ref());
        let mut found = attempts.run(self.policy.stall, || self.inner.get_opts(location, options.clone())).await?;
        // Files on disk do not break off, and a head request has no body.
        if let (GetResultPayload::Stream(stream), false) = (&mut found.payload, options.head) {
            let stream = std::mem::replace(stream, futures::stream::empty().boxed());
            found.payload =
                GetResultPayload::Stream(Body::new(Arc::clone(&self.inner), options.version, &found, stream).into_stream(self.policy));
        }
        Ok(found)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        let delete = move |location: Result<Path>| {
            let this = this.clone();
            async move {
                let location = location?;
                this.delete_one(&location).await?;
                Ok(location)
            }
        };
        locations.map(delete).buffered(DELETIONS).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        listed(self.clone(), prefix.cloned(), None)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        listed(self.clone(), prefix.cloned(), Some(offset.clone()))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let mut attempts = Attempts::new(self.policy, "list", prefix.map_or("", AsRef::as_ref));
        attempts.run(self.policy.stall * LISTING_STALLS, || self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        if options.mode == CopyMode::Create {
            return self.inner.copy_opts(from, to, options).await;
        }
        let mut attempts = Attempts::new(self.policy, "copy", from.as_ref());
        attempts.run(self.policy.stall, || self.inner.copy_opts(from, to, options.clone())).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.inner.rename_opts(from, to, options).await
    }
}

/// A listing in progress.
struct Listed {
    store: Resilient,
    prefix: Option<Path>,
    /// Last path sent.
    last: Option<Path>,
    stream: BoxStream<'static, Result<ObjectMeta>>,
    /// `true` if the listing can continue after `last`: nothing was sent yet, or all paths came in order.
    resumes: bool,
}

impl Listed {
    fn restart(&mut self, is_retry: bool) {
        super::requests::count("list", is_retry);
        let (inner, prefix) = (&self.store.inner, self.prefix.as_ref());
        self.stream = self.last.as_ref().map_or_else(|| inner.list(prefix), |last| inner.list_with_offset(prefix, last));
    }

    async fn next(&mut self) -> Result<Option<ObjectMeta>> {
        let policy = self.store.policy;
        let name = self.prefix.clone().unwrap_or_default();
        let mut attempts = Attempts::new(policy, "list", name.as_ref());
        loop {
            match within(policy.stall, self.stream.try_next()).await {
                Ok(Some(object)) => {
                    let is_next = self.last.as_ref().is_none_or(|last| *last < object.location);
                    self.resumes &= is_next && self.store.listing == Listing::InOrder;
                    self.last = Some(object.location.clone());
                    return Ok(Some(object));
                }
                Ok(None) => return Ok(None),
                Err(error) if !self.resumes => return Err(error),
                Err(error) => attempts.pause(error).await?,
            }
            self.restart(true);
        }
    }
}

fn listed(store: Resilient, prefix: Option<Path>, last: Option<Path>) -> BoxStream<'static, Result<ObjectMeta>> {
    let mut listed = Listed { store, prefix, last, stream: futures::stream::empty().boxed(), resumes: true };
    listed.restart(false);
    futures::stream::try_unfold(listed, |mut listed| async move { listed.next().await.map(|object| Some((object?, listed))) }).boxed()
}

impl fmt::Display for Resilient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl fmt::Debug for Resilient {
    /// Shows only the name for people: a client may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Resilient").field(&format_args!("{}", self.inner)).finish()
    }
}
