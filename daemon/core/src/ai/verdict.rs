//! What an error of the model's side means for the session: codes, close codes, HTTP statuses.
//!
//! The classes follow the protocol reference §1.8. Texts of the server are never kept: a message may quote a key
//! or a caller; a [`Code`] is a word that may be shown.

use std::fmt;

use super::super::call::outcome::labels;

/// Longest code that is believed to be one.
const MAX_CODE: usize = 64;

/// A short word from the wire that may be shown: lower case letters, digits and `_`.
///
/// Anything else becomes `other`, also a word with a long run of digits, which may be a number of somebody.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Code(String);

impl Code {
    /// Wraps a word that this program chose.
    #[must_use]
    pub fn known(word: &'static str) -> Self {
        Self(word.to_owned())
    }

    /// Takes a word from the wire.
    #[must_use]
    pub fn from_wire(word: &str) -> Self {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        let numbers = word.split(|c: char| !c.is_ascii_digit()).any(|run| run.len() > 4);
        if word.is_empty() || word.len() > MAX_CODE || numbers || !word.bytes().all(plain) {
            return Self::known("other");
        }
        Self(word.to_owned())
    }

    /// The word.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

labels! {
    /// What kind of error it is.
    ErrorClass {
        /// A race that costs nothing.
        Benign => "benign",
        /// The server did not take an event of ours as it was.
        Bug => "bug",
        /// Key, quota or account: trying again is useless.
        Fatal => "fatal",
        /// It may work in a moment.
        Transient => "transient",
        /// The session has reached its greatest age.
        Expired => "expired",
    }
}

/// Codes (or types) after which no further attempt helps.
const FATAL: [&str; 12] = [
    "invalid_api_key",
    "insufficient_quota",
    "credit_balance_exhausted",
    "account_deactivated",
    "billing_hard_limit_reached",
    "billing_not_active",
    "forbidden",
    "permission_denied",
    "authentication_error",
    "organization_deactivated",
    "model_not_found",
    "beta_api_shape_disabled",
];

const BENIGN: [&str; 7] = [
    "conversation_already_has_active_response",
    "response_cancel_not_active",
    "item_truncate_invalid_item_id",
    "input_audio_buffer_commit_empty",
    "item_create_duplicate_item_id",
    "item_retrieve_invalid_item_id",
    "item_delete_invalid_item_id",
];

const TRANSIENT: [&str; 8] = [
    "rate_limit_exceeded",
    "inference_rate_limit_exceeded",
    "rate_limit_error",
    "server_error",
    "internal_error",
    "overloaded",
    "overloaded_error",
    "engine_overloaded",
];

/// Sorts an `error` event, or the error of a failed response: fatal words count in `code` and in `type`.
#[must_use]
pub fn classify(code: Option<&Code>, kind: Option<&Code>) -> ErrorClass {
    let among = |list: &[&str]| [code, kind].into_iter().flatten().any(|word| list.contains(&word.as_str()));
    if among(&FATAL) {
        ErrorClass::Fatal
    } else if among(&["session_expired"]) {
        ErrorClass::Expired
    } else if among(&BENIGN) {
        ErrorClass::Benign
    } else if among(&TRANSIENT) {
        ErrorClass::Transient
    } else if among(&["invalid_request_error"]) {
        ErrorClass::Bug
    } else {
        ErrorClass::Transient
    }
}

labels! {
    /// How a session was lost.
    Loss {
        /// Key, quota, account or model name: whoever configured the box has to act.
        Refused => "refused",
        /// Network, server or protocol.
        Broken => "broken",
    }
}

/// Why there is no session any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Whose matter it is.
    pub loss: Loss,
    /// What was said, or what we saw.
    pub code: Code,
    /// Whether a new attempt may help.
    pub retry: bool,
}

/// What [`Failure::aged`] is called.
const AGED: &str = "session_aged";

impl Failure {
    /// A session that broke and may be opened again.
    #[must_use]
    pub const fn broken(code: Code) -> Self {
        Self { loss: Loss::Broken, code, retry: true }
    }

    /// A session that we give up ourselves as it grows old, to go on in a new one: nothing is wrong.
    #[must_use]
    pub fn aged() -> Self {
        Self::broken(Code::known(AGED))
    }

    /// True for [`Self::aged`].
    #[must_use]
    pub fn is_planned(&self) -> bool {
        self.code.as_str() == AGED
    }

    /// A session that the provider will not give.
    #[must_use]
    pub const fn refused(code: Code) -> Self {
        Self { loss: Loss::Refused, code, retry: false }
    }

    /// Sorts a WebSocket close; the reason is only searched for the words that it is known to carry.
    #[must_use]
    pub fn from_close(code: Option<u16>, reason: &str) -> Self {
        let fatal = FATAL.into_iter().find(|word| reason.contains(word));
        match (code, fatal) {
            (_, Some(word)) => Self::refused(Code::known(word)),
            (Some(3000), None) => Self::refused(Code::known("invalid_api_key")),
            (Some(4000), None) => Self::refused(Code::known("beta_api_shape_disabled")),
            (Some(1000), None) => Self::broken(Code::known("closed_normally")),
            (Some(1001), None) => Self::broken(Code::known("going_away")),
            (Some(code), None) => Self::broken(Code(format!("closed_{code}"))),
            (None, None) => Self::broken(Code::known("connection_lost")),
        }
    }

    /// Sorts a refused WebSocket handshake by its HTTP status and the error code of its body, if there was one.
    #[must_use]
    pub fn from_handshake(status: u16, code: Option<&str>) -> Self {
        let said = code.map(Code::from_wire);
        if let Some(word) = &said
            && classify(Some(word), None) == ErrorClass::Fatal
        {
            return Self::refused(word.clone());
        }
        let code = said.unwrap_or_else(|| Code(format!("http_{status}")));
        match status {
            // 429 is the rate of requests here: an empty account has said so by its code above.
            408 | 425 | 429 | 500..=599 => Self::broken(code),
            400..=499 => Self::refused(code),
            _ => Self { loss: Loss::Broken, code, retry: false },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(code: &str, kind: &str) -> ErrorClass {
        classify(Some(&Code::from_wire(code)), Some(&Code::from_wire(kind)))
    }

    #[test]
    fn fatal_words_count_in_code_and_in_type() {
        assert_eq!(class("insufficient_quota", "insufficient_quota"), ErrorClass::Fatal);
        assert_eq!(class("", "insufficient_quota"), ErrorClass::Fatal);
        assert_eq!(class("account_deactivated", "invalid_request_error"), ErrorClass::Fatal);
        assert_eq!(class("beta_api_shape_disabled", "invalid_request_error"), ErrorClass::Fatal);
    }

    #[test]
    fn races_are_benign_and_refused_events_are_bugs() {
        for code in BENIGN {
            assert_eq!(class(code, "invalid_request_error"), ErrorClass::Benign);
        }
        assert_eq!(class("unknown_parameter", "invalid_request_error"), ErrorClass::Bug);
        assert_eq!(class("session_expired", "invalid_request_error"), ErrorClass::Expired);
        assert_eq!(class("", "server_error"), ErrorClass::Transient);
        assert_eq!(class("inference_rate_limit_exceeded", "invalid_request_error"), ErrorClass::Transient);
        assert_eq!(classify(None, None), ErrorClass::Transient);
    }

    #[test]
    fn a_close_with_3000_or_4000_is_final() {
        assert!(!Failure::from_close(Some(3000), "invalid_request_error.invalid_api_key").retry);
        assert!(!Failure::from_close(Some(4000), "").retry);
        assert_eq!(
            Failure::from_close(Some(1008), "insufficient_quota: see sk-abc").code.as_str(),
            "insufficient_quota"
        );
        for code in [1000, 1001, 1006, 1011, 1012, 1013] {
            assert!(Failure::from_close(Some(code), "").retry);
        }
        assert!(Failure::from_close(None, "").retry);
    }

    #[test]
    fn a_refused_handshake_is_final_unless_it_is_a_matter_of_load() {
        for (status, code, loss, retry) in [
            (401, None, Loss::Refused, false),
            (403, None, Loss::Refused, false),
            (404, Some("model_not_found"), Loss::Refused, false),
            (429, None, Loss::Broken, true),
            (429, Some("insufficient_quota"), Loss::Refused, false),
            (503, Some("overloaded"), Loss::Broken, true),
            (302, None, Loss::Broken, false),
        ] {
            let failure = Failure::from_handshake(status, code);
            assert_eq!((failure.loss, failure.retry), (loss, retry), "{status}");
        }
    }

    #[test]
    fn a_code_shows_no_key_and_no_number() {
        for word in ["sk-abc", "call from 250780000001", "n250780000001", "Invalid", "", &"a".repeat(65)] {
            assert_eq!(Code::from_wire(word).as_str(), "other");
        }
        assert_eq!(Code::from_wire("server_error").as_str(), "server_error");
    }
}
