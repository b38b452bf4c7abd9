//! Emulated phones on loopback sockets: one task each, around the sans-IO phone.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use sauti_core::media::frame::FRAME;
use sauti_core::pii::Pii;
use sauti_media::webrtc::Certificate;
use sauti_media::webrtc_sdp::OfferShape;
use sauti_sim::caller::person::{Person, Step};
use sauti_sim::caller::phone::{Ear, Phone};
use sauti_sim::whatsapp::calls::Cause;
use sauti_sim::whatsapp::person::Person as Identity;
use tokio::net::UdpSocket;
use tokio::time::{MissedTickBehavior, interval_at};

use super::meta::{Line, MEDIA_EVERY, MetaLink, ToPhone};
use super::tally::Tally;

/// Largest datagram.
const DATAGRAM: usize = 2048;
/// An IPv6 candidate that leads nowhere, of the prefix for documentation (RFC 3849), with the higher priority.
const DEAD_V6: &str = "[2001:db8::3480]:3480";

/// What a phone is to do.
pub struct Plan {
    pub number: usize,
    pub identity: Identity,
    pub script: Vec<Step>,
    /// Longest time in conversation.
    pub length: Duration,
    /// When it dials, after the start.
    pub dial_after: Duration,
}

/// What a call left behind at the phone.
pub struct Lived {
    pub number: usize,
    pub identity: Identity,
    pub wacid: Option<Pii>,
    pub dialled: Option<Instant>,
    pub posted: Option<Instant>,
    pub answered: Option<Instant>,
    pub connected: Option<Instant>,
    pub accepted: Option<Instant>,
    pub over: Option<Cause>,
    pub person: Person,
    pub ear: Ear,
    pub trouble: Option<String>,
}

impl Lived {
    fn new(plan: &Plan) -> Self {
        Self {
            number: plan.number,
            identity: plan.identity.clone(),
            wacid: None,
            dialled: None,
            posted: None,
            answered: None,
            connected: None,
            accepted: None,
            over: None,
            person: Person::new(Vec::new()),
            ear: Ear::default(),
            trouble: None,
        }
    }
}

/// Lives through one call.
pub async fn call(plan: Plan, certificate: Arc<Certificate>, meta: MetaLink, tally: Arc<Tally>) -> Lived {
    let mut lived = Lived::new(&plan);
    tokio::time::sleep(plan.dial_after).await;
    if let Err(trouble) = dial(plan, &certificate, &meta, &tally, &mut lived).await {
        lived.trouble = Some(trouble);
    }
    tally.over();
    lived
}

async fn dial(
    plan: Plan,
    certificate: &Certificate,
    meta: &MetaLink,
    tally: &Tally,
    lived: &mut Lived,
) -> Result<(), String> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(|error| error.to_string())?;
    let local = socket.local_addr().map_err(|error| error.to_string())?;
    let shape = OfferShape {
        created_ms: u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0),
        extra_candidates: DEAD_V6.parse::<SocketAddr>().into_iter().collect(),
        ..OfferShape::default()
    };
    let person = Person::new(plan.script);
    lived.dialled = Some(Instant::now());
    let (phone, offer) =
        Phone::dial(Instant::now(), local, certificate, &shape, person).map_err(|error| error.to_string())?;
    let line = meta.ring(plan.identity, Pii::new(offer)).await.ok_or("Meta did not let the call ring")?;
    tally.ringing();
    let mut talk = Talk { phone, socket, length: plan.length, reported: None };
    talk.run(line, meta, tally, lived).await;
    lived.connected = talk.phone.connected();
    lived.person = std::mem::replace(&mut talk.phone.person, Person::new(Vec::new()));
    lived.ear = std::mem::take(&mut talk.phone.ear);
    Ok(())
}

struct Talk {
    phone: Phone,
    socket: UdpSocket,
    length: Duration,
    reported: Option<Instant>,
}

impl Talk {
    async fn run(&mut self, line: Line, meta: &MetaLink, tally: &Tally, lived: &mut Lived) {
        let Line { wacid, mut news, mut posted } = line;
        lived.wacid = Some(wacid.clone());
        let mut ticks = interval_at(tokio::time::Instant::now() + FRAME, FRAME);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut buffer = [0; DATAGRAM];
        let mut hung_up = false;
        loop {
            let due = self.phone.deadline();
            tokio::select! {
                at = &mut posted, if lived.posted.is_none() => lived.posted = at.ok(),
                received = self.socket.recv_from(&mut buffer) => if let Ok((length, from)) = received {
                    self.receive(from, &buffer[..length], meta, &wacid).await;
                },
                told = news.recv() => match told {
                    Some(ToPhone::Answer(sdp)) => {
                        lived.answered.get_or_insert_with(Instant::now);
                        if let Err(error) = self.phone.answered(Instant::now(), sdp.expose()) {
                            lived.trouble = Some(error.to_string());
                        }
                    }
                    Some(ToPhone::Accepted) => {
                        lived.accepted = Some(Instant::now());
                        self.phone.accepted(Instant::now(), self.length);
                        tally.talking();
                    }
                    Some(ToPhone::Over(cause)) => {
                        lived.over = Some(cause);
                        break;
                    }
                    None => break,
                },
                _ = ticks.tick() => {
                    self.phone.tick(Instant::now());
                    if self.phone.person.is_over() && !hung_up {
                        hung_up = true;
                        tally.hanging_up();
                        meta.hung_up(&wacid).await;
                    }
                },
                () = sleep_until(due) => self.phone.handle_timeout(Instant::now()),
            }
            self.transmit().await;
        }
        self.phone.hang_up(Instant::now());
        self.transmit().await;
    }

    async fn receive(&mut self, from: SocketAddr, datagram: &[u8], meta: &MetaLink, wacid: &Pii) {
        let now = Instant::now();
        self.phone.receive(now, from, datagram);
        let due = self.reported.is_none_or(|at| now.saturating_duration_since(at) >= MEDIA_EVERY);
        if due && self.phone.ear.first_packet.is_some() {
            self.reported = Some(now);
            meta.media(wacid).await;
        }
    }

    async fn transmit(&mut self) {
        while let Some((to, datagram)) = self.phone.poll_transmit() {
            // Loopback: what does not go is lost like on a link.
            self.socket.send_to(datagram.as_ref(), to).await.ok();
        }
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
