//! Texts: configuration files, bodies and queries of the API, values of the command line.

use crate::memory::{TEXT, bounded};
use axum::extract::Query;
use axum::http::{HeaderMap, HeaderValue, Uri};
use mdm::MdmConfig;
use mdm::rest::body;
use sds_core::limits::SHARDS_LISTED_MAX;
use sds_ring::Address;
use sds_server::{NodeConfig, Size};

/// Longest message about a text, beside what it quotes of it.
const MESSAGE_BYTES_MAX: usize = 4096;

fn readable(error: &str, text: &str) {
    assert!(!error.is_empty());
    // A line of a configuration is quoted, and a name in it, escaped.
    assert!(error.len() <= MESSAGE_BYTES_MAX + 16 * text.len(), "{} bytes about {} bytes of text", error.len(), text.len());
}

/// `sds.toml`.
pub fn config_sds(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match bounded(data, TEXT, || NodeConfig::from_toml(text)) {
        Ok(config) => assert!(config.check().is_ok()),
        Err(error) => readable(&error.to_string(), text),
    }
}

/// `mdm.toml`.
pub fn config_mdm(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match bounded(data, TEXT, || MdmConfig::from_toml(text)) {
        Ok(config) => assert!(config.check().is_ok()),
        Err(error) => readable(&error.to_string(), text),
    }
}

/// Bodies and queries of the API; the first byte says of which request. A line before the body is the idempotency key.
pub fn rest(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else { return };
    match kind % 4 {
        0 => {
            let newline = data.iter().position(|byte| *byte == b'\n').unwrap_or(0);
            let (key, bytes) = data.split_at(newline);
            let mut headers = HeaderMap::new();
            if let Ok(value) = HeaderValue::from_bytes(key) {
                headers.insert("idempotency-key", value);
            }
            if let Ok(create) = bounded(data, TEXT, || body::create_volume(bytes, &headers)) {
                assert!(create.name.len() <= bytes.len());
            }
        }
        1 => _ = bounded(data, TEXT, || body::create_pool(data)).is_ok(),
        2 => _ = bounded(data, TEXT, || body::force_shard(("default".to_owned(), 1), data)).is_ok(),
        _ => {
            let query: String = data.iter().map(|byte| char::from(*byte)).filter(char::is_ascii_graphic).collect();
            let Ok(uri) = format!("/api/v1/shards?{query}").parse::<Uri>() else { return };
            let asked = bounded(data, TEXT, || body::shards(Query::try_from_uri(&uri)));
            if let Ok(sds_core::cluster::leader::ApiRequest::Shards(query)) = asked {
                assert!((1..=SHARDS_LISTED_MAX).contains(&query.limit));
            }
        }
    }
}

/// Sizes and addresses.
pub fn values(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match bounded(data, TEXT, || text.parse::<Size>()) {
        Ok(size) => {
            assert!(size.bytes() < 1 << 63, "a size fits a signed offset");
            assert_eq!(size.to_string().parse(), Ok(size), "a size is printed as it can be typed");
        }
        Err(error) => readable(&error, text),
    }
    match bounded(data, TEXT, || text.parse::<Address>()) {
        Ok(address) => assert_eq!(address.to_string().parse().as_ref(), Ok(&address), "an address is printed as it can be typed"),
        Err(error) => readable(&error.to_string(), text),
    }
}
