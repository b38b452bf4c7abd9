//! Values about a person: they can be used, not shown.
//!
//! No `Display`, and a `Debug` that prints the kind alone, so that a trace, an error or a log line
//! cannot carry them by accident. [`CallerHash`] is what may be shown instead.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// A personal or secret text: a phone number, a business-scoped user id, a name, an SDP, a `wacid`, a transcript.
///
/// `Debug` prints `‹redacted›`; the text itself is reached by [`Pii::expose`], which is easy to grep for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Pii(String);

impl Pii {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the wire or the sealed store; never for a log, an error or a metric.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Pii {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("‹redacted›")
    }
}

/// How a WhatsApp caller is reached: by number, by business-scoped user id (BSUID), or both.
///
/// Meta leaves `from` out for callers who adopted a user name, and sends no BSUID in the payloads of 2025.
#[derive(Clone, Debug, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct CallerAddress {
    /// The digits of the number without `+`, as the webhook writes them.
    pub number: Option<Pii>,
    /// The BSUID, `<ISO2>.` and up to 128 characters; opaque.
    pub bsuid: Option<Pii>,
}

impl CallerAddress {
    /// True when neither a number nor a BSUID is known: nobody to write to.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        self.number.is_none() && self.bsuid.is_none()
    }

    /// The keyed hash that stands for this caller in ledger and log; the BSUID wins, as it is the stable one.
    #[must_use]
    pub fn hash(&self, key: &BoxKey) -> Option<KeyedHash> {
        let id = self.bsuid.as_ref().or(self.number.as_ref())?;
        Some(key.hash("caller", id.expose()))
    }
}

/// The key that seals and hashes on this box (`box_key`); 32 bytes.
#[derive(Clone)]
pub struct BoxKey([u8; 32]);

impl BoxKey {
    /// Wraps the key.
    #[must_use]
    pub const fn new(key: [u8; 32]) -> Self {
        Self(key)
    }

    /// The raw key, for the sealing cipher.
    #[must_use]
    pub const fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// HMAC-SHA256 over `domain`, a zero byte and `text`, cut to 16 bytes; `domain` keeps the uses apart.
    #[must_use]
    pub fn hash(&self, domain: &str, text: &str) -> KeyedHash {
        // HMAC pads a short key with zeros to its block of 64 bytes (RFC 2104): padded here, it cannot fail.
        let mut block = [0_u8; 64];
        block[..32].copy_from_slice(&self.0);
        let mut mac = Hmac::<Sha256>::new(&block.into());
        mac.update(domain.as_bytes());
        mac.update(&[0]);
        mac.update(text.as_bytes());
        let full = mac.finalize().into_bytes();
        let mut cut = [0_u8; 16];
        cut.copy_from_slice(&full[..16]);
        KeyedHash(cut)
    }
}

impl fmt::Debug for BoxKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BoxKey(‹redacted›)")
    }
}

/// What may be shown instead of a caller or a `wacid`: useless without the box's key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyedHash([u8; 16]);

impl fmt::Display for KeyedHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyedHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_personal_text_never_shows_in_debug_output() {
        let address = CallerAddress { number: Some(Pii::new("250780000001")), bsuid: None };
        assert!(!format!("{address:?}").contains("250780000001"));
        assert!(!format!("{:?}", BoxKey::new([7; 32])).contains('7'));
    }

    #[test]
    fn hashes_of_other_domains_and_keys_differ() {
        let key = BoxKey::new([1; 32]);
        assert_eq!(key.hash("caller", "x"), key.hash("caller", "x"));
        assert_ne!(key.hash("caller", "x"), key.hash("wacid", "x"));
        assert_ne!(key.hash("caller", "x"), BoxKey::new([2; 32]).hash("caller", "x"));
    }
}
