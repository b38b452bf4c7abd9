//! The SRTP contexts of one leg (RFC 3711), whoever agreed on the keys: DTLS (RFC 5764) or a description (RFC 4568).

use rtc::crypto::RTCCrypto;
use rtc::shared::error::Result;
use rtc::srtp::context::Context;
use rtc::srtp::option::{srtcp_replay_protection, srtp_replay_protection};
use rtc::srtp::protection_profile::ProtectionProfile;

/// Packets that may come late or twice before a window forgets them; 1.28 s of 20 ms packets.
const REPLAY_WINDOW: usize = 64;

/// The keys of both directions.
pub(crate) struct Srtp {
    pub(crate) out: Context,
    pub(crate) inn: Context,
}

/// The context for what we send.
pub(crate) fn outward(key: &[u8], salt: &[u8], profile: ProtectionProfile, crypto: &dyn RTCCrypto) -> Result<Context> {
    Context::new(key, salt, profile, None, None, crypto)
}

/// The context for what we receive; it refuses what came before.
pub(crate) fn inward(key: &[u8], salt: &[u8], profile: ProtectionProfile, crypto: &dyn RTCCrypto) -> Result<Context> {
    let (rtp, rtcp) = (srtp_replay_protection(REPLAY_WINDOW), srtcp_replay_protection(REPLAY_WINDOW));
    Context::new(key, salt, profile, Some(rtp), Some(rtcp), crypto)
}
