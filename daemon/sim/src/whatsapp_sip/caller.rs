//! A person on WhatsApp calls the business, and Meta brings the call by SIP: one call, sans-IO, with a judge of every
//! message of the box.
//!
//! It knows no media ([`super::sdes`], [`crate::caller::phone`]). It goes over TLS alone, so nothing is repeated.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use sauti_core::pii::Pii;

use super::dialog::{Dialog, Heard, unroutable};
use super::digest::{Challenge, Credentials};
use super::{ALLOW, Account, Faults, INNER_PROXY, META, OUTER_PROXY, dressed};
use crate::trunk::caller::CallEvent;
use crate::trunk::message::{Message, flaws, parameter, uri_of};
use crate::whatsapp::dice::{ALPHANUMERIC, Dice};
use crate::whatsapp::person::Person;

/// How long it rings until Meta gives up (whatsapp-calling §2.1: 30 to 60 s).
const RINGS: Duration = Duration::from_secs(60);
/// Until a request without an answer is given up (RFC 3261 timers B and F), and until a call falls whose ACK or BYE went
/// astray (whatsapp-calling §4).
const GIVEN_UP: Duration = Duration::from_secs(32);

/// Who calls, and how.
#[derive(Debug, Clone)]
pub struct Dial {
    /// The person.
    pub person: Person,
    /// She hides her number behind a user name: `From` has the business-scoped user id.
    pub hides_number: bool,
    /// The call's id.
    pub wacid: Pii,
    /// The offer.
    pub sdp: String,
    /// Where Meta's messages come from, as `Via` says it: host and port.
    pub via: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Inviting { challenged: bool },
    Cancelling,
    Talking,
    Leaving,
    Over,
}

/// One call.
#[derive(Debug)]
pub struct WhatsAppCall {
    account: Account,
    dial: Dial,
    state: State,
    dice: Dice,
    dialog: Dialog,
    /// Of the INVITE that counts.
    branch: String,
    number: u32,
    /// `To` and `Contact` of the box, from its 200.
    remote: Option<(String, String)>,
    invited: Option<Message>,
    ack: Option<Vec<u8>>,
    talks_since: Option<Instant>,
    /// Until when something must happen.
    due: Option<Instant>,
    rang: bool,
    out: VecDeque<Vec<u8>>,
    events: VecDeque<CallEvent>,
    /// The branch of the INVITE that came by another way.
    fork: Option<String>,
    /// Final answers to the INVITE that came by another way.
    pub forked: Vec<u16>,
    /// What the box did wrong.
    pub faults: Faults,
}

impl WhatsAppCall {
    /// Sends the INVITE.
    #[must_use]
    pub fn dial(now: Instant, account: Account, dial: Dial, seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let dialog = Dialog {
            call_id: format!("outgoing:{}", dial.wacid.expose()),
            own_tag: dice.text(10, ALPHANUMERIC),
            their_tag: None,
            contact: format!("sip:{}@{META};transport=tls;ob", user_of(&dial)),
        };
        let mut call = Self {
            account,
            dial,
            state: State::Inviting { challenged: false },
            dice,
            dialog,
            branch: String::new(),
            number: 0,
            remote: None,
            invited: None,
            ack: None,
            talks_since: None,
            due: Some(now + RINGS),
            rang: false,
            out: VecDeque::new(),
            events: VecDeque::new(),
            fork: None,
            forked: Vec::new(),
            faults: Faults::default(),
        };
        call.invite(None);
        call
    }

    fn request_uri(&self) -> String {
        format!("{};transport=tls", self.called())
    }

    /// The address of the business, as the digest names it too.
    fn called(&self) -> String {
        let Account { number, hostname, user_params, .. } = &self.account;
        format!("sip:+{}{user_params}@{hostname}", number.expose())
    }

    fn invite(&mut self, credentials: Option<(&'static str, String)>) {
        self.number += 1;
        self.branch = self.new_branch();
        let Dial { person, wacid, sdp, .. } = &self.dial;
        let mut invite = self
            .request("INVITE", &self.request_uri(), &self.branch, &self.to(), self.number)
            .with("Record-Route", OUTER_PROXY)
            .with("Record-Route", INNER_PROXY)
            .with("Contact", self.dialog.contact_header())
            .with("Allow", ALLOW)
            .with("x-wa-meta-wacid", wacid.expose())
            .with("x-wa-meta-user-id", person.bsuid.expose())
            .with("x-wa-meta-user-name", person.name.expose());
        if let Some((name, value)) = credentials {
            invite = invite.with(name, value);
        }
        let invite = dressed(invite).with_sdp(sdp);
        self.out.push_back(invite.to_wire());
        self.invited = Some(invite);
    }

    fn to(&self) -> String {
        format!("<{}>", self.called())
    }

    fn new_branch(&mut self) -> String {
        format!("z9hG4bK{}", self.dice.text(12, ALPHANUMERIC))
    }

    fn request(&self, method: &str, uri: &str, branch: &str, to: &str, number: u32) -> Message {
        let Dialog { call_id, own_tag, .. } = &self.dialog;
        let user = user_of(&self.dial);
        Message::new(format!("{method} {uri} SIP/2.0"))
            .with("Via", format!("SIP/2.0/TLS {};branch={branch};rport", self.dial.via))
            .with("Via", format!("SIP/2.0/TLS onevc-sip-proxy.fbinfra.net:8191;branch={branch}-inner"))
            .with("Max-Forwards", "68")
            .with("From", format!("\"{}\" <sip:{user}@{META}>;tag={own_tag}", user.trim_start_matches('+')))
            .with("To", to)
            .with("Call-ID", call_id.as_str())
            .with("CSeq", format!("{number} {method}"))
    }

    /// The person hangs up: BYE, or CANCEL while it rings.
    pub fn hang_up(&mut self, now: Instant) {
        match self.state {
            State::Inviting { .. } => {
                let cancel = self.request("CANCEL", &self.request_uri(), &self.branch, &self.to(), self.number);
                self.out.push_back(dressed(cancel).to_wire());
                self.state = State::Cancelling;
                self.due = Some(now + GIVEN_UP);
            }
            State::Talking => {
                let Some((to, contact)) = self.remote.clone() else { return };
                self.number += 1;
                let branch = self.new_branch();
                let seconds = self.talks_since.map_or(0, |since| now.saturating_duration_since(since).as_secs());
                let bye = self
                    .request("BYE", &contact, &branch, &to, self.number)
                    .with("x-wa-meta-wacid", self.dial.wacid.expose())
                    .with("x-wa-meta-call-duration", seconds.to_string());
                self.out.push_back(dressed(bye).to_wire());
                self.state = State::Leaving;
                self.due = Some(now + GIVEN_UP);
            }
            State::Cancelling | State::Leaving | State::Over => {}
        }
    }

    /// Sends the INVITE that counts once more: as it was, or by another way as a proxy does that forks (another branch).
    /// What a forked one is answered with stands in [`WhatsAppCall::forked`].
    pub fn repeat_invite(&mut self, forks: bool) {
        let Some(mut invite) = self.invited.clone() else { return };
        if forks {
            let other = self.new_branch();
            for (name, value) in &mut invite.headers {
                if name == "Via" {
                    *value = value.replace(&self.branch, &other);
                }
            }
            self.fork = Some(other);
        }
        self.out.push_back(invite.to_wire());
    }

    /// The next message to send.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.out.pop_front()
    }

    /// What happened, in order.
    pub fn poll_event(&mut self) -> Option<CallEvent> {
        self.events.pop_front()
    }

    /// When [`WhatsAppCall::handle_timeout`] is due.
    #[must_use]
    pub const fn deadline(&self) -> Option<Instant> {
        self.due
    }

    /// True when nothing more is to come, to be told or to be sent.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.state == State::Over && self.events.is_empty() && self.out.is_empty()
    }

    /// Gives up what took too long.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.due.is_none_or(|due| now < due) {
            return;
        }
        match self.state {
            State::Inviting { .. } => self.hang_up(now),
            State::Cancelling | State::Talking | State::Leaving => self.finish(CallEvent::Lost),
            State::Over => self.due = None,
        }
    }

    /// The call's id.
    #[must_use]
    pub const fn wacid(&self) -> &Pii {
        &self.dial.wacid
    }

    /// Whether a message belongs to this call.
    #[must_use]
    pub fn owns(&self, message: &Message) -> bool {
        message.header("Call-ID") == Some(self.dialog.call_id.as_str())
    }

    /// Takes a message of the box.
    pub fn receive(&mut self, now: Instant, message: &Message) {
        match message.status() {
            Some(status) => self.response(now, status, message),
            None => self.request_of_theirs(now, message),
        }
    }

    fn response(&mut self, now: Instant, status: u16, message: &Message) {
        let Some((number, method)) = message.cseq() else { return self.faults.add("a response without CSeq") };
        let branch = message.header("Via").and_then(|via| parameter(via, "branch")).unwrap_or_default();
        match method {
            "INVITE" if number == self.number && self.fork.as_deref() == Some(branch) => {
                self.forked.extend((status >= 200).then_some(status));
            }
            "INVITE" if number == self.number => {
                for flaw in flaws(message, &self.branch, &self.dialog.own_tag) {
                    self.faults.add(flaw);
                }
                if message.all("Via").count() != 2 {
                    self.faults.add("a response does not repeat every Via");
                }
                self.of_invite(now, status, message);
            }
            "BYE" if status >= 200 && self.state == State::Leaving => {
                if status != 200 {
                    self.faults.add(format!("a BYE was answered with {status}"));
                }
                self.finish(CallEvent::Over);
            }
            "CANCEL" if status >= 300 => self.faults.add("a CANCEL in time was not answered with 200"),
            _ => {}
        }
    }

    fn of_invite(&mut self, now: Instant, status: u16, message: &Message) {
        match (status, self.state) {
            (101..200, State::Inviting { challenged }) => {
                if !challenged {
                    self.faults.add("it rings for an INVITE that nobody has proved");
                }
                if status == 180 && !std::mem::replace(&mut self.rang, true) {
                    self.events.push_back(CallEvent::Ringing);
                }
            }
            (200..300, State::Inviting { .. } | State::Cancelling) => self.answered(now, message),
            // Repeated, as our ACK is not there yet (RFC 3261 §13.2.2.4).
            (200..300, State::Talking | State::Leaving) => self.out.extend(self.ack.clone()),
            (401 | 407, State::Inviting { challenged: false }) => {
                self.acknowledge_refusal(message);
                self.prove(status, message);
            }
            (300.., State::Inviting { .. } | State::Cancelling) => {
                self.acknowledge_refusal(message);
                if self.state == State::Cancelling && status != 487 {
                    self.faults.add("a cancelled INVITE did not end with 487");
                }
                let retry_after = message.header("Retry-After").and_then(|after| after.parse().ok());
                self.finish(CallEvent::Refused { status, retry_after });
            }
            _ => {}
        }
    }

    fn acknowledge_refusal(&mut self, message: &Message) {
        let to = message.header("To").unwrap_or_default();
        let ack = self.request("ACK", &self.request_uri(), &self.branch, to, self.number);
        self.out.push_back(ack.to_wire());
    }

    /// Answers a challenge as Meta does: the digits alone, the URI without its transport, no `algorithm`.
    fn prove(&mut self, status: u16, message: &Message) {
        let (asked, name) = match status {
            401 => ("WWW-Authenticate", "Authorization"),
            _ => ("Proxy-Authenticate", "Proxy-Authorization"),
        };
        let challenge = message.header(asked).and_then(Challenge::read);
        let Some(challenge) = challenge.filter(|challenge| !challenge.other_algorithm) else {
            self.faults.add("a challenge that Meta cannot answer");
            return self.finish(CallEvent::Refused { status, retry_after: None });
        };
        self.state = State::Inviting { challenged: true };
        let cnonce = self.dice.text(8, b"0123456789abcdef");
        let Account { number, password, .. } = &self.account;
        let uri = self.called();
        let answer = Credentials::answer(&challenge, number.expose(), password, ("INVITE", &uri), &cnonce);
        self.invite(Some((name, answer.write())));
    }

    fn answered(&mut self, now: Instant, message: &Message) {
        let cancelled = self.state == State::Cancelling;
        if self.state == (State::Inviting { challenged: false }) {
            self.faults.add("an INVITE was taken that nobody has proved");
        }
        let to = message.header("To").unwrap_or_default().to_owned();
        let contact = message.header("Contact").map(uri_of).unwrap_or_default().to_owned();
        self.dialog.their_tag = parameter(&to, "tag").map(str::to_owned);
        self.state = State::Talking;
        self.talks_since = Some(now);
        self.judge_answer(message, &contact);
        if let Some(why) = unroutable(message) {
            self.faults.add(why);
            self.due = Some(now + GIVEN_UP);
        } else {
            self.due = None;
            let branch = self.new_branch();
            self.ack = Some(self.request("ACK", &contact, &branch, &to, self.number).to_wire());
            self.out.extend(self.ack.clone());
        }
        self.remote = Some((to, contact));
        self.events.push_back(CallEvent::Answered(message.body.clone()));
        if cancelled {
            // The 200 crossed our CANCEL: the call is up, and ends by BYE (RFC 3261 §15).
            self.hang_up(now);
        }
    }

    /// What Meta needs to reach the box again.
    fn judge_answer(&mut self, message: &Message, contact: &str) {
        let (address, parameters) = contact.split_once(';').unwrap_or((contact, ""));
        let host = address.rsplit_once('@').map_or(address, |(_, host)| host);
        let host = host.rsplit_once(':').map_or(host, |(name, _)| name);
        if !address.starts_with("sip:") || !parameters.split(';').any(|one| one.eq_ignore_ascii_case("transport=tls")) {
            self.faults.add("a Contact that is no sip: address over TLS");
        }
        if !host.eq_ignore_ascii_case(&self.account.hostname) {
            self.faults.add("a Contact at another host than the one of the settings");
        }
        if message.header("Session-Expires").is_some() || message.header("Require").is_some() {
            self.faults.add("a session timer, which Meta cannot refresh");
        }
    }

    fn request_of_theirs(&mut self, now: Instant, message: &Message) {
        if message.method() == Some("REGISTER") {
            self.faults.add("REGISTER, which Meta refuses");
            self.out.push_back(message.reply("403 Forbidden").to_wire());
            return;
        }
        match self.dialog.hear(message, &mut self.faults) {
            Heard::Lost if self.state == State::Talking => self.due = Some(now + GIVEN_UP),
            Heard::Lost | Heard::Ack => {}
            Heard::Answered(reply) => self.out.push_back(reply.to_wire()),
            Heard::Ended(reply) => {
                self.out.push_back(reply.to_wire());
                if self.state != State::Over {
                    self.finish(CallEvent::HungUp);
                }
            }
        }
    }

    fn finish(&mut self, event: CallEvent) {
        self.due = None;
        self.state = State::Over;
        self.events.push_back(event);
    }
}

/// The user part that stands for the person.
fn user_of(dial: &Dial) -> String {
    if dial.hides_number { dial.person.bsuid.expose().to_owned() } else { format!("+{}", dial.person.number.expose()) }
}

#[cfg(test)]
#[path = "caller_tests.rs"]
mod tests;
