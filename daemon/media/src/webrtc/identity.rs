//! What a process and a leg are known by: the certificate that all legs share, and what each draws at random.

use std::sync::Arc;

use rtc::crypto::{HashAlgorithm, RTCCryptoProvider};
use rtc::dtls::crypto::Certificate as Identity;

use super::LegSettings;
use super::ice::Credentials;
use crate::webrtc_sdp::{LocalSide, SdpRefusal};

/// The identity that all legs of a process share: a self-signed ECDSA P-256 certificate and what it is signed with.
#[derive(Clone)]
pub struct Certificate {
    pub(super) identity: Identity,
    fingerprint: Arc<str>,
    pub(super) provider: Arc<dyn RTCCryptoProvider>,
}

/// The engine could not do what every machine should be able to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the WebRTC engine could not {0}")]
pub struct EngineError(&'static str);

impl Certificate {
    /// Makes a certificate, to be kept for the life of the process (about 1 ms of work).
    ///
    /// # Errors
    /// The engine has no cryptography or no randomness.
    pub fn generate() -> Result<Self, EngineError> {
        let provider = rtc::crypto::default_provider().map_err(|_| EngineError("find its cryptography"))?;
        let identity = Identity::generate_self_signed(vec!["sauti".to_owned()], provider.crypto())
            .map_err(|_| EngineError("make a certificate"))?;
        let digest = identity
            .certificate
            .first()
            .and_then(|der| provider.crypto().hash(HashAlgorithm::Sha256, der).ok())
            .ok_or(EngineError("hash its certificate"))?;
        let pairs: Vec<String> = digest.iter().map(|byte| format!("{byte:02X}")).collect();
        Ok(Self { identity, fingerprint: pairs.join(":").into(), provider })
    }

    /// The SHA-256 fingerprint as descriptions write it: upper-case pairs with colons.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Certificate(‹redacted›)")
    }
}

/// What is drawn at random for a leg.
pub(super) struct Draw {
    pub(super) credentials: Credentials,
    pub(super) ssrc: u32,
    pub(super) session_id: u64,
    pub(super) cname: String,
}

impl Draw {
    pub(super) fn new(provider: &dyn RTCCryptoProvider) -> Result<Self, SdpRefusal> {
        let mut bytes = [0_u8; 76];
        provider.random().fill(&mut bytes).map_err(|_| SdpRefusal::Engine)?;
        // 6 bits of each byte give one character of ICE's alphabet: 96 bits of name, 192 bits of password.
        const ICE_CHARS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let text =
            |part: &[u8]| -> String { part.iter().map(|byte| char::from(ICE_CHARS[usize::from(byte & 63)])).collect() };
        let [.., s0, s1, s2, s3] = bytes;
        let ssrc = u32::from_be_bytes([s0, s1, s2, s3]).max(1);
        let session_id = bytes[64..72].iter().fold(0_u64, |id, byte| (id << 8) | u64::from(*byte)) >> 2;
        Ok(Self {
            credentials: Credentials { ufrag: text(&bytes[..16]), pwd: text(&bytes[16..48]) },
            ssrc,
            session_id,
            cname: text(&bytes[48..64]),
        })
    }

    pub(super) fn local_side<'a>(&'a self, settings: &LegSettings<'a>) -> LocalSide<'a> {
        LocalSide {
            session_id: self.session_id,
            ice_ufrag: &self.credentials.ufrag,
            ice_pwd: &self.credentials.pwd,
            fingerprint: settings.certificate.fingerprint(),
            ssrc: self.ssrc,
            cname: &self.cname,
            candidates: settings.advertise,
        }
    }
}
