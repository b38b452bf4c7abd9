//! The box calls a person on WhatsApp: Meta's side of it, sans-IO, with a judge of every message of the box.
//!
//! One connection of the box with one call on it; whether she picks up is told from outside. It goes over TLS alone.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::dialog::{Dialog, Heard};
use super::digest::{Challenge, Credentials};
use super::{ALLOW, Account, Faults, INNER_PROXY, META, OUTER_PROXY, dressed};
use crate::trunk::message::{Message, parameter, uri_of};
use crate::whatsapp::dice::{ALPHANUMERIC, Dice};

/// T1 and T2 of RFC 3261 §17.1.1.1: a 200 is repeated until its ACK, also over TLS (§13.3.1.4).
const T1: Duration = Duration::from_millis(500);
const T2: Duration = Duration::from_secs(4);
/// When a call falls that was never acknowledged, or whose BYE went astray.
const GIVEN_UP: Duration = Duration::from_secs(32);

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CalleeEvent {
    /// Somebody is called; this is the offer.
    Invited(String),
    /// The answer was acknowledged.
    Acknowledged,
    /// The box gave up before she picked up.
    Cancelled,
    /// The box hung up.
    HungUp,
    /// Our BYE was answered.
    Over,
    /// What the box sent never arrived.
    Lost,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Ringing,
    Answered { again: Instant, pause: Duration },
    Talking,
    Leaving,
    Over,
}

/// Meta's side of one call.
#[derive(Debug)]
pub struct Callee {
    account: Account,
    state: State,
    dice: Dice,
    challenge: Challenge,
    dialog: Option<Dialog>,
    invite: Option<Message>,
    /// The 200.
    answer: Option<Vec<u8>>,
    due: Option<Instant>,
    out: VecDeque<Vec<u8>>,
    events: VecDeque<CalleeEvent>,
    /// What the box did wrong.
    pub faults: Faults,
}

impl Callee {
    /// Waits for the box to call.
    #[must_use]
    pub fn new(account: Account, seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let mut word = || dice.text(16, b"0123456789abcdef");
        let (nonce, opaque) = (word(), word());
        let realm = META.to_owned();
        Self {
            account,
            state: State::Idle,
            dice,
            challenge: Challenge { realm, nonce, opaque: Some(opaque), auth: true, other_algorithm: false },
            dialog: None,
            invite: None,
            answer: None,
            due: None,
            out: VecDeque::new(),
            events: VecDeque::new(),
            faults: Faults::default(),
        }
    }

    /// The next message to send.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.out.pop_front()
    }

    /// What happened, in order.
    pub fn poll_event(&mut self) -> Option<CalleeEvent> {
        self.events.pop_front()
    }

    /// When [`Callee::handle_timeout`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let again = match self.state {
            State::Answered { again, .. } => Some(again),
            State::Idle | State::Ringing | State::Talking | State::Leaving | State::Over => None,
        };
        self.due.into_iter().chain(again).min()
    }

    /// Repeats the 200, or lets the call fall.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.due.is_some_and(|due| due <= now) {
            self.finish(CalleeEvent::Lost);
        } else if let State::Answered { again, pause } = self.state
            && again <= now
        {
            self.out.extend(self.answer.clone());
            let pause = (pause * 2).min(T2);
            self.state = State::Answered { again: now + pause, pause };
        }
    }

    /// It rings at the person's.
    pub fn ring(&mut self) {
        if let (State::Ringing, Some(invite)) = (self.state, &self.invite) {
            let ringing = self.response(invite, "180 Ringing");
            self.out.push_back(ringing.to_wire());
        }
    }

    /// The person picks up.
    pub fn pick_up(&mut self, now: Instant, sdp: &str) {
        if let (State::Ringing, Some(invite)) = (self.state, &self.invite) {
            let ok = self.response(invite, "200 OK").with_sdp(sdp).to_wire();
            self.out.push_back(ok.clone());
            self.answer = Some(ok);
            self.state = State::Answered { again: now + T1, pause: T1 };
            self.due = Some(now + GIVEN_UP);
        }
    }

    /// The person declines: 486.
    pub fn decline(&mut self) {
        if let (State::Ringing, Some(invite)) = (self.state, &self.invite) {
            let busy = self.response(invite, "486 Busy Here");
            self.out.push_back(busy.to_wire());
            self.state = State::Over;
        }
    }

    /// The person hangs up.
    pub fn hang_up(&mut self, now: Instant) {
        let (State::Talking, Some(invite), Some(dialog)) = (self.state, &self.invite, &self.dialog) else { return };
        let target = invite.header("Contact").map(uri_of).unwrap_or_default();
        let branch = self.dice.text(12, ALPHANUMERIC);
        let bye = Message::new(format!("BYE {target} SIP/2.0"))
            .with("Via", format!("SIP/2.0/TLS {META};branch=z9hG4bK{branch};rport"))
            .with("Max-Forwards", "68")
            .with("From", format!("{};tag={}", invite.header("To").unwrap_or_default(), dialog.own_tag))
            .with("To", invite.header("From").unwrap_or_default())
            .with("Call-ID", dialog.call_id.as_str())
            .with("CSeq", "1 BYE")
            .with("x-wa-meta-call-duration", "1");
        self.out.push_back(dressed(bye).to_wire());
        self.state = State::Leaving;
        self.due = Some(now + GIVEN_UP);
    }

    /// Takes a message of the box.
    pub fn receive(&mut self, now: Instant, message: &Message) {
        if let Some(status) = message.status() {
            if status >= 200 && self.state == State::Leaving {
                if status != 200 {
                    self.faults.add(format!("a BYE was answered with {status}"));
                }
                self.finish(CalleeEvent::Over);
            }
            return;
        }
        let within = message.header("To").is_some_and(|to| parameter(to, "tag").is_some());
        match (message.method(), &self.dialog) {
            // Those of refusals go from hop to hop and end a transaction, of which nothing is kept here.
            (Some("ACK"), _) if self.answer.is_none() => {}
            (Some("CANCEL"), Some(_)) => self.cancel(message),
            (_, Some(dialog)) if within => {
                let heard = dialog.hear(message, &mut self.faults);
                self.heard(now, heard);
            }
            (Some("INVITE"), None) => match self.judge(message) {
                Ok(()) => self.invited(message),
                Err(reply) => self.out.push_back(reply.to_wire()),
            },
            (Some("OPTIONS"), _) => self.out.push_back(message.reply("200 OK").with("Allow", ALLOW).to_wire()),
            (Some("REGISTER"), _) => {
                self.faults.add("REGISTER, which Meta refuses");
                self.out.push_back(message.reply("403 Forbidden").to_wire());
            }
            _ => {
                self.faults.add("a request that belongs to no call");
                self.out.push_back(message.reply("481 Call/Transaction Does Not Exist").to_wire());
            }
        }
    }

    /// What Meta demands of an INVITE, in its order; the refusal where it is not so.
    fn judge(&mut self, invite: &Message) -> Result<(), Message> {
        let uri = invite.start.split(' ').nth(1).unwrap_or_default();
        let refuse = |faults: &mut Faults, what: &str, status: &str| {
            faults.add(what);
            Err(refusal(invite, status))
        };
        let (user, host) = match address(uri) {
            Ok(parts) => parts,
            Err(what) => return refuse(&mut self.faults, what, "404 Not Found"),
        };
        if host != self.account.host {
            return refuse(&mut self.faults, "a Request-URI at another host", "404 Not Found");
        }
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !user.strip_prefix('+').map_or_else(|| user.contains('.'), digits) {
            return refuse(&mut self.faults, "whom it calls is neither a number nor a user id", "400 Bad Request");
        }
        let Some(proof) = invite.header("Proxy-Authorization") else {
            let challenge = self.challenge.write();
            return Err(refusal(invite, "407 Proxy Authentication Required").with("Proxy-Authenticate", challenge));
        };
        if let Some(what) = self.unproved(proof, uri) {
            return refuse(&mut self.faults, what, "403 Forbidden");
        }
        let from = invite.header("From").map(uri_of).unwrap_or_default();
        let Ok((from_user, from_host)) = address(from).or_else(|_| plain(from)) else {
            return refuse(&mut self.faults, "a From without user and host", "400 Bad Request");
        };
        if from_user.strip_prefix('+') != Some(self.account.number.expose()) {
            return refuse(&mut self.faults, "a From that is not the business number", "400 Unknown business number");
        }
        if !is_within(&self.account.hostname, from_host) {
            let words = format!(
                "403 SIP server {from_host} from INVITE does not match any SIP server configured for phone number id"
            );
            return refuse(&mut self.faults, "a From at a host of nobody", &words);
        }
        if !invite.body.contains("opus/48000/2") {
            return refuse(&mut self.faults, "an offer without Opus", "403 Forbidden");
        }
        if invite.header("Session-Expires").is_some() {
            self.faults.add("a session timer, which Meta cannot refresh");
        }
        Ok(())
    }

    /// What is wrong with a digest; `None` if it proves the box.
    fn unproved(&self, value: &str, uri: &str) -> Option<&'static str> {
        let Some(proof) = Credentials::read(value) else { return Some("a digest that cannot be read") };
        let counted = proof
            .counted
            .as_ref()
            .is_some_and(|(qop, nc, cnonce)| (qop.as_str(), nc.as_str()) == ("auth", "00000001") && !cnonce.is_empty());
        [
            (proof.username == self.account.number.expose(), "a digest whose user is not the digits without +"),
            (proof.realm == self.challenge.realm, "a digest of another realm"),
            (proof.nonce == self.challenge.nonce, "a digest of another nonce"),
            (proof.opaque == self.challenge.opaque, "a digest without our opaque"),
            (proof.uri == uri, "a digest of another address than the Request-URI"),
            (counted, "a digest without qop, nc or cnonce"),
            (proof.proves("INVITE", &self.account.password), "a digest of another password"),
        ]
        .into_iter()
        .find_map(|(holds, what)| (!holds).then_some(what))
    }

    fn invited(&mut self, invite: &Message) {
        let uri = invite.start.split(' ').nth(1).unwrap_or_default();
        let user = address(uri).map_or("", |(user, _)| user);
        self.dialog = Some(Dialog {
            call_id: invite.header("Call-ID").unwrap_or_default().to_owned(),
            own_tag: self.dice.text(10, ALPHANUMERIC),
            their_tag: invite.header("From").and_then(|from| parameter(from, "tag")).map(str::to_owned),
            contact: format!("sip:{user}@{META};transport=tls;ob"),
        });
        self.invite = Some(invite.clone());
        self.state = State::Ringing;
        self.out.push_back(invite.reply("100 Trying").to_wire());
        self.events.push_back(CalleeEvent::Invited(invite.body.clone()));
    }

    /// A response with Meta's tag, route and `Contact`. The inner proxy stands first, as it is nearer to her.
    fn response(&self, invite: &Message, status: &str) -> Message {
        let mut reply = invite.reply(status);
        let Some(dialog) = &self.dialog else { return reply };
        for (name, value) in &mut reply.headers {
            if name == "To" {
                value.push_str(";tag=");
                value.push_str(&dialog.own_tag);
            }
        }
        dressed(reply)
            .with("Record-Route", INNER_PROXY)
            .with("Record-Route", OUTER_PROXY)
            .with("Contact", dialog.contact_header())
            .with("Allow", ALLOW)
    }

    fn cancel(&mut self, cancel: &Message) {
        self.out.push_back(cancel.reply("200 OK").to_wire());
        if let (State::Ringing, Some(invite)) = (self.state, &self.invite) {
            let terminated = self.response(invite, "487 Request Terminated");
            self.out.push_back(terminated.to_wire());
            self.finish(CalleeEvent::Cancelled);
        }
    }

    fn heard(&mut self, now: Instant, heard: Heard) {
        match heard {
            Heard::Lost if self.state == State::Talking => self.due = Some(now + GIVEN_UP),
            Heard::Ack if matches!(self.state, State::Answered { .. }) => {
                self.state = State::Talking;
                self.due = None;
                self.events.push_back(CalleeEvent::Acknowledged);
            }
            Heard::Lost | Heard::Ack => {}
            Heard::Answered(reply) => self.out.push_back(reply.to_wire()),
            Heard::Ended(reply) => {
                self.out.push_back(reply.to_wire());
                if self.state != State::Over {
                    self.finish(CalleeEvent::HungUp);
                }
            }
        }
    }

    fn finish(&mut self, event: CalleeEvent) {
        self.due = None;
        self.state = State::Over;
        self.events.push_back(event);
    }
}

/// A refusal that opens no dialog; it has a tag of its own all the same (RFC 3261 §8.2.6.2).
fn refusal(invite: &Message, status: &str) -> Message {
    let mut reply = invite.reply(status);
    for (name, value) in &mut reply.headers {
        if name == "To" {
            value.push_str(";tag=meta-refuses");
        }
    }
    reply
}

/// User and host of a Request-URI that Meta takes: `sip:`, a name and no address, over TLS.
fn address(uri: &str) -> Result<(&str, &str), &'static str> {
    if !uri.split(';').any(|parameter| parameter == "transport=tls") {
        return Err("a Request-URI without transport=tls");
    }
    plain(uri)
}

/// User and host of a `sip:` URI with a name for a host; its port is left out.
fn plain(uri: &str) -> Result<(&str, &str), &'static str> {
    let rest = uri.strip_prefix("sip:").ok_or("an address that is not sip:")?;
    let (user, host) = rest.split_once('@').ok_or("an address without a user")?;
    let host = host.split(';').next().unwrap_or_default();
    let host = host.rsplit_once(':').map_or(host, |(name, _)| name);
    if host.starts_with('[') || host.parse::<IpAddr>().is_ok() {
        return Err("an IP address for a host");
    }
    Ok((user, host))
}

/// True for a host name and for its parent domain.
fn is_within(configured: &str, host: &str) -> bool {
    configured.eq_ignore_ascii_case(host)
        || configured.split_once('.').is_some_and(|(_, parent)| parent.eq_ignore_ascii_case(host))
}

#[cfg(test)]
#[path = "callee_tests.rs"]
mod tests;
