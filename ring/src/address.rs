//! Where a stream goes to or comes from: `HOST:PORT` or `unix:PATH`.
//!
//! Invariant: an address is parsed at the edge; names are resolved before they get here.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// A stream address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// TCP.
    Tcp(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

/// Why a text is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no address: write IP:PORT (127.0.0.1:9710, [::1]:9710) or unix:/absolute/path")]
pub struct AddressError {
    /// The text.
    pub text: String,
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(path) = text.strip_prefix("unix:") {
            // sun_path holds 108 bytes, one of them the final zero (unix(7)).
            if path.is_empty() || path.len() > 107 {
                return Err(AddressError { text: text.to_owned() });
            }
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        let localhost = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
        localhost.as_deref().unwrap_or(text).parse().map(Self::Tcp).map_err(|_| AddressError { text: text.to_owned() })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(formatter, "{address}"),
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_printing() {
        for text in ["127.0.0.1:9710", "[::1]:9710", "unix:/run/sds.sock"] {
            let address: Address = text.parse().expect("an address");
            assert_eq!(address.to_string(), text);
        }
        assert_eq!("localhost:80".parse::<Address>().expect("an address").to_string(), "127.0.0.1:80");
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "9710", "host", "unix:", "1.2.3.4", "1.2.3.4:99999"] {
            assert!(text.parse::<Address>().is_err(), "{text:?}");
        }
    }
}
