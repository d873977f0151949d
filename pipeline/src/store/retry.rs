//! Retries: which errors are retried, after which wait, and until when.

use std::error::Error as StdError;
use std::future::Future;
use std::io;
use std::time::Duration;

use cm3flow_stages::StageError;
use object_store::Error;
use object_store::client::{HttpError, HttpErrorKind};
use thiserror::Error;
use tokio::time::Instant;

use super::requests;
use crate::error::PipelineError;

/// Limits of retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Time for an operation with all its attempts; a body starts it anew with every byte. Zero: one attempt.
    pub deadline: Duration,
    /// Time without an answer, or without a byte of a body, after which an attempt is abandoned.
    pub stall: Duration,
    /// Longest wait after the first failure; doubles with each further one.
    pub first_wait: Duration,
    /// Upper bound of all waits.
    pub longest_wait: Duration,
}

impl Default for RetryPolicy {
    /// Returns 3 minutes in all, 1 minute for a stall, waits of up to 0.1, 0.2, … 15 s.
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(180),
            stall: Duration::from_secs(60),
            first_wait: Duration::from_millis(100),
            longest_wait: Duration::from_secs(15),
        }
    }
}

/// Failure of an attempt that the service itself does not report as an error.
#[derive(Debug, Error)]
pub enum AttemptError {
    /// Nothing arrived in time.
    #[error("nothing came for {seconds} s")]
    Stalled {
        /// Time waited, in seconds.
        seconds: u64,
    },
    /// A body ended early.
    #[error("the body ended at byte {position}, it should have {end}")]
    CutShort {
        /// Byte at which it ended.
        position: u64,
        /// Expected end, in bytes.
        end: u64,
    },
    /// The service failed or refused temporarily, as its HTTP status tells.
    #[error("the service answered {status}: {body}")]
    Status {
        /// HTTP status: 408, 429 or 5xx, or 400 for a timeout of S3.
        status: u16,
        /// Beginning of the answer's body.
        body: String,
        /// Wait that the service requested.
        retry_after: Option<Duration>,
    },
    /// The user gave no keys, and this machine has no service that offers some.
    #[error(
        "no keys are given, and this machine is none of the provider's that would have some; set access keys under [store.options] or in the environment, or store.anonymous = true for public data"
    )]
    NoKeys,
    /// An object was replaced between two attempts to read it.
    #[error("it was replaced while it was read")]
    Replaced,
    /// All attempts failed.
    #[error("gave up after {attempts} attempts in {seconds} s")]
    GaveUp {
        /// Number of attempts.
        attempts: u32,
        /// Time of all attempts, in seconds.
        seconds: u64,
        /// Error of the last attempt.
        #[source]
        source: Error,
    },
}

impl AttemptError {
    const fn is_retryable(&self) -> bool {
        !matches!(self, Self::NoKeys | Self::Replaced)
    }
}

impl From<AttemptError> for Error {
    fn from(source: AttemptError) -> Self {
        Self::Generic { store: "store", source: Box::new(source) }
    }
}

/// Checks whether the same request may succeed later: network, timeouts, throttling and failures of the service. Final answers, such as a
/// missing object, a refused key or a bad request, do not count.
#[must_use]
pub fn is_retryable(error: &Error) -> bool {
    let Error::Generic { .. } = error else { return false };
    causes(error).find_map(verdict).unwrap_or(false)
}

impl PipelineError {
    /// Checks whether the same work may succeed later: the store or a source was unreachable for longer than requests are retried.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Store { source, .. } | Self::Stage(StageError::Store { source, .. }) => is_retryable(source),
            _ => false,
        }
    }
}

/// Returns the verdict of one cause, if it has one. The outermost verdict counts.
fn verdict(cause: &(dyn StdError + 'static)) -> Option<bool> {
    if let Some(error) = cause.downcast_ref::<AttemptError>() {
        return Some(error.is_retryable());
    }
    if let Some(error) = cause.downcast_ref::<HttpError>() {
        let inner = error.source().and_then(|source| source.downcast_ref::<AttemptError>());
        return Some(inner.map_or(error.kind() != HttpErrorKind::Decode, AttemptError::is_retryable));
    }
    let kind = cause.downcast_ref::<io::Error>()?.kind();
    Some(matches!(
        kind,
        io::ErrorKind::Interrupted
            | io::ErrorKind::TimedOut
            | io::ErrorKind::WouldBlock
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::StaleNetworkFileHandle
    ))
}

fn causes<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let error = next?;
        next = error.source();
        Some(error)
    })
}

fn retry_after(error: &Error) -> Option<Duration> {
    causes(error).find_map(|cause| match cause.downcast_ref::<AttemptError>() {
        Some(AttemptError::Status { retry_after, .. }) => *retry_after,
        _ => None,
    })
}

/// Attempts at one operation.
#[derive(Debug)]
pub(super) struct Attempts<'a> {
    policy: RetryPolicy,
    action: &'static str,
    location: &'a str,
    began: Instant,
    failed: u32,
}

impl<'a> Attempts<'a> {
    pub(super) fn new(policy: RetryPolicy, action: &'static str, location: &'a str) -> Self {
        Self { policy, action, location, began: Instant::now(), failed: 0 }
    }

    /// Counts the coming attempt, for metrics.
    pub(super) fn count(&self) {
        requests::count(self.action, self.failed > 0);
    }

    /// Checks whether an attempt has failed.
    pub(super) const fn have_failed(&self) -> bool {
        self.failed > 0
    }

    /// Sends `request` until it succeeds, fails for good, or time is up. `limit` is the time for one attempt.
    pub(super) async fn run<T, F: Future<Output = Result<T, Error>>>(
        &mut self,
        limit: Duration,
        request: impl Fn() -> F,
    ) -> Result<T, Error> {
        loop {
            self.count();
            match within(limit, request()).await {
                Ok(done) => return Ok(done),
                Err(error) => self.pause(error).await?,
            }
        }
    }

    /// Waits before the next attempt, after `error`. Returns the error if a retry is useless or too late.
    pub(super) async fn pause(&mut self, error: Error) -> Result<(), Error> {
        self.failed += 1;
        if !is_retryable(&error) {
            return Err(error);
        }
        let wait = self.wait(retry_after(&error));
        if self.began.elapsed() + wait >= self.policy.deadline {
            return Err(AttemptError::GaveUp { attempts: self.failed, seconds: self.began.elapsed().as_secs(), source: error }.into());
        }
        let (action, location, attempt) = (self.action, self.location, self.failed);
        tracing::warn!(action, location, attempt, wait_ms = wait.as_millis() as u64, %error, "a request failed and is tried again");
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// Draws a wait with full jitter: anything up to a doubling bound, so that workers that failed together do not return together.
    fn wait(&self, asked_for: Option<Duration>) -> Duration {
        let bound = self.policy.first_wait.saturating_mul(1 << (self.failed - 1).min(16)).min(self.policy.longest_wait);
        bound.mul_f64(fastrand::f64()).max(asked_for.unwrap_or_default().min(self.policy.longest_wait))
    }
}

/// Returns the outcome of `request`, or [`AttemptError::Stalled`] after `limit`.
pub(super) async fn within<T>(limit: Duration, request: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::time::timeout(limit, request).await.unwrap_or_else(|_| Err(AttemptError::Stalled { seconds: limit.as_secs() }.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http(kind: HttpErrorKind, source: impl StdError + Send + Sync + 'static) -> Error {
        Error::Generic { store: "S3", source: Box::new(HttpError::new(kind, source)) }
    }

    fn status(status: u16, retry_after: Option<Duration>) -> Error {
        http(HttpErrorKind::Request, AttemptError::Status { status, body: String::new(), retry_after })
    }

    #[test]
    fn only_what_may_pass_is_retryable() {
        for error in [
            status(503, None),
            http(HttpErrorKind::Connect, io::Error::other("refused")),
            http(HttpErrorKind::Timeout, io::Error::other("slow")),
            AttemptError::CutShort { position: 1, end: 2 }.into(),
            AttemptError::GaveUp { attempts: 3, seconds: 9, source: status(500, None) }.into(),
            Error::Generic { store: "LocalFileSystem", source: Box::new(io::Error::from(io::ErrorKind::StaleNetworkFileHandle)) },
        ] {
            assert!(is_retryable(&error), "{error}");
        }
        let of = |error: &'static str| -> Box<dyn StdError + Send + Sync> { error.into() };
        for error in [
            Error::NotFound { path: "a".into(), source: of("x") },
            Error::AlreadyExists { path: "a".into(), source: of("x") },
            Error::PermissionDenied { path: "a".into(), source: of("x") },
            Error::Generic { store: "S3", source: of("400 Bad Request") },
            Error::Generic { store: "LocalFileSystem", source: Box::new(io::Error::from(io::ErrorKind::StorageFull)) },
            http(HttpErrorKind::Connect, AttemptError::NoKeys),
            AttemptError::Replaced.into(),
        ] {
            assert!(!is_retryable(&error), "{error}");
        }
    }

    #[test]
    fn waits_grow_up_to_a_bound_and_are_as_long_as_the_service_asks() {
        let mut attempts = Attempts::new(RetryPolicy::default(), "read", "a");
        for (failed, bound) in [(1, 100), (2, 200), (8, 12_800), (9, 15_000), (60, 15_000)] {
            attempts.failed = failed;
            let longest = (0..200).map(|_| attempts.wait(None)).max().expect("200 of them");
            let bound = Duration::from_millis(bound);
            assert!(longest <= bound && longest > bound / 2, "{longest:?} of {bound:?}");
        }
        attempts.failed = 1;
        assert_eq!(attempts.wait(Some(Duration::from_secs(7))), Duration::from_secs(7));
        assert_eq!(attempts.wait(Some(Duration::from_secs(7000))), Duration::from_secs(15));
    }

    #[tokio::test]
    async fn attempts_end_at_the_deadline_and_keep_their_cause() {
        let policy = RetryPolicy { deadline: Duration::from_millis(40), first_wait: Duration::from_millis(4), ..RetryPolicy::default() };
        let mut attempts = Attempts::new(policy, "read", "a");
        let error = loop {
            if let Err(error) = attempts.pause(status(503, None)).await {
                break error;
            }
        };
        assert!(attempts.failed > 1, "{} attempts", attempts.failed);
        assert!(error.to_string().contains("gave up after"), "{error}");
        assert!(is_retryable(&error));
    }

    #[tokio::test]
    async fn what_is_not_retryable_comes_back_as_it_is() {
        let error = Attempts::new(RetryPolicy::default(), "read", "a").pause(AttemptError::Replaced.into()).await.expect_err("of no use");
        assert!(!error.to_string().contains("gave up"), "{error}");
    }
}
