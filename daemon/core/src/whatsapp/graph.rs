//! Graph on paper: the bodies of our requests, what the answers mean, and when to ask again.
//!
//! No HTTP here: the shell sends the bytes and hands status and body back. An error is judged where it is read
//! (class, whose fault, what to do); its own text is never kept, as Graph repeats numbers and messages in it.

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::graph_codes;
use super::label::Label;
use crate::call::machine::{Action, DoorVerdict};
use crate::call::outcome::{Fault, labels};
use crate::pii::{CallerAddress, Pii};
use crate::record::TextVerdict;

/// Longest text message, in characters; Graph refuses longer ones.
pub const LONGEST_TEXT: usize = 4096;

/// Longest `biz_opaque_callback_data`, in bytes.
pub const LONGEST_OPAQUE: usize = 512;

labels! {
    /// What is asked of Graph.
    Ask {
        /// `pre_accept`: take the offer, start ringing.
        PreAccept => "pre_accept",
        /// `accept`: open the call; media may flow after its 200.
        Accept => "accept",
        /// `reject`: refuse a ringing call.
        Reject => "reject",
        /// `terminate`: hang up.
        Terminate => "terminate",
        /// A text message.
        Text => "text",
    }
}

impl From<Action> for Ask {
    fn from(action: Action) -> Self {
        match action {
            Action::PreAccept => Self::PreAccept,
            Action::Accept => Self::Accept,
            Action::Reject => Self::Reject,
            Action::Terminate => Self::Terminate,
        }
    }
}

/// The number's address at Graph.
#[derive(Debug, Clone, Copy)]
pub struct Endpoint<'a> {
    /// Base address without a trailing slash.
    pub base: &'a str,
    /// Version segment, `v26.0`.
    pub version: &'a str,
    /// The number's id.
    pub phone_number_id: &'a str,
}

impl Endpoint<'_> {
    /// Where an ask is posted to.
    #[must_use]
    pub fn url(&self, ask: Ask) -> String {
        let edge = if ask == Ask::Text { "messages" } else { "calls" };
        format!("{}/{}/{}/{edge}", self.base.trim_end_matches('/'), self.version, self.phone_number_id)
    }
}

/// Text of ours that comes back in the status webhooks; at most 512 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Opaque(String);

impl Opaque {
    /// Takes a text that says nothing about a person; `None` if it is longer than Graph allows.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Option<Self> {
        let text = text.into();
        (text.len() <= LONGEST_OPAQUE).then_some(Self(text))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The body of a request to `…/calls`.
#[derive(Debug, Clone, Serialize)]
pub struct CallRequest<'a> {
    messaging_product: &'static str,
    call_id: &'a Pii,
    action: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<Session<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    biz_opaque_callback_data: Option<&'a Opaque>,
}

/// Our side of the media; its type is `answer`, whatever one of Meta's tables says.
#[derive(Debug, Clone, Serialize)]
struct Session<'a> {
    sdp_type: &'static str,
    sdp: &'a Pii,
}

impl<'a> CallRequest<'a> {
    /// `pre_accept` with our answer.
    #[must_use]
    pub const fn pre_accept(wacid: &'a Pii, answer: &'a Pii) -> Self {
        Self::new(Ask::PreAccept, wacid, Some(answer), None)
    }

    /// `accept` with the same bytes as the pre-accept; `opaque` returns in the terminate webhook.
    #[must_use]
    pub const fn accept(wacid: &'a Pii, answer: &'a Pii, opaque: Option<&'a Opaque>) -> Self {
        Self::new(Ask::Accept, wacid, Some(answer), opaque)
    }

    /// `reject`.
    #[must_use]
    pub const fn reject(wacid: &'a Pii) -> Self {
        Self::new(Ask::Reject, wacid, None, None)
    }

    /// `terminate`.
    #[must_use]
    pub const fn terminate(wacid: &'a Pii) -> Self {
        Self::new(Ask::Terminate, wacid, None, None)
    }

    const fn new(ask: Ask, call_id: &'a Pii, answer: Option<&'a Pii>, opaque: Option<&'a Opaque>) -> Self {
        let session = match answer {
            Some(sdp) => Some(Session { sdp_type: "answer", sdp }),
            None => None,
        };
        Self { messaging_product: "whatsapp", call_id, action: ask.label(), session, biz_opaque_callback_data: opaque }
    }

    /// The JSON to post; the SDP stands in it byte for byte, its line ends escaped once.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        json(self)
    }
}

/// The body of a text message to `…/messages`.
#[derive(Debug, Clone, Serialize)]
pub struct TextRequest<'a> {
    messaging_product: &'static str,
    recipient_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<Pii>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recipient: Option<&'a Pii>,
    #[serde(rename = "type")]
    kind: &'static str,
    text: TextBody,
    biz_opaque_callback_data: &'a Opaque,
}

#[derive(Debug, Clone, Serialize)]
struct TextBody {
    preview_url: bool,
    body: Pii,
}

impl<'a> TextRequest<'a> {
    /// A text to a caller: by number, written with `+` (without one Graph would put the business's country in front),
    /// else by BSUID. Cut after 4096 characters. `None` if nothing is known to write to, or the text is empty.
    #[must_use]
    pub fn new(to: &'a CallerAddress, body: &str, opaque: &'a Opaque) -> Option<Self> {
        let number = to.number.as_ref().map(|number| Pii::new(format!("+{}", number.expose().trim_start_matches('+'))));
        let recipient = if number.is_some() { None } else { to.bsuid.as_ref() };
        let body: String = body.trim().chars().take(LONGEST_TEXT).collect();
        if body.is_empty() || (number.is_none() && recipient.is_none()) {
            return None;
        }
        Some(Self {
            messaging_product: "whatsapp",
            recipient_type: "individual",
            to: number,
            recipient,
            kind: "text",
            text: TextBody { preview_url: false, body: Pii::new(body) },
            biz_opaque_callback_data: opaque,
        })
    }

    /// The JSON to post.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        json(self)
    }
}

/// Structures of strings always have a JSON form.
fn json(body: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(body).unwrap_or_default()
}

labels! {
    /// What an error means for us.
    RetryClass {
        /// Ask again soon.
        Retry => "retry",
        /// Ask again after a longer wait: a rate or throughput limit.
        BackOff => "back_off",
        /// Asking again is useless.
        Never => "never",
        /// The token is expired, revoked or missing: every further ask fails until somebody renews it.
        TokenDead => "token_dead",
        /// The account or the number is not allowed to; somebody has to change a setting at Meta.
        Forbidden => "forbidden",
        /// The call is already where the ask would bring it, or past it; media tells which.
        AlreadyDone => "already_done",
        /// The call is over, or Graph does not know it.
        AlreadyEnded => "already_ended",
        /// Our SDP was refused.
        SdpRefused => "sdp_refused",
        /// The 24 hours in which a free text may be sent are over.
        WindowClosed => "window_closed",
    }
}

labels! {
    /// How an ask went wrong.
    Failure {
        /// Graph answered with an error.
        Answered => "answered",
        /// Graph answered 200, but not that it was done.
        NotDone => "not_done",
        /// No answer within the deadline: it may have been done.
        TimedOut => "timed_out",
        /// The connection broke after the request was on its way: it may have been done.
        Broken => "broken",
        /// No connection: it was certainly not done.
        Unreachable => "unreachable",
    }
}

/// An ask that was not done, judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GraphError {
    /// What was asked.
    pub ask: Ask,
    /// How it went wrong.
    pub failure: Failure,
    /// The HTTP status; `None` without an answer.
    pub http: Option<u16>,
    /// Graph's code; `None` if the answer holds none.
    pub code: Option<i64>,
    /// Graph's trace id, for Meta's support.
    pub trace: Option<Label>,
    /// What it means.
    pub class: RetryClass,
    /// Whose fault it is.
    pub fault: Fault,
    /// What to do about it.
    pub remedy: &'static str,
}

impl GraphError {
    /// No answer within the deadline.
    #[must_use]
    pub const fn timed_out(ask: Ask) -> Self {
        Self::unanswered(
            ask,
            Failure::TimedOut,
            Fault::Whatsapp,
            "Graph did not answer in time; check the uplink if it goes on",
        )
    }

    /// The connection broke before the answer was read.
    #[must_use]
    pub const fn broken(ask: Ask) -> Self {
        Self::unanswered(
            ask,
            Failure::Broken,
            Fault::Whatsapp,
            "the connection to Graph broke before its answer; check the uplink if it goes on",
        )
    }

    /// No connection could be made: DNS, TCP or TLS.
    #[must_use]
    pub const fn unreachable(ask: Ask) -> Self {
        Self::unanswered(
            ask,
            Failure::Unreachable,
            Fault::Box,
            "no connection to Graph; check DNS, the uplink and [whatsapp] graph_url",
        )
    }

    const fn unanswered(ask: Ask, failure: Failure, fault: Fault, remedy: &'static str) -> Self {
        Self { ask, failure, http: None, code: None, trace: None, class: RetryClass::Retry, fault, remedy }
    }

    /// True when it is certain that Graph did not do what was asked.
    #[must_use]
    pub fn was_not_done(&self) -> bool {
        match self.failure {
            Failure::Unreachable => true,
            Failure::Answered => self.code.is_some() || self.http.is_some_and(|http| http < 500),
            Failure::NotDone => self.ask != Ask::Text,
            Failure::TimedOut | Failure::Broken => false,
        }
    }

    /// True when somebody must act before any call can be served: the token, a permission, the number.
    #[must_use]
    pub const fn is_alarm(&self) -> bool {
        matches!(self.class, RetryClass::TokenDead | RetryClass::Forbidden)
    }

    /// True when the ask's purpose is reached all the same: the call that was to be ended has ended, the one that
    /// was to ring is past that.
    #[must_use]
    pub const fn is_as_good_as_done(&self) -> bool {
        match self.ask {
            Ask::Reject | Ask::Terminate => {
                matches!(self.class, RetryClass::AlreadyEnded | RetryClass::AlreadyDone)
            }
            Ask::PreAccept => matches!(self.class, RetryClass::AlreadyDone),
            Ask::Accept | Ask::Text => false,
        }
    }

    /// The error of a repeated ask whose earlier attempt stayed without an answer, and so may have been done.
    ///
    /// Then code 100 to a pre-accept says that it was: Graph has no code of its own for a wrong state. Should the SDP
    /// be at fault after all, the accept will tell.
    #[must_use]
    pub fn after_doubt(self) -> Self {
        if self.ask == Ask::PreAccept && self.code == Some(100) && self.class == RetryClass::SdpRefused {
            return Self { class: RetryClass::AlreadyDone, fault: Fault::Whatsapp, ..self };
        }
        self
    }

    /// What becomes of the text that this error is about, once no retry is left: only what Graph certainly did not
    /// send, and may take another time, is owed as before. A caller who is blocked, unreachable or out of the window
    /// is not written to again.
    #[must_use]
    pub fn text_verdict(&self) -> TextVerdict {
        match self.class {
            _ if !self.was_not_done() => TextVerdict::Unknown,
            RetryClass::Retry | RetryClass::BackOff | RetryClass::TokenDead | RetryClass::Forbidden => {
                TextVerdict::Again
            }
            RetryClass::Never
            | RetryClass::AlreadyDone
            | RetryClass::AlreadyEnded
            | RetryClass::SdpRefused
            | RetryClass::WindowClosed => TextVerdict::Failed,
        }
    }

    /// What the call machine makes of it, once no retry is left.
    #[must_use]
    pub fn verdict(&self) -> DoorVerdict {
        if self.is_as_good_as_done() {
            return DoorVerdict::Done;
        }
        match self.class {
            RetryClass::SdpRefused => DoorVerdict::SdpRefused,
            RetryClass::AlreadyEnded => DoorVerdict::Ended,
            RetryClass::TokenDead | RetryClass::Forbidden => DoorVerdict::Forbidden,
            RetryClass::Retry if !self.was_not_done() => DoorVerdict::Unknown,
            RetryClass::Retry
            | RetryClass::BackOff
            | RetryClass::Never
            | RetryClass::AlreadyDone
            | RetryClass::WindowClosed => DoorVerdict::Refused,
        }
    }
}

impl std::error::Error for GraphError {}

impl fmt::Display for GraphError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Graph {}: {}", self.ask, self.failure)?;
        if let Some(http) = self.http {
            write!(f, ", HTTP {http}")?;
        }
        if let Some(code) = self.code {
            write!(f, ", code {code}")?;
        }
        if let Some(trace) = &self.trace {
            write!(f, ", trace {trace}")?;
        }
        write!(f, ": {}", self.remedy)
    }
}

/// Reads the answer to a call action: done only if the status is 2xx and `success` is true.
///
/// # Errors
///
/// Everything else, judged.
pub fn read_action(ask: Ask, http: u16, body: &[u8]) -> Result<(), GraphError> {
    let answer = read(ask, http, body)?;
    if answer.get("success").and_then(Value::as_bool) == Some(true) { Ok(()) } else { Err(not_done(ask, http)) }
}

/// Reads the answer to a message: the id that its status webhooks will carry.
///
/// # Errors
///
/// A status beyond 2xx, an error object, or an answer without an id (the message may then have been sent).
pub fn read_message(http: u16, body: &[u8]) -> Result<Pii, GraphError> {
    let answer = read(Ask::Text, http, body)?;
    let id = answer.pointer("/messages/0/id").and_then(Value::as_str).filter(|id| !id.is_empty());
    id.map(Pii::new).ok_or_else(|| not_done(Ask::Text, http))
}

fn not_done(ask: Ask, http: u16) -> GraphError {
    GraphError {
        ask,
        failure: Failure::NotDone,
        http: Some(http),
        code: None,
        trace: None,
        class: RetryClass::Retry,
        fault: Fault::Whatsapp,
        remedy: "Graph answered 200 without success; report it to Meta if it goes on",
    }
}

/// The JSON of a good answer; `Null` if it is none.
fn read(ask: Ask, http: u16, body: &[u8]) -> Result<Value, GraphError> {
    let answer: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let error = answer.get("error").filter(|error| !error.is_null());
    if (200..300).contains(&http) && error.is_none() {
        return Ok(answer);
    }
    let error = error.unwrap_or(&Value::Null);
    let code = number(error.get("code"));
    let details = error.pointer("/error_data/details").and_then(Value::as_str).unwrap_or_default();
    let message = error.get("message").and_then(Value::as_str).unwrap_or_default();
    let said = graph_codes::Said {
        http,
        code,
        subcode: number(error.get("error_subcode")),
        words: format!("{message} {details}").chars().take(2_000).collect::<String>().to_lowercase(),
    };
    let judged = graph_codes::judge(ask, &said);
    Err(GraphError {
        ask,
        failure: Failure::Answered,
        http: Some(http),
        code,
        trace: error.get("fbtrace_id").and_then(Value::as_str).map(Label::new),
        class: judged.class,
        fault: judged.fault,
        remedy: judged.remedy,
    })
}

fn number(value: Option<&Value>) -> Option<i64> {
    match value? {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// How often and how long one ask is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// How long one attempt may take.
    pub attempt: Duration,
    /// Retries beyond the first attempt.
    pub retries: u32,
    /// From the first attempt's start to the last one's: nothing is begun after it.
    pub budget: Duration,
}

/// Wait before the first retry; doubles with each.
const FIRST_WAIT: Duration = Duration::from_millis(150);

/// Wait before a retry after a rate limit; doubles with each.
const FIRST_BACK_OFF: Duration = Duration::from_secs(1);

impl RetryPolicy {
    /// The policy of an ask.
    ///
    /// The caller waits while we pre-accept and accept, and Meta gives up ringing after 20 to 60 s: those are short.
    /// The call machine itself repeats an accept that stayed without an answer, so here it is tried once.
    /// Rejects, terminates and texts can wait.
    #[must_use]
    pub const fn of(ask: Ask) -> Self {
        let (attempt, retries, budget) = match ask {
            Ask::PreAccept => (4_000, 2, 8_000),
            Ask::Accept => (4_000, 2, 6_000),
            Ask::Reject | Ask::Terminate => (5_000, 2, 12_000),
            Ask::Text => (8_000, 2, 20_000),
        };
        Self { attempt: Duration::from_millis(attempt), retries, budget: Duration::from_millis(budget) }
    }

    /// How long to wait before the next attempt; `None` = give up.
    ///
    /// `retried` counts the retries so far, `spent` runs from the start of the first attempt. A text is repeated only
    /// when Graph certainly did not send it; an accept without an answer is left to the call machine.
    #[must_use]
    pub fn next(&self, error: &GraphError, retried: u32, spent: Duration) -> Option<Duration> {
        let first = match error.class {
            RetryClass::Retry => FIRST_WAIT,
            RetryClass::BackOff => FIRST_BACK_OFF,
            RetryClass::Never
            | RetryClass::TokenDead
            | RetryClass::Forbidden
            | RetryClass::AlreadyDone
            | RetryClass::AlreadyEnded
            | RetryClass::SdpRefused
            | RetryClass::WindowClosed => return None,
        };
        if retried >= self.retries || (matches!(error.ask, Ask::Text | Ask::Accept) && !error.was_not_done()) {
            return None;
        }
        let wait = first.saturating_mul(1_u32.checked_shl(retried).unwrap_or(u32::MAX));
        (spent.saturating_add(wait) < self.budget).then_some(wait)
    }
}

#[cfg(test)]
#[path = "graph_tests.rs"]
mod tests;
