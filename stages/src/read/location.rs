//! Addresses of readers: a version, or a run that makes one.
//!
//! Addresses follow the layout of the store. `STORE/versions/DATASET/N.json` is a version, `STORE/versions/DATASET` the highest one, and
//! `STORE/tags/DATASET/TAG` that of a tag. `STORE` is a path, or a URL of any service that `object_store` knows.

use std::collections::BTreeMap;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use object_store::local::LocalFileSystem;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreScheme};
use url::Url;

use super::pool::Origin;
use crate::error::{Result, StageError};
use crate::store_options::{self, Service};

/// Choice of a dataset's version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VersionName {
    /// A version by number.
    Number(u32),
    /// The highest version.
    Latest,
    /// The version of a tag.
    Tag(String),
}

/// A dataset in a store.
#[derive(Clone)]
pub struct Location {
    /// Store of the records.
    pub store: Arc<dyn ObjectStore>,
    /// Source of the shards.
    pub origin: Origin,
    /// Name of the dataset.
    pub dataset: String,
    /// Chosen version.
    pub version: VersionName,
}

impl Location {
    /// Checks that each name of `options` is known for a store of one of the addresses, or for any store if all addresses are local.
    ///
    /// # Errors
    /// [`StageError::Address`] with the nearest known name.
    pub fn check_options<'a>(addresses: impl Iterator<Item = &'a str> + Clone, options: &BTreeMap<String, String>) -> Result<()> {
        let services: Vec<Service> = addresses.clone().filter_map(service).collect();
        let problem = options.keys().find_map(|name| store_options::problem(&services, name));
        let address = || printable(addresses.clone().next().unwrap_or_default());
        problem.map_or(Ok(()), |problem| Err(StageError::Address { address: address(), problem }))
    }

    /// Opens `address`. `options` are settings of the service by the names of `object_store` (`region`, `endpoint`, `allow_http`, …), which
    /// override the environment. Sends no request.
    ///
    /// # Errors
    /// [`StageError::Address`] if it names no version, or if no store is known for it.
    pub fn open(address: &str, options: &BTreeMap<String, String>) -> Result<Self> {
        let refused = |problem: String| StageError::Address { address: printable(address), problem };
        let (root, dataset, version) = parts(address).map_err(refused)?;
        if let Some(url) = Url::parse(root).ok().filter(|_| root.contains("://")).filter(|url| url.scheme() != "file") {
            let store = remote(&url, options).map_err(refused)?;
            return Ok(Self { origin: Origin::Store(Arc::clone(&store)), store, dataset, version });
        }
        let folder = PathBuf::from(root.strip_prefix("file://").unwrap_or(root));
        let folder = folder.canonicalize().map_err(|error| refused(format!("cannot open the folder {}: {error}", folder.display())))?;
        let store = local(&folder).map_err(|error| refused(error.to_string()))?;
        Ok(Self { store, origin: Origin::Folder(folder), dataset, version })
    }
}

fn local(folder: &FilePath) -> object_store::Result<Arc<dyn ObjectStore>> {
    Ok(Arc::new(LocalFileSystem::new_with_prefix(folder)?))
}

/// Splits an address into root of the store, dataset and version.
fn parts(address: &str) -> Result<(&str, String, VersionName), String> {
    const EXPECTED: &str = "expected STORE/versions/DATASET, STORE/versions/DATASET/N.json or STORE/tags/DATASET/TAG";
    let trimmed = address.trim_end_matches('/');
    let mut places: Vec<(usize, &str)> = trimmed.match_indices('/').map(|(at, _)| (at, &trimmed[at + 1..])).collect();
    places.reverse();
    // The deciding folder stands two or three names from the end.
    for (at, rest) in places.into_iter().take(3) {
        let names: Vec<&str> = rest.split('/').collect();
        let root = if at == 0 { "/" } else { &trimmed[..at] };
        match names[..] {
            ["versions", dataset] => return Ok((root, dataset.to_owned(), VersionName::Latest)),
            ["versions", dataset, file] => {
                let number = file.strip_suffix(".json").unwrap_or(file).parse();
                let number = number.map_err(|_| format!("{file:?} is no version; {EXPECTED}"))?;
                return Ok((root, dataset.to_owned(), VersionName::Number(number)));
            }
            ["tags", dataset, tag] => return Ok((root, dataset.to_owned(), VersionName::Tag(tag.to_owned()))),
            _ => {}
        }
    }
    Err(EXPECTED.to_owned())
}

/// Returns the service of a remote address.
fn service(address: &str) -> Option<Service> {
    let url = Url::parse(address).ok().filter(|url| address.contains("://") && url.scheme() != "file")?;
    ObjectStoreScheme::parse(&url).ok().map(|(scheme, _)| Service::of(&scheme))
}

/// Opens the store at `url`, with paths relative to it.
fn remote(url: &Url, options: &BTreeMap<String, String>) -> Result<Arc<dyn ObjectStore>, String> {
    if !url.username().is_empty() || url.password().is_some() {
        return Err("an address must hold no user and password; give keys as options or in the environment".to_owned());
    }
    // The error of `object_store` would repeat the URL.
    let (scheme, _) = ObjectStoreScheme::parse(url)
        .map_err(|_| format!("no store is known for {}://; there are s3://, gs://, az://, abfss://, https:// and file://", url.scheme()))?;
    let prefix = Service::of(&scheme).prefix();
    let environment = std::env::vars().map(|(name, value)| (name.to_lowercase(), value)).filter(|(name, _)| name.starts_with(prefix));
    let settings = environment.chain(options.iter().map(|(name, value)| (name.to_lowercase(), value.clone())));
    let (store, path) = object_store::parse_url_opts(url, settings).map_err(|error| error.to_string())?;
    Ok(Arc::new(PrefixStore::new(store, path)))
}

/// Returns the address without possible secrets.
fn printable(address: &str) -> String {
    let Ok(mut url) = Url::parse(address) else { return address.to_owned() };
    // Both succeed for an address that has a user or a password.
    let _ = url.set_password(None).and_then(|()| url.set_username(""));
    url.set_query(None);
    url.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_follow_the_layout_of_the_store() {
        let latest = VersionName::Latest;
        for (address, root, dataset, version) in [
            ("/data/store/versions/photos/3.json", "/data/store", "photos", VersionName::Number(3)),
            ("store/versions/photos/3", "store", "photos", VersionName::Number(3)),
            ("s3://bucket/a/versions/photos/", "s3://bucket/a", "photos", latest.clone()),
            ("s3://bucket/versions/versions", "s3://bucket", "versions", latest),
            ("/tags/photos/good", "/", "photos", VersionName::Tag("good".into())),
        ] {
            assert_eq!(parts(address), Ok((root, dataset.to_owned(), version)), "{address}");
        }
        for address in ["", "/", "s3://bucket", "store/photos/3.json", "versions/photos", "store/versions/photos/three.json"] {
            assert!(parts(address).is_err(), "{address}");
        }
    }

    #[test]
    fn options_that_no_store_of_the_addresses_knows_are_refused() {
        let options = |name: &str| BTreeMap::from([(name.to_owned(), "x".to_owned())]);
        let check = |addresses: &[&str], name: &str| Location::check_options(addresses.iter().copied(), &options(name));
        let error = check(&["s3://bucket/versions/d?key=secret"], "regoin").expect_err("unknown").to_string();
        assert!(error.contains("regoin") && error.contains("\"region\"") && !error.contains("secret"), "{error}");
        assert!(check(&["gs://bucket/versions/d"], "region").is_err());
        assert!(check(&["gs://bucket/versions/d", "s3://bucket/versions/d"], "region").is_ok());
        assert!(check(&["/store/versions/d"], "regoin").is_err() && check(&["/store/versions/d"], "region").is_ok());
    }

    #[test]
    fn addresses_that_cannot_be_read_are_named_without_secrets() {
        let open = |address: &str| Location::open(address, &BTreeMap::new()).err().expect("refused").to_string();
        assert!(open("ftp://host/versions/d").contains("ftp://"));
        assert!(open("/nowhere/at/all/versions/d").contains("/nowhere/at/all"));
        let error = open("s3://me:secret@bucket/versions/d");
        assert!(error.contains("password") && !error.contains("secret"), "{error}");
    }
}
