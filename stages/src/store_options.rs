//! Names of store options. `object_store` ignores unknown names, so sources, datasets and readers check them here.

use object_store::ObjectStoreScheme;
use object_store::aws::AmazonS3ConfigKey;
use object_store::azure::AzureConfigKey;
use object_store::client::ClientConfigKey;
use object_store::gcp::GoogleConfigKey;
use strsim::osa_distance;

/// Options by their short names, from which the nearest one is proposed.
const CLIENT: [&str; 20] = [
    "allow_http",
    "allow_invalid_certificates",
    "connect_timeout",
    "default_content_type",
    "disable_system_certificates",
    "http1_only",
    "http2_keep_alive_interval",
    "http2_keep_alive_timeout",
    "http2_keep_alive_while_idle",
    "http2_max_frame_size",
    "http2_only",
    "pool_idle_timeout",
    "pool_max_idle_per_host",
    "proxy_ca_certificate",
    "proxy_excludes",
    "proxy_url",
    "randomize_addresses",
    "read_timeout",
    "timeout",
    "user_agent",
];
const S3: [&str; 31] = [
    "access_key_id",
    "bucket",
    "bucket_name",
    "checksum_algorithm",
    "conditional_put",
    "container_authorization_token_file",
    "container_credentials_full_uri",
    "container_credentials_relative_uri",
    "copy_if_not_exists",
    "default_region",
    "disable_bulk_delete",
    "disable_tagging",
    "endpoint",
    "endpoint_url",
    "endpoint_url_sts",
    "imdsv1_fallback",
    "metadata_endpoint",
    "region",
    "request_payer",
    "role_arn",
    "role_session_name",
    "s3_express",
    "secret_access_key",
    "server_side_encryption",
    "session_token",
    "skip_signature",
    "sse_kms_key_id",
    "token",
    "unsigned_payload",
    "virtual_hosted_style_request",
    "web_identity_token_file",
];
const GOOGLE: [&str; 9] = [
    "application_credentials",
    "base_url",
    "bearer_token",
    "bucket",
    "bucket_name",
    "service_account",
    "service_account_key",
    "service_account_path",
    "skip_signature",
];
const AZURE: [&str; 29] = [
    "access_key",
    "account_key",
    "account_name",
    "authority_host",
    "authority_id",
    "bearer_token",
    "client_id",
    "client_secret",
    "container_name",
    "credential_type",
    "disable_tagging",
    "encryption_key",
    "endpoint",
    "fabric_cluster_identifier",
    "fabric_session_token",
    "fabric_token_service_url",
    "fabric_workload_host",
    "federated_token_file",
    "identity_endpoint",
    "master_key",
    "msi_endpoint",
    "msi_resource_id",
    "object_id",
    "sas_key",
    "sas_token",
    "tenant_id",
    "token",
    "use_azure_cli",
    "use_emulator",
];

/// A service whose options have names of their own, or any store behind HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// Amazon S3 and compatible services.
    S3,
    /// Google Cloud Storage.
    Google,
    /// Azure Blob Storage.
    Azure,
    /// Any other store behind HTTP.
    Http,
}

impl Service {
    const ALL: [Self; 4] = [Self::S3, Self::Google, Self::Azure, Self::Http];

    /// Returns the service of a scheme.
    #[must_use]
    pub const fn of(scheme: &ObjectStoreScheme) -> Self {
        match scheme {
            ObjectStoreScheme::AmazonS3 => Self::S3,
            ObjectStoreScheme::GoogleCloudStorage => Self::Google,
            ObjectStoreScheme::MicrosoftAzure => Self::Azure,
            _ => Self::Http,
        }
    }

    /// Returns the prefix of the long option names; environment variables have them in capitals.
    #[must_use]
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::S3 => "aws_",
            Self::Google => "google_",
            Self::Azure => "azure_",
            Self::Http => "http_",
        }
    }

    fn knows(self, name: &str) -> bool {
        match self {
            Self::S3 => name.parse::<AmazonS3ConfigKey>().is_ok(),
            Self::Google => name.parse::<GoogleConfigKey>().is_ok(),
            Self::Azure => name.parse::<AzureConfigKey>().is_ok(),
            Self::Http => name.parse::<ClientConfigKey>().is_ok(),
        }
    }

    fn names(self) -> impl Iterator<Item = &'static str> {
        let own: &[&str] = match self {
            Self::S3 => &S3,
            Self::Google => &GOOGLE,
            Self::Azure => &AZURE,
            Self::Http => &[],
        };
        own.iter().chain(&CLIENT).copied()
    }
}

/// Returns the problem of an option that none of `services` knows, with the nearest known name. Without services, all services count.
#[must_use]
pub fn problem(services: &[Service], option: &str) -> Option<String> {
    let services = if services.is_empty() { &Service::ALL } else { services };
    let name = option.to_lowercase();
    if services.iter().any(|service| service.knows(&name)) {
        return None;
    }
    let bare = services.iter().find_map(|service| name.strip_prefix(service.prefix())).unwrap_or(&name);
    let known = || services.iter().flat_map(|service| service.names());
    let nearest = known().min_by_key(|name| osa_distance(bare, name));
    Some(match nearest.filter(|name| osa_distance(bare, name) <= bare.len().max(name.len()) / 2) {
        Some(nearest) => format!("there is no option {option:?}; did you mean {nearest:?}?"),
        None => {
            let mut names: Vec<&str> = known().collect();
            names.sort_unstable();
            names.dedup();
            format!("there is no option {option:?}; there are {}", names.join(", "))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_that_may_be_proposed_is_known() {
        for service in Service::ALL {
            for name in service.names() {
                assert!(service.knows(name), "{service:?} {name}");
            }
        }
    }

    #[test]
    fn an_unknown_option_is_refused_with_the_nearest_name() {
        for (services, name, nearest) in [
            (&[Service::S3][..], "regoin", "region"),
            (&[Service::S3], "AWS_ACESS_KEY_ID", "access_key_id"),
            (&[Service::S3], "allow-http", "allow_http"),
            (&[Service::Google], "service_acount", "service_account"),
            (&[Service::Azure, Service::S3], "sas_tokne", "sas_token"),
            (&[], "end_point", "endpoint"),
        ] {
            let error = problem(services, name).expect("unknown");
            assert!(error.ends_with(&format!("did you mean {nearest:?}?")), "{error}");
        }
        for (services, name) in [
            (&[Service::S3][..], "region"),
            (&[Service::S3], "AWS_Region"),
            (&[Service::S3], "aws_endpoint_url_s3"),
            (&[Service::S3, Service::Google], "service_account"),
            (&[Service::Http], "timeout"),
            (&[], "account_name"),
        ] {
            assert_eq!(problem(services, name), None);
        }
        let error = problem(&[Service::Google], "region").expect("it is one of S3");
        assert!(error.contains("\"region\""), "{error}");
        let error = problem(&[Service::Http], "x").expect("unknown");
        assert!(error.contains("there are allow_http, "), "{error}");
    }
}
