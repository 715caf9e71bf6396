//! What a client is told about an export.
//!
//! Invariant: the advertised limits are the ones [`super::request`] enforces.

use super::constants::{
    InfoType, TRANSMIT_DF, TRANSMIT_FAST_ZERO, TRANSMIT_FLUSH, TRANSMIT_FUA, TRANSMIT_HAS_FLAGS, TRANSMIT_MULTI_CONN, TRANSMIT_READ_ONLY,
    TRANSMIT_TRIM, TRANSMIT_WRITE_ZEROES,
};
use sds_core::stripe::Stripe;
use sds_core::unit::BLOCK_BYTES;

/// Smallest unit of access, in bytes: parts of blocks travel as fragments.
pub const BLOCK_SIZE_MIN: u32 = 1;
/// Unit below which access is less efficient, in bytes.
pub const BLOCK_SIZE_PREFERRED: u32 = BLOCK_BYTES;
/// Largest read or write, in bytes; what clients assume when nothing is said.
pub const PAYLOAD_BYTES_MAX: u32 = 32 << 20;

/// An export, once its volume is known (for `INFO`) or open (for `GO` and `EXPORT_NAME`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportInfo {
    /// Its canonical name, also when the client asked for the default export.
    pub name: String,
    /// Text for people; may be empty.
    pub description: String,
    /// Bytes; a multiple of 4 KiB.
    pub size: u64,
    /// Whether writes are refused.
    pub read_only: bool,
    /// How its volume is striped, for cutting pieces.
    pub stripe: Stripe,
}

/// Why an export cannot be used. The text says who or what is in the way, and the way out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExportError {
    /// There is none of this name.
    #[error("{0}")]
    Unknown(String),
    /// It exists but may not be used now: somebody else has it open, or data servers are missing.
    #[error("{0}")]
    Refused(String),
    /// This server is stopping.
    #[error("{0}")]
    Stopping(String),
}

impl ExportInfo {
    /// The transmission flags of this export.
    #[must_use]
    pub const fn transmission_flags(&self, structured: bool) -> u16 {
        let mut flags = TRANSMIT_HAS_FLAGS
            | TRANSMIT_FLUSH
            | TRANSMIT_FUA
            | TRANSMIT_TRIM
            | TRANSMIT_WRITE_ZEROES
            | TRANSMIT_MULTI_CONN
            | TRANSMIT_FAST_ZERO;
        if self.read_only {
            flags |= TRANSMIT_READ_ONLY;
        }
        if structured {
            flags |= TRANSMIT_DF;
        }
        flags
    }

    /// The body of one information reply.
    pub fn info(&self, kind: InfoType, structured: bool, body: &mut Vec<u8>) {
        body.clear();
        body.extend_from_slice(&(kind as u16).to_be_bytes());
        match kind {
            InfoType::Export => {
                body.extend_from_slice(&self.size.to_be_bytes());
                body.extend_from_slice(&self.transmission_flags(structured).to_be_bytes());
            }
            InfoType::Name => body.extend_from_slice(self.name.as_bytes()),
            InfoType::Description => body.extend_from_slice(self.description.as_bytes()),
            InfoType::BlockSize => {
                for size in [BLOCK_SIZE_MIN, BLOCK_SIZE_PREFERRED, PAYLOAD_BYTES_MAX] {
                    body.extend_from_slice(&size.to_be_bytes());
                }
            }
        }
    }
}
