//! Who sent this webhook: Meta's HMAC over the body, and the one-time verification by GET.
//!
//! Both compare in constant time. Nothing here parses JSON: the signature covers the bytes as they arrived,
//! so it is judged before anything else looks at them. Driven by the public listener and by the emulator.

use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;

/// The header that carries the signature, in the lower case of HTTP libraries.
pub const SIGNATURE_HEADER: &str = "x-hub-signature-256";

/// What stands before the hex digits.
const SCHEME: &str = "sha256=";

/// Why a body was not believed. Each one is answered with 401 and leaves no other trace than a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum SignatureRefusal {
    /// The header is absent.
    #[error("webhook has no X-Hub-Signature-256 header; Meta always sends one, so check what stands before this box")]
    Missing,
    /// The header is not `sha256=` and 64 hex digits.
    #[error("X-Hub-Signature-256 is not \"sha256=\" and 64 hex digits")]
    Malformed,
    /// The digits belong to another body or another key.
    #[error("X-Hub-Signature-256 does not fit the body; check whatsapp_app_secret, and that no proxy rewrites bodies")]
    Mismatch,
    /// The key is empty, so anybody could sign.
    #[error("whatsapp_app_secret is empty, so no webhook can be believed; set it")]
    NoSecret,
}

impl SignatureRefusal {
    /// The word for the counter.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::Mismatch => "mismatch",
            Self::NoSecret => "no_secret",
        }
    }
}

/// Checks the value of `X-Hub-Signature-256` against the raw body; the case of scheme and digits does not matter.
///
/// # Errors
///
/// Says why the body must not be believed; the time taken does not tell how much of the signature was right.
pub fn verify(app_secret: &SecretString, header: Option<&[u8]>, body: &[u8]) -> Result<(), SignatureRefusal> {
    let header = header.ok_or(SignatureRefusal::Missing)?;
    let header = std::str::from_utf8(header).map_err(|_| SignatureRefusal::Malformed)?.trim();
    let (scheme, digits) = header.split_at_checked(SCHEME.len()).ok_or(SignatureRefusal::Malformed)?;
    if !scheme.eq_ignore_ascii_case(SCHEME) {
        return Err(SignatureRefusal::Malformed);
    }
    let mut given = [0_u8; 32];
    hex::decode_to_slice(digits, &mut given).map_err(|_| SignatureRefusal::Malformed)?;
    let mac = keyed(app_secret.expose_secret()).ok_or(SignatureRefusal::NoSecret)?;
    mac.chain_update(body).verify_slice(&given).map_err(|_| SignatureRefusal::Mismatch)
}

/// Makes the header value for a body: what Meta does, for the emulator and the tests.
#[must_use]
pub fn sign(app_secret: &SecretString, body: &[u8]) -> String {
    format!("{SCHEME}{}", hex_mac(app_secret.expose_secret(), body))
}

/// The `appsecret_proof` query value that Graph may demand beside the bearer token.
#[must_use]
pub fn appsecret_proof(app_secret: &SecretString, access_token: &SecretString) -> String {
    hex_mac(app_secret.expose_secret(), access_token.expose_secret().as_bytes())
}

/// The three query values of Meta's verification request, percent-decoded, as far as they were sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Verification<'a> {
    /// `hub.mode`.
    pub mode: Option<&'a str>,
    /// `hub.verify_token`.
    pub token: Option<&'a str>,
    /// `hub.challenge`.
    pub challenge: Option<&'a str>,
}

/// Why a verification request was refused; each one is answered with 403.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum VerificationRefusal {
    /// `hub.mode` is not `subscribe`.
    #[error("hub.mode is not \"subscribe\"")]
    Mode,
    /// `hub.verify_token` is absent or not ours.
    #[error("hub.verify_token is not whatsapp_verify_token; enter the same word at Meta and on this box")]
    Token,
    /// `hub.challenge` is absent.
    #[error("hub.challenge is missing")]
    Challenge,
}

/// Answers Meta's verification: the text to send back, byte for byte. It is never read as a number.
///
/// # Errors
///
/// Says what is missing or wrong; the token is compared in constant time, and before the challenge is looked at.
pub fn answer_verification<'a>(
    verify_token: &SecretString,
    asked: Verification<'a>,
) -> Result<&'a str, VerificationRefusal> {
    if asked.mode != Some("subscribe") {
        return Err(VerificationRefusal::Mode);
    }
    let ours = keyed(verify_token.expose_secret()).ok_or(VerificationRefusal::Token)?;
    let given = keyed(asked.token.unwrap_or_default()).ok_or(VerificationRefusal::Token)?;
    ours.verify(&given.finalize().into_bytes()).map_err(|_| VerificationRefusal::Token)?;
    asked.challenge.ok_or(VerificationRefusal::Challenge)
}

/// An HMAC under this key; `None` for the empty key, which everybody knows.
fn keyed(key: &str) -> Option<Hmac<Sha256>> {
    if key.is_empty() {
        return None;
    }
    Hmac::<Sha256>::new_from_slice(key.as_bytes()).ok()
}

/// The HMAC as hex; of an empty key, 64 zeros, which verify nowhere.
fn hex_mac(key: &str, message: &[u8]) -> String {
    keyed(key).map_or_else(|| "0".repeat(64), |mac| hex::encode(mac.chain_update(message).finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn secret(text: &str) -> SecretString {
        SecretString::from(text.to_owned())
    }

    fn refusal(header: &str) -> SignatureRefusal {
        verify(&secret("app"), Some(header.as_bytes()), b"{}").unwrap_err()
    }

    #[test]
    fn the_signature_of_a_known_body_is_the_one_that_openssl_gives() {
        // printf '{"a":"\\u00e9"}' | openssl dgst -sha256 -hmac topsecret
        assert_eq!(
            sign(&secret("topsecret"), br#"{"a":"\u00e9"}"#),
            "sha256=fc4904fc298e32c8143cfa18b7cdf78a468900be5335bb860eb3573f48b3dd8b"
        );
    }

    #[test]
    fn a_signed_body_is_believed_whatever_the_case_of_the_header() {
        let signed = sign(&secret("app"), b"{}");
        for header in [signed.clone(), signed.to_uppercase(), format!(" {signed} ")] {
            assert_eq!(verify(&secret("app"), Some(header.as_bytes()), b"{}"), Ok(()));
        }
    }

    #[test]
    fn one_changed_byte_of_body_key_or_signature_is_a_mismatch() {
        let signed = sign(&secret("app"), b"{}");
        assert_eq!(verify(&secret("app"), Some(signed.as_bytes()), b"{ }"), Err(SignatureRefusal::Mismatch));
        assert_eq!(verify(&secret("apq"), Some(signed.as_bytes()), b"{}"), Err(SignatureRefusal::Mismatch));
        let last = if signed.ends_with('0') { '1' } else { '0' };
        let forged = format!("{}{last}", &signed[..signed.len() - 1]);
        assert_eq!(refusal(&forged), SignatureRefusal::Mismatch);
    }

    #[test]
    fn a_header_that_is_no_signature_is_malformed() {
        for header in ["", "sha256=", "sha256=zz", "sha1=0123", "sha256=é", &format!("sha256={}", "0".repeat(66))] {
            assert_eq!(refusal(header), SignatureRefusal::Malformed, "{header:?}");
        }
        assert_eq!(verify(&secret("app"), Some(&[0xff; 71]), b"{}"), Err(SignatureRefusal::Malformed));
        assert_eq!(verify(&secret("app"), None, b"{}"), Err(SignatureRefusal::Missing));
    }

    #[test]
    fn an_empty_key_believes_nobody() {
        let signed = sign(&secret(""), b"{}");
        assert_eq!(verify(&secret(""), Some(signed.as_bytes()), b"{}"), Err(SignatureRefusal::NoSecret));
    }

    #[test]
    fn a_challenge_comes_back_verbatim_even_if_it_is_no_number() {
        for challenge in ["1158863600", "007", "a b<ç>", ""] {
            let asked =
                Verification { mode: Some("subscribe"), token: Some("open sesame"), challenge: Some(challenge) };
            assert_eq!(answer_verification(&secret("open sesame"), asked), Ok(challenge));
        }
    }

    #[test]
    fn a_wrong_token_is_refused_before_anything_is_echoed() {
        let asked = Verification { mode: Some("subscribe"), token: Some("open sesam"), challenge: Some("1") };
        assert_eq!(answer_verification(&secret("open sesame"), asked), Err(VerificationRefusal::Token));
        let none = Verification { token: None, ..asked };
        assert_eq!(answer_verification(&secret("open sesame"), none), Err(VerificationRefusal::Token));
        let empty = Verification { token: Some(""), ..asked };
        assert_eq!(answer_verification(&secret(""), empty), Err(VerificationRefusal::Token));
    }

    #[test]
    fn a_verification_without_mode_or_challenge_is_refused() {
        let asked = Verification { mode: Some("unsubscribe"), token: Some("t"), challenge: Some("1") };
        assert_eq!(answer_verification(&secret("t"), asked), Err(VerificationRefusal::Mode));
        let silent = Verification { mode: Some("subscribe"), token: Some("t"), challenge: None };
        assert_eq!(answer_verification(&secret("t"), silent), Err(VerificationRefusal::Challenge));
    }

    #[test]
    fn refusals_never_show_the_secret() {
        let text = format!("{:?} {}", refusal("sha256=zz"), refusal("sha256=zz"));
        assert!(!text.contains("app\""));
    }

    proptest! {
        #[test]
        fn no_bytes_make_verification_panic(header in proptest::collection::vec(any::<u8>(), 0..100), body in any::<Vec<u8>>()) {
            prop_assert!(verify(&secret("app"), Some(&header), &body).is_err());
        }

        #[test]
        fn what_is_signed_is_believed(key in "[ -~]{1,40}", body in any::<Vec<u8>>()) {
            let signed = sign(&secret(&key), &body);
            prop_assert!(verify(&secret(&key), Some(signed.as_bytes()), &body).is_ok());
        }
    }
}
