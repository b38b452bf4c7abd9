//! One call that comes over a trunk: the INVITE, its answer, the end. Sans-IO; it judges every message of the box.
//!
//! It knows no audio ([`super::phone`] does). Over UDP it repeats and is repeated to (RFC 3261 §17.1).

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::message::{Message, flaws, parameter, uri_of};
use crate::whatsapp::dice::{ALPHANUMERIC, Dice};

/// T1 of RFC 3261 §17.1.1.1.
const T1: Duration = Duration::from_millis(500);
/// T2: no pause between repetitions of a request in a dialog is longer.
const T2: Duration = Duration::from_secs(4);
/// Timers B and F: 64 T1.
const GIVEN_UP: Duration = Duration::from_secs(32);

/// Over what the messages go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Datagrams, repeated until answered.
    Udp,
    /// A stream.
    Tcp,
    /// A stream under TLS.
    Tls,
}

impl Transport {
    const fn via(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
        }
    }

    /// Of a URI.
    const fn parameter(self) -> &'static str {
        match self {
            Self::Udp => "",
            Self::Tcp => ";transport=tcp",
            Self::Tls => ";transport=tls",
        }
    }
}

/// What the carrier does with a REFER (RFC 3515).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Refers {
    /// 603.
    #[default]
    No,
    /// Not a word.
    Ignores,
    /// 202, and then news of the call that was asked for, the last of which is this.
    Until(u16),
}

/// Who calls whom, from where.
#[derive(Debug, Clone)]
pub struct Dial {
    /// Over what.
    pub transport: Transport,
    /// Where the carrier's messages come from.
    pub local: SocketAddr,
    /// The box.
    pub target: SocketAddr,
    /// Digits of the number that calls.
    pub caller: String,
    /// Digits of the number that is called.
    pub called: String,
    /// The offer.
    pub sdp: String,
    /// What becomes of a REFER.
    pub refers: Refers,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallEvent {
    /// 180 came.
    Ringing,
    /// 183 came with this SDP, ahead of the 200.
    Early(String),
    /// 200 came; this is its SDP.
    Answered(String),
    /// A final refusal.
    Refused {
        /// Its status.
        status: u16,
        /// `Retry-After`, seconds.
        retry_after: Option<u32>,
    },
    /// The box asked us to call this address instead, and was told what [`Refers`] says.
    Referred(String),
    /// The box hung up.
    HungUp,
    /// Our BYE or CANCEL was answered, or never will be.
    Over,
    /// Nothing came for 32 s.
    Lost,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Inviting,
    Cancelling,
    Talking,
    Leaving,
    Over,
}

/// A request that is repeated until its answer is there.
#[derive(Debug)]
struct Repeated {
    wire: Vec<u8>,
    next: Instant,
    pause: Duration,
    until: Instant,
}

/// One call over a trunk.
#[derive(Debug)]
pub struct TrunkCall {
    dial: Dial,
    state: State,
    dice: Dice,
    call_id: String,
    tag: String,
    /// Of the INVITE.
    branch: String,
    number: u32,
    /// Their half of the dialog, from the 200.
    remote: Option<Remote>,
    ack: Option<Vec<u8>>,
    repeated: Option<Repeated>,
    rang: bool,
    /// News of a referred call that are still to be told, the first next.
    news: VecDeque<u16>,
    out: VecDeque<Vec<u8>>,
    events: VecDeque<CallEvent>,
    /// What the box did wrong.
    pub faults: Vec<String>,
}

#[derive(Debug, Clone)]
struct Remote {
    to: String,
    target: String,
    route: Vec<String>,
}

impl TrunkCall {
    /// Sends the INVITE.
    #[must_use]
    pub fn dial(now: Instant, dial: Dial, seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let mut call = Self {
            call_id: format!("{}@{}", dice.text(20, ALPHANUMERIC), dial.local.ip()),
            tag: dice.text(10, ALPHANUMERIC),
            branch: format!("z9hG4bK{}", dice.text(12, ALPHANUMERIC)),
            dial,
            state: State::Inviting,
            dice,
            number: 1,
            remote: None,
            ack: None,
            repeated: None,
            rang: false,
            news: VecDeque::new(),
            out: VecDeque::new(),
            events: VecDeque::new(),
            faults: Vec::new(),
        };
        let invite = call
            .request("INVITE", &call.request_uri(), &call.branch, &call.to(), 1)
            .with("Contact", call.contact())
            .with("Allow", "INVITE, ACK, BYE, CANCEL, OPTIONS, UPDATE, INFO")
            .with("Supported", "timer")
            .with_sdp(&call.dial.sdp);
        call.send_repeated(now, invite.to_wire(), GIVEN_UP);
        call
    }

    fn request_uri(&self) -> String {
        format!("sip:{}@{}{}", self.dial.called, self.dial.target, self.dial.transport.parameter())
    }

    fn contact(&self) -> String {
        format!("<sip:{}@{}{}>", self.dial.caller, self.dial.local, self.dial.transport.parameter())
    }

    fn to(&self) -> String {
        format!("<sip:{}@{}>", self.dial.called, self.dial.target.ip())
    }

    fn request(&self, method: &str, uri: &str, branch: &str, to: &str, number: u32) -> Message {
        let Dial { transport, local, caller, .. } = &self.dial;
        Message::new(format!("{method} {uri} SIP/2.0"))
            .with("Via", format!("SIP/2.0/{} {local};branch={branch};rport", transport.via()))
            .with("Max-Forwards", "70")
            .with("From", format!("<sip:{caller}@{}>;tag={}", local.ip(), self.tag))
            .with("To", to)
            .with("Call-ID", self.call_id.as_str())
            .with("CSeq", format!("{number} {method}"))
    }

    /// A request within the dialog (RFC 3261 §12.2.1.1, loose routing).
    fn in_dialog(&mut self, method: &str, number: u32) -> Option<Message> {
        let remote = self.remote.clone()?;
        let branch = format!("z9hG4bK{}", self.dice.text(12, ALPHANUMERIC));
        let mut request = self.request(method, &remote.target, &branch, &remote.to, number);
        request.headers.extend(remote.route.into_iter().map(|route| ("Route".to_owned(), route)));
        Some(request)
    }

    fn send_repeated(&mut self, now: Instant, wire: Vec<u8>, until: Duration) {
        self.out.push_back(wire.clone());
        let pause = if self.dial.transport == Transport::Udp { T1 } else { GIVEN_UP };
        self.repeated = Some(Repeated { wire, next: now + pause, pause, until: now + until });
    }

    /// The person hangs up: BYE, or CANCEL while it rings.
    pub fn hang_up(&mut self, now: Instant) {
        match self.state {
            State::Inviting => {
                let cancel = self.request("CANCEL", &self.request_uri(), &self.branch, &self.to(), 1);
                self.state = State::Cancelling;
                self.send_repeated(now, cancel.to_wire(), GIVEN_UP);
            }
            State::Talking => {
                self.number += 1;
                if let Some(bye) = self.in_dialog("BYE", self.number) {
                    self.state = State::Leaving;
                    self.send_repeated(now, bye.to_wire(), GIVEN_UP);
                }
            }
            State::Cancelling | State::Leaving | State::Over => {}
        }
    }

    /// Writes a request as somebody would who knows the call's id and not its tags (peers §3, bug 74).
    pub fn forge(&self, method: &str, wire: &mut Vec<u8>) {
        let Some(remote) = &self.remote else { return };
        let mut forged = self.request(method, &remote.target, "z9hG4bKforged", &remote.to, 9);
        for (name, value) in &mut forged.headers {
            if name == "From" || name == "To" {
                *value = format!("<{}>;tag=forged", uri_of(value));
            }
        }
        *wire = forged.to_wire();
    }

    /// The next message to send.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.out.pop_front()
    }

    /// What happened, in order.
    pub fn poll_event(&mut self) -> Option<CallEvent> {
        self.events.pop_front()
    }

    /// When [`TrunkCall::handle_timeout`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.repeated.as_ref().map(|repeated| repeated.next.min(repeated.until))
    }

    /// True when nothing more is to come, to be told or to be sent.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.state == State::Over && self.events.is_empty() && self.out.is_empty()
    }

    /// Repeats what was not answered, or gives it up.
    pub fn handle_timeout(&mut self, now: Instant) {
        let Some(repeated) = self.repeated.as_mut() else { return };
        if now >= repeated.until {
            self.repeated = None;
            self.state = State::Over;
            self.events.push_back(CallEvent::Lost);
        } else if now >= repeated.next {
            self.out.push_back(repeated.wire.clone());
            repeated.pause = (repeated.pause * 2).min(T2.max(repeated.pause));
            repeated.next = now + repeated.pause;
        }
    }

    /// Whether a message belongs to this call.
    #[must_use]
    pub fn owns(&self, message: &Message) -> bool {
        message.header("Call-ID") == Some(self.call_id.as_str())
    }

    /// Takes a message of the box.
    pub fn receive(&mut self, now: Instant, message: &Message) {
        match message.status() {
            Some(status) => self.response(now, status, message),
            None => self.request_of_theirs(now, message),
        }
    }

    fn fault(&mut self, what: &str) {
        if self.faults.len() < 16 {
            self.faults.push(what.to_owned());
        }
    }

    fn response(&mut self, now: Instant, status: u16, message: &Message) {
        let Some((number, method)) = message.cseq() else { return self.fault("a response without CSeq") };
        if method == "INVITE" && number == 1 {
            for flaw in flaws(message, &self.branch, &self.tag) {
                self.fault(flaw);
            }
            self.of_invite(now, status, message);
        } else if status >= 200 && method == "NOTIFY" && number == self.number {
            self.repeated = None;
            if status != 200 {
                self.fault("news of a REFER were not answered with 200");
            }
            self.tell_news(now);
        } else if status >= 200 && method == "BYE" && number == self.number {
            self.finish(CallEvent::Over);
        } else if status >= 200 && method == "CANCEL" && self.state == State::Cancelling {
            // What the INVITE came to follows. One that crossed the 200 has nothing to say any more.
            self.repeated = None;
            if status != 200 {
                self.fault("a CANCEL in time was not answered with 200");
            }
        }
    }

    fn of_invite(&mut self, now: Instant, status: u16, message: &Message) {
        match (status, self.state) {
            (101..200, State::Inviting) => {
                self.repeated = None;
                if status == 180 && !std::mem::replace(&mut self.rang, true) {
                    self.events.push_back(CallEvent::Ringing);
                }
                if !message.body.is_empty() {
                    self.events.push_back(CallEvent::Early(message.body.clone()));
                }
            }
            (100, State::Inviting) => self.repeated = None,
            (200..300, State::Inviting | State::Cancelling) => {
                let cancelled = self.state == State::Cancelling;
                self.confirm(message);
                self.repeated = None;
                self.state = State::Talking;
                self.events.push_back(CallEvent::Answered(message.body.clone()));
                if cancelled {
                    // The 200 crossed our CANCEL: the call is up, and ends by BYE (RFC 3261 §15).
                    self.hang_up(now);
                }
            }
            (200..300, State::Talking | State::Leaving) => {
                // Repeated, as our ACK got lost (RFC 3261 §13.2.2.4).
                self.out.extend(self.ack.clone());
            }
            (300.., State::Inviting | State::Cancelling) => {
                let to = message.header("To").unwrap_or_default().to_owned();
                let ack = self.request("ACK", &self.request_uri(), &self.branch, &to, 1);
                self.out.push_back(ack.to_wire());
                let retry_after = message.header("Retry-After").and_then(|after| after.parse().ok());
                if self.state == State::Cancelling && status != 487 {
                    self.fault("a cancelled INVITE did not end with 487");
                }
                self.finish(CallEvent::Refused { status, retry_after });
            }
            _ => {}
        }
    }

    fn confirm(&mut self, message: &Message) {
        let contact = message.header("Contact").map(uri_of).unwrap_or_default();
        let mut route: Vec<String> = message.all("Record-Route").map(str::to_owned).collect();
        route.reverse();
        let to = message.header("To").unwrap_or_default().to_owned();
        self.remote = Some(Remote { to, target: contact.to_owned(), route });
        self.ack = self.in_dialog("ACK", 1).map(|ack| ack.to_wire());
        self.out.extend(self.ack.clone());
    }

    fn request_of_theirs(&mut self, now: Instant, message: &Message) {
        let Some(method) = message.method() else { return };
        if method == "ACK" {
            return;
        }
        let tags = (
            message.header("From").and_then(|from| parameter(from, "tag")),
            message.header("To").and_then(|to| parameter(to, "tag")),
        );
        let theirs = self.remote.as_ref().and_then(|remote| parameter(&remote.to, "tag"));
        if tags != (theirs, Some(self.tag.as_str())) {
            self.out.push_back(message.reply("481 Call/Transaction Does Not Exist").to_wire());
            return self.fault("a request within the dialog has other tags");
        }
        match method {
            "BYE" => {
                self.out.push_back(message.reply("200 OK").to_wire());
                if !self.news.is_empty() {
                    self.fault("the box hung up before the transfer was done");
                }
                if self.state != State::Over {
                    self.finish(CallEvent::HungUp);
                }
            }
            "REFER" => self.referred(now, message),
            "OPTIONS" | "INFO" | "UPDATE" => self.out.push_back(message.reply("200 OK").to_wire()),
            _ => self.out.push_back(message.reply("501 Not Implemented").to_wire()),
        }
    }

    fn referred(&mut self, now: Instant, message: &Message) {
        let target = message.header("Refer-To").map(uri_of).unwrap_or_default();
        match self.dial.refers {
            Refers::Ignores => {}
            Refers::No => {
                self.out.push_back(message.reply("603 Decline").to_wire());
                self.events.push_back(CallEvent::Referred(target.to_owned()));
            }
            Refers::Until(_) if !self.news.is_empty() => {
                // A repeated one.
                self.out.push_back(message.reply("202 Accepted").to_wire());
            }
            Refers::Until(last) => {
                self.out.push_back(message.reply("202 Accepted").with("Contact", self.contact()).to_wire());
                self.events.push_back(CallEvent::Referred(target.to_owned()));
                // RFC 3515 §2.4.4: at once, and once more when it is known.
                self.news = [100, 180, last].into();
                self.tell_news(now);
            }
        }
    }

    /// Tells the next news of a referred call.
    fn tell_news(&mut self, now: Instant) {
        let Some(status) = self.news.pop_front().filter(|_| self.state == State::Talking) else { return };
        self.number += 1;
        let Some(mut notify) = self.in_dialog("NOTIFY", self.number) else { return };
        let state = if status >= 200 { "terminated;reason=noresource" } else { "active;expires=60" };
        notify = notify
            .with("Contact", self.contact())
            .with("Event", "refer")
            .with("Subscription-State", state)
            .with("Content-Type", "message/sipfrag;version=2.0");
        notify.body = format!("SIP/2.0 {status} whatever\r\n");
        self.send_repeated(now, notify.to_wire(), GIVEN_UP);
    }

    fn finish(&mut self, event: CallEvent) {
        self.repeated = None;
        self.state = State::Over;
        self.events.push_back(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    #[expect(clippy::disallowed_methods, reason = "a test needs some instant to count from")]
    fn dialled(transport: Transport) -> (Instant, TrunkCall, Message) {
        let now = Instant::now();
        let dial = Dial {
            transport,
            local: at(5_070),
            target: at(5_060),
            caller: "250780000001".to_owned(),
            called: "100".to_owned(),
            sdp: "v=0\r\n".to_owned(),
            refers: Refers::No,
        };
        let mut call = TrunkCall::dial(now, dial, 1);
        let invite = sent(&mut call).remove(0);
        (now, call, invite)
    }

    fn sent(call: &mut TrunkCall) -> Vec<Message> {
        std::iter::from_fn(|| call.poll_transmit())
            .map(|wire| Message::parse(std::str::from_utf8(&wire).unwrap()).unwrap())
            .collect()
    }

    fn events(call: &mut TrunkCall) -> Vec<CallEvent> {
        std::iter::from_fn(|| call.poll_event()).collect()
    }

    /// A response as the box should write it.
    fn answer(invite: &Message, status: &str) -> Message {
        let mut reply = invite.reply(status);
        for (name, value) in &mut reply.headers {
            if name == "To" {
                value.push_str(";tag=box");
            }
        }
        reply
    }

    fn answered(invite: &Message) -> Message {
        answer(invite, "200 OK")
            .with("Contact", "<sip:box@127.0.0.1:5060>")
            .with("Record-Route", "<sip:one;lr>")
            .with("Record-Route", "<sip:two;lr>")
            .with_sdp("v=0\r\n")
    }

    #[test]
    fn a_call_rings_is_answered_acknowledged_and_ended() {
        let (now, mut call, invite) = dialled(Transport::Udp);
        call.receive(now, &answer(&invite, "180 Ringing"));
        call.receive(now, &answered(&invite));
        assert_eq!(events(&mut call), [CallEvent::Ringing, CallEvent::Answered("v=0\r\n".to_owned())]);
        let ack = sent(&mut call).remove(0);
        assert_eq!(ack.start, "ACK sip:box@127.0.0.1:5060 SIP/2.0");
        assert_eq!(ack.all("Route").collect::<Vec<_>>(), ["<sip:two;lr>", "<sip:one;lr>"]);
        call.receive(now, &answered(&invite));
        assert_eq!(sent(&mut call), [ack], "a 200 that comes again is acknowledged again");
        call.hang_up(now);
        let bye = sent(&mut call).remove(0);
        assert_eq!(bye.cseq(), Some((2, "BYE")));
        call.receive(now, &bye.reply("200 OK"));
        assert_eq!(events(&mut call), [CallEvent::Over]);
        assert!(call.is_over() && call.faults.is_empty(), "{:?}", call.faults);
    }

    #[test]
    fn an_invite_over_udp_is_repeated_and_given_up_after_32_seconds_and_over_tcp_it_is_sent_once() {
        for (transport, repeats) in [(Transport::Udp, 6..12), (Transport::Tcp, 0..1)] {
            let (now, mut call, _) = dialled(transport);
            let mut count = 0;
            while let Some(due) = call.deadline() {
                call.handle_timeout(due);
                count += sent(&mut call).len();
                assert!(due <= now + GIVEN_UP);
            }
            assert!(repeats.contains(&count), "{count}");
            assert_eq!(events(&mut call), [CallEvent::Lost]);
        }
    }

    #[test]
    fn a_cancel_ends_with_487_and_one_that_crosses_the_200_with_bye() {
        let (now, mut call, invite) = dialled(Transport::Tcp);
        call.receive(now, &answer(&invite, "180 Ringing"));
        call.hang_up(now);
        let cancel = sent(&mut call).remove(0);
        assert_eq!((cancel.cseq(), cancel.header("Via")), (Some((1, "CANCEL")), invite.header("Via")));
        call.receive(now, &cancel.reply("200 OK"));
        call.receive(now, &answer(&invite, "487 Request Terminated"));
        assert_eq!(sent(&mut call)[0].method(), Some("ACK"));
        assert!(events(&mut call).contains(&CallEvent::Refused { status: 487, retry_after: None }));
        assert!(call.faults.is_empty());

        let (now, mut call, invite) = dialled(Transport::Tcp);
        call.hang_up(now);
        call.receive(now, &answered(&invite));
        let methods: Vec<String> = sent(&mut call).iter().filter_map(|m| m.method().map(str::to_owned)).collect();
        assert_eq!(methods, ["CANCEL", "ACK", "BYE"]);
    }

    #[test]
    fn what_the_box_does_wrong_is_told() {
        let (now, mut call, invite) = dialled(Transport::Udp);
        call.receive(now, &invite.reply("180 Ringing"));
        call.receive(now, &answer(&invite, "200 OK"));
        assert_eq!(call.faults.len(), 3, "{:?}", call.faults);
        let stranger =
            Message::new("BYE sip:x SIP/2.0").with("From", "<sip:b>;tag=other").with("To", "<sip:a>;tag=none");
        call.receive(now, &stranger);
        assert_eq!(call.faults.len(), 4);
        assert!(!call.is_over(), "a BYE of somebody else ends nothing");
    }

    #[test]
    fn a_refusal_is_acknowledged_and_says_when_to_try_again() {
        let (now, mut call, invite) = dialled(Transport::Udp);
        call.receive(now, &answer(&invite, "503 Service Unavailable").with("Retry-After", "5"));
        assert_eq!(events(&mut call), [CallEvent::Refused { status: 503, retry_after: Some(5) }]);
        let ack = sent(&mut call).remove(0);
        assert_eq!((ack.method(), ack.header("Via")), (Some("ACK"), invite.header("Via")));
    }
}
