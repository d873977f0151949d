//! Body of an object that survives failures: if it breaks off, ends early or stalls, a new request continues at the same byte.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{Error, GetOptions, GetRange, GetResult, ObjectMeta, ObjectStore, Result};

use super::retry::{AttemptError, Attempts, RetryPolicy, within};

/// Unread rest of an object, or of a range of it.
pub(super) struct Body {
    store: Arc<dyn ObjectStore>,
    meta: ObjectMeta,
    version: Option<String>,
    left: Range<u64>,
    stream: BoxStream<'static, Result<Bytes>>,
}

impl Body {
    /// The body `stream` of `found`, which `store` gave.
    pub(super) fn new(
        store: Arc<dyn ObjectStore>,
        version: Option<String>,
        found: &GetResult,
        stream: BoxStream<'static, Result<Bytes>>,
    ) -> Self {
        Self { store, meta: found.meta.clone(), version, left: found.range.clone(), stream }
    }

    pub(super) fn into_stream(self, policy: RetryPolicy) -> BoxStream<'static, Result<Bytes>> {
        let next = move |mut body: Self| async move { body.next(policy).await.map(|bytes| Some((bytes?, body))) };
        Box::pin(futures::stream::try_unfold(self, next))
    }

    async fn next(&mut self, policy: RetryPolicy) -> Result<Option<Bytes>> {
        let location = self.meta.location.clone();
        let mut attempts = Attempts::new(policy, "read the body of", location.as_ref());
        while !self.left.is_empty() {
            let error = match within(policy.stall, self.stream.try_next()).await {
                Ok(Some(bytes)) if bytes.len() as u64 > self.left.end - self.left.start => AttemptError::Replaced.into(),
                Ok(Some(bytes)) => {
                    self.left.start += bytes.len() as u64;
                    return Ok(Some(bytes));
                }
                Ok(None) => AttemptError::CutShort { position: self.left.start, end: self.left.end }.into(),
                Err(error) => error,
            };
            attempts.pause(error).await?;
            self.reopen(&mut attempts, policy.stall, &location).await?;
        }
        Ok(None)
    }

    /// Requests the unread rest, which must belong to the same object.
    async fn reopen(&mut self, attempts: &mut Attempts<'_>, limit: Duration, location: &Path) -> Result<(), Error> {
        let options =
            GetOptions { range: Some(GetRange::Bounded(self.left.clone())), version: self.version.clone(), ..GetOptions::default() };
        let found = attempts.run(limit, || self.store.get_opts(location, options.clone())).await?;
        let ObjectMeta { size, last_modified, e_tag, .. } = &found.meta;
        if (size, last_modified, e_tag) != (&self.meta.size, &self.meta.last_modified, &self.meta.e_tag) || found.range != self.left {
            return Err(AttemptError::Replaced.into());
        }
        self.stream = found.into_stream();
        Ok(())
    }
}
