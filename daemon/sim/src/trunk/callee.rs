//! Somebody who is called by the box over the trunk: rings, answers, is busy, hangs up. Sans-IO, one call at a time.
//!
//! The counterpart of [`super::caller`]; it judges what it gets as that one does.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::message::{Message, parameter, uri_of};

/// T1 of RFC 3261 §17.1.1.1; a 200 is repeated like a request (§13.3.1.4).
const T1: Duration = Duration::from_millis(500);
/// Longest pause between repetitions.
const T2: Duration = Duration::from_secs(4);
/// How long it is repeated.
const GIVEN_UP: Duration = Duration::from_secs(32);
/// Our half of a dialog.
const TAG: &str = "desk1";

/// What somebody does when it rings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Answers after so long.
    Answers(Duration),
    /// Refuses with this status.
    Refuses(u16),
    /// Lets it ring.
    LetsItRing,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CalleeEvent {
    /// It rings; this is the offer.
    Rings(String),
    /// The caller gave up.
    Cancelled,
    /// The box acknowledged our answer.
    Talking,
    /// The box hung up.
    HungUp,
    /// Our BYE was answered.
    Over,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Ringing { answer_at: Option<Instant> },
    Answered,
    Talking,
    Leaving,
    Over,
}

/// Somebody who can be called.
#[derive(Debug)]
pub struct Callee {
    manner: Manner,
    local: SocketAddr,
    /// The SDP that is answered with.
    answer: String,
    state: State,
    invite: Option<Message>,
    number: u32,
    /// What is repeated, when next, after which pause, until when.
    repeated: Option<(Vec<u8>, Instant, Duration, Instant)>,
    out: VecDeque<Vec<u8>>,
    events: VecDeque<CalleeEvent>,
    /// What the box did wrong.
    pub faults: Vec<String>,
}

impl Callee {
    /// Somebody at `local`, whose telephone answers with `answer`.
    #[must_use]
    pub fn new(local: SocketAddr, manner: Manner, answer: String) -> Self {
        Self {
            manner,
            local,
            answer,
            state: State::Idle,
            invite: None,
            number: 0,
            repeated: None,
            out: VecDeque::new(),
            events: VecDeque::new(),
            faults: Vec::new(),
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

    /// True when the call is over and everything was said.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.state == State::Over && self.events.is_empty() && self.out.is_empty()
    }

    /// When [`Callee::handle_timeout`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let answer = if let State::Ringing { answer_at } = self.state { answer_at } else { None };
        let again = self.repeated.as_ref().map(|(_, next, _, until)| *next.min(until));
        [answer, again].into_iter().flatten().min()
    }

    /// Answers, or repeats what was not acknowledged.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let State::Ringing { answer_at: Some(at) } = self.state
            && now >= at
        {
            self.state = State::Answered;
            let answer = self.answer.clone();
            if let Some(ok) = self.reply("200 OK") {
                let contact = self.contact();
                let ok = ok.with("Contact", contact).with("Allow", "INVITE, ACK, BYE, CANCEL").with_sdp(&answer);
                self.repeat(now, ok.to_wire());
            }
        }
        let Some((wire, next, pause, until)) = self.repeated.as_mut() else { return };
        if now >= *until {
            self.repeated = None;
            self.fault("what was said 32 s long was never answered");
            self.state = State::Over;
        } else if now >= *next {
            self.out.push_back(wire.clone());
            *pause = (*pause * 2).min(T2);
            *next = now + *pause;
        }
    }

    /// Hangs up.
    pub fn hang_up(&mut self, now: Instant) {
        if self.state != State::Talking {
            return;
        }
        let Some(invite) = self.invite.clone() else { return };
        self.number += 1;
        let target = invite.header("Contact").map(uri_of).unwrap_or_default();
        let bye = Message::new(format!("BYE {target} SIP/2.0"))
            .with("Via", format!("SIP/2.0/UDP {};branch=z9hG4bKdesk{};rport", self.local, self.number))
            .with("Max-Forwards", "70")
            .with("From", format!("{};tag={TAG}", invite.header("To").unwrap_or_default()))
            .with("To", invite.header("From").unwrap_or_default())
            .with("Call-ID", invite.header("Call-ID").unwrap_or_default())
            .with("CSeq", format!("{} BYE", self.number));
        self.state = State::Leaving;
        self.repeat(now, bye.to_wire());
    }

    /// Takes a message of the box.
    pub fn receive(&mut self, now: Instant, message: &Message) {
        let known = self.invite.as_ref().and_then(|invite| invite.header("Call-ID"));
        if known.is_some() && known != message.header("Call-ID") {
            return;
        }
        match (message.method(), message.status()) {
            (Some("INVITE"), _) => self.rings(now, message),
            (Some("CANCEL"), _) => self.cancelled(message),
            (Some("ACK"), _) => self.acknowledged(),
            (Some("BYE"), _) => {
                self.out.push_back(message.reply("200 OK").to_wire());
                self.repeated = None;
                if self.state != State::Over {
                    self.judge_tags(message);
                    self.finish(CalleeEvent::HungUp);
                }
            }
            (Some(_), _) => self.out.push_back(message.reply("200 OK").to_wire()),
            (None, Some(200..)) if self.state == State::Leaving => self.finish(CalleeEvent::Over),
            _ => {}
        }
    }

    fn rings(&mut self, now: Instant, message: &Message) {
        if self.state != State::Idle {
            return;
        }
        if message.header("Contact").is_none() {
            self.fault("an INVITE without Contact");
        }
        self.invite = Some(message.clone());
        self.events.push_back(CalleeEvent::Rings(message.body.clone()));
        let refusal = if let Manner::Refuses(status) = self.manner { Some(status) } else { None };
        let (status, state) = match self.manner {
            Manner::Refuses(_) => (None, State::Over),
            Manner::Answers(after) => (Some("180 Ringing"), State::Ringing { answer_at: Some(now + after) }),
            Manner::LetsItRing => (Some("180 Ringing"), State::Ringing { answer_at: None }),
        };
        self.state = state;
        let said = status.map(str::to_owned).or_else(|| refusal.map(|status| format!("{status} No")));
        if let Some(reply) = said.and_then(|said| self.reply(&said)) {
            let contact = self.contact();
            let reply = reply.with("Contact", contact);
            if refusal.is_some() {
                self.repeat(now, reply.to_wire());
            } else {
                self.out.push_back(reply.to_wire());
            }
        }
    }

    fn cancelled(&mut self, message: &Message) {
        if !matches!(self.state, State::Ringing { .. }) {
            self.out.push_back(message.reply("481 Call/Transaction Does Not Exist").to_wire());
            return;
        }
        self.out.push_back(message.reply("200 OK").to_wire());
        let reply = self.reply("487 Request Terminated");
        self.out.extend(reply.map(|reply| reply.to_wire()));
        self.finish(CalleeEvent::Cancelled);
    }

    fn acknowledged(&mut self) {
        self.repeated = None;
        if self.state == State::Answered {
            self.state = State::Talking;
            self.events.push_back(CalleeEvent::Talking);
        }
    }

    fn judge_tags(&mut self, message: &Message) {
        if message.header("To").and_then(|to| parameter(to, "tag")) != Some(TAG) {
            self.fault("a request within the dialog has another tag than ours");
        }
    }

    fn reply(&self, status: &str) -> Option<Message> {
        let mut reply = self.invite.as_ref()?.reply(status);
        for (name, value) in &mut reply.headers {
            if name == "To" {
                value.push_str(&format!(";tag={TAG}"));
            }
        }
        Some(reply)
    }

    fn contact(&self) -> String {
        format!("<sip:desk@{}>", self.local)
    }

    fn repeat(&mut self, now: Instant, wire: Vec<u8>) {
        self.out.push_back(wire.clone());
        self.repeated = Some((wire, now + T1, T1, now + GIVEN_UP));
    }

    fn fault(&mut self, what: &str) {
        if self.faults.len() < 16 {
            self.faults.push(what.to_owned());
        }
    }

    fn finish(&mut self, event: CalleeEvent) {
        self.repeated = None;
        self.state = State::Over;
        self.events.push_back(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invite() -> Message {
        Message::new("INVITE sip:desk@127.0.0.1:7000 SIP/2.0")
            .with("Via", "SIP/2.0/UDP 127.0.0.1:6000;branch=z9hG4bK1")
            .with("From", "<sip:box@127.0.0.1>;tag=b1")
            .with("To", "<sip:desk@127.0.0.1>")
            .with("Call-ID", "c1")
            .with("CSeq", "1 INVITE")
            .with("Contact", "<sip:box@127.0.0.1:6000>")
            .with_sdp("v=0\r\n")
    }

    fn statuses(callee: &mut Callee) -> Vec<String> {
        std::iter::from_fn(|| callee.poll_transmit())
            .map(|wire| String::from_utf8(wire).unwrap().lines().next().unwrap().to_owned())
            .collect()
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test needs some instant to count from")]
    fn it_rings_answers_again_and_again_until_acknowledged_and_hangs_up() {
        let mut now = Instant::now();
        let at = ([127, 0, 0, 1], 7_000).into();
        let mut callee = Callee::new(at, Manner::Answers(Duration::from_secs(1)), "v=0\r\n".to_owned());
        callee.receive(now, &invite());
        assert_eq!(statuses(&mut callee), ["SIP/2.0 180 Ringing"]);
        for _ in 0..3 {
            now = callee.deadline().unwrap();
            callee.handle_timeout(now);
        }
        assert_eq!(statuses(&mut callee), ["SIP/2.0 200 OK"; 3]);
        callee.receive(now, &Message::new("ACK sip:desk@127.0.0.1 SIP/2.0").with("Call-ID", "c1"));
        assert_eq!(callee.deadline(), None);
        callee.hang_up(now);
        assert!(statuses(&mut callee)[0].starts_with("BYE sip:box@127.0.0.1:6000"));
        callee.receive(now, &Message::new("SIP/2.0 200 OK").with("Call-ID", "c1"));
        let events: Vec<_> = std::iter::from_fn(|| callee.poll_event()).collect();
        assert_eq!(events, [CalleeEvent::Rings("v=0\r\n".to_owned()), CalleeEvent::Talking, CalleeEvent::Over]);
        assert!(callee.is_over() && callee.faults.is_empty(), "{:?}", callee.faults);
    }
}
