//! Messages between the MDM and data servers and clients, as they come in a stream: a length, then the body.

use crate::memory::{CODEC, bounded};
use sds_core::codec::{LENGTH_BYTES, decode, encode, encode_framed, framed_length};
use sds_core::control::{ClientToMdm, MdmToClient, MdmToSds, SdsToMdm, Speaker};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;

/// A data server's control connection; the first byte says which way.
pub fn sds(data: &[u8]) {
    let Some((way, stream)) = data.split_first() else { return };
    if way % 2 == 0 { messages::<SdsToMdm>(stream) } else { messages::<MdmToSds>(stream) }
}

/// A client's.
pub fn client(data: &[u8]) {
    let Some((way, stream)) = data.split_first() else { return };
    if way % 2 == 0 { messages::<ClientToMdm>(stream) } else { messages::<MdmToClient>(stream) }
}

fn messages<T: Serialize + DeserializeOwned + PartialEq + Debug>(stream: &[u8]) {
    if let Some(preamble) = stream.first_chunk()
        && let Some(speaker) = Speaker::from_preamble(*preamble)
    {
        assert_eq!(speaker.preamble(), *preamble);
    }
    // The whole as one body, so that a mutated length does not hide what follows it.
    message::<T>(stream.get(LENGTH_BYTES..).unwrap_or_default());
    let mut rest = stream;
    while let Some((length, after)) = rest.split_first_chunk::<LENGTH_BYTES>() {
        let Ok(length) = framed_length(*length) else { return };
        let Some((body, after)) = after.split_at_checked(length) else { return };
        message::<T>(body);
        rest = after;
    }
}

/// One body: what is decoded encodes, to no more bytes, and comes back.
pub fn message<T: Serialize + DeserializeOwned + PartialEq + Debug>(bytes: &[u8]) {
    let value = match bounded(bytes, CODEC, || decode::<T>(bytes)) {
        Ok(value) => value,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let again = match encode(&value) {
        Ok(again) => again,
        Err(error) => panic!("what was decoded does not encode: {error}"),
    };
    assert!(again.len() <= bytes.len(), "an encoding is the shortest form");
    match decode::<T>(&again) {
        Ok(other) => assert_eq!(other, value, "a message comes back"),
        Err(error) => panic!("what was encoded does not decode: {error}"),
    }
    assert!(encode_framed(&value).is_ok_and(|framed| framed[LENGTH_BYTES..] == again));
}
