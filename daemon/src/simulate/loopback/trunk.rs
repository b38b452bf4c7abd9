//! Emulated telephones behind a carrier's SIP trunk, on loopback sockets: one task each, around the sans-IO call and phone.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sauti_core::media::frame::FRAME;
use sauti_sim::audio::g711::Law;
use sauti_sim::caller::person::Person;
use sauti_sim::trunk::callee::{Callee, CalleeEvent, Manner};
use sauti_sim::trunk::caller::{CallEvent, Dial, Refers, Transport, TrunkCall};
use sauti_sim::trunk::message::Message;
use sauti_sim::trunk::phone::TrunkPhone;
use sauti_sim::whatsapp::calls::Cause;
use tokio::net::UdpSocket;
use tokio::time::{MissedTickBehavior, interval_at};

use super::phones::{Lived, Plan, sleep_until};
use super::tally::Tally;
use super::wire::{DATAGRAM, Wire};

/// The trunk that people call over.
#[derive(Debug, Clone, Copy)]
pub struct Carrier {
    /// Where the box listens for SIP.
    pub target: SocketAddr,
    /// Over what.
    pub transport: Transport,
    /// What its telephones speak.
    pub law: Law,
    /// What it does with a REFER.
    pub refers: Refers,
}

/// Lives through one call over the trunk.
pub async fn call(plan: Plan, carrier: Carrier, tally: Arc<Tally>) -> Lived {
    let mut lived = Lived::new(&plan);
    tokio::time::sleep(plan.dial_after).await;
    if let Err(error) = dial(plan, &carrier, &tally, &mut lived).await {
        lived.trouble = Some(error.to_string());
    }
    tally.over();
    lived
}

async fn dial(plan: Plan, carrier: &Carrier, tally: &Tally, lived: &mut Lived) -> std::io::Result<()> {
    let media = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let wire = match carrier.transport {
        Transport::Udp => Wire::udp(carrier.target).await?,
        Transport::Tcp | Transport::Tls => Wire::tcp(carrier.target).await?,
    };
    let local = wire.local()?;
    let seed = u64::try_from(plan.number).unwrap_or(0) + (u64::from(local.port()) << 16);
    let phone = TrunkPhone::new(carrier.law, u32::try_from(plan.number).unwrap_or(0) + 1, Person::new(plan.script));
    let dial = Dial {
        transport: carrier.transport,
        local,
        target: carrier.target,
        caller: plan.identity.number.expose().to_owned(),
        called: "100".to_owned(),
        sdp: phone.offer(media.local_addr()?),
        refers: carrier.refers,
    };
    let now = Instant::now();
    (lived.dialled, lived.posted) = (Some(now), Some(now));
    let call = TrunkCall::dial(now, dial, seed);
    tally.ringing();
    let mut talk = Talk { call, phone, wire, media, towards: None };
    talk.run(&plan.length, tally, lived).await;
    lived.person = std::mem::replace(&mut talk.phone.person, Person::new(Vec::new()));
    lived.ear = std::mem::take(&mut talk.phone.ear);
    if !talk.call.faults.is_empty() {
        lived.trouble = Some(talk.call.faults.join("; "));
    }
    Ok(())
}

struct Talk {
    call: TrunkCall,
    phone: TrunkPhone,
    wire: Wire,
    media: UdpSocket,
    /// Where the answer wants the media.
    towards: Option<SocketAddr>,
}

impl Talk {
    async fn run(&mut self, length: &Duration, tally: &Tally, lived: &mut Lived) {
        let mut ticks = interval_at(tokio::time::Instant::now() + FRAME, FRAME);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let (mut signalling, mut packet) = (vec![0; DATAGRAM], vec![0; DATAGRAM]);
        let mut hung_up = false;
        while !self.call.is_over() {
            while let Some(wire) = self.call.poll_transmit() {
                self.wire.send(&wire).await;
            }
            if self.call.is_over() {
                break;
            }
            let due = self.call.deadline();
            tokio::select! {
                // A 200 and the first packet behind it may both be there: the 200 came first.
                biased;
                got = self.wire.receive(&mut signalling) => match got {
                    Ok(messages) => messages.iter().for_each(|message| self.call.receive(Instant::now(), message)),
                    Err(error) => {
                        lived.trouble = Some(format!("signalling: {error}"));
                        return;
                    }
                },
                got = self.media.recv_from(&mut packet) => if let Ok((length, _)) = got {
                    self.phone.receive(Instant::now(), &packet[..length]);
                },
                _ = ticks.tick() => {
                    if let (Some(towards), Some(datagram)) = (self.towards, self.phone.tick(Instant::now())) {
                        self.media.send_to(datagram, towards).await.ok();
                    }
                    if self.phone.person.is_over() && !hung_up {
                        hung_up = true;
                        tally.hanging_up();
                        lived.over = Some(Cause::HungUp);
                        self.call.hang_up(Instant::now());
                    }
                },
                () = sleep_until(due) => self.call.handle_timeout(Instant::now()),
            }
            self.events(*length, tally, lived);
        }
        while let Some(wire) = self.call.poll_transmit() {
            self.wire.send(&wire).await;
        }
    }

    fn events(&mut self, length: Duration, tally: &Tally, lived: &mut Lived) {
        let now = Instant::now();
        while let Some(event) = self.call.poll_event() {
            match event {
                CallEvent::Ringing => {
                    lived.answered.get_or_insert(now);
                }
                CallEvent::Answered(sdp) => {
                    self.towards = media_address(&sdp);
                    (lived.accepted, lived.connected) = (Some(now), Some(now));
                    self.phone.accepted(now, length);
                    tally.talking();
                }
                CallEvent::Refused { status, .. } => {
                    lived.over = Some(Cause::Rejected);
                    lived.trouble = Some(format!("refused with {status}"));
                }
                // What comes before the 200 is the ear's to count.
                CallEvent::Early(_) => {}
                CallEvent::Referred(target) => lived.referred = Some(target),
                CallEvent::HungUp => lived.over = Some(Cause::Terminated),
                CallEvent::Lost => lived.trouble = Some("nobody answered within 32 s".to_owned()),
                CallEvent::Over => {}
            }
        }
    }
}

/// What became of a call of the box to somebody.
#[derive(Debug)]
pub struct Answered {
    /// Who was called; what she said and heard.
    pub person: Person,
    /// The last thing that happened; `None` when nobody called.
    pub over: Option<CalleeEvent>,
    /// What the box did wrong.
    pub faults: Vec<String>,
}

/// Waits at `signalling` for one call of the box and lives through it, 60 s at most.
///
/// # Errors
///
/// A socket breaks.
pub async fn be_called(signalling: UdpSocket, law: Law, manner: Manner, person: Person) -> std::io::Result<Answered> {
    let media = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let local = signalling.local_addr()?;
    let mut phone = TrunkPhone::new(law, u32::from(local.port()), person);
    let mut callee = Callee::new(local, manner, phone.offer(media.local_addr()?));
    let mut ticks = interval_at(tokio::time::Instant::now() + FRAME, FRAME);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (mut message, mut packet) = (vec![0; DATAGRAM], vec![0; DATAGRAM]);
    let (mut far, mut towards, mut over) = (None, None, None);
    while !callee.is_over() {
        while let (Some(far), Some(wire)) = (far, callee.poll_transmit()) {
            signalling.send_to(&wire, far).await?;
        }
        let due = callee.deadline();
        tokio::select! {
            got = signalling.recv_from(&mut message) => {
                let (length, from) = got?;
                far = Some(from);
                let text = message.get(..length).and_then(|bytes| std::str::from_utf8(bytes).ok());
                if let Some(message) = text.and_then(Message::parse) {
                    callee.receive(Instant::now(), &message);
                }
            },
            got = media.recv_from(&mut packet) => if let Ok((length, _)) = got {
                phone.receive(Instant::now(), &packet[..length]);
            },
            _ = ticks.tick() => {
                if let (Some(towards), Some(datagram)) = (towards, phone.tick(Instant::now())) {
                    media.send_to(datagram, towards).await?;
                }
                if phone.person.is_over() {
                    callee.hang_up(Instant::now());
                }
            },
            () = sleep_until(due) => callee.handle_timeout(Instant::now()),
        }
        while let Some(event) = callee.poll_event() {
            match &event {
                CalleeEvent::Rings(offer) => towards = media_address(offer),
                CalleeEvent::Talking => phone.accepted(Instant::now(), Duration::from_secs(60)),
                CalleeEvent::Cancelled | CalleeEvent::HungUp | CalleeEvent::Over => {}
            }
            over = Some(event);
        }
    }
    while let (Some(far), Some(wire)) = (far, callee.poll_transmit()) {
        signalling.send_to(&wire, far).await?;
    }
    Ok(Answered { person: phone.person, over, faults: callee.faults })
}

/// Address and port of the first audio stream.
fn media_address(sdp: &str) -> Option<SocketAddr> {
    let line = |prefix: &str| sdp.lines().find_map(|line| line.strip_prefix(prefix));
    let ip = line("c=IN IP4 ").or_else(|| line("c=IN IP6 "))?.trim().parse().ok()?;
    let port = line("m=audio ")?.split(' ').next()?.parse().ok()?;
    Some(SocketAddr::new(ip, port))
}
