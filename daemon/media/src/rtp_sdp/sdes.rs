//! SRTP keys in descriptions (SDES, RFC 4568): `a=crypto`, read strictly and written.
//!
//! A line that asks for anything that we would not do (a key identifier in each packet, several keys, unencrypted
//! streams) is passed over: to take it all the same would be noise or silence in the caller's ear.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Bytes of master key and master salt (RFC 4568 §6.1).
pub const KEY_BYTES: usize = 30;
/// Those of the key.
const MASTER_KEY_BYTES: usize = 16;

/// What protects the packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suite {
    /// `AES_CM_128_HMAC_SHA1_80`.
    Tag80,
    /// `AES_CM_128_HMAC_SHA1_32`: 6 bytes less on each RTP packet.
    Tag32,
}

impl Suite {
    const fn name(self) -> &'static str {
        match self {
            Self::Tag80 => "AES_CM_128_HMAC_SHA1_80",
            Self::Tag32 => "AES_CM_128_HMAC_SHA1_32",
        }
    }
}

/// Master key and salt of one direction. Its `Debug` shows neither.
#[derive(Clone, PartialEq, Eq)]
pub struct MasterKey([u8; KEY_BYTES]);

impl MasterKey {
    /// Bytes that were drawn at random.
    #[must_use]
    pub const fn new(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }

    pub(crate) fn key(&self) -> &[u8] {
        &self.0[..MASTER_KEY_BYTES]
    }

    pub(crate) fn salt(&self) -> &[u8] {
        &self.0[MASTER_KEY_BYTES..]
    }
}

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MasterKey(‹redacted›)")
    }
}

/// One usable `a=crypto`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Crypto {
    pub(super) tag: u32,
    pub(super) suite: Suite,
    pub(super) key: MasterKey,
}

impl Crypto {
    /// Reads `<tag> <suite> inline:<key>[|<lifetime>] [<parameters>]`; `None` for what we cannot or will not do.
    pub(super) fn read(value: &str) -> Option<Self> {
        let mut words = value.split_ascii_whitespace();
        let tag = words.next().filter(|tag| tag.len() <= 9 && tag.bytes().all(|byte| byte.is_ascii_digit()))?;
        let suite = words.next()?;
        let suite = [Suite::Tag80, Suite::Tag32].into_iter().find(|known| suite.eq_ignore_ascii_case(known.name()))?;
        let keys = words.next()?;
        let inline = keys.get(..7).filter(|head| head.eq_ignore_ascii_case("inline:")).and_then(|_| keys.get(7..))?;
        let mut parts = inline.split('|');
        let key = STANDARD.decode(parts.next()?).ok()?.try_into().ok()?;
        // A lifetime is of no matter to a call; anything with a colon is a key identifier, and `;` begins a second key.
        if !parts.next().is_none_or(is_lifetime) || parts.next().is_some() {
            return None;
        }
        // Parameters that must be understood (RFC 4568 §6.3) change what is on the wire; WSH says how to look for replays.
        if !words.all(|word| word.starts_with('-') || word.starts_with("WSH=")) {
            return None;
        }
        Some(Self { tag: tag.parse().ok()?, suite, key: MasterKey(key) })
    }

    pub(super) fn write(&self) -> String {
        format!("a=crypto:{} {} inline:{}", self.tag, self.suite.name(), STANDARD.encode(self.key.0))
    }
}

/// `2^31` or a number.
fn is_lifetime(text: &str) -> bool {
    let digits = text.strip_prefix("2^").unwrap_or(text);
    !digits.is_empty() && digits.len() <= 16 && digits.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "d0RmdmcmVCspeEc3QGZiNWpVLFJhQX1cfHAwJSoj";

    fn read(rest: &str) -> Option<Crypto> {
        Crypto::read(&rest.replace("KEY", KEY))
    }

    #[test]
    fn a_line_is_read_and_written() {
        let crypto = read("1 AES_CM_128_HMAC_SHA1_80 inline:KEY").unwrap();
        assert_eq!((crypto.tag, crypto.suite), (1, Suite::Tag80));
        assert_eq!((crypto.key.key().len(), crypto.key.salt().len()), (16, 14));
        assert_eq!(crypto.write(), format!("a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:{KEY}"));
        assert!(!format!("{crypto:?}").contains("d0Rm") && !format!("{crypto:?}").contains("119"));
        assert_eq!(
            read("23 aes_cm_128_hmac_sha1_32 inline:KEY|2^20").map(|c| (c.tag, c.suite)),
            Some((23, Suite::Tag32))
        );
        assert!(read("1 AES_CM_128_HMAC_SHA1_80 inline:KEY|2147483648 WSH=64 -OWN=1").is_some());
    }

    #[test]
    fn what_would_be_noise_is_passed_over() {
        for line in [
            "",
            "1",
            "x AES_CM_128_HMAC_SHA1_80 inline:KEY",
            "1234567890 AES_CM_128_HMAC_SHA1_80 inline:KEY",
            "1 AES_256_CM_HMAC_SHA1_80 inline:KEY",
            "1 F8_128_HMAC_SHA1_80 inline:KEY",
            "1 AES_CM_128_HMAC_SHA1_80 KEY",
            "1 AES_CM_128_HMAC_SHA1_80 inline:",
            "1 AES_CM_128_HMAC_SHA1_80 inline:KEYA",
            "1 AES_CM_128_HMAC_SHA1_80 inline:KEY|1:1",
            "1 AES_CM_128_HMAC_SHA1_80 inline:KEY|2^31|1:1",
            "1 AES_CM_128_HMAC_SHA1_80 inline:KEY;inline:KEY",
            "1 AES_CM_128_HMAC_SHA1_80 inline:KEY|2^",
            "1 AES_CM_128_HMAC_SHA1_80 inline:KEY UNENCRYPTED_SRTP",
            "1 AES_CM_128_HMAC_SHA1_80 inline:KEY KDR=1",
            "1 AES_CM_128_HMAC_SHA1_80 é:KEY",
        ] {
            assert_eq!(read(line), None, "{line}");
        }
    }
}
