//! Option payloads: from bytes to meaning, and replies to bytes. Pure.
//!
//! Invariant: the decoder is total; every length is held against what is left before it is believed.

use super::constants::{CONTEXT_ALLOCATION, InfoType, OPTION_REPLY_MAGIC, OptionReply};
use super::reply::Output;

/// Longest string of the protocol, in bytes.
pub const STRING_BYTES_MAX: usize = 4096;
/// Longest option this server looks at, in bytes; longer ones are skipped and refused.
pub const OPTION_BYTES_MAX: u32 = 64 * 1024;

/// Why an option's payload is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// It ends before what it announces, or goes on after it.
    #[error("the option's lengths do not add up")]
    Lengths,
    /// A name or query is longer than the protocol allows.
    #[error("a name may have at most {STRING_BYTES_MAX} bytes")]
    NameTooLong,
    /// A name or query is not text.
    #[error("a name must be UTF-8 without NUL")]
    NotText,
    /// It has a payload though it must not.
    #[error("this option takes no data")]
    Unexpected,
    /// Metadata contexts need structured replies.
    #[error("negotiate structured replies before metadata contexts")]
    NotStructured,
}

/// Which information a client asks for beside the mandatory one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InfoRequests {
    /// [`InfoType::Name`].
    pub name: bool,
    /// [`InfoType::Description`].
    pub description: bool,
    /// [`InfoType::BlockSize`].
    pub block_size: bool,
}

/// A reader that never goes past the end.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, len: usize) -> Result<&'a [u8], OptionError> {
        let (head, tail) = self.0.split_at_checked(len).ok_or(OptionError::Lengths)?;
        self.0 = tail;
        Ok(head)
    }

    fn u16(&mut self) -> Result<u16, OptionError> {
        self.0.split_first_chunk().map(|(head, tail)| (self.0 = tail, u16::from_be_bytes(*head)).1).ok_or(OptionError::Lengths)
    }

    fn u32(&mut self) -> Result<u32, OptionError> {
        self.0.split_first_chunk().map(|(head, tail)| (self.0 = tail, u32::from_be_bytes(*head)).1).ok_or(OptionError::Lengths)
    }

    fn string(&mut self) -> Result<&'a str, OptionError> {
        let len = self.u32()? as usize;
        text(self.bytes(len)?)
    }

    const fn end(&self) -> Result<(), OptionError> {
        if self.0.is_empty() { Ok(()) } else { Err(OptionError::Lengths) }
    }
}

/// A string of the protocol.
///
/// # Errors
/// When it is too long or not text.
pub fn text(bytes: &[u8]) -> Result<&str, OptionError> {
    if bytes.len() > STRING_BYTES_MAX {
        return Err(OptionError::NameTooLong);
    }
    match core::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text),
        Ok(_) | Err(_) => Err(OptionError::NotText),
    }
}

/// Payload of `INFO` and `GO`: the export's name and what is asked about it.
///
/// # Errors
/// When it is malformed.
pub fn decode_info(payload: &[u8]) -> Result<(&str, InfoRequests), OptionError> {
    let mut reader = Reader(payload);
    let name = reader.string()?;
    let mut requests = InfoRequests::default();
    for _ in 0..reader.u16()? {
        match reader.u16()? {
            kind if kind == InfoType::Name as u16 => requests.name = true,
            kind if kind == InfoType::Description as u16 => requests.description = true,
            kind if kind == InfoType::BlockSize as u16 => requests.block_size = true,
            // `EXPORT` is sent in any case; what is unknown must be ignored.
            _ => {}
        }
    }
    reader.end()?;
    Ok((name, requests))
}

/// Payload of `LIST_META_CONTEXT` and `SET_META_CONTEXT`: the export's name and whether the queries
/// find `base:allocation`. `listing` makes `base:` and no query at all find it too.
///
/// # Errors
/// When it is malformed.
pub fn decode_meta_context(payload: &[u8], listing: bool) -> Result<(&str, bool), OptionError> {
    let mut reader = Reader(payload);
    let name = reader.string()?;
    let queries = reader.u32()?;
    let mut found = listing && queries == 0;
    for _ in 0..queries {
        let query = reader.string()?;
        found |= query == CONTEXT_ALLOCATION || (listing && query == "base:");
    }
    reader.end()?;
    Ok((name, found))
}

/// Writes one reply to an option. `body` parts are sent one after the other.
pub fn reply(output: &mut Output, option: u32, kind: OptionReply, body: &[&[u8]]) {
    let len: usize = body.iter().map(|part| part.len()).sum();
    // Bodies are names (≤ 4 KiB) and texts of this server.
    let len = u32::try_from(len).unwrap_or(u32::MAX);
    let mut header = [0_u8; 20];
    header[..8].copy_from_slice(&OPTION_REPLY_MAGIC.to_be_bytes());
    header[8..12].copy_from_slice(&option.to_be_bytes());
    header[12..16].copy_from_slice(&(kind as u32).to_be_bytes());
    header[16..].copy_from_slice(&len.to_be_bytes());
    output.push_bytes(&header);
    for part in body {
        output.push_bytes(part);
    }
}
