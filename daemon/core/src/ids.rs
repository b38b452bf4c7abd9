//! Identifiers that may be shown: they say nothing about a person.

use std::fmt;

use jiff::Timestamp;
use uuid::Uuid;

/// Names one call in log, ledger, metrics and tables; a UUIDv7 (RFC 9562 §5.7), so it sorts by time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(Uuid);

impl CallId {
    /// Makes the id of a call that began at `wall`; `random` comes from the caller of this function.
    #[must_use]
    pub fn new(wall: Timestamp, random: [u8; 10]) -> Self {
        let millis = u64::try_from(wall.as_millisecond()).unwrap_or(0);
        Self(uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid())
    }

    /// A number from 0 to 999 that differs between calls, also between those that began in one moment.
    #[must_use]
    pub fn spread(&self) -> u16 {
        let bytes = self.0.as_bytes();
        u16::from_be_bytes([bytes[14], bytes[15]]) % 1000
    }

    /// Reads an id as it was written by `Display`; `None` if it is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Uuid::parse_str(text).ok().map(Self)
    }
}

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

impl fmt::Debug for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
