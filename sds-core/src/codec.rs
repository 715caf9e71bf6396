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

/// Memory that decoding asks for at most, for each byte of input: a text that claims to be longer than the input is
/// given room before its bytes are missed ([`decode_any`]).
pub const DECODE_MEMORY_PER_BYTE: usize = CLAIM_PER_BYTE_MAX * BRACKET_RATIO;
/// The same, whatever the input: serde reserves up to 1 MiB for a list of claimed length, and lists of lists are two deep.
pub const DECODE_MEMORY_FIXED: usize = 4 << 20;

/// bincode counts what it decodes by the size of its type: 16 for a `u128` that came in one byte.
const CLAIM_PER_BYTE_MAX: usize = size_of::<u128>();
/// Inputs are sorted into brackets by length, each this many times the one before.
const BRACKET_RATIO: usize = 16;
const SMALL: usize = MEDIUM / BRACKET_RATIO;
const MEDIUM: usize = LARGE / BRACKET_RATIO;
const LARGE: usize = LIMIT / BRACKET_RATIO;

const fn config() -> bincode::config::Configuration {
    bincode::config::standard().with_little_endian().with_variable_int_encoding()
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
    let (value, used) = decode_any(bytes)?;
    if used != bytes.len() {
        return Err(CodecError::TooLong(bytes.len() - used));
    }
    Ok(value)
}

/// bincode's limit bounds what it allocates for a text before it looks whether the bytes are there, and it is a constant.
/// So each bracket of lengths has its own: high enough for any value of that length, whose decoding the limit must not
/// refuse after its encoding was allowed, and not much higher.
fn decode_any<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, usize), bincode::error::DecodeError> {
    match bytes.len() {
        length if length <= SMALL => bincode::serde::decode_from_slice(bytes, config().with_limit::<{ SMALL * CLAIM_PER_BYTE_MAX }>()),
        length if length <= MEDIUM => bincode::serde::decode_from_slice(bytes, config().with_limit::<{ MEDIUM * CLAIM_PER_BYTE_MAX }>()),
        length if length <= LARGE => bincode::serde::decode_from_slice(bytes, config().with_limit::<{ LARGE * CLAIM_PER_BYTE_MAX }>()),
        _ => bincode::serde::decode_from_slice(bytes, config().with_limit::<{ LIMIT * CLAIM_PER_BYTE_MAX }>()),
    }
}

/// Bytes of the length that stands before a message on a stream.
pub const LENGTH_BYTES: usize = 4;

/// A message as it goes over a stream: its length (little-endian `u32`), then [`encode`]'s bytes.
///
/// # Errors
/// When it does not fit [`CONTROL_MESSAGE_BYTES_MAX`].
pub fn encode_framed<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    let body = encode(value)?;
    let length = u32::try_from(body.len()).map_err(|_| CodecError::TooLarge(body.len()))?;
    let mut bytes = Vec::with_capacity(LENGTH_BYTES + body.len());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

/// The length that stands before a message, checked before anything is reserved for it.
///
/// # Errors
/// When a message cannot be that long.
pub fn framed_length(bytes: [u8; LENGTH_BYTES]) -> Result<usize, CodecError> {
    let length = usize::try_from(u32::from_le_bytes(bytes)).unwrap_or(usize::MAX);
    if length > LIMIT { Err(CodecError::TooLarge(length)) } else { Ok(length) }
}

#[cfg(test)]
mod framing_tests {
    use super::*;

    #[test]
    fn a_framed_message_says_its_length() {
        let bytes = encode_framed(&(7_u32, "seven".to_owned())).expect("fits");
        let (length, body) = bytes.split_first_chunk::<LENGTH_BYTES>().expect("a length");
        assert_eq!(framed_length(*length).expect("believable"), body.len());
        assert_eq!(decode::<(u32, String)>(body).expect("decodes"), (7, "seven".to_owned()));
        assert!(framed_length([0xff; 4]).is_err());
    }
}
