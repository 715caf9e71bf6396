//! What an operator can say about an MDM member: the TOML file, its defaults and its checks.
//!
//! Invariant: every refusal names the key and what to write instead; unknown keys are refused.

use sds_core::cluster::leader::LONE_START_WAIT;
use serde::Deserialize;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// Port of the control protocol unless the configuration says otherwise.
pub const CONTROL_PORT: u16 = 9700;
/// Port of the API unless the configuration says otherwise.
pub const API_PORT: u16 = 9780;

/// Longest wait for a lone start, in seconds.
const LONE_START_WAIT_SECONDS_MAX: u64 = 31_536_000;

/// One member of the MDM.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MdmConfig {
    /// Directory of its metadata; made if it is not there.
    pub data_dir: PathBuf,
    /// Its name, for people.
    #[serde(default = "default_name")]
    pub name: String,
    /// Where data servers and clients reach it; port 0 for any.
    #[serde(default = "default_control")]
    pub control: SocketAddr,
    /// Where the API is; port 0 for any.
    #[serde(default = "default_api")]
    pub api: SocketAddr,
    /// Log as JSON lines.
    #[serde(default)]
    pub log_json: bool,
    /// Entries of the log after which a snapshot replaces them.
    #[serde(default = "default_snapshot_entries")]
    pub snapshot_entries: u64,
    /// How long a copy of two that is back waits for the other before it goes on alone; 0: until an operator says so.
    #[serde(default = "default_lone_start_wait")]
    pub lone_start_wait_seconds: u64,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("configuration {path:?} cannot be read: {error}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// It is not TOML, has an unknown key, or a value of the wrong kind.
    #[error("configuration: {0}")]
    Syntax(toml::de::Error),
    /// The same, in a file.
    #[error("configuration {path:?}: {error}")]
    Parse {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        error: toml::de::Error,
    },
    /// A value that cannot be.
    #[error("configuration: `{key}` {reason}")]
    Value {
        /// Which key.
        key: &'static str,
        /// What is wrong, and what to write.
        reason: String,
    },
}

impl MdmConfig {
    /// Everything by default, with this data directory.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            name: default_name(),
            control: default_control(),
            api: default_api(),
            log_json: false,
            snapshot_entries: default_snapshot_entries(),
            lone_start_wait_seconds: default_lone_start_wait(),
        }
    }

    /// From the text of a file; checked.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(ConfigError::Syntax)?;
        config.check()?;
        Ok(config)
    }

    /// From a TOML file; a relative data directory is meant from where the program runs.
    ///
    /// # Errors
    /// When it cannot be read, or says something that cannot be.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Read { path: path.to_owned(), error })?;
        Self::from_toml(&text).map_err(|error| match error {
            ConfigError::Syntax(error) => ConfigError::Parse { path: path.to_owned(), error },
            error @ (ConfigError::Read { .. } | ConfigError::Parse { .. } | ConfigError::Value { .. }) => error,
        })
    }

    /// Checks what the types cannot.
    ///
    /// # Errors
    /// The first value that cannot be.
    pub fn check(&self) -> Result<(), ConfigError> {
        let wrong = |key, reason: &str| Err(ConfigError::Value { key, reason: reason.to_owned() });
        if self.data_dir.as_os_str().is_empty() {
            return wrong("data_dir", "is empty; name a directory");
        }
        if self.name.is_empty() || self.name.len() > 63 || !self.name.chars().all(|character| character.is_ascii_graphic()) {
            return wrong("name", "must have 1 to 63 visible ASCII characters without spaces");
        }
        if self.control == self.api && self.control.port() != 0 {
            return wrong("api", "is the same address as `control`; they need a port each");
        }
        if self.snapshot_entries == 0 {
            return wrong("snapshot_entries", "must be 1 or more");
        }
        if self.lone_start_wait_seconds > LONE_START_WAIT_SECONDS_MAX {
            return wrong("lone_start_wait_seconds", "must be at most 31536000 (a year); 0 waits for an operator");
        }
        Ok(())
    }
}

fn default_name() -> String {
    "mdm-1".to_owned()
}

fn default_control() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), CONTROL_PORT)
}

fn default_api() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), API_PORT)
}

const fn default_lone_start_wait() -> u64 {
    LONE_START_WAIT.get() / 1_000_000_000
}

const fn default_snapshot_entries() -> u64 {
    1024
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<MdmConfig, String> {
        MdmConfig::from_toml(text).map_err(|error| error.to_string())
    }

    #[test]
    fn the_annotated_example_is_the_defaults() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operating/mdm.toml");
        assert_eq!(MdmConfig::from_file(Path::new(path)).expect("parses"), MdmConfig::new("/var/lib/sds/mdm"));
    }

    #[test]
    fn mistakes_are_named() {
        let cases = [
            ("", "data_dir"),
            ("data_dir = \"d\"\ncolour = 1", "colour"),
            ("data_dir = 1", "data_dir"),
            ("data_dir = \"d\"\ncontrol = \"nowhere\"", "control"),
            ("data_dir = \"d\"\napi = \"127.0.0.1:9700\"", "api"),
            ("data_dir = \"d\"\nname = \"two words\"", "name"),
            ("data_dir = \"\"", "data_dir"),
            ("data_dir = \"d\"\nsnapshot_entries = 0", "snapshot_entries"),
            ("data_dir = \"d\"\nlone_start_wait_seconds = 31536001", "lone_start_wait_seconds"),
            ("data_dir = \"d\"\nlone_start_wait_seconds = -1", "lone_start_wait_seconds"),
            ("data_dir = \"d\"\ndata_dir = \"e\"", "data_dir"),
        ];
        for (text, key) in cases {
            let error = parse(text).expect_err(text);
            assert!(error.contains(key), "{text:?}: {error}");
        }
        assert!(parse("data_dir = \"d\"").is_ok());
    }
}
