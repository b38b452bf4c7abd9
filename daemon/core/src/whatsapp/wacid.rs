//! The name of a call at Meta: what may be kept of it in the open.
//!
//! A `wacid` is base64 over a Thrift structure (compact protocol) that holds both phone numbers, so it is personal
//! data. Rows and duplicates are keyed by its keyed hash; support staff at Meta can find a call by its tag.

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::pii::{BoxKey, KeyedHash, Pii};

/// What every call id begins with.
pub const WACID_PREFIX: &str = "wacid.";

/// Standard alphabet, padded or not.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// The keyed hash that stands for a call in ledger and registry.
///
/// Meta sends the same id with and without `=` at its end; both give the same hash.
#[must_use]
pub fn wacid_hash(key: &BoxKey, wacid: &Pii) -> KeyedHash {
    key.hash("wacid", bare(wacid))
}

/// True when both ids name the same call, padded or not.
#[must_use]
pub fn same_call(one: &Pii, other: &Pii) -> bool {
    bare(one) == bare(other)
}

fn bare(wacid: &Pii) -> &str {
    wacid.expose().trim().trim_end_matches('=')
}

/// The 32 hex digits inside a `wacid`, which name the call without naming a person.
///
/// `None` if the id is built otherwise, or if a phone number from it stood in those digits.
#[must_use]
pub fn wacid_tag(wacid: &Pii) -> Option<String> {
    let packed = BASE64.decode(wacid.expose().trim().strip_prefix(WACID_PREFIX)?).ok()?;
    let mut thrift = Thrift { rest: &packed };
    let mut tag = None;
    let mut numbers = Vec::new();
    thrift.structure(0, &mut |path, text| match path {
        (0, 3) => tag = Some(text.to_owned()),
        (1, 1) => numbers.push(text.to_owned()),
        _ => {}
    })?;
    let tag = tag.filter(|tag| tag.len() == 32 && tag.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
    let telling = numbers.iter().any(|number| !number.is_empty() && tag.contains(number.as_str()));
    (!telling).then_some(tag)
}

/// Reads the compact protocol of Thrift as far as a `wacid` uses it: structures, booleans, integers, byte strings.
struct Thrift<'a> {
    rest: &'a [u8],
}

impl<'a> Thrift<'a> {
    /// Reads one structure and tells every text in it with its depth and field number. `None`: not of this shape.
    fn structure(&mut self, depth: u8, tell: &mut dyn FnMut((u8, u16), &str)) -> Option<()> {
        if depth > 4 {
            return None;
        }
        let mut field = 0_u16;
        loop {
            let head = self.byte()?;
            if head == 0 {
                return Some(());
            }
            field = match head >> 4 {
                0 => u16::try_from(self.varint()? >> 1).ok()?,
                delta => field.checked_add(u16::from(delta))?,
            };
            match head & 0x0f {
                1 | 2 => {}
                3 => {
                    self.byte()?;
                }
                4..=6 => {
                    self.varint()?;
                }
                8 => {
                    let length = usize::try_from(self.varint()?).ok()?;
                    let (bytes, rest) = self.rest.split_at_checked(length)?;
                    self.rest = rest;
                    if let Ok(text) = std::str::from_utf8(bytes) {
                        tell((depth, field), text);
                    }
                }
                12 => self.structure(depth + 1, tell)?,
                _ => return None,
            }
        }
    }

    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..63).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TAG: &str = "3EB0C431D26A1F0D5A9B7C8E00112233";

    /// A `wacid` of the known shape: caller, kind 1, not begun by the business, tag, business number.
    fn packed(number: &str, tag: &str) -> Vec<u8> {
        let text = |text: &str| [&[0x18, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
        [
            &[0x1c],
            text(number).as_slice(),
            &[0x15, 0x02, 0x00, 0x12],
            text(tag).as_slice(),
            &[0x1c],
            text("35690000002").as_slice(),
            &[0x15, 0x02, 0x00, 0x00],
        ]
        .concat()
    }

    fn wacid(number: &str, tag: &str) -> Pii {
        Pii::new(format!("wacid.{}", base64::engine::general_purpose::STANDARD.encode(packed(number, tag))))
    }

    #[test]
    fn the_tag_is_read_out_and_the_numbers_are_not() {
        let id = wacid("250780000001", TAG);
        assert!(id.expose().starts_with("wacid.HBgM"), "{}", id.expose());
        assert_eq!(wacid_tag(&id).as_deref(), Some(TAG));
        let bare = Pii::new(id.expose().trim_end_matches('='));
        assert_eq!(wacid_tag(&bare).as_deref(), Some(TAG));
    }

    #[test]
    fn a_tag_that_is_no_hex_or_holds_a_number_is_not_given() {
        assert_eq!(wacid_tag(&wacid("250780000001", "Test Caller")), None);
        assert_eq!(wacid_tag(&wacid("250780000001", "250780000001AAAAAAAAAAAAAAAAAAAA")), None);
        assert_eq!(wacid_tag(&wacid("250780000001", "AAAA35690000002AAAAAAAAAAAAAAAAA")), None);
    }

    #[test]
    fn padding_does_not_make_another_call() {
        let key = BoxKey::new([3; 32]);
        let id = Pii::new("wacid.HBgMMjUwNzgwMDAwMDAx==");
        let bare = Pii::new("wacid.HBgMMjUwNzgwMDAwMDAx");
        assert_eq!(wacid_hash(&key, &id), wacid_hash(&key, &bare));
        assert!(same_call(&id, &bare));
        assert!(!same_call(&id, &Pii::new("wacid.HBgMMjUwNzgwMDAwMDAy")));
        assert_ne!(wacid_hash(&key, &id), wacid_hash(&key, &Pii::new("wacid.HBgMMjUwNzgwMDAwMDAy")));
    }

    proptest! {
        #[test]
        fn no_id_makes_the_tag_reader_panic(text in any::<String>(), bytes in any::<Vec<u8>>()) {
            prop_assert!(wacid_tag(&Pii::new(text)).is_none());
            let id = format!("wacid.{}", base64::engine::general_purpose::STANDARD.encode(bytes));
            prop_assert!(wacid_tag(&Pii::new(id)).is_none_or(|tag| tag.len() == 32));
        }

        #[test]
        fn a_broken_structure_is_read_without_harm(cut in 0_usize..80, at in 0_usize..80, byte in any::<u8>()) {
            let mut bytes = packed("250780000001", TAG);
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
            bytes.truncate(cut);
            let id = format!("wacid.{}", base64::engine::general_purpose::STANDARD.encode(bytes));
            prop_assert!(wacid_tag(&Pii::new(id)).is_none_or(|tag| tag.len() == 32));
        }
    }
}
