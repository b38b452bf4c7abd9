//! Reads Meta's webhook bodies: any bytes in, events and counts of oddities out.
//!
//! It forgives whatever can be forgiven: numbers for strings, absent contacts, fields and events that nobody has
//! heard of. One broken part never hides its neighbours. It judges nothing: signatures are checked before (see
//! [`super::signature`]), duplicates and staleness after. Driven by the public listener.

use std::borrow::Cow;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

pub use super::event::{
    AccountEvent, CallConnect, CallStatus, CallTerminate, Delivery, Direction, EventKey, FieldErrors, InboundMessage,
    MessageStatus, Oddities, RingStatus, TerminateStatus, Unknown, WebhookBody, WebhookEvent,
};
use super::label::Label;
use super::wacid::WACID_PREFIX;
use crate::pii::{CallerAddress, Pii};

/// More error codes than this are not kept of one event; Meta sends one.
const MOST_CODES: usize = 16;

/// A number of this many digits or more, read as a time, counts milliseconds.
const FIRST_MILLISECOND_TIME: i64 = 100_000_000_000;

/// Why a body holds nothing at all. It is acknowledged all the same: Meta would only send it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The body is no JSON.
    #[error("webhook body is no JSON (line {line}, column {column}); it was signed, so report it to Meta")]
    NotJson {
        /// Where reading stopped, from 1.
        line: usize,
        /// Where reading stopped, from 1.
        column: usize,
    },
    /// The body is JSON, but no object.
    #[error("webhook body is JSON, but no object with \"entry\"")]
    NotAnObject,
}

/// Reads a body for the number `phone_number_id`; what is for other numbers is counted and left out.
///
/// # Errors
///
/// Only when nothing in the body can be read; the error shows none of its text.
pub fn parse(body: &[u8], phone_number_id: &str) -> Result<WebhookBody, BodyError> {
    let mut out = WebhookBody::default();
    let root = match serde_json::from_slice::<Value>(body) {
        Ok(root) => root,
        Err(first) => {
            out.oddities.mended = 1;
            let stopped = BodyError::NotJson { line: first.line(), column: first.column() };
            serde_json::from_str(&mended(&String::from_utf8_lossy(body))).map_err(|_| stopped)?
        }
    };
    if !root.is_object() {
        return Err(BodyError::NotAnObject);
    }
    let mut reader = Reader { ours: phone_number_id, out };
    for entry in reader.list(&root, "entry") {
        for change in reader.list(entry, "changes") {
            reader.change(change);
        }
    }
    Ok(reader.out)
}

/// Replaces escapes of half a surrogate pair, which JSON readers refuse, by U+FFFD; a name cut in two can hold one.
fn mended(text: &str) -> Cow<'_, str> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        out.push_str(before);
        let taken = match (surrogate(escape), escape.get(6..).and_then(surrogate)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 12,
            (Some(_), _) => {
                out.push_str("\\ufffd");
                rest = escape.get(6..).unwrap_or_default();
                continue;
            }
            (None, _) => escape.chars().take(2).map(char::len_utf8).sum(),
        };
        let (kept, after) = escape.split_at(taken);
        out.push_str(kept);
        rest = after;
    }
    if out.is_empty() {
        return Cow::Borrowed(text);
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// The value of a `\uXXXX` at the start of `text`, if it is half a surrogate pair.
fn surrogate(text: &str) -> Option<u16> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    u16::from_str_radix(digits, 16).ok().filter(|unit| (0xd800..=0xdfff).contains(unit))
}

struct Reader<'a> {
    ours: &'a str,
    out: WebhookBody,
}

impl Reader<'_> {
    /// The objects in the array `key`; a lone object counts as an array of one, anything else as malformed.
    fn list<'v>(&mut self, parent: &'v Value, key: &str) -> Vec<&'v Value> {
        let items = match parent.get(key) {
            None | Some(Value::Null) => return Vec::new(),
            Some(Value::Array(items)) => items.as_slice(),
            Some(lone) => std::slice::from_ref(lone),
        };
        let objects: Vec<&Value> = items.iter().filter(|item| item.is_object()).collect();
        let others = items.len() - objects.len();
        count(&mut self.out.oddities.malformed, others);
        objects
    }

    fn change(&mut self, change: &Value) {
        let field = text(change, "field");
        let Some(value) = change.get("value").filter(|value| value.is_object()) else {
            count(&mut self.out.oddities.malformed, 1);
            return;
        };
        match field.as_deref() {
            Some("account_update" | "account_settings_update") => self.account(&label(field), value),
            Some("calls" | "messages") | None => self.updates(&label(field), value),
            Some(_) => self.unknown(label(field), text(value, "event"), None),
        }
    }

    /// Calls, statuses, messages and errors: all of them, in whichever field they come.
    fn updates(&mut self, field: &Label, value: &Value) {
        let calls = self.list(value, "calls");
        let statuses = self.list(value, "statuses");
        let messages = self.list(value, "messages");
        let updates = calls.len() + statuses.len() + messages.len();
        let number = value.get("metadata").and_then(|metadata| text(metadata, "phone_number_id"));
        if number.as_deref().is_some_and(|number| number != self.ours) {
            count(&mut self.out.oddities.other_number, updates.max(1));
            return;
        }
        let context = Context {
            number,
            contacts: self.list(value, "contacts"),
            errors: if calls.len() == 1 { codes(value) } else { Vec::new() },
        };
        for call in calls {
            self.call(field, &context, call);
        }
        for status in statuses {
            self.status(field, status);
        }
        for message in messages {
            self.message(&context, message);
        }
        if updates == 0 {
            let codes = codes(value);
            if codes.is_empty() {
                self.unknown(field.clone(), text(value, "event"), None);
            } else {
                self.out.events.push(WebhookEvent::Errors(FieldErrors { field: field.clone(), codes }));
            }
        }
    }

    fn call(&mut self, field: &Label, context: &Context<'_>, call: &Value) {
        let Some(wacid) = pii(call, "id") else {
            count(&mut self.out.oddities.nameless, 1);
            return;
        };
        let event = text(call, "event");
        let shape = event.as_deref().map_or_else(|| guess(call), |event| Some(Shape::of(event)));
        match shape {
            Some(Shape::Connect) => self.out.events.push(WebhookEvent::Connect(connect(context, wacid, call))),
            Some(Shape::Terminate) => self.out.events.push(WebhookEvent::Terminate(terminate(context, wacid, call))),
            Some(Shape::Other) | None => self.unknown(field.clone(), event, Some(wacid)),
        }
    }

    fn status(&mut self, field: &Label, status: &Value) {
        let Some(id) = pii(status, "id") else {
            count(&mut self.out.oddities.nameless, 1);
            return;
        };
        let word = text(status, "status").unwrap_or_default();
        let timestamp = time(status, "timestamp");
        let opaque = pii(status, "biz_opaque_callback_data");
        let of_a_call = text(status, "type").as_deref() == Some("call")
            || field.as_str() == "calls"
            || id.expose().starts_with(WACID_PREFIX);
        self.out.events.push(if of_a_call {
            let recipient = address(text(status, "recipient_id"), text(status, "recipient_user_id"));
            let status = ring_status(&word);
            WebhookEvent::CallStatus(CallStatus { wacid: id, status, timestamp, recipient, opaque })
        } else {
            let status_word = delivery(&word);
            let error_codes = codes(status);
            WebhookEvent::MessageStatus(MessageStatus { id, status: status_word, timestamp, opaque, error_codes })
        });
    }

    fn message(&mut self, context: &Context<'_>, message: &Value) {
        let Some(id) = pii(message, "id") else {
            count(&mut self.out.oddities.nameless, 1);
            return;
        };
        let (from, name) = context.person(text(message, "from"), text(message, "from_user_id"));
        self.out.events.push(WebhookEvent::Message(InboundMessage {
            id,
            from,
            name,
            timestamp: time(message, "timestamp"),
            kind: label(text(message, "type")),
        }));
    }

    fn account(&mut self, field: &Label, value: &Value) {
        let mut details = Vec::new();
        let mut event = text(value, "event");
        if let Some(settings) = value.get("phone_number_settings") {
            if text(settings, "phone_number_id").is_some_and(|number| number != self.ours) {
                count(&mut self.out.oddities.other_number, 1);
                return;
            }
            let calling = settings.get("calling").unwrap_or(&Value::Null);
            let sip = calling.get("sip").unwrap_or(&Value::Null);
            for (name, parent, key) in [
                ("status", calling, "status"),
                ("icons", calling, "call_icon_visibility"),
                ("callback", calling, "callback_permission_status"),
                ("srtp", calling, "srtp_key_exchange_protocol"),
                ("sip.status", sip, "status"),
            ] {
                details.extend(text(parent, key).map(|setting| Label::new(&format!("{name}:{setting}"))));
            }
            event = event.or_else(|| text(value, "type"));
        }
        let violation = value.get("violation_info").and_then(|info| text(info, "violation_type"));
        details.extend(violation.map(|kind| Label::new(&kind)));
        for restriction in self.list(value, "restriction_info") {
            details.extend(text(restriction, "restriction_type").map(|kind| Label::new(&kind)));
        }
        self.out.events.push(WebhookEvent::Account(AccountEvent {
            field: field.clone(),
            event: label(event),
            details,
        }));
    }

    fn unknown(&mut self, field: Label, event: Option<String>, wacid: Option<Pii>) {
        count(&mut self.out.oddities.unknown, 1);
        let event = event.map(|event| Label::new(&event));
        self.out.events.push(WebhookEvent::Unknown(Unknown { field, event, wacid }));
    }
}

/// What the calls of one value share.
struct Context<'v> {
    number: Option<String>,
    contacts: Vec<&'v Value>,
    /// Errors beside a lone call are its own, often told twice.
    errors: Vec<i64>,
}

impl Context<'_> {
    /// The person with this number or BSUID, and the name that the contacts give; a lone contact fits anybody
    /// of whom the call itself says nothing.
    fn person(&self, number: Option<String>, bsuid: Option<String>) -> (CallerAddress, Option<Pii>) {
        let named = number.is_some() || bsuid.is_some();
        let fits = |contact: &&&Value| {
            let same = |ours: &Option<String>, key| ours.is_some() && *ours == text(contact, key);
            same(&number, "wa_id") || same(&bsuid, "user_id") || (!named && self.contacts.len() == 1)
        };
        let contact = self.contacts.iter().find(fits).copied();
        let of_contact = |key| contact.and_then(|contact| text(contact, key));
        let number = number.or_else(|| of_contact("wa_id"));
        let bsuid = bsuid.or_else(|| of_contact("user_id"));
        let profile = contact.and_then(|contact| contact.get("profile"));
        (address(number, bsuid), profile.and_then(|profile| pii(profile, "name")))
    }
}

enum Shape {
    Connect,
    Terminate,
    Other,
}

impl Shape {
    fn of(event: &str) -> Self {
        match event.to_ascii_lowercase().as_str() {
            "connect" => Self::Connect,
            "terminate" => Self::Terminate,
            _ => Self::Other,
        }
    }
}

/// What a call without `event` must be.
fn guess(call: &Value) -> Option<Shape> {
    if call.get("session").is_some_and(Value::is_object) {
        return Some(Shape::Connect);
    }
    ["status", "end_time", "duration"].iter().any(|key| call.get(*key).is_some()).then_some(Shape::Terminate)
}

fn connect(context: &Context<'_>, wacid: Pii, call: &Value) -> CallConnect {
    let session = call.get("session").unwrap_or(&Value::Null);
    let sdp = session.get("sdp").and_then(Value::as_str).filter(|sdp| !sdp.is_empty()).map(Pii::new);
    let kind = text(session, "sdp_type").map(|kind| kind.to_ascii_lowercase());
    let direction = direction(call).unwrap_or(match kind.as_deref() {
        Some("answer") => Direction::BusinessInitiated,
        _ => Direction::UserInitiated,
    });
    let is_answer = kind.as_deref().map_or(direction == Direction::BusinessInitiated, |kind| kind == "answer");
    let (offer, answer) = if is_answer { (None, sdp) } else { (sdp, None) };
    let (caller, name) = person_of(context, direction, call);
    CallConnect {
        wacid,
        caller,
        name,
        to: pii(call, if direction == Direction::UserInitiated { "to" } else { "from" }),
        phone_number_id: context.number.clone(),
        timestamp: time(call, "timestamp"),
        direction,
        offer,
        answer,
        deeplink_payload: pii(call, "deeplink_payload"),
        cta_payload: pii(call, "cta_payload"),
        opaque: pii(call, "biz_opaque_callback_data"),
    }
}

fn terminate(context: &Context<'_>, wacid: Pii, call: &Value) -> CallTerminate {
    let status = text(call, "status");
    let (caller, _) = person_of(context, direction(call).unwrap_or(Direction::UserInitiated), call);
    let own = codes(call);
    CallTerminate {
        wacid,
        caller,
        phone_number_id: context.number.clone(),
        timestamp: time(call, "timestamp"),
        status: match status.as_deref().map(str::to_ascii_lowercase).as_deref() {
            Some("completed") => TerminateStatus::Completed,
            Some("failed") => TerminateStatus::Failed,
            Some(_) => TerminateStatus::Other(label(status)),
            None => TerminateStatus::Missing,
        },
        start_time: time(call, "start_time"),
        end_time: time(call, "end_time"),
        duration: integer(call, "duration").and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs),
        error_codes: if own.is_empty() { context.errors.clone() } else { own },
        opaque: pii(call, "biz_opaque_callback_data").or_else(|| pii(call, "biz_opaque_callback_date")),
    }
}

/// The person at the other end: the sender of a user's call, the receiver of ours.
fn person_of(context: &Context<'_>, direction: Direction, call: &Value) -> (CallerAddress, Option<Pii>) {
    let (number, bsuid) = match direction {
        Direction::UserInitiated => ("from", "from_user_id"),
        Direction::BusinessInitiated => ("to", "to_user_id"),
    };
    context.person(text(call, number), text(call, bsuid))
}

fn direction(call: &Value) -> Option<Direction> {
    match text(call, "direction")?.to_ascii_uppercase().as_str() {
        "USER_INITIATED" => Some(Direction::UserInitiated),
        "BUSINESS_INITIATED" => Some(Direction::BusinessInitiated),
        _ => None,
    }
}

fn ring_status(word: &str) -> RingStatus {
    match word.to_ascii_lowercase().as_str() {
        "ringing" => RingStatus::Ringing,
        "accepted" => RingStatus::Accepted,
        "rejected" => RingStatus::Rejected,
        _ => RingStatus::Other(Label::new(word)),
    }
}

fn delivery(word: &str) -> Delivery {
    match word.to_ascii_lowercase().as_str() {
        "sent" => Delivery::Sent,
        "delivered" => Delivery::Delivered,
        "read" => Delivery::Read,
        "played" => Delivery::Played,
        "failed" => Delivery::Failed,
        _ => Delivery::Other(Label::new(word)),
    }
}

/// Keeps the two ids of a person as they are, but for a `+`: digits are never picked out of other text.
/// An id in the wrong field goes to the right one.
fn address(number: Option<String>, bsuid: Option<String>) -> CallerAddress {
    let mut out = CallerAddress::default();
    for id in [bsuid, number].into_iter().flatten() {
        let digits = id.strip_prefix('+').unwrap_or(&id);
        if (4..=20).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit()) {
            out.number = Some(Pii::new(digits));
        } else if out.bsuid.is_none() && id.len() <= 256 && !id.contains(|letter: char| letter.is_control()) {
            out.bsuid = Some(Pii::new(id));
        }
    }
    out
}

/// The codes of an `errors` array, each once; only `code` can be relied on.
fn codes(parent: &Value) -> Vec<i64> {
    let mut codes = Vec::new();
    let errors = match parent.get("errors") {
        Some(Value::Array(errors)) => errors.as_slice(),
        Some(lone @ Value::Object(_)) => std::slice::from_ref(lone),
        _ => &[],
    };
    for code in errors.iter().filter_map(|error| integer(error, "code")) {
        if codes.len() < MOST_CODES && !codes.contains(&code) {
            codes.push(code);
        }
    }
    codes
}

/// A string, or a whole number written as one; trimmed, never empty.
fn text(parent: &Value, key: &str) -> Option<String> {
    match parent.get(key)? {
        Value::String(text) => Some(text.trim()).filter(|text| !text.is_empty()).map(str::to_owned),
        Value::Number(number) if !number.is_f64() => Some(number.to_string()),
        _ => None,
    }
}

fn pii(parent: &Value, key: &str) -> Option<Pii> {
    text(parent, key).map(Pii::new)
}

fn integer(parent: &Value, key: &str) -> Option<i64> {
    match parent.get(key)? {
        Value::String(text) => text.trim().parse().ok(),
        Value::Number(number) => number.as_i64(),
        _ => None,
    }
}

/// A time in epoch seconds (or, of that size, milliseconds), as a string or a number.
fn time(parent: &Value, key: &str) -> Option<Timestamp> {
    let count = integer(parent, key)?;
    if count >= FIRST_MILLISECOND_TIME {
        return Timestamp::from_millisecond(count).ok();
    }
    Timestamp::from_second(count).ok()
}

fn label(text: Option<String>) -> Label {
    Label::new(&text.unwrap_or_default())
}

fn count(counter: &mut u32, by: usize) {
    *counter = counter.saturating_add(u32::try_from(by).unwrap_or(u32::MAX));
}

#[cfg(test)]
#[path = "webhook_tests.rs"]
mod tests;
