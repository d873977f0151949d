//! Address of the metrics endpoint.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An address with a port. A port alone means the loopback address: other machines see metrics only on request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Written", into = "String")]
pub struct MetricsAddress(pub SocketAddr);

/// The forms that configurations may write.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
enum Written {
    /// A port of the loopback address, as `9464`: other machines see nothing.
    Port(u16),
    /// An address with a port, as `"0.0.0.0:9464"`.
    Text(String),
}

impl TryFrom<Written> for MetricsAddress {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        match written {
            Written::Port(port) => Ok(Self::loopback(port)),
            Written::Text(text) => text.parse(),
        }
    }
}

impl From<MetricsAddress> for String {
    fn from(address: MetricsAddress) -> Self {
        address.to_string()
    }
}

impl MetricsAddress {
    fn loopback(port: u16) -> Self {
        Self(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    }
}

impl fmt::Display for MetricsAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for MetricsAddress {
    type Err = String;

    /// Reads `9464`, `:9464`, `127.0.0.1:9464` or `[::1]:9464`.
    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(port) = text.strip_prefix(':').unwrap_or(text).parse() {
            return Ok(Self::loopback(port));
        }
        text.parse().map(Self).map_err(|_| format!("metrics must be a port or an address with a port, as 127.0.0.1:9464, got {text:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_is_one_of_the_loopback_address() {
        for (text, wanted) in
            [("9464", "127.0.0.1:9464"), (":9464", "127.0.0.1:9464"), ("0.0.0.0:9464", "0.0.0.0:9464"), ("[::1]:9464", "[::1]:9464")]
        {
            assert_eq!(text.parse::<MetricsAddress>().map(|address| address.to_string()).as_deref(), Ok(wanted), "{text}");
        }
        for text in ["", "localhost", "127.0.0.1", "99999", "example.org:80"] {
            assert!(text.parse::<MetricsAddress>().is_err(), "{text}");
        }
    }
}
