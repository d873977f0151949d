//! `[store]`: access to remote addresses. It changes no output, so it is part of no key, manifest or report.
//!
//! It may hold secrets: values of `options`, and of lines that do not parse, are never printed.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use cm3flow_schemas::limits::{self, within};
use cm3flow_stages::store_options::problem;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::Error as _;
use url::Url;

use crate::store::{Limiter, RetryPolicy, StoreLayer};

const REQUESTS_PER_SECOND: RangeInclusive<u32> = 1..=100_000;
const RETRY_DEADLINE_SECONDS: RangeInclusive<u32> = 0..=86_400;
const STALL_TIMEOUT_SECONDS: RangeInclusive<u32> = 1..=3600;

/// `[store]`: access to the dataset's store and to all sources. It changes no output, and stands in no key, manifest or report. The environment
/// fills fields that are left out, by the names that the services' own tools use (`AWS_…`, `AZURE_…`, `GOOGLE_…`).
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// Address of the service, for S3, Azure or GCS elsewhere, as `"https://host:9000"`.
    #[schemars(extend("x-default" = "the provider's own"))]
    pub endpoint: Option<String>,
    /// Region of S3.
    #[schemars(extend("x-default" = "`\"us-east-1\"`"))]
    pub region: Option<String>,
    /// `true` for S3's bucket in the path, `false` for the host name.
    #[schemars(extend("x-default" = "`true`"))]
    pub path_style: Option<bool>,
    /// `true` for unsigned requests, for public data.
    pub anonymous: bool,
    /// `true` to allow connections without TLS.
    pub allow_http: bool,
    /// `true` for a local store that waits until files and folders are on disk. Otherwise a power cut may lose the last writes.
    pub fsync: bool,
    /// Largest number of requests in a second.
    #[schemars(transform = within(REQUESTS_PER_SECOND), extend("x-default" = "no limit"))]
    pub requests_per_second: Option<u32>,
    /// Seconds that an operation may take with its retries; 0 tries once.
    #[schemars(transform = within(RETRY_DEADLINE_SECONDS))]
    pub retry_deadline_seconds: u32,
    /// Seconds without a byte after which a request is given up and tried again; an upload has them for each 4 MiB.
    #[schemars(transform = within(STALL_TIMEOUT_SECONDS))]
    pub stall_timeout_seconds: u32,
    /// Options of the crate `object_store` by its own names, such as `access_key_id` and `secret_access_key`. Their values are printed nowhere.
    pub options: StoreOptions,
    /// Layer between the stores and their retries, for tests.
    #[serde(skip)]
    pub layer: Option<StoreLayer>,
    /// Limiter of requests, shared by all stores of a configuration.
    #[serde(skip)]
    pub(crate) limiter: Limiter,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            endpoint: None,
            region: None,
            path_style: None,
            anonymous: false,
            allow_http: false,
            fsync: false,
            requests_per_second: None,
            retry_deadline_seconds: 180,
            stall_timeout_seconds: 60,
            options: StoreOptions::default(),
            layer: None,
            limiter: Limiter::default(),
        }
    }
}

impl StoreConfig {
    pub(crate) fn problems(&self) -> Vec<String> {
        let limits = [
            self.requests_per_second.and_then(|rate| limits::problem("store.requests_per_second", rate, &REQUESTS_PER_SECOND)),
            limits::problem("store.retry_deadline_seconds", self.retry_deadline_seconds, &RETRY_DEADLINE_SECONDS),
            limits::problem("store.stall_timeout_seconds", self.stall_timeout_seconds, &STALL_TIMEOUT_SECONDS),
        ];
        let mut problems: Vec<String> = limits.into_iter().flatten().collect();
        problems.extend(self.endpoint.as_deref().and_then(|endpoint| self.endpoint_problem(endpoint)));
        problems.extend(self.options.problems());
        problems
    }

    fn endpoint_problem(&self, endpoint: &str) -> Option<String> {
        let plain = match Url::parse(endpoint).ok() {
            Some(url) if has_login(&url) => {
                return Some(format!(
                    "store.endpoint must hold no user and password, as {} does; put keys under [store.options]",
                    without_login(&url)
                ));
            }
            Some(url) if url.scheme() == "https" => false,
            Some(url) if url.scheme() == "http" => true,
            _ => return Some("store.endpoint must be a URL that begins with http:// or https://".to_owned()),
        };
        (plain && !self.allow_http)
            .then(|| "store.endpoint begins with http://; set store.allow_http = true to send data without TLS".to_owned())
    }

    /// Returns the policy for retries.
    #[must_use]
    pub fn retries(&self) -> RetryPolicy {
        RetryPolicy {
            deadline: Duration::from_secs(self.retry_deadline_seconds.into()),
            stall: Duration::from_secs(self.stall_timeout_seconds.into()),
            ..RetryPolicy::default()
        }
    }
}

/// Options by name. Debug shows the names alone.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct StoreOptions(BTreeMap<String, String>);

impl StoreOptions {
    /// Returns names, in lower case, and values.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    fn problems(&self) -> Vec<String> {
        let problem = |name: &String| Some(format!("store.options.{name}: {}", problem(&[], name)?));
        self.0.keys().filter_map(problem).collect()
    }
}

impl JsonSchema for StoreOptions {
    fn schema_name() -> Cow<'static, str> {
        "StoreOptions".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", "additionalProperties": { "type": ["string", "integer", "boolean"] } })
    }
}

impl fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish_non_exhaustive()
    }
}

impl<'de> Deserialize<'de> for StoreOptions {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Parsed as a value of any type first: serde's message about a wrong type would quote a secret.
        let toml::Value::Table(table) = toml::Value::deserialize(deserializer)? else {
            return Err(D::Error::custom("store.options must be a table"));
        };
        let text = |(name, value): (String, toml::Value)| {
            let value = match value {
                toml::Value::String(text) => text,
                toml::Value::Integer(number) => number.to_string(),
                toml::Value::Boolean(flag) => flag.to_string(),
                _ => return Err(D::Error::custom(format!("store.options.{name} must be text, a whole number or a boolean"))),
            };
            Ok((name.to_ascii_lowercase(), value))
        };
        table.into_iter().map(text).collect::<Result<_, _>>().map(Self)
    }
}

/// Checks whether a URL holds a password, or a user where no service takes one.
#[must_use]
pub(crate) fn has_login(url: &Url) -> bool {
    // Azure's URLs hold the container where others hold a user.
    url.password().is_some() || (!url.username().is_empty() && !url.scheme().starts_with(['a', 'A']))
}

/// Returns a URL in printable form: without user, password, query and fragment.
#[must_use]
pub(crate) fn without_login(url: &Url) -> String {
    let mut url = url.clone();
    // Both fail only for URLs without host, which cannot hold a login.
    if has_login(&url) {
        let _ = url.set_username("");
        let _ = url.set_password(None);
    }
    url.set_query(None);
    url.set_fragment(None);
    url.to_string()
}

/// Returns `address` in printable form.
#[must_use]
pub(crate) fn printable_address(address: &str) -> String {
    match Url::parse(address) {
        Ok(url) if address.contains("://") && (has_login(&url) || url.query().is_some()) => without_login(&url),
        _ => address.to_owned(),
    }
}

/// Describes the problem of `address`, the value of `field`, if it holds a login.
#[must_use]
pub(crate) fn address_problem(field: &str, address: &str) -> Option<String> {
    let url = Url::parse(address).ok().filter(|url| address.contains("://") && has_login(url))?;
    Some(format!(
        "{field} must hold no user and password, as {} does; put keys under [store.options] or into the environment",
        without_login(&url)
    ))
}

/// Masks everything in the text of a configuration that may be secret, byte for byte in place, for messages that quote a line.
#[must_use]
pub(crate) fn masked(text: &str) -> String {
    let mut is_store = false;
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let trimmed = line.trim_start();
        if trimmed.starts_with('[') {
            // A header with a value is a slip of the pen and does not end the section.
            let names_store = trimmed.trim_start_matches(['[', ' ', '\t', '"', '\'']).starts_with("store");
            is_store = names_store || (is_store && line.contains('='));
        }
        let is_secret = is_store || trimmed.starts_with("store") || (line.contains("://") && line.contains('@'));
        let shown =
            if is_secret { line.find('=').map_or(if trimmed.starts_with('[') { line.len() } else { 0 }, |at| at + 1) } else { line.len() };
        out.push_str(&line[..shown]);
        out.extend(line[shown..].bytes().map(|byte| if byte.is_ascii_whitespace() { char::from(byte) } else { '*' }));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_secret_is_masked_in_its_place() {
        let text = "store = { x = \"hush\" }\n[pack]\nseq_len = 1\n[store.options]\nkey = \"hüsh\"\n  more hush\n[slip = \"hush\"\n[[source]]\nurl = \"http://u:hush@h/x\"\n";
        let masked = masked(text);
        assert!(!masked.contains("sh\""), "{masked}");
        assert!(masked.contains("seq_len = 1\n[store.options]\nkey = *******\n"), "{masked}");
        assert_eq!(masked.len(), text.len());
    }

    #[test]
    fn addresses_are_printed_without_login_and_query() {
        assert_eq!(printable_address("https://user:hush@host/a?sig=hush#x"), "https://host/a");
        assert_eq!(printable_address("https://host/a?sig=hush"), "https://host/a");
        assert_eq!(printable_address("abfs://container@account/a"), "abfs://container@account/a");
        assert_eq!(printable_address("photos/a?b.tar"), "photos/a?b.tar");
        assert!(
            address_problem("dataset.store", "s3://key:hush@bucket/x")
                .is_some_and(|problem| problem.contains("s3://bucket/x") && !problem.contains("hush"))
        );
        assert_eq!(address_problem("dataset.store", "abfs://container@account/a"), None);
    }

    #[test]
    fn options_are_scalars_whose_values_are_not_printed() {
        let options: StoreConfig = toml::from_str("[options]\nSecret_Access_Key = \"hush\"\nhttp1_only = true\n").expect("known options");
        assert_eq!(options.options.iter().collect::<Vec<_>>(), [("http1_only", "true"), ("secret_access_key", "hush")]);
        assert_eq!(options.problems(), [""; 0]);
        let shown = format!("{options:?}");
        assert!(shown.contains("secret_access_key") && !shown.contains("hush"), "{shown}");
        for bad in ["options = \"hush\"", "[options]\nkey = [\"hush\"]"] {
            let error = toml::from_str::<StoreConfig>(bad).expect_err("no table of scalars");
            assert!(!error.message().contains("hush"), "{error}");
        }
    }

    #[test]
    fn bad_fields_are_named() {
        let bad = "endpoint = \"http://a:hush@b\"\nrequests_per_second = 0\nstall_timeout_seconds = 0\n[options]\npigeon = 1\n";
        let problems = toml::from_str::<StoreConfig>(bad).expect("of the right types").problems();
        let all = problems.join("\n");
        assert_eq!(problems.len(), 4, "{all}");
        assert!(all.contains("store.options.pigeon: there is no option") && !all.contains("hush"), "{all}");
        let misspelt = toml::from_str::<StoreConfig>("[options]\nregoin = \"x\"").expect("of the right types").problems();
        assert_eq!(misspelt, ["store.options.regoin: there is no option \"regoin\"; did you mean \"region\"?"]);
        let plain = toml::from_str::<StoreConfig>("endpoint = \"http://b\"").expect("of the right types").problems();
        assert!(plain[0].contains("store.allow_http = true"), "{plain:?}");
    }
}
