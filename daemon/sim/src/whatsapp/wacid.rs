//! Makes call ids and message ids of the shape that Meta's have: base64 over a small Thrift structure.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use sauti_core::pii::Pii;
use sauti_core::whatsapp::wacid::WACID_PREFIX;

use super::dice::Dice;

/// A fresh call id of a call between these two numbers, with or without `=` at its end.
///
/// Some ids carry one field more, so that ids of every padding come up.
#[must_use]
pub fn wacid(dice: &mut Dice, person: &Pii, business: &Pii, padded: bool) -> Pii {
    let mut packed = vec![0x1c];
    text(&mut packed, person.expose());
    packed.extend([0x15, 0x02, 0x00, 0x12]);
    text(&mut packed, &hex::encode_upper(dice.bytes()));
    packed.push(0x1c);
    text(&mut packed, business.expose());
    packed.extend([0x15, 0x02, 0x00]);
    if dice.chance(50) {
        packed.extend([0x15, 0x04]);
    }
    packed.push(0x00);
    let text = if padded { STANDARD.encode(&packed) } else { STANDARD_NO_PAD.encode(&packed) };
    Pii::new(format!("{WACID_PREFIX}{text}"))
}

/// A fresh message id; it holds the person's number as the real ones do.
#[must_use]
pub fn wamid(dice: &mut Dice, person: &str) -> Pii {
    let mut packed = vec![0x1c];
    text(&mut packed, person);
    packed.extend([0x15, 0x02, 0x00]);
    text(&mut packed, &hex::encode_upper(dice.bytes()));
    packed.push(0x00);
    Pii::new(format!("wamid.{}", STANDARD.encode(&packed)))
}

/// A text as the next field of the structure; longer ones than 127 bytes are cut.
fn text(packed: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    let kept = bytes.get(..127).unwrap_or(bytes);
    packed.extend([0x18, u8::try_from(kept.len()).unwrap_or(0)]);
    packed.extend_from_slice(kept);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use sauti_core::whatsapp::wacid::{same_call, wacid_tag};

    use super::*;
    use crate::whatsapp::person::Person;

    #[test]
    fn a_made_id_is_read_by_the_product_and_padding_changes_nothing() {
        let person = Person::test_caller();
        let business = Pii::new("35690000002");
        let mut endings = BTreeSet::new();
        for seed in 0..20 {
            let padded = wacid(&mut Dice::new(seed), &person.number, &business, true);
            let bare = wacid(&mut Dice::new(seed), &person.number, &business, false);
            assert!(padded.expose().starts_with("wacid.HBgM"));
            assert!(!bare.expose().ends_with('='));
            assert!(same_call(&padded, &bare));
            assert_eq!(wacid_tag(&padded).unwrap(), hex::encode_upper(Dice::new(seed).bytes()));
            endings.insert(padded.expose().bytes().rev().take_while(|byte| *byte == b'=').count());
        }
        assert_eq!(endings, BTreeSet::from([1, 2]));
    }

    #[test]
    fn no_two_ids_are_alike() {
        let mut dice = Dice::new(3);
        let ids: BTreeSet<_> = (0..500).map(|_| wamid(&mut dice, "250780000001")).collect();
        assert_eq!(ids.len(), 500);
    }
}
