//! The emulated Graph API: requests in, replies and effects out. Strict, seeded, and faulty on demand.
//!
//! Any `/vN.M/{number}/calls|messages|settings|call_permissions|media`, and the number itself for its health.
//! It opens no socket: whoever drives it writes the reply after its delay, or none if there is none.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use sauti_core::now::Now;
use sauti_core::pii::Pii;
use sauti_core::whatsapp::graph::{Ask, LONGEST_OPAQUE, LONGEST_TEXT};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

pub use super::calls::{CallRecord, Cause, Ending, GraphEffect, Patience};
use super::calls::{Calls, Carried, Refusal};
use super::dice::Dice;
use super::person::Person;
use super::replies::{Body, Said, error, query_value, route, success};
pub use super::replies::{HttpReply, HttpRequest};
use super::settings::Settings;
use super::wacid::{wacid, wamid};

/// How long a sign of life of a person allows free texts.
const WINDOW: Duration = Duration::from_secs(24 * 3600);

/// What the emulated Graph is like.
#[derive(Debug, Clone)]
pub struct GraphOptions {
    /// The one number's id.
    pub phone_number_id: String,
    /// Digits of the number.
    pub business: Pii,
    /// The bearer token that is right.
    pub access_token: SecretString,
    /// If set, `appsecret_proof` is demanded.
    pub app_secret: Option<SecretString>,
    /// Shortest and longest time before a reply.
    pub latency: (Duration, Duration),
    /// How long the other side waits.
    pub patience: Patience,
    /// Calls at one time; Meta's 1000.
    pub most_calls: usize,
    /// The code of a refused SDP: 138008, or 100 as the papers have it.
    pub sdp_code: i64,
}

impl GraphOptions {
    /// Options that answer at once, for a token and a number.
    #[must_use]
    pub fn prompt(phone_number_id: impl Into<String>, access_token: SecretString) -> Self {
        Self {
            phone_number_id: phone_number_id.into(),
            business: Pii::new("35690000002"),
            access_token,
            app_secret: None,
            latency: (Duration::ZERO, Duration::ZERO),
            patience: Patience::default(),
            most_calls: 1_000,
            sdp_code: 138_008,
        }
    }

    /// The same with latencies as in the field: 50 to 400 ms.
    #[must_use]
    pub fn real(phone_number_id: impl Into<String>, access_token: SecretString) -> Self {
        let latency = (Duration::from_millis(50), Duration::from_millis(400));
        Self { latency, ..Self::prompt(phone_number_id, access_token) }
    }
}

/// Something that goes wrong on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A gateway's error page instead of an answer; nothing is done.
    Status(u16),
    /// An error envelope; nothing is done.
    Code {
        /// HTTP status.
        http: u16,
        /// Graph's code.
        code: i64,
    },
    /// `"success": false`; nothing is done.
    NotDone,
    /// No answer at all.
    Silence {
        /// What was asked is done all the same.
        done: bool,
    },
    /// Done and answered, but later than usual.
    Slow(Duration),
}

/// When a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FaultRule {
    /// On this ask alone; `None` = on each.
    pub on: Option<Ask>,
    /// Lets so many pass first.
    pub skip: u32,
    /// Then strikes so often; `u32::MAX` = for good.
    pub times: u32,
    /// What happens.
    pub fault: Fault,
}

/// A text message that the box sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentText {
    /// When it was taken.
    pub at: Instant,
    /// Number with `+`, or BSUID, as the box wrote it.
    pub to: Pii,
    /// It went to `recipient`, not to `to`.
    pub by_bsuid: bool,
    /// `to` had no `+`: on paper Graph may put the business's country code in front, and reach somebody else.
    pub without_plus: bool,
    /// The words.
    pub body: Pii,
    /// `biz_opaque_callback_data`.
    pub opaque: Option<String>,
    /// The id that it got.
    pub id: Pii,
}

/// A request as it came, for assertions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// When.
    pub at: Instant,
    /// What was asked; `None` for anything but calls and texts.
    pub ask: Option<Ask>,
    /// What was answered; `None` = nothing.
    pub status: Option<u16>,
}

/// The emulated Graph API of one number.
#[derive(Debug)]
pub struct Graph {
    options: GraphOptions,
    dice: Dice,
    calls: Calls,
    settings: Settings,
    faults: Vec<FaultRule>,
    windows: BTreeMap<Pii, Instant>,
    permitted: BTreeSet<Pii>,
    texts: Vec<SentText>,
    seen: Vec<Seen>,
}

impl Graph {
    /// Starts with no calls and no faults.
    #[must_use]
    pub fn new(options: GraphOptions, seed: u64) -> Self {
        Self {
            calls: Calls::new(options.patience),
            settings: Settings::new(&options.phone_number_id),
            options,
            dice: Dice::new(seed),
            faults: Vec::new(),
            windows: BTreeMap::new(),
            permitted: BTreeSet::new(),
            texts: Vec::new(),
            seen: Vec::new(),
        }
    }

    /// A person calls. False when the number has as many calls as it may: then no webhook may be sent either.
    /// Texts to the person are allowed for 24 hours, whatever becomes of the call.
    pub fn ring(&mut self, now: Now, wacid: &Pii, person: &Person, offer: &Pii) -> bool {
        if self.calls.running() >= self.options.most_calls {
            return false;
        }
        self.sign_of_life(now, person);
        self.calls.ring(now, wacid, &person.number, offer);
        true
    }

    /// A fresh id for a call of this person.
    pub fn new_wacid(&mut self, person: &Person, padded: bool) -> Pii {
        wacid(&mut self.dice, &person.number, &self.options.business, padded)
    }

    /// The person called or wrote: free texts are allowed for 24 hours.
    pub fn sign_of_life(&mut self, now: Now, person: &Person) {
        self.windows.insert(person.number.clone(), now.mono);
        self.windows.insert(person.bsuid.clone(), now.mono);
    }

    /// The person lets the business call.
    pub fn permit_calls(&mut self, person: &Person) {
        self.permitted.insert(person.number.clone());
        self.permitted.insert(person.bsuid.clone());
    }

    /// Puts a fault in, behind those already there.
    pub fn inject(&mut self, rule: FaultRule) {
        self.faults.push(rule);
    }

    /// The person hangs up, or a media fault strikes.
    pub fn end(&mut self, now: Now, wacid: &Pii, cause: Cause, out: &mut Vec<GraphEffect>) {
        self.calls.end(now, wacid, cause, out);
    }

    /// Media of the box arrived at the relay, RTCP included.
    pub fn media(&mut self, now: Now, wacid: &Pii) {
        self.calls.media(now, wacid);
    }

    /// When [`Graph::tick`] has something to do next.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.calls.deadline()
    }

    /// Ends the calls whose patience is over.
    pub fn tick(&mut self, now: Now, out: &mut Vec<GraphEffect>) {
        self.calls.tick(now, out);
    }

    /// What a call went through.
    #[must_use]
    pub fn record(&self, wacid: &Pii) -> Option<&CallRecord> {
        self.calls.record(wacid)
    }

    /// All calls' records, the ended ones included.
    pub fn records(&self) -> impl Iterator<Item = &CallRecord> {
        self.calls.records()
    }

    /// The texts that the box sent, in order.
    #[must_use]
    pub fn texts(&self) -> &[SentText] {
        &self.texts
    }

    /// The requests that came, in order.
    #[must_use]
    pub fn seen(&self) -> &[Seen] {
        &self.seen
    }

    /// The settings as a webhook tells them.
    #[must_use]
    pub fn settings_webhook(&self) -> Value {
        self.settings.webhook()
    }

    /// Forgets ended calls, texts and requests, so that a long run stays small.
    pub fn forget(&mut self) {
        self.calls.forget_ended();
        self.texts.clear();
        self.seen.clear();
    }

    /// Answers a request; `None` = never, the connection stays open until the client gives up.
    pub fn handle(&mut self, now: Now, request: HttpRequest<'_>, out: &mut Vec<GraphEffect>) -> Option<HttpReply> {
        let (shortest, longest) = self.options.latency;
        let mut delay = self.dice.between(shortest, longest);
        let body = serde_json::from_slice(request.body).unwrap_or(Value::Null);
        let ask = route(request.path).and_then(|(_, edge, _)| ask_of(edge, request.method, &body));
        let fault = ask.and_then(|ask| self.strike(ask));
        if let Some(Fault::Slow(more)) = fault {
            delay = delay.saturating_add(more);
        }
        let said = match fault {
            Some(Fault::Status(status)) => {
                let page = format!("<html><body>{status}</body></html>").into_bytes();
                self.seen.push(Seen { at: now.mono, ask, status: Some(status) });
                return Some(HttpReply { status, body: page, delay });
            }
            Some(Fault::Code { http, code }) => Some(error(&mut self.dice, http, code, None, "")),
            Some(Fault::NotDone) => Some(success(false)),
            Some(Fault::Silence { done }) => {
                if done {
                    self.answer(now, delay, &request, &body, out);
                }
                None
            }
            Some(Fault::Slow(_)) | None => Some(self.answer(now, delay, &request, &body, out)),
        };
        self.seen.push(Seen { at: now.mono, ask, status: said.as_ref().map(|(status, _)| *status) });
        said.map(|(status, body)| HttpReply { status, body: body.to_string().into_bytes(), delay })
    }

    /// The fault that strikes now.
    fn strike(&mut self, ask: Ask) -> Option<Fault> {
        let rule = self.faults.iter_mut().find(|rule| rule.times > 0 && rule.on.is_none_or(|on| on == ask))?;
        if rule.skip > 0 {
            rule.skip -= 1;
            return None;
        }
        if rule.times != u32::MAX {
            rule.times -= 1;
        }
        Some(rule.fault)
    }

    fn answer(
        &mut self,
        now: Now,
        settle: Duration,
        request: &HttpRequest<'_>,
        body: &Value,
        out: &mut Vec<GraphEffect>,
    ) -> Said {
        let Some((number, edge, query)) = route(request.path) else {
            return error(&mut self.dice, 400, 2_500, None, "");
        };
        if let Some(refused) = self.refuse_stranger(request.authorization, number, query) {
            return refused;
        }
        match (request.method, edge) {
            ("POST", "calls" | "messages") if !body.is_object() => self.invalid("the body is no JSON object"),
            ("POST", "calls") => self.call(now, settle, body, out),
            ("POST", "messages") => self.message(now, body, out),
            ("GET", "settings") => {
                let with_credentials = query_value(query, "include_sip_credentials").as_deref() == Some("true");
                (200, self.settings.shown(with_credentials))
            }
            ("POST", "settings") => match self.settings.change(body, &mut self.dice) {
                Ok(()) => {
                    out.push(GraphEffect::SettingsChanged);
                    (200, json!({"success": true}))
                }
                Err(details) => self.invalid(&details),
            },
            ("GET", "call_permissions") => {
                let who = query_value(query, "user_wa_id").or_else(|| query_value(query, "recipient"));
                match who {
                    Some(who) => self.permissions(&who),
                    None => self.invalid("user_wa_id or recipient is required"),
                }
            }
            ("POST", "media") => (200, json!({"id": self.dice.below(1_000_000_000_000_000).to_string()})),
            ("GET", "") => (200, self.settings.health()),
            _ => error(&mut self.dice, 400, 100, Some(33), "Unsupported request"),
        }
    }

    /// Token, proof and number, in Graph's order.
    fn refuse_stranger(&mut self, authorization: Option<&str>, number: &str, query: &str) -> Option<Said> {
        let token = authorization.and_then(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
        });
        if token != Some(self.options.access_token.expose_secret()) {
            return Some(error(&mut self.dice, 401, 190, None, ""));
        }
        if let Some(secret) = &self.options.app_secret {
            let proof = sauti_core::whatsapp::signature::appsecret_proof(secret, &self.options.access_token);
            if query_value(query, "appsecret_proof") != Some(proof) {
                return Some(error(
                    &mut self.dice,
                    400,
                    100,
                    None,
                    "Invalid appsecret_proof provided in the API argument",
                ));
            }
        }
        if number != self.options.phone_number_id {
            let details = "Unsupported request. Object does not exist, cannot be loaded due to missing permissions";
            return Some(error(&mut self.dice, 400, 100, Some(33), details));
        }
        None
    }

    fn invalid(&mut self, details: &str) -> Said {
        error(&mut self.dice, 400, 100, None, details)
    }

    fn call(&mut self, now: Now, settle: Duration, body: &Value, out: &mut Vec<GraphEffect>) -> Said {
        if self.settings.is_sip() {
            return error(
                &mut self.dice,
                400,
                131_055,
                None,
                "Graph API calls are not allowed on a SIP enabled number",
            );
        }
        if !self.settings.is_enabled() {
            return error(&mut self.dice, 401, 138_000, None, "Calling is not enabled on this number");
        }
        let body = Body(body);
        if body.text("messaging_product") != Some("whatsapp") {
            return self.invalid("messaging_product must be whatsapp");
        }
        let opaque = body.text("biz_opaque_callback_data");
        if opaque.is_some_and(|opaque| opaque.len() > LONGEST_OPAQUE) {
            return self.invalid("biz_opaque_callback_data is longer than 512 characters");
        }
        let action = body.text("action").unwrap_or_default();
        if action == "connect" {
            return self.connect(now, body, opaque, out);
        }
        let Some(ask) = Ask::parse(action).filter(|ask| *ask != Ask::Text) else {
            return self.invalid("action must be one of pre_accept, accept, reject, terminate, connect");
        };
        let Some(wacid) = body.text("call_id").map(Pii::new) else {
            return self.invalid("call_id is required");
        };
        let session = body.inner("session");
        let answer = session.text("sdp").filter(|_| session.text("sdp_type") == Some("answer")).map(Pii::new);
        let carried = Carried { answer: answer.as_ref(), opaque };
        match self.calls.ask(now, settle, ask, &wacid, carried, out) {
            Ok(()) => success(true),
            Err(refusal) => self.refused(refusal),
        }
    }

    fn refused(&mut self, refusal: Refusal) -> Said {
        let code = if refusal.is_sdp() { self.options.sdp_code } else { 100 };
        error(&mut self.dice, 400, code, None, &refusal.to_string())
    }

    /// The box calls a person.
    fn connect(&mut self, now: Now, body: Body<'_>, opaque: Option<&str>, out: &mut Vec<GraphEffect>) -> Said {
        let Some((to, _)) = receiver(body) else { return self.invalid("to or recipient is required") };
        let session = body.inner("session");
        let Some(offer) = session.text("sdp").filter(|_| session.text("sdp_type") == Some("offer")).map(Pii::new)
        else {
            return self.invalid("session with sdp and sdp_type offer is required");
        };
        let plain = Pii::new(to.trim_start_matches('+'));
        if !self.permitted.contains(&plain) {
            return error(&mut self.dice, 401, 138_006, None, "");
        }
        if self.calls.records().any(|record| record.person == plain && record.ended.is_none()) {
            return error(&mut self.dice, 400, 138_003, None, "A call with this user is already ongoing");
        }
        if self.calls.running() >= self.options.most_calls {
            return error(&mut self.dice, 429, 138_002, None, "");
        }
        let wacid = wacid(&mut self.dice, &plain, &self.options.business, true);
        self.calls.ring(now, &wacid, &plain, &Pii::default());
        out.push(GraphEffect::Calling {
            wacid: wacid.clone(),
            to: Pii::new(to),
            offer,
            opaque: opaque.map(str::to_owned),
        });
        (200, json!({"messaging_product": "whatsapp", "calls": [{"id": wacid}]}))
    }

    fn message(&mut self, now: Now, body: &Value, out: &mut Vec<GraphEffect>) -> Said {
        let body = Body(body);
        if body.text("messaging_product") != Some("whatsapp") {
            return self.invalid("messaging_product must be whatsapp");
        }
        if body.text("status") == Some("read") {
            return success(true);
        }
        let Some((to, by_bsuid)) = receiver(body) else { return self.invalid("to or recipient is required") };
        let words = body.inner("text").text("body").unwrap_or_default();
        let kind = body.text("type").unwrap_or("text");
        if kind == "text" && !(1..=LONGEST_TEXT).contains(&words.chars().count()) {
            return self.invalid("text.body must have 1 to 4096 characters");
        }
        let opaque = body.text("biz_opaque_callback_data").map(str::to_owned);
        if opaque.as_ref().is_some_and(|opaque| opaque.len() > LONGEST_OPAQUE) {
            return self.invalid("biz_opaque_callback_data is longer than 512 characters");
        }
        let plain = to.trim_start_matches('+');
        let open = self.windows.get(&Pii::new(plain)).is_some_and(|since| now.mono.duration_since(*since) < WINDOW);
        if !open && kind != "template" {
            return error(&mut self.dice, 400, 131_047, None, "More than 24 hours have passed since the last reply");
        }
        let id = wamid(&mut self.dice, plain);
        out.push(GraphEffect::TextTaken { id: id.clone(), to: Pii::new(to), opaque: opaque.clone() });
        self.texts.push(SentText {
            at: now.mono,
            to: Pii::new(to),
            by_bsuid,
            without_plus: !by_bsuid && !to.starts_with('+'),
            body: Pii::new(words),
            opaque,
            id: id.clone(),
        });
        let known = if by_bsuid { "user_id" } else { "wa_id" };
        (
            200,
            json!({
                "messaging_product": "whatsapp",
                "contacts": [{"input": to, known: plain}],
                "messages": [{"id": id, "message_status": "accepted"}],
            }),
        )
    }

    fn permissions(&mut self, who: &str) -> Said {
        let permitted = self.permitted.contains(&Pii::new(who.trim_start_matches('+')));
        let status = if permitted { "permanent" } else { "no_permission" };
        let limit = |period: &str, most: u32| json!({"time_period": period, "max_allowed": most, "current_usage": 0});
        let actions = json!([
            {"action_name": "send_call_permission_request", "can_perform_action": !permitted,
             "limits": [limit("PT24H", 1), limit("P7D", 2)]},
            {"action_name": "start_call", "can_perform_action": permitted, "limits": [limit("PT24H", 100)]},
        ]);
        (200, json!({"messaging_product": "whatsapp", "permission": {"status": status}, "actions": actions}))
    }
}

/// Whom a body names: `to` wins over `recipient`. True = by BSUID.
fn receiver(body: Body<'_>) -> Option<(&str, bool)> {
    let filled = |key| body.text(key).filter(|id| !id.is_empty());
    filled("to").map(|to| (to, false)).or_else(|| filled("recipient").map(|bsuid| (bsuid, true)))
}

fn ask_of(edge: &str, method: &str, body: &Value) -> Option<Ask> {
    match (method, edge) {
        ("POST", "calls") => Ask::parse(Body(body).text("action")?).filter(|ask| *ask != Ask::Text),
        ("POST", "messages") => Some(Ask::Text),
        _ => None,
    }
}

#[cfg(test)]
#[path = "graph_tests.rs"]
mod tests;
