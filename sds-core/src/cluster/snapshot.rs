//! The whole state as bytes, so that the log can be cut.
//!
//! Invariant: `decode(encode(state)) == state`; the first number is the version of the form.

use super::Cluster;
use super::command::{FormatError, stated_version};
use super::state::State;
use crate::codec::{self, CodecError};

/// Version of an encoded snapshot.
const SNAPSHOT_VERSION: u16 = 5;

impl Cluster {
    /// The state as bytes.
    ///
    /// # Errors
    /// When it is larger than the codec allows.
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        codec::encode(&(SNAPSHOT_VERSION, &self.state))
    }

    /// The state from bytes.
    ///
    /// # Errors
    /// When the bytes are not a snapshot, of a newer version, or contradict themselves.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let version = stated_version(bytes)?;
        if version != SNAPSHOT_VERSION {
            return Err(FormatError::Version { found: version, known: SNAPSHOT_VERSION });
        }
        let (_, state): (u16, State) = codec::decode(bytes)?;
        let cluster = Self { state };
        match cluster.fault() {
            None => Ok(cluster),
            Some(fault) => Err(FormatError::Contradiction(fault)),
        }
    }
}
