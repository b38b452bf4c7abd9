//! Webhook bodies as Meta writes them: every generation and every variant, escaped and signed like the real ones.
//!
//! Ids, numbers and times are strings on the wire, whatever the papers say; only `duration` and codes are numbers.

use std::fmt;
use std::io;

use jiff::Timestamp;
use sauti_core::pii::Pii;
use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};
use serde_json::{Map, Value, json};

use super::calls::Ending;
use super::dice::{ALPHANUMERIC, Dice};
use super::person::{Business, Person};

/// Which keys Meta puts into a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Generation {
    /// Numbers only, no business-scoped user ids.
    Of2025,
    /// Numbers and business-scoped user ids.
    Of2026,
    /// The person hides the number behind a user name: neither `from` nor `wa_id`.
    UsernameOnly,
    /// The `contacts` are left out.
    ContactsAbsent,
}

impl Generation {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Of2025, Self::Of2026, Self::UsernameOnly, Self::ContactsAbsent];

    const fn has_number(self) -> bool {
        !matches!(self, Self::UsernameOnly)
    }

    const fn has_bsuid(self) -> bool {
        !matches!(self, Self::Of2025)
    }
}

/// How the error of a failed call is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ErrorForm {
    /// In the call and beside it, with `title`, `message` and `error_data`: as captured.
    Doubled,
    /// Beside the call, with `href`: as documented.
    Documented,
    /// In the call, `code` and `title` alone: seen in the field.
    Minimal,
}

/// One change of a webhook body.
#[derive(Clone, PartialEq)]
pub struct Change {
    field: String,
    value: Value,
    /// `entry.time`, which account updates have.
    time: Option<i64>,
}

impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Change({})", self.field)
    }
}

impl Change {
    /// A change of any field with any value: for what this program does not know.
    #[must_use]
    pub fn new(field: impl Into<String>, value: Value) -> Self {
        Self { field: field.into(), value, time: None }
    }

    /// The field's name.
    #[must_use]
    pub fn field(&self) -> &str {
        &self.field
    }
}

/// Writes the changes of one business number.
#[derive(Debug, Clone)]
pub struct Webhooks {
    /// The number.
    pub business: Business,
    /// The keys in use.
    pub generation: Generation,
}

impl Webhooks {
    /// A person calls. `offer` should carry the same time in its `o=` line.
    #[must_use]
    pub fn connect(&self, wall: Timestamp, wacid: &Pii, person: &Person, offer: &Pii) -> Change {
        let mut call = self.call(wall, wacid, person, "connect");
        call.insert("session".to_owned(), json!({"sdp": offer, "sdp_type": "offer"}));
        self.calls(person, call, None)
    }

    /// A connect that came through a deep link or a call button.
    #[must_use]
    pub fn connect_with_payload(
        &self,
        wall: Timestamp,
        wacid: &Pii,
        person: &Person,
        offer: &Pii,
        payload: &str,
    ) -> Change {
        let mut change = self.connect(wall, wacid, person, offer);
        if let Some(call) = change.value.pointer_mut("/calls/0") {
            call["deeplink_payload"] = json!(payload);
            call["cta_payload"] = json!(payload);
        }
        change
    }

    /// The call is over. `opaque` is what the box gave when it accepted.
    #[must_use]
    pub fn terminate(
        &self,
        wall: Timestamp,
        wacid: &Pii,
        person: &Person,
        ending: &Ending,
        form: ErrorForm,
        opaque: Option<&str>,
    ) -> Change {
        let mut call = self.call(wall, wacid, person, "terminate");
        let mut put = |key: &str, value: Value| call.insert(key.to_owned(), value);
        put("deeplink_payload", json!(""));
        put("cta_payload", json!(""));
        put("biz_opaque_callback_data", json!(opaque.unwrap_or_default()));
        put("status", json!(if ending.code().is_some() { "FAILED" } else { "COMPLETED" }));
        if let Some(start) = ending.start {
            put("start_time", seconds(start));
            put("end_time", seconds(ending.end));
            put("duration", json!(ending.end.as_second().saturating_sub(start.as_second()).max(0)));
        }
        let Some(code) = ending.code() else { return self.calls(person, call, None) };
        let title = error_title(code);
        let beside = match form {
            ErrorForm::Doubled => {
                let errors =
                    json!([{"code": code, "title": title, "message": title, "error_data": {"details": title}}]);
                put("errors", errors.clone());
                Some(errors)
            }
            ErrorForm::Documented => Some(json!([{
                "code": code,
                "message": title,
                "href": "https://developers.facebook.com/docs/whatsapp/cloud-api/support/error-codes/",
                "error_data": {"details": title},
            }])),
            ErrorForm::Minimal => {
                put("errors", json!([{"code": code, "title": title}]));
                None
            }
        };
        self.calls(person, call, beside)
    }

    /// How a call that the business began rings: `RINGING`, `ACCEPTED` or `REJECTED`.
    #[must_use]
    pub fn call_status(&self, wall: Timestamp, wacid: &Pii, person: &Person, status: &str, opaque: &str) -> Change {
        let mut value = self.value();
        let mut entry = self.status(wall, wacid, person, status, Some(opaque));
        entry.insert("type".to_owned(), json!("call"));
        self.put_contacts(&mut value, person);
        value.insert("statuses".to_owned(), json!([entry]));
        Change::new("calls", Value::Object(value))
    }

    /// The relay's answer to a call that the business began.
    #[must_use]
    pub fn connect_answer(&self, wall: Timestamp, wacid: &Pii, person: &Person, answer: &Pii) -> Change {
        let mut call = Map::from_iter([
            ("id".to_owned(), json!(wacid)),
            ("from".to_owned(), json!(self.business.number)),
            ("event".to_owned(), json!("connect")),
            ("timestamp".to_owned(), seconds(wall)),
            ("direction".to_owned(), json!("BUSINESS_INITIATED")),
            ("session".to_owned(), json!({"sdp": answer, "sdp_type": "answer"})),
        ]);
        self.put_ids(&mut call, person, "to", "to_user_id");
        self.calls(person, call, None)
    }

    /// What became of a message of ours: `sent`, `delivered`, `read`, `failed`; a failed one carries a code.
    #[must_use]
    pub fn message_status(
        &self,
        wall: Timestamp,
        id: &Pii,
        person: &Person,
        status: &str,
        opaque: Option<&str>,
        code: Option<i64>,
    ) -> Change {
        let mut entry = self.status(wall, id, person, status, opaque);
        if let Some(code) = code {
            let title = error_title(code);
            let error = json!({"code": code, "title": title, "message": title, "error_data": {"details": title}});
            entry.insert("errors".to_owned(), json!([error]));
        } else {
            let pricing = json!({"billable": false, "pricing_model": "PMP", "type": "free_customer_service",
                "category": "service"});
            entry.insert("pricing".to_owned(), pricing);
        }
        let mut value = self.value();
        self.put_contacts(&mut value, person);
        value.insert("statuses".to_owned(), json!([entry]));
        Change::new("messages", Value::Object(value))
    }

    /// A person wrote a text.
    #[must_use]
    pub fn text(&self, wall: Timestamp, id: &Pii, person: &Person, body: &str) -> Change {
        let mut message = Map::from_iter([
            ("id".to_owned(), json!(id)),
            ("timestamp".to_owned(), seconds(wall)),
            ("type".to_owned(), json!("text")),
            ("text".to_owned(), json!({"body": body})),
        ]);
        self.put_ids(&mut message, person, "from", "from_user_id");
        let mut value = self.value();
        self.put_contacts(&mut value, person);
        value.insert("messages".to_owned(), json!([message]));
        Change::new("messages", Value::Object(value))
    }

    /// A call event that is neither `connect` nor `terminate`: `call_created`, `call_recording_available` and others.
    #[must_use]
    pub fn other_call_event(&self, wall: Timestamp, wacid: &Pii, person: &Person, event: &str) -> Change {
        let mut call = self.call(wall, wacid, person, event);
        if event == "call_transcription_available" {
            let document = json!({"id": "1002003004005006", "sha256": "SGVsbG8=", "mime_type": "application/json",
                "url": "https://lookaside.fbsbx.com/whatsapp_business/attachments/?mid=1002003004005006"});
            call.insert("call_transcript".to_owned(), json!({ "document": document }));
        }
        self.calls(person, call, None)
    }

    /// Errors without a call: 131044 when no payment method is there.
    #[must_use]
    pub fn errors(&self, code: i64) -> Change {
        let title = error_title(code);
        let mut value = self.value();
        let error = json!({"code": code, "title": title, "message": title, "error_data": {"details": title}});
        value.insert("errors".to_owned(), json!([error]));
        Change::new("calls", Value::Object(value))
    }

    /// The settings changed; `value` comes from [`super::graph::Graph::settings_webhook`].
    #[must_use]
    pub fn settings_update(&self, wall: Timestamp, mut value: Value) -> Change {
        value["timestamp"] = seconds(wall);
        Change::new("account_settings_update", value)
    }

    /// The number is restricted: callers find no call button.
    #[must_use]
    pub fn restriction(&self, wall: Timestamp) -> Change {
        let restriction = json!({"restriction_type": "RESTRICTED_USER_INITIATED_CALLING",
            "expiration": wall.as_second().saturating_add(7 * 86_400)});
        let value = json!({"phone_number": self.business.number, "event": "ACCOUNT_RESTRICTION",
            "restriction_info": [restriction]});
        Change { time: Some(wall.as_second()), ..Change::new("account_update", value) }
    }

    fn value(&self) -> Map<String, Value> {
        Map::from_iter([
            ("messaging_product".to_owned(), json!("whatsapp")),
            (
                "metadata".to_owned(),
                json!({
                    "display_phone_number": self.business.number,
                    "phone_number_id": self.business.phone_number_id,
                }),
            ),
        ])
    }

    fn call(&self, wall: Timestamp, wacid: &Pii, person: &Person, event: &str) -> Map<String, Value> {
        let mut call = Map::from_iter([
            ("id".to_owned(), json!(wacid)),
            ("to".to_owned(), json!(self.business.number)),
            ("event".to_owned(), json!(event)),
            ("timestamp".to_owned(), seconds(wall)),
            ("direction".to_owned(), json!("USER_INITIATED")),
        ]);
        self.put_ids(&mut call, person, "from", "from_user_id");
        call
    }

    fn status(
        &self,
        wall: Timestamp,
        id: &Pii,
        person: &Person,
        status: &str,
        opaque: Option<&str>,
    ) -> Map<String, Value> {
        let mut entry = Map::from_iter([
            ("id".to_owned(), json!(id)),
            ("status".to_owned(), json!(status)),
            ("timestamp".to_owned(), seconds(wall)),
        ]);
        self.put_ids(&mut entry, person, "recipient_id", "recipient_user_id");
        if let Some(opaque) = opaque {
            entry.insert("biz_opaque_callback_data".to_owned(), json!(opaque));
        }
        entry
    }

    fn put_ids(&self, object: &mut Map<String, Value>, person: &Person, number: &str, bsuid: &str) {
        if self.generation.has_number() {
            object.insert(number.to_owned(), json!(person.number));
        }
        if self.generation.has_bsuid() {
            object.insert(bsuid.to_owned(), json!(person.bsuid));
        }
    }

    fn put_contacts(&self, value: &mut Map<String, Value>, person: &Person) {
        if self.generation == Generation::ContactsAbsent {
            return;
        }
        let mut profile = json!({"name": person.name});
        if let Some(username) = person.username.as_ref().filter(|_| self.generation.has_bsuid()) {
            profile["username"] = json!(username);
        }
        let mut contact = Map::from_iter([("profile".to_owned(), profile)]);
        self.put_ids(&mut contact, person, "wa_id", "user_id");
        value.insert("contacts".to_owned(), json!([contact]));
    }

    fn calls(&self, person: &Person, call: Map<String, Value>, errors: Option<Value>) -> Change {
        let mut value = self.value();
        self.put_contacts(&mut value, person);
        value.insert("calls".to_owned(), json!([call]));
        if let Some(errors) = errors {
            value.insert("errors".to_owned(), errors);
        }
        Change::new("calls", Value::Object(value))
    }
}

/// Times are strings.
fn seconds(wall: Timestamp) -> Value {
    json!(wall.as_second().to_string())
}

const fn error_title(code: i64) -> &'static str {
    match code {
        131_044 => "Business eligibility payment issue",
        131_047 => "Re-engagement message",
        138_019 => "WhatsApp client could not set the call up",
        138_020 => "WhatsApp relay could not connect",
        138_021 => {
            "WhatsApp client terminated the call due to not receiving any media for a long time. Please try again"
        }
        138_022 => "WhatsApp client terminated the call due to not transmitting any media for a long time",
        138_023 => "Call was accepted but no media signals were received",
        _ => "An error occurred",
    }
}

/// The bytes of one POST: all changes under one entry, `/` and non-ASCII letters escaped.
#[must_use]
pub fn body(business: &Business, changes: &[Change]) -> Vec<u8> {
    let mut entry = json!({
        "id": business.waba_id,
        "changes": changes.iter().map(|change| json!({"value": change.value, "field": change.field})).collect::<Vec<_>>(),
    });
    if let Some(time) = changes.iter().find_map(|change| change.time) {
        entry["time"] = json!(time);
    }
    escaped(&json!({"object": "whatsapp_business_account", "entry": [entry]}))
}

/// JSON in Meta's spelling.
#[must_use]
pub fn escaped(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    // Writing a Value to a Vec cannot fail.
    let written = value.serialize(&mut Serializer::with_formatter(&mut bytes, MetaSpelling)).is_ok();
    if written { bytes } else { Vec::new() }
}

/// Compact JSON, with `\/` and `\uXXXX`.
struct MetaSpelling;

impl Formatter for MetaSpelling {
    fn write_string_fragment<W>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()>
    where
        W: ?Sized + io::Write,
    {
        let mut units = [0_u16; 2];
        for letter in fragment.chars() {
            match letter {
                '/' => writer.write_all(b"\\/")?,
                _ if letter.is_ascii() => writer.write_all(letter.encode_utf8(&mut [0; 4]).as_bytes())?,
                _ => {
                    for unit in letter.encode_utf16(&mut units) {
                        write!(writer, "\\u{unit:04x}")?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Meta's verification request: the query to ask with, and the text that must come back.
#[must_use]
pub fn verification(verify_token: &str, dice: &mut Dice) -> (String, String) {
    let challenge = format!("{}-{}", dice.below(10_000_000_000), dice.text(8, ALPHANUMERIC));
    let encoded: String = verify_token
        .bytes()
        .map(|byte| {
            let plain = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
            if plain { char::from(byte).to_string() } else { format!("%{byte:02X}") }
        })
        .collect();
    (format!("hub.mode=subscribe&hub.challenge={challenge}&hub.verify_token={encoded}"), challenge)
}

#[cfg(test)]
#[path = "webhooks_tests.rs"]
mod tests;
