//! Nonces of our challenges: made and known again without a table, so that nobody can fill one.
//!
//! A nonce says when it was made, and a keyed hash over that and the source proves that it was ours (RFC 7616 §3.3
//! suggests the like). The digest itself is computed by the shell's library.

use std::net::IpAddr;

use jiff::Timestamp;

use crate::pii::BoxKey;

/// For how long a nonce is taken; an honest peer answers its challenge within a round trip.
const FRESH_SECONDS: i64 = 60;

/// What a nonce that came back is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Ours, for this source, and young.
    Fresh,
    /// Ours, but old: challenge again with `stale=true`, that is no failure (RFC 7616 §3.3).
    Stale,
    /// Not ours, or another source's.
    Foreign,
}

/// Makes the nonce of a challenge to `source`.
#[must_use]
pub fn make(key: &BoxKey, now: Timestamp, source: IpAddr) -> String {
    let seconds = now.as_second();
    format!("{seconds:x}.{}", key.hash("sip-nonce", &format!("{seconds:x} {}", source.to_canonical())))
}

/// Judges a nonce that `source` sent.
#[must_use]
pub fn judge(key: &BoxKey, now: Timestamp, source: IpAddr, nonce: &str) -> Verdict {
    let made = nonce.split_once('.').and_then(|(seconds, _)| i64::from_str_radix(seconds, 16).ok());
    let Some(made) = made.and_then(|seconds| Timestamp::from_second(seconds).ok()) else { return Verdict::Foreign };
    if make(key, made, source) != nonce {
        return Verdict::Foreign;
    }
    let age = now.as_second().saturating_sub(made.as_second());
    if (0..=FRESH_SECONDS).contains(&age) { Verdict::Fresh } else { Verdict::Stale }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_known_again_for_a_minute_and_by_its_source_alone() {
        let (key, now) = (BoxKey::new([3; 32]), Timestamp::from_second(1_800_000_000).unwrap());
        let (source, other): (IpAddr, IpAddr) = ("157.240.1.1".parse().unwrap(), "157.240.1.2".parse().unwrap());
        let nonce = make(&key, now, source);
        let later = |seconds: i64| Timestamp::from_second(1_800_000_000 + seconds).unwrap();
        assert_eq!(judge(&key, later(60), source, &nonce), Verdict::Fresh);
        assert_eq!(judge(&key, later(61), source, &nonce), Verdict::Stale);
        assert_eq!(judge(&key, now, other, &nonce), Verdict::Foreign);
        assert_eq!(judge(&BoxKey::new([4; 32]), now, source, &nonce), Verdict::Foreign);
        for rubbish in ["", ".", "x.y", "7fffffffffffffff.00", &nonce[1..], &format!("{nonce}0")] {
            assert_eq!(judge(&key, now, source, rubbish), Verdict::Foreign, "{rubbish}");
        }
    }
}
