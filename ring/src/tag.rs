//! io_uring user data: what kind of request it was (8 bits) and its place in that kind's table (32 bits).
//!
//! A place is given to another request only after the completion of the one before, so a place needs
//! no generation here. The machine's operation id stays in the disk table beside the request's start
//! time (which the heartbeat needs) and the buffer it holds (which soundness needs).

/// Kind of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// The eventfd was written.
    Wake = 1,
    /// A listener got a connection.
    Accept = 2,
    /// A stream got bytes.
    Receive = 3,
    /// A stream's bytes are out.
    Send = 4,
    /// A stream is connected.
    Connect = 5,
    /// A disk request ended.
    Disk = 6,
    /// A cancellation went through; says nothing.
    Cancel = 7,
}

/// A kind and a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tag {
    pub(crate) kind: Kind,
    pub(crate) slot: u32,
}

impl Tag {
    pub(crate) const fn new(kind: Kind, slot: u32) -> Self {
        Self { kind, slot }
    }

    pub(crate) const fn to_user_data(self) -> u64 {
        ((self.kind as u64) << 56) | self.slot as u64
    }

    /// `None` for user data that this loop never made.
    pub(crate) const fn from_user_data(raw: u64) -> Option<Self> {
        #[expect(clippy::cast_possible_truncation, reason = "the low 32 bits are the slot")]
        let slot = raw as u32;
        let kind = match raw >> 56 {
            1 => Kind::Wake,
            2 => Kind::Accept,
            3 => Kind::Receive,
            4 => Kind::Send,
            5 => Kind::Connect,
            6 => Kind::Disk,
            7 => Kind::Cancel,
            _ => return None,
        };
        Some(Self { kind, slot })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_survive_the_kernel() {
        for kind in [Kind::Wake, Kind::Accept, Kind::Receive, Kind::Send, Kind::Connect, Kind::Disk, Kind::Cancel] {
            let tag = Tag::new(kind, u32::MAX - 3);
            assert_eq!(Tag::from_user_data(tag.to_user_data()), Some(tag));
        }
        assert_eq!(Tag::from_user_data(u64::MAX), None);
        assert_eq!(Tag::from_user_data(0), None);
    }
}
