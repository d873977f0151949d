//! Serves a folder, or memory, as S3 on loopback until it is killed:
//! `s3-service [--folder FOLDER] [--port PORT] [--latency-ms MS] [--access-key KEY] [--secret-key KEY]`. Prints its address as the first
//! line; `GET /-/requests` returns the number of requests. It is for benchmarks and trials, not for real use.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use cm3flow_tests::s3::{S3Options, S3Service};
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;

/// Serves a folder, or memory, as S3 on loopback; prints its address.
#[derive(Debug, Parser)]
struct Arguments {
    /// Folder that holds the buckets; memory by default
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Port; a free one by default
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Milliseconds before each request is looked at
    #[arg(long, default_value_t = 0)]
    latency_ms: u64,
    /// The one access key
    #[arg(long, default_value = "test")]
    access_key: String,
    /// Its secret
    #[arg(long, default_value = "not-so-secret")]
    secret_key: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Arguments { folder, port, latency_ms, access_key, secret_key } = Arguments::parse();
    let objects: Arc<dyn ObjectStore> = match folder {
        Some(folder) => Arc::new(LocalFileSystem::new_with_prefix(folder)?),
        None => Arc::new(InMemory::new()),
    };
    let options = S3Options { latency: Duration::from_millis(latency_ms), access_key, secret_key, ..S3Options::default() };
    let service = S3Service::start(objects, port, options).await?;
    println!("{}", service.endpoint());
    service.serve().await;
    Ok(())
}
