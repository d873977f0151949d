//! Opens stores from addresses: local folders, memory, and services by URL, each with the retries of `resilient`.

use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use cm3flow_stages::ingest::{Location, SourceConfig};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ClientOptions, ObjectStore, ObjectStoreScheme, RetryConfig};
use url::Url;

use super::http::Connector;
use super::layer::StoreLayer;
use super::objects::Store;
use super::resilient::{Listing, Resilient};
use crate::error::{PipelineError, Result};
use crate::store::config::{StoreConfig, has_login, printable_address};

impl Store {
    /// Opens the store at `address` with the settings of `[store]`. The address is a URL or a path. A missing path is created; a relative
    /// one starts from `folder`.
    ///
    /// # Errors
    /// [`PipelineError::Address`], [`PipelineError::Write`] or [`PipelineError::Store`].
    pub fn open_with(address: &str, folder: &FilePath, config: &StoreConfig) -> Result<Self> {
        Self::open_named("dataset.store", address, folder, config)
    }

    /// Opens a store as [`Self::open_with`] does; `field` names the origin of `address` in errors.
    ///
    /// # Errors
    /// As [`Self::open_with`].
    pub(crate) fn open_named(field: &str, address: &str, folder: &FilePath, config: &StoreConfig) -> Result<Self> {
        if let Some(url) = remote_url(address) {
            if url.scheme() == "memory" {
                return Ok(Self::new(guarded(Arc::new(InMemory::new()), Listing::InOrder, config), address));
            }
            let (objects, prefix) = remote(&url, config).map_err(|problem| refused(field, address, problem))?;
            let objects = guarded(Arc::new(PrefixStore::new(objects, prefix)), Listing::InOrder, config);
            return Ok(Self::new(objects, &printable_address(address)));
        }
        let path = local_path(address, folder);
        let failed = |source| PipelineError::Write { path: path.clone(), source };
        std::fs::create_dir_all(&path).map_err(failed)?;
        let path = path.canonicalize().map_err(failed)?;
        let local = LocalFileSystem::new_with_prefix(&path).map_err(|source| PipelineError::Store {
            action: "open",
            location: address.to_owned(),
            source,
        })?;
        let objects = guarded(Arc::new(local.with_fsync(config.fsync)), Listing::Unordered, config);
        Ok(Self::new(objects, &path.display().to_string()).with_folder(path))
    }

    /// Opens the store at `address` with default settings, as [`Self::open_with`] does.
    ///
    /// # Errors
    /// As [`Self::open_with`].
    pub fn open(address: &str, folder: &FilePath) -> Result<Self> {
        Self::open_with(address, folder, &StoreConfig::default())
    }

    /// Checks whether a store may exist at `address`: `false` for a missing local path.
    #[must_use]
    pub fn may_exist(address: &str, folder: &FilePath) -> bool {
        remote_url(address).is_some() || local_path(address, folder).exists()
    }
}

/// Returns the location of a source's files; relative paths start from `folder`.
///
/// # Errors
/// [`PipelineError::Address`] if the URL's service is unknown, or its folder does not exist.
pub(crate) fn source_location(source: &SourceConfig, folder: &FilePath, config: &StoreConfig) -> Result<Location> {
    let refused = |problem: String| refused(&format!("source {}: url", source.name), &source.url, problem);
    if let Some(url) = remote_url(&source.url) {
        let (objects, path) = remote(&url, config).map_err(refused)?;
        return Ok(Location { store: guarded(objects, Listing::InOrder, config), path, is_disk: false });
    }
    let file = local_path(&source.url, folder);
    // `.` and `..` have no last component.
    let file = if file.file_name().is_none() { file.canonicalize().unwrap_or(file) } else { file };
    // The last component may be a pattern, so only its parent must exist on disk.
    let (parent, name) = (file.parent().unwrap_or(&file), file.file_name().and_then(|name| name.to_str()).unwrap_or_default());
    let parent = parent.canonicalize().map_err(|error| refused(format!("cannot open the folder {}: {error}", parent.display())))?;
    let parent = Path::from_absolute_path(&parent).map_err(|error| refused(error.to_string()))?;
    let path = Path::parse(format!("{parent}/{name}")).map_err(|error| refused(error.to_string()))?;
    Ok(Location { store: guarded(Arc::new(LocalFileSystem::new()), Listing::Unordered, config), path, is_disk: true })
}

/// Wraps `objects` in the layer of tests and the retries.
fn guarded(objects: Arc<dyn ObjectStore>, listing: Listing, config: &StoreConfig) -> Arc<dyn ObjectStore> {
    let objects = config.layer.iter().fold(objects, |objects, StoreLayer(wrap)| wrap(objects));
    Arc::new(Resilient::new(objects, config.retries(), listing))
}

fn refused(field: &str, address: &str, problem: String) -> PipelineError {
    PipelineError::Address { field: field.to_owned(), url: printable_address(address), problem }
}

fn remote_url(address: &str) -> Option<Url> {
    Url::parse(address).ok().filter(|url| address.contains("://") && url.scheme() != "file")
}

fn local_path(address: &str, folder: &FilePath) -> PathBuf {
    folder.join(address.strip_prefix("file://").unwrap_or(address))
}

/// Builds the client of a service. Skips settings with unknown names: they belong to other services.
macro_rules! build {
    ($builder:expr, $client:expr, $settings:expr, $config:expr) => {{
        let connector = Connector { limiter: $config.limiter.clone(), requests_per_second: $config.requests_per_second };
        let retries = RetryConfig { max_retries: 0, ..RetryConfig::default() };
        let builder = $builder.with_client_options($client).with_retry(retries).with_http_connector(connector);
        let builder = $settings.into_iter().fold(builder, |builder, (name, value)| match name.parse() {
            Ok(key) => builder.with_config(key, value),
            Err(_) => builder,
        });
        builder.build().map(|store| Arc::new(store) as Arc<dyn ObjectStore>)
    }};
}

/// Returns the store of a URL, and the path in it.
fn remote(url: &Url, config: &StoreConfig) -> Result<(Arc<dyn ObjectStore>, Path), String> {
    if has_login(url) {
        return Err("an address must hold no user and password; put keys under [store.options] or into the environment".to_owned());
    }
    // The error of `object_store` would repeat the URL.
    let (scheme, path) = ObjectStoreScheme::parse(url).map_err(|_| {
        format!("no store is known for {}://; there are s3://, gs://, az://, abfss://, https://, file:// and memory://", url.scheme())
    })?;
    // A request may take any time while bytes keep coming.
    let client = ClientOptions::new().with_timeout_disabled().with_read_timeout(config.retries().stall);
    let client = client.with_allow_http(config.allow_http);
    let settings = settings(&scheme, config, std::env::vars());
    let built = match scheme {
        ObjectStoreScheme::AmazonS3 => build!(AmazonS3Builder::new().with_url(url.as_str()), client, settings, config),
        ObjectStoreScheme::GoogleCloudStorage => build!(GoogleCloudStorageBuilder::new().with_url(url.as_str()), client, settings, config),
        ObjectStoreScheme::MicrosoftAzure => build!(MicrosoftAzureBuilder::new().with_url(url.as_str()), client, settings, config),
        ObjectStoreScheme::Http => {
            let is_allowed = config.allow_http || settings.iter().any(|(name, value)| name == "allow_http" && value == "true");
            if url.scheme() == "http" && !is_allowed {
                return Err("it begins with http://; set store.allow_http = true to send data without TLS".to_owned());
            }
            build!(HttpBuilder::new().with_url(&url[..url::Position::BeforePath]), client, settings, config)
        }
        _ => return Err(format!("no service is known for {}://", url.scheme())),
    };
    Ok((built.map_err(|error| error.to_string())?, path))
}

/// Returns the settings of a service by the names of `object_store`. Later ones win: environment, fields of `[store]`, its options.
fn settings(
    scheme: &ObjectStoreScheme,
    config: &StoreConfig,
    environment: impl Iterator<Item = (String, String)>,
) -> Vec<(String, String)> {
    let (prefix, endpoints): (&str, &[&str]) = match scheme {
        // S3's endpoint has two names, and the environment may hold the one with priority.
        ObjectStoreScheme::AmazonS3 => ("aws_", &["aws_endpoint", "aws_endpoint_url_s3"]),
        ObjectStoreScheme::MicrosoftAzure => ("azure_", &["azure_endpoint"]),
        ObjectStoreScheme::GoogleCloudStorage => ("google_", &["google_base_url"]),
        _ => ("http_", &[]),
    };
    let gives_keys = config.options.iter().any(|(name, _)| matches!(name.parse(), Ok(AmazonS3ConfigKey::AccessKeyId)));
    let is_key = |name: &str| {
        matches!(name.parse(), Ok(AmazonS3ConfigKey::AccessKeyId | AmazonS3ConfigKey::SecretAccessKey | AmazonS3ConfigKey::Token))
    };
    let environment = environment.map(|(name, value)| (name.to_ascii_lowercase(), value));
    let mut settings: Vec<_> = environment
        // Keys belong together: the token of a session does not fit the configuration's keys.
        .filter(|(name, _)| (name.starts_with(prefix) && !(gives_keys && is_key(name))) || name == "allow_http" || name == "proxy_url")
        .collect();
    let mut set = |name: &str, value: &str| settings.push((name.to_owned(), value.to_owned()));
    for name in endpoints {
        config.endpoint.iter().for_each(|endpoint| set(name, endpoint));
    }
    if prefix == "aws_" {
        config.region.iter().for_each(|region| set("aws_region", region));
        config.path_style.iter().for_each(|path_style| set("aws_virtual_hosted_style_request", &(!path_style).to_string()));
    }
    if config.anonymous {
        set("skip_signature", "true");
    }
    if config.allow_http {
        set("allow_http", "true");
    }
    config.options.iter().for_each(|(name, value)| set(name, value));
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> StoreConfig {
        toml::from_str(text).expect("a good section")
    }

    fn of(scheme: &ObjectStoreScheme, text: &str, environment: &[(&str, &str)]) -> Vec<(String, String)> {
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        settings(scheme, &config(text), environment)
    }

    fn last<'a>(settings: &'a [(String, String)], name: &str) -> Option<&'a str> {
        settings.iter().rev().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    #[test]
    fn the_environment_fills_what_the_configuration_leaves_out() {
        let text = "endpoint = \"https://here\"\npath_style = false\n[options]\naws_access_key_id = \"a\"\nsecret_access_key = \"b\"\n";
        let environment =
            [("AWS_ENDPOINT_URL_S3", "https://there"), ("AWS_REGION", "eu-west-1"), ("AWS_SESSION_TOKEN", "x"), ("REGION", "y")];
        let settings = of(&ObjectStoreScheme::AmazonS3, text, &environment);
        assert_eq!(last(&settings, "aws_endpoint_url_s3"), Some("https://here"));
        assert_eq!(last(&settings, "aws_region"), Some("eu-west-1"));
        assert_eq!(last(&settings, "aws_virtual_hosted_style_request"), Some("true"));
        assert_eq!((last(&settings, "aws_session_token"), last(&settings, "region")), (None, None), "{settings:?}");
        assert_eq!(last(&of(&ObjectStoreScheme::AmazonS3, "", &environment), "aws_session_token"), Some("x"));
        let azure = of(&ObjectStoreScheme::MicrosoftAzure, text, &environment);
        assert_eq!((last(&azure, "azure_endpoint"), last(&azure, "aws_region")), (Some("https://here"), None));
    }

    #[test]
    fn services_are_opened_with_what_they_know_and_keep_it_to_themselves() {
        let text = "region = \"eu-west-1\"\nallow_http = true\n[options]\naccess_key_id = \"a\"\nsecret_access_key = \"hush\"\nazure_storage_account_name = \"account\"\nazure_storage_sas_key = \"sig=hush\"\n";
        for address in ["s3://bucket/data", "az://container/data", "http://host/data"] {
            let store = Store::open_with(address, FilePath::new(""), &config(text)).expect("opening sends nothing");
            assert_eq!(store.address(), address);
            assert!(!format!("{store:?} {:?}", store.objects()).contains("hush"));
        }
    }

    #[test]
    fn addresses_that_cannot_be_used_are_refused_by_field() {
        for (address, problem) in [
            ("carrier-pigeon://roof", "dataset.store = \"carrier-pigeon://roof\": no store is known for carrier-pigeon://"),
            ("http://host/data", "dataset.store = \"http://host/data\": it begins with http://; set store.allow_http = true"),
            ("s3://key:hush@bucket/data", "dataset.store = \"s3://bucket/data\": an address must hold no user and password"),
            ("carrier-pigeon://a:hush@roof/x?hush", "dataset.store = \"carrier-pigeon://roof/x\": "),
        ] {
            let error = Store::open(address, FilePath::new("")).expect_err("no such store");
            assert!(error.to_string().starts_with(problem), "{error}");
            assert!(!format!("{error} {error:?}").contains("hush"), "{error:?}");
        }
    }

    #[test]
    fn a_missing_source_folder_is_named() {
        let source = SourceConfig {
            name: "s".into(),
            format: cm3flow_stages::ingest::SourceFormat::Folder,
            url: "no/such/folder".into(),
            unit_samples: 1,
            group_by: cm3flow_stages::ingest::GroupBy::default(),
            max_member_bytes: None,
            orientation: cm3flow_schemas::sample::Orientation::default(),
        };
        let error = source_location(&source, FilePath::new("/"), &StoreConfig::default()).expect_err("it does not exist");
        assert!(error.to_string().contains("/no/such"), "{error}");
    }
}
