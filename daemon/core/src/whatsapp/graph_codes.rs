//! Graph's error codes: what each one means for a call, whose fault it is and what to do.
//!
//! Codes decide first, words only where Meta gives no code of its own (wrong-state errors), the HTTP status last.

use super::graph::{Ask, RetryClass};
use crate::call::outcome::Fault;

/// What Graph said, as far as it counts.
pub(super) struct Said {
    pub(super) http: u16,
    pub(super) code: Option<i64>,
    pub(super) subcode: Option<i64>,
    /// Message and details in lower case, for the errors that have no code of their own; never kept.
    pub(super) words: String,
}

/// What it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Judged {
    pub(super) class: RetryClass,
    pub(super) fault: Fault,
    pub(super) remedy: &'static str,
}

const fn judged(class: RetryClass, fault: Fault, remedy: &'static str) -> Judged {
    Judged { class, fault, remedy }
}

const ENDED: Judged = judged(RetryClass::AlreadyEnded, Fault::Caller, "the call is over at Meta; nothing to do");
const DONE: Judged =
    judged(RetryClass::AlreadyDone, Fault::Whatsapp, "the call is already past this step; media tells where it is");
const SDP: Judged = judged(
    RetryClass::SdpRefused,
    Fault::Box,
    "Meta refuses the media description that this box made; report it with the trace id",
);

/// Judges an error answer.
pub(super) fn judge(ask: Ask, said: &Said) -> Judged {
    match said.code {
        Some(100) => invalid_parameter(ask, said),
        Some(code) => known(code).or_else(|| by_words(&said.words)).unwrap_or_else(|| by_status(said.http)),
        None => by_status(said.http),
    }
}

/// Code 100 covers a wrong number, a refused SDP and every wrong state of a call.
fn invalid_parameter(ask: Ask, said: &Said) -> Judged {
    if said.subcode == Some(33) {
        return judged(
            RetryClass::Forbidden,
            Fault::Operator,
            "no such phone number for this token; check [whatsapp] phone_number_id and the token's permissions",
        );
    }
    if let Some(by_words) = by_words(&said.words) {
        return by_words;
    }
    match ask {
        Ask::PreAccept => SDP,
        // A repeated accept is refused with this code although the first one worked: media has to decide.
        Ask::Accept => DONE,
        Ask::Reject | Ask::Terminate => ENDED,
        Ask::Text => judged(RetryClass::Never, Fault::Box, "Graph refuses the form of this message; report it"),
    }
}

/// Wrong-state errors have texts, but no documented codes.
fn by_words(words: &str) -> Option<Judged> {
    let has = |word: &str| words.contains(word);
    if has("sdp") || has("fingerprint") || has("connection info") {
        return Some(SDP);
    }
    // One text names all states ("already In Progress/Completed/Failed"): then the milder reading holds.
    if has("in progress") || has("already accepted") || has("already connected") || has("already pre") {
        return Some(DONE);
    }
    let ended = has("already") && ["terminated", "completed", "failed", "ended", "rejected"].into_iter().any(has);
    let unknown =
        has("call") && ["not found", "not exist", "invalid call", "unknown call", "expired"].into_iter().any(has);
    (ended || unknown).then_some(ENDED)
}

fn known(code: i64) -> Option<Judged> {
    calling(code).or_else(|| messaging(code)).or_else(|| platform(code))
}

/// The codes of the calling API.
fn calling(code: i64) -> Option<Judged> {
    use Fault::{Caller, Operator, Whatsapp};
    use RetryClass::{BackOff, Forbidden, Never, Retry};
    Some(match code {
        138_000 => judged(Forbidden, Operator, "calling is off for this number; turn it on in its call settings"),
        138_001 => judged(Never, Caller, "this person cannot be called; send a text"),
        138_002 => judged(BackOff, Whatsapp, "the number has as many calls as Meta allows; wait for one to end"),
        138_003 => judged(Never, Caller, "a call with this person is already running"),
        138_004 => judged(Retry, Whatsapp, "Meta's relay could not connect; try again"),
        138_005 => judged(BackOff, Whatsapp, "too many calls begun in a short time; slow down"),
        138_006 => judged(Never, Caller, "this person has not allowed calls; ask for permission first"),
        138_007 => judged(Retry, Whatsapp, "the answer came too late for the caller's client; check the uplink"),
        138_008 => SDP,
        138_009 | 138_011 | 138_012 | 138_017 => judged(
            Never,
            Operator,
            "the limits of calls and permission requests to this person are used up; wait a day",
        ),
        138_013 => judged(Forbidden, Operator, "Meta lets no business in this number's country begin calls"),
        138_014 => {
            judged(Forbidden, Operator, "Meta has paused calling for bad quality; see the account's restrictions")
        }
        138_015 => judged(Forbidden, Operator, "calling needs a messaging limit of 2000; raise it at Meta"),
        138_018 => judged(Forbidden, Operator, "no app is subscribed to the field calls; subscribe it"),
        138_038 => {
            judged(Forbidden, Operator, "another partner is primary for this number's calls; change the routing")
        }
        131_044 | 131_042 => judged(Forbidden, Operator, "the account has no payment method; add one"),
        131_055 => judged(Forbidden, Operator, "the number is set to SIP, which excludes Graph; turn SIP off"),
        613 => judged(BackOff, Whatsapp, "permission was looked up too often; slow down"),
        _ => return None,
    })
}

/// The codes of the messages API.
fn messaging(code: i64) -> Option<Judged> {
    use Fault::{Box, Caller, Operator, Whatsapp};
    use RetryClass::{BackOff, Forbidden, Never, Retry, WindowClosed};
    Some(match code {
        131_000 | 131_016 => judged(Retry, Whatsapp, "Meta had an error of its own; try again"),
        131_057 => judged(Retry, Whatsapp, "the account is in maintenance at Meta; try again"),
        130_429 => judged(BackOff, Whatsapp, "the number sends too fast; slow down"),
        131_056 => judged(BackOff, Whatsapp, "too many messages to this person in a short time; slow down"),
        131_047 => judged(
            WindowClosed,
            Operator,
            "24 hours since the person's last sign are over; only a template may be sent",
        ),
        131_026 | 131_009 => judged(Never, Caller, "this person's client cannot receive it"),
        131_021 => judged(Never, Operator, "the number would write to itself"),
        131_030 => judged(Never, Operator, "a test number writes only to its list of recipients; add this one"),
        131_048 => judged(Never, Operator, "Meta limits this number for spam; see its quality rating"),
        131_049 => judged(Never, Whatsapp, "Meta chose not to deliver it"),
        131_008 => judged(Never, Box, "Graph misses a part of this message; report it"),
        133_010 => judged(Forbidden, Operator, "the number is not registered at the Cloud API; register it"),
        130_497 => judged(Forbidden, Operator, "the account may not reach this person's country"),
        _ => return None,
    })
}

/// The codes that all of Graph shares.
fn platform(code: i64) -> Option<Judged> {
    use Fault::{Operator, Whatsapp};
    use RetryClass::{BackOff, Forbidden, Retry};
    Some(match code {
        0 | 190 => TOKEN,
        1 | 2 => judged(Retry, Whatsapp, "Graph had an error of its own; try again"),
        4 | 80_007 => judged(BackOff, Whatsapp, "the app asks Graph too often; slow down"),
        3 | 10 | 200..=299 => {
            judged(Forbidden, Operator, "the token lacks whatsapp_business_messaging for this number; grant it")
        }
        368 | 131_031 => judged(Forbidden, Operator, "Meta has locked the account; see its violations"),
        _ => return None,
    })
}

const TOKEN: Judged =
    judged(RetryClass::TokenDead, Fault::Operator, "whatsapp_access_token is refused; renew it and restart the daemon");

/// An answer without a code that we know.
fn by_status(http: u16) -> Judged {
    use Fault::{Operator, Whatsapp};
    use RetryClass::{BackOff, Forbidden, Never, Retry};
    match http {
        401 => TOKEN,
        403 => judged(Forbidden, Operator, "Graph forbids it; check the token's permissions"),
        404 => {
            judged(Forbidden, Operator, "no such address; check [whatsapp] graph_url, graph_version, phone_number_id")
        }
        429 => judged(BackOff, Whatsapp, "Graph asks to slow down"),
        408 | 425 | 500.. => judged(Retry, Whatsapp, "Graph had an error of its own; try again"),
        _ => judged(Never, Whatsapp, "Graph refused it with a code that this version does not know; report it"),
    }
}

/// Whose fault the error code of a terminate webhook is, and what it means; `None` for codes that name no media fault.
#[must_use]
pub fn media_code(code: i64) -> Option<(Fault, &'static str)> {
    Some(match code {
        138_019 => (Fault::Caller, "the caller's client could not set the call up"),
        138_020 => (Fault::Whatsapp, "Meta's relay could not connect"),
        138_021 => (Fault::Box, "no media of ours reached the caller; check UDP out of this box and the DTLS role"),
        138_022 => (Fault::Caller, "the caller's client could not send media"),
        138_023 => (Fault::Box, "the call was accepted, but no media came up; check UDP out of this box"),
        _ => return None,
    })
}
