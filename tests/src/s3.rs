//! S3 service over HTTP on loopback, on top of any object store, with optional latency and faults.
//!
//! Creates (`If-None-Match: *`) are atomic, as in the store below. A bucket is the first part of a path, and exists without being created.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use object_store::path::Path;
use object_store::{Error, GetOptions, GetRange, GetResult, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service as Router, S3ServiceBuilder};
use s3s::{Body, HttpRequest, HttpResponse, S3, S3Error, S3Request, S3Response, S3Result, dto, s3_error};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::fault::{Fault, Faults};

/// Path that answers `{"requests": n}` without latency or authentication. No bucket has such a name.
const COUNT: &str = "/-/requests";

/// Behaviour of a service.
#[derive(Debug, Clone)]
pub struct S3Options {
    /// Delay of each request.
    pub latency: Duration,
    /// Plan of faults.
    pub faults: Faults,
    /// The only valid access key.
    pub access_key: String,
    /// Secret of the access key.
    pub secret_key: String,
}

impl Default for S3Options {
    fn default() -> Self {
        Self { latency: Duration::ZERO, faults: Faults::none(), access_key: "test".into(), secret_key: "not-so-secret".into() }
    }
}

/// A running service; dropping it ends the service.
#[derive(Debug)]
pub struct S3Service {
    address: SocketAddr,
    options: S3Options,
    requests: Arc<AtomicU64>,
    accepts: JoinHandle<()>,
}

impl S3Service {
    /// Serves `objects` on a port of the loopback interface; 0 takes a free one.
    ///
    /// # Errors
    /// The system's error for the port.
    pub async fn start(objects: Arc<dyn ObjectStore>, port: u16, options: S3Options) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        let address = listener.local_addr()?;
        let mut builder = S3ServiceBuilder::new(Objects(objects));
        builder.set_auth(SimpleAuth::from_single(options.access_key.clone(), options.secret_key.clone()));
        let requests = Arc::new(AtomicU64::new(0));
        let accepts = tokio::spawn(accept(listener, builder.build(), options.clone(), Arc::clone(&requests)));
        Ok(Self { address, options, requests, accepts })
    }

    /// Returns the address: `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the number of requests so far, whatever their outcome. `GET /-/requests` of the service returns the same.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Returns the `[store]` section for the service.
    #[must_use]
    pub fn section(&self) -> String {
        let S3Options { access_key, secret_key, .. } = &self.options;
        format!(
            "[store]\nendpoint = \"{}\"\nallow_http = true\nstall_timeout_seconds = 1\n[store.options]\naccess_key_id = \"{access_key}\"\nsecret_access_key = \"{secret_key}\"\n",
            self.endpoint()
        )
    }

    /// Waits for the end of the service, which never comes.
    pub async fn serve(mut self) {
        let _ = (&mut self.accepts).await;
    }
}

impl Drop for S3Service {
    fn drop(&mut self) {
        self.accepts.abort();
    }
}

async fn accept(listener: TcpListener, router: Router, options: S3Options, requests: Arc<AtomicU64>) {
    while let Ok((socket, _)) = listener.accept().await {
        let (router, options, requests) = (router.clone(), options.clone(), Arc::clone(&requests));
        tokio::spawn(async move {
            let answer = service_fn(|request: hyper::Request<Incoming>| {
                let (router, options, requests) = (router.clone(), options.clone(), Arc::clone(&requests));
                async move {
                    if request.uri().path() == COUNT {
                        let count = format!("{{\"requests\": {}}}", requests.load(Ordering::Relaxed));
                        return Ok(HttpResponse::new(Body::from(count)));
                    }
                    requests.fetch_add(1, Ordering::Relaxed);
                    Ok::<_, Infallible>(answer(request.map(Body::from), &router, &options).await)
                }
            });
            // A client may disconnect at any time.
            let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), answer).await;
        });
    }
}

/// Answers a request, or applies its planned fault.
async fn answer(request: HttpRequest, router: &Router, options: &S3Options) -> HttpResponse {
    tokio::time::sleep(options.latency).await;
    let creates = request.headers().contains_key("if-none-match");
    match options.faults.next(request.method().as_str(), request.uri().path()) {
        None | Some(Fault::Stale | Fault::Overwrite) => routed(request, router).await,
        Some(Fault::FailAfter) => {
            routed(request, router).await;
            refusal(StatusCode::INTERNAL_SERVER_ERROR, "InternalError")
        }
        Some(Fault::Throttle) => refusal(StatusCode::SERVICE_UNAVAILABLE, "SlowDown"),
        Some(Fault::Deny) => refusal(StatusCode::FORBIDDEN, "AccessDenied"),
        Some(Fault::Conflict) if creates => refusal(StatusCode::CONFLICT, "ConditionalRequestConflict"),
        Some(Fault::Cut) => half(routed(request, router).await, false).await,
        Some(Fault::Stall) => half(routed(request, router).await, true).await,
        Some(Fault::Abort | Fault::AbortAfter) => std::process::abort(),
        Some(Fault::Fail | Fault::Conflict) => refusal(StatusCode::INTERNAL_SERVER_ERROR, "InternalError"),
    }
}

async fn routed(request: HttpRequest, router: &Router) -> HttpResponse {
    router.call(request).await.unwrap_or_else(|_| refusal(StatusCode::INTERNAL_SERVER_ERROR, "InternalError"))
}

fn refusal(status: StatusCode, code: &str) -> HttpResponse {
    let mut response = HttpResponse::new(Body::from(format!("<Error><Code>{code}</Code><Message>by the plan</Message></Error>")));
    *response.status_mut() = status;
    response
}

/// Returns the first half of a response's body; then the connection breaks or stalls.
async fn half(response: HttpResponse, stalls: bool) -> HttpResponse {
    let (mut parts, body) = response.into_parts();
    let bytes: Vec<Bytes> = dto::StreamingBlob::from(body).try_collect().await.unwrap_or_default();
    let bytes = Bytes::from(bytes.concat());
    // The header announces the length of the whole body.
    parts.headers.insert("content-length", bytes.len().into());
    if bytes.is_empty() {
        return HttpResponse::from_parts(parts, Body::empty());
    }
    let first = futures::stream::iter([Ok(bytes.slice(..bytes.len() / 2))]);
    let stream = first.chain(futures::stream::once(async move {
        if stalls {
            std::future::pending::<()>().await;
        }
        Err(std::io::Error::other("cut by the plan"))
    }));
    HttpResponse::from_parts(parts, Body::from(dto::StreamingBlob::wrap(stream)))
}

/// S3 operations, as far as clients of this project and its peers need them.
#[derive(Debug)]
struct Objects(Arc<dyn ObjectStore>);

fn path_of(bucket: &str, key: &str) -> S3Result<Path> {
    Path::parse(format!("{bucket}/{key}")).map_err(|error| s3_error!(error, InvalidArgument))
}

fn failed(error: Error) -> S3Error {
    match error {
        Error::NotFound { .. } => s3_error!(error, NoSuchKey),
        Error::AlreadyExists { .. } | Error::Precondition { .. } => s3_error!(error, PreconditionFailed),
        Error::NotModified { .. } => s3_error!(error, NotModified),
        error => s3_error!(error, InternalError),
    }
}

fn e_tag(meta: &ObjectMeta) -> Option<dto::ETag> {
    meta.e_tag.as_ref().map(|tag| dto::ETag::Strong(tag.trim_matches('"').to_owned()))
}

fn modified(meta: &ObjectMeta) -> Option<dto::Timestamp> {
    Some(dto::Timestamp::from(std::time::SystemTime::from(meta.last_modified)))
}

const fn range_of(range: dto::Range) -> GetRange {
    match range {
        dto::Range::Int { first, last: Some(last) } => GetRange::Bounded(first..last + 1),
        dto::Range::Int { first, last: None } => GetRange::Offset(first),
        dto::Range::Suffix { length } => GetRange::Suffix(length),
    }
}

impl Objects {
    async fn get(&self, bucket: &str, key: &str, range: Option<dto::Range>) -> S3Result<GetResult> {
        let options = GetOptions { range: range.map(range_of), ..GetOptions::default() };
        self.0.get_opts(&path_of(bucket, key)?, options).await.map_err(failed)
    }

    async fn delete(&self, bucket: &str, key: &str) -> S3Result<()> {
        match self.0.delete(&path_of(bucket, key)?).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }

    /// Returns the objects of a bucket whose keys begin with `prefix`, sorted by key.
    async fn below(&self, bucket: &str, prefix: &str) -> S3Result<Vec<(String, ObjectMeta)>> {
        let folder = prefix.rsplit_once('/').map_or("", |(folder, _)| folder);
        let folder = path_of(bucket, folder)?;
        let listed: Vec<ObjectMeta> = self.0.list(Some(&folder)).try_collect().await.map_err(failed)?;
        let key = |object: &ObjectMeta| object.location.as_ref().strip_prefix(bucket)?.strip_prefix('/').map(str::to_owned);
        let mut objects: Vec<_> = listed.into_iter().filter_map(|object| Some((key(&object)?, object))).collect();
        objects.retain(|(key, _)| key.starts_with(prefix));
        objects.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(objects)
    }
}

#[async_trait]
impl S3 for Objects {
    async fn head_bucket(&self, _: S3Request<dto::HeadBucketInput>) -> S3Result<S3Response<dto::HeadBucketOutput>> {
        Ok(S3Response::new(dto::HeadBucketOutput::default()))
    }

    async fn get_object(&self, request: S3Request<dto::GetObjectInput>) -> S3Result<S3Response<dto::GetObjectOutput>> {
        let dto::GetObjectInput { bucket, key, range, .. } = request.input;
        let found = self.get(&bucket, &key, range).await?;
        let (meta, span) = (found.meta.clone(), found.range.clone());
        let content_range = range.map(|_| format!("bytes {}-{}/{}", span.start, span.end.saturating_sub(1), meta.size));
        let bytes = found.bytes().await.map_err(failed)?;
        Ok(S3Response::new(dto::GetObjectOutput {
            content_length: Some(bytes.len() as i64),
            body: Some(dto::StreamingBlob::from(Body::from(bytes))),
            content_range,
            accept_ranges: Some("bytes".to_owned()),
            e_tag: e_tag(&meta),
            last_modified: modified(&meta),
            ..Default::default()
        }))
    }

    async fn head_object(&self, request: S3Request<dto::HeadObjectInput>) -> S3Result<S3Response<dto::HeadObjectOutput>> {
        let dto::HeadObjectInput { bucket, key, .. } = request.input;
        let meta = self.0.head(&path_of(&bucket, &key)?).await.map_err(failed)?;
        Ok(S3Response::new(dto::HeadObjectOutput {
            content_length: Some(meta.size as i64),
            accept_ranges: Some("bytes".to_owned()),
            e_tag: e_tag(&meta),
            last_modified: modified(&meta),
            ..Default::default()
        }))
    }

    async fn put_object(&self, request: S3Request<dto::PutObjectInput>) -> S3Result<S3Response<dto::PutObjectOutput>> {
        let dto::PutObjectInput { bucket, key, body, if_none_match, .. } = request.input;
        let chunks: Vec<Bytes> = match body {
            Some(body) => body.try_collect().await.map_err(|error| S3Error::with_source(s3s::S3ErrorCode::IncompleteBody, error))?,
            None => Vec::new(),
        };
        let mode = if if_none_match.is_some_and(|condition| condition.is_any()) { PutMode::Create } else { PutMode::Overwrite };
        let options = PutOptions { mode, ..PutOptions::default() };
        let done = self.0.put_opts(&path_of(&bucket, &key)?, chunks.into_iter().collect(), options).await.map_err(failed)?;
        let e_tag = done.e_tag.map(|tag| dto::ETag::Strong(tag.trim_matches('"').to_owned()));
        Ok(S3Response::new(dto::PutObjectOutput { e_tag, ..Default::default() }))
    }

    async fn delete_object(&self, request: S3Request<dto::DeleteObjectInput>) -> S3Result<S3Response<dto::DeleteObjectOutput>> {
        let dto::DeleteObjectInput { bucket, key, .. } = request.input;
        self.delete(&bucket, &key).await?;
        Ok(S3Response::new(dto::DeleteObjectOutput::default()))
    }

    async fn delete_objects(&self, request: S3Request<dto::DeleteObjectsInput>) -> S3Result<S3Response<dto::DeleteObjectsOutput>> {
        let dto::DeleteObjectsInput { bucket, delete, .. } = request.input;
        let mut deleted = Vec::new();
        for object in delete.objects {
            self.delete(&bucket, &object.key).await?;
            deleted.push(dto::DeletedObject { key: Some(object.key), ..Default::default() });
        }
        Ok(S3Response::new(dto::DeleteObjectsOutput { deleted: Some(deleted), ..Default::default() }))
    }

    async fn list_objects_v2(&self, request: S3Request<dto::ListObjectsV2Input>) -> S3Result<S3Response<dto::ListObjectsV2Output>> {
        let dto::ListObjectsV2Input { bucket, prefix, delimiter, continuation_token, start_after, max_keys, .. } = request.input;
        // Some clients send an empty delimiter.
        let delimiter = delimiter.filter(|delimiter| !delimiter.is_empty());
        let from = prefix.clone().unwrap_or_default();
        let after = continuation_token.clone().or_else(|| start_after.clone()).unwrap_or_default();
        let limit = max_keys.unwrap_or(1000).clamp(1, 1000) as usize;
        let (mut contents, mut folders, mut is_truncated): (Vec<dto::Object>, Vec<String>, bool) = (Vec::new(), Vec::new(), false);
        let mut last = None;
        for (key, meta) in self.below(&bucket, &from).await? {
            let folder = delimiter.as_deref().and_then(|delimiter| {
                let (name, _) = key[from.len()..].split_once(delimiter)?;
                Some(format!("{from}{name}{delimiter}"))
            });
            // A folder stands for all keys in it, both in the list and as the place to continue.
            let entry = folder.as_ref().unwrap_or(&key);
            if *entry <= after || folders.last() == Some(entry) {
                continue;
            }
            if contents.len() + folders.len() == limit {
                is_truncated = true;
                break;
            }
            last = Some(entry.clone());
            match folder {
                Some(folder) => folders.push(folder),
                None => contents.push(dto::Object {
                    size: Some(meta.size as i64),
                    e_tag: e_tag(&meta),
                    last_modified: modified(&meta),
                    key: Some(key),
                    ..Default::default()
                }),
            }
        }
        Ok(S3Response::new(dto::ListObjectsV2Output {
            name: Some(bucket),
            prefix,
            delimiter,
            max_keys,
            start_after,
            continuation_token,
            key_count: Some((contents.len() + folders.len()) as i32),
            is_truncated: Some(is_truncated),
            next_continuation_token: last.filter(|_| is_truncated),
            contents: Some(contents),
            common_prefixes: Some(folders.into_iter().map(|prefix| dto::CommonPrefix { prefix: Some(prefix) }).collect()),
            ..Default::default()
        }))
    }
}
