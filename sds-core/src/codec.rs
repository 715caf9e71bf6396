//! The one place where serde + bincode meet bytes: control messages and MDM log entries.
//!
//! Invariants: a length is checked against a limit before it is believed; decoding is total (any
//! bytes give a value or a [`CodecError`], never a panic); all of the input must be used up.
//! bincode is finished and unmaintained (RUSTSEC-2025-0141): this module and its fuzz test are what
//! make that acceptable and a swap cheap.

use crate::limits::CONTROL_MESSAGE_BYTES_MAX;
use serde::Serialize;
use serde::de::DeserializeOwned;

const LIMIT: usize = CONTROL_MESSAGE_BYTES_MAX as usize;

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_little_endian().with_variable_int_encoding().with_limit::<LIMIT>()
}

/// Why bytes are not a value, or a value not bytes.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The bytes do not describe a value of the type.
    #[error("control message cannot be decoded: {0}")]
    Decode(#[from] bincode::error::DecodeError),
    /// The value does not fit a message.
    #[error("control message cannot be encoded: {0}")]
    Encode(#[from] bincode::error::EncodeError),
    /// There were bytes left over.
    #[error("control message has {0} bytes too many")]
    TooLong(usize),
    /// The length is over the limit.
    #[error("control message of {0} bytes is longer than the {CONTROL_MESSAGE_BYTES_MAX} allowed")]
    TooLarge(usize),
}

/// A value as bytes.
///
/// # Errors
/// When it does not fit [`CONTROL_MESSAGE_BYTES_MAX`].
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    let bytes = bincode::serde::encode_to_vec(value, config())?;
    if bytes.len() > LIMIT {
        return Err(CodecError::TooLarge(bytes.len()));
    }
    Ok(bytes)
}

/// A value from exactly these bytes.
///
/// # Errors
/// When they are not one, or more than one.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    if bytes.len() > LIMIT {
        return Err(CodecError::TooLarge(bytes.len()));
    }
    let (value, used) = bincode::serde::decode_from_slice(bytes, config())?;
    if used != bytes.len() {
        return Err(CodecError::TooLong(bytes.len() - used));
    }
    Ok(value)
}
