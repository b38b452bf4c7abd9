//! Seals what must be readable after a crash but not in a copied file: ChaCha20-Poly1305 with a random nonce.
//!
//! The cipher's key is derived from `box_key`, so that it is never the key of the hashes. The place of a value
//! (row and column) is authenticated with it: a sealed value moved to another row does not open.

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use sauti_core::pii::BoxKey;

use super::error::StoreError;

/// First byte of everything sealed by this scheme.
const SCHEME: u8 = 1;

/// Seals and opens with one box's key.
pub(crate) struct Sealer {
    key: LessSafeKey,
    random: SystemRandom,
}

impl Sealer {
    pub(crate) fn new(key: &BoxKey) -> Result<Self, StoreError> {
        let derived = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key.expose()), b"sauti ledger seal 1");
        let key = UnboundKey::new(&CHACHA20_POLY1305, derived.as_ref()).map_err(|_| StoreError::Seal("the key"))?;
        Ok(Self { key: LessSafeKey::new(key), random: SystemRandom::new() })
    }

    /// Seals `plain` for `column` of the row named `row`: scheme, nonce, ciphertext and tag.
    pub(crate) fn seal(&self, row: &str, column: &'static str, plain: &[u8]) -> Result<Vec<u8>, StoreError> {
        let nonce: [u8; NONCE_LEN] = self.random()?;
        let mut text = plain.to_vec();
        self.key
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad(row, column), &mut text)
            .map_err(|_| StoreError::Seal(column))?;
        let mut sealed = Vec::with_capacity(1 + NONCE_LEN + text.len());
        sealed.push(SCHEME);
        sealed.extend_from_slice(&nonce);
        sealed.append(&mut text);
        Ok(sealed)
    }

    /// Opens what [`Self::seal`] made for the same place; `None` with another key, for another place, or damaged.
    pub(crate) fn open(&self, row: &str, column: &'static str, sealed: &[u8]) -> Option<Vec<u8>> {
        let (&SCHEME, sealed) = sealed.split_first()? else { return None };
        let (nonce, text) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let mut text = text.to_vec();
        let plain =
            self.key.open_in_place(Nonce::assume_unique_for_key(*nonce), aad(row, column), &mut text).ok()?.len();
        text.truncate(plain);
        Some(text)
    }

    /// Random bytes, for nonces and row ids.
    pub(crate) fn random<const N: usize>(&self) -> Result<[u8; N], StoreError> {
        let mut bytes = [0; N];
        self.random.fill(&mut bytes).map_err(|_| StoreError::Seal("a row"))?;
        Ok(bytes)
    }
}

fn aad(row: &str, column: &'static str) -> Aad<String> {
    Aad::from(format!("{column}\0{row}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_value_opens_only_in_its_own_place_and_with_its_own_key() {
        let sealer = Sealer::new(&BoxKey::new([3; 32])).unwrap();
        let sealed = sealer.seal("row", "live_calls.wacid", b"wacid.HBgM").unwrap();
        assert_eq!(sealer.open("row", "live_calls.wacid", &sealed).as_deref(), Some(&b"wacid.HBgM"[..]));
        assert_eq!(sealer.open("other", "live_calls.wacid", &sealed), None);
        assert_eq!(sealer.open("row", "live_calls.address", &sealed), None);
        assert_eq!(Sealer::new(&BoxKey::new([4; 32])).unwrap().open("row", "live_calls.wacid", &sealed), None);
        assert!(!sealed.windows(5).any(|window| window == b"wacid"));
    }

    #[test]
    fn a_damaged_or_cut_value_does_not_open() {
        let sealer = Sealer::new(&BoxKey::new([3; 32])).unwrap();
        let sealed = sealer.seal("row", "c", b"text").unwrap();
        for cut in 0..sealed.len() {
            assert_eq!(sealer.open("row", "c", &sealed[..cut]), None);
        }
        for at in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[at] ^= 1;
            assert_eq!(sealer.open("row", "c", &damaged), None);
        }
    }

    #[test]
    fn the_same_value_is_never_sealed_to_the_same_bytes() {
        let sealer = Sealer::new(&BoxKey::new([3; 32])).unwrap();
        assert_ne!(sealer.seal("row", "c", b"text").unwrap(), sealer.seal("row", "c", b"text").unwrap());
    }
}
