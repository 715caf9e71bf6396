//! What an operator can say about a data server: the TOML file, its defaults and its checks.
//!
//! Invariant: a configuration that parses has been checked as far as that is possible without touching
//! anything; every refusal names the key and what to write instead.

use sds_core::limits::DEVICES_PER_SDS_MAX;
use sds_core::replica::interface::ReplicaOptions;
use sds_ring::Address;
use serde::{Deserialize, Deserializer};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Memory unless the configuration says otherwise.
pub const MEMORY_DEFAULT: Size = Size(256 << 20);
/// The least memory a server can work with.
pub const MEMORY_MIN: Size = Size(32 << 20);

/// The shortest patience with a disk: below it, a busy one would pass for one that hangs.
pub const HUNG_DISK_SECONDS_MIN: u64 = 2;
/// The longest: a client of a hung disk waits so long.
pub const HUNG_DISK_SECONDS_MAX: u64 = 600;

/// A number of bytes: `4096`, `"512 MiB"`, `"16G"`. Powers of 1024 whatever way they are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(u64);

impl Size {
    /// This many bytes.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// In bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Size {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
        match units.iter().find(|(shift, _)| self.0 >> shift > 0 && self.0.is_multiple_of(1 << shift)) {
            Some((shift, unit)) => write!(formatter, "{} {unit}", self.0 >> shift),
            None => write!(formatter, "{} bytes", self.0),
        }
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let trimmed = text.trim();
        let digits = trimmed.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(digits);
        let shift = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" | "bytes" => 0,
            "k" | "kib" | "kb" => 10,
            "m" | "mib" | "mb" => 20,
            "g" | "gib" | "gb" => 30,
            "t" | "tib" | "tb" => 40,
            _ => return Err(format!("{text:?} is no size: write bytes, or a number with KiB, MiB, GiB or TiB")),
        };
        let number: u64 = number.parse().map_err(|_| format!("{text:?} is no size: it must start with a whole number"))?;
        let bytes = number.checked_mul(1 << shift).filter(|bytes| *bytes < 1 << 63);
        bytes.map(Self).ok_or_else(|| format!("{text:?} is too large: sizes are below 8 EiB"))
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Size;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a size such as 4096 or \"16 GiB\"")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Size, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Size, E> {
                u64::try_from(number).map(Size).map_err(|_| E::custom("a size is not negative"))
            }
            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Size, E> {
                Ok(Size(number))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// When a device is formatted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FormatPolicy {
    /// Never: it must hold a store already.
    Never,
    /// If its start and end are all zero.
    #[default]
    IfBlank,
    /// Also if it holds something else, or a store of another system: **that is lost**. A store of this
    /// system is kept all the same, so the word can stay in the file.
    Force,
}

/// One device.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceConfig {
    /// A block device, or a file.
    pub path: PathBuf,
    /// Of a file: it is created with this size and written once. A block device is used whole.
    #[serde(default)]
    pub size: Option<Size>,
    /// The pool it is meant for.
    #[serde(default = "default_pool")]
    pub pool: String,
    /// When to format it.
    #[serde(default)]
    pub format: FormatPolicy,
    /// Whether acknowledged writes may be lost in a power cut; found out if not said.
    #[serde(default)]
    pub volatile_cache: Option<bool>,
    /// Accept physical sectors below 4 KiB: a power cut may then tear a 4 KiB block (it is noticed on read).
    #[serde(default)]
    pub allow_small_sectors: bool,
}

impl DeviceConfig {
    /// A file of this size, everything else by default.
    #[must_use]
    pub fn file(path: impl Into<PathBuf>, size: Size) -> Self {
        Self {
            path: path.into(),
            size: Some(size),
            pool: default_pool(),
            format: FormatPolicy::default(),
            volatile_cache: None,
            allow_small_sectors: false,
        }
    }
}

/// One data server.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// Its name, for people; the host's name if not said.
    #[serde(default = "default_name")]
    pub name: String,
    /// Where clients reach it: `IP:PORT`, port 0 for any.
    #[serde(default = "default_listen", deserialize_with = "address")]
    pub listen: Address,
    /// What the MDM tells clients to connect to, if not `listen`.
    #[serde(default, deserialize_with = "addresses")]
    pub advertise: Vec<Address>,
    /// Control addresses of the MDM, `HOST:PORT`.
    #[serde(default = "default_mdm")]
    pub mdm: Vec<String>,
    /// Where its identity is kept. One server a directory.
    pub state_dir: PathBuf,
    /// Servers that fail together share one; its own name if not said.
    #[serde(default)]
    pub fault_set: Option<String>,
    /// For buffers and descriptor pages together.
    #[serde(default = "default_memory")]
    pub memory: Size,
    /// Most connections at once.
    #[serde(default = "default_connections")]
    pub connections_max: usize,
    /// Most requests accepted at once, over all connections.
    #[serde(default = "default_requests")]
    pub requests_max: usize,
    /// After how many seconds a disk request that does not end makes its device one that hangs.
    #[serde(default = "default_hung_disk")]
    pub hung_disk_seconds: u64,
    /// Whether a port of another data server that refuses means that its process has ended; if not, its lease is waited out.
    #[serde(default = "default_trust_refused")]
    pub trust_refused: bool,
    /// Its devices.
    #[serde(default, rename = "device")]
    pub devices: Vec<DeviceConfig>,
}

fn default_pool() -> String {
    "default".to_owned()
}

fn default_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "sds".to_owned() } else { name.trim().to_owned() }
}

fn default_listen() -> Address {
    Address::Tcp(std::net::SocketAddr::from(([127, 0, 0, 1], 9710)))
}

fn default_mdm() -> Vec<String> {
    vec!["127.0.0.1:9700".to_owned()]
}

const fn default_memory() -> Size {
    MEMORY_DEFAULT
}

const fn default_connections() -> usize {
    512
}

const fn default_requests() -> usize {
    4096
}

const fn default_hung_disk() -> u64 {
    ReplicaOptions::DISK_HANG_DEFAULT.get() / 1_000_000_000
}

const fn default_trust_refused() -> bool {
    true
}

fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Address, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

fn addresses<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Address>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    texts.iter().map(|text| text.parse().map_err(serde::de::Error::custom)).collect()
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// It is not TOML, has an unknown key, or a value of the wrong kind.
    #[error("configuration: {0}")]
    Syntax(Box<toml::de::Error>),
    /// The same, in a file.
    #[error("configuration {}: {source}", path.display())]
    SyntaxOf {
        /// Which.
        path: PathBuf,
        /// Where in it, and what.
        source: Box<toml::de::Error>,
    },
    /// A value that cannot be used.
    #[error("configuration: `{key}`: {reason}")]
    Value {
        /// Which key.
        key: String,
        /// Why, and what to write.
        reason: String,
    },
}

fn refuse(key: impl Into<String>, reason: impl Into<String>) -> ConfigError {
    ConfigError::Value { key: key.into(), reason: reason.into() }
}

impl NodeConfig {
    /// A server with all defaults.
    #[must_use]
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Self {
            name: default_name(),
            listen: default_listen(),
            advertise: Vec::new(),
            mdm: default_mdm(),
            state_dir: state_dir.into(),
            fault_set: None,
            memory: default_memory(),
            connections_max: default_connections(),
            requests_max: default_requests(),
            hung_disk_seconds: default_hung_disk(),
            trust_refused: default_trust_refused(),
            devices: Vec::new(),
        }
    }

    /// From the text of a file; checked.
    ///
    /// # Errors
    /// What is wrong with it, by key.
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|error| ConfigError::Syntax(Box::new(error)))?;
        config.check()?;
        Ok(config)
    }

    /// From a file; checked.
    ///
    /// # Errors
    /// That it cannot be read, or what is wrong with it.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::from_toml(&text).map_err(|error| match error {
            ConfigError::Syntax(source) => ConfigError::SyntaxOf { path: path.to_owned(), source },
            error @ (ConfigError::Read { .. } | ConfigError::SyntaxOf { .. } | ConfigError::Value { .. }) => error,
        })
    }

    /// Checks what can be checked without touching anything.
    ///
    /// # Errors
    /// The first value that cannot be used.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.name.is_empty() || self.name.len() > 63 || !self.name.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(refuse("name", format!("{:?} must have 1 to 63 printable ASCII characters without spaces", self.name)));
        }
        if self.state_dir.as_os_str().is_empty() {
            return Err(refuse("state_dir", "name a directory that this server may keep its identity in"));
        }
        if self.mdm.is_empty() {
            return Err(refuse("mdm", "name at least one control address of the MDM, such as [\"127.0.0.1:9700\"]"));
        }
        for address in &self.mdm {
            let port = address.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
            if port.is_none_or(|(host, port)| host.is_empty() || port == 0) {
                return Err(refuse("mdm", format!("{address:?} is no HOST:PORT")));
            }
        }
        if !(HUNG_DISK_SECONDS_MIN..=HUNG_DISK_SECONDS_MAX).contains(&self.hung_disk_seconds) {
            let bounds = format!("{HUNG_DISK_SECONDS_MIN} to {HUNG_DISK_SECONDS_MAX}");
            return Err(refuse("hung_disk_seconds", format!("{} is out of bounds: {bounds} seconds", self.hung_disk_seconds)));
        }
        let unspecified = matches!(&self.listen, Address::Tcp(tcp) if tcp.ip().is_unspecified());
        if unspecified && self.advertise.is_empty() {
            return Err(refuse("advertise", format!("`listen` is {}; say which address clients can connect to", self.listen)));
        }
        if self.memory < MEMORY_MIN {
            return Err(refuse("memory", format!("{} are too few; at least {MEMORY_MIN} are needed", self.memory)));
        }
        if !(1..=65_536).contains(&self.connections_max) {
            return Err(refuse("connections_max", "must be from 1 to 65536"));
        }
        if !(16..=1 << 20).contains(&self.requests_max) {
            return Err(refuse("requests_max", "must be from 16 to 1048576"));
        }
        if self.devices.len() > DEVICES_PER_SDS_MAX {
            return Err(refuse("device", format!("{} devices; one server takes at most {DEVICES_PER_SDS_MAX}", self.devices.len())));
        }
        for (index, device) in self.devices.iter().enumerate() {
            let key = |field: &str| format!("device[{index}].{field}");
            if device.path.as_os_str().is_empty() {
                return Err(refuse(key("path"), "name a block device or a file"));
            }
            if device.pool.is_empty() || device.pool.len() > sds_core::limits::NAME_BYTES_MAX {
                return Err(refuse(key("pool"), "must have 1 to 63 characters"));
            }
            if let Some(size) = device.size
                && !size.bytes().is_multiple_of(4096)
            {
                return Err(refuse(key("size"), format!("{size} is not a multiple of 4 KiB")));
            }
            if self.devices[..index].iter().any(|other| other.path == device.path) {
                return Err(refuse(key("path"), format!("{} is named twice", device.path.display())));
            }
        }
        Ok(())
    }

    /// Bytes of `memory` that go to the loop's buffers.
    #[must_use]
    pub fn pool_bytes(&self) -> usize {
        usize::try_from(self.memory.bytes() / 2).unwrap_or(usize::MAX)
    }

    /// Bytes of `memory` that go to the descriptor pages of each device.
    #[must_use]
    pub fn descriptor_cache_bytes(&self) -> usize {
        let each = self.memory.bytes() / 2 / (self.devices.len().max(1) as u64);
        usize::try_from(each).unwrap_or(usize::MAX).max(256 * 4096)
    }
}
