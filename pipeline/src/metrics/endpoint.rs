//! HTTP endpoint that answers scrapes.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::{Exporter, MetricsAddress};
use crate::error::{PipelineError, Result};
use crate::events::progress::Progress;

/// Connections answered at once; further ones wait.
const MAX_CONNECTIONS: usize = 8;
/// Longest time for a client's request.
const REQUEST_TIME: Duration = Duration::from_secs(10);
/// The text format of Prometheus.
const TEXT_FORMAT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// Serves the metrics of a run at `/metrics` until dropped.
#[derive(Debug)]
pub struct Endpoint {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Endpoint {
    /// Listens at `address`; port 0 chooses a free one. Call within a tokio runtime.
    ///
    /// # Errors
    /// [`PipelineError::Metrics`] if it cannot listen there.
    pub async fn open(address: MetricsAddress, progress: &Progress) -> Result<Self> {
        let failed = |source| PipelineError::Metrics { address: address.0, source };
        let listener = TcpListener::bind(address.0).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let task = tokio::spawn(answer_all(listener, Arc::new(Exporter::new(progress))));
        progress.say(&format!("metrics at http://{address}/metrics"));
        Ok(Self { address, task })
    }

    /// Returns the address that it listens at.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer_all(listener: TcpListener, exporter: Arc<Exporter>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let exporter = Arc::clone(&exporter);
                tokio::spawn(async move {
                    let _place = place;
                    answer(stream, &exporter).await;
                });
            }
            Err(error) => {
                // File descriptors may have run out, for example; some may be free again later.
                tracing::warn!(%error, "a scrape could not be accepted");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn answer(stream: TcpStream, exporter: &Exporter) {
    let service = service_fn(|request| async move { Ok::<_, Infallible>(response(&request, exporter)) });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(REQUEST_TIME);
    if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a scrape broke off");
    }
}

fn response(request: &Request<Incoming>, exporter: &Exporter) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    if request.uri().path() != "/metrics" {
        *response.status_mut() = StatusCode::NOT_FOUND;
    } else if request.method() != Method::GET {
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
    } else {
        response.headers_mut().insert(CONTENT_TYPE, TEXT_FORMAT);
        *response.body_mut() = Full::from(exporter.render());
    }
    response
}
