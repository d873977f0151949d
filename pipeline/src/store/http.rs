//! Layer below `object_store`'s clients: turns temporary failures into errors that say so, and limits requests per second.
//!
//! The clients' own retries are off: the layer above (`resilient`) knows about bodies and conditional puts, and two layers would
//! multiply attempts.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService, ReqwestConnector,
};
use object_store::{ClientOptions, HeaderMap};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::retry::AttemptError;

/// Hosts that offer keys to machines in a cloud, and exist only there.
const METADATA_SERVICES: [&str; 3] = ["169.254.169.254", "169.254.170.2", "metadata.google.internal"];

/// Bytes of an error's body that are kept, at most.
const MAX_ERROR_BYTES: usize = 2048;

/// Rate limiter: a bucket with tokens for one second. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Limiter(Arc<Mutex<Option<Instant>>>);

impl Limiter {
    /// Waits until a request may be sent, at a rate of at most `per_second`.
    async fn wait(&self, per_second: u32) {
        let now = Instant::now();
        let at = {
            let mut booked = self.0.lock().await;
            let (at, next) = booking(*booked, now, per_second);
            *booked = Some(next);
            at
        };
        tokio::time::sleep_until(at).await;
    }
}

/// Returns the time at which a request that arrives `now` may be sent, and the time up to which requests are booked then. An idle bucket
/// holds the requests of one second.
fn booking(booked: Option<Instant>, now: Instant, per_second: u32) -> (Instant, Instant) {
    let window = Duration::from_secs(1);
    let start = booked.map_or(now, |booked| booked.max(now));
    ((start.checked_sub(window).unwrap_or(now)).max(now), start + window / per_second)
}

/// Connector whose clients report temporary failures.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    pub(super) limiter: Limiter,
    pub(super) requests_per_second: Option<u32>,
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let inner = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(Service { inner, connector: self.clone() }))
    }
}

#[derive(Debug)]
struct Service {
    inner: HttpClient,
    connector: Connector,
}

#[async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        if let Some(per_second) = self.connector.requests_per_second {
            self.connector.limiter.wait(per_second).await;
        }
        let asks_for_keys = request.uri().host().is_some_and(|host| METADATA_SERVICES.contains(&host));
        match self.inner.execute(request).await {
            Ok(response) => checked(response).await,
            Err(error) if asks_for_keys && matches!(error.kind(), HttpErrorKind::Connect | HttpErrorKind::Timeout) => {
                Err(HttpError::new(error.kind(), AttemptError::NoKeys))
            }
            Err(error) => Err(error),
        }
    }
}

/// Returns the response, or an error if the same request may succeed later.
async fn checked(response: HttpResponse) -> Result<HttpResponse, HttpError> {
    let status = response.status().as_u16();
    // 501 and 505 mean that the service never supports the request.
    let may_pass = matches!(status, 408 | 429 | 500 | 502..=504 | 506..=599);
    if !may_pass && status != 400 {
        return Ok(response);
    }
    let retry_after = retry_after(response.headers());
    let (parts, body) = response.into_parts();
    let body = beginning(body).await;
    let text = String::from_utf8_lossy(&body).into_owned();
    // S3 answers a bad request if it waited too long for an upload.
    if may_pass || text.contains("<Code>RequestTimeout</Code>") {
        return Err(HttpError::new(HttpErrorKind::Request, AttemptError::Status { status, body: text, retry_after }));
    }
    Ok(HttpResponse::from_parts(parts, HttpResponseBody::from(body)))
}

async fn beginning(body: HttpResponseBody) -> Vec<u8> {
    let mut stream = body.bytes_stream();
    let mut bytes = Vec::new();
    while let Some(Ok(chunk)) = stream.next().await {
        bytes.extend_from_slice(&chunk);
        if bytes.len() >= MAX_ERROR_BYTES {
            bytes.truncate(MAX_ERROR_BYTES);
            break;
        }
    }
    bytes
}

/// Parses `Retry-After` in seconds; leaves its other form, a date, to the backoff.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get("retry-after")?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limiter_lets_a_second_of_requests_through_and_then_spreads_them() {
        let (now, mut booked) = (Instant::now(), None);
        let mut waits = Vec::new();
        for _ in 0..30 {
            let (at, next) = booking(booked, now, 10);
            waits.push((at - now).as_millis());
            booked = Some(next);
        }
        assert_eq!(waits[..11], [0; 11]);
        assert_eq!((waits[11], waits[29]), (100, 1900));
        let later = now + Duration::from_secs(60);
        assert_eq!(booking(booked, later, 10), (later, later + Duration::from_millis(100)));
    }
}
